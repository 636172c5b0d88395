//! Scan codes: what a key sends, in sets 1 and 2, and how the controller makes one of the other.
//!
//! A key's code in set 1 is the number it has in `input-event-codes.h`, but for those that came after
//! the XT's; they send a prefix 0xE0. Set 2's codes are told from set 1's by the controller's own
//! translation table, read backwards.

use crate::input::Key;

/// Comes before the codes of keys that the first keyboards had not.
const EXTENDED: u8 = 0xe0;
/// Comes before a key's code when it is released, in set 2.
pub const RELEASED: u8 = 0xf0;
/// What a released key's code in set 1 has set.
pub const RELEASED_BIT: u8 = 0x80;

const KEY_PRINT: u16 = 99;
const KEY_PAUSE: u16 = 119;
/// Keys with the numbers up to here have those as codes of set 1.
const KEY_SAME_MAX: u16 = 83;

/// Further keys: number, code in set 1, with a prefix or without.
const FURTHER: [(u16, u8, bool); 55] = [
    (86, 0x56, false),  // the key beside the left shift
    (87, 0x57, false),  // F11
    (88, 0x58, false),  // F12
    (89, 0x73, false),  // RO
    (92, 0x79, false),  // HENKAN
    (93, 0x70, false),  // KATAKANAHIRAGANA
    (94, 0x7b, false),  // MUHENKAN
    (96, 0x1c, true),   // KPENTER
    (97, 0x1d, true),   // RIGHTCTRL
    (98, 0x35, true),   // KPSLASH
    (100, 0x38, true),  // RIGHTALT
    (102, 0x47, true),  // HOME
    (103, 0x48, true),  // UP
    (104, 0x49, true),  // PAGEUP
    (105, 0x4b, true),  // LEFT
    (106, 0x4d, true),  // RIGHT
    (107, 0x4f, true),  // END
    (108, 0x50, true),  // DOWN
    (109, 0x51, true),  // PAGEDOWN
    (110, 0x52, true),  // INSERT
    (111, 0x53, true),  // DELETE
    (113, 0x20, true),  // MUTE
    (114, 0x2e, true),  // VOLUMEDOWN
    (115, 0x30, true),  // VOLUMEUP
    (116, 0x5e, true),  // POWER
    (117, 0x59, false), // KPEQUAL
    (121, 0x7e, false), // KPCOMMA
    (124, 0x7d, false), // YEN
    (125, 0x5b, true),  // LEFTMETA
    (126, 0x5c, true),  // RIGHTMETA
    (127, 0x5d, true),  // COMPOSE
    (128, 0x68, true),  // STOP
    (140, 0x21, true),  // CALC
    (142, 0x5f, true),  // SLEEP
    (143, 0x63, true),  // WAKEUP
    (155, 0x6c, true),  // MAIL
    (156, 0x66, true),  // BOOKMARKS
    (157, 0x6b, true),  // COMPUTER
    (158, 0x6a, true),  // BACK
    (159, 0x69, true),  // FORWARD
    (163, 0x19, true),  // NEXTSONG
    (164, 0x22, true),  // PLAYPAUSE
    (165, 0x10, true),  // PREVIOUSSONG
    (166, 0x24, true),  // STOPCD
    (172, 0x32, true),  // HOMEPAGE
    (173, 0x67, true),  // REFRESH
    (183, 0x5d, false), // F13
    (184, 0x5e, false), // F14
    (185, 0x5f, false), // F15
    (186, 0x60, false), // F16
    (187, 0x61, false), // F17
    (188, 0x62, false), // F18
    (217, 0x65, true),  // SEARCH
    (226, 0x6d, true),  // MEDIA
    (228, 0x64, true),  // KBDILLUMTOGGLE
];

/// The controller's table: a code of set 2 becomes one of set 1. Codes from 0x80 on stay what they
/// are, but for two.
const TRANSLATION: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];
const F7_SET_2: u8 = 0x83;
const F7_SET_1: u8 = 0x41;
const SYSRQ_SET_2: u8 = 0x84;
const SYSRQ_SET_1: u8 = 0x54;

/// Which codes a keyboard sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Set {
    /// The XT's.
    One,
    /// The AT's, what keyboards send after power-on.
    #[default]
    Two,
}

/// What keys send, at most eight bytes at a time.
pub type Codes = Vec<u8>;

/// Translates a byte on its way from the keyboard.
pub fn translate(byte: u8) -> u8 {
    match byte {
        F7_SET_2 => F7_SET_1,
        SYSRQ_SET_2 => SYSRQ_SET_1,
        byte => TRANSLATION.get(usize::from(byte)).copied().unwrap_or(byte),
    }
}

/// The code of set 2 that is translated into `code`, below 0x80.
fn untranslate(code: u8) -> u8 {
    match code {
        F7_SET_1 => F7_SET_2,
        SYSRQ_SET_1 => SYSRQ_SET_2,
        code => (0..).zip(TRANSLATION).find(|(_, to)| *to == code).map_or(0, |(from, _)| from),
    }
}

/// What `key` sends when it goes down or up; `None` when the keyboard has no such key.
pub fn codes(key: Key, pressed: bool, set: Set) -> Option<Codes> {
    let plain = |code, extended| one(code, extended, pressed, set);
    Some(match key.0 {
        // A shift goes along with it: as keyboards do that pretend to have a key less.
        KEY_PRINT => {
            let (first, second) = if pressed { (0x2a, 0x37) } else { (0x37, 0x2a) };
            [plain(first, true), plain(second, true)].concat()
        }
        // It is never released.
        KEY_PAUSE if !pressed => Codes::new(),
        KEY_PAUSE => match set {
            Set::One => vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
            Set::Two => vec![0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
        },
        number @ 1..=KEY_SAME_MAX => plain(number as u8, false),
        number => {
            let (_, code, extended) = FURTHER.iter().find(|(key, ..)| *key == number)?;
            plain(*code, *extended)
        }
    })
}

fn one(code: u8, extended: bool, pressed: bool, set: Set) -> Codes {
    let mut codes = Codes::new();
    if extended {
        codes.push(EXTENDED);
    }
    match set {
        Set::One => codes.push(if pressed { code } else { code | RELEASED_BIT }),
        Set::Two => {
            if !pressed {
                codes.push(RELEASED);
            }
            codes.push(untranslate(code));
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_2(key: u16) -> [Codes; 2] {
        [true, false].map(|pressed| codes(Key(key), pressed, Set::Two).unwrap())
    }

    #[test]
    fn well_known_keys_send_their_codes() {
        // A, Enter, left shift, F7, Esc; right Ctrl, up, Windows.
        for (key, code) in [(30, 0x1c), (28, 0x5a), (42, 0x12), (65, 0x83), (1, 0x76)] {
            assert_eq!(set_2(key), [vec![code], vec![0xf0, code]], "key {key}");
        }
        for (key, code) in [(97, 0x14), (103, 0x75), (125, 0x1f)] {
            assert_eq!(set_2(key), [vec![0xe0, code], vec![0xe0, 0xf0, code]], "key {key}");
        }
        let print = [vec![0xe0, 0x12, 0xe0, 0x7c], vec![0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]];
        assert_eq!(set_2(KEY_PRINT), print);
        assert_eq!(codes(Key(30), false, Set::One), Some(vec![0x9e]));
        for unknown in [0, 84, 255, 0x110, u16::MAX] {
            assert_eq!(codes(Key(unknown), true, Set::Two), None);
        }
    }

    #[test]
    fn set_2_translated_is_set_1() {
        for key in 0..300 {
            for pressed in [true, false] {
                let Some(want) = codes(Key(key), pressed, Set::One) else { continue };
                let mut released = 0;
                let mut seen = Codes::new();
                for byte in codes(Key(key), pressed, Set::Two).unwrap() {
                    if byte == RELEASED {
                        released = RELEASED_BIT;
                    } else {
                        seen.push(translate(byte) | std::mem::take(&mut released));
                    }
                }
                // The released bit of a prefix belongs to what follows it.
                assert_eq!(seen, want, "key {key}");
            }
        }
    }

    #[test]
    fn no_two_keys_send_the_same() {
        let mut all: Vec<Codes> =
            (0..300).filter_map(|key| codes(Key(key), true, Set::Two)).collect();
        let count = all.len();
        assert!(count > 130, "{count}");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}

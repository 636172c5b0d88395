//! XT key codes (community RFB specification, "QEMU Extended Key Event Message"): scan codes of set
//! 1, those behind 0xe0 with bit 7 set.
//!
//! Up to the keypad's point Linux's own numbers are those of set 1. The rest is what Linux's PC
//! keyboard driver and the clients (who share the table of QEMU's keycodemapdb) agree about.

use devices::input::Key;

/// The first code that is not Linux's number: Alt-Print.
const SINGLE_FIRST: usize = 0x54;
/// Behind 0xe0.
const EXTENDED: usize = 0x80;

/// Linux's numbers for codes of one byte from [`SINGLE_FIRST`] on; 0: no key.
#[rustfmt::skip]
const SINGLE: [u8; 0x80 - SINGLE_FIRST] = [
    // 0x54
    99, 186, 86, 87, 88, 117, 190, 101, 95, 183, 184, 185,
    // 0x60
    0, 0, 0, 169, 134, 135, 141, 144, 145, 146, 151, 153, 161, 193, 0, 194,
    // 0x70
    93, 123, 122, 89, 191, 177, 85, 91, 90, 92, 0, 94, 0, 124, 121, 0,
];

/// Linux's numbers for codes behind 0xe0; 0: no key. 0x2a and 0x36, the shifts that a keyboard makes
/// up around other keys, are none.
#[rustfmt::skip]
const BEHIND_E0: [u8; 0x80] = [
    // 0x00
    0, 171, 150, 187, 189, 129, 130, 131, 176, 181, 182, 120, 132, 123, 233, 178,
    // 0x10
    165, 0, 152, 147, 222, 0, 0, 149, 168, 163, 0, 0, 96, 97, 139, 148,
    // 0x20
    113, 140, 164, 160, 166, 205, 154, 0, 200, 201, 0, 202, 203, 204, 114, 206,
    // 0x30
    115, 167, 172, 207, 208, 98, 0, 99, 100, 210, 211, 212, 137, 213, 214, 215,
    // 0x40
    216, 136, 218, 219, 220, 221, 119, 102, 103, 104, 223, 105, 224, 106, 118, 107,
    // 0x50
    108, 109, 110, 111, 225, 234, 227, 228, 229, 230, 231, 125, 126, 127, 116, 142,
    // 0x60
    0, 0, 0, 143, 232, 217, 156, 173, 128, 159, 158, 157, 155, 226, 0, 112,
    // 0x70
    235, 236, 237, 238, 239, 138, 179, 188, 133, 192, 0, 180, 0, 162, 0, 0,
];

/// The key of an XT code. `None`: no key has it, and the event is left out.
pub fn key(code: u32) -> Option<Key> {
    let code = usize::try_from(code).ok()?;
    // As the keyboard sends it, which some clients pass on as it is.
    let code = if code >> 8 == 0xe0 { code & 0x7f | EXTENDED } else { code };
    let number = match code {
        0 => return None,
        // KEY_ESC to KEY_KPDOT.
        1..SINGLE_FIRST => code as u8,
        SINGLE_FIRST..EXTENDED => *SINGLE.get(code - SINGLE_FIRST)?,
        _ => *BEHIND_E0.get(code - EXTENDED)?,
    };
    (number != 0).then_some(Key(number.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn known_keys() {
        for (code, number) in [
            (1, 1),       // KEY_ESC
            (0x1c, 28),   // KEY_ENTER
            (0x2a, 42),   // KEY_LEFTSHIFT
            (0x39, 57),   // KEY_SPACE
            (0x45, 69),   // KEY_NUMLOCK
            (0x53, 83),   // KEY_KPDOT
            (0x54, 99),   // KEY_SYSRQ
            (0x56, 86),   // KEY_102ND
            (0x58, 88),   // KEY_F12
            (0x70, 93),   // KEY_KATAKANAHIRAGANA
            (0x7d, 124),  // KEY_YEN
            (0x9c, 96),   // KEY_KPENTER
            (0x9d, 97),   // KEY_RIGHTCTRL
            (0xb5, 98),   // KEY_KPSLASH
            (0xb7, 99),   // KEY_SYSRQ
            (0xb8, 100),  // KEY_RIGHTALT
            (0xc6, 119),  // KEY_PAUSE
            (0xc8, 103),  // KEY_UP
            (0xd3, 111),  // KEY_DELETE
            (0xdb, 125),  // KEY_LEFTMETA
            (0xdd, 127),  // KEY_COMPOSE
            (0xa0, 113),  // KEY_MUTE
            (0xe01c, 96), // not encoded
        ] {
            assert_eq!(key(code), Some(Key(number)), "{code:#x}");
        }
        for code in [0, 0x60, 0x7f, 0xaa, 0xb6, 0xff, 0x100, 0xe000, 0xe11d, u32::MAX] {
            assert_eq!(key(code), None, "{code:#x}");
        }
    }

    #[test]
    fn every_key_of_a_keyboard_has_a_code_and_only_print_has_two() {
        let mut codes: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for code in 0..0x100 {
            if let Some(Key(number)) = key(code) {
                codes.entry(number).or_default().push(code);
            }
        }
        let twice: Vec<_> = codes.iter().filter(|(_, codes)| codes.len() > 1).collect();
        // KEY_SYSRQ with and without Alt; KEY_HANJA, which Korean keyboards send as one byte.
        assert_eq!(twice, [(&99, &vec![0x54, 0xb7]), (&123, &vec![0x71, 0x8d])]);
        // KEY_ESC to KEY_KPDOT, KEY_ZENKAKUHANKAKU to KEY_COMPOSE.
        for number in (1..=83).chain(85..=127) {
            assert!(codes.contains_key(&number), "no code for {number}");
        }
    }
}

//! What a terminal sends for a key: as a VT220, and xterm where that has none.

use crate::vnc::keymap::keysym::character;

bitflags::bitflags! {
    /// What is held.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Held: u8 {
        /// Shift; what it makes of a key that writes is in the keysym already.
        const SHIFT = 1;
        /// Alt or Meta.
        const ALT = 1 << 1;
        /// Ctrl.
        const CONTROL = 1 << 2;
    }
}

/// The bytes for the key with this X11 keysym, `application_cursor_keys` being what the guest has
/// set (DECCKM). `None`: the key sends nothing, as Shift itself.
pub fn bytes(keysym: u32, held: Held, application_cursor_keys: bool) -> Option<Vec<u8>> {
    if let Some(sequence) = function(keysym, held, application_cursor_keys) {
        return Some(sequence.into_bytes());
    }
    let mut bytes = match keysym {
        // BackSpace, Tab, Linefeed, Return, KP_Enter, Escape.
        0xff08 if held.contains(Held::CONTROL) => vec![0x08],
        0xff08 => vec![0x7f],
        0xff09 | 0xff89 => vec![b'\t'],
        0xff0a => vec![b'\n'],
        0xff0d | 0xff8d => vec![b'\r'],
        0xff1b => vec![0x1b],
        _ => written(keypad(keysym).or_else(|| character(keysym))?, held),
    };
    if held.contains(Held::ALT) {
        bytes.insert(0, 0x1b);
    }
    Some(bytes)
}

fn written(character: char, held: Held) -> Vec<u8> {
    if held.contains(Held::CONTROL)
        && let Some(control) = control(character)
    {
        return vec![control];
    }
    character.to_string().into_bytes()
}

/// What Ctrl makes of a character.
fn control(character: char) -> Option<u8> {
    let ascii = u8::try_from(character).ok()?;
    match ascii {
        b'a'..=b'z' | b'A'..=b'_' | b'@' => Some(ascii & 0x1f),
        b' ' | b'2' => Some(0),
        b'3'..=b'7' => Some(ascii - b'3' + 0x1b),
        b'/' => Some(0x1f),
        b'8' | b'?' => Some(0x7f),
        _ => None,
    }
}

/// What the keypad's keys write.
fn keypad(keysym: u32) -> Option<char> {
    match keysym {
        0xff80 => Some(' '),
        0xffbd => Some('='),
        // KP_Multiply to KP_9 are in the order of ASCII.
        0xffaa..=0xffb9 => char::from_u32(keysym - 0xff80),
        _ => None,
    }
}

/// The sequences of keys that write nothing.
fn function(keysym: u32, held: Held, application_cursor_keys: bool) -> Option<String> {
    // xterm's parameter for what is held.
    let modifier = 1 + held.bits();
    let cursor = |letter: char| match (modifier, application_cursor_keys) {
        (1, true) => format!("\x1bO{letter}"),
        (1, false) => format!("\x1b[{letter}"),
        _ => format!("\x1b[1;{modifier}{letter}"),
    };
    let numbered = |number: u32| match modifier {
        1 => format!("\x1b[{number}~"),
        _ => format!("\x1b[{number};{modifier}~"),
    };
    let letter = |first: char, index: u32| char::from_u32(u32::from(first) + index);
    let sequence = match keysym {
        0xff52 | 0xff97 => cursor('A'),
        0xff54 | 0xff99 => cursor('B'),
        0xff53 | 0xff98 => cursor('C'),
        0xff51 | 0xff96 => cursor('D'),
        // Home, Insert, Delete, End, Page_Up, Page_Down, and the keypad's.
        0xff50 | 0xff95 => numbered(1),
        0xff63 | 0xff9e => numbered(2),
        0xffff | 0xff9f => numbered(3),
        0xff57 | 0xff9c => numbered(4),
        0xff55 | 0xff9a => numbered(5),
        0xff56 | 0xff9b => numbered(6),
        // ISO_Left_Tab, and what other clients say for it.
        0xfe20 => "\x1b[Z".to_owned(),
        0xff09 if held.contains(Held::SHIFT) => "\x1b[Z".to_owned(),
        // F1 to F4.
        0xffbe..=0xffc1 if modifier == 1 => format!("\x1bO{}", letter('P', keysym - 0xffbe)?),
        0xffbe..=0xffc1 => format!("\x1b[1;{modifier}{}", letter('P', keysym - 0xffbe)?),
        // F5 to F12 and on to F20: the numbers have gaps.
        0xffc2..=0xffd1 => {
            const NUMBERS: [u32; 16] =
                [15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 28, 29, 31, 32, 33, 34];
            numbered(*NUMBERS.get((keysym - 0xffc2) as usize)?)
        }
        _ => return None,
    };
    Some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_what_they_send() {
        let none = Held::empty();
        let both = Held::CONTROL | Held::ALT;
        for (keysym, held, sent) in [
            (0x61, none, "a"),
            (0x41, Held::SHIFT, "A"),
            (0xe9, none, "é"),
            (0x0100_20ac, none, "€"),
            (0x63, Held::CONTROL, "\x03"),
            (0x43, Held::CONTROL | Held::SHIFT, "\x03"),
            (0x5b, Held::CONTROL, "\x1b"),
            (0x20, Held::CONTROL, "\0"),
            (0x5f, Held::CONTROL | Held::SHIFT, "\x1f"),
            (0x3f, Held::CONTROL, "\x7f"),
            (0x31, Held::CONTROL, "1"),
            (0x62, Held::ALT, "\x1bb"),
            (0x63, both, "\x1b\x03"),
            (0xff0d, none, "\r"),
            (0xff8d, none, "\r"),
            (0xff08, none, "\x7f"),
            (0xff09, none, "\t"),
            (0xff09, Held::SHIFT, "\x1b[Z"),
            (0xfe20, Held::SHIFT, "\x1b[Z"),
            (0xff1b, none, "\x1b"),
            (0xffb0, none, "0"),
            (0xffb9, none, "9"),
            (0xffaa, none, "*"),
            (0xffae, none, "."),
            (0xffaf, none, "/"),
            (0xff52, none, "\x1b[A"),
            (0xff51, Held::CONTROL, "\x1b[1;5D"),
            (0xff50, none, "\x1b[1~"),
            (0xffff, none, "\x1b[3~"),
            (0xff56, Held::SHIFT, "\x1b[6;2~"),
            (0xffbe, none, "\x1bOP"),
            (0xffc1, Held::ALT, "\x1b[1;3S"),
            (0xffc2, none, "\x1b[15~"),
            (0xffc7, none, "\x1b[21~"),
            (0xffc9, none, "\x1b[24~"),
            (0xffd1, none, "\x1b[34~"),
        ] {
            let got = bytes(keysym, held, false);
            assert_eq!(got.as_deref(), Some(sent.as_bytes()), "{keysym:#x} {held:?}");
        }
        assert_eq!(bytes(0xff52, none, true).as_deref(), Some(&b"\x1bOA"[..]));
        assert_eq!(bytes(0xff52, Held::SHIFT, true).as_deref(), Some(&b"\x1b[1;2A"[..]));
        for silent in [0xffe1, 0xffe3, 0xff7f, 0xffd2, 0, u32::MAX] {
            assert_eq!(bytes(silent, none, false), None, "{silent:#x}");
        }
    }
}

//! Keys by what they write on a US keyboard: ASCII, and the keys around it.

use devices::input::Key;

/// ISO_Level3_Shift: AltGr.
pub const ISO_LEVEL3_SHIFT: u32 = 0xfe03;

/// A key, and how it is to be struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stroke {
    /// The key.
    pub key: Key,
    shift: Option<bool>,
    is_letter: bool,
}

impl Stroke {
    /// Whether Shift must be held, with Caps Lock on in the guest or not. `None`: as it is.
    pub fn shift(&self, caps_lock: bool) -> Option<bool> {
        self.shift.map(|shift| shift != (self.is_letter && caps_lock))
    }

    /// Whether AltGr must be held. `None`: as it is.
    pub fn alt_gr(&self) -> Option<bool> {
        self.shift.map(|_| false)
    }
}

/// The rows of a keyboard from their first key on, without and with Shift.
const ROWS: [(u16, &str, &str); 4] = [
    (2, "1234567890-=", "!@#$%^&*()_+"),
    (16, "qwertyuiop[]", "QWERTYUIOP{}"),
    (30, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
];

/// Keys that do not write, and the space, with their keysyms.
const OTHERS: [(u32, u16); 17] = [
    (0x20, 57),
    (0xff08, 14),
    (0xff09, 15),
    (0xff0d, 28),
    (0xff1b, 1),
    (0xffe1, 42),
    (0xffe2, 54),
    (0xffe3, 29),
    (0xffe4, 97),
    (0xffe5, 58),
    (0xffe9, 56),
    (0xffea, 100),
    (ISO_LEVEL3_SHIFT, 100),
    (0xff51, 105),
    (0xff52, 103),
    (0xff53, 106),
    (0xff54, 108),
];

/// The key that writes a keysym, or that it names.
pub fn stroke(keysym: u32) -> Option<Stroke> {
    if let Some((_, key)) = OTHERS.iter().find(|(other, _)| *other == keysym) {
        return Some(Stroke { key: Key(*key), shift: None, is_letter: false });
    }
    let wanted = char::from_u32(keysym)?;
    ROWS.iter().find_map(|(first, plain, shifted)| {
        let place = |row: &str| row.chars().position(|c| c == wanted);
        let (at, shift) = match (place(plain), place(shifted)) {
            (Some(at), _) => (at, false),
            (None, at) => (at?, true),
        };
        let key = Key(first.saturating_add(u16::try_from(at).ok()?));
        Some(Stroke { key, shift: Some(shift), is_letter: wanted.is_ascii_alphabetic() })
    })
}

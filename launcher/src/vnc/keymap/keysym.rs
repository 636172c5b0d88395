//! X11 keysyms (RFC 6143 §7.5.4): what a client wants to be written, by the keys of a US keyboard.
//!
//! What a plain US keyboard does not have is taken from "US, international" (us(intl) of XKB, Windows'
//! United States-International), which has most of Latin-1 with AltGr, and the rest of its letters
//! by a dead key and a letter. There the keys of ' " ` ~ ^ are dead; those characters are struck all
//! the same as on a plain US keyboard, which more guests have. Clients that send the key's place as
//! well ([`super::xt`]) need none of this.

use devices::input::Key;

/// What must be held for a key to write the keysym.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Whatever is held: the key is meant, not what it writes.
    Any,
    /// Neither Shift nor AltGr.
    Plain,
    /// Shift.
    Shift,
    /// AltGr (ISO_Level3_Shift).
    AltGr,
    /// Both.
    AltGrShift,
}

/// A key, and how it is to be struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stroke {
    /// The key.
    pub key: Key,
    /// What must be held with it.
    pub level: Level,
    /// Caps Lock stands for Shift.
    pub is_letter: bool,
}

impl Stroke {
    /// Whether Shift must be held, with Caps Lock on in the guest or not. `None`: as it is.
    pub fn shift(&self, caps_lock: bool) -> Option<bool> {
        let shift = match self.level {
            Level::Any => return None,
            Level::Plain | Level::AltGr => false,
            Level::Shift | Level::AltGrShift => true,
        };
        Some(shift != (self.is_letter && caps_lock))
    }

    /// Whether AltGr must be held. `None`: as it is. That of a client that says ISO_Level3_Shift is
    /// meant; one that says Alt_R means Alt, whose key is the same.
    pub fn alt_gr(&self) -> Option<bool> {
        match self.level {
            Level::Any => None,
            Level::Plain | Level::Shift => Some(false),
            Level::AltGr | Level::AltGrShift => Some(true),
        }
    }
}

/// ISO_Level3_Shift: AltGr.
pub const ISO_LEVEL3_SHIFT: u32 = 0xfe03;

/// A row of keys from the key `first` on, and what they write at each level; a space: nothing.
struct Row {
    first: u16,
    plain: &'static str,
    shift: &'static str,
    alt_gr: &'static str,
    alt_gr_shift: &'static str,
}

const ROWS: [Row; 4] = [
    Row {
        first: 2,
        plain: "1234567890-=",
        shift: "!@#$%^&*()_+",
        alt_gr: "¡²³¤€¼½¾‘’¥×",
        alt_gr_shift: "¹  £       ÷",
    },
    Row {
        first: 16,
        plain: "qwertyuiop[]",
        shift: "QWERTYUIOP{}",
        alt_gr: "äåé®þüúíóö«»",
        alt_gr_shift: "ÄÅÉ ÞÜÚÍÓÖ“”",
    },
    Row {
        first: 30,
        plain: "asdfghjkl;'`",
        shift: "ASDFGHJKL:\"~",
        alt_gr: "áßð     ø¶´",
        alt_gr_shift: "Á§Ð     Ø°¨",
    },
    Row {
        first: 43,
        plain: "\\zxcvbnm,./",
        shift: "|ZXCVBNM<>?",
        alt_gr: "¬æ ©  ñµç ¿",
        alt_gr_shift: "¦Æ ¢  Ñ Ç ",
    },
];

/// Dead keys, by where the international layout has them: keysym, key, level.
const DEAD: [(u32, u16, Level); 14] = [
    (0xfe50, 41, Level::Plain),      // grave
    (0xfe51, 40, Level::Plain),      // acute
    (0xfe52, 7, Level::Shift),       // circumflex
    (0xfe53, 41, Level::Shift),      // tilde
    (0xfe54, 4, Level::AltGrShift),  // macron
    (0xfe55, 10, Level::AltGrShift), // breve
    (0xfe56, 52, Level::AltGr),      // abovedot
    (0xfe57, 40, Level::Shift),      // diaeresis
    (0xfe58, 11, Level::AltGrShift), // abovering
    (0xfe59, 3, Level::AltGrShift),  // doubleacute
    (0xfe5a, 52, Level::AltGrShift), // caron
    (0xfe5b, 6, Level::AltGrShift),  // cedilla
    (0xfe5c, 9, Level::AltGrShift),  // ogonek
    (0xfe60, 12, Level::AltGrShift), // belowdot
];

/// Letters that take two keys: the dead one's keysym, letters, and what each becomes by it.
const ACCENTED: [(u32, &str, &str); 5] = [
    (0xfe50, "AEIOUaeiou", "ÀÈÌÒÙàèìòù"), // grave
    (0xfe51, "Yy", "Ýý"),                 // acute
    (0xfe52, "AEIOUaeiou", "ÂÊÎÔÛâêîôû"), // circumflex
    (0xfe53, "AOao", "ÃÕãõ"),             // tilde
    (0xfe57, "EIeiy", "ËÏëïÿ"),           // diaeresis
];

/// Runs of keysyms whose keys follow each other as well: first and last keysym, first key.
const RUNS: [(u32, u32, u16); 3] = [
    (0xffbe, 0xffc7, 59),  // F1 to F10
    (0xffc8, 0xffc9, 87),  // F11, F12
    (0xffca, 0xffd5, 183), // F13 to F24
];

/// Keys that write nothing, or the same whatever is held.
#[rustfmt::skip]
const KEYS: [(u32, u16); 124] = [
    // Text.
    (0xff08, 14), (0xff09, 15), (0xff0a, 101), (0xff0d, 28), (0xff1b, 1), (0x0020, 57),
    // Modifiers and locks: Shift, Control, Caps Lock, Shift Lock, Meta (which PCs have on Alt), Alt,
    // Super, Hyper, ISO_Level3_Shift, Mode_switch, ISO_Level3_Latch, ISO_Level5_Shift.
    (0xffe1, 42), (0xffe2, 54), (0xffe3, 29), (0xffe4, 97), (0xffe5, 58), (0xffe6, 58),
    (0xffe7, 56), (0xffe8, 100), (0xffe9, 56), (0xffea, 100), (0xffeb, 125), (0xffec, 126),
    (0xffed, 125), (0xffee, 126), (0xfe03, 100), (0xff7e, 100), (0xfe04, 100), (0xfe11, 100),
    (0xff7f, 69), (0xff14, 70), (0xff20, 127),
    // Pause, Break, Print, Sys_Req, Clear, Menu, Help, Select, Execute, Undo, Redo, Find, Cancel.
    (0xff13, 119), (0xff6b, 119), (0xff61, 99), (0xff15, 99), (0xff0b, 0x163), (0xff67, 127),
    (0xff6a, 138), (0xff60, 0x161), (0xff62, 28), (0xff65, 131), (0xff66, 182), (0xff68, 136),
    (0xff69, 223),
    // Home, Left, Up, Right, Down, Page_Up, Page_Down, End, Begin, Insert, Delete.
    (0xff50, 102), (0xff51, 105), (0xff52, 103), (0xff53, 106), (0xff54, 108), (0xff55, 104),
    (0xff56, 109), (0xff57, 107), (0xff58, 76), (0xff63, 110), (0xffff, 111),
    // Keypad: Space, Tab, Enter, F1 to F4.
    (0xff80, 57), (0xff89, 15), (0xff8d, 96), (0xff91, 59), (0xff92, 60), (0xff93, 61), (0xff94, 62),
    // Home, Left, Up, Right, Down, Page_Up, Page_Down, End, Begin, Insert, Delete.
    (0xff95, 71), (0xff96, 75), (0xff97, 72), (0xff98, 77), (0xff99, 80), (0xff9a, 73), (0xff9b, 81),
    (0xff9c, 79), (0xff9d, 76), (0xff9e, 82), (0xff9f, 83),
    // Multiply, Add, Separator, Subtract, Decimal, Divide, Equal.
    (0xffaa, 55), (0xffab, 78), (0xffac, 121), (0xffad, 74), (0xffae, 83), (0xffaf, 98), (0xffbd, 117),
    // 0 to 9.
    (0xffb0, 82), (0xffb1, 79), (0xffb2, 80), (0xffb3, 81), (0xffb4, 75), (0xffb5, 76), (0xffb6, 77),
    (0xffb7, 71), (0xffb8, 72), (0xffb9, 73),
    // Muhenkan, Henkan, Hiragana, Katakana, Hiragana_Katakana, Zenkaku_Hankaku, Eisu_toggle, Hangul,
    // Hangul_Hanja.
    (0xff22, 94), (0xff23, 92), (0xff25, 91), (0xff26, 90), (0xff27, 93), (0xff2a, 85), (0xff30, 58),
    (0xff31, 122), (0xff34, 123),
    // XF86: MonBrightnessUp and -Down; AudioLowerVolume, -Mute, -RaiseVolume, -Play, -Stop, -Prev,
    // -Next; HomePage, Mail, Search, AudioRecord, Calculator, Back, Forward, Stop, Refresh.
    (0x1008_ff02, 225), (0x1008_ff03, 224), (0x1008_ff11, 114), (0x1008_ff12, 113),
    (0x1008_ff13, 115), (0x1008_ff14, 164), (0x1008_ff15, 166), (0x1008_ff16, 165),
    (0x1008_ff17, 163), (0x1008_ff18, 172), (0x1008_ff19, 155), (0x1008_ff1b, 217),
    (0x1008_ff1c, 167), (0x1008_ff1d, 140), (0x1008_ff26, 158), (0x1008_ff27, 159),
    (0x1008_ff28, 128), (0x1008_ff29, 173),
    // PowerOff, WakeUp, Eject, WWW, Sleep, Favorites, AudioMedia, MyComputer, Copy, Cut, Paste.
    (0x1008_ff2a, 116), (0x1008_ff2b, 143), (0x1008_ff2c, 161), (0x1008_ff2e, 150),
    (0x1008_ff2f, 142), (0x1008_ff30, 156), (0x1008_ff32, 226), (0x1008_ff33, 157),
    (0x1008_ff57, 133), (0x1008_ff58, 137), (0x1008_ff6d, 135),
];

/// Where keysyms stand for Unicode characters beyond Latin-1.
const UNICODE: u32 = 0x0100_0000;

/// The key that writes a keysym, or that it names. `None`: there is none, and the event is left
/// out.
pub fn stroke(keysym: u32) -> Option<Stroke> {
    let meant = |number, level| Stroke { key: Key(number), level, is_letter: false };
    // ISO_Left_Tab is what Shift makes of Tab.
    if keysym == 0xfe20 {
        return Some(meant(15, Level::Shift));
    }
    if let Some((_, number)) = KEYS.iter().find(|(sym, _)| *sym == keysym) {
        return Some(meant(*number, Level::Any));
    }
    if let Some((first, _, number)) = RUNS.iter().find(|run| (run.0..=run.1).contains(&keysym)) {
        // A run is shorter than a hundred.
        return Some(meant(number + (keysym - first) as u16, Level::Any));
    }
    if let Some((_, number, level)) = DEAD.iter().find(|(sym, ..)| *sym == keysym) {
        return Some(meant(*number, *level));
    }
    written(character(keysym)?)
}

/// The dead key and the letter that make a keysym which no single key does.
pub fn accented(keysym: u32) -> Option<[Stroke; 2]> {
    let wanted = character(keysym)?;
    ACCENTED.iter().find_map(|(dead, letters, made)| {
        let (letter, _) = letters.chars().zip(made.chars()).find(|(_, made)| *made == wanted)?;
        Some([stroke(*dead)?, stroke(letter.into())?])
    })
}

/// The character that a keysym stands for.
pub fn character(keysym: u32) -> Option<char> {
    match keysym {
        0x20..=0x7e | 0xa0..=0xff => char::from_u32(keysym),
        // EuroSign, and those for quotation marks.
        0x20ac => Some('€'),
        0x0ad0 => Some('‘'),
        0x0ad1 => Some('’'),
        0x0ad2 => Some('“'),
        0x0ad3 => Some('”'),
        UNICODE..=0x0110_ffff => char::from_u32(keysym - UNICODE),
        _ => None,
    }
}

fn written(wanted: char) -> Option<Stroke> {
    if wanted == '\u{a0}' {
        // A no-break space: one that breaks is better than none.
        return stroke(0x20);
    }
    ROWS.iter().find_map(|row| {
        let levels = [
            (row.plain, Level::Plain),
            (row.shift, Level::Shift),
            (row.alt_gr, Level::AltGr),
            (row.alt_gr_shift, Level::AltGrShift),
        ];
        let found = levels.into_iter().find_map(|(written, level)| {
            let place = written.chars().position(|c| c == wanted && c != ' ')?;
            // A row has a dozen keys.
            Some((row.first + place as u16, level))
        });
        let (number, level) = found?;
        Some(Stroke {
            key: Key(number),
            level,
            is_letter: wanted.is_alphabetic() && has_case(wanted),
        })
    })
}

/// Whether Caps Lock makes another letter of it.
fn has_case(letter: char) -> bool {
    letter.to_uppercase().ne(letter.to_lowercase()) && !['ß', 'µ'].contains(&letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ascii_is_where_a_us_keyboard_has_it() {
        // As a typist would say it: key numbers of Linux, what they write, what with Shift.
        let all = "`~41 1!2 2@3 3#4 4$5 5%6 6^7 7&8 8*9 9(10 0)11 -_12 =+13 qQ16 wW17 eE18 rR19 tT20 \
                   yY21 uU22 iI23 oO24 pP25 [{26 ]}27 aA30 sS31 dD32 fF33 gG34 hH35 jJ36 kK37 lL38 \
                   ;:39 '\"40 \\|43 zZ44 xX45 cC46 vV47 bB48 nN49 mM50 ,<51 .>52 /?53";
        let mut seen = BTreeSet::new();
        for key in all.split(' ') {
            let mut chars = key.chars();
            let (plain, shifted) = (chars.next().unwrap(), chars.next().unwrap());
            let number = Key(chars.as_str().parse().unwrap());
            for (c, level) in [(plain, Level::Plain), (shifted, Level::Shift)] {
                let is_letter = c.is_ascii_alphabetic();
                assert_eq!(stroke(c.into()), Some(Stroke { key: number, level, is_letter }), "{c}");
                seen.insert(c);
            }
        }
        assert_eq!(seen.len(), 94);
        assert_eq!(stroke(0x20).map(|stroke| stroke.level), Some(Level::Any));
        assert_eq!(stroke(0x7f), None);
    }

    #[test]
    fn latin_1_is_on_the_international_layout_but_for_some_signs() {
        let (two, missing): (Vec<u32>, Vec<u32>) = (0xa1..=0xff)
            .filter(|sym| stroke(*sym).is_none())
            .partition(|sym| accented(*sym).is_some());
        let text = |syms: Vec<u32>| -> String { syms.into_iter().map(char).collect() };
        assert_eq!(text(two), "ÀÂÃÈÊËÌÎÏÒÔÕÙÛÝàâãèêëìîïòôõùûýÿ");
        assert_eq!(text(missing), "ª\u{ad}¯±·¸º");
        let is = |c: char, number, level| {
            let got = stroke(c.into()).map(|stroke| (stroke.key, stroke.level));
            assert_eq!(got, Some((Key(number), level)), "{c}");
        };
        is('é', 18, Level::AltGr);
        is('Ö', 25, Level::AltGrShift);
        is('ñ', 49, Level::AltGr);
        is('ß', 31, Level::AltGr);
        is('¿', 53, Level::AltGr);
        is('£', 5, Level::AltGrShift);
        is('°', 39, Level::AltGrShift);
        is('÷', 13, Level::AltGrShift);
    }

    fn char(sym: u32) -> char {
        char::from_u32(sym).unwrap()
    }

    #[test]
    fn the_rest_of_the_letters_takes_a_dead_key() {
        let two = |c: char| accented(c.into()).map(|two| two.map(|one| (one.key.0, one.level)));
        assert_eq!(two('à'), Some([(41, Level::Plain), (30, Level::Plain)]));
        assert_eq!(two('Ê'), Some([(7, Level::Shift), (18, Level::Shift)]));
        assert_eq!(two('ÿ'), Some([(40, Level::Shift), (21, Level::Plain)]));
        assert_eq!([two('é'), two('a'), two('ł'), two('±')], [None; 4]);
        assert_eq!(accented(UNICODE + 0xe0), accented(0xe0));
        for (_, letters, made) in ACCENTED {
            assert_eq!(letters.chars().count(), made.chars().count());
        }
    }

    #[test]
    fn keys_that_are_meant_as_such() {
        for (keysym, number) in [
            (0xff0d, 28),
            (0xff1b, 1),
            (0xff51, 105),
            (0xffbe, 59),
            (0xffc7, 68),
            (0xffc8, 87),
            (0xffc9, 88),
            (0xffca, 183),
            (0xffd5, 194),
            (0xffe1, 42),
            (0xffea, 100),
            (ISO_LEVEL3_SHIFT, 100),
            (0xff8d, 96),
            (0xffb5, 76),
            (0xff9f, 83),
            (0xffff, 111),
            (0x1008_ff12, 113),
        ] {
            let want = Stroke { key: Key(number), level: Level::Any, is_letter: false };
            assert_eq!(stroke(keysym), Some(want), "{keysym:#x}");
        }
        for none in [0, 0x7f, 0x80, 0x100, 0xffd6, 0xfe01, 0x0110_ffff, 0x0100_d800, u32::MAX] {
            assert_eq!(stroke(none), None, "{none:#x}");
        }
    }

    #[test]
    fn no_keysym_is_in_the_tables_twice() {
        let mut seen = BTreeSet::new();
        let named = KEYS.iter().map(|(sym, _)| *sym).chain(DEAD.iter().map(|(sym, ..)| *sym));
        let runs = RUNS.iter().flat_map(|(first, last, _)| *first..=*last);
        for sym in named.chain(runs) {
            assert!(seen.insert(sym), "{sym:#x}");
        }
        let mut written = BTreeSet::new();
        for row in ROWS {
            for level in [row.plain, row.shift, row.alt_gr, row.alt_gr_shift] {
                for c in level.chars().filter(|c| *c != ' ') {
                    assert!(written.insert(c), "{c}");
                }
            }
        }
    }

    #[test]
    fn unicode_keysyms_are_the_characters() {
        assert_eq!(stroke(UNICODE + 0x41), stroke(0x41));
        assert_eq!(stroke(UNICODE + 0x20ac), stroke(0x20ac));
        let euro = Stroke { key: Key(6), level: Level::AltGr, is_letter: false };
        assert_eq!(stroke(0x20ac), Some(euro));
        assert_eq!(stroke(0x0ad2).map(|stroke| stroke.key), Some(Key(26)));
        assert_eq!(stroke(UNICODE + 0x4e00), None);
    }

    #[test]
    fn shift_goes_with_caps_lock_for_letters_only() {
        let shift = |sym, caps| stroke(sym).and_then(|stroke| stroke.shift(caps));
        let of = |c: char| [shift(c.into(), false), shift(c.into(), true)];
        assert_eq!(of('a'), [Some(false), Some(true)]);
        assert_eq!(of('A'), [Some(true), Some(false)]);
        assert_eq!(of('!'), [Some(true), Some(true)]);
        assert_eq!(of('1'), [Some(false), Some(false)]);
        assert_eq!(of('é'), [Some(false), Some(true)]);
        assert_eq!(of('ß'), [Some(false), Some(false)]);
        assert_eq!([shift(0xff0d, false), shift(0xff0d, true)], [None, None]);
        assert_eq!(shift(0xfe20, false), Some(true));
        let alt_gr = |sym| stroke(sym).and_then(|stroke| stroke.alt_gr());
        assert_eq!([alt_gr(0x40), alt_gr(0xe9), alt_gr(0xff0d)], [Some(false), Some(true), None]);
    }
}

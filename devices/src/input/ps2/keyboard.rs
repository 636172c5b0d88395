//! The keyboard: commands in, answers and scan codes out.
//!
//! ```text
//! ed lights | ee echo | f0 scan-code set | f2 who | f3 repetition | f4 on | f5 off | f6 defaults
//! f7..fd set 3's key types | fe again | ff reset
//! ```
//! Answers overtake scan codes: whoever asks waits for them. Scan codes wait in a queue of bounded
//! length, in which room for the release of each key that is down is set aside: a press that was
//! taken can always be followed by its release. Repetition comes from whoever presses. Left out:
//! scan-code set 3.

use std::collections::{BTreeMap, VecDeque};

use super::scancode::{self, RELEASED, RELEASED_BIT, Set};
use super::{ACK, RESEND, SELF_TEST_OK};
use crate::input::{Key, Leds};

/// Bytes of scan codes that may wait.
const QUEUE_MAX: usize = 256;
/// Bytes of answers that may wait.
const ANSWERS_MAX: usize = 16;

const SET_LEDS: u8 = 0xed;
const ECHO: u8 = 0xee;
const ECHO_ANSWER: u8 = 0xee;
const SET_CODES: u8 = 0xf0;
const IDENTIFY: u8 = 0xf2;
const IDENTITY: [u8; 2] = [0xab, 0x83];
const SET_REPETITION: u8 = 0xf3;
const ENABLE: u8 = 0xf4;
const DISABLE: u8 = 0xf5;
const DEFAULTS: u8 = 0xf6;
const SET_3_TYPES: std::ops::RangeInclusive<u8> = 0xf7..=0xfd;
const AGAIN: u8 = 0xfe;
const RESET: u8 = 0xff;

/// A byte that leaves the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Answer(u8),
    Code(u8),
}

/// The keyboard.
#[derive(Debug)]
pub struct Keyboard {
    answers: VecDeque<u8>,
    codes: VecDeque<u8>,
    /// Keys that are down for the guest, with the bytes set aside for their release.
    down: BTreeMap<Key, usize>,
    enabled: bool,
    set: Set,
    leds: Leds,
    /// The command whose parameter comes next.
    command: Option<u8>,
    last: u8,
    /// What was translated last was the prefix of a release.
    released: bool,
}

impl Default for Keyboard {
    fn default() -> Keyboard {
        Keyboard {
            answers: VecDeque::new(),
            codes: VecDeque::new(),
            down: BTreeMap::new(),
            enabled: true,
            set: Set::default(),
            leds: Leds::empty(),
            command: None,
            last: 0,
            released: false,
        }
    }
}

impl Keyboard {
    /// A key goes down or up; a press of one that is down is a repetition.
    pub fn key(&mut self, key: Key, pressed: bool) {
        if pressed { self.press(key) } else { self.release(key) }
    }

    fn press(&mut self, key: Key) {
        if !self.enabled {
            return;
        }
        let both = |pressed| scancode::codes(key, pressed, self.set);
        let (Some(make), Some(release)) = (both(true), both(false)) else { return };
        let is_down = self.down.contains_key(&key);
        let aside: usize =
            self.down.values().sum::<usize>() + if is_down { 0 } else { release.len() };
        if self.codes.len() + make.len() + aside > QUEUE_MAX {
            return;
        }
        self.codes.extend(make);
        self.down.entry(key).or_insert(release.len());
    }

    fn release(&mut self, key: Key) {
        if self.down.remove(&key).is_some() {
            self.codes.extend(scancode::codes(key, false, self.set).unwrap_or_default());
        }
    }

    /// The lights that are on.
    pub fn leds(&self) -> Leds {
        self.leds
    }

    /// The next byte for the guest; with `translate`, in the controller's set 1.
    pub fn read(&mut self, translate: bool) -> Option<u8> {
        loop {
            let byte = match self.answers.pop_front() {
                Some(answer) => Byte::Answer(answer),
                None => Byte::Code(self.codes.pop_front()?),
            };
            let seen = match byte {
                Byte::Answer(byte) if translate => scancode::translate(byte),
                Byte::Code(RELEASED) if translate => {
                    self.released = true;
                    continue;
                }
                Byte::Code(byte) if translate => {
                    let bit = if std::mem::take(&mut self.released) { RELEASED_BIT } else { 0 };
                    scancode::translate(byte) | bit
                }
                Byte::Answer(byte) | Byte::Code(byte) => byte,
            };
            self.last = seen;
            return Some(seen);
        }
    }

    /// True when a byte waits.
    pub fn has_byte(&self) -> bool {
        !self.answers.is_empty() || !self.codes.is_empty()
    }

    /// The guest writes a byte.
    pub fn write(&mut self, byte: u8) {
        let parameter_of = self.command.take();
        match (parameter_of, byte) {
            (Some(SET_LEDS), 0..0x80) => {
                self.leds = Leds::from_bits_truncate(byte);
                self.answer(&[ACK]);
            }
            (Some(SET_CODES), 0..0x80) => self.select_set(byte),
            (Some(SET_REPETITION), 0..0x80) => self.answer(&[ACK]),
            // What was to be a parameter is a command, then.
            (_, command) => self.obey(command),
        }
    }

    fn obey(&mut self, command: u8) {
        match command {
            SET_LEDS | SET_CODES | SET_REPETITION => {
                self.command = Some(command);
                self.answer(&[ACK]);
            }
            ECHO => self.answer(&[ECHO_ANSWER]),
            IDENTIFY => self.answer(&[ACK, IDENTITY[0], IDENTITY[1]]),
            ENABLE => {
                self.forget_keys();
                self.enabled = true;
                self.answer(&[ACK]);
            }
            DISABLE | DEFAULTS => {
                self.set_defaults();
                self.enabled = command == DEFAULTS;
                self.answer(&[ACK]);
            }
            AGAIN => {
                let last = self.last;
                self.answer(&[last]);
            }
            RESET => {
                self.set_defaults();
                self.answers.clear();
                self.leds = Leds::empty();
                self.enabled = true;
                self.answer(&[ACK, SELF_TEST_OK]);
            }
            command if SET_3_TYPES.contains(&command) => self.answer(&[ACK]),
            _ => self.answer(&[RESEND]),
        }
    }

    /// 0 asks which set it is.
    fn select_set(&mut self, number: u8) {
        let set = match number {
            0 => {
                let number = if self.set == Set::One { 1 } else { 2 };
                return self.answer(&[ACK, number]);
            }
            1 => Set::One,
            2 => Set::Two,
            _ => return self.answer(&[RESEND]),
        };
        // What waits was made of the old set's codes.
        self.forget_keys();
        self.set = set;
        self.answer(&[ACK]);
    }

    fn set_defaults(&mut self) {
        self.forget_keys();
        self.set = Set::default();
    }

    fn forget_keys(&mut self) {
        self.codes.clear();
        self.down.clear();
        self.released = false;
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len() + bytes.len() <= ANSWERS_MAX {
            self.answers.extend(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Key = Key(30);
    const UP: Key = Key(103);

    fn drain(keyboard: &mut Keyboard, translate: bool) -> Vec<u8> {
        std::iter::from_fn(|| keyboard.read(translate)).collect()
    }

    fn ask(keyboard: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|byte| {
                keyboard.write(*byte);
                drain(keyboard, false)
            })
            .collect()
    }

    #[test]
    fn keys_go_down_repeat_and_up() {
        let mut keyboard = Keyboard::default();
        for pressed in [true, true, false, false] {
            keyboard.key(A, pressed);
        }
        assert_eq!(drain(&mut keyboard, false), [0x1c, 0x1c, 0xf0, 0x1c]);
        keyboard.key(UP, true);
        keyboard.key(UP, false);
        assert_eq!(drain(&mut keyboard, true), [0xe0, 0x48, 0xe0, 0xc8]);
    }

    #[test]
    fn commands_are_answered() {
        let mut keyboard = Keyboard::default();
        assert_eq!(ask(&mut keyboard, &[0xff]), [0xfa, 0xaa]);
        assert_eq!(ask(&mut keyboard, &[0xf2]), [0xfa, 0xab, 0x83]);
        assert_eq!(ask(&mut keyboard, &[0xee, 0xfe]), [0xee, 0xee]);
        assert_eq!(ask(&mut keyboard, &[0xed, 0x06]), [0xfa, 0xfa]);
        assert_eq!(keyboard.leds(), Leds::NUM_LOCK | Leds::CAPS_LOCK);
        assert_eq!(ask(&mut keyboard, &[0xf0, 0, 0xf0, 3]), [0xfa, 0xfa, 2, 0xfa, 0xfe]);
        assert_eq!(ask(&mut keyboard, &[0xf3, 0x20, 0xf9, 0x12]), [0xfa, 0xfa, 0xfa, 0xfe]);
        // A command in a parameter's place is obeyed.
        assert_eq!(ask(&mut keyboard, &[0xed, 0xf4]), [0xfa, 0xfa]);
        keyboard.write(0xf2);
        assert_eq!(drain(&mut keyboard, true), [0xfa, 0xab, 0x41]);
        keyboard.write(0xf0);
        keyboard.write(0);
        assert_eq!(drain(&mut keyboard, true), [0xfa, 0xfa, 0x41]);
    }

    #[test]
    fn set_1_is_sent_when_asked_for() {
        let mut keyboard = Keyboard::default();
        assert_eq!(ask(&mut keyboard, &[0xf0, 1]), [0xfa, 0xfa]);
        keyboard.key(A, true);
        keyboard.key(A, false);
        assert_eq!(drain(&mut keyboard, false), [0x1e, 0x9e]);
        assert_eq!(ask(&mut keyboard, &[0xf0, 0]), [0xfa, 0xfa, 1]);
    }

    #[test]
    fn nothing_is_typed_while_it_is_off() {
        let mut keyboard = Keyboard::default();
        keyboard.key(A, true);
        assert_eq!(ask(&mut keyboard, &[0xf5]), [0xfa]);
        keyboard.key(UP, true);
        keyboard.key(A, false);
        assert!(!keyboard.has_byte());
        assert_eq!(ask(&mut keyboard, &[0xf4]), [0xfa]);
        keyboard.key(UP, true);
        assert_eq!(drain(&mut keyboard, false), [0xe0, 0x75]);
    }

    #[test]
    fn answers_overtake_codes_and_part_none() {
        let mut keyboard = Keyboard::default();
        keyboard.key(UP, true);
        keyboard.key(UP, false);
        assert_eq!(keyboard.read(true), Some(0xe0));
        keyboard.write(0xee);
        assert_eq!(drain(&mut keyboard, true), [0xee, 0x48, 0xe0, 0xc8]);
    }

    #[test]
    fn the_queue_is_bounded_and_no_taken_press_stays_down() {
        let mut keyboard = Keyboard::default();
        let keys: Vec<Key> = (1..=83).chain(102..=111).map(Key).collect();
        for _ in 0..10 {
            keys.iter().for_each(|key| keyboard.key(*key, true));
        }
        keys.iter().for_each(|key| keyboard.key(*key, false));
        assert!(keyboard.codes.len() <= QUEUE_MAX && keyboard.down.is_empty());
        let mut down = std::collections::BTreeSet::new();
        let (mut extended, mut release) = (false, false);
        for byte in drain(&mut keyboard, false) {
            match byte {
                0xe0 => extended = true,
                0xf0 => release = true,
                code => {
                    let code = (std::mem::take(&mut extended), code);
                    match std::mem::take(&mut release) {
                        true => assert!(down.remove(&code)),
                        false => drop(down.insert(code)),
                    }
                }
            }
        }
        assert!(down.is_empty(), "{down:x?} stay down");
        (0..1000).for_each(|_| keyboard.write(0xf2));
        assert!(keyboard.answers.len() <= ANSWERS_MAX);
    }
}

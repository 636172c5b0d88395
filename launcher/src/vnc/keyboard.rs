//! A client's keys on their way to the guest's keyboard.
//!
//! With extended key events a client says which key was pressed, and that is all there is to do. Else
//! it says what its key makes on its own layout (a keysym); the key that makes it on a US keyboard
//! is pressed, with or without Shift and AltGr as that needs, whatever they do at the client. What a
//! client holds is remembered, and released when it goes.

use devices::input::{InputSink, Key, Leds};

use super::keymap::keysym::{self, Stroke};
use super::keymap::xt;

const LEFT_CONTROL: Key = Key(29);
const LEFT_SHIFT: Key = Key(42);
const RIGHT_SHIFT: Key = Key(54);
const LEFT_ALT: Key = Key(56);
const RIGHT_CONTROL: Key = Key(97);
const RIGHT_ALT: Key = Key(100);
const SHIFTS: [Key; 2] = [LEFT_SHIFT, RIGHT_SHIFT];

/// The most keys that one client holds; more has no keyboard.
const HELD_MAX: usize = 64;

/// A key event as a client tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// What the key makes.
    pub keysym: u32,
    /// Down, or up.
    pub pressed: bool,
    /// Its place, as an XT scan code.
    pub scan_code: Option<u32>,
}

/// What a client holds.
#[derive(Debug, Default)]
pub struct Keyboard {
    /// Each with the keysym that it was pressed for.
    held: Vec<(u32, Key)>,
}

impl Keyboard {
    /// Passes an event on to `sink`.
    pub fn on_event(&mut self, event: KeyEvent, sink: &dyn InputSink) {
        let place = event.scan_code.and_then(xt::key);
        if event.pressed {
            match place {
                Some(key) => self.press(event.keysym, key, sink),
                None => self.press_keysym(event.keysym, sink),
            }
            return;
        }
        // The same key may make something else when it is released, Shift having been released
        // before it.
        let by_place = |(_, key): &(u32, Key)| Some(*key) == place;
        let by_keysym = |(keysym, _): &(u32, Key)| *keysym == event.keysym;
        let at = self.held.iter().position(by_place);
        if let Some(at) = at.or_else(|| self.held.iter().position(by_keysym)) {
            let (_, key) = self.held.swap_remove(at);
            sink.key(key, false);
        } else if let Some(stroke) = keysym::stroke(event.keysym)
            && let Some(at) = self.held.iter().position(|(_, key)| *key == stroke.key)
        {
            self.held.swap_remove(at);
            sink.key(stroke.key, false);
        }
    }

    /// Releases everything.
    pub fn release_all(&mut self, sink: &dyn InputSink) {
        for (_, key) in self.held.drain(..) {
            sink.key(key, false);
        }
    }

    /// Whether Control, Alt and Shift are held. AltGr is not Alt, though it may be the same key.
    pub fn modifiers(&self) -> [bool; 3] {
        let is_held = |keys: [Key; 2]| {
            self.held
                .iter()
                .any(|(sym, key)| keys.contains(key) && *sym != keysym::ISO_LEVEL3_SHIFT)
        };
        [is_held([LEFT_CONTROL, RIGHT_CONTROL]), is_held([LEFT_ALT, RIGHT_ALT]), is_held(SHIFTS)]
    }

    /// Which key an event means.
    pub fn key_of(event: &KeyEvent) -> Option<Key> {
        let place = event.scan_code.and_then(xt::key);
        place.or_else(|| keysym::stroke(event.keysym).map(|stroke| stroke.key))
    }

    fn press(&mut self, keysym: u32, key: Key, sink: &dyn InputSink) {
        if !self.held.iter().any(|(_, held)| *held == key) {
            if self.held.len() >= HELD_MAX {
                return;
            }
            self.held.push((keysym, key));
        }
        sink.key(key, true);
    }

    /// Presses the key that makes `keysym`, after a dead one where it takes two.
    fn press_keysym(&mut self, keysym: u32, sink: &dyn InputSink) {
        if let Some(stroke) = keysym::stroke(keysym) {
            self.strike(stroke, sink, |keyboard| keyboard.press(keysym, stroke.key, sink));
        } else if let Some([dead, letter]) = keysym::accented(keysym) {
            self.strike(dead, sink, |_| {
                sink.key(dead.key, true);
                sink.key(dead.key, false);
            });
            self.strike(letter, sink, |keyboard| keyboard.press(keysym, letter.key, sink));
        } else {
            log::debug!("no key for keysym {keysym:#x}");
        }
    }

    /// Does what `press` says, and for that moment presses or releases Shift and AltGr as `stroke`
    /// needs.
    fn strike(&mut self, stroke: Stroke, sink: &dyn InputSink, press: impl FnOnce(&mut Keyboard)) {
        let [control, alt, shift] = self.modifiers();
        // With Control or Alt it is a command, whatever Caps Lock does to letters.
        let command = control || alt;
        let caps_lock = !command && sink.leds().contains(Leds::CAPS_LOCK);
        let level3 = |(sym, _): &&(u32, Key)| *sym == keysym::ISO_LEVEL3_SHIFT;
        let shifts = |(_, key): &&(u32, Key)| SHIFTS.contains(key);
        let release = |(_, key): &(u32, Key)| (*key, false);
        let mut change: Vec<(Key, bool)> = Vec::new();
        match stroke.shift(caps_lock) {
            Some(true) if !shift => change.push((LEFT_SHIFT, true)),
            Some(false) if !command => {
                change.extend(self.held.iter().filter(shifts).map(release));
            }
            _ => {}
        }
        match stroke.alt_gr() {
            Some(true) if !self.held.iter().any(|held| level3(&held)) => {
                change.push((RIGHT_ALT, true));
            }
            Some(false) => change.extend(self.held.iter().filter(level3).map(release)),
            _ => {}
        }
        change.iter().for_each(|(key, pressed)| sink.key(*key, *pressed));
        press(self);
        change.iter().rev().for_each(|(key, pressed)| sink.key(*key, !pressed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnc::testkit::Recorder;

    /// What the guest sees of these: a keysym, down or up, and a scan code.
    fn typed(events: &[(u32, bool, Option<u32>)], leds: Leds) -> Vec<i32> {
        let (mut keyboard, sink) = (Keyboard::default(), Recorder::default());
        sink.set_leds(leds);
        for (keysym, pressed, scan_code) in events {
            let (keysym, pressed, scan_code) = (*keysym, *pressed, *scan_code);
            keyboard.on_event(KeyEvent { keysym, pressed, scan_code }, &sink);
        }
        keyboard.release_all(&sink);
        sink.take()
    }

    const A: u32 = 'a' as u32;
    const BIG_A: u32 = 'A' as u32;
    const ONE: u32 = '1' as u32;
    const SHIFT: u32 = 0xffe1;

    #[test]
    fn keys_by_their_place_are_passed_on_as_they_are() {
        // A German keyboard's Z: its place is Y's.
        let z = 'z' as u32;
        let events = [(z, true, Some(0x15)), (z, true, Some(0x15)), (z, false, Some(0x15))];
        assert_eq!(typed(&events, Leds::empty()), [21, 21, -21]);
    }

    #[test]
    fn shift_is_pressed_where_a_keysym_needs_it() {
        let empty = Leds::empty();
        assert_eq!(typed(&[(A, true, None), (A, false, None)], empty), [30, -30]);
        assert_eq!(typed(&[(BIG_A, true, None), (BIG_A, false, None)], empty), [42, 30, -42, -30]);
        let held =
            [(SHIFT, true, None), (BIG_A, true, None), (SHIFT, false, None), (A, false, None)];
        assert_eq!(typed(&held, empty), [42, 30, -42, -30]);
        // A French keyboard: Shift makes the digit.
        let french = [(SHIFT, true, None), (ONE, true, None), (ONE, false, None)];
        assert_eq!(typed(&french, empty), [42, -42, 2, 42, -2, -42]);
    }

    #[test]
    fn alt_gr_at_the_client_is_not_alt_in_the_guest() {
        // A German keyboard: AltGr and Q make the at sign, which on a US one is Shift and 2.
        let at = u32::from(b'@');
        let events = [(0xfe03, true, None), (at, true, None), (at, false, None)];
        let want = [100, 42, -100, 3, 100, -42, -3, -100];
        assert_eq!(typed(&events, Leds::empty()), want);
    }

    #[test]
    fn a_letter_without_a_key_of_its_own_takes_a_dead_one() {
        let (grave, circumflex) = (u32::from('à'), u32::from('Ê'));
        let empty = Leds::empty();
        let events = [(grave, true, None), (grave, false, None)];
        assert_eq!(typed(&events, empty), [41, -41, 30, -30]);
        let events = [(circumflex, true, None), (circumflex, false, None)];
        assert_eq!(typed(&events, empty), [42, 7, -7, -42, 42, 18, -42, -18]);
        // Shift is held at the client, and Caps Lock on in the guest.
        let events = [(SHIFT, true, None), (circumflex, true, None), (circumflex, false, None)];
        assert_eq!(typed(&events, empty), [42, 7, -7, 18, -18, -42]);
        let events = [(grave, true, None), (grave, false, None)];
        assert_eq!(typed(&events, Leds::CAPS_LOCK), [41, -41, 42, 30, -42, -30]);
    }

    #[test]
    fn dead_keys_are_those_of_the_international_layout() {
        let dead = |sym| typed(&[(sym, true, None), (sym, false, None)], Leds::empty());
        assert_eq!(dead(0xfe51), [40, -40]);
        assert_eq!(dead(0xfe57), [42, 40, -42, -40]);
        // AltGr held at the client for it.
        let events = [(0xfe03, true, None), (0xfe51, true, None), (0xfe51, false, None)];
        assert_eq!(typed(&events, Leds::empty()), [100, -100, 40, 100, -40, -100]);
    }

    #[test]
    fn caps_lock_in_the_guest_is_reckoned_with() {
        let caps = Leds::CAPS_LOCK;
        assert_eq!(typed(&[(BIG_A, true, None), (BIG_A, false, None)], caps), [30, -30]);
        assert_eq!(typed(&[(A, true, None), (A, false, None)], caps), [42, 30, -42, -30]);
        assert_eq!(typed(&[(ONE, true, None), (ONE, false, None)], caps), [2, -2]);
    }

    #[test]
    fn what_is_held_is_released_and_nothing_else() {
        let events = [(SHIFT, true, None), (A, true, Some(0x1e)), (ONE, false, None)];
        assert_eq!(typed(&events, Leds::empty()), [42, 30, -42, -30]);
        let many: Vec<_> = (1..=0x58).map(|code| (0x100 + code, true, Some(code))).collect();
        let seen = typed(&many, Leds::empty());
        assert_eq!(seen.len(), 2 * HELD_MAX);
        assert_eq!(seen.iter().sum::<i32>(), 0);
        assert!(typed(&[(0xfff0_0000, true, None)], Leds::empty()).is_empty());
    }
}

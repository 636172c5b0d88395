//! What a viewer has done, on its way to an input device's driver: bounded, and such that no key or
//! button stays held because something was dropped.
//!
//! Reports wait while the driver has no buffers. Movements add up while the buttons stay the same.
//! A press is dropped when there would be no room left for the releases of all keys that are down.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::event;
use crate::input::{Buttons, Key, Leds, Pointer};

/// Reports that may wait.
const WAITING_MAX: usize = 256;

const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const SYN_REPORT: u16 = 0;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
const REL_HWHEEL: u16 = 6;
const REL_WHEEL: u16 = 8;
const LED_NUM_LOCK: u16 = 0;
const LED_CAPS_LOCK: u16 = 1;
const LED_SCROLL_LOCK: u16 = 2;
const RELEASED: u32 = 0;
const PRESSED: u32 = 1;
const REPEATED: u32 = 2;

/// BTN_* of each button.
pub(super) const BUTTONS: [(Buttons, u16); 5] = [
    (Buttons::LEFT, 0x110),
    (Buttons::RIGHT, 0x111),
    (Buttons::MIDDLE, 0x112),
    (Buttons::SIDE, 0x113),
    (Buttons::EXTRA, 0x114),
];
/// Keys that the keyboard says it has: those that PC keyboards may have.
pub(super) const KEYS: std::ops::RangeInclusive<u16> = 1..=248;

/// struct virtio_input_event (§5.8.6): all fields little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kind: u16,
    pub(super) code: u16,
    pub(super) value: u32,
}

impl Event {
    pub(super) const LEN: usize = 8;

    pub(super) fn bytes(self) -> [u8; Event::LEN] {
        let bytes = u64::from(self.kind) | u64::from(self.code) << 16 | u64::from(self.value) << 32;
        bytes.to_le_bytes()
    }

    pub(super) fn parse(bytes: [u8; Event::LEN]) -> Event {
        let value = u64::from_le_bytes(bytes);
        Event { kind: value as u16, code: (value >> 16) as u16, value: (value >> 32) as u32 }
    }
}

/// One thing that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    Key(Key, u32),
    Pointer(Movement),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Movement {
    x: u16,
    y: u16,
    buttons: Buttons,
    wheel: i32,
    side_wheel: i32,
}

/// Reports on their way; shared between whoever makes them and the device's threads.
pub struct Reports {
    wake: event::Event,
    state: Mutex<State>,
    leds: AtomicU8,
}

#[derive(Default)]
struct State {
    /// The driver runs.
    open: bool,
    waiting: VecDeque<Report>,
    down: BTreeSet<Key>,
    /// The pointer as it was last reported.
    told: Movement,
    /// The pointer as the driver was last told.
    sent: Movement,
}

impl Reports {
    pub(super) fn new(wake: event::Event) -> Reports {
        Reports { wake, state: Mutex::default(), leds: AtomicU8::new(0) }
    }

    /// True while the device's driver runs: only then reports are taken.
    pub fn is_open(&self) -> bool {
        self.lock().open
    }

    /// A key goes down, is repeated, or goes up.
    pub fn key(&self, key: Key, pressed: bool) {
        let mut state = self.lock();
        if !state.open || !KEYS.contains(&key.0) {
            return;
        }
        let value = match (pressed, state.down.contains(&key)) {
            (false, false) => return,
            (false, true) => RELEASED,
            (true, false) => PRESSED,
            (true, true) => REPEATED,
        };
        // What a press needs, besides its own place: one for the release of each that is down then.
        let aside = state.down.len() + usize::from(value == PRESSED);
        if value != RELEASED && state.waiting.len() + aside >= WAITING_MAX {
            return;
        }
        match value {
            RELEASED => drop(state.down.remove(&key)),
            PRESSED => drop(state.down.insert(key)),
            _ => {}
        }
        state.waiting.push_back(Report::Key(key, value));
        drop(state);
        self.wake.signal();
    }

    /// The pointer moves, or its buttons change.
    pub fn pointer(&self, pointer: Pointer) {
        let mut state = self.lock();
        let next = Movement {
            x: pointer.x.min(crate::input::POSITION_MAX),
            y: pointer.y.min(crate::input::POSITION_MAX),
            buttons: pointer.buttons,
            wheel: pointer.wheel.into(),
            side_wheel: pointer.side_wheel.into(),
        };
        let still = Movement { wheel: 0, side_wheel: 0, ..next };
        if !state.open || next == state.told {
            return;
        }
        let same = state.told.buttons == next.buttons;
        let is_full = state.waiting.len() >= WAITING_MAX;
        state.told = still;
        match state.waiting.back_mut() {
            Some(Report::Pointer(last)) if same || is_full => {
                *last = Movement {
                    wheel: last.wheel.saturating_add(next.wheel),
                    side_wheel: last.side_wheel.saturating_add(next.side_wheel),
                    ..next
                };
            }
            _ if is_full => {}
            _ => state.waiting.push_back(Report::Pointer(next)),
        }
        drop(state);
        self.wake.signal();
    }

    /// The lights that the driver has switched on.
    pub fn leds(&self) -> Leds {
        Leds::from_bits_truncate(self.leds.load(Ordering::Relaxed))
    }

    pub(super) fn set_led(&self, code: u16, on: bool) {
        let led = match code {
            LED_NUM_LOCK => Leds::NUM_LOCK,
            LED_CAPS_LOCK => Leds::CAPS_LOCK,
            LED_SCROLL_LOCK => Leds::SCROLL_LOCK,
            _ => return,
        };
        if on {
            self.leds.fetch_or(led.bits(), Ordering::Relaxed);
        } else {
            self.leds.fetch_and(!led.bits(), Ordering::Relaxed);
        }
    }

    /// Takes reports from now on.
    pub(super) fn open(&self) {
        *self.lock() = State { open: true, ..State::default() };
    }

    /// Takes none any more, and forgets those that wait.
    pub(super) fn close(&self) {
        *self.lock() = State::default();
        self.leds.store(0, Ordering::Relaxed);
    }

    /// Signalled when a report has come.
    pub(super) fn wake(&self) -> &event::Event {
        &self.wake
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// The events of the next report; none when none waits.
    pub(super) fn take(&self) -> Vec<Event> {
        let mut state = self.lock();
        let mut events = match state.waiting.pop_front() {
            None => return Vec::new(),
            Some(Report::Key(key, value)) => vec![Event { kind: EV_KEY, code: key.0, value }],
            Some(Report::Pointer(next)) => {
                let before = std::mem::replace(&mut state.sent, next);
                differences(&before, &next)
            }
        };
        events.push(Event { kind: EV_SYN, code: SYN_REPORT, value: 0 });
        events
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

/// The events that lead from one state of the pointer to the next. The position comes always: where
/// the driver believes it to be at first is not known.
fn differences(before: &Movement, next: &Movement) -> Vec<Event> {
    let event = |kind, code, value: i32| Event { kind, code, value: value as u32 };
    let mut events = vec![event(EV_ABS, ABS_X, next.x.into()), event(EV_ABS, ABS_Y, next.y.into())];
    for (button, code) in BUTTONS {
        let held = next.buttons.contains(button);
        if held != before.buttons.contains(button) {
            events.push(event(EV_KEY, code, held.into()));
        }
    }
    for (code, steps) in [(REL_WHEEL, next.wheel), (REL_HWHEEL, next.side_wheel)] {
        if steps != 0 {
            events.push(event(EV_REL, code, steps));
        }
    }
    events
}

//! What a viewer does, brought to the devices that the guest listens to: its own driver's, when there
//! is one, else the PS/2 keyboard and mouse that firmware and loaders know.
//!
//! A key's release goes where its press went, whatever driver has come up in between. The PS/2 mouse
//! knows movements only: it is moved by as many pixels as the viewer's pointer was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::i8042::I8042;
use super::ps2::mouse::Movement;
use super::{Buttons, InputSink, Key, Leds, POSITION_MAX, Pointer};
use crate::virtio::input::reports::Reports;

/// The most keys that are remembered as held; nobody has more fingers than that.
const HELD_MAX: usize = 256;

/// Answers how many pixels the screen has now: width, height.
pub type ScreenSize = Box<dyn Fn() -> (u32, u32) + Send + Sync>;

/// Keyboards and pointers.
pub struct Desk {
    ps2: Arc<I8042>,
    keyboard: Arc<Reports>,
    tablet: Arc<Reports>,
    screen: ScreenSize,
    /// Taken before any device's own lock.
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ps2,
    Virtio,
}

#[derive(Default)]
struct State {
    /// Keys that are down, and where their presses went.
    held: BTreeMap<Key, Way>,
    pointer: Option<Way>,
    /// Where the pointer was last, in pixels.
    at: Option<(i32, i32)>,
}

impl Desk {
    /// Joins the devices.
    pub fn new(
        ps2: Arc<I8042>,
        keyboard: Arc<Reports>,
        tablet: Arc<Reports>,
        screen: ScreenSize,
    ) -> Arc<Desk> {
        Arc::new(Desk { ps2, keyboard, tablet, screen, state: Mutex::default() })
    }

    /// Everything is let go of: the devices were reset.
    pub fn reset(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    fn way(reports: &Reports) -> Way {
        if reports.is_open() { Way::Virtio } else { Way::Ps2 }
    }

    fn move_mouse(&self, state: &mut State, pointer: &Pointer) {
        let (width, height) = (self.screen)();
        let pixel = |position: u16, side: u32| {
            let position = i64::from(position.min(POSITION_MAX));
            (position * i64::from(side) / (i64::from(POSITION_MAX) + 1)) as i32
        };
        let at = (pixel(pointer.x, width), pixel(pointer.y, height));
        // Where the guest's own pointer is, nobody knows: the first position moves nothing.
        let before = state.at.replace(at).unwrap_or(at);
        self.ps2.movement(Movement {
            dx: at.0.saturating_sub(before.0),
            dy: at.1.saturating_sub(before.1),
            wheel: pointer.wheel.into(),
            buttons: pointer.buttons,
        });
    }
}

impl InputSink for Desk {
    fn key(&self, key: Key, pressed: bool) {
        let mut state = self.lock();
        let way = match (state.held.get(&key).copied(), pressed) {
            (None, false) => return,
            (None, true) if state.held.len() >= HELD_MAX => return,
            (None, true) => {
                let way = Desk::way(&self.keyboard);
                state.held.insert(key, way);
                way
            }
            (Some(way), true) => way,
            (Some(way), false) => {
                state.held.remove(&key);
                way
            }
        };
        match way {
            Way::Ps2 => self.ps2.key(key, pressed),
            Way::Virtio => self.keyboard.key(key, pressed),
        }
    }

    fn pointer(&self, pointer: Pointer) {
        let mut state = self.lock();
        let way = Desk::way(&self.tablet);
        if state.pointer.replace(way).is_some_and(|before| before != way) {
            // The mouse lets go; the tablet forgets by itself, when its driver goes.
            self.ps2.movement(Movement { buttons: Buttons::empty(), ..Movement::default() });
            state.at = None;
        }
        match way {
            Way::Ps2 => self.move_mouse(&mut state, &pointer),
            Way::Virtio => self.tablet.pointer(pointer),
        }
    }

    fn leds(&self) -> Leds {
        match Desk::way(&self.keyboard) {
            Way::Ps2 => self.ps2.leds(),
            Way::Virtio => self.keyboard.leds(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Bus, Region};
    use crate::irq::RecordingLine;
    use crate::virtio::F_VERSION_1;
    use crate::virtio::input::{Input, Kind};
    use crate::virtio::testkit::Rig;

    struct Table {
        desk: Arc<Desk>,
        ports: Bus,
        keyboard: Rig,
        tablet: Rig,
        reports: [Arc<Reports>; 2],
    }

    impl Table {
        fn new() -> Table {
            let line = || Arc::new(RecordingLine::default());
            let ps2 = I8042::new(line(), line());
            let ports = Bus::default();
            let all: [(u64, u64, Arc<dyn Region>); 2] = ps2.ports();
            for (base, len, region) in all {
                ports.insert(base, len, region).unwrap();
            }
            let (keyboard, keys) = Input::new(Kind::Keyboard).unwrap();
            let (tablet, positions) = Input::new(Kind::Tablet).unwrap();
            let size = Box::new(|| (1000, 500));
            let desk = Desk::new(ps2, keys.clone(), positions.clone(), size);
            let (keyboard, tablet) = (Rig::new(Box::new(keyboard)), Rig::new(Box::new(tablet)));
            Table { desk, ports, keyboard, tablet, reports: [keys, positions] }
        }

        /// What the PS/2 controller has to say.
        fn ps2(&self) -> Vec<u8> {
            let read = |port| {
                let mut data = [0];
                self.ports.read(port, &mut data);
                data[0]
            };
            std::iter::from_fn(|| (read(0x64) & 1 != 0).then(|| read(0x60))).collect()
        }

        fn mouse_on(&self) {
            for (port, byte) in [(0x64, 0xa8), (0x64, 0xd4), (0x60, 0xf4)] {
                let _ = self.ports.write(port, &[byte]);
            }
            assert_eq!(self.ps2(), [0xfa]);
        }
    }

    const A: Key = Key(30);

    fn at(x: u16, y: u16, buttons: Buttons) -> Pointer {
        Pointer { x, y, buttons, ..Pointer::default() }
    }

    #[test]
    fn keys_go_to_the_driver_that_runs_and_come_up_where_they_went_down() {
        let mut table = Table::new();
        table.desk.key(A, true);
        assert_eq!(table.ps2(), [0x1e]);
        table.keyboard.bring_up(F_VERSION_1);
        table.desk.key(A, true);
        table.desk.key(A, false);
        assert_eq!(table.ps2(), [0x1e, 0x9e]);
        table.desk.key(A, false);
        table.desk.key(A, true);
        assert!(table.ps2().is_empty());
        let buffers = [table.keyboard.ram.take(8), table.keyboard.ram.take(8)];
        for buffer in buffers {
            table.keyboard.queue(0).add(&[], &[(buffer, 8)]);
        }
        table.keyboard.complete(0);
        assert_eq!(table.keyboard.ram.read(buffers[0], 8), [1, 0, 30, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn the_mouse_is_moved_by_pixels_without_drift() {
        let table = Table::new();
        table.mouse_on();
        table.desk.pointer(at(0, 0, Buttons::empty()));
        assert!(table.ps2().is_empty());
        let (mut x, mut y) = (0, 0);
        for step in 1..=64u16 {
            table.desk.pointer(at(step * 511, step * 511, Buttons::empty()));
            for packet in table.ps2().chunks(3) {
                x += i32::from(packet[1]) - i32::from(packet[0] & 0x10) * 16;
                y += i32::from(packet[2]) - i32::from(packet[0] & 0x20) * 8;
            }
        }
        assert_eq!((x, y), (998, -499));
    }

    #[test]
    fn the_mouse_lets_go_when_the_tablet_takes_over() {
        let mut table = Table::new();
        table.mouse_on();
        table.desk.pointer(at(0, 0, Buttons::LEFT));
        assert_eq!(table.ps2(), [0x09, 0, 0]);
        table.tablet.bring_up(F_VERSION_1);
        table.desk.pointer(at(9, 9, Buttons::LEFT));
        assert_eq!(table.ps2(), [0x08, 0, 0]);
        assert!(table.reports[1].is_open() && !table.reports[0].is_open());
    }

    #[test]
    fn after_a_reset_nothing_is_held() {
        let table = Table::new();
        table.desk.key(A, true);
        table.ps2();
        table.desk.reset();
        table.desk.key(A, false);
        assert!(table.ps2().is_empty());
        for key in 0..1000 {
            table.desk.key(Key(key), true);
        }
        assert!(table.desk.lock().held.len() <= HELD_MAX);
    }
}

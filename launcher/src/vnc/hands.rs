//! What a client does with keyboard and pointer, and to which of the screens.
//!
//! Control, Alt and Shift with 1 show the display, with 2 the serial console, with 0 whichever has
//! something to show. A client that may only look does nothing.

use devices::input::{Buttons, Key, POSITION_MAX, Pointer};

use super::hub::{Look, Viewer, Which};
use super::keyboard::{KeyEvent, Keyboard};
use crate::server::passwords::Access;

const KEY_1: Key = Key(2);
const KEY_2: Key = Key(3);
const KEY_0: Key = Key(11);

/// Bits of a pointer event's wheels (RFC 6143 §7.5.5).
const WHEEL_UP: u8 = 1 << 3;
const WHEEL_DOWN: u8 = 1 << 4;
const WHEEL_LEFT: u8 = 1 << 5;
const WHEEL_RIGHT: u8 = 1 << 6;
const BACK: u8 = 1 << 7;

/// A client's hands.
#[derive(Debug)]
pub struct Hands {
    access: Access,
    keyboard: Keyboard,
    pointer: Pointer,
    /// The last pointer event's bits.
    buttons: u8,
}

impl Hands {
    /// Hands that touch nothing yet, of somebody who may do this.
    pub fn new(access: Access) -> Hands {
        Hands { access, keyboard: Keyboard::default(), pointer: Pointer::default(), buttons: 0 }
    }

    /// A key.
    pub fn on_key(&mut self, event: KeyEvent, viewer: &Viewer) {
        if self.access != Access::Full || self.chooses(&event, viewer) {
            return;
        }
        let desk = viewer.desk();
        let shown = viewer.look_on(|which, _, _| which);
        match (shown, &desk.terminal, &desk.input) {
            (Which::Terminal, Some(terminal), _) => {
                // Modifiers are kept track of all the same.
                self.keyboard.on_event(event, &Nobody);
                let [control, alt, _] = self.keyboard.modifiers();
                if event.pressed {
                    terminal.press(event.keysym, control, alt);
                }
            }
            (_, _, Some(input)) => self.keyboard.on_event(event, &**input),
            _ => return,
        }
        viewer.poke();
    }

    /// The pointer, at a place in a picture of this size.
    pub fn on_pointer(
        &mut self,
        buttons: u8,
        (x, y): (u32, u32),
        (width, height): (u32, u32),
        viewer: &Viewer,
    ) {
        let Some(input) = viewer.desk().input.as_ref().filter(|_| self.access == Access::Full)
        else {
            return;
        };
        if viewer.look_on(|which, _, _| which) != Which::Display {
            return;
        }
        let pressed = buttons & !self.buttons;
        self.buttons = buttons;
        let step = |up: u8, down: u8| {
            i8::from(pressed & up != 0).saturating_sub(i8::from(pressed & down != 0))
        };
        let mut held = Buttons::from_bits_truncate(buttons & 7);
        held.set(Buttons::SIDE, buttons & BACK != 0);
        self.pointer = Pointer {
            x: place(x, width),
            y: place(y, height),
            buttons: held,
            wheel: 0,
            side_wheel: 0,
        };
        input.pointer(Pointer {
            wheel: step(WHEEL_UP, WHEEL_DOWN),
            side_wheel: step(WHEEL_RIGHT, WHEEL_LEFT),
            ..self.pointer
        });
        viewer.poke();
    }

    /// Lets everything go.
    pub fn let_go(&mut self, viewer: &Viewer) {
        let Some(input) = &viewer.desk().input else { return };
        self.keyboard.release_all(&**input);
        if !self.pointer.buttons.is_empty() {
            self.pointer.buttons = Buttons::empty();
            input.pointer(self.pointer);
        }
        self.buttons = 0;
    }

    /// Whether this key chooses a screen.
    fn chooses(&mut self, event: &KeyEvent, viewer: &Viewer) -> bool {
        if self.keyboard.modifiers() != [true; 3] {
            return false;
        }
        let look = match Keyboard::key_of(event) {
            Some(KEY_1) => Look::At(Which::Display),
            Some(KEY_2) => Look::At(Which::Terminal),
            Some(KEY_0) => Look::Auto,
            _ => return false,
        };
        if event.pressed {
            viewer.look_at(look);
        }
        true
    }
}

/// A keyboard that nobody reads.
struct Nobody;

impl devices::input::InputSink for Nobody {
    fn key(&self, _: Key, _: bool) {}

    fn pointer(&self, _: Pointer) {}

    fn leds(&self) -> devices::input::Leds {
        devices::input::Leds::empty()
    }
}

/// The middle of pixel `at` of `count`, as the pointer's position: both ways in which guests count
/// back, by number of pixels and by distance of the first from the last, find the same pixel.
fn place(at: u32, count: u32) -> u16 {
    let at = u64::from(at.min(count.saturating_sub(1)));
    let positions = u64::from(POSITION_MAX).saturating_add(1);
    let middle = at.saturating_mul(2).saturating_add(1).saturating_mul(positions);
    let place = middle.checked_div(u64::from(count).saturating_mul(2)).unwrap_or(0);
    u16::try_from(place).unwrap_or(POSITION_MAX).min(POSITION_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_is_found_again() {
        for count in [1u32, 2, 640, 1024, 1366, 1920, 4096, 8192] {
            for at in 0..count {
                let place = f64::from(place(at, count));
                let by_number = (place * f64::from(count) / 32_768.0).floor();
                let by_distance = (place * f64::from(count - 1) / 32_767.0).round();
                assert_eq!((by_number, by_distance), (f64::from(at), f64::from(at)), "of {count}");
            }
        }
        assert_eq!(place(9999, 640), place(639, 640));
        assert_eq!(place(0, 0), 0);
    }
}

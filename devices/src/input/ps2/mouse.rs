//! The mouse: commands in, answers and packets of movement out; with a wheel, and five buttons, for
//! drivers that knock three times for each (the IntelliMouse convention).
//!
//! ```text
//! packet  7 dy overflow | 6 dx overflow | 5 dy < 0 | 4 dx < 0 | 3 one | 2 middle | 1 right | 0 left
//!         dx | dy, up positive | [wheel, down positive; with five buttons its low half, and 5, 4 buttons]
//! ```
//! Movements that wait are added up while the buttons stay the same. When too many changes of
//! buttons wait, the last ones are made one, so that what is released is never held.

use std::collections::VecDeque;

use super::{ACK, RESEND, SELF_TEST_OK};
use crate::input::Buttons;

/// Movements that may wait.
const QUEUE_MAX: usize = 64;
/// Bytes of answers that may wait.
const ANSWERS_MAX: usize = 16;
/// The most a packet can say, in each direction.
const STEP_MAX: i32 = 255;
const WHEEL_MAX: i32 = 7;
/// Movement beyond this is not added up: no screen is wider.
const TRAVEL_MAX: i32 = 1 << 15;

const SCALE_1: u8 = 0xe6;
const SCALE_2: u8 = 0xe7;
const SET_RESOLUTION: u8 = 0xe8;
const STATUS: u8 = 0xe9;
const STREAM: u8 = 0xea;
const READ: u8 = 0xeb;
const UNWRAP: u8 = 0xec;
const WRAP: u8 = 0xee;
const REMOTE: u8 = 0xf0;
const IDENTIFY: u8 = 0xf2;
const SET_RATE: u8 = 0xf3;
const ENABLE: u8 = 0xf4;
const DISABLE: u8 = 0xf5;
const DEFAULTS: u8 = 0xf6;
const AGAIN: u8 = 0xfe;
const RESET: u8 = 0xff;

const ID_PLAIN: u8 = 0;
const ID_WHEEL: u8 = 3;
const ID_FIVE_BUTTONS: u8 = 4;
const KNOCK_WHEEL: [u8; 3] = [200, 100, 80];
const KNOCK_FIVE_BUTTONS: [u8; 3] = [200, 200, 80];

/// What the mouse has done since it last said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    /// To the right.
    pub dx: i32,
    /// Down.
    pub dy: i32,
    /// Steps of the wheel, away from the user positive.
    pub wheel: i32,
    /// Held now.
    pub buttons: Buttons,
}

impl Movement {
    fn add(&mut self, next: &Movement) {
        let sum = |a: i32, b: i32| a.saturating_add(b).clamp(-TRAVEL_MAX, TRAVEL_MAX);
        self.dx = sum(self.dx, next.dx);
        self.dy = sum(self.dy, next.dy);
        self.wheel = sum(self.wheel, next.wheel);
        self.buttons = next.buttons;
    }

    fn is_still(&self) -> bool {
        (self.dx, self.dy, self.wheel) == (0, 0, 0)
    }
}

/// The mouse.
#[derive(Debug)]
pub struct Mouse {
    answers: VecDeque<u8>,
    /// Bytes of the packet that is under way.
    packet: VecDeque<u8>,
    waiting: VecDeque<Movement>,
    /// The buttons as the guest was told, or will be.
    buttons: Buttons,
    enabled: bool,
    remote: bool,
    wrap: bool,
    scale_2: bool,
    resolution: u8,
    rate: u8,
    rates: [u8; 3],
    id: u8,
    command: Option<u8>,
    last: u8,
}

impl Default for Mouse {
    fn default() -> Mouse {
        Mouse {
            answers: VecDeque::new(),
            packet: VecDeque::new(),
            waiting: VecDeque::new(),
            buttons: Buttons::empty(),
            enabled: false,
            remote: false,
            wrap: false,
            scale_2: false,
            resolution: 2,
            rate: 100,
            rates: [0; 3],
            id: ID_PLAIN,
            command: None,
            last: 0,
        }
    }
}

impl Mouse {
    /// The mouse moves, or its buttons change.
    pub fn movement(&mut self, movement: Movement) {
        if !(self.enabled || self.remote) {
            return;
        }
        if movement.is_still() && movement.buttons == self.buttons {
            return;
        }
        let same = movement.buttons == self.buttons;
        let is_full = self.waiting.len() >= QUEUE_MAX;
        self.buttons = movement.buttons;
        match self.waiting.back_mut() {
            Some(last) if same || is_full => last.add(&movement),
            _ => self.waiting.push_back(movement),
        }
    }

    /// The next byte for the guest.
    pub fn read(&mut self) -> Option<u8> {
        if self.answers.is_empty() && self.packet.is_empty() && !self.remote && self.enabled {
            self.pack();
        }
        let byte = match self.packet.is_empty() {
            // A packet under way is not parted: its bytes say no more than their place.
            false => self.packet.pop_front()?,
            true => self.answers.pop_front()?,
        };
        self.last = byte;
        Some(byte)
    }

    /// True when a byte waits.
    pub fn has_byte(&self) -> bool {
        let streams = self.enabled && !self.remote && !self.waiting.is_empty();
        streams || !self.answers.is_empty() || !self.packet.is_empty()
    }

    /// Makes a packet of what waits, as much of it as one can hold.
    fn pack(&mut self) {
        let Some(movement) = self.waiting.front_mut() else { return };
        let part = |total: &mut i32, max: i32| {
            let part = (*total).clamp(-max, max);
            *total -= part;
            part
        };
        let (dx, dy) = (part(&mut movement.dx, STEP_MAX), -part(&mut movement.dy, STEP_MAX));
        let wheel = -part(&mut movement.wheel, WHEEL_MAX);
        let buttons = movement.buttons;
        let is_done =
            movement.is_still() || self.id == ID_PLAIN && movement.dx == 0 && movement.dy == 0;
        if is_done {
            self.waiting.pop_front();
        }
        self.emit((dx, dy, wheel), buttons);
    }

    fn emit(&mut self, (dx, dy, wheel): (i32, i32, i32), buttons: Buttons) {
        let bit = |set: bool, position: u8| u8::from(set) << position;
        self.packet.extend([
            basic_buttons(buttons) | 1 << 3 | bit(dx < 0, 4) | bit(dy < 0, 5),
            dx as u8,
            dy as u8,
        ]);
        match self.id {
            ID_WHEEL => self.packet.push_back(wheel as u8),
            ID_FIVE_BUTTONS => self.packet.push_back(
                wheel as u8 & 0xf
                    | bit(buttons.contains(Buttons::SIDE), 4)
                    | bit(buttons.contains(Buttons::EXTRA), 5),
            ),
            _ => {}
        }
    }

    /// The guest writes a byte.
    pub fn write(&mut self, byte: u8) {
        if self.wrap && ![RESET, UNWRAP].contains(&byte) {
            return self.answer(&[byte]);
        }
        match (self.command.take(), byte) {
            (Some(SET_RESOLUTION), 0..=3) => {
                self.resolution = byte;
                self.answer(&[ACK]);
            }
            (Some(SET_RATE), rate) if rate < SCALE_1 => self.set_rate(rate),
            (_, command) => self.obey(command),
        }
    }

    fn obey(&mut self, command: u8) {
        match command {
            SCALE_1 | SCALE_2 => self.scale_2 = command == SCALE_2,
            SET_RESOLUTION | SET_RATE => self.command = Some(command),
            STATUS => {
                let status = [self.status(), self.resolution, self.rate];
                return self.answer(&[ACK, status[0], status[1], status[2]]);
            }
            STREAM => self.remote = false,
            WRAP | UNWRAP => self.wrap = command == WRAP,
            REMOTE => self.remote = true,
            READ => return self.read_data(),
            IDENTIFY => {
                let id = self.id;
                return self.answer(&[ACK, id]);
            }
            ENABLE => self.enabled = true,
            DISABLE => {
                self.enabled = false;
                self.forget();
            }
            DEFAULTS => {
                let answers = std::mem::take(&mut self.answers);
                *self = Mouse { answers, id: self.id, ..Mouse::default() };
            }
            RESET => {
                *self = Mouse::default();
                return self.answer(&[ACK, SELF_TEST_OK, ID_PLAIN]);
            }
            AGAIN => {
                let last = self.last;
                return self.answer(&[last]);
            }
            _ => return self.answer(&[RESEND]),
        }
        self.answer(&[ACK]);
    }

    /// A packet, whether anything has moved or not.
    fn read_data(&mut self) {
        self.packet.clear();
        if self.waiting.is_empty() {
            self.emit((0, 0, 0), self.buttons);
        } else {
            self.pack();
        }
        self.answers.clear();
        self.packet.push_front(ACK);
    }

    fn set_rate(&mut self, rate: u8) {
        self.rate = rate;
        self.rates = [self.rates[1], self.rates[2], rate];
        match self.rates {
            KNOCK_WHEEL => self.id = ID_WHEEL,
            KNOCK_FIVE_BUTTONS => self.id = ID_FIVE_BUTTONS,
            _ => {}
        }
        self.answer(&[ACK]);
    }

    fn status(&self) -> u8 {
        let held = self.buttons;
        let button = |button, position: u8| u8::from(held.contains(button)) << position;
        button(Buttons::LEFT, 2)
            | button(Buttons::MIDDLE, 1)
            | button(Buttons::RIGHT, 0)
            | u8::from(self.scale_2) << 4
            | u8::from(self.enabled) << 5
            | u8::from(self.remote) << 6
    }

    fn forget(&mut self) {
        self.packet.clear();
        self.waiting.clear();
        self.buttons = Buttons::empty();
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len() + bytes.len() <= ANSWERS_MAX {
            self.answers.extend(bytes);
        }
    }
}

/// The first three buttons, as a packet has them.
fn basic_buttons(buttons: Buttons) -> u8 {
    u8::from(buttons.contains(Buttons::LEFT))
        | u8::from(buttons.contains(Buttons::RIGHT)) << 1
        | u8::from(buttons.contains(Buttons::MIDDLE)) << 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mouse: &mut Mouse) -> Vec<u8> {
        std::iter::from_fn(|| mouse.read()).collect()
    }

    fn ask(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|byte| {
                mouse.write(*byte);
                drain(mouse)
            })
            .collect()
    }

    fn moved(dx: i32, dy: i32) -> Movement {
        Movement { dx, dy, ..Movement::default() }
    }

    fn held(buttons: Buttons) -> Movement {
        Movement { buttons, ..Movement::default() }
    }

    fn knock(mouse: &mut Mouse, rates: [u8; 3]) {
        rates.iter().for_each(|rate| drop(ask(mouse, &[SET_RATE, *rate])));
    }

    #[test]
    fn it_is_identified_by_knocking() {
        let mut mouse = Mouse::default();
        assert_eq!(ask(&mut mouse, &[RESET]), [0xfa, 0xaa, 0]);
        assert_eq!(ask(&mut mouse, &[IDENTIFY]), [0xfa, 0]);
        knock(&mut mouse, KNOCK_WHEEL);
        assert_eq!(ask(&mut mouse, &[IDENTIFY]), [0xfa, 3]);
        knock(&mut mouse, KNOCK_FIVE_BUTTONS);
        assert_eq!(ask(&mut mouse, &[IDENTIFY]), [0xfa, 4]);
        assert_eq!(ask(&mut mouse, &[SET_RESOLUTION, 3, SCALE_2, ENABLE]), [0xfa; 4]);
        assert_eq!(ask(&mut mouse, &[STATUS]), [0xfa, 0x30, 3, 80]);
        assert_eq!(ask(&mut mouse, &[RESET, IDENTIFY]), [0xfa, 0xaa, 0, 0xfa, 0]);
        assert_eq!(ask(&mut mouse, &[WRAP, 0x12, UNWRAP, 0x12]), [0xfa, 0x12, 0xfa, 0xfe]);
    }

    #[test]
    fn packets_say_where_it_went() {
        let mut mouse = Mouse::default();
        mouse.movement(moved(1, 1));
        assert!(!mouse.has_byte(), "it is off until it is switched on");
        mouse.write(ENABLE);
        drain(&mut mouse);
        mouse.movement(moved(3, -4));
        mouse.movement(moved(2, 0));
        assert_eq!(drain(&mut mouse), [0x08, 5, 4]);
        mouse.movement(moved(-300, 1));
        assert_eq!(drain(&mut mouse), [0x38, 1, 0xff, 0x18, 0xd3, 0]);
        mouse.movement(held(Buttons::LEFT));
        mouse.movement(held(Buttons::LEFT));
        mouse.movement(held(Buttons::RIGHT | Buttons::MIDDLE));
        assert_eq!(drain(&mut mouse), [0x09, 0, 0, 0x0e, 0, 0]);
    }

    #[test]
    fn the_wheel_and_two_more_buttons() {
        let mut mouse = Mouse::default();
        knock(&mut mouse, KNOCK_WHEEL);
        mouse.write(ENABLE);
        drain(&mut mouse);
        mouse.movement(Movement { wheel: 1, ..Movement::default() });
        assert_eq!(drain(&mut mouse), [0x08, 0, 0, 0xff]);
        knock(&mut mouse, KNOCK_FIVE_BUTTONS);
        mouse.movement(Movement { wheel: -1, ..held(Buttons::EXTRA) });
        assert_eq!(drain(&mut mouse), [0x08, 0, 0, 0x21]);
    }

    #[test]
    fn a_remote_mouse_speaks_when_asked() {
        let mut mouse = Mouse::default();
        assert_eq!(ask(&mut mouse, &[REMOTE]), [0xfa]);
        mouse.movement(moved(7, 0));
        assert!(!mouse.has_byte());
        assert_eq!(ask(&mut mouse, &[READ]), [0xfa, 0x08, 7, 0]);
        assert_eq!(ask(&mut mouse, &[READ]), [0xfa, 0x08, 0, 0]);
    }

    #[test]
    fn the_queue_is_bounded_and_ends_as_the_buttons_are() {
        let mut mouse = Mouse::default();
        mouse.write(ENABLE);
        for _ in 0..1000 {
            mouse.movement(held(Buttons::LEFT));
            mouse.movement(held(Buttons::empty()));
        }
        assert!(mouse.waiting.len() <= QUEUE_MAX);
        let bytes = drain(&mut mouse);
        assert_eq!(bytes[bytes.len() - 3..], [0x08, 0, 0]);
        (0..1000).for_each(|_| mouse.write(STATUS));
        assert!(mouse.answers.len() <= ANSWERS_MAX);
    }
}

//! The PS/2 controller (8042) at ports 0x60 and 0x64, with a keyboard and a mouse plugged in.
//!
//! ```text
//! 64 R   0 output full | 2 self-test passed | 3 last write was a command | 4 not locked | 5 mouse's
//! 64 W   20 60 read, write control byte | a7 a8 mouse off, on | a9 ab port tests | aa self-test
//!        ad ae keyboard off, on | c0 input port | d0 d1 output port | d2 d3 as if from keyboard, mouse
//!        d4 to the mouse | dd df A20 | f0..ff pulse output lines, 0 is reset
//! 60     data
//! control byte   0 IRQ 1 | 1 IRQ 12 | 2 self-test passed | 4 5 keyboard, mouse off | 6 translate
//! ```
//! One byte at a time is in the output buffer; the next follows when it has been read. An interrupt
//! says that a device's byte is there; answers of the controller itself are polled for. Without
//! firmware nobody sets it up before the operating system: so it starts as firmware leaves it, with
//! translation on. Left out: A20 (it is always on), the other ports' passwords and locks.
//!
//! Registers are used on vCPU threads, keys come on a viewer's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use super::ps2::keyboard::Keyboard;
use super::ps2::mouse::{Mouse, Movement};
use super::{Key, Leds};
use crate::bus::{Effect, GuestEvent, Region};
use crate::irq::IrqLine;

/// The data port.
pub const DATA: u64 = 0x60;
/// The status and command port.
pub const COMMAND: u64 = 0x64;
/// The keyboard's ISA interrupt.
pub const KEYBOARD_IRQ: u32 = 1;
/// The mouse's ISA interrupt.
pub const MOUSE_IRQ: u32 = 12;

const STATUS_FULL: u8 = 1;
const STATUS_SELF_TEST: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_MOUSE: u8 = 1 << 5;

const CONTROL_KEYBOARD_IRQ: u8 = 1;
const CONTROL_MOUSE_IRQ: u8 = 1 << 1;
const CONTROL_SELF_TEST: u8 = 1 << 2;
const CONTROL_KEYBOARD_OFF: u8 = 1 << 4;
const CONTROL_MOUSE_OFF: u8 = 1 << 5;
const CONTROL_TRANSLATE: u8 = 1 << 6;
/// As firmware leaves it, with the mouse off: drivers switch it on.
const CONTROL_PRESET: u8 =
    CONTROL_KEYBOARD_IRQ | CONTROL_SELF_TEST | CONTROL_MOUSE_OFF | CONTROL_TRANSLATE;

const READ_CONTROL: u8 = 0x20;
const WRITE_CONTROL: u8 = 0x60;
const MOUSE_OFF: u8 = 0xa7;
const MOUSE_ON: u8 = 0xa8;
const TEST_MOUSE_PORT: u8 = 0xa9;
const SELF_TEST: u8 = 0xaa;
const SELF_TEST_OK: u8 = 0x55;
const TEST_KEYBOARD_PORT: u8 = 0xab;
const PORT_OK: u8 = 0;
const KEYBOARD_OFF: u8 = 0xad;
const KEYBOARD_ON: u8 = 0xae;
const READ_INPUT_PORT: u8 = 0xc0;
const INPUT_PORT: u8 = 0x80;
const READ_OUTPUT_PORT: u8 = 0xd0;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
const AS_IF_KEYBOARD: u8 = 0xd2;
const AS_IF_MOUSE: u8 = 0xd3;
const TO_MOUSE: u8 = 0xd4;
/// Pulses of output lines whose bits are clear in the low half; line 0 is reset.
const PULSE: u8 = 0xf0;
const OUTPUT_NOT_RESET: u8 = 1;
const OUTPUT_A20: u8 = 1 << 1;
/// Answers that may wait.
const ANSWERS_MAX: usize = 16;

/// Who a byte in the output buffer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Polled for.
    Controller,
    Keyboard,
    Mouse,
}

/// The controller.
pub struct I8042 {
    keyboard_line: Arc<dyn IrqLine>,
    mouse_line: Arc<dyn IrqLine>,
    state: Mutex<State>,
}

struct State {
    control: u8,
    output: Option<(u8, Source)>,
    /// What was in the output buffer last: reading it again gives the same.
    last: (u8, Source),
    answers: VecDeque<(u8, Source)>,
    /// The command whose data comes next.
    command: Option<u8>,
    last_was_command: bool,
    output_port: u8,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl Default for State {
    fn default() -> State {
        State {
            control: CONTROL_PRESET,
            output: None,
            last: (0, Source::Controller),
            answers: VecDeque::new(),
            command: None,
            last_was_command: false,
            output_port: OUTPUT_NOT_RESET | OUTPUT_A20,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

impl State {
    /// Fills the output buffer, if it is empty and something waits. True when it was filled.
    fn fill(&mut self) -> bool {
        if self.output.is_some() {
            return false;
        }
        let translate = self.control & CONTROL_TRANSLATE != 0;
        let keyboard_on = self.control & CONTROL_KEYBOARD_OFF == 0;
        let mouse_on = self.control & CONTROL_MOUSE_OFF == 0;
        self.output = self.answers.pop_front();
        if self.output.is_none() && keyboard_on {
            self.output = self.keyboard.read(translate).map(|byte| (byte, Source::Keyboard));
        }
        if self.output.is_none() && mouse_on {
            self.output = self.mouse.read().map(|byte| (byte, Source::Mouse));
        }
        self.output.is_some()
    }

    fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED | self.control & STATUS_SELF_TEST;
        if self.last_was_command {
            status |= STATUS_COMMAND;
        }
        match self.output {
            Some((_, Source::Mouse)) => status | STATUS_FULL | STATUS_MOUSE,
            Some(_) => status | STATUS_FULL,
            None => status,
        }
    }

    fn take(&mut self) -> u8 {
        if let Some(output) = self.output.take() {
            self.last = output;
        }
        self.last.0
    }

    fn answer(&mut self, byte: u8, source: Source) {
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back((byte, source));
        }
    }

    fn obey(&mut self, command: u8) -> Effect {
        let controller = Source::Controller;
        match command {
            READ_CONTROL => self.answer(self.control, controller),
            MOUSE_OFF => self.control |= CONTROL_MOUSE_OFF,
            MOUSE_ON => self.control &= !CONTROL_MOUSE_OFF,
            KEYBOARD_OFF => self.control |= CONTROL_KEYBOARD_OFF,
            KEYBOARD_ON => self.control &= !CONTROL_KEYBOARD_OFF,
            SELF_TEST => {
                self.control |= CONTROL_SELF_TEST;
                self.answer(SELF_TEST_OK, controller);
            }
            TEST_MOUSE_PORT | TEST_KEYBOARD_PORT => self.answer(PORT_OK, controller),
            READ_INPUT_PORT => self.answer(INPUT_PORT, controller),
            READ_OUTPUT_PORT => self.answer(self.output_port, controller),
            WRITE_CONTROL | WRITE_OUTPUT_PORT | AS_IF_KEYBOARD | AS_IF_MOUSE | TO_MOUSE => {
                self.command = Some(command);
            }
            // Line 0 is reset, and active low: the even ones pulse it.
            PULSE.. if command & OUTPUT_NOT_RESET == 0 => return Effect::Guest(GuestEvent::Reset),
            // A20 is on in any case.
            _ => {}
        }
        Effect::None
    }

    fn data(&mut self, byte: u8) -> Effect {
        match self.command.take() {
            Some(WRITE_CONTROL) => self.control = byte,
            Some(WRITE_OUTPUT_PORT) => {
                self.output_port = byte | OUTPUT_NOT_RESET;
                if byte & OUTPUT_NOT_RESET == 0 {
                    return Effect::Guest(GuestEvent::Reset);
                }
            }
            Some(AS_IF_KEYBOARD) => self.answer(byte, Source::Keyboard),
            Some(AS_IF_MOUSE) => self.answer(byte, Source::Mouse),
            Some(TO_MOUSE) => self.mouse.write(byte),
            _ => {
                // Writing to the keyboard switches its port on.
                self.control &= !CONTROL_KEYBOARD_OFF;
                self.keyboard.write(byte);
            }
        }
        Effect::None
    }
}

impl I8042 {
    /// A controller that interrupts through edge-triggered inputs.
    pub fn new(keyboard_line: Arc<dyn IrqLine>, mouse_line: Arc<dyn IrqLine>) -> Arc<I8042> {
        Arc::new(I8042 { keyboard_line, mouse_line, state: Mutex::default() })
    }

    /// Its ports: first port, how many, registers.
    pub fn ports(self: &Arc<Self>) -> [(u64, u64, Arc<dyn Region>); 2] {
        [
            (DATA, 1, Arc::new(DataPort(self.clone()))),
            (COMMAND, 1, Arc::new(CommandPort(self.clone()))),
        ]
    }

    /// A key of the keyboard goes down or up.
    pub fn key(&self, key: Key, pressed: bool) {
        let mut state = self.lock();
        state.keyboard.key(key, pressed);
        self.remind(&mut state);
    }

    /// The mouse moves.
    pub fn movement(&self, movement: Movement) {
        let mut state = self.lock();
        state.mouse.movement(movement);
        self.remind(&mut state);
    }

    /// The keyboard's lights.
    pub fn leds(&self) -> Leds {
        self.lock().keyboard.leds()
    }

    /// Back to the state after power-on, and after what firmware would do; keys are up.
    pub fn reset(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the controller's lock is never held in a panic")
    }

    /// Interrupts for what is in the output buffer.
    fn interrupt(&self, state: &State) {
        match state.output {
            Some((_, Source::Keyboard)) if state.control & CONTROL_KEYBOARD_IRQ != 0 => {
                self.keyboard_line.set(true);
                self.keyboard_line.set(false);
            }
            Some((_, Source::Mouse)) if state.control & CONTROL_MOUSE_IRQ != 0 => {
                self.mouse_line.set(true);
                self.mouse_line.set(false);
            }
            _ => {}
        }
    }

    /// After something has come: interrupts again for a byte that was not fetched, since an edge is
    /// lost on a line that was masked.
    fn remind(&self, state: &mut State) {
        state.fill();
        self.interrupt(state);
    }

    /// After an access: interrupts for what it has brought forth.
    fn settle(&self, state: &mut State, before: u8) {
        let risen = state.control & !before & (CONTROL_KEYBOARD_IRQ | CONTROL_MOUSE_IRQ) != 0;
        if state.fill() || risen {
            self.interrupt(state);
        }
    }
}

struct DataPort(Arc<I8042>);

impl Region for DataPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
        let mut state = self.0.lock();
        let before = state.control;
        if let Some(byte) = data.first_mut() {
            *byte = state.take();
        }
        self.0.settle(&mut state, before);
    }

    fn write(&self, _: u64, data: &[u8]) -> Effect {
        let mut state = self.0.lock();
        let before = state.control;
        state.last_was_command = false;
        let effect = data.first().map_or(Effect::None, |byte| state.data(*byte));
        self.0.settle(&mut state, before);
        effect
    }
}

struct CommandPort(Arc<I8042>);

impl Region for CommandPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(byte) = data.first_mut() {
            *byte = self.0.lock().status();
        }
    }

    fn write(&self, _: u64, data: &[u8]) -> Effect {
        let mut state = self.0.lock();
        let before = state.control;
        state.last_was_command = true;
        // A command in the place of another's data is a command.
        state.command = None;
        let effect = data.first().map_or(Effect::None, |byte| state.obey(*byte));
        self.0.settle(&mut state, before);
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::input::Buttons;
    use crate::irq::RecordingLine;

    struct Rig {
        chip: Arc<I8042>,
        ports: Bus,
        keyboard_line: Arc<RecordingLine>,
        mouse_line: Arc<RecordingLine>,
    }

    impl Rig {
        fn new() -> Rig {
            let (keyboard_line, mouse_line) = (Arc::default(), Arc::default());
            let lines: (&Arc<RecordingLine>, &Arc<RecordingLine>) = (&keyboard_line, &mouse_line);
            let chip = I8042::new(lines.0.clone(), lines.1.clone());
            let ports = Bus::default();
            for (base, len, region) in chip.ports() {
                ports.insert(base, len, region).unwrap();
            }
            Rig { chip, ports, keyboard_line, mouse_line }
        }

        fn read(&self, port: u64) -> u8 {
            let mut data = [0];
            self.ports.read(port, &mut data);
            data[0]
        }

        fn command(&self, byte: u8) -> Effect {
            self.ports.write(COMMAND, &[byte])
        }

        fn data(&self, byte: u8) -> Effect {
            self.ports.write(DATA, &[byte])
        }

        /// Everything that is there to be read, as (mouse's, byte).
        fn drain(&self) -> Vec<(bool, u8)> {
            let mut bytes = Vec::new();
            loop {
                let status = self.read(COMMAND);
                if status & STATUS_FULL == 0 {
                    return bytes;
                }
                bytes.push((status & STATUS_MOUSE != 0, self.read(DATA)));
            }
        }

        fn irqs(line: &RecordingLine) -> usize {
            line.0.lock().unwrap().drain(..).filter(|level| *level).count()
        }
    }

    const A: Key = Key(30);

    #[test]
    fn a_key_is_translated_and_interrupts_byte_by_byte() {
        let rig = Rig::new();
        assert_eq!(rig.read(COMMAND), 0x14);
        rig.chip.key(A, true);
        rig.chip.key(A, false);
        assert_eq!(rig.read(COMMAND), 0x15);
        Rig::irqs(&rig.keyboard_line);
        assert_eq!(rig.read(DATA), 0x1e);
        assert_eq!(Rig::irqs(&rig.keyboard_line), 1, "the next byte interrupts");
        assert_eq!((rig.read(DATA), rig.read(DATA)), (0x9e, 0x9e));
        assert_eq!((rig.read(COMMAND), Rig::irqs(&rig.keyboard_line)), (0x14, 0));
    }

    #[test]
    fn firmware_and_kernels_find_what_they_probe_for() {
        let rig = Rig::new();
        let ask = |command| {
            let _ = rig.command(command);
            rig.drain()
        };
        assert_eq!(ask(0x20), [(false, CONTROL_PRESET)]);
        assert_eq!(ask(0xaa), [(false, 0x55)]);
        assert_eq!((ask(0xab), ask(0xa9)), (vec![(false, 0)], vec![(false, 0)]));
        assert_eq!((ask(0xc0), ask(0xd0)), (vec![(false, 0x80)], vec![(false, 3)]));
        assert_eq!(rig.read(COMMAND), 0x1c);
        for byte in [0x5a, 0xa5, 0xf0] {
            let _ = rig.command(0xd3);
            let _ = rig.data(byte);
            assert_eq!(rig.drain(), [(true, byte)]);
        }
        let _ = rig.command(0xd2);
        let _ = rig.data(0x77);
        assert_eq!(rig.drain(), [(false, 0x77)]);
        let _ = rig.command(0x60);
        let _ = rig.data(0x47);
        assert_eq!(ask(0x20), [(false, 0x47)]);
        let _ = rig.data(0xf2);
        assert_eq!(rig.drain(), [(false, 0xfa), (false, 0xab), (false, 0x41)]);
        let _ = rig.command(0xd4);
        let _ = rig.data(0xf2);
        assert_eq!(rig.drain(), [(true, 0xfa), (true, 0)]);
    }

    #[test]
    fn the_loop_back_interrupts_as_the_mouse_does() {
        let rig = Rig::new();
        let _ = rig.command(0x60);
        let _ = rig.data(0x43);
        let _ = rig.command(0xd3);
        let _ = rig.data(0xa5);
        assert_eq!((Rig::irqs(&rig.mouse_line), Rig::irqs(&rig.keyboard_line)), (1, 0));
    }

    #[test]
    fn a_byte_that_waits_interrupts_when_interrupts_are_switched_on() {
        let rig = Rig::new();
        let _ = rig.command(0x60);
        let _ = rig.data(0x44);
        rig.chip.key(A, true);
        assert_eq!(Rig::irqs(&rig.keyboard_line), 0);
        let _ = rig.command(0x60);
        let _ = rig.data(0x45);
        assert_eq!(Rig::irqs(&rig.keyboard_line), 1);
        // An edge may have been lost: the next key tells of it again.
        rig.chip.key(A, false);
        assert_eq!(Rig::irqs(&rig.keyboard_line), 1);
        assert_eq!(rig.drain(), [(false, 0x1e), (false, 0x9e)]);
    }

    #[test]
    fn ports_that_are_off_keep_their_bytes() {
        let rig = Rig::new();
        let _ = rig.command(0xad);
        rig.chip.key(A, true);
        assert!(rig.drain().is_empty());
        let _ = rig.command(0xae);
        assert_eq!(rig.drain(), [(false, 0x1e)]);
        let _ = rig.command(0xd4);
        let _ = rig.data(0xf4);
        assert!(rig.drain().is_empty(), "the mouse's port is off after reset");
        let _ = rig.command(0xa8);
        assert_eq!(rig.drain(), [(true, 0xfa)]);
        rig.chip.movement(Movement { dx: 2, buttons: Buttons::LEFT, ..Movement::default() });
        assert_eq!(rig.drain(), [(true, 0x09), (true, 2), (true, 0)]);
    }

    #[test]
    fn resets_are_asked_for_as_ever() {
        let rig = Rig::new();
        for command in [0xfe, 0xf0, 0xfc] {
            assert!(matches!(rig.command(command), Effect::Guest(GuestEvent::Reset)));
        }
        for command in [0xff, 0xaa, 0xd1] {
            assert!(matches!(rig.command(command), Effect::None));
        }
        assert!(matches!(rig.data(2), Effect::Guest(GuestEvent::Reset)));
        let _ = rig.command(0xd1);
        assert!(matches!(rig.data(3), Effect::None));
    }

    #[test]
    fn a_reset_lets_go_of_everything() {
        let rig = Rig::new();
        rig.chip.key(A, true);
        let _ = rig.data(0xed);
        let _ = rig.data(7);
        assert_eq!(rig.chip.leds(), Leds::all());
        rig.chip.reset();
        rig.chip.key(A, false);
        assert_eq!((rig.chip.leds(), rig.drain()), (Leds::empty(), vec![]));
    }

    #[test]
    fn any_bytes_are_harmless() {
        let rig = Rig::new();
        for command in 0..=255 {
            for byte in 0..=255 {
                let _ = rig.command(command);
                let _ = rig.data(byte);
                let _ = rig.data(command);
                rig.chip.key(Key(byte.into()), command & 1 == 0);
                rig.read(DATA);
            }
        }
        assert!(rig.chip.lock().answers.len() <= ANSWERS_MAX);
    }
}

//! The two old ways to reset a PC: port 0x92 (fast A20 and reset) and the keyboard controller's
//! command port 0x64. The third, 0xCF9, lies between the PCI configuration ports
//! ([`crate::pci::root`]).
//!
//! Port 0x64 is the keyboard controller's ([`crate::input::i8042`]). In a machine without one it reads
//! as ones, which is "absent", and only its reset command is left.

use std::sync::Mutex;

use crate::bus::{Effect, GuestEvent, Region};

/// System control port A: bit 0 resets when it rises, bit 1 is A20.
pub const PORT_92: u64 = 0x92;
/// The keyboard controller's command port.
pub const PORT_64: u64 = 0x64;

const FAST_RESET: u8 = 1 << 0;
const A20: u8 = 1 << 1;
/// Pulse output line 0, which is wired to reset (8042 command 0xFE).
const PULSE_RESET: u8 = 0xfe;

/// System control port A.
pub struct SystemControl {
    value: Mutex<u8>,
}

impl Default for SystemControl {
    fn default() -> SystemControl {
        SystemControl { value: Mutex::new(A20) }
    }
}

impl SystemControl {
    /// Back to the state after power-on.
    pub fn reset(&self) {
        *self.value.lock().expect("held for a copy only") = A20;
    }
}

impl Region for SystemControl {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
        data[0] = *self.value.lock().expect("held for a copy only");
    }

    fn write(&self, _: u64, data: &[u8]) -> Effect {
        let mut value = self.value.lock().expect("held for a copy only");
        let before = std::mem::replace(&mut *value, data[0]);
        let rises = data[0] & !before & FAST_RESET != 0;
        if rises { Effect::Guest(GuestEvent::Reset) } else { Effect::None }
    }
}

/// The keyboard controller's command port where there is no controller: its reset command alone.
pub struct KeyboardReset;

impl Region for KeyboardReset {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _: u64, data: &[u8]) -> Effect {
        if data[0] == PULSE_RESET { Effect::Guest(GuestEvent::Reset) } else { Effect::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_92_resets_on_the_rise_only() {
        let port = SystemControl::default();
        assert!(matches!(port.write(0, &[A20]), Effect::None));
        assert!(matches!(port.write(0, &[FAST_RESET]), Effect::Guest(GuestEvent::Reset)));
        assert!(matches!(port.write(0, &[FAST_RESET]), Effect::None));
        port.reset();
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(data, [A20]);
    }

    #[test]
    fn the_keyboard_controller_resets_on_its_command_only() {
        assert!(matches!(KeyboardReset.write(0, &[0xfe]), Effect::Guest(GuestEvent::Reset)));
        assert!(matches!(KeyboardReset.write(0, &[0xaa]), Effect::None));
    }
}

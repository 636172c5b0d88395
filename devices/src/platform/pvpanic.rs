//! pvpanic: the guest's kernel says that it has panicked (QEMU's docs/specs/pvpanic).
//!
//! One port. A read says which events are understood; a write reports them:
//! bit 0 panicked, bit 1 crash kernel loaded (the guest goes on, to write its dump).

use crate::bus::{Effect, GuestEvent, Region};

/// The port, as the DSDT declares it.
pub const PORT: u64 = 0x505;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// The port.
pub struct PvPanic;

impl Region for PvPanic {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
        data[0] = PANICKED | CRASH_LOADED;
    }

    fn write(&self, _: u64, data: &[u8]) -> Effect {
        if data[0] & PANICKED != 0 {
            Effect::Guest(GuestEvent::Panicked)
        } else if data[0] & CRASH_LOADED != 0 {
            Effect::Guest(GuestEvent::CrashLoaded)
        } else {
            Effect::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        assert!(matches!(PvPanic.write(0, &[1]), Effect::Guest(GuestEvent::Panicked)));
        assert!(matches!(PvPanic.write(0, &[2]), Effect::Guest(GuestEvent::CrashLoaded)));
        assert!(matches!(PvPanic.write(0, &[4]), Effect::None));
    }
}

//! ACPI power-management block (ACPI 6.5 §4.8.3, ICH9 datasheet §13.8.3): power button, sleep
//! states, the 3.579545 MHz timer.
//!
//! ```text
//! +00 PM1_STS  0 timer | 5 global | 8 power button | 10 RTC | 15 wake    (write 1 to clear)
//! +02 PM1_EN   the same bits
//! +04 PM1_CNT  0 SCI_EN (reads 1) | 12:10 SLP_TYP | 13 SLP_EN (write-only)
//! +08 PM_TMR   24 bits, read-only
//! +20 GPE0_STS, 8 bytes (write 1 to clear)    +28 GPE0_EN, 8 bytes
//! +30 SMI_EN   GBL_SMI_EN off, APMC_EN set: firmware takes SMM for already set up
//! ```
//! The SCI is level-triggered. S5 is SLP_TYP 0: what firmware writes to power off. Left out: other
//! sleep states, the timer's carry status (the machine's timer is never waited for that way), TCO.

use std::sync::{Arc, Mutex, MutexGuard};

use super::Clock;
use crate::bus::{Effect, GuestEvent, Region};
use crate::irq::IrqLine;

/// Length of the block in ports.
pub const LEN: u64 = 128;
/// Where GPE0 starts in the block.
pub const GPE0: u64 = 0x20;
/// Length of the GPE0 status and enable registers together.
pub const GPE0_LEN: u64 = 16;
/// The SLP_TYP value of S5.
pub const SLP_TYP_S5: u8 = 0;

const PM1_STS: usize = 0;
const PM1_EN: usize = 2;
const PM1_CNT: usize = 4;
const PM_TMR: usize = 8;
const GPE0_EN: usize = GPE0 as usize + 8;
const SMI_EN: usize = 0x30;

const POWER_BUTTON: u16 = 1 << 8;
const STATUS_BITS: u16 = 0x8531;
const ENABLE_BITS: u16 = 0x0521;
const SCI_EN: u16 = 1;
const SLP_EN: u16 = 1 << 13;
const SLP_TYP_SHIFT: u32 = 10;
const CONTROL_BITS: u16 = 0x1c06;
const SMI_EN_VALUE: u32 = 0x20;
const TIMER_HZ: u128 = 3_579_545;
const TIMER_MASK: u32 = 0x00ff_ffff;

/// The block's registers.
pub struct PowerManagement {
    sci: Arc<dyn IrqLine>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: [u8; 8],
    gpe_enable: [u8; 8],
    /// The button was pressed while the guest did not listen for it.
    unheard: bool,
}

impl PowerManagement {
    /// A block that raises `sci`, its timer driven by `clock` (monotonic).
    pub fn new(sci: Arc<dyn IrqLine>, clock: Clock) -> PowerManagement {
        PowerManagement { sci, clock, state: Mutex::default() }
    }

    /// Presses the power button. Answers whether the guest listens for it now; if not yet, it will
    /// see the press when it does, even if it clears the status before, as kernels do.
    pub fn press_power_button(&self) -> bool {
        let mut state = self.lock();
        state.status |= POWER_BUTTON;
        state.unheard = state.enable & POWER_BUTTON == 0;
        self.drive(&state);
        !state.unheard
    }

    /// Back to the state after power-on.
    pub fn reset(&self) {
        let mut state = self.lock();
        *state = State::default();
        self.drive(&state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the block's lock is never held in a panic")
    }

    fn drive(&self, state: &State) {
        let gpe = state.gpe_status.iter().zip(state.gpe_enable).any(|(s, e)| s & e != 0);
        self.sci.set(gpe || state.status & state.enable & ENABLE_BITS != 0);
    }

    /// The block's bytes from 0 to 0x37, as a read sees them.
    fn image(&self, state: &State) -> [u8; 0x38] {
        let mut image = [0; 0x38];
        let ticks = (self.clock)().as_nanos() * TIMER_HZ / 1_000_000_000;
        let control = state.control | SCI_EN;
        image[PM1_STS..PM1_STS + 2].copy_from_slice(&state.status.to_le_bytes());
        image[PM1_EN..PM1_EN + 2].copy_from_slice(&state.enable.to_le_bytes());
        image[PM1_CNT..PM1_CNT + 2].copy_from_slice(&control.to_le_bytes());
        image[PM_TMR..PM_TMR + 4].copy_from_slice(&(ticks as u32 & TIMER_MASK).to_le_bytes());
        image[GPE0 as usize..GPE0_EN].copy_from_slice(&state.gpe_status);
        image[GPE0_EN..GPE0_EN + 8].copy_from_slice(&state.gpe_enable);
        image[SMI_EN..SMI_EN + 4].copy_from_slice(&SMI_EN_VALUE.to_le_bytes());
        image
    }
}

impl Region for PowerManagement {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let image = self.image(&self.lock());
        for (byte, at) in data.iter_mut().zip(offset as usize..) {
            *byte = image.get(at).copied().unwrap_or(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut state = self.lock();
        let mut effect = Effect::None;
        for (byte, at) in data.iter().zip(offset as usize..) {
            let shifted = |register: usize| u16::from(*byte) << (8 * (at - register));
            let mask = |register: usize| !(0xff << (8 * (at - register)));
            match at {
                PM1_STS..PM1_EN => state.status &= !(shifted(PM1_STS) & STATUS_BITS),
                PM1_EN..PM1_CNT => {
                    state.enable = (state.enable & mask(PM1_EN) | shifted(PM1_EN)) & ENABLE_BITS;
                    if state.unheard && state.enable & POWER_BUTTON != 0 {
                        state.unheard = false;
                        state.status |= POWER_BUTTON;
                    }
                }
                PM1_CNT..0x06 => {
                    let control = state.control & mask(PM1_CNT) | shifted(PM1_CNT);
                    state.control = control & CONTROL_BITS;
                    let typ = (control >> SLP_TYP_SHIFT & 7) as u8;
                    if control & SLP_EN != 0 && typ == SLP_TYP_S5 {
                        effect = Effect::Guest(GuestEvent::PowerOff);
                    }
                }
                0x20..GPE0_EN => state.gpe_status[at - GPE0 as usize] &= !byte,
                GPE0_EN..SMI_EN => state.gpe_enable[at - GPE0_EN] = *byte,
                _ => {}
            }
        }
        self.drive(&state);
        effect
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::irq::RecordingLine;

    fn block(elapsed: Duration) -> (PowerManagement, Arc<RecordingLine>) {
        let line = Arc::new(RecordingLine::default());
        (PowerManagement::new(line.clone(), Box::new(move || elapsed)), line)
    }

    fn word(pm: &PowerManagement, offset: u64) -> u16 {
        let mut data = [0; 2];
        pm.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    fn level(line: &RecordingLine) -> bool {
        line.0.lock().unwrap().last().copied().unwrap_or(false)
    }

    #[test]
    fn the_power_button_raises_the_sci_until_acknowledged() {
        let (pm, line) = block(Duration::ZERO);
        assert!(!pm.press_power_button());
        assert!(!level(&line), "not before it is enabled");
        pm.write(PM1_EN as u64, &POWER_BUTTON.to_le_bytes());
        assert!(level(&line));
        assert_eq!(word(&pm, 0), POWER_BUTTON);
        pm.write(0, &POWER_BUTTON.to_le_bytes());
        assert!(!level(&line));
        assert_eq!(word(&pm, 0), 0);
        assert!(pm.press_power_button());
        pm.reset();
        assert!(!level(&line));
    }

    #[test]
    fn a_press_that_nobody_heard_is_heard_later() {
        let (pm, line) = block(Duration::ZERO);
        assert!(!pm.press_power_button());
        pm.write(0, &0xffffu16.to_le_bytes());
        assert_eq!(word(&pm, 0), 0, "kernels clear all status bits first");
        pm.write(PM1_EN as u64, &POWER_BUTTON.to_le_bytes());
        assert!(level(&line));
        pm.write(0, &POWER_BUTTON.to_le_bytes());
        pm.write(PM1_EN as u64, &POWER_BUTTON.to_le_bytes());
        assert!(!level(&line), "once");
    }

    #[test]
    fn s5_powers_off_and_other_states_do_not() {
        let (pm, _) = block(Duration::ZERO);
        assert!(matches!(pm.write(4, &(1u16 << 10 | SLP_EN).to_le_bytes()), Effect::None));
        assert!(matches!(pm.write(4, &SCI_EN.to_le_bytes()), Effect::None));
        let effect = pm.write(4, &SLP_EN.to_le_bytes());
        assert!(matches!(effect, Effect::Guest(GuestEvent::PowerOff)));
        assert_eq!(word(&pm, 4), SCI_EN, "SLP_EN reads zero");
        assert!(matches!(pm.write(5, &[0x20]), Effect::Guest(GuestEvent::PowerOff)));
    }

    #[test]
    fn the_timer_counts_24_bits() {
        let (pm, _) = block(Duration::from_secs(5));
        let mut data = [0; 4];
        pm.read(8, &mut data);
        assert_eq!(u32::from_le_bytes(data), (5 * 3_579_545) & TIMER_MASK);
        pm.write(8, &[0; 4]);
        pm.read(8, &mut data);
        assert_ne!(u32::from_le_bytes(data), 0);
    }

    #[test]
    fn firmware_finds_smm_already_set_up() {
        let (pm, _) = block(Duration::ZERO);
        assert_eq!(word(&pm, 0x30), 0x20);
    }

    #[test]
    fn any_access_of_any_width_is_harmless() {
        let (pm, _) = block(Duration::MAX);
        for offset in 0..LEN {
            for len in [1, 2, 4, 8] {
                let mut data = [0xff; 8];
                pm.write(offset, &data[..len]);
                pm.read(offset, &mut data[..len]);
            }
        }
    }
}

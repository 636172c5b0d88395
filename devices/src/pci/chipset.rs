//! The two functions every Q35 board has: the host bridge (MCH) at 00:00.0 and the LPC bridge
//! (ICH9) at 00:1f.0. Both are byte storage, but for the registers that move something: PCIEXBAR
//! (where the ECAM window is), PMBASE and ACPI_CNTL (where the power-management block is).
//!
//! Sources: Intel 3 Series Express Chipset datasheet §5, Intel ICH9 datasheet §13. Left out: PAM
//! and SMRAM effects (0xC0000 to 0xFFFFF is always RAM), PCI interrupt routing (there is no INTx).

use std::sync::Arc;

use super::{ConfigSpace, Identity, PciDevice, Register};
use crate::bus::{Effect, Movable};

/// PCIEXBAR, 8 bytes: bit 0 enable, 2:1 length, 35:28 base.
pub const PCIEXBAR: usize = 0x60;
/// PMBASE, 4 bytes: 15:7 base, bit 0 set (I/O space).
pub const PMBASE: usize = 0x40;
/// ACPI_CNTL: bit 7 enables the block at PMBASE.
pub const ACPI_CNTL: usize = 0x44;
/// ACPI_CNTL's enable bit.
pub const ACPI_EN: u8 = 1 << 7;

const SUBSYSTEM_VENDOR: u16 = 0x1af4;
/// Firmware takes the board for a virtual one by this, and then asks fw_cfg.
const SUBSYSTEM: u16 = 0x1100;

/// Intel Q35 memory controller hub.
pub struct HostBridge {
    ecam: Arc<Movable>,
}

impl HostBridge {
    /// The bridge, which moves `ecam`.
    pub fn new(ecam: Arc<Movable>) -> HostBridge {
        HostBridge { ecam }
    }
}

impl PciDevice for HostBridge {
    fn identity(&self) -> Identity {
        Identity {
            vendor: 0x8086,
            device: 0x29c0,
            revision: 0,
            class: 0x06_0000,
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: SUBSYSTEM,
        }
    }

    fn registers(&self) -> Vec<Register> {
        vec![
            register(PCIEXBAR as u8, &[0; 8], &[0x07, 0, 0, 0xf0, 0x0f, 0, 0, 0]),
            // PAM0 to PAM6: how 0xC0000 to 0xFFFFF is shadowed; stored for firmware to read back.
            register(0x90, &[0; 7], &[0xff; 7]),
            // SMRAM, ESMRAMC.
            register(0x9d, &[0x02, 0x38], &[0xff; 2]),
        ]
    }

    fn registers_written(&self, space: &ConfigSpace) -> Effect {
        let low = space.dword(PCIEXBAR);
        let high = space.dword(PCIEXBAR + 4);
        // Length 0 is 256 MiB, the only one there is; above 4 GiB is outside our memory map.
        let on = low & 7 == 1 && high == 0 && low >> 28 >= 8;
        moved(&self.ecam, on.then_some(u64::from(low & 0xf000_0000)))
    }
}

/// Intel ICH9 LPC interface bridge.
pub struct Lpc {
    pm: Arc<Movable>,
}

impl Lpc {
    /// The bridge, which moves the power-management block `pm`.
    pub fn new(pm: Arc<Movable>) -> Lpc {
        Lpc { pm }
    }
}

impl PciDevice for Lpc {
    fn identity(&self) -> Identity {
        Identity {
            vendor: 0x8086,
            device: 0x2918,
            revision: 2,
            class: 0x06_0100,
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: SUBSYSTEM,
        }
    }

    fn multi_function(&self) -> bool {
        true
    }

    fn registers(&self) -> Vec<Register> {
        vec![
            register(PMBASE as u8, &[1, 0, 0, 0], &[0x80, 0xff, 0, 0]),
            register(ACPI_CNTL as u8, &[0], &[0x87]),
            // PIRQA to PIRQH routing: disabled.
            register(0x60, &[0x80; 4], &[0x8f; 4]),
            register(0x68, &[0x80; 4], &[0x8f; 4]),
            register(0xa0, &[0; 8], &[0xff; 8]),
            // RCBA.
            register(0xf0, &[0; 4], &[0x01, 0xc0, 0xff, 0xff]),
        ]
    }

    fn registers_written(&self, space: &ConfigSpace) -> Effect {
        let base = u64::from(space.word(PMBASE) & 0xff80);
        let on = space.byte(ACPI_CNTL) & ACPI_EN != 0 && base != 0;
        moved(&self.pm, on.then_some(base))
    }
}

fn register(offset: u8, value: &[u8], writable: &[u8]) -> Register {
    Register { offset, value: value.to_vec(), writable: writable.to_vec() }
}

fn moved(block: &Arc<Movable>, to: Option<u64>) -> Effect {
    if block.want(to) { Effect::Move(vec![block.clone()]) } else { Effect::None }
}

//! PCI Express: functions, their configuration space, and the bridge that leads to them.

use std::sync::Arc;

use crate::bus::{Doorbell, Effect, MemorySlot};

pub mod chipset;
pub mod config;
pub mod function;
pub mod msix;
pub mod root;

pub use config::ConfigSpace;

/// Bus 0's device and function number (PCI 3.0 §3.2.2.3.2); there is no other bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl Slot {
    /// Function 0 of `device`.
    pub const fn device(device: u8) -> Slot {
        Slot { device, function: 0 }
    }
}

/// Who a function is (PCI 3.0 §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class, subclass and programming interface, as 0xCCSSPP.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// A 32-bit memory BAR. The machine has no other kind: platform rules keep everything below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarSpec {
    /// Which BAR, 0 to 5.
    pub index: usize,
    /// Size in bytes; a power of two, at least 4096.
    pub size: u32,
    /// Reads have no side effects.
    pub prefetchable: bool,
}

/// An entry of the capability list, without its two header bytes (id and next pointer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Capability ID.
    pub id: u8,
    /// What follows the header.
    pub body: Vec<u8>,
    /// Which bits of `body` the guest may write; as long as `body`, or empty for none.
    pub writable: Vec<u8>,
}

/// A register in the device-specific part of configuration space, 0x40 and up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Offset in configuration space.
    pub offset: u8,
    /// Value after reset.
    pub value: Vec<u8>,
    /// Which bits the guest may write; as long as `value`.
    pub writable: Vec<u8>,
}

/// A PCI function. It declares what it is; configuration space is emulated for it.
pub trait PciDevice: Send + Sync {
    /// Who it is.
    fn identity(&self) -> Identity;
    /// Its BARs.
    fn bars(&self) -> Vec<BarSpec> {
        Vec::new()
    }
    /// Its capabilities, but for MSI-X, which is made from [`PciDevice::msix`].
    fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }
    /// Its MSI-X table, if it has vectors.
    fn msix(&self) -> Option<MsixPlace> {
        None
    }
    /// Writes in a BAR that only signal an eventfd.
    fn doorbells(&self, _bar: usize) -> Vec<Doorbell> {
        Vec::new()
    }
    /// The memory that a BAR consists of; `None` for registers. Its accesses come to `read_bar` and
    /// `write_bar` only where the memory cannot be placed.
    fn memory(&self, _bar: usize) -> Option<Arc<dyn MemorySlot>> {
        None
    }
    /// Reads 1, 2, 4 or 8 bytes of a BAR; never of the MSI-X table.
    fn read_bar(&self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    /// Writes 1, 2, 4 or 8 bytes of a BAR; never of the MSI-X table.
    fn write_bar(&self, _bar: usize, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }
    /// Its own registers in configuration space.
    fn registers(&self) -> Vec<Register> {
        Vec::new()
    }
    /// The guest has written to configuration space from 0x40 up, outside every capability, or
    /// the function was reset.
    fn registers_written(&self, _space: &ConfigSpace) -> Effect {
        Effect::None
    }
    /// A chance to answer a read of capability `index` itself (VIRTIO 1.3 §4.1.4.9's window);
    /// `offset` counts from the start of its body. True: `data` is filled.
    fn read_capability(
        &self,
        _index: usize,
        _body: &[u8],
        _offset: usize,
        _data: &mut [u8],
    ) -> bool {
        false
    }
    /// The guest has written capability `index`; `body` is what it holds now.
    fn capability_written(
        &self,
        _index: usize,
        _body: &[u8],
        _offset: usize,
        _data: &[u8],
    ) -> Effect {
        Effect::None
    }
    /// True: function 0 of a device with several (header type bit 7).
    fn multi_function(&self) -> bool {
        false
    }
    /// Back to the state after power-on. Workers are stopped when it returns.
    fn reset(&self) {}
}

/// Where a function's MSI-X table and pending bits lie.
#[derive(Clone)]
pub struct MsixPlace {
    /// The table.
    pub table: Arc<msix::Msix>,
    /// The BAR that holds both.
    pub bar: usize,
    /// Offset of the table in it: 16 bytes a vector; a multiple of 8.
    pub table_offset: u32,
    /// Offset of the pending bits: 8 bytes for each 64 vectors; a multiple of 8.
    pub pba_offset: u32,
}

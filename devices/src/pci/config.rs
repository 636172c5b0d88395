//! A function's configuration space (PCI 3.0 §6.1): 256 bytes, and which bits of them the guest
//! may write. Pure data: what a write means is [`super::function`]'s matter.
//!
//! ```text
//! 00 vendor  | 02 device      | 04 command | 06 status      | 08 revision | 09 class
//! 0c line    | 0d latency     | 0e header  | 10..28 BARs    | 2c subsystem vendor, id
//! 34 capabilities pointer     | 3c interrupt line, pin      | 40.. capabilities and registers
//! ```

use super::{BarSpec, Identity};

/// Command register offset, and its memory-space enable bit (§6.2.2).
pub const COMMAND: usize = 0x04;
/// Memory-space enable, in the command register.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// I/O, memory, bus master, INTx disable: the bits that are stored.
const COMMAND_WRITABLE: u16 = 0x0407;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const BAR0: usize = 0x10;
const BAR_PREFETCHABLE: u32 = 1 << 3;
const HEADER_MULTI_FUNCTION: u8 = 0x80;
const CAPABILITIES_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

/// Length of the space without PCI Express extended registers.
pub const LEN: usize = 256;
/// Where the device-specific part begins.
pub const FIRST_FREE: usize = 0x40;

/// The registers of one function.
pub struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    reset: [u8; LEN],
    next_capability: usize,
    last_link: usize,
}

impl ConfigSpace {
    /// The standard header of a function of type 0.
    pub fn new(identity: &Identity, multi_function: bool) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; LEN],
            writable: [0; LEN],
            reset: [0; LEN],
            next_capability: FIRST_FREE,
            last_link: CAPABILITIES_POINTER,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x08, &[identity.revision]);
        space.put(0x09, &identity.class.to_le_bytes()[..3]);
        space.put(0x0e, &[if multi_function { HEADER_MULTI_FUNCTION } else { 0 }]);
        space.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.put(0x2e, &identity.subsystem.to_le_bytes());
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        space.writable[INTERRUPT_LINE] = 0xff;
        space
    }

    /// Declares a 32-bit memory BAR: its size is read back by writing all ones (§6.2.5.1).
    pub fn add_bar(&mut self, bar: &BarSpec) {
        assert!(bar.size.is_power_of_two() && bar.size >= 4096 && bar.index < 6, "{bar:?}");
        let at = BAR0 + 4 * bar.index;
        let flags = if bar.prefetchable { BAR_PREFETCHABLE } else { 0 };
        self.put(at, &flags.to_le_bytes());
        self.writable[at..at + 4].copy_from_slice(&(!(bar.size - 1)).to_le_bytes());
    }

    /// Appends a capability (§6.7) and answers where its body starts, two bytes after its header.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.next_capability;
        let end = (at + 2 + body.len()).next_multiple_of(4);
        assert!(end <= LEN, "capabilities exceed configuration space");
        self.put(self.last_link, &[at as u8]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        let status = self.word(0x06) | STATUS_CAPABILITIES;
        self.put(0x06, &status.to_le_bytes());
        self.last_link = at + 1;
        self.next_capability = end;
        at + 2
    }

    /// Sets bytes as after reset, and which of their bits the guest may write.
    pub fn add_register(&mut self, offset: usize, value: &[u8], writable: &[u8]) {
        self.put(offset, value);
        self.writable[offset..offset + writable.len()].copy_from_slice(writable);
    }

    /// Back to the values after reset.
    pub fn reset(&mut self) {
        self.bytes = self.reset;
    }

    /// Reads; beyond the end is all ones, as for a function without extended registers.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        match offset.checked_add(data.len()).and_then(|end| self.bytes.get(offset..end)) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0xff),
        }
    }

    /// Writes the bits that are writable; beyond the end is ignored.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let Some(end) = offset.checked_add(data.len()).filter(|end| *end <= LEN) else { return };
        for (at, new) in (offset..end).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | new & mask;
        }
    }

    /// The machine sets a register as firmware would, past the write mask, until the next reset.
    pub fn preset(&mut self, offset: usize, value: &[u8]) {
        self.bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    /// A byte.
    pub fn byte(&self, offset: usize) -> u8 {
        self.bytes[offset]
    }

    /// Two bytes, little-endian.
    pub fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// Four bytes, little-endian.
    pub fn dword(&self, offset: usize) -> u32 {
        u32::from(self.word(offset)) | u32::from(self.word(offset + 2)) << 16
    }

    /// Some bytes; the range is the caller's own and inside the space.
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        &self.bytes[offset..offset + len]
    }

    /// Where the guest has put BAR `index`: `None` while memory decoding is off.
    pub fn bar_address(&self, index: usize) -> Option<u32> {
        let enabled = self.word(COMMAND) & COMMAND_MEMORY != 0;
        enabled.then(|| self.dword(BAR0 + 4 * index) & !0xf)
    }

    /// Puts BAR `index` at `address`, as firmware would.
    pub fn preset_bar(&mut self, index: usize, address: u32) {
        let at = BAR0 + 4 * index;
        let flags = self.dword(at) & 0xf;
        self.preset(at, &(address | flags).to_le_bytes());
    }

    fn put(&mut self, offset: usize, value: &[u8]) {
        self.bytes[offset..offset + value.len()].copy_from_slice(value);
        self.reset[offset..offset + value.len()].copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x010000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let mut space = ConfigSpace::new(&identity, false);
        space.add_bar(&BarSpec { index: 1, size: 0x8000, prefetchable: false });
        space
    }

    #[test]
    fn identity_is_read_only() {
        let mut space = space();
        for offset in 0..LEN {
            space.write(offset, &[0xff]);
        }
        assert_eq!(space.dword(0), 0x1042_1af4);
        assert_eq!(space.dword(8), 0x0100_0001);
        assert_eq!(space.word(COMMAND), COMMAND_WRITABLE);
    }

    #[test]
    fn a_bar_tells_its_size_and_keeps_its_address() {
        let mut space = space();
        space.write(0x14, &[0xff; 4]);
        assert_eq!(space.dword(0x14), 0xffff_8000);
        assert_eq!(space.bar_address(1), None);
        space.write(0x14, &0x9000_1234u32.to_le_bytes());
        space.write(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        assert_eq!(space.bar_address(1), Some(0x9000_0000));
        space.write(0x10, &[0xff; 4]);
        assert_eq!(space.dword(0x10), 0, "an absent BAR reads zero");
        space.reset();
        assert_eq!(space.dword(0x14), 0);
    }

    #[test]
    fn capabilities_are_linked_and_masked() {
        let mut space = space();
        let first = space.add_capability(0x09, &[1, 2, 3], &[]);
        let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]);
        assert_eq!((space.byte(0x34), first, second), (0x40, 0x42, 0x4a));
        assert_eq!((space.byte(0x40), space.byte(0x41), space.byte(0x49)), (0x09, 0x48, 0));
        assert_eq!(space.word(6) & STATUS_CAPABILITIES, STATUS_CAPABILITIES);
        space.write(second, &[0xff, 0xff, 0xff]);
        assert_eq!(space.bytes(second, 3), [0, 0xc0, 0]);
    }

    #[test]
    fn accesses_across_the_end_are_harmless() {
        let mut space = space();
        let mut data = [0; 4];
        for offset in [253, 256, 0xfff, usize::MAX] {
            space.write(offset, &[0; 4]);
            space.read(offset, &mut data);
            assert_eq!(data, [0xff; 4]);
        }
    }
}

//! Who gets which slot and address. Slots are by kind, so that adding a disk does not rename a
//! network interface in the guest; addresses are handed out from the start of the PCI window.

use devices::pci::Slot;

use super::layout;

/// The host bridge.
pub const HOST_BRIDGE: Slot = Slot::device(0);
/// The display adapter.
pub const DISPLAY: Slot = Slot::device(1);
/// The entropy device.
pub const RNG: Slot = Slot::device(2);
/// The virtio keyboard.
pub const KEYBOARD: Slot = Slot::device(3);
/// The virtio tablet.
pub const TABLET: Slot = Slot::device(4);
/// The memory balloon.
pub const BALLOON: Slot = Slot::device(5);
/// The sockets between host and guest.
pub const VSOCK: Slot = Slot::device(9);
/// The LPC bridge.
pub const LPC: Slot = Slot::device(31);
const NICS: std::ops::Range<u8> = 6..9;
const DISKS: std::ops::Range<u8> = 10..31;

/// The most network interfaces.
pub const NICS_MAX: usize = (NICS.end - NICS.start) as usize;
/// The most disks.
pub const DISKS_MAX: usize = (DISKS.end - DISKS.start) as usize;

/// The slot of network interface `index`, below [`NICS_MAX`].
pub fn nic(index: usize) -> Slot {
    Slot::device(NICS.start + index as u8)
}

/// The slot of disk `index`, below [`DISKS_MAX`].
pub fn disk(index: usize) -> Slot {
    Slot::device(DISKS.start + index as u8)
}

/// Hands out BAR addresses, upwards.
pub struct BarAddresses {
    next: u64,
}

impl Default for BarAddresses {
    fn default() -> BarAddresses {
        BarAddresses { next: layout::PCI_WINDOW }
    }
}

impl BarAddresses {
    /// A naturally aligned place for `size` bytes below the ECAM window, if there is room.
    pub fn place(&mut self, size: u32) -> Option<u32> {
        let at = self.next.next_multiple_of(size.into());
        let end = at + u64::from(size);
        if end > layout::ECAM {
            return None;
        }
        self.next = end;
        u32::try_from(at).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_aligned_disjoint_and_end_with_the_window() {
        let mut addresses = BarAddresses::default();
        assert_eq!(addresses.place(0x8000), Some(0x8000_0000));
        assert_eq!(addresses.place(0x100_0000), Some(0x8100_0000));
        assert_eq!(addresses.place(0x1000), Some(0x8200_0000));
        assert_eq!(addresses.place(0x8000_0000), None);
        assert_eq!(addresses.place(0x1000), Some(0x8200_1000));
    }

    #[test]
    fn no_slot_is_given_twice() {
        let mut slots = vec![HOST_BRIDGE, DISPLAY, RNG, KEYBOARD, TABLET, BALLOON, VSOCK, LPC];
        slots.extend((0..NICS_MAX).map(nic));
        slots.extend((0..DISKS_MAX).map(disk));
        let count = slots.len();
        slots.sort();
        slots.dedup();
        assert_eq!(slots.len(), count);
    }
}

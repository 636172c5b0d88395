//! Where the structures lie in the BAR, and the capabilities that say so (VIRTIO 1.3 §4.1.4).
//!
//! ```text
//! 0x0000 common configuration      0x3000 notifications: queue n at 4 n
//! 0x1000 ISR                       0x4000 MSI-X table
//! 0x2000 device configuration      0x7000 MSI-X pending bits
//! ```

use super::common::COMMON_LEN;
use crate::pci::{BarSpec, Capability};

/// The one BAR.
pub const BAR: BarSpec = BarSpec { index: 0, size: 0x8000, prefetchable: false };

/// Common configuration.
pub const COMMON: u64 = 0x0000;
/// ISR.
pub const ISR: u64 = 0x1000;
/// Device configuration.
pub const DEVICE: u64 = 0x2000;
/// Notifications.
pub const NOTIFY: u64 = 0x3000;
/// MSI-X table.
pub const MSIX_TABLE: u64 = 0x4000;
/// MSI-X pending bits.
pub const MSIX_PBA: u64 = 0x7000;
/// Length of a structure's page.
pub const PAGE: u64 = 0x1000;

/// Bytes from one queue's notification address to the next's.
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// So many queues have room for notification and vector.
pub const MAX_QUEUES: usize = ((MSIX_PBA - MSIX_TABLE) / 16) as usize - 1;

/// Vendor-specific (PCI 3.0 appendix H).
const CAP_VENDOR: u8 = 0x09;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Position of the pci-cfg window in [`capabilities`].
pub const WINDOW: usize = 4;

/// Offsets in a capability's body, which starts after id and next pointer.
const BODY_BAR: usize = 2;
const BODY_OFFSET: usize = 6;
const BODY_LENGTH: usize = 10;
/// What the pci-cfg window shows.
const BODY_DATA: usize = 14;
const WINDOW_BODY: usize = 18;

/// The five capabilities, for a device of `queues` queues.
pub fn capabilities(queues: usize) -> Vec<Capability> {
    let notify_len = queues as u64 * u64::from(NOTIFY_MULTIPLIER);
    let mut notify = body(CFG_NOTIFY, NOTIFY, notify_len);
    notify.extend(NOTIFY_MULTIPLIER.to_le_bytes());
    let mut window = body(CFG_PCI, 0, 0);
    window.resize(WINDOW_BODY, 0);
    let mut writable = vec![0; WINDOW_BODY];
    writable[BODY_BAR] = 0xff;
    writable[BODY_OFFSET..].fill(0xff);
    let bodies = [
        (body(CFG_COMMON, COMMON, COMMON_LEN as u64), vec![]),
        (notify, vec![]),
        (body(CFG_ISR, ISR, 1), vec![]),
        (body(CFG_DEVICE, DEVICE, PAGE), vec![]),
        (window, writable),
    ];
    bodies
        .into_iter()
        .map(|(mut body, writable)| {
            // cap_len covers the header too.
            body[0] = body.len() as u8 + 2;
            Capability { id: CAP_VENDOR, body, writable }
        })
        .collect()
}

fn body(cfg_type: u8, offset: u64, length: u64) -> Vec<u8> {
    let mut body = vec![0, cfg_type, BAR.index as u8, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((length as u32).to_le_bytes());
    body
}

/// An access through the pci-cfg window (§4.1.4.9).
#[derive(Debug, PartialEq, Eq)]
pub struct WindowAccess {
    /// Offset in the BAR.
    pub offset: u64,
    /// 1, 2 or 4 bytes.
    pub len: usize,
    /// What the window holds.
    pub data: [u8; 4],
}

impl WindowAccess {
    /// What an access of `len` bytes at `offset` of the window's `body` comes to; `None` when it
    /// leaves the data alone, or the driver has set the window up wrongly.
    pub fn of(body: &[u8], offset: usize, len: usize) -> Option<WindowAccess> {
        if offset < BODY_DATA || offset.checked_add(len)? > WINDOW_BODY {
            return None;
        }
        let word = |at: usize| {
            Some(u32::from_le_bytes(body.get(at..at.checked_add(4)?)?.try_into().ok()?))
        };
        let (at, length) = (word(BODY_OFFSET)?, word(BODY_LENGTH)?);
        let sound = matches!(length, 1 | 2 | 4)
            && at % length == 0
            && at.checked_add(length)? <= BAR.size
            && usize::from(*body.get(BODY_BAR)?) == BAR.index;
        let data = word(BODY_DATA)?.to_le_bytes();
        sound.then_some(WindowAccess { offset: at.into(), len: length as usize, data })
    }

    /// Where in the window's data an access at `offset` of the body begins.
    pub fn data_offset(offset: usize) -> usize {
        offset.saturating_sub(BODY_DATA)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_are_as_specified() {
        let caps = capabilities(3);
        let lens: Vec<_> = caps.iter().map(|cap| usize::from(cap.body[0])).collect();
        assert_eq!(lens, [16, 20, 16, 16, 20]);
        assert!(
            caps.iter().all(|cap| cap.id == 9 && cap.body.len() + 2 == usize::from(cap.body[0]))
        );
        let types: Vec<_> = caps.iter().map(|cap| cap.body[1]).collect();
        assert_eq!(types, [1, 2, 3, 4, 5]);
        assert_eq!(caps[1].body, [20, 2, 0, 0, 0, 0, 0, 0x30, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(caps[WINDOW].writable.len(), caps[WINDOW].body.len());
    }

    #[test]
    fn a_window_set_up_wrongly_shows_nothing() {
        let window = |bar: u8, offset: u32, length: u32| {
            let mut body = capabilities(1)[WINDOW].body.clone();
            body[BODY_BAR] = bar;
            body[BODY_OFFSET..BODY_LENGTH].copy_from_slice(&offset.to_le_bytes());
            body[BODY_LENGTH..BODY_DATA].copy_from_slice(&length.to_le_bytes());
            WindowAccess::of(&body, BODY_DATA, 4)
        };
        assert_eq!(window(0, 4, 4), Some(WindowAccess { offset: 4, len: 4, data: [0; 4] }));
        for (bar, offset, length) in [
            (1, 4, 4),
            (0, 2, 4),
            (0, 4, 3),
            (0, 4, 8),
            (0, 0, 0),
            (0, BAR.size, 1),
            (0, u32::MAX, 1),
            (0, u32::MAX - 3, 4),
        ] {
            assert_eq!(window(bar, offset, length), None, "{bar} {offset:#x} {length}");
        }
        assert_eq!(WindowAccess::of(&[], BODY_DATA, 4), None);
        assert_eq!(WindowAccess::of(&capabilities(1)[WINDOW].body, usize::MAX, 4), None);
        assert_eq!(WindowAccess::of(&capabilities(1)[WINDOW].body, BODY_LENGTH, 4), None);
    }
}

//! The clusters of persistent dirty bitmaps (QEMU `docs/interop/qcow2.txt`, "Bitmaps"), counted.
//!
//! Bitmaps are neither read nor kept up. They belong to the image as long as their autoclear bit is
//! set, which the first write of ours clears; what they lay in is a leak from then on.

use super::super::{BlockError, Fault};
use super::check::{Walk, read_table};

/// Longest bitmap directory, bytes.
const MAX_DIRECTORY: u64 = 16 << 20;
/// Most bitmap table entries that are followed, of all bitmaps.
const MAX_ENTRIES: u64 = 4 << 20;
/// Bits 9 to 55 of a bitmap table entry: an offset. The others say what its bits are without one.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The bitmaps header extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bitmaps {
    pub count: u32,
    /// Of the directory, bytes.
    pub offset: u64,
    pub len: u64,
}

fn number(bytes: &[u8], from: usize, len: usize) -> u64 {
    let field = bytes.get(from..from + len).unwrap_or_default();
    field.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Bitmaps {
    /// Parses the extension's body; `None` if it is short.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let count = u32::try_from(number(body, 0, 4)).ok()?;
        (body.len() >= 24).then(|| Self {
            count,
            len: number(body, 8, 8),
            offset: number(body, 16, 8),
        })
    }
}

impl Walk<'_> {
    /// Counts the bitmap directory, the tables it names, and the clusters they name.
    pub(super) fn count_bitmaps(&mut self) -> Result<(), Fault> {
        let Some(bitmaps) = self.header.bitmaps else { return Ok(()) };
        let damaged = || BlockError::Corrupt("the bitmap directory is not valid".into());
        let end = bitmaps.offset.checked_add(bitmaps.len);
        let inside = end.is_some_and(|end| end <= self.len.next_multiple_of(8));
        if !inside || bitmaps.len > MAX_DIRECTORY || self.g.within(bitmaps.offset) != 0 {
            return Err(damaged().into());
        }
        let mut directory = vec![0; bitmaps.len as usize];
        self.file.read(&mut directory, bitmaps.offset)?;
        self.count(bitmaps.offset, bitmaps.len, 1)?;
        let (mut at, mut followed) = (0, 0);
        for _ in 0..bitmaps.count {
            // Offset and length of the table; lengths of the name at 18 and the extra data at 20;
            // then extra data and name, padded to 8 bytes.
            let entry = directory.get(at..).filter(|rest| rest.len() >= 24).ok_or_else(damaged)?;
            let (offset, entries) = (number(entry, 0, 8), number(entry, 8, 4));
            let rest = number(entry, 18, 2) + number(entry, 20, 4);
            at = at.saturating_add((24 + rest).next_multiple_of(8) as usize);
            followed += entries;
            if followed > MAX_ENTRIES || self.g.within(offset) != 0 {
                return Err(damaged().into());
            }
            self.count(offset, entries * 8, 1)?;
            for entry in read_table(self.file, offset, entries, self.len)? {
                if entry & OFFSET != 0 {
                    self.count(entry & OFFSET, self.g.cluster(), 1)?;
                }
            }
        }
        Ok(())
    }
}

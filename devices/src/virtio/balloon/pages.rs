//! Pages on their way back to the host: those that the driver numbers, and those that it describes.
//!
//! Both come from the guest, and may be outside RAM, in each other, or many. Numbers are sorted and
//! joined to ranges, so that a balloon of scattered pages costs few system calls; what is not RAM is
//! counted as malformed. Of one chain a bounded number is looked at: the rest stays where it is.

use std::sync::atomic::{AtomicU64, Ordering};

use super::PAGE;
use super::control::Control;
use crate::mem::{GuestAddress, GuestMemoryBackend, GuestRam, Reclaim, VolatileSlice};
use crate::virtio::buffers::Buffers;
use crate::virtio::throttle::Throttle;

/// Numbers read at a time: what Linux puts into one chain.
const BATCH: usize = 256;
/// Numbers of one chain that are looked at: 16 MiB of pages.
const NUMBERS_MAX: usize = 16 * BATCH;

static FAILURES: Throttle = Throttle::new();

/// Gives pages back.
pub(super) struct Pages<'m> {
    pub(super) memory: &'m GuestRam,
    pub(super) reclaim: &'m dyn Reclaim,
    pub(super) control: &'m Control,
    pub(super) malformed: &'m AtomicU64,
}

impl Pages<'_> {
    /// Gives back the pages whose numbers are in `buffers`.
    pub(super) fn numbered(&self, buffers: &mut Buffers<'_>) {
        let mut left = NUMBERS_MAX;
        let mut given = 0_u64;
        while left > 0 && !buffers.is_empty() {
            let mut numbers = [0_u32; BATCH];
            let mut count = 0;
            for number in numbers.iter_mut().take(left) {
                let mut bytes = [0; 4];
                if buffers.read(&mut bytes).is_none() {
                    break;
                }
                *number = u32::from_le_bytes(bytes);
                count += 1;
            }
            let Some(numbers) = numbers.get_mut(..count).filter(|some| !some.is_empty()) else {
                break;
            };
            left -= count;
            numbers.sort_unstable();
            for (first, pages) in runs(numbers) {
                given = given.saturating_add(self.range(u64::from(first) * PAGE, pages * PAGE));
            }
        }
        self.control.count_inflated(given);
    }

    /// Gives back what `buffers` themselves are.
    pub(super) fn described(&self, buffers: &Buffers<'_>) {
        let given = buffers.pieces().iter().map(|piece| self.piece(piece));
        self.control.count_reported(given.fold(0, u64::saturating_add));
    }

    /// Gives back a range of the guest's address space; answers how many bytes it was.
    fn range(&self, at: u64, len: u64) -> u64 {
        let mut given = 0_u64;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        for piece in self.memory.get_slices(GuestAddress(at), len) {
            let Ok(piece) = piece else {
                self.malformed.fetch_add(1, Ordering::Relaxed);
                break;
            };
            given = given.saturating_add(self.piece(&piece));
        }
        given
    }

    fn piece(&self, piece: &VolatileSlice<'_>) -> u64 {
        match self.reclaim.reclaim(piece) {
            Ok(()) => piece.len() as u64,
            Err(error) => {
                self.control.count_failed();
                if FAILURES.allows() {
                    log::warn!("balloon: {} bytes cannot be given back: {error}", piece.len());
                }
                0
            }
        }
    }
}

/// Joins sorted page numbers to ranges: the first page, and how many.
fn runs(sorted: &[u32]) -> impl Iterator<Item = (u32, u64)> {
    sorted.chunk_by(|a, b| b.wrapping_sub(*a) <= 1).filter_map(|run| {
        let (first, last) = (run.first()?, run.last()?);
        Some((*first, u64::from(last.saturating_sub(*first)).saturating_add(1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_equals_are_one_range() {
        let runs: Vec<_> = runs(&[0, 1, 1, 2, 7, 9, 10, u32::MAX]).collect();
        assert_eq!(runs, [(0, 3), (7, 1), (9, 2), (u32::MAX, 1)]);
        assert_eq!(super::runs(&[]).count(), 0);
    }
}

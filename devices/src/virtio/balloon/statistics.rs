//! What the guest says of its memory (VIRTIO 1.3 §5.5.6.5): entries of ten bytes, a tag and a value.

use crate::virtio::buffers::Buffers;

/// Length of struct virtio_balloon_stat.
const ENTRY: usize = 10;
/// Entries that are looked at: far more than there are tags.
const ENTRIES_MAX: usize = 64;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Bytes swapped in since boot.
    SwapIn,
    /// Bytes swapped out since boot.
    SwapOut,
    /// Page faults that needed a disk, since boot.
    MajorFaults,
    /// Page faults that did not, since boot.
    MinorFaults,
    /// Bytes that are not used for anything.
    Free,
    /// Bytes in all.
    Total,
    /// Bytes that programs can have without swapping.
    Available,
    /// Bytes that could be reclaimed at once: mostly file caches.
    Caches,
    /// Processes killed for want of memory, since boot.
    OomKills,
}

impl Statistic {
    /// All that are kept.
    pub const ALL: [Statistic; COUNT] = [
        Statistic::SwapIn,
        Statistic::SwapOut,
        Statistic::MajorFaults,
        Statistic::MinorFaults,
        Statistic::Free,
        Statistic::Total,
        Statistic::Available,
        Statistic::Caches,
        Statistic::OomKills,
    ];

    /// The one with tag `tag`, VIRTIO_BALLOON_S_*.
    fn of_tag(tag: u16) -> Option<Statistic> {
        Some(match tag {
            0 => Statistic::SwapIn,
            1 => Statistic::SwapOut,
            2 => Statistic::MajorFaults,
            3 => Statistic::MinorFaults,
            4 => Statistic::Free,
            5 => Statistic::Total,
            6 => Statistic::Available,
            7 => Statistic::Caches,
            10 => Statistic::OomKills,
            _ => return None,
        })
    }
}

const COUNT: usize = 9;

/// One report. The guest may say anything in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics([Option<u64>; COUNT]);

impl Statistics {
    /// Reads a report. Unknown tags are ignored, and of equal ones the last counts.
    pub(super) fn read(buffers: &mut Buffers<'_>) -> Statistics {
        let mut statistics = Statistics::default();
        for _ in 0..ENTRIES_MAX {
            let mut entry = [0; ENTRY];
            if buffers.read(&mut entry).is_none() {
                break;
            }
            let [t0, t1, value @ ..] = entry;
            statistics.set(u16::from_le_bytes([t0, t1]), u64::from_le_bytes(value));
        }
        statistics
    }

    /// The value, if the guest has told it.
    pub fn get(&self, which: Statistic) -> Option<u64> {
        self.0.get(which as usize).copied().flatten()
    }

    /// The same report with another value.
    #[must_use]
    pub fn with(mut self, which: Statistic, value: u64) -> Statistics {
        if let Some(place) = self.0.get_mut(which as usize) {
            *place = Some(value);
        }
        self
    }

    fn set(&mut self, tag: u16, value: u64) {
        // Linux says all ones for what it cannot tell.
        if let Some(which) = Statistic::of_tag(tag).filter(|_| value != u64::MAX) {
            *self = self.with(which, value);
        }
    }
}

//! What the threads of a network interface have done; rx and tx are seen from the guest.
//!
//! Each pair's thread writes numbers of its own; a reader adds them up. The kernel counts for itself:
//! what it carries is in the interface's own statistics only, and not here.

use super::MAX_PAIRS;
use crate::tally::{Lane, Tally};

/// What was done; shared with whoever reports it.
#[derive(Debug)]
pub struct Counters(Box<[Lane<PairCounters>]>);

/// What one pair's thread has done; only it adds.
#[derive(Debug, Default)]
pub struct PairCounters {
    /// Frames to the guest.
    pub rx: Flow,
    /// Frames from the guest.
    pub tx: Flow,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Flow {
    /// Frames carried.
    pub frames: Tally,
    /// Their bytes, without headers.
    pub bytes: Tally,
    /// Frames that did not fit into the guest's buffers; from the guest, those that were malformed or
    /// that the interface did not take.
    pub dropped: Tally,
}

/// What all pairs have done in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// As in [`Flow`].
    pub frames: u64,
    /// As in [`Flow`].
    pub bytes: u64,
    /// As in [`Flow`].
    pub dropped: u64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters((0..MAX_PAIRS).map(|_| Lane::default()).collect())
    }
}

impl Counters {
    /// Those of pair `number`, below [`MAX_PAIRS`].
    pub fn pair(&self, number: usize) -> &PairCounters {
        &self.0[number % MAX_PAIRS]
    }

    /// What went to the guest.
    pub fn rx(&self) -> Total {
        self.total(|pair| &pair.rx)
    }

    /// What came from the guest.
    pub fn tx(&self) -> Total {
        self.total(|pair| &pair.tx)
    }

    fn total(&self, flow: impl Fn(&PairCounters) -> &Flow) -> Total {
        self.0.iter().fold(Total::default(), |sum, pair| {
            let flow = flow(pair);
            Total {
                frames: sum.frames.wrapping_add(flow.frames.get()),
                bytes: sum.bytes.wrapping_add(flow.bytes.get()),
                dropped: sum.dropped.wrapping_add(flow.dropped.get()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_added_up() {
        let counters = Counters::default();
        for number in [0, 1, MAX_PAIRS - 1] {
            counters.pair(number).rx.frames.add(1);
            counters.pair(number).rx.bytes.add(60);
            counters.pair(number).tx.dropped.add(2);
        }
        assert_eq!(counters.rx(), Total { frames: 3, bytes: 180, dropped: 0 });
        assert_eq!(counters.tx(), Total { frames: 0, bytes: 0, dropped: 6 });
    }
}

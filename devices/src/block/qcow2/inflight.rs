//! What is going on outside the metadata lock: transfers that use host clusters, and writers that
//! are filling new ones.
//!
//! A transfer holds a share in the *epoch* it began in. Clusters that lose their last pointer are
//! collected; a flush closes the epoch over them. They are free when the loss is durable and every
//! share in that epoch and those before it has been given back: no transfer that could have looked
//! them up is left. A share costs one counter, whatever the number of clusters.
//!
//! A writer that allocates *claims* its guest clusters, so that nobody else maps or unmaps them
//! while it writes the new ones. Readers see the old mapping until it is done.

use std::collections::VecDeque;
use std::sync::Arc;

use super::geometry::Run;

/// One stretch of time; transfers hold shares in it.
pub(super) struct Epoch;

/// Clusters that lost their last pointer in one epoch or before.
struct Batch {
    epoch: Arc<Epoch>,
    runs: Vec<Run>,
    durable: bool,
}

/// See the module's text.
pub(super) struct InFlight {
    epoch: Arc<Epoch>,
    unlinked: Vec<Run>,
    batches: VecDeque<Batch>,
    claims: Vec<Run>,
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self {
            epoch: Arc::new(Epoch),
            unlinked: Vec::new(),
            batches: VecDeque::new(),
            claims: Vec::new(),
        }
    }

    /// A share in the present epoch: as long as it lives, what can be looked up now stays in place.
    pub(super) fn share(&self) -> Arc<Epoch> {
        self.epoch.clone()
    }

    /// Notes that host clusters have lost a pointer.
    pub(super) fn unlink(&mut self, run: Run) {
        match self.unlinked.last_mut() {
            Some(last) if last.end() == run.start => last.count += run.count,
            _ => self.unlinked.push(run),
        }
    }

    /// How many runs wait for a flush.
    pub(super) fn unlinked_runs(&self) -> usize {
        self.unlinked.len()
    }

    /// Closes the epoch, at the beginning of a flush. Returns a mark for
    /// [`made_durable`](Self::made_durable).
    pub(super) fn close_epoch(&mut self) -> usize {
        if !self.unlinked.is_empty() {
            let epoch = std::mem::replace(&mut self.epoch, Arc::new(Epoch));
            let runs = std::mem::take(&mut self.unlinked);
            self.batches.push_back(Batch { epoch, runs, durable: false });
        }
        self.batches.len()
    }

    /// A flush went well: what was unlinked when it began is so on disk.
    pub(super) fn made_durable(&mut self, mark: usize) {
        for batch in self.batches.iter_mut().take(mark) {
            batch.durable = true;
        }
    }

    /// Takes the runs that nothing points to and nobody uses any more.
    pub(super) fn take_unused(&mut self) -> Vec<Run> {
        let mut runs = Vec::new();
        while let Some(front) = self.batches.front_mut()
            && front.durable
            && Arc::get_mut(&mut front.epoch).is_some()
        {
            runs.append(&mut front.runs);
            self.batches.pop_front();
        }
        runs
    }

    /// Whether any of the guest clusters is claimed.
    pub(super) fn is_claimed(&self, run: Run) -> bool {
        self.claims.iter().any(|c| c.start < run.end() && run.start < c.end())
    }

    /// Claims guest clusters that are not claimed.
    pub(super) fn claim(&mut self, run: Run) {
        self.claims.push(run);
    }

    /// Gives a claim back.
    pub(super) fn unclaim(&mut self, run: Run) {
        if let Some(at) = self.claims.iter().position(|c| *c == run) {
            self.claims.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, count: u64) -> Run {
        Run { start, count }
    }

    #[test]
    fn clusters_wait_for_the_flush_and_for_the_transfers() {
        let mut inflight = InFlight::new();
        let transfer = inflight.share();
        inflight.unlink(run(5, 1));
        inflight.unlink(run(6, 2));
        let mark = inflight.close_epoch();
        assert!(inflight.take_unused().is_empty());
        inflight.made_durable(mark);
        assert!(inflight.take_unused().is_empty(), "the transfer still runs");
        drop(transfer);
        assert_eq!(inflight.take_unused(), [run(5, 3)]);
    }

    #[test]
    fn an_old_transfer_holds_later_batches_and_a_later_one_holds_no_earlier() {
        let mut inflight = InFlight::new();
        let old = inflight.share();
        inflight.unlink(run(1, 1));
        inflight.close_epoch();
        let young = inflight.share();
        inflight.unlink(run(9, 1));
        let mark = inflight.close_epoch();
        inflight.made_durable(mark);
        assert!(inflight.take_unused().is_empty());
        drop(old);
        assert_eq!(inflight.take_unused(), [run(1, 1)]);
        drop(young);
        assert_eq!(inflight.take_unused(), [run(9, 1)]);
    }

    #[test]
    fn a_failed_flush_leaves_the_batch_to_the_next() {
        let mut inflight = InFlight::new();
        inflight.unlink(run(1, 1));
        inflight.close_epoch();
        inflight.unlink(run(2, 1));
        let mark = inflight.close_epoch();
        inflight.made_durable(mark);
        assert_eq!(inflight.take_unused(), [run(1, 1), run(2, 1)]);
    }

    #[test]
    fn claims_overlap_by_cluster() {
        let mut inflight = InFlight::new();
        inflight.claim(run(10, 5));
        assert!(inflight.is_claimed(run(14, 1)) && inflight.is_claimed(run(0, 11)));
        assert!(!inflight.is_claimed(run(15, 1)) && !inflight.is_claimed(run(9, 1)));
        inflight.unclaim(run(10, 5));
        assert!(!inflight.is_claimed(run(10, 5)));
    }
}

//! Flushing: the levels of `cache.rs`, and giving freed clusters back.
//!
//! One flush at a time; reads, overwrites and allocations go on meanwhile, for the metadata lock is
//! held only to take the snapshot and to put away the result.

use std::sync::{MutexGuard, PoisonError};

use super::super::BlockError;
use super::Qcow2;
use super::cache::{Kind, Taken};
use super::geometry::Run;
use super::map::Meta;

/// Freed runs that make an operation flush before it frees more.
const MAX_UNLINKED: usize = 4096;

/// Proof that no other flush runs. Lock order: this one, then the metadata lock.
pub(super) type FlushGuard<'a> = MutexGuard<'a, ()>;

/// What a flush writes.
struct Snapshot {
    counts: Vec<Taken>,
    tables: Vec<(u64, u64)>,
    links: Vec<Taken>,
    l1: Vec<(u64, u64)>,
    /// The epoch's mark: what was unlinked before.
    unlinked: usize,
}

impl Qcow2 {
    /// Waits for other flushes, and keeps them out.
    pub(super) fn lock_flush(&self) -> FlushGuard<'_> {
        self.flush.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something that a guest's flush must cover is not in the file yet.
    pub(super) fn must_write_metadata(&self) -> bool {
        let meta = self.lock();
        meta.flushing
            || meta.cache.has_dirty_links()
            || !meta.l1.dirty.is_empty()
            || self.image.file.has_failed_to_sync()
    }

    /// Whether changed or freed metadata has piled up so far that it should be flushed.
    pub(super) fn is_crowded(meta: &Meta) -> bool {
        meta.cache.wants_flush() || meta.inflight.unlinked_runs() >= MAX_UNLINKED
    }

    /// Makes everything durable that was set before, then frees what can be freed.
    pub(super) fn flush_locked(&self, guard: &FlushGuard<'_>) -> Result<(), BlockError> {
        let snapshot = {
            let mut meta = self.lock();
            self.image.check_syncable()?;
            meta.flushing = true;
            Snapshot {
                counts: meta.cache.take(Kind::Counts),
                tables: meta.refcounts.take_dirty(),
                links: meta.cache.take(Kind::Links),
                l1: meta.l1.take_dirty(),
                unlinked: meta.inflight.close_epoch(),
            }
        };
        let result = self.write_levels(&snapshot);
        {
            let mut meta = self.lock();
            let well = result.is_ok();
            meta.cache.finish(&snapshot.counts, Kind::Counts, well);
            meta.cache.finish(&snapshot.links, Kind::Links, well);
            if well {
                meta.inflight.made_durable(snapshot.unlinked);
            } else {
                meta.refcounts.put_back(&snapshot.tables);
                meta.l1.put_back(&snapshot.l1);
            }
            meta.flushing = false;
        }
        result?;
        self.free_unused(guard)
    }

    fn write_levels(&self, snapshot: &Snapshot) -> Result<(), BlockError> {
        let pieces = |taken: &[Taken]| taken.iter().try_for_each(|(at, b)| self.put(*at, b));
        let entries = |taken: &[(u64, u64)]| {
            taken.iter().try_for_each(|(at, entry)| self.put(*at, &entry.to_be_bytes()))
        };
        pieces(&snapshot.counts)?;
        let links = !snapshot.links.is_empty() || !snapshot.l1.is_empty();
        if links || !snapshot.tables.is_empty() {
            self.image.file.sync()?;
        }
        if !snapshot.tables.is_empty() {
            entries(&snapshot.tables)?;
            if links {
                self.image.file.sync()?;
            }
        }
        pieces(&snapshot.links)?;
        entries(&snapshot.l1)?;
        self.image.file.sync()
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), BlockError> {
        self.image.file.write(bytes, at)
    }

    /// Gives the space of clusters back that nothing uses any more, and counts them down.
    fn free_unused(&self, _guard: &FlushGuard<'_>) -> Result<(), BlockError> {
        let mut last = Vec::new();
        {
            let mut meta = self.lock();
            let runs = meta.inflight.take_unused();
            for cluster in runs.iter().flat_map(|r| r.start..r.end()) {
                match meta.refcount(&self.image, cluster)? {
                    0 => log::warn!("qcow2: host cluster {cluster} was in use but not counted"),
                    1 => last.push(cluster),
                    more => meta.set_refcount(&self.image, cluster, more - 1)?,
                }
            }
        }
        last.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        for cluster in last {
            match runs.last_mut() {
                Some(run) if run.end() == cluster => run.count += 1,
                // Counted once but used twice: the count was wrong, and freeing is what is left.
                Some(run) if run.end() > cluster => {}
                _ => runs.push(Run { start: cluster, count: 1 }),
            }
        }
        for run in runs {
            // Still counted, so nobody can be given it while its contents go.
            let bits = self.image.geometry.cluster_bits;
            if let Err(error) = self.image.file.punch_hole(run.start << bits, run.count << bits) {
                log::warn!("qcow2: freed space is not given back: {error}");
            }
            self.lock().release(&self.image, run)?;
        }
        Ok(())
    }
}

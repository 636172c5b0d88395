//! Discard and write-zeroes: giving clusters back.
//!
//! A whole cluster becomes a zero cluster in version 3. Version 2 has none: there it is
//! unallocated if that reads as zeroes, else a discard does nothing and a zero writes data. Of a
//! cluster covered in part, a discard leaves everything and a zero writes zeroes, unless the rest of
//! it is zeroes as well. The space comes back with the next flush (`cache.rs`, rule 5).

use super::super::{BlockBackend, BlockError};
use super::Qcow2;
use super::alloc::AllocError;
use super::geometry::{Mapping, Run, ZERO};
use super::map::Meta;

/// Most clusters handled under one hold of the metadata lock.
const MAX_STEP: u64 = 512;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trim {
    /// The contents may go.
    Discard,
    /// The contents must be zeroes.
    Zero,
    /// What has no cluster of its own must be zeroes; the rest stays.
    ZeroUnallocated,
}

impl Qcow2 {
    /// Discards or zeroes a range that has been checked.
    pub(super) fn trim_range(&self, offset: u64, len: u64, trim: Trim) -> Result<(), BlockError> {
        let g = &self.image.geometry;
        let end = offset + len;
        // The disk's last cluster may be partial: all of it is meant when the range ends there.
        let last = if end == self.info().capacity {
            end.div_ceil(g.cluster())
        } else {
            end >> g.cluster_bits
        };
        let first = offset.div_ceil(g.cluster());
        if first >= last {
            return self.zero_part(offset, len, trim);
        }
        let head = (first << g.cluster_bits) - offset;
        self.zero_part(offset, head, trim)?;
        self.trim_clusters(Run { start: first, count: last - first }, trim)?;
        let tail = last << g.cluster_bits;
        self.zero_part(tail.min(end), end.saturating_sub(tail), trim)
    }

    fn zero_part(&self, mut offset: u64, mut len: u64, trim: Trim) -> Result<(), BlockError> {
        let g = &self.image.geometry;
        while trim != Trim::Discard && len > 0 {
            let step = (g.cluster() - g.within(offset)).min(len);
            self.zero_in_cluster(offset, step)?;
            offset += step;
            len -= step;
        }
        Ok(())
    }

    /// Zeroes a range within one cluster.
    fn zero_in_cluster(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.reads_zero(offset, len)? {
            return Ok(());
        }
        let g = &self.image.geometry;
        let (start, end) = (offset - g.within(offset), offset + len);
        let rest = (start + g.cluster()).min(self.info().capacity).saturating_sub(end);
        let whole = self.image.geometry.version >= 3
            && self.reads_zero(start, offset - start)?
            && self.reads_zero(end, rest)?;
        if whole {
            // Only what lies below was looked at, and that never changes. Whoever has written to
            // the cluster since keeps what was written.
            let run = Run { start: start >> g.cluster_bits, count: 1 };
            self.trim_some(run, Trim::ZeroUnallocated)?;
            if self.reads_zero(offset, len)? {
                return Ok(());
            }
        }
        self.write_zeroes(offset, len)
    }

    fn trim_clusters(&self, run: Run, trim: Trim) -> Result<(), BlockError> {
        let bits = self.image.geometry.cluster_bits;
        if self.image.geometry.version < 3 && self.backing.is_some() {
            if trim == Trim::Discard {
                return Ok(());
            }
            let start = run.start << bits;
            let end = (run.end() << bits).min(self.info().capacity);
            return self.write_zeroes(start, end.saturating_sub(start));
        }
        let mut at = run.start;
        while at < run.end() {
            at += self.trim_some(Run { start: at, count: run.end() - at }, trim)?;
        }
        Ok(())
    }

    /// Trims the beginning of a run; returns how many clusters.
    fn trim_some(&self, run: Run, trim: Trim) -> Result<u64, BlockError> {
        let g = &self.image.geometry;
        let in_table = g.l2_entries() - run.start % g.l2_entries();
        let step = Run { start: run.start, count: run.count.min(in_table).min(MAX_STEP) };
        let mut meta = self.lock();
        loop {
            meta.check_sound(&self.image)?;
            if meta.inflight.is_claimed(step) {
                meta = self.wait_unclaimed(meta);
                continue;
            }
            let absent = meta.l1.entries.get(Meta::l1_index(&self.image, step.start)) == Some(&0);
            if absent && !self.must_cover(Mapping::Unallocated, step.start, trim) {
                return Ok(run.count.min(in_table));
            }
            if Self::is_crowded(&meta) {
                drop(meta);
                self.flush_locked(&self.lock_flush())?;
                meta = self.lock();
                continue;
            }
            match self.trim_step(&mut meta, step, trim) {
                Ok(()) => return Ok(step.count),
                Err(AllocError::TableFull { blocks }) => {
                    drop(meta);
                    self.grow_refcount_table(&self.lock_flush(), blocks)?;
                    meta = self.lock();
                }
                Err(AllocError::Block(error)) => return Err(error),
            }
        }
    }

    fn trim_step(&self, meta: &mut Meta, step: Run, trim: Trim) -> Result<(), AllocError> {
        let entry = if self.image.geometry.version < 3 { 0 } else { ZERO };
        for cluster in step.start..step.end() {
            let mapping = meta.mapping(&self.image, cluster)?;
            if self.must_cover(mapping, cluster, trim) {
                meta.ensure_l2(&self.image, cluster)?;
                meta.relink(&self.image, cluster, entry)?;
            }
        }
        Ok(())
    }

    /// Whether a cluster's entry has to change.
    fn must_cover(&self, mapping: Mapping, cluster: u64, trim: Trim) -> bool {
        match mapping {
            Mapping::Data { .. } | Mapping::Compressed { .. } | Mapping::Zero { host: Some(_) } => {
                trim != Trim::ZeroUnallocated
            }
            Mapping::Zero { host: None } => false,
            // A discard covers what the base has, too. That may cost a table now, and saves clusters
            // later: zeroes that are written to a part of such a cluster need none.
            Mapping::Unallocated => {
                let below = self.backing.as_ref().map_or(0, |b| b.info().capacity);
                cluster << self.image.geometry.cluster_bits < below
            }
        }
    }
}

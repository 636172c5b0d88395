//! Refcounts, and finding free host clusters.
//!
//! A cluster is free when its refcount is 0. Freed ones are remembered as ranges and used first;
//! otherwise one scan moves through the refcount blocks, from the start of the file once and then
//! along its end, so that what is written in sequence lies in sequence. New refcount blocks lie in
//! the range they count. All of it runs under the metadata lock.

use std::collections::BTreeMap;

use super::super::BlockError;
use super::cache::Kind;
use super::geometry::{COPIED, Run};
use super::map::{Image, Meta};

/// Most free ranges remembered; beyond that, the scan starts over.
const MAX_RANGES: usize = 1024;

/// The file gets longer in steps of this, bytes.
const GROWTH: u64 = 1 << 20;

/// Where clusters can be had.
pub(super) struct FreeSpace {
    /// Free runs below `scan`: start → count.
    ranges: BTreeMap<u64, u64>,
    /// Below this, what is free is in `ranges`.
    scan: u64,
    /// No cluster from here on has ever been written.
    end: u64,
}

impl FreeSpace {
    /// For a file of `end` clusters.
    pub(super) fn new(end: u64) -> Self {
        Self { ranges: BTreeMap::new(), scan: 0, end }
    }

    /// The number of clusters in the file.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn insert(&mut self, run: Run) {
        if run.start >= self.scan {
            return;
        }
        match self.ranges.range_mut(..run.start).next_back() {
            Some((start, count)) if start + *count == run.start => *count += run.count,
            _ => {
                self.ranges.insert(run.start, run.count);
            }
        }
        if self.ranges.len() > MAX_RANGES
            && let Some((first, _)) = self.ranges.pop_first()
        {
            self.scan = first;
            self.ranges.clear();
        }
    }

    /// Takes up to `want` clusters from the ranges: from the first that has so many, else the
    /// first of all.
    fn take(&mut self, want: u64) -> Option<Run> {
        let fits = self.ranges.iter().find(|(_, count)| **count >= want);
        let (start, count) = fits.or_else(|| self.ranges.iter().next()).map(|(s, c)| (*s, *c))?;
        self.ranges.remove(&start);
        if count > want {
            self.ranges.insert(start + want, count - want);
        }
        Some(Run { start, count: count.min(want) })
    }
}

/// Newly allocated clusters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allocated {
    pub run: Run,
    /// They lie beyond everything ever written, so they read as zeroes.
    pub fresh: bool,
}

/// Why there are no clusters.
#[derive(Debug)]
pub(super) enum AllocError {
    /// The refcount table is full: grow it and try again.
    TableFull {
        /// How many entries it must have at least.
        blocks: u64,
    },
    /// Anything else.
    Block(BlockError),
}

impl From<BlockError> for AllocError {
    fn from(error: BlockError) -> Self {
        Self::Block(error)
    }
}

impl Meta {
    /// Notes that clusters below `end` are in use, and makes the file contain them whole, so that
    /// a placement never reaches beyond its end. Every writer writes below what was reached when
    /// it got its clusters, so this never cuts anything off.
    pub(super) fn reach(&mut self, image: &Image, end: u64) -> Result<(), BlockError> {
        self.free.end = self.free.end.max(end);
        let bytes = end << image.geometry.cluster_bits;
        if bytes > self.file_len && !image.file.is_device() {
            let len = bytes.next_multiple_of(image.geometry.cluster().max(GROWTH));
            image.file.set_len(len)?;
            self.file_len = len;
        }
        Ok(())
    }

    /// Cuts off what [`reach`](Self::reach) made in advance. Nobody may be writing.
    pub(super) fn cut_unused(&mut self, image: &Image) -> Result<(), BlockError> {
        let used = self.free.end << image.geometry.cluster_bits;
        if used < self.file_len && !image.file.is_device() {
            image.file.set_len(used)?;
            self.file_len = used;
        }
        Ok(())
    }

    /// Where a cluster's refcount is: the piece it is cached in, its number there.
    fn refcount_slot(&self, image: &Image, cluster: u64) -> Result<Option<(u64, u64)>, BlockError> {
        let g = &image.geometry;
        let block = cluster / g.refblock_entries();
        let entry = usize::try_from(block).ok().and_then(|b| self.refcounts.entries.get(b));
        let Some(offset) = g.refblock_offset(entry.copied().unwrap_or(0))? else {
            return Ok(None);
        };
        let per_slice = (g.slice() * 8) >> g.refcount_order;
        let index = cluster % g.refblock_entries();
        Ok(Some((offset + index / per_slice * g.slice(), index % per_slice)))
    }

    /// A cluster's refcount.
    pub(super) fn refcount(&mut self, image: &Image, cluster: u64) -> Result<u64, BlockError> {
        match self.refcount_slot(image, cluster)? {
            None => Ok(0),
            Some((piece, index)) => {
                let bytes = self.cache.bytes(&image.file, piece)?;
                Ok(image.geometry.refcount(bytes, index))
            }
        }
    }

    /// Sets the refcount of a cluster that has a refcount block.
    pub(super) fn set_refcount(
        &mut self,
        image: &Image,
        cluster: u64,
        value: u64,
    ) -> Result<(), BlockError> {
        let slot = self.refcount_slot(image, cluster)?;
        let (piece, index) =
            slot.ok_or_else(|| BlockError::Corrupt(format!("cluster {cluster} is not counted")))?;
        let bytes = self.cache.bytes_mut(&image.file, piece, Kind::Counts)?;
        image.geometry.set_refcount(bytes, index, value);
        Ok(())
    }

    /// Allocates up to `want` consecutive clusters, at least one, with a refcount of 1.
    pub(super) fn allocate(&mut self, image: &Image, want: u64) -> Result<Allocated, AllocError> {
        let run = loop {
            let Some(run) = self.free.take(want) else { break self.scan(image, want)? };
            let mut free = Run { start: run.start, count: 0 };
            while free.count < run.count && self.refcount(image, free.end())? == 0 {
                free.count += 1;
            }
            if free.count > 0 {
                if free.count < run.count {
                    let start = free.end();
                    self.free.insert(Run { start, count: run.count - free.count });
                }
                break free;
            }
        };
        self.refuse_overlap(image, run)?;
        for cluster in run.start..run.end() {
            self.set_refcount(image, cluster, 1)?;
        }
        let fresh = run.start >= self.free.end && !image.file.is_device();
        if let Err(error) = self.reach(image, run.end()) {
            self.release(image, run)?;
            return Err(error.into());
        }
        Ok(Allocated { run, fresh })
    }

    /// Moves the scan on to the next free run, of at most `want` clusters.
    fn scan(&mut self, image: &Image, want: u64) -> Result<Run, AllocError> {
        let g = image.geometry;
        let per_slice = (g.slice() * 8) >> g.refcount_order;
        loop {
            let cluster = self.free.scan;
            self.require_block(cluster / g.refblock_entries())?;
            let Some((piece, index)) = self.refcount_slot(image, cluster)? else {
                self.new_refblock(image, cluster)?;
                self.free.scan += 1;
                continue;
            };
            let bytes = self.cache.bytes(&image.file, piece)?;
            let is_free = |i: &u64| g.refcount(bytes, *i) == 0;
            let Some(first) = (index..per_slice).find(is_free) else {
                self.free.scan += per_slice - index;
                continue;
            };
            let count = (first..per_slice).take(want as usize).take_while(is_free).count() as u64;
            let run = Run { start: cluster - index + first, count };
            self.free.scan = run.end();
            return Ok(run);
        }
    }

    fn require_block(&self, block: u64) -> Result<(), AllocError> {
        if block >= self.refcounts.entries.len() as u64 {
            return Err(AllocError::TableFull { blocks: block + 1 });
        }
        Ok(())
    }

    /// Allocates exactly `count` consecutive clusters behind everything else, with a refcount
    /// of 1.
    pub(super) fn reserve_at_end(&mut self, image: &Image, count: u64) -> Result<Run, AllocError> {
        let per_block = image.geometry.refblock_entries();
        let base = self.free.end;
        let mut blocks: Vec<u64> = Vec::new();
        loop {
            let last = (base + blocks.len() as u64 + count - 1) / per_block;
            self.require_block(last)?;
            let absent = |b: &u64| self.refcounts.entries.get(*b as usize) == Some(&0);
            let missing: Vec<u64> = (base / per_block..=last).filter(absent).collect();
            if missing.len() == blocks.len() {
                break;
            }
            blocks = missing;
        }
        for (cluster, block) in (base..).zip(&blocks) {
            let offset = cluster << image.geometry.cluster_bits;
            image.file.write_zeroes(offset, image.geometry.cluster())?;
            self.cache.forget(offset, image.geometry.cluster());
            self.refcounts.set(*block as usize, offset);
            // Its own block is there, if it is not this one: blocks come in the order of what they
            // count. Should the next find no room, another try begins behind this one.
            self.set_refcount(image, cluster, 1)?;
            self.free.end = self.free.end.max(cluster + 1);
        }
        let run = Run { start: base + blocks.len() as u64, count };
        for cluster in run.start..run.end() {
            self.set_refcount(image, cluster, 1)?;
        }
        self.reach(image, run.end())?;
        Ok(run)
    }

    /// Makes `cluster`, which no block counts and which is therefore free, the block that counts
    /// it and its neighbours.
    fn new_refblock(&mut self, image: &Image, cluster: u64) -> Result<(), BlockError> {
        let g = image.geometry;
        self.refuse_overlap(image, Run { start: cluster, count: 1 })?;
        let offset = cluster << g.cluster_bits;
        image.file.write_zeroes(offset, g.cluster())?;
        self.cache.forget(offset, g.cluster());
        self.refcounts.set((cluster / g.refblock_entries()) as usize, offset);
        self.set_refcount(image, cluster, 1)?;
        self.reach(image, cluster + 1)
    }

    /// Frees clusters that nothing on disk points to.
    pub(super) fn release(&mut self, image: &Image, run: Run) -> Result<(), BlockError> {
        for cluster in run.start..run.end() {
            self.set_refcount(image, cluster, 0)?;
        }
        self.free.insert(run);
        Ok(())
    }

    /// Makes sure that the L2 table for a guest cluster exists and may be changed in place.
    pub(super) fn ensure_l2(&mut self, image: &Image, cluster: u64) -> Result<(), AllocError> {
        let g = image.geometry;
        let index = Self::l1_index(image, cluster);
        let entry = self.l1.entries.get(index).copied();
        let entry = entry.ok_or_else(|| BlockError::Corrupt("the L1 table is short".into()))?;
        let old = g.l1_offset(entry)?;
        if old.is_some() && entry & COPIED != 0 {
            return Ok(());
        }
        let run = self.allocate(image, 1)?.run;
        let offset = run.start << g.cluster_bits;
        let written = match old {
            None => image.file.write_zeroes(offset, g.cluster()),
            Some(old) => {
                let mut table = vec![0; g.cluster() as usize];
                let copied = image.file.read(&mut table, old);
                copied.and_then(|()| image.file.write(&table, offset))
            }
        };
        if let Err(error) = written {
            self.release(image, run)?;
            return Err(error.into());
        }
        self.cache.forget(offset, g.cluster());
        self.l1.set(index, offset | COPIED);
        if let Some(old) = old {
            self.inflight.unlink(Run { start: old >> g.cluster_bits, count: 1 });
        }
        Ok(())
    }

    /// Refuses to hand out clusters that hold metadata: the refcounts are wrong then.
    fn refuse_overlap(&mut self, image: &Image, run: Run) -> Result<(), BlockError> {
        let g = &image.geometry;
        let hits = |offset: u64, len: u64| {
            let table = g.clusters_of(offset, len);
            table.start < run.end() && run.start < table.end()
        };
        let tables = [
            (0, 1),
            (self.l1.offset, self.l1.entries.len() as u64 * 8),
            (self.refcounts.offset, self.refcounts.entries.len() as u64 * 8),
            (image.snapshots_offset, 1),
        ];
        let pointed = |at: Result<Option<u64>, _>| at.ok().flatten().is_some_and(|at| hits(at, 1));
        let overlap = tables.iter().any(|(offset, len)| hits(*offset, *len))
            || self.l1.used().iter().any(|e| pointed(g.l1_offset(*e)))
            || self.refcounts.used().iter().any(|e| pointed(g.refblock_offset(*e)));
        if overlap {
            let text = format!("host cluster {} is counted free but holds metadata", run.start);
            return Err(self.freeze(image, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_split_and_overflow_into_a_rescan() {
        let mut space = FreeSpace::new(0);
        space.scan = 10_000;
        space.insert(Run { start: 10, count: 2 });
        space.insert(Run { start: 12, count: 3 });
        space.insert(Run { start: 100, count: 8 });
        space.insert(Run { start: 20_000, count: 1 });
        assert_eq!(space.take(6), Some(Run { start: 100, count: 6 }));
        assert_eq!(space.take(6), Some(Run { start: 10, count: 5 }));
        assert_eq!(space.take(6), Some(Run { start: 106, count: 2 }));
        assert_eq!(space.take(6), None);
        for i in 0..=MAX_RANGES as u64 {
            space.insert(Run { start: 50 + i * 2, count: 1 });
        }
        assert_eq!((space.scan, space.take(1)), (50, None));
    }
}

//! Making tables larger: the refcount table when clusters run out, the L1 table with the disk.
//!
//! The new table is written behind everything else, with the refcount blocks that count it, and
//! made durable; then one write to the header's first sector switches over, and is made durable
//! before anything relies on it. Either table is whole at any instant. Both run alone: flush lock,
//! then metadata lock, held to the end. They are rare (16 TiB apart with the default cluster size,
//! or once at start).

use std::sync::atomic::Ordering;

use super::super::{BlockError, Fault};
use super::Qcow2;
use super::alloc::AllocError;
use super::cache::Kind;
use super::flush::FlushGuard;
use super::geometry::Geometry;
use super::header::{MAX_REFCOUNT_TABLE_BYTES, field};
use super::map::{Meta, Table};
use super::trim::Trim;

/// Largest L1 table, bytes.
const MAX_L1_BYTES: u64 = 32 << 20;

fn too_large() -> BlockError {
    let kind = std::io::ErrorKind::FileTooLarge;
    BlockError::Io(std::io::Error::new(kind, "the refcount table cannot grow any further"))
}

/// Where a larger refcount table and the blocks that count it go: blocks first, then the table.
struct Plan {
    /// First cluster of all.
    base: u64,
    /// Number of the block that counts it.
    first_block: u64,
    blocks: u64,
    clusters: u64,
}

impl Plan {
    /// For a table of at least `entries`, and half as many more than the `old`.
    fn new(g: &Geometry, end: u64, old: u64, entries: u64) -> Self {
        let per_block = g.refblock_entries();
        let base = end.max(old * per_block);
        let mut plan = Self { base, first_block: base / per_block, blocks: 1, clusters: 1 };
        loop {
            let needed = (plan.first_block + plan.blocks).max(old + old / 2 + 1).max(entries);
            let clusters = (needed * 8).div_ceil(g.cluster());
            let last = base + plan.blocks + clusters - 1;
            let blocks = last / per_block - plan.first_block + 1;
            if (plan.blocks, plan.clusters) == (blocks, clusters) {
                return plan;
            }
            (plan.blocks, plan.clusters) = (blocks, clusters);
        }
    }

    fn end(&self) -> u64 {
        self.base + self.blocks + self.clusters
    }
}

impl Qcow2 {
    /// Makes the refcount table larger, for at least `entries` blocks.
    pub(super) fn grow_refcount_table(
        &self,
        guard: &FlushGuard<'_>,
        entries: u64,
    ) -> Result<(), BlockError> {
        self.flush_locked(guard)?;
        let mut meta = self.lock();
        meta.check_sound(&self.image)?;
        let old = meta.refcounts.entries.len() as u64;
        if old >= entries {
            return Ok(());
        }
        let g = &self.image.geometry;
        let plan = Plan::new(g, meta.free.end(), old, entries);
        let bytes = plan.clusters * g.cluster();
        if bytes > MAX_REFCOUNT_TABLE_BYTES.max(g.cluster()) {
            return Err(too_large());
        }
        let mut larger = meta.refcounts.entries.clone();
        larger.resize((bytes / 8) as usize, 0);
        for block in 0..plan.blocks {
            let offset = (plan.base + block) << g.cluster_bits;
            let counted = (plan.first_block + block) * g.refblock_entries();
            let mut contents = vec![0; g.cluster() as usize];
            let last = plan.end().min(counted + g.refblock_entries());
            for cluster in plan.base.max(counted)..last {
                g.set_refcount(&mut contents, cluster - counted, 1);
            }
            self.image.file.write(&contents, offset)?;
            meta.cache.forget(offset, g.cluster());
            if let Some(entry) = larger.get_mut((plan.first_block + block) as usize) {
                *entry = offset;
            }
        }
        let table = Table::new((plan.base + plan.blocks) << g.cluster_bits, larger);
        self.image.file.write(&table.bytes(), table.offset)?;
        // Entries set since the flush point to blocks whose pieces may still be in memory only.
        self.write_counts(&mut meta)?;
        self.image.file.sync()?;
        let mut switch = table.offset.to_be_bytes().to_vec();
        switch.extend_from_slice(&(plan.clusters as u32).to_be_bytes());
        self.image.file.write(&switch, field::REFCOUNT_TABLE)?;
        self.image.file.sync()?;
        let gone = g.clusters_of(meta.refcounts.offset, old * 8);
        meta.refcounts = table;
        meta.reach(&self.image, plan.end())?;
        meta.inflight.unlink(gone);
        Ok(())
    }

    /// Writes every changed piece of a refcount block.
    fn write_counts(&self, meta: &mut Meta) -> Result<(), BlockError> {
        let taken = meta.cache.take(Kind::Counts);
        let result = taken.iter().try_for_each(|(at, bytes)| self.image.file.write(bytes, *at));
        meta.cache.finish(&taken, Kind::Counts, result.is_ok());
        result
    }

    /// Makes the disk larger, to at least `size` bytes. Smaller sizes change nothing.
    ///
    /// # Errors
    /// The size needs a larger L1 table than the format's readers accept, it is a version 2 image
    /// with snapshots (which do not record their size there), or the host failed; the disk has its
    /// old size then.
    pub fn grow(&self, size: u64) -> Result<(), Fault> {
        let size = size.checked_next_multiple_of(512).unwrap_or(u64::MAX);
        if self.read_only {
            return Err(BlockError::ReadOnly.into());
        }
        let guard = self.lock_flush();
        if size <= self.capacity.load(Ordering::Acquire) {
            return Ok(());
        }
        let g = &self.image.geometry;
        let needed = g.l1_needed(size);
        if needed * 8 > MAX_L1_BYTES || size > i64::MAX as u64 {
            return Err(Fault::Header {
                field: "size",
                value: size,
                rule: "more than an L1 table of 32 MiB can map; choose a smaller disk",
            });
        }
        if self.image.geometry.version < 3 && self.image.snapshots_offset != 0 {
            return Err(Fault::Feature(
                "version 3 of the format to grow a disk that has snapshots".into(),
            ));
        }
        self.flush_locked(&guard)?;
        let old = self.capacity.load(Ordering::Acquire);
        if needed > self.lock().l1.entries.len() as u64 {
            self.move_l1(needed, &guard)?;
        }
        drop(guard);
        self.cover_below(old, size)?;
        let _guard = self.lock_flush();
        self.image.file.write(&size.to_be_bytes(), field::SIZE)?;
        self.image.file.sync()?;
        self.capacity.store(size, Ordering::Release);
        Ok(())
    }

    /// Zeroes what of the backing disk would show through where the disk becomes longer. Nothing
    /// of it is seen before the new size is written, and then it is durable.
    fn cover_below(&self, old: u64, size: u64) -> Result<(), BlockError> {
        let shown = self.backing.as_ref().map_or(0, |b| b.info().capacity).min(size);
        let Some(len) = shown.checked_sub(old).filter(|len| *len > 0) else { return Ok(()) };
        match self.image.geometry.version {
            ..3 => self.write_zeroes(old, len)?,
            _ => self.trim_range(old, len, Trim::Zero)?,
        }
        self.flush_locked(&self.lock_flush())
    }

    /// Switches to an L1 table of `entries` entries.
    fn move_l1(&self, entries: u64, guard: &FlushGuard<'_>) -> Result<(), BlockError> {
        let g = &self.image.geometry;
        let clusters = (entries * 8).div_ceil(g.cluster());
        let mut meta = self.lock();
        let run = loop {
            match meta.reserve_at_end(&self.image, clusters) {
                Ok(run) => break run,
                Err(AllocError::Block(error)) => return Err(error),
                Err(AllocError::TableFull { blocks }) => {
                    drop(meta);
                    self.grow_refcount_table(guard, blocks)?;
                    meta = self.lock();
                }
            }
        };
        let mut larger = meta.l1.entries.clone();
        larger.resize(entries as usize, 0);
        let table = Table::new(run.start << g.cluster_bits, larger);
        self.image.file.write(&table.bytes(), table.offset)?;
        let padding = clusters * g.cluster() - entries * 8;
        self.image.file.write_zeroes(table.offset + entries * 8, padding)?;
        // The new table has entries set since the flush, so what they rely on comes first, as ever.
        self.write_counts(&mut meta)?;
        self.image.file.sync()?;
        let blocks = meta.refcounts.take_dirty();
        let written =
            blocks.iter().try_for_each(|(at, e)| self.image.file.write(&e.to_be_bytes(), *at));
        if let Err(error) = written.and_then(|()| self.image.file.sync()) {
            meta.refcounts.put_back(&blocks);
            return Err(error);
        }
        let mut switch = (entries as u32).to_be_bytes().to_vec();
        switch.extend_from_slice(&table.offset.to_be_bytes());
        self.image.file.write(&switch, field::L1)?;
        self.image.file.sync()?;
        let gone = g.clusters_of(meta.l1.offset, meta.l1.entries.len() as u64 * 8);
        meta.l1 = table;
        meta.inflight.unlink(gone);
        Ok(())
    }
}

//! Everything under the metadata lock, and the way from a guest offset through L1 and L2 to a host
//! cluster.
//!
//! Every entry is checked when it is followed: on the grid, and within the file. A lookup that
//! misses the cache reads one piece of a table under the lock; guest data never moves under it.

use std::collections::BTreeSet;

use super::super::file_io::ImageFile;
use super::super::{BlockError, Fault};
use super::alloc::FreeSpace;
use super::cache::{Kind, SliceCache};
use super::compressed::Compression;
use super::geometry::{COPIED, Geometry, Mapping, Run};
use super::header::{Header, field, incompatible};
use super::inflight::InFlight;

/// What of an open image never changes.
pub(super) struct Image {
    pub file: ImageFile,
    pub geometry: Geometry,
    pub compression: Compression,
    /// First byte of the snapshot table; 0: none.
    pub snapshots_offset: u64,
    /// The incompatible feature bits.
    pub incompatible: u64,
}

impl Image {
    /// Fails if metadata must not be written any more: a sync has failed, so pointers might lead to
    /// data that is not there. The image on disk stays the last good one.
    pub fn check_syncable(&self) -> Result<(), BlockError> {
        if self.file.has_failed_to_sync() {
            let why = "earlier writes could not be made durable";
            return Err(BlockError::Io(std::io::Error::other(why)));
        }
        Ok(())
    }
}

/// A table of 64-bit entries that is held in memory whole.
pub(super) struct Table {
    /// Where it lies in the file, bytes.
    pub offset: u64,
    pub entries: Vec<u64>,
    /// Entries that differ from the file.
    pub dirty: BTreeSet<usize>,
    /// Number after the last entry that is not zero.
    used: usize,
}

impl Table {
    /// A table that agrees with the file.
    pub(super) fn new(offset: u64, entries: Vec<u64>) -> Self {
        let used = entries.iter().rposition(|e| *e != 0).map_or(0, |last| last + 1);
        Self { offset, entries, dirty: BTreeSet::new(), used }
    }

    /// The entries without the zeroes at the end.
    pub(super) fn used(&self) -> &[u64] {
        self.entries.get(..self.used).unwrap_or(&self.entries)
    }

    /// The bytes of the whole table, as they belong into the file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|e| e.to_be_bytes()).collect()
    }

    /// Reads a table of `entries` entries.
    ///
    /// # Errors
    /// It lies beyond the end of the file (`what` says which it is), or cannot be read.
    pub(super) fn load(
        image: &Image,
        (offset, entries): (u64, u64),
        file_len: u64,
        what: &'static str,
    ) -> Result<Self, Fault> {
        let end = offset.saturating_add(entries * 8);
        // QEMU ends a fresh image right behind its L1 table, so clusters may be cut, not entries.
        if entries > 0 && end > file_len {
            return Err(Fault::Truncated { what, at: end, len: file_len });
        }
        let mut bytes = vec![0; entries as usize * 8];
        image.file.read(&mut bytes, offset)?;
        let entries = bytes.as_chunks().0.iter().map(|e| u64::from_be_bytes(*e)).collect();
        Ok(Self::new(offset, entries))
    }

    /// Sets an entry in memory.
    pub(super) fn set(&mut self, index: usize, value: u64) {
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = value;
            self.used = self.used.max(index + 1);
            self.dirty.insert(index);
        }
    }

    /// Takes the changed entries, as file offset and value.
    pub(super) fn take_dirty(&mut self) -> Vec<(u64, u64)> {
        let dirty = std::mem::take(&mut self.dirty);
        let entry = |i: usize| (self.offset + i as u64 * 8, self.entries[i]);
        dirty.into_iter().map(entry).collect()
    }

    /// Notes again as changed what [`take_dirty`](Self::take_dirty) gave.
    pub(super) fn put_back(&mut self, taken: &[(u64, u64)]) {
        let index = |(at, _): &(u64, u64)| ((at - self.offset) / 8) as usize;
        self.dirty.extend(taken.iter().map(index));
    }
}

/// What lies under the metadata lock.
pub(super) struct Meta {
    pub l1: Table,
    pub refcounts: Table,
    pub cache: SliceCache,
    pub free: FreeSpace,
    pub inflight: InFlight,
    /// Length of the file in bytes; what is mapped may run over it in its last cluster.
    pub file_len: u64,
    /// A flush is writing.
    pub flushing: bool,
    /// Why nothing is allocated or freed any more: the refcounts are wrong.
    frozen: Option<String>,
}

/// Consecutive guest bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where they are; `host` is the place of the first byte, not of its cluster.
    pub mapping: Mapping,
    /// How many, at least 1.
    pub len: u64,
}

impl Meta {
    pub(super) fn load(image: &Image, header: &Header, cache_bytes: usize) -> Result<Self, Fault> {
        let g = &image.geometry;
        let len = image.file.len()?;
        let l1 = (header.l1_offset, header.l1_size.into());
        let table_bytes = u64::from(header.refcount_table_clusters) * g.cluster();
        let refcounts = (header.refcount_table_offset, table_bytes / 8);
        let meta = Self {
            l1: Table::load(image, l1, len, "the L1 table ends")?,
            refcounts: Table::load(image, refcounts, len, "the refcount table ends")?,
            cache: SliceCache::new(cache_bytes, g.slice()),
            free: FreeSpace::new(len.div_ceil(g.cluster())),
            inflight: InFlight::new(),
            file_len: len,
            flushing: false,
            frozen: None,
        };
        for entry in &meta.l1.entries {
            if let Some(at) = g.l1_offset(*entry)?
                && at >= len
            {
                return Err(Fault::Truncated { what: "an L2 table lies", at, len });
            }
        }
        for entry in &meta.refcounts.entries {
            if let Some(at) = g.refblock_offset(*entry)?
                && at >= len
            {
                return Err(Fault::Truncated { what: "a refcount block lies", at, len });
            }
        }
        Ok(meta)
    }

    /// Fails if metadata must not change any more.
    pub(super) fn check_sound(&self, image: &Image) -> Result<(), BlockError> {
        image.check_syncable()?;
        match &self.frozen {
            None => Ok(()),
            Some(why) => Err(BlockError::Corrupt(why.clone())),
        }
    }

    /// Notes that the refcounts are wrong: nothing is allocated any more, and the dirty bit makes
    /// the next open count anew.
    pub(super) fn freeze(&mut self, image: &Image, why: String) -> BlockError {
        log::error!("qcow2: {why}; no more clusters are allocated until the image is reopened");
        if image.geometry.version >= 3 {
            let bits = image.incompatible | incompatible::DIRTY;
            if let Err(error) = image.file.write(&bits.to_be_bytes(), field::INCOMPATIBLE) {
                log::error!("qcow2: the image cannot be marked dirty: {error}");
            }
        }
        self.frozen = Some(why.clone());
        BlockError::Corrupt(why)
    }

    /// The L2 entry's place: the piece it is cached in, and the byte in the piece.
    fn l2_slot(&self, image: &Image, table: u64, cluster: u64) -> (u64, usize) {
        let g = &image.geometry;
        let byte = cluster % g.l2_entries() * 8;
        (table + (byte & !(g.slice() - 1)), (byte & (g.slice() - 1)) as usize)
    }

    /// Number of the L1 entry for a guest cluster.
    pub(super) fn l1_index(image: &Image, cluster: u64) -> usize {
        (cluster / image.geometry.l2_entries()) as usize
    }

    /// What a guest cluster is mapped to; hosts are cluster offsets, within the file.
    pub(super) fn mapping(&mut self, image: &Image, cluster: u64) -> Result<Mapping, BlockError> {
        let g = &image.geometry;
        let l1_entry = self.l1.entries.get(Self::l1_index(image, cluster)).copied().unwrap_or(0);
        let Some(table) = g.l1_offset(l1_entry)? else {
            return Ok(Mapping::Unallocated);
        };
        let (piece, at) = self.l2_slot(image, table, cluster);
        let bytes = self.cache.bytes(&image.file, piece)?;
        let entry = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        let mapping = g.l2_mapping(entry.map_or(0, u64::from_be_bytes))?;
        match mapping {
            Mapping::Data { host, .. }
            | Mapping::Compressed { host, .. }
            | Mapping::Zero { host: Some(host) }
                if host >> g.cluster_bits >= self.free.end() =>
            {
                let text = format!("guest cluster {cluster} lies beyond the file, at {host:#x}");
                Err(BlockError::Corrupt(text))
            }
            mapping => Ok(mapping),
        }
    }

    /// Consecutive bytes of one kind from `offset`, at most `len`; `len` must not be 0.
    pub(super) fn lookup(
        &mut self,
        image: &Image,
        offset: u64,
        len: u64,
    ) -> Result<Extent, BlockError> {
        let g = &image.geometry;
        let within = g.within(offset);
        let mut cluster = offset >> g.cluster_bits;
        let mut mapping = self.mapping(image, cluster)?;
        let mut found = (g.cluster() - within).min(len);
        if let Mapping::Data { host, .. } = &mut mapping {
            *host += within;
        }
        if matches!(mapping, Mapping::Compressed { .. }) {
            return Ok(Extent { mapping, len: found });
        }
        while found < len {
            cluster += 1;
            let next = self.mapping(image, cluster)?;
            let follows = match (mapping, next) {
                (
                    Mapping::Data { host, copied },
                    Mapping::Data { host: next, copied: next_copied },
                ) => host + found == next && copied == next_copied,
                (Mapping::Zero { .. }, Mapping::Zero { .. })
                | (Mapping::Unallocated, Mapping::Unallocated) => true,
                _ => false,
            };
            if !follows {
                break;
            }
            found += g.cluster().min(len - found);
        }
        Ok(Extent { mapping, len: found })
    }

    /// Sets the entry of a guest cluster whose L2 table may be changed in place, and unlinks what
    /// it was mapped to.
    pub(super) fn relink(
        &mut self,
        image: &Image,
        cluster: u64,
        entry: u64,
    ) -> Result<(), BlockError> {
        let g = &image.geometry;
        let old = self.mapping(image, cluster)?;
        let l1_entry = self.l1.entries.get(Self::l1_index(image, cluster)).copied().unwrap_or(0);
        let table = g.l1_offset(l1_entry)?.filter(|_| l1_entry & COPIED != 0);
        let table = table.ok_or_else(|| BlockError::Corrupt("an L2 table is missing".into()))?;
        let (piece, at) = self.l2_slot(image, table, cluster);
        let bytes = self.cache.bytes_mut(&image.file, piece, Kind::Links)?;
        if let Some(slot) = bytes.get_mut(at..at + 8) {
            slot.copy_from_slice(&entry.to_be_bytes());
        }
        match old {
            Mapping::Data { host, .. } | Mapping::Zero { host: Some(host) } => {
                self.inflight.unlink(Run { start: host >> g.cluster_bits, count: 1 });
            }
            Mapping::Compressed { host, len } => self.inflight.unlink(g.clusters_of(host, len)),
            Mapping::Unallocated | Mapping::Zero { host: None } => {}
        }
        Ok(())
    }
}

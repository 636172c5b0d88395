//! Counting every reference to every cluster, and comparing with what the image says.
//!
//! Walks header, L1 tables (the disk's and the snapshots'), L2 tables, snapshot table and refcount
//! structures of a file that nobody writes to. A cluster counted but not used is a *leak*: space
//! lost, nothing worse. A cluster used but counted less often, a wrong COPIED flag, or an entry
//! that leads nowhere is *corruption*. `compare.rs` holds the second half, the comparison.
//!
//! What refers to a cluster twice is sound if it is counted twice and not flagged, as QEMU sees it
//! too: whoever writes makes a copy. Only what is always written in place (header, L1 table,
//! refcount structures) must be alone. Persistent bitmaps count as long as their autoclear bit
//! vouches for them; afterwards their clusters are leaks. Memory is bounded by [`MAX_CHUNKS`], time
//! by the number of distinct tables: one that is referred to many times is walked once.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;

use super::super::file_io::ImageFile;
use super::super::{BlockError, Fault};
use super::geometry::{Geometry, Mapping, Run};
use super::header::Header;

/// Most chunks of counters: 256 MiB of memory, enough for any file of 8 TiB.
const MAX_CHUNKS: usize = 32768;
/// Clusters in one chunk.
const CHUNK: u64 = 4096;
/// Most snapshot L1 entries that are followed.
pub(super) const MAX_SNAPSHOT_ENTRIES: u64 = 4 << 20;
/// Longest snapshot table, bytes.
const MAX_SNAPSHOT_TABLE: u64 = 64 << 20;
/// Most findings kept as text.
pub(super) const MAX_FINDINGS: usize = 32;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Clusters that are counted but not used.
    pub leaks: u64,
    /// Things that are wrong.
    pub corruptions: u64,
    /// The first of them, as text.
    pub findings: Vec<String>,
    /// Clusters that something refers to, metadata included.
    pub used_clusters: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Clusters of the disk that have space of their own in the image.
    pub allocated_clusters: u64,
    /// Those of them that do not lie behind the one before.
    pub fragmented_clusters: u64,
    /// Those of them that are compressed.
    pub compressed_clusters: u64,
    /// Where the last cluster ends that is used or counted, in bytes.
    pub image_end: u64,
}

impl CheckReport {
    pub(super) fn corrupt(&mut self, finding: fmt::Arguments<'_>) {
        self.corruptions += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding.to_string());
        }
    }
}

/// Checks an image that is not open for writing anywhere.
///
/// # Errors
/// [`Fault`] when it cannot be checked: no header, not supported, or too large a spread.
pub fn check(file: &File) -> Result<CheckReport, Fault> {
    let file = ImageFile::new(file.try_clone()?)?;
    let header = super::read_header(&file)?;
    let mut walk = Walk::new(&file, &header)?;
    walk.count_all()?;
    let blocks = walk.count_refcount_structures()?;
    walk.compare(&blocks)?;
    walk.report.total_clusters = header.size.div_ceil(header.geometry.cluster());
    Ok(walk.report)
}

/// Refuses a file that ends before what it refers to. Told by the last cluster that is counted;
/// only when that lies beyond the end, which a leak may too, is every table walked.
pub(super) fn refuse_truncated(file: &ImageFile, header: &Header) -> Result<(), Fault> {
    let g = &header.geometry;
    let len = file.len()?;
    let blocks = read_table(file, header.refcount_table_offset, table_entries(header), len)?;
    let Some((index, entry)) = blocks.iter().enumerate().rfind(|(_, e)| **e != 0) else {
        return Ok(());
    };
    let Some(offset) = g.refblock_offset(*entry)? else { return Ok(()) };
    let mut block = vec![0; g.cluster() as usize];
    file.read(&mut block, offset)?;
    let last = (0..g.refblock_entries()).rfind(|i| g.refcount(&block, *i) != 0);
    let cluster = index as u64 * g.refblock_entries() + last.unwrap_or(0);
    if cluster < len.div_ceil(g.cluster()) {
        return Ok(());
    }
    let mut walk = Walk::new(file, header)?;
    walk.count_all()?;
    match walk.beyond {
        Some(at) => Err(Fault::Truncated { what: "data lies", at, len }),
        None => Ok(()),
    }
}

pub(super) fn table_entries(header: &Header) -> u64 {
    u64::from(header.refcount_table_clusters) * header.geometry.cluster() / 8
}

/// Reads a table of 64-bit entries that must lie within the file.
pub(super) fn read_table(
    file: &ImageFile,
    offset: u64,
    entries: u64,
    file_len: u64,
) -> Result<Vec<u64>, Fault> {
    let end = offset.saturating_add(entries.saturating_mul(8));
    if entries > 0 && end > file_len {
        return Err(Fault::Truncated { what: "a table ends", at: end, len: file_len });
    }
    let mut bytes = vec![0; entries as usize * 8];
    file.read(&mut bytes, offset)?;
    Ok(bytes.as_chunks().0.iter().map(|e| u64::from_be_bytes(*e)).collect())
}

/// How often each cluster is referred to; sparse.
#[derive(Default)]
pub(super) struct Counts {
    chunks: HashMap<u64, Box<[u16]>>,
}

impl Counts {
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let chunk = self.chunks.get(&(cluster / CHUNK));
        chunk.and_then(|c| c.get((cluster % CHUNK) as usize)).copied().unwrap_or(0).into()
    }

    /// Adds references; saturates.
    pub(super) fn add(&mut self, run: Run, times: u64) -> Result<(), BlockError> {
        for cluster in run.start..run.end() {
            let key = cluster / CHUNK;
            let known = self.chunks.len();
            let chunk = match self.chunks.get_mut(&key) {
                Some(chunk) => chunk,
                None if known >= MAX_CHUNKS => {
                    return Err(BlockError::Corrupt(
                        "the image is spread too wide to check".into(),
                    ));
                }
                None => self.chunks.entry(key).or_insert_with(|| vec![0; CHUNK as usize].into()),
            };
            if let Some(count) = chunk.get_mut((cluster % CHUNK) as usize) {
                *count = count.saturating_add(u16::try_from(times).unwrap_or(u16::MAX));
            }
        }
        Ok(())
    }

    /// Every cluster with references, and how many; in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut keys: Vec<u64> = self.chunks.keys().copied().collect();
        keys.sort_unstable();
        keys.into_iter().flat_map(|key| {
            let chunk = self.chunks.get(&key).into_iter().flatten();
            (key * CHUNK..).zip(chunk.map(|c| u64::from(*c))).filter(|(_, count)| *count > 0)
        })
    }
}

/// References to one L2 table.
#[derive(Clone, Copy, Default)]
struct TableUse {
    times: u64,
    /// One of them is the disk's own.
    active: bool,
}

/// One walk through an image.
pub(super) struct Walk<'a> {
    pub file: &'a ImageFile,
    pub header: &'a Header,
    pub g: Geometry,
    /// Length of the file, bytes.
    pub len: u64,
    pub counts: Counts,
    pub report: CheckReport,
    /// A table that something else refers to as well; the first that was found.
    pub crossed: Option<String>,
    /// First byte that something refers to and the file does not have.
    beyond: Option<u64>,
    tables: HashMap<u64, TableUse>,
    /// Metadata clusters: how often each may be referred to, and whether it is written in place.
    exclusive: Vec<(u64, u64, bool)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a ImageFile, header: &'a Header) -> Result<Self, Fault> {
        Ok(Self {
            file,
            header,
            g: header.geometry,
            len: file.len()?,
            counts: Counts::default(),
            report: CheckReport::default(),
            crossed: None,
            beyond: None,
            tables: HashMap::new(),
            exclusive: Vec::new(),
        })
    }

    pub(super) fn count(&mut self, offset: u64, len: u64, times: u64) -> Result<(), BlockError> {
        if offset >= self.len {
            self.beyond.get_or_insert(offset);
            self.report.corrupt(format_args!("a reference to {offset:#x} leads beyond the file"));
            return Ok(());
        }
        // What starts in the file may end in a last cluster that the file has only in part.
        let end = self.len.next_multiple_of(self.g.cluster());
        let len = len.min(end - offset);
        self.counts.add(self.g.clusters_of(offset, len), times)
    }

    /// Counts what is written in place.
    fn count_fixed(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.count(offset, len, 1)?;
        let run = self.g.clusters_of(offset, len);
        self.exclusive.extend((run.start..run.end()).map(|cluster| (cluster, 1, true)));
        Ok(())
    }

    /// Counts everything but the refcount structures.
    pub(super) fn count_all(&mut self) -> Result<(), Fault> {
        self.count_fixed(0, self.g.cluster())?;
        let entries = u64::from(self.header.l1_size);
        let l1 = read_table(self.file, self.header.l1_offset, entries, self.len)?;
        if entries > 0 {
            self.count_fixed(self.header.l1_offset, entries * 8)?;
        }
        self.count_l1(&l1, true);
        self.count_snapshots()?;
        self.count_bitmaps()?;
        let mut tables: Vec<(u64, TableUse)> = self.tables.drain().collect();
        tables.sort_unstable_by_key(|(offset, _)| *offset);
        for (offset, usage) in &tables {
            self.count_l2(*offset, *usage)?;
        }
        for (cluster, times, fixed) in std::mem::take(&mut self.exclusive) {
            if self.counts.get(cluster) > times {
                let text = format!("metadata cluster {cluster} is also used otherwise");
                if fixed {
                    self.report.corrupt(format_args!("{text}"));
                }
                self.crossed.get_or_insert(text);
            }
        }
        Ok(())
    }

    fn count_l1(&mut self, l1: &[u64], active: bool) {
        for entry in l1 {
            if Geometry::l1_has_reserved_bits(*entry) {
                self.report.corrupt(format_args!("l1 entry {entry:#x} has reserved bits set"));
            }
            match self.g.l1_offset(*entry) {
                Ok(None) => {}
                Ok(Some(offset)) => {
                    let usage = self.tables.entry(offset).or_default();
                    usage.times += 1;
                    if active && std::mem::replace(&mut usage.active, true) {
                        let text = || format!("l2 table {offset:#x} is used twice");
                        self.crossed.get_or_insert_with(text);
                    }
                }
                Err(error) => self.report.corrupt(format_args!("{error}")),
            }
        }
    }

    fn count_snapshots(&mut self) -> Result<(), Fault> {
        let start = self.header.snapshots_offset;
        let mut at = start;
        let mut followed = 0;
        for _ in 0..self.header.nb_snapshots {
            // Snapshot table entry: L1 offset and size, id and name lengths; extra data's length
            // at 36; then extra data, id and name, padded to 8 bytes.
            let mut fixed = [0; 40];
            self.file.read(&mut fixed, at)?;
            let number = |from: usize, len: usize| {
                let bytes = fixed.get(from..from + len).unwrap_or_default();
                bytes.iter().fold(0u64, |v, b| v << 8 | u64::from(*b))
            };
            let (l1_offset, l1_size) = (number(0, 8), number(8, 4));
            let rest = number(12, 2) + number(14, 2) + number(36, 4);
            at = at.saturating_add((40 + rest).next_multiple_of(8));
            followed += l1_size;
            let long = at - start > MAX_SNAPSHOT_TABLE;
            // The last entry's padding may be missing.
            let beyond = at > self.len.saturating_add(7);
            if long || beyond || followed > MAX_SNAPSHOT_ENTRIES || self.g.within(l1_offset) != 0 {
                let damaged = BlockError::Corrupt("the snapshot table is not valid".into());
                return Err(damaged.into());
            }
            if l1_size > 0 {
                let l1 = read_table(self.file, l1_offset, l1_size, self.len)?;
                self.count_fixed(l1_offset, l1_size * 8)?;
                self.count_l1(&l1, false);
            }
        }
        if at > start {
            self.count_fixed(start, at - start)?;
        }
        Ok(())
    }

    fn count_l2(&mut self, offset: u64, usage: TableUse) -> Result<(), Fault> {
        self.count(offset, self.g.cluster(), usage.times)?;
        if offset >= self.len {
            return Ok(());
        }
        self.exclusive.push((offset >> self.g.cluster_bits, usage.times, false));
        let mut table = vec![0; self.g.cluster() as usize];
        self.file.read(&mut table, offset)?;
        let mut expected = None;
        for entry in table.as_chunks().0 {
            let entry = u64::from_be_bytes(*entry);
            if Geometry::l2_has_reserved_bits(entry) {
                self.report.corrupt(format_args!("l2 entry {entry:#x} has reserved bits set"));
            }
            match self.g.l2_mapping(entry) {
                Ok(Mapping::Data { host, .. } | Mapping::Zero { host: Some(host) }) => {
                    self.count(host, self.g.cluster(), usage.times)?;
                    if usage.active {
                        self.report.allocated_clusters += 1;
                        let behind = expected.replace(host.saturating_add(self.g.cluster()));
                        let apart = behind.is_some_and(|behind| behind != host);
                        self.report.fragmented_clusters += u64::from(apart);
                    }
                }
                Ok(Mapping::Compressed { host, len }) => {
                    self.count(host, len, usage.times)?;
                    if usage.active {
                        self.report.allocated_clusters += 1;
                        self.report.compressed_clusters += 1;
                        self.report.fragmented_clusters += 1;
                    }
                }
                Ok(Mapping::Unallocated | Mapping::Zero { host: None }) => {}
                Err(error) => self.report.corrupt(format_args!("{error}")),
            }
        }
        Ok(())
    }

    /// Counts the refcount table and its blocks; returns the blocks' offsets by number.
    pub(super) fn count_refcount_structures(&mut self) -> Result<Vec<Option<u64>>, Fault> {
        let (offset, entries) = (self.header.refcount_table_offset, table_entries(self.header));
        let table = read_table(self.file, offset, entries, self.len)?;
        self.count(offset, entries * 8, 1)?;
        let mut blocks = Vec::with_capacity(table.len());
        for entry in table {
            let block = match self.g.refblock_offset(entry) {
                Ok(Some(offset)) if self.counts.get(offset >> self.g.cluster_bits) > 0 => {
                    self.report
                        .corrupt(format_args!("refcount block {offset:#x} is used otherwise"));
                    None
                }
                Ok(block) => block,
                Err(error) => {
                    self.report.corrupt(format_args!("{error}"));
                    None
                }
            };
            if let Some(offset) = block {
                self.count(offset, self.g.cluster(), 1)?;
            }
            blocks.push(block);
        }
        Ok(blocks)
    }
}

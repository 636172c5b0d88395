//! Counting an image's clusters anew: for an image left dirty by lazy refcounts, or damaged in its
//! refcounts.
//!
//! A whole new refcount table with new blocks is written behind everything that is used, made
//! durable, and switched to by one write of the header's first sector, which also clears the dirty
//! bit. Until then the old state stands, dirty as it was. Leaks are gone with the old table.

use std::fs::File;

use super::super::file_io::ImageFile;
use super::super::{BlockError, Fault};
use super::check::{Counts, Walk};
use super::geometry::{COPIED, Geometry};
use super::header::{Header, MAX_REFCOUNT_TABLE_BYTES, field, incompatible};

/// Repairs the refcounts and COPIED flags of an image that nobody has open.
///
/// # Errors
/// [`Fault`] when the tables themselves are damaged, or the host failed; the image's data is
/// as before.
pub fn repair(file: &File) -> Result<(), Fault> {
    let file = ImageFile::new(file.try_clone()?)?;
    let header = super::read_header(&file)?;
    rebuild(&file, &header)
}

/// Where the new structures go, in clusters.
struct Layout {
    /// First cluster behind everything used: the table.
    base: u64,
    table: u64,
    /// Numbers of the blocks that are needed, in order; they follow the table.
    blocks: Vec<u64>,
}

impl Layout {
    fn new(g: &Geometry, counts: &Counts, base: u64) -> Self {
        let per_block = g.refblock_entries();
        let mut used: Vec<u64> = counts.iter().map(|(cluster, _)| cluster / per_block).collect();
        used.dedup();
        let mut layout = Self { base, table: 1, blocks: used.clone() };
        loop {
            let last = layout.end() - 1;
            let own = base / per_block..=last / per_block;
            let table = ((last / per_block + 1) * 8).div_ceil(g.cluster());
            let mut blocks: Vec<u64> = used.iter().copied().chain(own).collect();
            blocks.sort_unstable();
            blocks.dedup();
            if (table, blocks.len()) == (layout.table, layout.blocks.len()) {
                return layout;
            }
            (layout.table, layout.blocks) = (table, blocks);
        }
    }

    fn end(&self) -> u64 {
        self.base + self.table + self.blocks.len() as u64
    }
}

/// See [`repair`].
pub(super) fn rebuild(file: &ImageFile, header: &Header) -> Result<(), Fault> {
    let g = &header.geometry;
    let mut walk = Walk::new(file, header)?;
    walk.count_all()?;
    if walk.report.corruptions > 0 {
        let first = walk.report.findings.first().cloned().unwrap_or_default();
        return Err(BlockError::Corrupt(format!("its refcounts cannot be rebuilt: {first}")).into());
    }
    if let Some((cluster, count)) = walk.counts.iter().find(|(_, c)| *c > g.refcount_max()) {
        let text = format!("cluster {cluster} is used {count} times, more than can be counted");
        return Err(BlockError::Corrupt(text).into());
    }
    let layout = Layout::new(g, &walk.counts, file.len()?.div_ceil(g.cluster()));
    if layout.table * g.cluster() > MAX_REFCOUNT_TABLE_BYTES.max(g.cluster()) {
        let text = "its refcount table would be too large".into();
        return Err(BlockError::Corrupt(text).into());
    }
    write_structures(file, g, &walk.counts, &layout)?;
    let mut flags = Vec::new();
    walk.each_flag_error(&walk.counts, |at, entry| flags.push((at, entry ^ COPIED)))?;
    for (at, entry) in flags {
        file.write(&entry.to_be_bytes(), at)?;
    }
    file.sync()?;
    switch(file, header, &layout)
}

fn write_structures(
    file: &ImageFile,
    g: &Geometry,
    counts: &Counts,
    layout: &Layout,
) -> Result<(), BlockError> {
    let per_block = g.refblock_entries();
    let mut table = vec![0; (layout.table * g.cluster()) as usize];
    for (index, block) in layout.blocks.iter().enumerate() {
        let offset = (layout.base + layout.table + index as u64) << g.cluster_bits;
        let mut contents = vec![0; g.cluster() as usize];
        for i in 0..per_block {
            let cluster = block * per_block + i;
            let new = (layout.base..layout.end()).contains(&cluster);
            let count = if new { 1 } else { counts.get(cluster) };
            if count > 0 {
                g.set_refcount(&mut contents, i, count);
            }
        }
        file.write(&contents, offset)?;
        let at = *block as usize * 8;
        if let Some(entry) = table.get_mut(at..at + 8) {
            entry.copy_from_slice(&offset.to_be_bytes());
        }
    }
    file.write(&table, layout.base << g.cluster_bits)
}

/// One write within the first sector: the new table, and no dirty bit.
fn switch(file: &ImageFile, header: &Header, layout: &Layout) -> Result<(), Fault> {
    let v3 = header.geometry.version >= 3;
    let end = if v3 { field::INCOMPATIBLE + 8 } else { field::REFCOUNT_TABLE + 12 };
    let mut bytes = vec![0; (end - field::REFCOUNT_TABLE) as usize];
    file.read(&mut bytes, field::REFCOUNT_TABLE)?;
    let offset = layout.base << header.geometry.cluster_bits;
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    bytes[8..12].copy_from_slice(&(layout.table as u32).to_be_bytes());
    if v3 {
        let bits = header.incompatible & !(incompatible::DIRTY | incompatible::CORRUPT);
        let at = (field::INCOMPATIBLE - field::REFCOUNT_TABLE) as usize;
        bytes[at..].copy_from_slice(&bits.to_be_bytes());
    }
    file.write(&bytes, field::REFCOUNT_TABLE)?;
    file.sync()?;
    Ok(())
}

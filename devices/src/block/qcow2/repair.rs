//! Repair: refcounts that are too high or too low, and wrong COPIED flags.
//!
//! In place where every cluster in use has a refcount block: counts are corrected first and made
//! durable, then flags. A power cut in between leaves counts that are right and flags that only
//! cost a copy.
//!
//! Otherwise, and for an image left dirty by lazy refcounts, everything is counted anew: a whole
//! new refcount table with new blocks is written behind everything that is used, made durable, and
//! switched to by one write of the header's first sector, which also clears the dirty bit. Until
//! then the old state stands, marked dirty (version 3). Leaks are gone with the old table.
//!
//! Two guest clusters in one place are counted twice and not flagged, so a write to one copies it.
//! The other may be flagged from then on: a check finds that as after a repair of QEMU's.
//!
//! Entries that lead nowhere are left as they are: what they led to is gone. Where there are some,
//! nothing is freed, for it might be what they led to.

use std::fs::File;

use super::super::file_io::ImageFile;
use super::super::{BlockError, Fault};
use super::check::{Counts, Walk};
use super::geometry::{COPIED, Geometry, Run};
use super::header::{Header, MAX_REFCOUNT_TABLE_BYTES, autoclear, field, incompatible};

/// What to repair; as `qemu-img check -r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Only give back what is counted but not used. Refused where the tables are damaged.
    Leaks,
    /// Reference counts and flags, refused where more is wrong: what nobody need be asked about.
    Counts,
    /// Everything that can be, and take the image's dirty and corrupt marks away if all of it is.
    All,
}

/// Repairs an image that nobody has open. Check it afterwards: what cannot be repaired stays.
///
/// # Errors
/// [`Fault`] when it is damaged so far that nothing can be done, or the host failed; the image's
/// data is as before.
pub fn repair(file: &File, repair: Repair) -> Result<(), Fault> {
    repair_image(&ImageFile::new(file.try_clone()?)?, repair)
}

/// See [`repair`].
pub(super) fn repair_image(file: &ImageFile, repair: Repair) -> Result<(), Fault> {
    let header = super::read_header(file)?;
    let mut walk = Walk::new(file, &header)?;
    walk.count_all()?;
    let tables_sound = walk.report.corruptions == 0;
    match repair {
        Repair::Leaks if !tables_sound => {
            return Err(refuse(&walk, "what looks unused may be what a damaged entry led to"));
        }
        Repair::Counts => refuse_more_than_counts(&walk)?,
        Repair::Leaks | Repair::All => {}
    }
    refuse_uncountable(&walk)?;
    let found = walk.report.corruptions;
    let blocks = walk.count_refcount_structures()?;
    let blocks_sound = walk.report.corruptions == found;
    let counted = walk.counts.iter().all(|(cluster, _)| {
        let block = usize::try_from(cluster / walk.g.refblock_entries()).ok();
        block.and_then(|block| blocks.get(block)).is_some_and(Option::is_some)
    });
    clear_autoclear(file, &header)?;
    if repair != Repair::Leaks && tables_sound && !(blocks_sound && counted) {
        // Without what the old refcount structures lie in.
        let mut walk = Walk::new(file, &header)?;
        walk.count_all()?;
        return switch_over(&walk);
    }
    if !(blocks_sound && (counted || repair == Repair::Leaks)) {
        return Err(refuse(&walk, "the reference counts cannot be relied on"));
    }
    let (right, stated) = recount(&walk, &blocks, repair, tables_sound)?;
    file.sync()?;
    if !(right && counted) {
        return Ok(());
    }
    set_flags(&walk, &stated)?;
    file.sync()?;
    if tables_sound {
        clear_marks(file, &header)?;
    }
    Ok(())
}

fn corrupt(text: String) -> Fault {
    BlockError::Corrupt(text).into()
}

/// Why nothing is done, with the first finding.
fn refuse(walk: &Walk<'_>, why: &str) -> Fault {
    let first = walk.report.findings.first().map_or("", String::as_str);
    corrupt(format!("{why}: {first}"))
}

/// Wrong counts are what lazy refcounts leave. Two tables in one place are not.
fn refuse_more_than_counts(walk: &Walk<'_>) -> Result<(), Fault> {
    if walk.report.corruptions > 0 {
        return Err(refuse(walk, "more is wrong than its reference counts"));
    }
    match &walk.crossed {
        Some(crossed) => {
            Err(corrupt(format!("more is wrong than its reference counts: {crossed}")))
        }
        None => Ok(()),
    }
}

fn refuse_uncountable(walk: &Walk<'_>) -> Result<(), Fault> {
    match walk.counts.iter().find(|(_, count)| *count > walk.g.refcount_max()) {
        None => Ok(()),
        Some((cluster, count)) => Err(corrupt(format!(
            "cluster {cluster} is used {count} times, more than can be counted"
        ))),
    }
}

/// Corrects the refcount blocks in place, and gives the space of what is unused back. Counts only
/// go down where `may_free`, and only up when everything is repaired. Answers whether none is too
/// low now, and what they are.
fn recount(
    walk: &Walk<'_>,
    blocks: &[Option<u64>],
    repair: Repair,
    may_free: bool,
) -> Result<(bool, Counts), Fault> {
    let g = &walk.g;
    let mut stated = Counts::default();
    let per_block = g.refblock_entries();
    let in_file = walk.len >> g.cluster_bits;
    let mut contents = vec![0; g.cluster() as usize];
    let mut right = true;
    for (index, block) in blocks.iter().enumerate() {
        let Some(offset) = block else { continue };
        walk.file.read(&mut contents, *offset)?;
        let mut changed = false;
        let mut unused = Run { start: 0, count: 0 };
        for i in 0..per_block {
            let cluster = index as u64 * per_block + i;
            let (count, used) = (g.refcount(&contents, i), walk.counts.get(cluster));
            let wanted = if count > used { may_free } else { repair != Repair::Leaks };
            let now = if wanted { used } else { count };
            if now > 0 {
                stated.add(Run { start: cluster, count: 1 }, now)?;
            }
            right &= now >= used;
            if now == count {
                continue;
            }
            g.set_refcount(&mut contents, i, used);
            changed = true;
            if used == 0 && cluster < in_file {
                if unused.end() != cluster {
                    punch(walk, unused);
                    unused = Run { start: cluster, count: 0 };
                }
                unused.count += 1;
            }
        }
        if changed {
            walk.file.write(&contents, *offset)?;
        }
        punch(walk, unused);
    }
    Ok((right, stated))
}

/// Nothing refers to these clusters, whatever is still counted.
fn punch(walk: &Walk<'_>, run: Run) {
    let bits = walk.g.cluster_bits;
    if run.count > 0
        && let Err(error) = walk.file.punch_hole(run.start << bits, run.count << bits)
    {
        log::warn!("qcow2: freed space is not given back: {error}");
    }
}

/// Sets every COPIED flag by the counts.
fn set_flags(walk: &Walk<'_>, counts: &Counts) -> Result<(), Fault> {
    walk.each_flag_error(counts, |at, entry| {
        Ok(walk.file.write(&(entry ^ COPIED).to_be_bytes(), at)?)
    })
}

/// We keep up none of the extensions these bits vouch for, except that bitmaps have been counted.
fn clear_autoclear(file: &ImageFile, header: &Header) -> Result<(), Fault> {
    if header.autoclear & !autoclear::BITMAPS != 0 {
        let bits = header.autoclear & autoclear::BITMAPS;
        file.write(&bits.to_be_bytes(), field::AUTOCLEAR)?;
        file.sync()?;
    }
    Ok(())
}

fn clear_marks(file: &ImageFile, header: &Header) -> Result<(), Fault> {
    let bits = header.incompatible & !(incompatible::DIRTY | incompatible::CORRUPT);
    if header.geometry.version >= 3 && bits != header.incompatible {
        file.write(&bits.to_be_bytes(), field::INCOMPATIBLE)?;
        file.sync()?;
    }
    Ok(())
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

/// Counts an image anew that was left dirty. Refused where more is wrong than lazy refcounts
/// explain.
pub(super) fn rebuild(file: &ImageFile, header: &Header) -> Result<(), Fault> {
    let mut walk = Walk::new(file, header)?;
    walk.count_all()?;
    refuse_more_than_counts(&walk)?;
    refuse_uncountable(&walk)?;
    switch_over(&walk)
}

/// Writes new refcount structures by what `walk` has counted without the old ones, and switches to
/// them.
fn switch_over(walk: &Walk<'_>) -> Result<(), Fault> {
    let (file, header, g) = (walk.file, walk.header, &walk.g);
    let layout = Layout::new(g, &walk.counts, file.len()?.div_ceil(g.cluster()));
    if layout.table * g.cluster() > MAX_REFCOUNT_TABLE_BYTES.max(g.cluster()) {
        return Err(corrupt("its refcount table would be too large".into()));
    }
    write_structures(file, g, &walk.counts, &layout)?;
    if g.version >= 3 {
        // Flags are at odds with the old counts from here on.
        let bits = header.incompatible | incompatible::DIRTY;
        file.write(&bits.to_be_bytes(), field::INCOMPATIBLE)?;
        file.sync()?;
    }
    set_flags(walk, &walk.counts)?;
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

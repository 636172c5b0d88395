//! Partition tables: what ranges of a disk hold filesystems.
//!
//! GPT as UEFI 2.10 §5 lays it down (both headers, CRCs, any entry size that the specification
//! allows), MBR with primary and logical partitions, or no table at all. A GPT counts where the MBR
//! protects it, as for Linux; its logical block is found by trying, since an image is often made
//! for another block size than the disk is shown with. Numbers are those that Linux gives:
//! partition 5 is `vda5`. A partition that runs over the end of the disk is cut.
//!
//! Left out: BSD labels, Apple maps, LDM, nested tables. Runs on the thread of
//! [`choose`](super::choose).

use std::fmt;

use super::disk::{Disk, ReadError};

/// Logical partitions followed, and the bound on a chain that loops.
const MAX_LOGICAL: usize = 128;

/// GPT entries looked at; Linux and every tool write 128.
const MAX_GPT_ENTRIES: u32 = 1024;

/// GPT "Extended Boot Loader Partition", as stored.
const XBOOTLDR: [u8; 16] = [
    0xff, 0xc2, 0x13, 0xbc, 0xe6, 0x59, 0x62, 0x42, 0xa3, 0x52, 0xb2, 0x75, 0xfd, 0x6f, 0x71, 0x72,
];
/// GPT "EFI System", as stored.
const ESP: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];

/// MBR type of a GPT's protective partition.
const MBR_PROTECTIVE: u8 = 0xee;
/// MBR type of an EFI system partition.
const MBR_ESP: u8 = 0xef;
/// MBR type "Extended boot" that the Boot Loader Specification uses.
const MBR_XBOOTLDR: u8 = 0xea;
/// MBR types of extended partitions: CHS, LBA, Linux.
const MBR_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// How the disk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
    /// One filesystem on the whole disk.
    Whole,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Gpt => "GPT",
            Scheme::Mbr => "MBR",
            Scheme::Whole => "no partition table",
        })
    }
}

/// What a partition is for, where that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An extended boot loader partition: `/boot` by the Boot Loader Specification.
    Xbootldr,
    /// An EFI system partition.
    Esp,
    /// Anything else.
    Other,
}

/// A range of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1, as Linux counts; 0 is the whole disk.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is for.
    pub role: Role,
    /// GPT name; empty where there is none.
    pub name: String,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => f.write_str("the whole disk"),
            number => write!(f, "partition {number}"),
        }
    }
}

/// A disk's partitions, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// How the disk is divided.
    pub scheme: Scheme,
    /// What was found; the whole disk, alone, where there is no table.
    pub partitions: Vec<Partition>,
}

/// Reads the partition table of `disk`.
///
/// # Errors
/// [`ReadError`], where the first sector cannot be read. A broken table is no error: it is no table.
pub fn scan(disk: &Disk) -> Result<Table, ReadError> {
    let whole =
        Partition { number: 0, start: 0, len: disk.size(), role: Role::Other, name: String::new() };
    let none = Table { scheme: Scheme::Whole, partitions: vec![whole] };
    if disk.size() < 512 {
        return Ok(none);
    }
    let mut sector = [0; 512];
    disk.read(0, &mut sector)?;
    let entries = mbr_entries(&sector);
    let signed = sector[510..] == [0x55, 0xaa];
    let protected = signed && entries.iter().any(|entry| entry.kind == MBR_PROTECTIVE);
    if protected || !signed {
        let other = if disk.logical_block() == 4096 { 512 } else { 4096 };
        for block in [disk.logical_block(), other] {
            if let Some(partitions) = gpt(disk, block) {
                return Ok(Table { scheme: Scheme::Gpt, partitions });
            }
        }
    }
    if signed && entries.iter().all(|entry| entry.status & 0x7f == 0) {
        let partitions = mbr(disk, &entries);
        if !partitions.is_empty() {
            return Ok(Table { scheme: Scheme::Mbr, partitions });
        }
    }
    Ok(none)
}

/// The whole disk, as a partition.
pub fn whole(disk: &Disk) -> Partition {
    Partition { number: 0, start: 0, len: disk.size(), role: Role::Other, name: String::new() }
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// CRC-32 as the GPT uses it (IEEE 802.3, reflected).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

/// The partitions of a GPT with logical blocks of `block` bytes; `None` where neither the primary
/// header nor the backup at the end of the disk holds.
fn gpt(disk: &Disk, block: u64) -> Option<Vec<Partition>> {
    let last = (disk.size() / block).checked_sub(1)?;
    [1, last].into_iter().find_map(|lba| gpt_at(disk, block, lba))
}

/// The partitions of the GPT whose header is at `lba`.
fn gpt_at(disk: &Disk, block: u64, lba: u64) -> Option<Vec<Partition>> {
    let mut header = vec![0; block as usize];
    disk.read(lba.checked_mul(block)?, &mut header).ok()?;
    let header_len = le32(&header, 12) as usize;
    if &header[..8] != b"EFI PART" || !(92..=header.len()).contains(&header_len) {
        return None;
    }
    let stored = le32(&header, 16);
    header[16..20].fill(0);
    if crc32(&header[..header_len]) != stored || le64(&header, 24) != lba {
        return None;
    }
    let count = le32(&header, 80);
    let entry_len = le32(&header, 84);
    if count > MAX_GPT_ENTRIES || !(128..=4096).contains(&entry_len) || !entry_len.is_multiple_of(8)
    {
        return None;
    }
    let mut table = vec![0; count as usize * entry_len as usize];
    disk.read(le64(&header, 72).checked_mul(block)?, &mut table).ok()?;
    if crc32(&table) != le32(&header, 88) {
        return None;
    }
    let entries = table.chunks_exact(entry_len as usize).zip(1..);
    Some(entries.filter_map(|(entry, number)| gpt_entry(disk, block, entry, number)).collect())
}

/// One entry; `None` where it is unused or outside the disk.
fn gpt_entry(disk: &Disk, block: u64, entry: &[u8], number: u32) -> Option<Partition> {
    let kind = entry.get(..16)?;
    if kind.iter().all(|byte| *byte == 0) {
        return None;
    }
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let start = first.checked_mul(block)?;
    let len = last.checked_sub(first)?.checked_add(1)?.saturating_mul(block);
    let name = entry.get(56..128)?;
    let units = name.chunks_exact(2).map(|unit| le16(unit, 0)).take_while(|unit| *unit != 0);
    let name = char::decode_utf16(units).map(|unit| unit.unwrap_or('\u{fffd}')).collect();
    let role = match kind {
        kind if kind == XBOOTLDR => Role::Xbootldr,
        kind if kind == ESP => Role::Esp,
        _ => Role::Other,
    };
    cut(disk, Partition { number, start, len, role, name })
}

/// The part of a partition that is on the disk; `None` where none is.
fn cut(disk: &Disk, partition: Partition) -> Option<Partition> {
    let left = disk.size().checked_sub(partition.start).filter(|left| *left > 0)?;
    let len = partition.len.min(left);
    (partition.start > 0 && len > 0).then_some(Partition { len, ..partition })
}

/// An entry of an MBR or of an extended boot record; places in sectors of 512 bytes.
#[derive(Clone, Copy)]
struct MbrEntry {
    status: u8,
    kind: u8,
    start: u32,
    len: u32,
}

fn mbr_entries(sector: &[u8; 512]) -> [MbrEntry; 4] {
    [446, 462, 478, 494].map(|at| MbrEntry {
        status: sector[at],
        kind: sector[at + 4],
        start: le32(sector, at + 8),
        len: le32(sector, at + 12),
    })
}

/// The partitions of an MBR, which counts in logical blocks of the disk.
fn mbr(disk: &Disk, entries: &[MbrEntry; 4]) -> Vec<Partition> {
    let block = disk.logical_block().max(512);
    let partition = |number: u32, start: u64, entry: &MbrEntry| {
        let role = match entry.kind {
            MBR_ESP => Role::Esp,
            MBR_XBOOTLDR => Role::Xbootldr,
            _ => Role::Other,
        };
        let len = u64::from(entry.len) * block;
        cut(disk, Partition { number, start: start * block, len, role, name: String::new() })
    };
    let used = |entry: &&MbrEntry| entry.kind != 0 && entry.len != 0;
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(entries).filter(|(_, entry)| used(entry)) {
        if !MBR_EXTENDED.contains(&entry.kind) && entry.kind != MBR_PROTECTIVE {
            found.extend(partition(number, u64::from(entry.start), entry));
        }
    }
    let extended = entries.iter().filter(used).find(|entry| MBR_EXTENDED.contains(&entry.kind));
    let Some(extended) = extended else { return found };
    // A chain of records, each with one logical partition, placed relative to its own record, and
    // one link, placed relative to the extended partition.
    let base = u64::from(extended.start);
    let mut record = base;
    for number in (5..).take(MAX_LOGICAL) {
        let mut sector = [0; 512];
        let at = record.saturating_mul(block);
        if disk.read(at, &mut sector).is_err() || sector[510..] != [0x55, 0xaa] {
            break;
        }
        let entries = mbr_entries(&sector);
        let is_link = |entry: &&MbrEntry| MBR_EXTENDED.contains(&entry.kind);
        if let Some(entry) = entries.iter().filter(used).find(|entry| !is_link(entry)) {
            found.extend(partition(number, record.saturating_add(entry.start.into()), entry));
        }
        match entries.iter().filter(used).find(is_link) {
            Some(link) => record = base.saturating_add(link.start.into()),
            None => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testdisk::{self, MemoryDisk, Part, guid, mbr_entry, open};
    use super::*;

    const XBOOTLDR_TEXT: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";

    fn sample(block: usize) -> Vec<u8> {
        let part = |number, name, kind| Part { number, name, kind, bytes: b"x" };
        testdisk::gpt(
            &[
                part(14, "bios", "21686148-6449-6e6f-744e-656564454649"),
                part(15, "", testdisk::ESP),
                part(16, "BOOT", XBOOTLDR_TEXT),
                part(1, "root \u{e9}\u{1f4bf}", testdisk::LINUX),
            ],
            block,
        )
    }

    fn scanned(bytes: Vec<u8>, block: u32) -> Table {
        scan(&open(MemoryDisk::new(bytes, block))).unwrap()
    }

    #[test]
    fn types_are_stored_as_the_specification_orders_them() {
        assert_eq!(guid(XBOOTLDR_TEXT), XBOOTLDR);
        assert_eq!(guid(testdisk::ESP), ESP);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn gpt_with_either_block_size_on_a_disk_with_either() {
        for image in [512, 4096] {
            for disk in [512, 4096] {
                let table = scanned(sample(image), disk);
                assert_eq!(table.scheme, Scheme::Gpt, "{image} on {disk}");
                let mib = 1 << 20;
                let seen: Vec<_> = table
                    .partitions
                    .iter()
                    .map(|p| (p.number, p.start / mib, p.len / mib, p.role, p.name.as_str()))
                    .collect();
                assert_eq!(
                    seen,
                    [
                        (1, 4, 1, Role::Other, "root \u{e9}\u{1f4bf}"),
                        (14, 1, 1, Role::Other, "bios"),
                        (15, 2, 1, Role::Esp, ""),
                        (16, 3, 1, Role::Xbootldr, "BOOT"),
                    ]
                );
            }
        }
    }

    #[test]
    fn a_damaged_primary_header_or_table_falls_back_to_the_backup() {
        for at in [512 + 60, 2 * 512 + 40] {
            let mut bytes = sample(512);
            bytes[at] ^= 1;
            let table = scanned(bytes, 512);
            assert_eq!((table.scheme, table.partitions.len()), (Scheme::Gpt, 4));
        }
        let mut bytes = sample(512);
        bytes[512 + 60] ^= 1;
        let last = bytes.len() - 512;
        bytes[last + 60] ^= 1;
        assert_eq!(scanned(bytes, 512).scheme, Scheme::Whole);
    }

    #[test]
    fn a_gpt_the_mbr_does_not_protect_is_not_used() {
        let mut bytes = sample(512);
        bytes[446..462].copy_from_slice(&mbr_entry(0x83, 2048, 2048));
        let table = scanned(bytes, 512);
        assert_eq!((table.scheme, table.partitions.len()), (Scheme::Mbr, 1));
    }

    #[test]
    fn a_partition_past_the_end_is_cut_or_dropped() {
        let mut bytes = testdisk::mbr(&[&[1; 512]]);
        bytes[446..462].copy_from_slice(&mbr_entry(0x83, 2048, u32::MAX));
        bytes[462..478].copy_from_slice(&mbr_entry(0x83, u32::MAX, 1));
        let size = bytes.len() as u64;
        let table = scanned(bytes, 512);
        assert_eq!(table.partitions.len(), 1);
        assert_eq!(table.partitions[0].len, size - (1 << 20));
    }

    fn record(disk: &mut [u8], sector: usize, entries: &[[u8; 16]]) {
        for (index, entry) in entries.iter().enumerate() {
            disk[sector * 512 + 446 + 16 * index..][..16].copy_from_slice(entry);
        }
        disk[sector * 512 + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn logical_partitions_are_numbered_from_five() {
        let mut disk = vec![0; 1 << 20];
        record(&mut disk, 0, &[mbr_entry(0x83, 1, 9), mbr_entry(0x0f, 100, 900)]);
        record(&mut disk, 100, &[mbr_entry(0x83, 10, 20), mbr_entry(0x05, 200, 50)]);
        record(&mut disk, 300, &[mbr_entry(0x82, 5, 7)]);
        let table = scanned(disk, 512);
        let seen: Vec<_> =
            table.partitions.iter().map(|p| (p.number, p.start / 512, p.len / 512)).collect();
        assert_eq!(seen, [(1, 1, 9), (5, 110, 20), (6, 305, 7)]);
    }

    #[test]
    fn a_looping_chain_ends() {
        let mut disk = vec![0; 1 << 20];
        record(&mut disk, 0, &[mbr_entry(0x05, 100, 900)]);
        record(&mut disk, 100, &[mbr_entry(0x83, 1, 1), mbr_entry(0x05, 100, 50)]);
        record(&mut disk, 200, &[mbr_entry(0x83, 1, 1), mbr_entry(0x05, 100, 50)]);
        assert_eq!(scanned(disk, 512).partitions.len(), MAX_LOGICAL);
    }

    #[test]
    fn boot_code_with_a_signature_is_no_table() {
        // extlinux on an unpartitioned disk: a boot sector, and code where a table would be.
        let mut disk = vec![0; 1 << 20];
        disk[440..512].fill(0x90);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let table = scanned(disk, 512);
        assert_eq!((table.scheme, table.partitions.len()), (Scheme::Whole, 1));
        assert_eq!(scanned(Vec::new(), 512).scheme, Scheme::Whole);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_table_panics_or_leaves_the_disk(
            edits in prop::collection::vec((0..8192_usize, any::<u8>()), 0..24),
            fix_crc: bool,
        ) {
            let mut bytes = sample(512);
            for (at, value) in edits {
                bytes[at] = value;
            }
            if fix_crc {
                let len = (le32(&bytes, 512 + 84) as u64 * le32(&bytes, 512 + 80) as u64)
                    .min(16384) as usize;
                let table = crc32(&bytes[1024..1024 + len]);
                bytes[512 + 88..512 + 92].copy_from_slice(&table.to_le_bytes());
                bytes[512 + 16..512 + 20].fill(0);
                let header = crc32(&bytes[512..512 + 92]);
                bytes[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
            }
            let size = bytes.len() as u64;
            for partition in scanned(bytes, 512).partitions {
                prop_assert!(partition.len > 0);
                prop_assert!(partition.start + partition.len <= size);
            }
        }
    }
}

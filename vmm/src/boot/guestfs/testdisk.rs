//! Disks in memory for tests, and the writers that put partition tables on them.
//!
//! Test code only.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use devices::block::{Access, BlockBackend, BlockError, BlockInfo, FlushPlan, Placement};
use vm_memory::{Bytes, VolatileSlice};

use super::disk::{Budget, Disk};
use super::partition::crc32;

/// A read-only disk in memory that insists on its block grid and counts reads. Only what is not
/// zero is kept, so that a large and mostly empty one is cheap to have and to change.
#[derive(Clone)]
pub struct MemoryDisk {
    pages: BTreeMap<usize, Arc<[u8]>>,
    size: usize,
    block: u32,
    reads: Arc<AtomicU64>,
}

/// What is kept or left out in one piece.
const PAGE: usize = 4096;

impl MemoryDisk {
    /// A disk of `bytes`, filled up with zeroes to its block grid.
    pub fn new(bytes: Vec<u8>, block: u32) -> Self {
        let pages = bytes.chunks(PAGE).enumerate();
        let used = pages.filter(|(_, page)| *page != &[0; PAGE][..page.len()]);
        MemoryDisk {
            pages: used.map(|(index, page)| (index, page.into())).collect(),
            size: bytes.len().next_multiple_of(block as usize),
            block,
            reads: Arc::default(),
        }
    }

    /// Calls of `read_at` so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Where the pages begin that are not all zeroes.
    pub fn used(&self) -> Vec<usize> {
        self.pages.keys().map(|page| page * PAGE).collect()
    }

    /// Changes the used page that begins at `at`.
    pub fn edit(&mut self, at: usize, change: impl FnOnce(&mut [u8])) {
        if let Some(page) = self.pages.get_mut(&(at / PAGE)) {
            let mut bytes = page.to_vec();
            change(&mut bytes);
            *page = bytes.into();
        }
    }

    /// The bytes of a range.
    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (index, page) in self.pages.range(at / PAGE..(at + len).div_ceil(PAGE)) {
            let start = index * PAGE;
            let (from, to) = (start.max(at), (start + page.len()).min(at + len));
            if from < to {
                bytes[from - at..to - at].copy_from_slice(&page[from - start..to - start]);
            }
        }
        bytes
    }
}

impl BlockBackend for MemoryDisk {
    fn info(&self) -> BlockInfo {
        BlockInfo {
            capacity: self.size as u64,
            logical_block: self.block,
            physical_block: self.block,
            optimal_io: self.block,
            discard_granularity: 0,
            read_only: true,
        }
    }

    fn read_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut at = offset as usize;
        for buf in bufs {
            let len = buf.len();
            if !at.is_multiple_of(self.block as usize)
                || !len.is_multiple_of(self.block as usize)
                || at + len > self.size
            {
                return Err(BlockError::Range { offset: at as u64, len: len as u64 });
            }
            buf.write_slice(&self.bytes(at, len), 0).expect("as long as the buffer");
            at += len;
        }
        Ok(())
    }

    fn write_at(&self, _: &[VolatileSlice<'_>], _: u64) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn zero(&self, _: u64, _: u64, _: bool) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn place(&self, _: u64, len: u64, _: Access) -> Result<Placement, BlockError> {
        Ok(Placement::Call { len })
    }

    fn plan_flush(&self) -> FlushPlan {
        FlushPlan::Done
    }
}

/// A disk without a limit to speak of.
pub fn open(backend: MemoryDisk) -> Rc<Disk> {
    open_with(Arc::new(backend), Budget { bytes: u64::MAX, calls: u64::MAX })
}

/// A disk with a budget.
pub fn open_with(backend: Arc<MemoryDisk>, budget: Budget) -> Rc<Disk> {
    Disk::new(backend, budget, Arc::new(AtomicBool::new(false)))
}

/// One partition to write: its number, name, GPT type and contents.
pub struct Part<'a> {
    /// Number in the table, from 1.
    pub number: u32,
    /// GPT name.
    pub name: &'a str,
    /// GPT type as written in text.
    pub kind: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// GPT type "Linux filesystem data".
pub const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
/// GPT type "EFI system".
pub const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// The on-disk form of a GUID given in text.
pub fn guid(text: &str) -> [u8; 16] {
    let value = u128::from_str_radix(&text.replace('-', ""), 16).unwrap();
    let mut bytes = value.to_be_bytes();
    bytes[0..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// A disk with a GPT (both headers) and `parts` in the order of their places, 1 MiB apart.
pub fn gpt(parts: &[Part<'_>], block: usize) -> Vec<u8> {
    const MIB: usize = 1 << 20;
    const ENTRIES: usize = 128;
    let table_len = ENTRIES * 128;
    let mut table = vec![0; table_len];
    let mut disk = vec![0; MIB];
    for part in parts {
        let first = (disk.len() / block) as u64;
        disk.extend_from_slice(part.bytes);
        disk.resize(disk.len().next_multiple_of(MIB), 0);
        let last = (disk.len() / block) as u64 - 1;
        let entry = &mut table[(part.number as usize - 1) * 128..][..128];
        entry[..16].copy_from_slice(&guid(part.kind));
        entry[16..20].copy_from_slice(&part.number.to_le_bytes());
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (index, unit) in part.name.encode_utf16().enumerate() {
            entry[56 + 2 * index..58 + 2 * index].copy_from_slice(&unit.to_le_bytes());
        }
    }
    disk.resize(disk.len() + MIB, 0);
    let last = (disk.len() / block) as u64 - 1;
    let table_blocks = table_len.div_ceil(block) as u64;
    let header = |own: u64, other: u64, table_at: u64| {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&own.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[40..48].copy_from_slice(&(2 + table_blocks).to_le_bytes());
        header[48..56].copy_from_slice(&(last - table_blocks - 1).to_le_bytes());
        header[72..80].copy_from_slice(&table_at.to_le_bytes());
        header[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&table).to_le_bytes());
        let crc = crc32(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header
    };
    let put = |disk: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let backup_table = last - table_blocks;
    put(&mut disk, block, &header(1, last, 2));
    put(&mut disk, 2 * block, &table);
    put(&mut disk, backup_table as usize * block, &table);
    put(&mut disk, last as usize * block, &header(last, 1, backup_table));
    put(&mut disk, 446, &mbr_entry(0xee, 1, u32::try_from(last).unwrap_or(u32::MAX)));
    put(&mut disk, 510, &[0x55, 0xaa]);
    disk
}

/// One MBR entry, in sectors.
pub fn mbr_entry(kind: u8, start: u32, len: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..16].copy_from_slice(&len.to_le_bytes());
    entry
}

/// A disk with an MBR and up to four primary Linux partitions, 1 MiB apart.
pub fn mbr(parts: &[&[u8]]) -> Vec<u8> {
    const MIB: usize = 1 << 20;
    let mut disk = vec![0; MIB];
    for (index, bytes) in parts.iter().enumerate() {
        let first = (disk.len() / 512) as u32;
        disk.extend_from_slice(bytes);
        disk.resize(disk.len().next_multiple_of(MIB), 0);
        let len = (disk.len() / 512) as u32 - first;
        disk[446 + 16 * index..][..16].copy_from_slice(&mbr_entry(0x83, first, len));
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

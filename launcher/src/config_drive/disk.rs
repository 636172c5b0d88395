//! A read-only disk in memory: how the config drive is handed to the machine.

use std::sync::Arc;

use devices::block::{Access, BlockBackend, BlockError, BlockInfo, FlushPlan, Placement};
use vm_memory::{Bytes, VolatileSlice};

const BLOCK: u32 = 512;

/// The disk. Its bytes never change.
pub struct MemoryDisk {
    bytes: Arc<[u8]>,
}

impl MemoryDisk {
    /// A disk of `bytes`, filled up with zeroes to whole blocks of 512.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        Self { bytes: bytes.into() }
    }

    fn range(&self, offset: u64, len: u64) -> Result<&[u8], BlockError> {
        let outside = BlockError::Range { offset, len };
        if !offset.is_multiple_of(u64::from(BLOCK)) || !len.is_multiple_of(u64::from(BLOCK)) {
            return Err(outside);
        }
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
        let start = usize::try_from(offset).ok();
        start.zip(end).and_then(|(start, end)| self.bytes.get(start..end)).ok_or(outside)
    }
}

impl BlockBackend for MemoryDisk {
    fn info(&self) -> BlockInfo {
        BlockInfo {
            capacity: self.bytes.len() as u64,
            logical_block: BLOCK,
            physical_block: BLOCK,
            optimal_io: 2048,
            discard_granularity: 0,
            read_only: true,
        }
    }

    fn read_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        let len = bufs.iter().try_fold(0u64, |sum, buf| sum.checked_add(buf.len() as u64));
        let len = len.ok_or(BlockError::Range { offset, len: u64::MAX })?;
        let mut bytes = self.range(offset, len)?;
        for buf in bufs {
            let Some((now, rest)) = bytes.split_at_checked(buf.len()) else { break };
            buf.write_slice(now, 0).map_err(|error| std::io::Error::other(error.to_string()))?;
            bytes = rest;
        }
        Ok(())
    }

    fn write_at(&self, _bufs: &[VolatileSlice<'_>], _offset: u64) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn zero(&self, _offset: u64, _len: u64, _unmap: bool) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn place(&self, offset: u64, len: u64, access: Access) -> Result<Placement, BlockError> {
        if access == Access::Write {
            return Err(BlockError::ReadOnly);
        }
        self.range(offset, len)?;
        Ok(Placement::Call { len })
    }

    fn plan_flush(&self) -> FlushPlan {
        FlushPlan::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> MemoryDisk {
        MemoryDisk::new((0..1025u32).map(|n| n as u8).collect())
    }

    fn read(disk: &MemoryDisk, offset: u64, lens: &[usize]) -> Result<Vec<u8>, BlockError> {
        let mut buffers: Vec<Vec<u8>> = lens.iter().map(|len| vec![0xaa; *len]).collect();
        let slices: Vec<VolatileSlice<'_>> =
            buffers.iter_mut().map(|b| VolatileSlice::from(b.as_mut_slice())).collect();
        disk.read_at(&slices, offset)?;
        drop(slices);
        Ok(buffers.concat())
    }

    #[test]
    fn reads_scatter_and_the_last_block_is_filled_up() {
        let disk = disk();
        assert_eq!(disk.info().capacity, 1536);
        let all = read(&disk, 0, &[1, 511, 1024]).unwrap();
        assert!(all[..1025].iter().enumerate().all(|(n, byte)| *byte == n as u8));
        assert!(all[1025..].iter().all(|byte| *byte == 0));
        assert_eq!(read(&disk, 512, &[512]).unwrap(), all[512..1024]);
        assert!(read(&disk, 1536, &[]).unwrap().is_empty());
    }

    #[test]
    fn ranges_are_checked_and_writes_refused() {
        let disk = disk();
        for (offset, len) in [(1, 512), (0, 100), (0, 2048), (1536, 512), (u64::MAX - 511, 512)] {
            let error = read(&disk, offset, &[len]).unwrap_err();
            assert!(matches!(error, BlockError::Range { .. }), "{offset} {len}: {error}");
        }
        assert!(matches!(disk.write_at(&[], 0), Err(BlockError::ReadOnly)));
        assert!(matches!(disk.discard(0, 512), Err(BlockError::ReadOnly)));
        assert!(matches!(disk.zero(0, 512, true), Err(BlockError::ReadOnly)));
        assert!(matches!(disk.place(0, 512, Access::Write), Err(BlockError::ReadOnly)));
        let place = disk.place(512, 1024, Access::Read).unwrap();
        assert!(matches!(place, Placement::Call { len: 1024 }));
        assert!(matches!(disk.plan_flush(), FlushPlan::Done));
    }
}

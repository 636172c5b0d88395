//! A raw disk: the bytes of a file or block device, or a window of them.
//!
//! A file whose length is off the 512-byte grid is taken as rounded up: the missing bytes of its
//! last sector read as zeroes, and a write there makes the file longer, to the grid. Discard and
//! zero punch holes (`fallocate`), or use the device's own commands; where the file system has no
//! holes a discard does nothing and a zero writes. Runs on the calling thread.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::VolatileSlice;

use super::file_io::{self, ImageFile};
use super::{Access, BlockBackend, BlockError, BlockInfo, Fault, FlushPlan, Placement, buffers};

/// The grid of virtio-blk.
const SECTOR: u64 = 512;

/// Which part of the file is the disk; bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// First byte of the disk in the file; on the 512-byte grid.
    pub offset: u64,
    /// Length of the disk, on the 512-byte grid; `None`: up to the end of the file.
    pub len: Option<u64>,
}

/// A raw disk.
pub struct Raw {
    image: ImageFile,
    offset: u64,
    info: BlockInfo,
    /// First disk byte that the file did not have when it was opened: from the sector that holds
    /// it, transfers must be calls, which fill up or extend.
    in_file: u64,
    punches: AtomicBool,
    zeroes: AtomicBool,
}

impl Raw {
    /// Takes a file as a raw disk.
    ///
    /// # Errors
    /// [`Fault`] when the file has no length, or the window does not fit it.
    pub fn open(file: File, window: Window, read_only: bool) -> Result<Self, Fault> {
        let image = ImageFile::new(file)?;
        Self::from_image(image, window, read_only)
    }

    fn from_image(image: ImageFile, window: Window, read_only: bool) -> Result<Self, Fault> {
        let (logical_block, physical_block) = if image.is_device() {
            let geometry = file_io::device_geometry(image.file())?;
            (geometry.logical_block, geometry.physical_block)
        } else {
            (SECTOR as u32, 4096)
        };
        let grid = u64::from(logical_block);
        let size = image.len()?;
        let bad_window = || Fault::Window { offset: window.offset, len: window.len, size };
        let rest = size.checked_sub(window.offset).ok_or_else(bad_window)?;
        let capacity = window.len.unwrap_or_else(|| rest.div_ceil(grid).saturating_mul(grid));
        let end = window.offset.checked_add(capacity).ok_or_else(bad_window)?;
        let off_grid = !window.offset.is_multiple_of(grid) || !capacity.is_multiple_of(grid);
        if off_grid || end > size.next_multiple_of(grid) || i64::try_from(end).is_err() {
            return Err(bad_window());
        }
        if capacity == 0 {
            return Err(Fault::Empty);
        }
        Ok(Self {
            offset: window.offset,
            in_file: rest.min(capacity) / grid * grid,
            info: BlockInfo {
                capacity,
                logical_block,
                physical_block,
                optimal_io: physical_block.max(4096),
                discard_granularity: physical_block.max(4096),
                read_only,
            },
            image,
            punches: AtomicBool::new(true),
            zeroes: AtomicBool::new(true),
        })
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.info.check(offset, len)
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.check(offset, len)
    }
}

impl BlockBackend for Raw {
    fn info(&self) -> BlockInfo {
        self.info
    }

    fn read_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        self.check(offset, buffers::total(bufs))?;
        self.image.read_vectored(bufs, self.offset + offset)
    }

    fn write_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        self.check_write(offset, buffers::total(bufs))?;
        self.image.write_vectored(bufs, self.offset + offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.info.read_only { Ok(()) } else { self.image.sync() }
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check_write(offset, len)?;
        if len > 0
            && self.punches.load(Ordering::Relaxed)
            && !self.image.punch_hole(self.offset + offset, len)?
        {
            self.punches.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.check_write(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let at = self.offset + offset;
        // Keeping the space is a wish; a hole is the next best way, before writing every byte.
        for unmap in [unmap, true] {
            let known = if unmap { &self.punches } else { &self.zeroes };
            if !known.load(Ordering::Relaxed) {
                continue;
            }
            if self.image.zero_range(at, len, unmap)? {
                return Ok(());
            }
            known.store(false, Ordering::Relaxed);
        }
        self.image.write_zeroes(at, len)
    }

    fn place(&self, offset: u64, len: u64, access: Access) -> Result<Placement, BlockError> {
        match access {
            Access::Read => self.check(offset, len)?,
            Access::Write => self.check_write(offset, len)?,
        }
        if offset >= self.in_file {
            return Ok(Placement::Call { len });
        }
        Ok(Placement::File {
            file: self.image.file().clone(),
            offset: self.offset + offset,
            len: len.min(self.in_file - offset),
            lease: None,
        })
    }

    fn plan_flush(&self) -> FlushPlan {
        if self.info.read_only {
            FlushPlan::Done
        } else if self.image.has_failed_to_sync() {
            FlushPlan::Call
        } else {
            FlushPlan::Sync(self.image.file().clone())
        }
    }

    fn sync_failed(&self, error: &std::io::Error) {
        self.image.sync_failed(error);
    }

    fn free_bytes(&self) -> Option<u64> {
        self.image.free_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn disk(bytes: &[u8]) -> Raw {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Raw::open(file, Window::default(), false).unwrap()
    }

    fn read(disk: &Raw, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0xee; len];
        disk.read_at(&[VolatileSlice::from(&mut buf[..])], offset).unwrap();
        buf
    }

    fn write(disk: &Raw, offset: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let mut buf = bytes.to_vec();
        disk.write_at(&[VolatileSlice::from(&mut buf[..])], offset)
    }

    #[test]
    fn a_partial_last_sector_is_padded_and_grows_when_written() {
        let disk = disk(&[5; 1000]);
        assert_eq!(disk.info().capacity, 1024);
        let sector = read(&disk, 512, 512);
        assert!(sector[..488].iter().all(|b| *b == 5) && sector[488..].iter().all(|b| *b == 0));
        assert!(matches!(
            disk.place(0, 1024, Access::Read).unwrap(),
            Placement::File { offset: 0, len: 512, .. }
        ));
        assert!(matches!(
            disk.place(512, 512, Access::Write).unwrap(),
            Placement::Call { len: 512 }
        ));
        write(&disk, 512, &[6; 512]).unwrap();
        assert_eq!(disk.image.len().unwrap(), 1024);
        assert!(read(&disk, 512, 512).iter().all(|b| *b == 6));
    }

    #[test]
    fn ranges_off_the_disk_or_grid_are_refused() {
        let disk = disk(&[0; 4096]);
        for (offset, len) in [(4096, 512), (3584, 1024), (u64::MAX - 511, 512), (1, 512), (0, 100)]
        {
            let error = disk.zero(offset, len, false).unwrap_err();
            assert!(matches!(error, BlockError::Range { .. }), "{offset} {len}");
            assert!(disk.place(offset, len, Access::Read).is_err(), "{offset} {len}");
        }
    }

    #[test]
    fn a_window_shows_its_part_only() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 512]).unwrap();
        file.write_all(&[2; 512]).unwrap();
        file.write_all(&[3; 512]).unwrap();
        let window = Window { offset: 512, len: Some(512) };
        let disk = Raw::open(file.try_clone().unwrap(), window, true).unwrap();
        assert_eq!(disk.info().capacity, 512);
        assert!(read(&disk, 0, 512).iter().all(|b| *b == 2));
        assert!(matches!(write(&disk, 0, &[0; 512]), Err(BlockError::ReadOnly)));
        for window in [
            Window { offset: 100, len: None },
            Window { offset: 2048, len: None },
            Window { offset: 512, len: Some(4096) },
            Window { offset: u64::MAX, len: Some(512) },
        ] {
            assert!(Raw::open(file.try_clone().unwrap(), window, true).is_err(), "{window:?}");
        }
    }

    #[test]
    fn zeroes_with_and_without_holes() {
        for (punches, zeroes) in [(true, true), (false, false), (true, false)] {
            for unmap in [false, true] {
                let disk = disk(&[9; 16384]);
                disk.punches.store(punches, Ordering::Relaxed);
                disk.zeroes.store(zeroes, Ordering::Relaxed);
                disk.zero(4096, 8192, unmap).unwrap();
                assert_eq!(read(&disk, 3584, 512), vec![9; 512]);
                assert_eq!(read(&disk, 4096, 8192), vec![0; 8192]);
                assert_eq!(read(&disk, 12288, 512), vec![9; 512]);
            }
        }
    }

    #[test]
    fn an_empty_file_is_no_disk() {
        let file = tempfile::tempfile().unwrap();
        let result = Raw::open(file, Window::default(), false);
        assert!(matches!(result, Err(Fault::Empty)));
    }
}

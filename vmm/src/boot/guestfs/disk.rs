//! Bytes of a disk, and of a range of it, for readers that ask in any size and at any place.
//!
//! [`Disk`] turns the block grid of a [`BlockBackend`] into bytes: it reads whole chunks and keeps
//! the last few, so that a filesystem reader that asks for an inode at a time costs one read of the
//! image per chunk. It also holds the budget: what a damaged or hostile filesystem can make its
//! reader fetch is limited in bytes and in calls, and a supervisor may call the whole thing off.
//! [`Volume`] is a range of the disk with a position, in the shapes that the readers ask for.
//!
//! Left out: writing. Runs on the thread that [`choose`](super::choose) starts, and only there.

use std::cell::RefCell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::block::{BlockBackend, BlockError};
use vm_memory::VolatileSlice;

/// Bytes fetched at a time; a qcow2 cluster of the usual size, so that a compressed cluster is
/// inflated once for all the small reads in it.
const CHUNK: u64 = 64 * 1024;

/// Chunks kept: 4 MiB in all.
const KEPT: usize = 64;

/// What a single read may take from the backend at once, in bytes.
const LARGEST_READ: u64 = 1 << 20;

/// Why bytes could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The range is not inside the disk or volume.
    #[error("{len} bytes at {offset} are outside the {size} bytes that there are")]
    Outside {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Size of the disk or volume in bytes.
        size: u64,
    },
    /// The budget is used up.
    #[error("gave up after reading {0} bytes of the disk: damaged, or made to be read for ever")]
    Budget(u64),
    /// The supervisor does not wait any longer.
    #[error("called off")]
    CalledOff,
    /// The disk failed.
    #[error("reading the disk failed")]
    Disk(#[from] BlockError),
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match error {
            ReadError::Outside { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// How much may be read before a search is given up.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes handed to readers, from the disk or from the kept chunks.
    pub bytes: u64,
    /// Calls of readers.
    pub calls: u64,
}

struct Spent {
    bytes: u64,
    calls: u64,
    exhausted: bool,
}

struct Chunk {
    start: u64,
    data: Vec<u8>,
    used: u64,
}

/// A disk as bytes, with a few chunks kept and a budget.
pub struct Disk {
    backend: Arc<dyn BlockBackend>,
    size: u64,
    block: u64,
    budget: Budget,
    called_off: Arc<AtomicBool>,
    spent: RefCell<Spent>,
    kept: RefCell<Vec<Chunk>>,
}

impl Disk {
    /// A disk over `backend`; setting `called_off` makes every later read fail.
    pub fn new(
        backend: Arc<dyn BlockBackend>,
        budget: Budget,
        called_off: Arc<AtomicBool>,
    ) -> Rc<Self> {
        let info = backend.info();
        let block = u64::from(info.logical_block).clamp(512, CHUNK);
        Rc::new(Disk {
            backend,
            size: info.capacity,
            block,
            budget,
            called_off,
            spent: RefCell::new(Spent { bytes: 0, calls: 0, exhausted: false }),
            kept: RefCell::new(Vec::new()),
        })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The disk's own logical block, in bytes.
    pub fn logical_block(&self) -> u64 {
        self.block
    }

    /// True once a read was refused because the budget was used up.
    pub fn exhausted(&self) -> bool {
        self.spent.borrow().exhausted
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// See [`ReadError`]; the contents of `buf` are then unspecified.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        let outside = ReadError::Outside { offset, len, size: self.size };
        match offset.checked_add(len) {
            Some(end) if end <= self.size => {}
            _ => return Err(outside),
        }
        self.pay(len)?;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let in_chunk = at % CHUNK;
            let direct = (rest.len() as u64).min(LARGEST_READ) / CHUNK * CHUNK;
            let step = if in_chunk == 0 && direct > 0 {
                // Whole chunks of a large file: straight to where they are wanted.
                let (now, _) = rest.split_at_mut(direct as usize);
                self.fetch(at, now)?;
                direct
            } else {
                let step = (CHUNK - in_chunk).min(rest.len() as u64);
                let (now, _) = rest.split_at_mut(step as usize);
                self.read_kept(at - in_chunk, in_chunk as usize, now)?;
                step
            };
            at += step;
            rest = rest.split_at_mut(step as usize).1;
        }
        Ok(())
    }

    /// Charges one call of `len` bytes.
    fn pay(&self, len: u64) -> Result<(), ReadError> {
        if self.called_off.load(Ordering::Relaxed) {
            return Err(ReadError::CalledOff);
        }
        let mut spent = self.spent.borrow_mut();
        let bytes = spent.bytes.saturating_add(len);
        if bytes > self.budget.bytes || spent.calls >= self.budget.calls {
            spent.exhausted = true;
            return Err(ReadError::Budget(spent.bytes));
        }
        spent.bytes = bytes;
        spent.calls += 1;
        Ok(())
    }

    /// Copies from the chunk at `start`, which is fetched if it is not kept.
    fn read_kept(&self, start: u64, from: usize, buf: &mut [u8]) -> Result<(), ReadError> {
        let now = self.spent.borrow().calls;
        let mut kept = self.kept.borrow_mut();
        let found = kept.iter().position(|chunk| chunk.start == start);
        let index = match found {
            Some(index) => index,
            None => {
                let mut data = vec![0; (self.size - start).min(CHUNK) as usize];
                self.fetch(start, &mut data)?;
                let chunk = Chunk { start, data, used: now };
                if kept.len() < KEPT {
                    kept.push(chunk);
                    kept.len() - 1
                } else {
                    let oldest = kept.iter().enumerate().min_by_key(|(_, chunk)| chunk.used);
                    let index = oldest.map_or(0, |(index, _)| index);
                    kept[index] = chunk;
                    index
                }
            }
        };
        let chunk = &mut kept[index];
        chunk.used = now;
        let outside = ReadError::Outside { offset: start, len: buf.len() as u64, size: self.size };
        let bytes = chunk.data.get(from..).and_then(|tail| tail.get(..buf.len())).ok_or(outside)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    /// Reads from the backend, on its grid: `offset` is on a chunk, and `buf` ends on one or at the
    /// end of the disk.
    fn fetch(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.backend.read_at(&[VolatileSlice::from(buf)], offset)?;
        Ok(())
    }
}

/// A range of a disk, with a position of its own.
#[derive(Clone)]
pub struct Volume {
    disk: Rc<Disk>,
    start: u64,
    len: u64,
    position: u64,
}

impl Volume {
    /// `len` bytes of `disk` from `start`, cut at the end of the disk.
    pub fn new(disk: &Rc<Disk>, start: u64, len: u64) -> Self {
        let len = len.min(disk.size().saturating_sub(start));
        Volume { disk: Rc::clone(disk), start, len, position: 0 }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Fills `buf` from `offset` in the volume.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        match offset.checked_add(len) {
            Some(end) if end <= self.len => self.disk.read(self.start + offset, buf),
            _ => Err(ReadError::Outside { offset, len, size: self.len }),
        }
    }
}

impl Read for Volume {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.position);
        let step = left.min(buf.len() as u64) as usize;
        self.read_exact_at(self.position, &mut buf[..step])?;
        self.position += step as u64;
        Ok(step)
    }
}

impl Seek for Volume {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(delta) => self.len.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl ext4_view::Ext4Read for Volume {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.read_exact_at(start_byte, dst)?)
    }
}

impl lamxfs::BlockRead for Volume {
    type Error = ReadError;

    fn read_at(&mut self, offset_bytes: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_exact_at(offset_bytes, buf)
    }
}

impl lambutter::BlockRead for Volume {
    type Error = ReadError;

    fn read_at(&mut self, offset_bytes: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_exact_at(offset_bytes, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testdisk::{MemoryDisk, open, open_with};
    use super::*;

    fn patterned(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index / 7) as u8 ^ (index >> 9) as u8).collect()
    }

    #[test]
    fn any_range_reads_as_it_lies_and_stays_on_the_grid() {
        let bytes = patterned(3 * CHUNK as usize + 4096);
        let disk = open(MemoryDisk::new(bytes.clone(), 4096));
        let places = [0, 1, 511, 4095, CHUNK - 1, CHUNK, 2 * CHUNK + 5];
        for offset in places {
            for len in [0, 1, 513, CHUNK, CHUNK + 3, 2 * CHUNK] {
                let (from, to) = (offset as usize, (offset + len) as usize);
                if to > bytes.len() {
                    continue;
                }
                let mut buf = vec![0; len as usize];
                disk.read(offset, &mut buf).unwrap();
                assert_eq!(buf, bytes[from..to], "{len} bytes at {offset}");
            }
        }
    }

    #[test]
    fn the_last_bytes_are_read_and_the_next_are_not() {
        let disk = open(MemoryDisk::new(patterned(CHUNK as usize + 512), 512));
        let mut buf = [0; 2];
        disk.read(CHUNK + 510, &mut buf).unwrap();
        assert!(matches!(disk.read(CHUNK + 511, &mut buf), Err(ReadError::Outside { .. })));
        assert!(matches!(disk.read(u64::MAX, &mut buf), Err(ReadError::Outside { .. })));
    }

    #[test]
    fn small_reads_cost_one_fetch_a_chunk() {
        let backend = Arc::new(MemoryDisk::new(patterned(4 * CHUNK as usize), 512));
        let disk = open_with(Arc::clone(&backend), Budget { bytes: u64::MAX, calls: u64::MAX });
        let mut buf = [0; 100];
        for offset in 0..(CHUNK / 100) {
            disk.read(offset * 100, &mut buf).unwrap();
        }
        assert_eq!(backend.reads(), 1);
    }

    #[test]
    fn old_chunks_make_room() {
        let bytes = patterned((KEPT + 8) * CHUNK as usize);
        let disk = open(MemoryDisk::new(bytes.clone(), 512));
        let mut buf = [0; 16];
        for round in 0..2 {
            for chunk in 0..(KEPT + 8) {
                let at = chunk * CHUNK as usize + 32 + round;
                disk.read(at as u64, &mut buf).unwrap();
                assert_eq!(buf, bytes[at..at + 16]);
            }
        }
        assert!(disk.kept.borrow().len() <= KEPT);
    }

    #[test]
    fn the_budget_ends_reading() {
        let backend = Arc::new(MemoryDisk::new(patterned(4096), 512));
        let disk = open_with(Arc::clone(&backend), Budget { bytes: 1000, calls: 100 });
        let mut buf = [0; 400];
        disk.read(0, &mut buf).unwrap();
        disk.read(0, &mut buf).unwrap();
        assert!(!disk.exhausted());
        assert!(matches!(disk.read(0, &mut buf), Err(ReadError::Budget(800))));
        assert!(disk.exhausted());

        let disk = open_with(backend, Budget { bytes: u64::MAX, calls: 1 });
        disk.read(0, &mut buf).unwrap();
        assert!(matches!(disk.read(0, &mut buf), Err(ReadError::Budget(400))));
    }

    #[test]
    fn called_off_ends_reading() {
        let flag = Arc::new(AtomicBool::new(false));
        let backend = Arc::new(MemoryDisk::new(patterned(4096), 512));
        let budget = Budget { bytes: u64::MAX, calls: u64::MAX };
        let disk = Disk::new(backend, budget, Arc::clone(&flag));
        let mut buf = [0; 1];
        disk.read(0, &mut buf).unwrap();
        flag.store(true, Ordering::Relaxed);
        assert!(matches!(disk.read(0, &mut buf), Err(ReadError::CalledOff)));
    }

    #[test]
    fn a_volume_is_its_range_and_no_more() {
        let bytes = patterned(8192);
        let disk = open(MemoryDisk::new(bytes.clone(), 512));
        let mut volume = Volume::new(&disk, 1024, 2048);
        let mut all = Vec::new();
        volume.read_to_end(&mut all).unwrap();
        assert_eq!(all, bytes[1024..3072]);
        assert_eq!(volume.seek(SeekFrom::End(-1)).unwrap(), 2047);
        assert!(volume.seek(SeekFrom::Current(-4096)).is_err());
        let mut buf = [0; 2];
        assert!(volume.read_exact_at(2047, &mut buf).is_err());
        // Longer than the disk: cut.
        assert_eq!(Volume::new(&disk, 8000, u64::MAX).size(), 192);
        assert_eq!(Volume::new(&disk, u64::MAX, 1).size(), 0);
    }
}

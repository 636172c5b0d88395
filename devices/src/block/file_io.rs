//! Positioned, vectored I/O between memory and files, and the few kernel calls that std lacks:
//! `preadv`/`pwritev`, `fallocate`, block-device ioctls, open-file-description locks.
//!
//! Transfers are whole: short ones are continued, interrupted ones repeated, long lists of buffers
//! cut at the kernel's limit. What lies beyond the end of a file reads as zeroes. Buffered I/O
//! only; no alignment is asked for. Runs on the calling thread.
#![allow(unsafe_code)] // Guest memory is handed to the kernel by address; libc calls have no safe form.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::statvfs::fstatvfs;
use vm_memory::VolatileSlice;

use super::BlockError;
use super::buffers;

/// Most buffers the kernel takes in one call (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// `<linux/fs.h>`: logical block size in bytes, a C int.
const BLKSSZGET: libc::Ioctl = 0x1268;
/// `<linux/fs.h>`: physical block size in bytes, a C unsigned int.
const BLKPBSZGET: libc::Ioctl = 0x127b;
/// `<linux/fs.h>`: size of the device in bytes, 64 bits.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;
/// `<linux/fs.h>`: discard a `[start, length]` pair in bytes.
const BLKDISCARD: libc::Ioctl = 0x1277;
/// `<linux/fs.h>`: zero a `[start, length]` pair in bytes.
const BLKZEROOUT: libc::Ioctl = 0x127f;

/// The error kind for a failed call: a full host is told apart from a broken one.
pub(super) fn block_error(error: io::Error) -> BlockError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => BlockError::NoSpace,
        _ => BlockError::Io(error),
    }
}

/// Whether a call failed because the file system or device lacks it.
fn lacks(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::ENODEV | libc::EINVAL)
    )
}

/// The file or device that holds an image.
pub(super) struct ImageFile {
    file: Arc<File>,
    device: bool,
    /// A sync has failed; see [`sync`](Self::sync).
    unsynced: AtomicBool,
    #[cfg(test)]
    recorder: Option<Arc<super::recorder::Recorder>>,
}

/// What a block device says of itself, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceGeometry {
    /// Smallest unit of I/O.
    pub logical_block: u32,
    /// Unit that is written without reading first.
    pub physical_block: u32,
}

impl ImageFile {
    /// Takes the file over.
    ///
    /// # Errors
    /// Its type cannot be told, or is neither a regular file nor a block device.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "neither a regular file nor a block device",
            ));
        }
        Ok(Self {
            file: Arc::new(file),
            device: kind.is_block_device(),
            unsynced: AtomicBool::new(false),
            #[cfg(test)]
            recorder: None,
        })
    }

    /// The same, with every change written down for a test.
    #[cfg(test)]
    pub(super) fn recorded(
        file: File,
        recorder: Arc<super::recorder::Recorder>,
    ) -> io::Result<Self> {
        Ok(Self { recorder: Some(recorder), ..Self::new(file)? })
    }

    /// The file itself, for transfers that the caller does.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether this is a block device.
    pub(super) fn is_device(&self) -> bool {
        self.device
    }

    /// Current length in bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        if self.device { device_size(&self.file) } else { Ok(self.file.metadata()?.len()) }
    }

    /// Fills `buf` from `offset`; zeroes beyond the end of the file.
    pub(super) fn read(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), BlockError> {
        while !buf.is_empty() {
            match self.file.read_at(buf, offset) {
                Ok(0) => {
                    buf.fill(0);
                    return Ok(());
                }
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset = offset.saturating_add(n as u64);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(block_error(e)),
            }
        }
        Ok(())
    }

    /// Writes all of `buf` at `offset`.
    pub(super) fn write(&self, buf: &[u8], offset: u64) -> Result<(), BlockError> {
        #[cfg(test)]
        if let Some(recorder) = &self.recorder {
            recorder.write(offset, buf)?;
        }
        self.file.write_all_at(buf, offset).map_err(block_error)
    }

    /// Fills `bufs` from `offset`; zeroes beyond the end of the file.
    pub(super) fn read_vectored(
        &self,
        bufs: &[VolatileSlice<'_>],
        offset: u64,
    ) -> Result<(), BlockError> {
        let done = transfer(&self.file, bufs, offset, Direction::Read).map_err(block_error)?;
        let total = buffers::total(bufs);
        if done < total {
            buffers::fill_zero(&buffers::part(bufs, done, total - done));
        }
        Ok(())
    }

    /// Writes all of `bufs` at `offset`.
    pub(super) fn write_vectored(
        &self,
        bufs: &[VolatileSlice<'_>],
        offset: u64,
    ) -> Result<(), BlockError> {
        #[cfg(test)]
        if let Some(recorder) = &self.recorder {
            recorder.write(offset, &buffers::to_vec(bufs))?;
        }
        transfer(&self.file, bufs, offset, Direction::Write).map_err(block_error)?;
        Ok(())
    }

    /// Writes `len` zeroes at `offset` as data.
    pub(super) fn write_zeroes(&self, mut offset: u64, mut len: u64) -> Result<(), BlockError> {
        const ZEROES: &[u8] = &[0; 64 << 10];
        while len > 0 {
            let n = len.min(ZEROES.len() as u64);
            self.write(&ZEROES[..n as usize], offset)?;
            offset += n;
            len -= n;
        }
        Ok(())
    }

    /// Makes a regular file longer, or cuts off what is not used.
    pub(super) fn set_len(&self, len: u64) -> Result<(), BlockError> {
        #[cfg(test)]
        if let Some(recorder) = &self.recorder {
            recorder.set_len(len);
        }
        self.file.set_len(len).map_err(block_error)
    }

    /// Makes everything written so far durable (`fdatasync`). Once that has failed it is never
    /// tried again: the kernel may have dropped what it could not write, a full host included, and
    /// the next call would then say that all is well.
    pub(super) fn sync(&self) -> Result<(), BlockError> {
        if self.has_failed_to_sync() {
            return Err(BlockError::Io(io::Error::other("what was written before may be lost")));
        }
        #[cfg(test)]
        if let Some(recorder) = &self.recorder {
            recorder.sync().inspect_err(|error| self.sync_failed(error))?;
        }
        self.file.sync_data().map_err(|error| {
            self.sync_failed(&error);
            BlockError::Io(error)
        })
    }

    /// Whether a sync has failed.
    pub(super) fn has_failed_to_sync(&self) -> bool {
        self.unsynced.load(Ordering::Acquire)
    }

    /// Notes that a sync has failed.
    pub(super) fn sync_failed(&self, error: &io::Error) {
        if !self.unsynced.swap(true, Ordering::AcqRel) {
            log::error!(
                "a disk image could not be made durable: {error}; every flush of it fails from now \
                 on, until it is opened anew"
            );
        }
    }

    /// Bytes that its filesystem has left for this user; `None` for devices.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        if self.device {
            return None;
        }
        let filesystem = fstatvfs(&*self.file).ok()?;
        filesystem.blocks_available().checked_mul(filesystem.fragment_size())
    }

    /// Gives the range's space back; it reads as zeroes or as before. Returns whether that worked:
    /// not every file system or device can.
    pub(super) fn punch_hole(&self, offset: u64, len: u64) -> Result<bool, BlockError> {
        let result = if self.device {
            device_range(&self.file, BLKDISCARD, offset, len)
        } else {
            #[cfg(test)]
            if let Some(recorder) = &self.recorder {
                recorder.punch(offset, len);
            }
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            fallocate(&self.file, mode, offset, len)
        };
        supported(result)
    }

    /// Makes the range read as zeroes, giving its space back if `unmap`. Returns false where the
    /// file system or device cannot; then nothing has changed.
    pub(super) fn zero_range(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> Result<bool, BlockError> {
        // A discarded device need not read as zeroes, so devices get the ioctl that promises it.
        let result = if self.device {
            device_range(&self.file, BLKZEROOUT, offset, len)
        } else if unmap {
            return self.punch_hole(offset, len);
        } else {
            let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
            fallocate(&self.file, mode, offset, len)
        };
        supported(result)
    }
}

fn supported(result: io::Result<()>) -> Result<bool, BlockError> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if lacks(&e) => Ok(false),
        Err(e) => Err(block_error(e)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// Moves all of `bufs`; returns the bytes moved, fewer than asked only at the end of the file.
fn transfer(
    file: &File,
    bufs: &[VolatileSlice<'_>],
    offset: u64,
    direction: Direction,
) -> io::Result<u64> {
    let mut iovecs: Vec<libc::iovec> = bufs
        .iter()
        .filter(|b| !b.is_empty())
        .map(|b| libc::iovec { iov_base: b.ptr_guard_mut().as_ptr().cast(), iov_len: b.len() })
        .collect();
    let mut first = 0;
    let mut done: u64 = 0;
    while first < iovecs.len() {
        let position = offset.checked_add(done).and_then(|p| i64::try_from(p).ok());
        let Some(position) = position else {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        };
        let batch = &iovecs[first..iovecs.len().min(first + IOV_MAX)];
        let count = batch.len() as libc::c_int;
        // SAFETY: every iovec names a live `VolatileSlice`, which the borrow of `bufs` keeps valid
        // for this whole call; the kernel writes (reads) no more than `iov_len` bytes of each, and
        // concurrent access to such memory is allowed by the type.
        let n = unsafe {
            match direction {
                Direction::Read => libc::preadv(file.as_raw_fd(), batch.as_ptr(), count, position),
                Direction::Write => {
                    libc::pwritev(file.as_raw_fd(), batch.as_ptr(), count, position)
                }
            }
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if n == 0 {
            match direction {
                Direction::Read => return Ok(done),
                Direction::Write => return Err(ErrorKind::WriteZero.into()),
            }
        }
        done += n as u64;
        let mut moved = n as usize;
        while moved > 0 {
            let head = &mut iovecs[first];
            let step = moved.min(head.iov_len);
            head.iov_len -= step;
            head.iov_base = head.iov_base.wrapping_byte_add(step);
            moved -= step;
            if head.iov_len == 0 {
                first += 1;
            }
        }
    }
    Ok(done)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    };
    loop {
        // SAFETY: plain integers only.
        let result = check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) });
        match result {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn device_range(file: &File, request: libc::Ioctl, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: both requests read two u64 from the pointer, which points to two.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, range.as_ptr()) })
}

fn device_size(file: &File) -> io::Result<u64> {
    let mut size: u64 = 0;
    // SAFETY: the request writes one u64 to the pointer, which points to one.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) })?;
    Ok(size)
}

/// Asks a block device for its size and block sizes.
pub(super) fn device_geometry(file: &File) -> io::Result<DeviceGeometry> {
    let mut logical: libc::c_int = 0;
    let mut physical: libc::c_uint = 0;
    // SAFETY: the request writes one C int to the pointer, which points to one.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &raw mut logical) })?;
    // SAFETY: the request writes one C unsigned int to the pointer, which points to one.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKPBSZGET, &raw mut physical) })?;
    Ok(DeviceGeometry {
        logical_block: u32::try_from(logical).unwrap_or(512).max(512),
        physical_block: physical.max(512),
    })
}

fn lock_byte(kind: libc::c_int, byte: u64) -> libc::flock {
    // SAFETY: `flock` is a plain C struct, for which all zeroes are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = byte as libc::off_t;
    lock.l_len = 1;
    lock
}

/// Takes a shared open-file-description lock on one byte of the file.
///
/// # Errors
/// `EAGAIN` when somebody holds it exclusively; others when the file system has no locks.
pub(super) fn share_byte(file: &File, byte: u64) -> io::Result<()> {
    let lock = lock_byte(libc::F_RDLCK, byte);
    // SAFETY: the command reads one `flock` through the pointer, which points to one.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })
}

/// Gives a byte's lock back.
pub(super) fn release_byte(file: &File, byte: u64) -> io::Result<()> {
    let lock = lock_byte(libc::F_UNLCK, byte);
    // SAFETY: the command reads one `flock` through the pointer, which points to one.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })
}

/// Whether another open file description holds any lock on the byte.
pub(super) fn byte_is_held(file: &File, byte: u64) -> io::Result<bool> {
    let mut lock = lock_byte(libc::F_WRLCK, byte);
    // SAFETY: the command reads and writes one `flock` through the pointer, which points to one.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> ImageFile {
        ImageFile::new(tempfile::tempfile().unwrap()).unwrap()
    }

    #[test]
    fn more_buffers_than_the_kernel_takes_are_moved_in_batches() {
        let image = scratch();
        let mut data: Vec<u8> = (0..3 * IOV_MAX * 7).map(|i| (i % 251) as u8).collect();
        let expected = data.clone();
        let bufs: Vec<_> = data.chunks_mut(7).map(VolatileSlice::from).collect();
        image.write_vectored(&bufs, 11).unwrap();
        let mut back = vec![0u8; expected.len()];
        let bufs: Vec<_> = back.chunks_mut(5).map(VolatileSlice::from).collect();
        image.read_vectored(&bufs, 11).unwrap();
        assert!(back == expected);
    }

    #[test]
    fn what_lies_beyond_the_end_reads_as_zeroes() {
        let image = scratch();
        image.write(b"abc", 0).unwrap();
        let mut buf = [0xff; 8];
        image.read(&mut buf, 1).unwrap();
        assert_eq!(&buf, b"bc\0\0\0\0\0\0");
        let (mut a, mut b) = ([0xff; 2], [0xff; 4]);
        let bufs = [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..])];
        image.read_vectored(&bufs, 0).unwrap();
        assert_eq!((&a, &b), (b"ab", b"c\0\0\0"));
    }

    #[test]
    fn a_hole_reads_as_zeroes_and_keeps_the_length() {
        let image = scratch();
        image.write(&[7; 12288], 0).unwrap();
        if !image.zero_range(4096, 4096, true).unwrap() {
            eprintln!("skipped: the temporary directory's file system has no holes");
            return;
        }
        assert_eq!(image.len().unwrap(), 12288);
        let mut buf = [1; 4098];
        image.read(&mut buf, 4095).unwrap();
        assert_eq!((buf[0], buf[4097]), (7, 7));
        assert!(buf[1..4097].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_full_host_is_told_apart() {
        for errno in [libc::ENOSPC, libc::EDQUOT] {
            let error = block_error(io::Error::from_raw_os_error(errno));
            assert!(matches!(error, BlockError::NoSpace));
        }
        let error = block_error(io::Error::from_raw_os_error(libc::EIO));
        assert!(matches!(error, BlockError::Io(_)));
    }

    #[test]
    fn a_pipe_is_no_image() {
        let (reader, _writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(reader));
        assert!(ImageFile::new(file).is_err());
    }
}

//! File I/O that need not wait: done at once in the caller's thread, without a ring.
//!
//! A transfer that the page cache can serve is one system call and one copy; through an io_uring it
//! may cost two context switches, since the kernel hands what a file system cannot do without
//! sleeping (buffered writes on ext4, anything on tmpfs) to a worker thread. So a queue's thread
//! first tries here:
//!
//! | file | read | write |
//! |---|---|---|
//! | in memory (tmpfs, ramfs, hugetlbfs) | now | now |
//! | regular, through the page cache | now, if cached | now, if it need not sleep (XFS, btrfs), or if the kernel would queue it behind one worker per file anyway |
//! | O_DIRECT, block device, anything else | by the ring | by the ring |
//!
//! A buffered write that runs into the host's limit of dirty pages sleeps, and its queue with it.
#![allow(unsafe_code)] // preadv2(2) and pwritev2(2) on guest memory, fstatfs(2), fcntl(2).

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::ring::{Direction, MAX_PIECES};

/// Files whose kind is remembered; a disk has one, or a few with its backing files.
const MAX_FILES: usize = 8;
/// File systems in memory (linux/magic.h): TMPFS_MAGIC, HUGETLBFS_MAGIC, RAMFS_MAGIC.
const MEMORY_MAGICS: [u64; 3] = [0x0102_1994, 0x9584_58f6, 0x8584_58f6];
/// After so many misses in a row, reads go to the ring...
const PATIENCE: u32 = 8;
/// ...but for one in so many, to see whether the cache has warmed up.
const SAMPLE: u32 = 32;

/// What came of an attempt.
#[derive(Debug)]
pub enum Attempt {
    /// All of it is done.
    Done,
    /// It would have to wait, or more is to be said about it: let the ring do it.
    Later,
}

/// One thread's attempts, and what it knows of its files.
#[derive(Default)]
pub struct Inline {
    files: Vec<Known>,
    iovecs: Vec<libc::iovec>,
}

struct Known {
    /// Kept, so that the address is no other file's.
    file: Arc<File>,
    kind: Kind,
    misses: u32,
    /// The file system can write without sleeping, or say that it cannot.
    nowait_writes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Cached,
    Other,
}

// SAFETY: `iovecs` is scratch: its pointers are used only within the call that put them there.
unsafe impl Send for Inline {}

impl Inline {
    /// Tries to move all of `pieces` at `offset` of `file`. Errors are the ring's to report.
    pub fn transfer(
        &mut self,
        file: &Arc<File>,
        offset: u64,
        direction: Direction,
        pieces: &[VolatileSlice<'_>],
    ) -> Attempt {
        let Ok(offset) = libc::off_t::try_from(offset) else { return Attempt::Later };
        let index = self.find(file);
        let known = &mut self.files[index];
        let flags = match (known.kind, direction) {
            (Kind::Other, _) => return Attempt::Later,
            (Kind::Memory, _) => 0,
            (Kind::Cached, Direction::Read) => {
                if known.misses >= PATIENCE && !known.misses.is_multiple_of(SAMPLE) {
                    known.misses = known.misses.wrapping_add(1).max(PATIENCE);
                    return Attempt::Later;
                }
                libc::RWF_NOWAIT
            }
            (Kind::Cached, Direction::Write) if known.nowait_writes => libc::RWF_NOWAIT,
            (Kind::Cached, Direction::Write) => 0,
        };
        self.iovecs.clear();
        self.iovecs.extend(pieces.iter().take(MAX_PIECES).map(|piece| libc::iovec {
            iov_base: piece.ptr_guard_mut().as_ptr().cast(),
            iov_len: piece.len(),
        }));
        let wanted: usize = pieces.iter().map(VolatileSlice::len).sum();
        let known = &mut self.files[index];
        let mut moved = vectored(file, offset, direction, &self.iovecs, flags);
        if let (Err(error), Direction::Write) = (&moved, direction)
            && flags != 0
            && error.raw_os_error() == Some(libc::EOPNOTSUPP)
        {
            known.nowait_writes = false;
            moved = vectored(file, offset, direction, &self.iovecs, 0);
        }
        if matches!(moved, Ok(count) if count == wanted) {
            known.misses = 0;
            return Attempt::Done;
        }
        if direction == Direction::Read {
            known.misses = known.misses.wrapping_add(1);
        }
        Attempt::Later
    }

    /// Whether a sync of `file` has nothing to do.
    pub fn is_volatile(&mut self, file: &Arc<File>) -> bool {
        let index = self.find(file);
        self.files[index].kind == Kind::Memory
    }

    fn find(&mut self, file: &Arc<File>) -> usize {
        if let Some(index) = self.files.iter().position(|known| Arc::ptr_eq(&known.file, file)) {
            return index;
        }
        if self.files.len() >= MAX_FILES {
            self.files.remove(0);
        }
        let kind = Kind::of(file);
        self.files.push(Known { file: file.clone(), kind, misses: 0, nowait_writes: true });
        self.files.len() - 1
    }
}

impl Kind {
    fn of(file: &File) -> Kind {
        let regular = file
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() && !metadata.file_type().is_block_device());
        // SAFETY: F_GETFL takes no pointers.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        if !regular || flags < 0 {
            return Kind::Other;
        }
        let mut stat = MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: fstatfs fills the struct, or fails.
        if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } < 0 {
            return Kind::Other;
        }
        // SAFETY: fstatfs has filled it.
        let magic = unsafe { stat.assume_init() }.f_type;
        if MEMORY_MAGICS.contains(&(magic as u64)) {
            Kind::Memory
        } else if flags & libc::O_DIRECT != 0 {
            Kind::Other
        } else {
            Kind::Cached
        }
    }
}

fn vectored(
    file: &File,
    offset: libc::off_t,
    direction: Direction,
    iovecs: &[libc::iovec],
    flags: libc::c_int,
) -> io::Result<usize> {
    let (fd, list, count) = (file.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as libc::c_int);
    // SAFETY: each iovec is guest memory borrowed by the caller: readable, writable, and alive
    // through the call. At most `MAX_PIECES` of them.
    let moved = unsafe {
        match direction {
            Direction::Read => libc::preadv2(fd, list, count, offset, flags),
            Direction::Write => libc::pwritev2(fd, list, count, offset, flags),
        }
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::mem::GuestRam;

    #[test]
    fn what_can_be_done_now_is() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let pieces = [(0x10, 100), (0x1000, 412)]
            .map(|(at, len)| memory.get_slice(GuestAddress(at), len).unwrap());
        let mut inline = Inline::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        memory.write_slice(&[7; 0x2000], GuestAddress(0)).unwrap();
        let written = inline.transfer(&file, 512, Direction::Write, &pieces);
        assert!(matches!(written, Attempt::Done), "no file system makes this wait");
        let mut data = [0; 1024];
        file.read_exact_at(&mut data, 0).unwrap();
        assert_eq!((&data[..512], &data[512..]), (&[0; 512][..], &[7; 512][..]));
        memory.write_slice(&[0; 0x2000], GuestAddress(0)).unwrap();
        let read = inline.transfer(&file, 512, Direction::Read, &pieces);
        assert!(matches!(read, Attempt::Done), "it was just written");
        assert_eq!(pieces[0].read_obj::<u8>(99).unwrap(), 7);
        assert_eq!(pieces[1].read_obj::<u8>(411).unwrap(), 7);
        // Past the end of the file: what that means is the ring's to say.
        let read = inline.transfer(&file, 800, Direction::Read, &pieces);
        assert!(matches!(read, Attempt::Later));
        let far = inline.transfer(&file, u64::MAX, Direction::Read, &pieces);
        assert!(matches!(far, Attempt::Later));
    }

    #[test]
    fn files_are_told_apart_and_a_few_remembered() {
        let mut inline = Inline::default();
        let null = Arc::new(File::open("/dev/null").unwrap());
        assert!(matches!(inline.transfer(&null, 0, Direction::Read, &[]), Attempt::Later));
        let files: Vec<_> = (0..20).map(|_| Arc::new(tempfile::tempfile().unwrap())).collect();
        for file in &files {
            inline.is_volatile(file);
        }
        assert_eq!(inline.files.len(), MAX_FILES);
        assert_eq!(Arc::strong_count(&files[0]), 1, "forgotten files are let go");
        if let Ok(shared) = tempfile::tempfile_in("/dev/shm") {
            assert_eq!(Kind::of(&shared), Kind::Memory);
        }
    }

    #[test]
    fn a_cold_cache_is_asked_less_and_less() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let piece = [memory.get_slice(GuestAddress(0), 512).unwrap()];
        let mut inline = Inline::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        // An empty file misses like a cold one.
        for _ in 0..1000 {
            inline.transfer(&file, 0, Direction::Read, &piece);
        }
        if inline.files[0].kind == Kind::Cached {
            assert_eq!(inline.files[0].misses, 1000);
        }
        file.write_all_at(&[1; 512], 0).unwrap();
        let hit = (0..SAMPLE)
            .any(|_| matches!(inline.transfer(&file, 0, Direction::Read, &piece), Attempt::Done));
        assert!(hit, "a warm cache is found again");
        assert_eq!(inline.files[0].misses, 0);
    }
}

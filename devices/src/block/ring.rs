//! An io_uring for one thread: vectored file I/O straight from guest memory, syncs, and eventfds,
//! all waited for in one system call.
//!
//! An operation owns what the kernel uses while it runs: its iovecs, its file, its lease, and a
//! share in the guest's RAM. Dropping the ring waits for every operation. Short transfers are
//! continued here; what comes out is whole, or an error.
//!
//! Eventfds are watched by multishot polls (Linux 5.13), which cost nothing per signal; older
//! kernels get a poll that is armed anew after each. `SINGLE_ISSUER` and `DEFER_TASKRUN` (Linux
//! 6.1) keep completions from interrupting the thread; without them it works the same.
#![allow(unsafe_code)] // Submitting an operation vouches for the memory that the kernel will use.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::register::Restriction;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};
use vm_memory::VolatileSlice;

use super::Lease;
use crate::event::Event;
use crate::mem::{GuestMemory, GuestRam};

/// Most pieces of one operation: the host's `IOV_MAX`.
pub const MAX_PIECES: usize = 1024;
/// The kernel moves at most this much in one operation (`MAX_RW_COUNT`).
const MAX_BYTES: usize = 0x7fff_f000;
/// User data of event polls: this, plus the event's number.
const EVENT_TAG: u64 = 1 << 32;
/// So often an operation is repeated at `EAGAIN` before that is its result.
const MAX_RETRIES: u8 = 16;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file to guest memory.
    Read,
    /// From guest memory to the file.
    Write,
}

/// Where a transfer's data lies in the file.
pub struct Extent {
    /// The file.
    pub file: Arc<File>,
    /// Position in it, in bytes.
    pub offset: u64,
    /// Held until the transfer has ended.
    pub lease: Lease,
}

/// Something has ended.
#[derive(Debug)]
pub enum Completion {
    /// Event number so-and-so was signalled, perhaps several times.
    Event(usize),
    /// An operation.
    Done {
        /// As it was given.
        token: Token,
        /// How it went.
        result: io::Result<()>,
    },
}

/// What the submitter wants to be told at the end of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// Which request.
    pub slot: usize,
    /// Where in the request's data the transfer began, in bytes.
    pub at: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// The ring, and what is in flight in it.
pub struct Ring<'m> {
    uring: IoUring,
    ops: Vec<Op>,
    free: Vec<usize>,
    events: Vec<Event>,
    multishot: bool,
    /// Kept for the kernel's sake: should this ring ever be leaked, so is the memory.
    _memory: GuestMemory,
    _pieces: PhantomData<&'m GuestRam>,
}

#[derive(Default)]
struct Op {
    token: Token,
    kind: Option<Kind>,
    file: Option<Arc<File>>,
    lease: Lease,
    /// Position in the file of what is left.
    offset: u64,
    iovecs: Vec<libc::iovec>,
    /// The first iovec that is not done.
    first: usize,
    /// Bytes left.
    left: usize,
    retries: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Transfer(Direction),
    Sync,
}

// SAFETY: the pointers in the iovecs are addresses of guest memory, which any thread may use.
unsafe impl Send for Op {}

/// A ring that no thread owns yet: the thread that calls [`Idle::enter`] does.
pub struct Idle {
    uring: IoUring,
    ops: usize,
}

impl Idle {
    /// A ring for `ops` operations at once.
    ///
    /// # Errors
    /// When the kernel has no io_uring, or does not allow it here.
    pub fn new(ops: u16) -> io::Result<Idle> {
        // Room for every operation and a poll for each of a few events, all at once.
        let entries = u32::from(ops) + 8;
        let mut builder = IoUring::builder();
        builder.dontfork().setup_r_disabled().setup_clamp();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let uring = builder.build(entries).or_else(|_| {
            let mut plain = IoUring::builder();
            plain.dontfork().setup_r_disabled().setup_clamp();
            plain.build(entries)
        })?;
        // What it is for, and nothing else, whoever may come to submit to it: a ring could open
        // files and sockets too.
        let codes =
            [opcode::PollAdd::CODE, opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE];
        let codes = codes.into_iter().chain([opcode::Readv::CODE, opcode::Writev::CODE]);
        let mut allowed: Vec<Restriction> = codes.map(Restriction::sqe_op).collect();
        uring.submitter().register_restrictions(&mut allowed)?;
        Ok(Idle { uring, ops: usize::from(ops) })
    }

    /// Makes the ring this thread's own, and watches `events`, at most 8.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter<'m>(self, memory: GuestMemory, events: Vec<Event>) -> io::Result<Ring<'m>> {
        self.uring.submitter().register_enable_rings()?;
        let mut ring = Ring {
            uring: self.uring,
            ops: (0..self.ops).map(|_| Op::default()).collect(),
            free: (0..self.ops).rev().collect(),
            events,
            multishot: true,
            _memory: memory,
            _pieces: PhantomData,
        };
        for event in 0..ring.events.len() {
            ring.watch(event);
        }
        Ok(ring)
    }
}

impl<'m> Ring<'m> {
    /// Whether another operation can be started.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.ops.len() - self.free.len()
    }

    /// Starts a transfer between `extent` and `pieces`, at most [`MAX_PIECES`] of them. False when
    /// there is no room for it.
    pub fn transfer(
        &mut self,
        token: Token,
        direction: Direction,
        extent: Extent,
        pieces: impl Iterator<Item = VolatileSlice<'m>>,
    ) -> bool {
        let Some(index) = self.free.pop() else { return false };
        let op = &mut self.ops[index];
        op.iovecs.clear();
        op.iovecs.extend(pieces.take(MAX_PIECES).map(|piece| libc::iovec {
            iov_base: piece.ptr_guard_mut().as_ptr().cast(),
            iov_len: piece.len(),
        }));
        op.left = op.iovecs.iter().map(|iovec| iovec.iov_len).sum();
        (op.token, op.kind) = (token, Some(Kind::Transfer(direction)));
        (op.first, op.retries) = (0, 0);
        (op.file, op.offset, op.lease) = (Some(extent.file), extent.offset, extent.lease);
        self.submit_op(index);
        true
    }

    /// Starts an `fdatasync` of `file`. False when there is no room for it.
    pub fn sync(&mut self, token: Token, file: Arc<File>) -> bool {
        let Some(index) = self.free.pop() else { return false };
        let op = &mut self.ops[index];
        op.iovecs.clear();
        (op.token, op.kind, op.file) = (token, Some(Kind::Sync), Some(file));
        (op.lease, op.first, op.left, op.retries) = (None, 0, 0, 0);
        self.submit_op(index);
        true
    }

    /// Hands everything that was started to the kernel, and sleeps until something has ended.
    ///
    /// # Errors
    /// When the ring is unusable.
    pub fn wait(&mut self) -> io::Result<()> {
        self.enter(1)
    }

    /// Hands everything that was started to the kernel, and lets it report what has ended.
    ///
    /// # Errors
    /// When the ring is unusable.
    pub fn submit(&mut self) -> io::Result<()> {
        let submission = self.uring.submission();
        if submission.is_empty() && !submission.taskrun() {
            return Ok(());
        }
        drop(submission);
        self.enter(0)
    }

    /// The next thing that has ended, if any.
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.uring.completion().next()?;
            let user = entry.user_data();
            let completion = match user.checked_sub(EVENT_TAG) {
                Some(event) => self.event_ended(event as usize, &entry),
                None => self.op_ended(user as usize, entry.result()),
            };
            if completion.is_some() {
                return completion;
            }
        }
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        match self.uring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            // Interrupted, or completions are to be taken first: the caller does, and comes back.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ETIME)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn event_ended(&mut self, event: usize, entry: &cqueue::Entry) -> Option<Completion> {
        if entry.result() == -libc::EINVAL && self.multishot {
            // A kernel before 5.13: every watch has failed, or will, and comes by here.
            self.multishot = false;
            self.watch(event);
            return None;
        }
        if !cqueue::more(entry.flags()) {
            if let Some(event) = self.events.get(event) {
                event.take();
            }
            self.watch(event);
        }
        Some(Completion::Event(event))
    }

    fn watch(&mut self, event: usize) {
        let Some(watched) = self.events.get(event) else { return };
        let entry = opcode::PollAdd::new(Fd(watched.as_fd().as_raw_fd()), libc::POLLIN as u32)
            .multi(self.multishot)
            .build()
            .user_data(EVENT_TAG + event as u64);
        self.push(&entry);
    }

    fn op_ended(&mut self, index: usize, result: i32) -> Option<Completion> {
        let op = self.ops.get_mut(index)?;
        let kind = op.kind?;
        let result = match (usize::try_from(result), kind) {
            (Ok(_), Kind::Sync) => Ok(()),
            (Ok(0), Kind::Transfer(_)) if op.left > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            (Ok(moved), Kind::Transfer(_)) => {
                op.advance(moved);
                if op.left > 0 {
                    self.submit_op(index);
                    return None;
                }
                Ok(())
            }
            (Err(_), _) => {
                let errno = result.wrapping_neg();
                if matches!(errno, libc::EAGAIN | libc::EINTR) && op.retries < MAX_RETRIES {
                    op.retries += 1;
                    self.submit_op(index);
                    return None;
                }
                Err(io::Error::from_raw_os_error(errno))
            }
        };
        let token = op.token;
        (op.kind, op.file, op.lease) = (None, None, None);
        self.free.push(index);
        Some(Completion::Done { token, result })
    }

    fn submit_op(&mut self, index: usize) {
        let entry = self.ops[index].entry().user_data(index as u64);
        self.push(&entry);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to is either nothing (polls, syncs), or the iovecs and
        // guest memory of an operation in `ops`: they stay as they are until it has ended, since
        // only `op_ended` frees an operation, and `drop` waits for all. Files stay open likewise.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            // Every operation and event has its place; only entries not yet submitted can be in
            // the way. Errors show again at the next wait.
            let _ = self.enter(0);
        }
    }
}

impl Op {
    fn entry(&self) -> squeue::Entry {
        let fd = Fd(self.file.as_ref().map_or(-1, |file| file.as_raw_fd()));
        let iovecs = self.iovecs.get(self.first..).unwrap_or_default();
        let (list, count) = (iovecs.as_ptr(), iovecs.len() as u32);
        match (self.kind, iovecs) {
            (Some(Kind::Transfer(Direction::Read)), [one]) => {
                let len = one.iov_len.min(MAX_BYTES) as u32;
                opcode::Read::new(fd, one.iov_base.cast(), len).offset(self.offset).build()
            }
            (Some(Kind::Transfer(Direction::Write)), [one]) => {
                let len = one.iov_len.min(MAX_BYTES) as u32;
                opcode::Write::new(fd, one.iov_base.cast(), len).offset(self.offset).build()
            }
            (Some(Kind::Transfer(Direction::Read)), _) => {
                opcode::Readv::new(fd, list, count).offset(self.offset).build()
            }
            (Some(Kind::Transfer(Direction::Write)), _) => {
                opcode::Writev::new(fd, list, count).offset(self.offset).build()
            }
            (Some(Kind::Sync) | None, _) => {
                opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build()
            }
        }
    }

    /// Notes that the first `moved` bytes of what was left are done.
    fn advance(&mut self, mut moved: usize) {
        moved = moved.min(self.left);
        self.left -= moved;
        self.offset = self.offset.saturating_add(moved as u64);
        while let Some(iovec) = self.iovecs.get_mut(self.first) {
            if moved < iovec.iov_len {
                iovec.iov_base = iovec.iov_base.wrapping_byte_add(moved);
                iovec.iov_len -= moved;
                break;
            }
            moved -= iovec.iov_len;
            self.first += 1;
        }
    }
}

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        // Nobody may be told any more, but the kernel must be done with the memory.
        while self.in_flight() > 0 {
            if let Err(error) = self.wait() {
                log::error!("io_uring cannot be drained, its memory is leaked: {error}");
                std::mem::forget(std::mem::take(&mut self.ops));
                std::mem::forget(self._memory.clone());
                return;
            }
            while self.next_completion().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests;

//! Waiting and waking: eventfds, and `poll(2)` over a handful of descriptors.
//!
//! The doorbells of [`crate::bus`] are plain descriptors, so that KVM may signal them; this file
//! turns one into something that can be signalled, drained and waited for. The set that a device
//! thread waits on changes from turn to turn (a NIC without receive buffers ignores its tap), and
//! has two or three members: `poll` fits that better than an epoll set.
#![allow(unsafe_code)] // eventfd(2), read(2), write(2) and poll(2) have no safe form in std.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// An eventfd. Clones share it.
#[derive(Clone, Debug)]
pub struct Event(Arc<OwnedFd>);

impl Event {
    /// A new one, not signalled.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Event> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened, and nobody else knows of it.
        Ok(Event(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// The descriptor, to be shared with whoever signals it.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.0
    }

    /// Signals it. A counter that is full is signalled already.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is eight readable bytes, and lives through the call.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes back every signal so far; true when there was one.
    pub fn take(&self) -> bool {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is eight writable bytes, and lives through the call.
        let read =
            unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        read == count.len() as isize
    }
}

impl From<Arc<OwnedFd>> for Event {
    /// Wraps an eventfd made elsewhere.
    fn from(fd: Arc<OwnedFd>) -> Event {
        Event(fd)
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sleeps until one of `fds` is readable (or broken), and says which are. `None` entries are not
/// waited for. With `timeout_ms`, gives up after that long, and none is ready.
///
/// # Errors
/// What `poll` fails with; an interrupted call is repeated.
pub fn wait_readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout_ms: Option<u16>,
) -> io::Result<[bool; N]> {
    // A negative descriptor is skipped by poll.
    let mut set = fds.map(|fd| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let timeout = timeout_ms.map_or(-1, i32::from);
    loop {
        // SAFETY: `set` is an array of N pollfds, and lives through the call.
        let ready = unsafe { libc::poll(set.as_mut_ptr(), N as libc::nfds_t, timeout) };
        if ready >= 0 {
            return Ok(set.map(|entry| entry.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_add_up_and_are_taken_at_once() {
        let event = Event::new().unwrap();
        assert!(!event.take());
        event.signal();
        event.clone().signal();
        assert!(event.take());
        assert!(!event.take());
    }

    #[test]
    fn waiting_names_the_ready_ones_only() {
        let (idle, ready, ignored) =
            (Event::new().unwrap(), Event::new().unwrap(), Event::new().unwrap());
        ready.signal();
        ignored.signal();
        let fds = [Some(idle.as_fd()), Some(ready.as_fd()), None];
        assert_eq!(wait_readable(fds, None).unwrap(), [false, true, false]);
        assert!(ready.take());
        assert_eq!(wait_readable([Some(ready.as_fd())], Some(0)).unwrap(), [false]);
    }
}

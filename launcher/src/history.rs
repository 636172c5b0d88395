//! The last bytes of the serial console, and those who follow it.
//!
//! Each [`Follower`] reads at its own pace: first what is remembered, then what comes. One that is
//! too slow misses bytes and is told how many; the guest never waits. While a follower sleeps, the
//! first byte wakes it by an eventfd; further bytes until it has read cost nothing.
//! Written from vCPU threads, read from the threads of consoles.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use devices::event::Event;

/// Bytes that are remembered.
pub const HISTORY: usize = 128 << 10;

/// What is remembered.
#[derive(Debug, Default)]
pub struct History {
    state: Mutex<State>,
    /// When the first byte came.
    began: OnceLock<Instant>,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Bytes that were written and are not remembered any more.
    forgotten: u64,
    /// Those who sleep until there is more.
    sleeping: Vec<Event>,
}

impl History {
    /// Takes what the guest has written. Never blocks.
    pub fn write(&self, bytes: &[u8]) {
        self.began.get_or_init(Instant::now);
        let mut state = self.lock();
        let skip = bytes.len().saturating_sub(HISTORY);
        let keep = bytes.get(skip..).unwrap_or_default();
        let over = state.bytes.len().saturating_add(keep.len()).saturating_sub(HISTORY);
        state.bytes.drain(..over);
        state.bytes.extend(keep);
        state.forgotten = state.forgotten.saturating_add(over as u64).saturating_add(skip as u64);
        for event in state.sleeping.drain(..) {
            event.signal();
        }
    }

    /// When the guest has said something for the first time.
    pub fn began(&self) -> Option<Instant> {
        self.began.get().copied()
    }

    /// The last `count` bytes at most.
    pub fn last(&self, count: usize) -> Vec<u8> {
        let state = self.lock();
        let skip = state.bytes.len().saturating_sub(count);
        state.bytes.iter().skip(skip).copied().collect()
    }

    /// Follows it from the beginning of what is remembered; from the first whole line, where more
    /// has been forgotten.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn follow(self: &Arc<Self>) -> io::Result<Follower> {
        let event = Event::new()?;
        let state = self.lock();
        let cut = match state.forgotten {
            0 => 0,
            _ => state.bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at.saturating_add(1)),
        };
        let position = state.forgotten.saturating_add(cut as u64);
        drop(state);
        Ok(Follower { history: Arc::clone(self), event, position })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is sound between any two statements: a poisoned lock is as good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who reads the console.
#[derive(Debug)]
pub struct Follower {
    history: Arc<History>,
    event: Event,
    /// Of the next byte, counted from the first ever written.
    position: u64,
}

impl Follower {
    /// Adds what is next to `to`, at most `most` bytes and a notice of those that were missed. False:
    /// there is nothing, and [`fd`](Self::fd) becomes readable when there is.
    pub fn read(&mut self, to: &mut Vec<u8>, most: usize) -> bool {
        self.event.take();
        let mut state = self.history.lock();
        let missed = state.forgotten.saturating_sub(self.position);
        if missed > 0 {
            let notice = format!("\r\n[berth: {missed} bytes of console missed]\r\n");
            to.extend_from_slice(notice.as_bytes());
            self.position = state.forgotten;
        }
        let skip =
            usize::try_from(self.position.saturating_sub(state.forgotten)).unwrap_or(usize::MAX);
        let before = to.len();
        to.extend(state.bytes.iter().skip(skip).take(most));
        let read = to.len().saturating_sub(before);
        self.position = self.position.saturating_add(read as u64);
        if read == 0 && missed == 0 {
            // It may sleep already, if something else woke its thread.
            if !state.sleeping.iter().any(|event| Arc::ptr_eq(event.fd(), self.event.fd())) {
                state.sleeping.push(self.event.clone());
            }
            return false;
        }
        true
    }

    /// Readable when there is more, after a [`read`](Self::read) that had nothing.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let fd = Arc::clone(self.event.fd());
        self.history.lock().sleeping.retain(|event| !Arc::ptr_eq(event.fd(), &fd));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::event::wait_readable;

    fn ready(follower: &Follower) -> bool {
        wait_readable([Some(follower.fd())], Some(0)).unwrap() == [true]
    }

    fn read(follower: &mut Follower) -> Vec<u8> {
        let mut bytes = Vec::new();
        while follower.read(&mut bytes, 7) {}
        bytes
    }

    #[test]
    fn everybody_gets_the_past_and_then_the_present() {
        let history = Arc::new(History::default());
        assert_eq!(history.began(), None);
        history.write(b"one\ntwo\n");
        let began = history.began();
        let mut early = history.follow().unwrap();
        assert_eq!(read(&mut early), b"one\ntwo\n");
        assert!(!ready(&early));
        history.write(b"three");
        assert!(ready(&early));
        let mut late = history.follow().unwrap();
        assert_eq!(
            (read(&mut early), read(&mut late)),
            (b"three".to_vec(), b"one\ntwo\nthree".to_vec())
        );
        history.write(b"!");
        history.write(b"?");
        assert!(ready(&early) && ready(&late));
        assert_eq!((read(&mut early), read(&mut late)), (b"!?".to_vec(), b"!?".to_vec()));
        assert_eq!(history.last(3), b"e!?");
        assert!(began.is_some() && history.began() == began, "by the first byte only");
    }

    #[test]
    fn who_is_slow_is_told_what_was_missed() {
        let history = Arc::new(History::default());
        let mut slow = history.follow().unwrap();
        assert_eq!(read(&mut slow), b"");
        history.write(&vec![b'x'; HISTORY]);
        history.write(&vec![b'y'; HISTORY + 5]);
        let mut bytes = Vec::new();
        assert!(slow.read(&mut bytes, 3));
        let want = format!("\r\n[berth: {} bytes of console missed]\r\nyyy", HISTORY + 5);
        assert_eq!(String::from_utf8(bytes).unwrap(), want);
        assert_eq!(read(&mut slow).len(), HISTORY - 3);
        assert!(history.lock().bytes.len() == HISTORY);
    }

    #[test]
    fn a_past_that_is_not_whole_begins_with_a_whole_line() {
        let history = Arc::new(History::default());
        history.write(b"cut ");
        history.write(&vec![b'x'; HISTORY - 6]);
        history.write(b"\nwhole");
        assert_eq!(read(&mut history.follow().unwrap()), b"whole");
    }

    #[test]
    fn nobody_is_woken_who_has_left() {
        let history = Arc::new(History::default());
        for _ in 0..100 {
            let mut follower = history.follow().unwrap();
            assert!(!follower.read(&mut Vec::new(), 1) && !follower.read(&mut Vec::new(), 1));
            assert_eq!(history.lock().sleeping.len(), 1);
        }
        assert!(history.lock().sleeping.is_empty());
    }
}

//! A bounded queue of bytes and a thread that writes them to a file.
//!
//! Whoever pushes never waits for the reader at the other end: what does not fit is dropped whole
//! and counted, and a notice says so where the bytes are missing. The serial console and the log
//! both go out this way, so a stuck pipe can slow neither the guest nor the machine.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes handed to one `write`.
const CHUNK: usize = 64 << 10;
/// The thread's stack, in bytes: less than a huge page, or the kernel may make it one.
const STACK_BYTES: usize = 1 << 20;

/// Says how many bytes are missing at its place in the output.
pub type Notice = fn(dropped: u64) -> String;

/// The queue and its thread.
pub struct Spool {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to write, or the spool is closed.
    work: Condvar,
    /// Everything pushed so far has been written.
    idle: Condvar,
    capacity: usize,
    notice: Notice,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The thread is writing a chunk.
    writing: bool,
    closed: bool,
    /// Not yet told by a notice.
    dropped: u64,
    lost: u64,
}

impl Spool {
    /// Starts a thread called `name`, which calls `begun` with that first, and then writes to `to`.
    /// At most `capacity` bytes wait.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        name: &'static str,
        to: File,
        capacity: usize,
        notice: Notice,
        begun: fn(&str),
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            capacity,
            notice,
        });
        let writer = Arc::clone(&shared);
        let builder = Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        let thread = builder.spawn(move || {
            begun(name);
            writer.run(to);
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Takes `bytes` whole, or drops and counts them. Never blocks.
    pub fn push(&self, bytes: &[u8]) -> bool {
        let mut state = self.shared.lock();
        let notice = match state.dropped {
            0 => String::new(),
            dropped => (self.shared.notice)(dropped),
        };
        let room = self.shared.capacity.saturating_sub(state.bytes.len());
        if state.closed || notice.len().saturating_add(bytes.len()) > room {
            let count = bytes.len() as u64;
            state.dropped = state.dropped.saturating_add(count);
            state.lost = state.lost.saturating_add(count);
            return false;
        }
        state.bytes.extend(notice.as_bytes());
        state.bytes.extend(bytes);
        state.dropped = 0;
        drop(state);
        self.shared.work.notify_one();
        true
    }

    /// Bytes dropped since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lock().lost
    }

    /// Waits until everything is written, at most `patience`, and closes the spool. A thread that
    /// is stuck in a write is left behind. Returns whether everything was written.
    pub fn finish(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        if state.closed {
            return state.bytes.is_empty();
        }
        while state.writing || !state.bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .shared
                .idle
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let done = !state.writing && state.bytes.is_empty();
        state.closed = true;
        drop(state);
        self.shared.work.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (true, Some(thread)) = (done, thread) {
            // It has nothing left that could block it; a panic in it has been reported.
            let _ = thread.join();
        }
        done
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is sound between any two statements: a poisoned lock is as good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut to: File) {
        let mut chunk = Vec::new();
        let mut broken = false;
        while self.next(&mut chunk) {
            if !broken {
                // A closed pipe stays closed. What follows is taken and thrown away, as by a
                // terminal nobody looks at.
                broken = write_all(&mut to, &chunk).is_err();
            }
            let mut state = self.lock();
            state.writing = false;
            if state.bytes.is_empty() {
                self.idle.notify_all();
            }
        }
    }

    /// Fills `chunk` with what is next; `false` at the end.
    fn next(&self, chunk: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        loop {
            if state.bytes.is_empty() && state.dropped > 0 {
                let notice = (self.notice)(std::mem::take(&mut state.dropped));
                state.bytes.extend(notice.as_bytes());
            }
            if !state.bytes.is_empty() {
                let count = state.bytes.len().min(CHUNK);
                chunk.clear();
                chunk.extend(state.bytes.drain(..count));
                state.writing = true;
                return true;
            }
            if state.closed {
                return false;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// `write_all` that also works where someone has made the file non-blocking, as a shared terminal
/// may be.
fn write_all(to: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::Read;

    const LONG: Duration = Duration::from_secs(20);

    fn notice(dropped: u64) -> String {
        format!("<{dropped} lost>")
    }

    /// A pipe: its reading end, and its writing end as a file.
    fn pipe() -> (File, File) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (File::from(read), File::from(write))
    }

    #[test]
    fn bytes_come_out_in_order() {
        let (mut read, write) = pipe();
        let spool = Spool::start("spool", write, 1 << 20, notice, |_| ()).unwrap();
        for n in 0..1000 {
            assert!(spool.push(format!("{n},").as_bytes()));
        }
        assert!(spool.finish(LONG));
        assert!(!spool.push(b"late"));
        drop(spool);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, (0..1000).map(|n| format!("{n},")).collect::<String>());
    }

    #[test]
    fn nobody_reads_and_nobody_waits() {
        let (mut read, mut write) = pipe();
        // Full from the start: the very first write blocks.
        let room = fcntl(&write, FcntlArg::F_GETPIPE_SZ).unwrap();
        write.write_all(&vec![b'p'; room as usize]).unwrap();
        let spool = Spool::start("spool", write, 64 << 10, notice, |_| ()).unwrap();
        let line = [b'x'; 1000];
        let start = Instant::now();
        let mut dropped = 0;
        for _ in 0..10_000 {
            dropped += if spool.push(&line) { 0 } else { line.len() as u64 };
        }
        assert!(start.elapsed() < LONG, "pushing must not wait for the reader");
        assert!(dropped > 0 && spool.lost() == dropped);
        assert!(!spool.finish(Duration::from_millis(50)), "the pipe is full");

        // The reader wakes up: what was kept is there, and the notice where the rest is missing.
        let mut text = Vec::new();
        drop(spool);
        read.read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let kept = text.bytes().filter(|b| *b == b'x').count() as u64;
        assert_eq!(kept + dropped, 10_000_000);
        let told: u64 = text
            .split('<')
            .filter_map(|part| part.split_once(" lost>")?.0.parse::<u64>().ok())
            .sum();
        assert_eq!(told, dropped, "every byte that is missing is told of");
    }

    #[test]
    fn the_notice_stands_where_the_bytes_are_missing() {
        let (mut read, write) = pipe();
        let spool = Spool::start("spool", write, 40, notice, |_| ()).unwrap();
        assert!(!spool.push(&[b'a'; 41]));
        // Whichever comes first, the writer or this push, the notice precedes what follows.
        while !spool.push(b"after") {}
        assert!(spool.finish(LONG));
        let mut text = String::new();
        drop(spool);
        read.read_to_string(&mut text).unwrap();
        assert!(text.starts_with('<') && text.ends_with("lost>after"), "{text}");
    }

    #[test]
    fn a_closed_reader_ends_nothing() {
        let (read, write) = pipe();
        drop(read);
        let spool = Spool::start("spool", write, 1 << 10, notice, |_| ()).unwrap();
        for _ in 0..100 {
            spool.push(&[0; 100]);
        }
        assert!(spool.finish(LONG), "what cannot be written is thrown away");
    }

    #[test]
    fn a_non_blocking_file_is_waited_for() {
        let (mut read, write) = pipe();
        fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let spool = Spool::start("spool", write, 1 << 20, notice, |_| ()).unwrap();
        assert!(spool.push(&vec![7; 500_000]));
        let mut bytes = vec![0; 500_000];
        read.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 7));
        assert!(spool.finish(LONG));
    }
}

//! A stream with what has come and is not read yet, and what is to go and has not gone yet.
//!
//! Reads and writes never wait; [`Wire::wait`] does, on everything that may end a wait at once.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Instant;

use devices::event::Event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::server::stream::Stream;

/// What is taken in before it is looked at, in bytes.
const INPUT: usize = 16 << 10;
/// Room for output that is kept, in bytes.
const OUTPUT_KEPT: usize = 1 << 20;

/// A stream and its two buffers.
pub struct Wire {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// The stream holds bytes back.
    unflushed: bool,
    /// Since when bytes wait and none go.
    stuck: Option<Instant>,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken {
    /// Everything is to end.
    pub stop: bool,
    /// The event was signalled, and taken back.
    pub event: bool,
}

impl Wire {
    /// Over `stream`, of which `first` has come already.
    pub fn new(stream: Box<dyn Stream>, first: Vec<u8>) -> Wire {
        Wire { stream, input: first, output: Vec::new(), sent: 0, unflushed: false, stuck: None }
    }

    /// What has come.
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// Forgets the first `count` bytes of what has come.
    pub fn consume(&mut self, count: usize) {
        self.input.drain(..count.min(self.input.len()));
    }

    /// Where to put what is to go.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Bytes that have not gone yet.
    pub fn pending(&self) -> usize {
        self.output.len().saturating_sub(self.sent)
    }

    /// Whether everything has gone.
    pub fn is_drained(&self) -> bool {
        self.pending() == 0 && !self.unflushed
    }

    /// Since when nothing goes, though there is something to go.
    pub fn stuck_since(&self) -> Option<Instant> {
        self.stuck
    }

    /// Takes in what has come, as much as there is room for; `false` at the end.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn receive(&mut self) -> io::Result<bool> {
        while self.input.len() < INPUT {
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => self.input.extend(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sends what goes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self) -> io::Result<()> {
        if self.is_drained() {
            return Ok(());
        }
        let before = self.pending();
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let moved = self.pending() < before;
        if self.pending() == 0 {
            self.output.clear();
            self.sent = 0;
            if self.output.capacity() > OUTPUT_KEPT {
                self.output = Vec::new();
            }
        }
        match self.stream.flush() {
            Ok(()) => self.unflushed = false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.unflushed = true,
            Err(error) => return Err(error),
        }
        self.stuck = match self.stuck {
            _ if self.is_drained() => None,
            Some(since) if !moved => Some(since),
            _ => Some(Instant::now()),
        };
        Ok(())
    }

    /// Sleeps until something can be read (if there is room for it) or sent (if there is something
    /// to send), `event` or `stop` is signalled, or it is `until`.
    ///
    /// # Errors
    /// `poll` fails.
    pub fn wait(
        &self,
        reads: bool,
        event: Option<&Event>,
        stop: &Event,
        until: Option<Instant>,
    ) -> io::Result<Woken> {
        let reads = reads && self.input.len() < INPUT;
        let timeout = match until {
            _ if reads && self.stream.has_buffered() => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now()).as_millis();
                // A millisecond more, so as not to wake up too soon.
                PollTimeout::try_from(left.saturating_add(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads);
        flags.set(PollFlags::POLLOUT, !self.is_drained());
        let mut fds = vec![
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stream.fd(), flags),
        ];
        fds.extend(event.map(|event| PollFd::new(event.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let stopped = fds.first().and_then(PollFd::any) == Some(true);
        Ok(Woken { stop: stopped, event: event.is_some_and(Event::take) })
    }

    /// Puts another stream under it, made of this one and what has come over it so far.
    ///
    /// # Errors
    /// What `make` fails with.
    pub fn replace(
        self,
        make: impl FnOnce(Box<dyn Stream>, Vec<u8>) -> io::Result<Box<dyn Stream>>,
    ) -> io::Result<Wire> {
        Ok(Wire::new(make(self.stream, self.input)?, Vec::new()))
    }
}

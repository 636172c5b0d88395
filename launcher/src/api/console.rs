//! `/console`: the serial console over a connection, in both directions. First what is remembered of
//! it, then what comes. Several may be attached, and what they type is mixed, as on a line with
//! several keyboards; none of them can hold up the guest.
//!
//! As a WebSocket, or, for `berth console`, as the upgrade `berth-console`: plain bytes both ways.
//! Runs on the thread of its connection; sleeps while nothing happens.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use devices::event::Event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Machine;
use crate::history::Follower;
use crate::server::stream::Stream;

/// The protocol of the plain upgrade.
pub const UPGRADE: &str = "berth-console";
/// What is sent at once.
const CHUNK: usize = 16 << 10;
/// What may wait for a guest that does not read. A client that types more has to wait.
const TYPED_MAX: usize = 4 << 10;
/// How soon a full UART is tried again.
const RETRY_MS: u16 = 5;

/// An attached console.
pub struct Console<'a> {
    /// The client.
    pub stream: Box<dyn Stream>,
    /// What the guest says.
    pub follower: Follower,
    /// What is typed goes here; `None`: it goes nowhere.
    pub machine: Option<&'a dyn Machine>,
    /// Ends it.
    pub stop: &'a Event,
}

/// What passes through.
#[derive(Default)]
struct Flow {
    out: Vec<u8>,
    /// How much of `out` is sent.
    sent: usize,
    typed: VecDeque<u8>,
}

impl Console<'_> {
    /// Serves it to its end; `typed` is what has been read already.
    ///
    /// # Errors
    /// The connection's.
    pub fn serve(mut self, typed: Vec<u8>) -> io::Result<()> {
        let mut flow = Flow { typed: typed.into(), ..Flow::default() };
        loop {
            let blocked = self.send(&mut flow)?;
            if !self.receive(&mut flow)? {
                return Ok(());
            }
            match self.machine {
                Some(machine) => {
                    let taken = machine.type_in(flow.typed.make_contiguous());
                    flow.typed.drain(..taken.min(flow.typed.len()));
                }
                None => flow.typed.clear(),
            }
            if !self.sleep(&flow, blocked)? {
                return Ok(());
            }
        }
    }

    /// Sends what the guest has said, until it is all sent or, true, there is no room.
    fn send(&mut self, flow: &mut Flow) -> io::Result<bool> {
        let blocked = |error: io::Error| match error.kind() {
            ErrorKind::WouldBlock => Ok(true),
            ErrorKind::Interrupted => Ok(false),
            _ => Err(error),
        };
        loop {
            while let Some(rest) = flow.out.get(flow.sent..).filter(|rest| !rest.is_empty()) {
                match self.stream.write(rest) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(count) => flow.sent = flow.sent.saturating_add(count),
                    Err(error) => {
                        if blocked(error)? {
                            return Ok(true);
                        }
                    }
                }
            }
            if let Err(error) = self.stream.flush()
                && blocked(error)?
            {
                return Ok(true);
            }
            flow.out.clear();
            flow.sent = 0;
            if !self.follower.read(&mut flow.out, CHUNK) {
                return Ok(false);
            }
        }
    }

    /// Reads what is typed, as far as there is room; false: the client has gone.
    fn receive(&mut self, flow: &mut Flow) -> io::Result<bool> {
        let mut chunk = [0; 512];
        while flow.typed.len() < TYPED_MAX {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => flow.typed.extend(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sleeps until there is something to do; false: it is time to end.
    fn sleep(&self, flow: &Flow, blocked: bool) -> io::Result<bool> {
        let room = flow.typed.len() < TYPED_MAX;
        if room && self.stream.has_buffered() {
            return Ok(true);
        }
        let timeout: PollTimeout =
            if flow.typed.is_empty() { PollTimeout::NONE } else { RETRY_MS.into() };
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, room);
        events.set(PollFlags::POLLOUT, blocked);
        let mut fds = [
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stream.fd(), events),
            PollFd::new(self.follower.fd(), PollFlags::POLLIN),
        ];
        // While there is no room for it, what the guest says wakes nobody.
        let count = if blocked { 2 } else { fds.len() };
        match poll(fds.get_mut(..count).unwrap_or_default(), timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [stop, stream, _] = fds;
        let stopped = stop.any() == Some(true);
        // A client that has hung up is not waited for, whether there is room for its bytes or not.
        let gone = stream.revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
            || (!room && stream.revents().is_some_and(|e| e.contains(PollFlags::POLLHUP)));
        Ok(!stopped && !gone)
    }
}

//! One connection: what is open of it, in which direction, and what the guest is to be told next.
//!
//! ```text
//! program connects  Calling ─REQUEST→ Ringing ─RESPONSE←┐
//! guest connects    Accepted ─────────RESPONSE→─────────┴→ Open ─SHUTDOWN of both←→ gone, RST→
//!                   anything that breaks the rules, or breaks: RST, at once or as Doomed
//! ```
//! A direction ends by itself: the guest says so (SHUTDOWN), and the program reads the end of its
//! stream once it has read what came before; a program does (shutdown(2)), and the guest is told
//! once it was sent what came before. A program that has closed its socket has ended both; so has
//! one that was killed.
//!
//! When the guest ends both it is answered at once (RST), as the specification wants, and forgets;
//! what it sent before stays, as Draining, until the program has taken it.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::credit::{FromGuest, ToGuest};
use super::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::unix::{give, receive};
use crate::virtio::buffers::Buffers;

/// Which connection: its two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The guest has not been asked yet.
    Calling,
    /// It has, and has not answered.
    Ringing,
    /// The guest has asked, and is not answered yet.
    Accepted,
    /// There is one.
    Open,
    /// The guest is told next that there is none.
    Doomed,
    /// Only a program's reading is waited for; the guest has forgotten it.
    Draining,
}

/// What a packet of the guest's, or an event of the host's, makes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Keep,
    /// It is over, and the guest is to be told by a reset.
    Reset,
    /// It is over, and the guest knows.
    Forget,
    /// It is over for the guest, who is to be told; the program still reads.
    Detach,
}

/// A packet that the guest is sent; the data is in the buffer that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What for.
    pub op: Op,
    /// With [`Op::Shutdown`].
    pub flags: u32,
    /// Bytes of data.
    pub len: usize,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Its ports.
    pub address: Address,
    stage: Stage,
    /// Both sides have agreed to it.
    made: bool,
    /// To the program; `None`: it has gone.
    stream: Option<UnixStream>,
    /// Data of the guest's that the program has not taken, at most [`super::BUFFER`].
    kept: VecDeque<u8>,
    /// There may be something to read.
    readable: bool,
    /// There will not be anything more to read.
    finished: bool,
    /// The program takes nothing any more.
    deaf: bool,
    to_guest: ToGuest,
    from_guest: FromGuest,
    /// What the guest has said by SHUTDOWN.
    guest_ended: u32,
    /// What we have to say by it, and have said.
    ended: u32,
    told_ended: u32,
    owes_update: bool,
    has_asked_credit: bool,
}

impl Connection {
    /// One that a program of the host asks for.
    pub fn calling(address: Address, stream: UnixStream) -> Connection {
        Connection {
            address,
            stage: Stage::Calling,
            made: false,
            stream: Some(stream),
            kept: VecDeque::new(),
            readable: false,
            finished: false,
            deaf: false,
            to_guest: ToGuest::default(),
            from_guest: FromGuest::default(),
            guest_ended: 0,
            ended: 0,
            told_ended: 0,
            owes_update: false,
            has_asked_credit: false,
        }
    }

    /// One that the guest has asked for by `request`.
    pub fn accepted(address: Address, stream: UnixStream, request: &Header) -> Connection {
        let mut connection = Connection::calling(address, stream);
        (connection.stage, connection.made) = (Stage::Accepted, true);
        connection.to_guest.learn(request);
        connection
    }

    /// Whether both sides have agreed to it.
    pub fn was_made(&self) -> bool {
        self.made
    }

    /// What the program's socket is to be watched for; `None`: it is not, or is not there.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        if !self.kept.is_empty() {
            flags |= PollFlags::POLLOUT;
        }
        let idle = match self.stage {
            // That it goes away is told whatever is asked for. A socket that is not to be read yet is
            // not watched at all: that somebody has closed it would be told again and again.
            Stage::Calling | Stage::Ringing => true,
            Stage::Accepted | Stage::Doomed => return None,
            Stage::Draining => true,
            Stage::Open => {
                if !self.finished && !self.readable && self.to_guest.room() > 0 {
                    flags |= PollFlags::POLLIN;
                }
                self.finished
            }
        };
        let stream = self.stream.as_ref().filter(|_| idle || !flags.is_empty())?;
        Some((stream.as_fd(), flags))
    }

    /// Takes note of what the program's socket has come to.
    pub fn on_events(&mut self, events: PollFlags) -> Fate {
        let broken = events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        match self.stage {
            Stage::Calling if broken => return Fate::Forget,
            Stage::Ringing if broken => self.doom(),
            Stage::Calling | Stage::Ringing | Stage::Accepted | Stage::Doomed => {}
            Stage::Draining => {
                self.flush();
                if self.kept.is_empty() {
                    return Fate::Forget;
                }
            }
            Stage::Open => {
                if broken || events.contains(PollFlags::POLLOUT) {
                    self.flush();
                }
                if self.finished && broken {
                    self.leave();
                } else if !self.finished && (broken || events.contains(PollFlags::POLLIN)) {
                    self.readable = true;
                }
            }
        }
        Fate::Keep
    }

    /// Takes a packet of the guest's, of which `data` is what follows the header; `scratch` is room to
    /// work in.
    pub fn on_packet(
        &mut self,
        header: &Header,
        data: &mut Buffers<'_>,
        scratch: &mut [u8],
    ) -> Fate {
        self.to_guest.learn(header);
        if self.to_guest.room() > 0 {
            self.has_asked_credit = false;
        }
        let Some(op) = Op::from_number(header.op) else { return Fate::Reset };
        match (op, self.stage) {
            (Op::Rst, _) => Fate::Forget,
            // It will hear of it.
            (_, Stage::Doomed) => Fate::Keep,
            (Op::Response, Stage::Ringing) => self.answered(),
            (_, Stage::Calling | Stage::Ringing | Stage::Draining) => Fate::Reset,
            (Op::Rw, _) => self.take(header.len, data, scratch),
            (Op::CreditUpdate, _) => Fate::Keep,
            (Op::CreditRequest, _) => {
                self.owes_update = true;
                Fate::Keep
            }
            (Op::Shutdown, _) => self.end(header.flags & SHUTDOWN_BOTH),
            (Op::Request | Op::Response, _) => Fate::Reset,
        }
    }

    /// Whether the guest is to be sent something, as far as is known without reading.
    pub fn has_next(&self) -> bool {
        match self.stage {
            Stage::Calling | Stage::Accepted | Stage::Doomed => true,
            Stage::Ringing | Stage::Draining => false,
            Stage::Open => {
                self.is_stale()
                    || self.is_due()
                    || self.wants_credit()
                    || self.ended != self.told_ended
            }
        }
    }

    /// What the guest is sent next, with data in `scratch`, which is not empty. After a reset there is
    /// no connection any more.
    pub fn next(&mut self, scratch: &mut [u8]) -> Option<Packet> {
        let plain = |op| Some(Packet { op, flags: 0, len: 0 });
        match self.stage {
            Stage::Calling => {
                self.stage = Stage::Ringing;
                return plain(Op::Request);
            }
            Stage::Accepted => {
                self.stage = Stage::Open;
                return plain(Op::Response);
            }
            Stage::Ringing | Stage::Draining => return None,
            Stage::Open | Stage::Doomed => {}
        }
        if self.stage == Stage::Open && self.is_stale() {
            self.owes_update = false;
            return plain(Op::CreditUpdate);
        }
        if let Some(len) = self.read(scratch) {
            return Some(Packet { op: Op::Rw, flags: 0, len });
        }
        if self.stage == Stage::Doomed {
            return plain(Op::Rst);
        }
        if self.ended != self.told_ended {
            self.told_ended = self.ended;
            return Some(Packet { op: Op::Shutdown, flags: self.ended, len: 0 });
        }
        if self.wants_credit() {
            self.has_asked_credit = true;
            return plain(Op::CreditRequest);
        }
        None
    }

    /// `fwd_cnt` of a header that is about to be sent.
    pub fn tell_credit(&mut self) -> u32 {
        self.from_guest.tell()
    }

    /// The guest should know better how much it may send.
    fn is_stale(&self) -> bool {
        let silent = self.guest_ended & SHUTDOWN_SEND != 0 || self.ended & SHUTDOWN_RECEIVE != 0;
        self.owes_update || (!silent && self.from_guest.is_stale())
    }

    /// There may be data for the guest, which has room for it.
    fn is_due(&self) -> bool {
        self.readable && !self.finished && self.to_guest.room() > 0
    }

    /// There may be data, the guest has no room, and has not been asked for any.
    fn wants_credit(&self) -> bool {
        self.readable && !self.finished && self.to_guest.room() == 0 && !self.has_asked_credit
    }

    /// The guest has agreed: the program hears of it.
    fn answered(&mut self) -> Fate {
        let line = format!("OK {}\n", self.address.host);
        let given = self.stream.as_ref().map(|stream| give(stream, line.as_bytes()));
        // The socket is empty: if it does not take that, there is nobody.
        if !matches!(given, Some(Ok(count)) if count == line.len()) {
            return Fate::Reset;
        }
        (self.stage, self.made) = (Stage::Open, true);
        Fate::Keep
    }

    /// Takes `len` bytes of data.
    fn take(&mut self, len: u32, data: &mut Buffers<'_>, scratch: &mut [u8]) -> Fate {
        if self.guest_ended & SHUTDOWN_SEND != 0 || !self.from_guest.take(len) {
            return Fate::Reset;
        }
        let mut left = len as usize;
        while left > 0 {
            let count = left.min(scratch.len());
            let Some(piece) = scratch.get_mut(..count).filter(|piece| !piece.is_empty()) else {
                return Fate::Reset;
            };
            if data.read(piece).is_none() {
                return Fate::Reset;
            }
            self.put(piece);
            left -= count;
        }
        Fate::Keep
    }

    /// Gives `bytes` to the program, or keeps them for it.
    fn put(&mut self, mut bytes: &[u8]) {
        let Some(stream) = self.stream.as_ref().filter(|_| !self.deaf) else {
            self.from_guest.forward(bytes.len());
            return;
        };
        if self.kept.is_empty() {
            match give(stream, bytes) {
                Ok(count) => {
                    self.from_guest.forward(count);
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.from_guest.forward(bytes.len());
                    return self.deafen();
                }
            }
        }
        self.kept.extend(bytes);
    }

    /// Gives the program what was kept for it, as far as it takes that.
    fn flush(&mut self) {
        while let Some(stream) = self.stream.as_ref()
            && !self.kept.is_empty()
        {
            match give(stream, self.kept.as_slices().0) {
                Ok(count) => {
                    self.kept.drain(..count.min(self.kept.len()));
                    self.from_guest.forward(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.deafen(),
            }
        }
        // The room too.
        self.kept = VecDeque::new();
        if self.guest_ended & SHUTDOWN_SEND != 0 {
            self.shut(Shutdown::Write);
        }
    }

    /// The program takes nothing any more.
    fn deafen(&mut self) {
        self.from_guest.forward(self.kept.len());
        self.kept = VecDeque::new();
        self.deaf = true;
        self.ended |= SHUTDOWN_RECEIVE;
    }

    /// The program has gone.
    fn leave(&mut self) {
        self.deafen();
        (self.finished, self.readable, self.stream) = (true, false, None);
        self.ended = SHUTDOWN_BOTH;
    }

    /// The connection is broken: the guest will hear of it.
    fn doom(&mut self) {
        self.leave();
        self.stage = Stage::Doomed;
    }

    /// The guest ends one direction, or both.
    fn end(&mut self, which: u32) -> Fate {
        self.guest_ended |= which;
        if self.guest_ended == SHUTDOWN_BOTH {
            if self.kept.is_empty() {
                return Fate::Reset;
            }
            self.stage = Stage::Draining;
            return Fate::Detach;
        }
        if which & SHUTDOWN_RECEIVE != 0 {
            self.shut(Shutdown::Read);
            (self.finished, self.readable) = (true, false);
        }
        if which & SHUTDOWN_SEND != 0 && self.kept.is_empty() {
            self.shut(Shutdown::Write);
        }
        Fate::Keep
    }

    fn shut(&self, how: Shutdown) {
        // A program that has gone needs no telling.
        let _ = self.stream.as_ref().map(|stream| stream.shutdown(how));
    }

    /// Reads what the guest has room for; `None`: there is nothing.
    fn read(&mut self, scratch: &mut [u8]) -> Option<usize> {
        if !self.is_due() {
            return None;
        }
        let room = scratch.len().min(self.to_guest.room() as usize);
        let stream = self.stream.as_ref()?;
        match receive(stream, scratch.get_mut(..room)?) {
            Ok(0) if has_gone(stream) => self.leave(),
            Ok(0) => {
                (self.finished, self.readable) = (true, false);
                self.ended |= SHUTDOWN_SEND;
            }
            Ok(count) => {
                self.to_guest.sent(count as u32);
                return Some(count);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            // It was closed with data unread.
            Err(_) => self.doom(),
        }
        None
    }
}

#[cfg(test)]
impl Connection {
    /// Bytes kept for the program.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Whether the guest has forgotten it.
    pub fn drains(&self) -> bool {
        self.stage == Stage::Draining
    }
}

/// Whether the program has closed the socket, rather than only said that it sends no more.
fn has_gone(stream: &UnixStream) -> bool {
    let mut set = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let polled = poll(&mut set, PollTimeout::ZERO);
    let [entry] = set;
    let events = entry.revents().unwrap_or(PollFlags::POLLERR);
    polled.is_err() || events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)
}

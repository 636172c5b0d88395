//! All connections: which one a packet belongs to, whose turn it is to send the guest something, and
//! the resets for what belongs to none.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;

use super::connection::{Address, Connection, Fate};
use super::counters::Counters;
use super::packet::{Header, Op, TYPE_STREAM};
use super::unix::{Greeting, Heard, Sockets};
use super::{BUFFER, CONNECTIONS_MAX, HOST_CID, QUEUE_SIZE};
use crate::virtio::buffers::Buffers;

/// The first port of the host that a program's connection comes from; others are given by the guest.
const FIRST_PORT: u32 = 1 << 30;
/// How many of those ports there are.
const PORTS: u32 = 1 << 30;
/// Resets that may wait for the guest's receive buffers.
const REPLIES_MAX: usize = QUEUE_SIZE as usize;
/// Programs that are accepted at once, before something else gets its turn.
const ACCEPTS_MAX: usize = 16;

/// Somebody of the host who is connected.
enum Slot {
    Greeting(Greeting),
    Connection(Box<Connection>),
}

/// The connections of a device.
pub struct Table<'a> {
    cid: u64,
    sockets: &'a Sockets,
    counters: &'a Counters,
    /// At most [`CONNECTIONS_MAX`].
    slots: Vec<Option<Slot>>,
    by_address: BTreeMap<Address, usize>,
    /// At most [`REPLIES_MAX`].
    replies: VecDeque<Header>,
    next_port: u32,
    /// The slot that was sent from last.
    last: usize,
}

impl<'a> Table<'a> {
    /// No connections, of the guest with context id `cid`.
    pub fn new(cid: u64, sockets: &'a Sockets, counters: &'a Counters) -> Table<'a> {
        Table {
            cid,
            sockets,
            counters,
            slots: Vec::new(),
            by_address: BTreeMap::new(),
            replies: VecDeque::new(),
            next_port: FIRST_PORT,
            last: 0,
        }
    }

    /// Whether a packet may be looked at, and answered if need be.
    pub fn has_room(&self) -> bool {
        self.replies.len() < REPLIES_MAX
    }

    /// Takes a packet of the guest's, of which `data` follows the header; `scratch` is room to work in.
    /// False: it is not even in the form of one.
    pub fn on_packet(
        &mut self,
        header: &Header,
        data: &mut Buffers<'_>,
        scratch: &mut [u8],
    ) -> bool {
        // What claims to be somebody else's is not answered: whom would that be told?
        if header.src_cid != self.cid {
            return false;
        }
        if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            self.refuse(header);
            return true;
        }
        let address = Address { host: header.dst_port, guest: header.src_port };
        let Some(slot) = self.by_address.get(&address).copied() else {
            match Op::from_number(header.op) {
                Some(Op::Request) => self.request(address, header),
                _ => self.refuse(header),
            }
            return true;
        };
        let whole = header.len as usize <= data.len();
        let fate = match self.slots.get_mut(slot) {
            Some(Some(Slot::Connection(connection))) if whole => {
                let (before, was_made) = (data.len(), connection.was_made());
                let fate = connection.on_packet(header, data, scratch);
                self.counters.tx_bytes.add((before - data.len()) as u64);
                self.counters.from_host.add((connection.was_made() && !was_made).into());
                fate
            }
            _ => Fate::Reset,
        };
        match fate {
            Fate::Keep => {}
            Fate::Forget => self.remove(slot),
            Fate::Reset => {
                self.remove(slot);
                self.refuse(header);
            }
            Fate::Detach => {
                self.by_address.remove(&address);
                self.refuse(header);
            }
        }
        whole
    }

    /// The guest wants to be connected to a program of the host.
    fn request(&mut self, address: Address, header: &Header) {
        let connected = match self.free() {
            Some(slot) => self.sockets.connect(address.host).ok().zip(Some(slot)),
            None => None,
        };
        let Some((stream, slot)) = connected else {
            self.counters.refused.add(1);
            return self.refuse(header);
        };
        self.counters.from_guest.add(1);
        self.put(slot, Connection::accepted(address, stream, header));
    }

    /// Answers that there is no such connection; a reset is not answered.
    fn refuse(&mut self, header: &Header) {
        if header.op != Op::Rst as u16 {
            self.replies.push_back(header.reset());
        }
    }

    /// Whether the guest is to be sent something, as far as is known without reading.
    pub fn has_next(&self) -> bool {
        let connections = self.slots.iter().flatten();
        !self.replies.is_empty()
            || connections.into_iter().any(|slot| match slot {
                Slot::Connection(connection) => connection.has_next(),
                Slot::Greeting(_) => false,
            })
    }

    /// What it is sent next, with so many bytes of `scratch` behind it. Each connection in turn.
    pub fn next(&mut self, scratch: &mut [u8]) -> Option<(Header, usize)> {
        if let Some(reply) = self.replies.pop_front() {
            return Some((reply, 0));
        }
        let count = self.slots.len();
        for step in 1..=count {
            let slot = self.last.wrapping_add(step) % count;
            let Some(Some(Slot::Connection(connection))) = self.slots.get_mut(slot) else {
                continue;
            };
            let Some(packet) = connection.next(scratch) else { continue };
            self.last = slot;
            let header = Header {
                src_cid: HOST_CID,
                dst_cid: self.cid,
                src_port: connection.address.host,
                dst_port: connection.address.guest,
                len: packet.len as u32,
                kind: TYPE_STREAM,
                op: packet.op as u16,
                flags: packet.flags,
                buf_alloc: BUFFER,
                fwd_cnt: connection.tell_credit(),
            };
            self.counters.rx_bytes.add(packet.len as u64);
            if packet.op == Op::Rst {
                self.remove(slot);
            }
            return Some((header, packet.len));
        }
        None
    }

    /// Each socket that is to be watched, for what, and the slot that it is of.
    pub fn watched(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, PollFlags)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| {
            let (fd, flags) = match slot.as_ref()? {
                Slot::Greeting(greeting) => (greeting.stream.as_fd(), PollFlags::POLLIN),
                Slot::Connection(connection) => connection.interest()?,
            };
            Some((number, fd, flags))
        })
    }

    /// Takes note of what the socket of a slot has come to.
    pub fn on_events(&mut self, number: usize, events: PollFlags) {
        let heard = match self.slots.get_mut(number) {
            Some(Some(Slot::Greeting(greeting))) => greeting.hear(),
            Some(Some(Slot::Connection(connection))) => {
                if connection.on_events(events) != Fate::Keep {
                    self.remove(number);
                }
                return;
            }
            _ => return,
        };
        match heard {
            Heard::More => {}
            Heard::Nonsense => self.remove(number),
            Heard::Port(port) => {
                let Some(Slot::Greeting(greeting)) =
                    self.slots.get_mut(number).and_then(Option::take)
                else {
                    return;
                };
                let address = self.address(port);
                self.put(number, Connection::calling(address, greeting.stream));
            }
        }
    }

    /// Accepts programs that want to connect; those that are too many find the end at once.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS_MAX {
            let Some(stream) = self.sockets.accept()? else { break };
            match self.free() {
                Some(slot) => self.set(slot, Slot::Greeting(Greeting::new(stream))),
                None => self.counters.refused.add(1),
            }
        }
        Ok(())
    }

    /// A port of the host's for a connection to the guest's `port`, which no other has.
    fn address(&mut self, port: u32) -> Address {
        loop {
            let address = Address { host: self.next_port, guest: port };
            let next = self.next_port.wrapping_sub(FIRST_PORT).wrapping_add(1) % PORTS;
            self.next_port = FIRST_PORT.wrapping_add(next);
            // There are far more ports than connections.
            if !self.by_address.contains_key(&address) {
                return address;
            }
        }
    }

    /// A slot for one more.
    fn free(&self) -> Option<usize> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        Some(free).filter(|free| *free < CONNECTIONS_MAX)
    }

    fn put(&mut self, slot: usize, connection: Connection) {
        self.by_address.insert(connection.address, slot);
        self.set(slot, Slot::Connection(Box::new(connection)));
    }

    fn set(&mut self, number: usize, slot: Slot) {
        if number >= self.slots.len() {
            self.slots.resize_with(number + 1, || None);
        }
        if let Some(place) = self.slots.get_mut(number) {
            *place = Some(slot);
        }
    }

    fn remove(&mut self, number: usize) {
        let Some(Slot::Connection(connection)) = self.slots.get_mut(number).and_then(Option::take)
        else {
            return;
        };
        // One that drains has no address any more: another may have it.
        if self.by_address.get(&connection.address) == Some(&number) {
            self.by_address.remove(&connection.address);
        }
        match connection.was_made() {
            true => self.counters.ended.add(1),
            false => self.counters.refused.add(1),
        }
    }

    /// How many slots are taken.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Every address that a packet may be for.
    #[cfg(test)]
    pub fn addresses(&self) -> Vec<Address> {
        self.by_address.keys().copied().collect()
    }

    /// Panics unless what is known twice is the same, and what is bounded is.
    #[cfg(test)]
    pub fn check(&self) {
        for (address, slot) in &self.by_address {
            let Some(Some(Slot::Connection(connection))) = self.slots.get(*slot) else {
                panic!("{address:?} leads nowhere")
            };
            assert_eq!(connection.address, *address);
        }
        for (number, slot) in self.slots.iter().enumerate() {
            if let Some(Slot::Connection(connection)) = slot {
                let known = self.by_address.get(&connection.address) == Some(&number);
                assert_ne!(known, connection.drains(), "{connection:?}");
                assert!(connection.kept() <= BUFFER as usize);
            }
        }
        assert!(self.slots.len() <= CONNECTIONS_MAX && self.replies.len() <= REPLIES_MAX);
    }
}

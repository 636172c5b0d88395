//! The device's thread: takes the guest's packets, sends it others, and sleeps until it is kicked, or
//! a socket of the host has something.
//!
//! It waits for what can make progress only: for the receive queue's kicks while something waits for
//! buffers, for a socket while what it has can be passed on.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::counters::Counters;
use super::packet::{HEADER_LEN, Header};
use super::table::Table;
use super::unix::Sockets;
use crate::event::Event;
use crate::mem::GuestMemory;
use crate::tally::Lane;
use crate::virtio::queue::{Chain, QueueError, Virtqueue};
use crate::virtio::service::{ServiceError, report};
use crate::virtio::throttle::Throttle;
use crate::virtio::{Interrupt, LiveQueue};

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// The most data of one packet that we send, and of one piece that we copy.
const SCRATCH: usize = 64 << 10;
/// How long no program is accepted after the process was out of descriptors.
const OUT_OF_DESCRIPTORS_MS: u16 = 200;

static REFUSALS: Throttle = Throttle::new();

/// What the thread works with.
pub struct Job {
    pub memory: GuestMemory,
    pub features: u64,
    pub interrupt: Arc<dyn Interrupt>,
    pub cid: u64,
    pub counters: Arc<Lane<Counters>>,
    pub malformed: Arc<AtomicU64>,
}

/// What it gives back.
pub struct End {
    pub sockets: Sockets,
    pub queues: Vec<LiveQueue>,
}

/// A direction's answer to "go on": is there more to do right now, or only after an event?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    More,
    Idle,
    /// There is no receive buffer; or for the other direction, no room for an answer.
    Starved,
}

/// What has come while the thread slept.
#[derive(Default)]
struct Woken {
    stopped: bool,
    accepts: bool,
    /// Slots, and what their sockets have come to.
    slots: Vec<(usize, PollFlags)>,
}

impl Job {
    /// Serves the queues until `stop`, and gives them back. All connections end with it.
    pub fn run(self, sockets: Sockets, queues: Vec<LiveQueue>, stop: &Event) -> End {
        let (mut rx, mut tx, mut idle) = (None, None, Vec::new());
        let mut failed = None;
        for live in queues {
            let place = match live.index {
                RECEIVE => &mut rx,
                TRANSMIT => &mut tx,
                _ => {
                    idle.push(live);
                    continue;
                }
            };
            match Virtqueue::new(live, &self.memory, self.features, &self.malformed) {
                Ok(queue) => *place = Some(queue),
                Err((live, error)) => {
                    idle.push(live);
                    failed = Some(error);
                }
            }
        }
        let outcome = match (failed, &mut rx, &mut tx) {
            (Some(error), _, _) => Err(error.into()),
            (None, Some(rx), Some(tx)) => {
                let table = Table::new(self.cid, &sockets, &self.counters);
                Server { job: &self, rx, tx, table, scratch: vec![0; SCRATCH] }
                    .serve(&sockets, stop)
            }
            // A driver that does without one of them has no sockets.
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            report("vsock", &error, &*self.interrupt);
        }
        idle.extend([rx, tx].into_iter().flatten().map(Virtqueue::into_live));
        idle.sort_by_key(|live| live.index);
        End { sockets, queues: idle }
    }
}

struct Server<'a, 'm> {
    job: &'a Job,
    rx: &'a mut Virtqueue<'m>,
    tx: &'a mut Virtqueue<'m>,
    table: Table<'a>,
    scratch: Vec<u8>,
}

impl Server<'_, '_> {
    fn serve(mut self, sockets: &Sockets, stop: &Event) -> Result<(), ServiceError> {
        let mut listens = true;
        loop {
            let sending = self.transmit()?;
            let receiving = self.receive()?;
            self.publish()?;
            let starved = receiving == Progress::Starved;
            let more = receiving == Progress::More
                || sending == Progress::More
                || (sending == Progress::Starved && self.table.has_room());
            let timeout_ms = match (more, listens) {
                (true, _) => Some(0),
                (false, false) => Some(OUT_OF_DESCRIPTORS_MS),
                (false, true) => None,
            };
            let woken = self.wait(sockets, stop, (starved, listens), timeout_ms)?;
            if woken.stopped {
                return Ok(());
            }
            for (slot, events) in woken.slots {
                self.table.on_events(slot, events);
            }
            listens = true;
            if woken.accepts
                && let Err(error) = self.table.accept()
            {
                if REFUSALS.allows() {
                    log::warn!("a program cannot be connected to the guest: {error}");
                }
                listens = false;
            }
        }
    }

    /// Takes the guest's packets, a ring's worth at most.
    fn transmit(&mut self) -> Result<Progress, QueueError> {
        self.tx.disable_kicks()?;
        for _ in 0..self.tx.size() {
            if !self.table.has_room() {
                return Ok(Progress::Starved);
            }
            let Some(mut chain) = self.tx.pop()? else {
                return Ok(if self.tx.enable_kicks()? { Progress::More } else { Progress::Idle });
            };
            if !self.packet(&mut chain) {
                self.job.malformed.fetch_add(1, Ordering::Relaxed);
            }
            self.tx.complete(chain, 0)?;
        }
        Ok(Progress::More)
    }

    /// Takes one; false: it is not even in the form of one.
    fn packet(&mut self, chain: &mut Chain<'_>) -> bool {
        let mut bytes = [0; HEADER_LEN];
        if chain.readable.read(&mut bytes).is_none() {
            return false;
        }
        let header = Header::parse(&bytes);
        self.table.on_packet(&header, &mut chain.readable, &mut self.scratch)
    }

    /// Sends it others, a ring's worth at most.
    fn receive(&mut self) -> Result<Progress, QueueError> {
        self.rx.disable_kicks()?;
        for _ in 0..self.rx.size() {
            if !self.table.has_next() {
                return Ok(Progress::Idle);
            }
            let Some(mut chain) = self.rx.pop()? else {
                return Ok(if self.rx.enable_kicks()? {
                    Progress::More
                } else {
                    Progress::Starved
                });
            };
            let room = chain.writable.len().saturating_sub(HEADER_LEN).min(SCRATCH);
            if room == 0 {
                self.job.malformed.fetch_add(1, Ordering::Relaxed);
                self.rx.complete(chain, 0)?;
                continue;
            }
            let Some((header, len)) =
                self.table.next(self.scratch.get_mut(..room).unwrap_or_default())
            else {
                // The sockets had nothing after all.
                self.rx.unpop(chain);
                continue;
            };
            let mut written = chain.writable.write(&header.to_bytes());
            written += chain.writable.write(self.scratch.get(..len).unwrap_or_default());
            self.rx.complete(chain, written as u32)?;
        }
        Ok(Progress::More)
    }

    fn publish(&mut self) -> Result<(), QueueError> {
        for queue in [&mut *self.rx, &mut *self.tx] {
            if queue.publish()? {
                self.job.interrupt.queue(queue.index());
            }
        }
        Ok(())
    }

    /// Sleeps until there is something to do.
    fn wait(
        &self,
        sockets: &Sockets,
        stop: &Event,
        (starved, listens): (bool, bool),
        timeout_ms: Option<u16>,
    ) -> Result<Woken, ServiceError> {
        let (rx_kick, tx_kick) = (self.rx.kick(), self.tx.kick());
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut set = vec![readable(stop.as_fd()), readable(tx_kick.as_fd())];
        let rx_place = starved.then_some(set.len());
        set.extend(starved.then(|| readable(rx_kick.as_fd())));
        let listener_place = listens.then_some(set.len());
        set.extend(listens.then(|| readable(sockets.fd())));
        let first = set.len();
        let mut slots = Vec::new();
        for (slot, fd, flags) in self.table.watched() {
            slots.push(slot);
            set.push(PollFd::new(fd, flags));
        }
        let timeout = timeout_ms.map_or(PollTimeout::NONE, PollTimeout::from);
        loop {
            match poll(&mut set, timeout) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
                Ok(_) => break,
            }
        }
        let events = |place: usize| {
            // Bits that nix does not know are no reason to miss the others.
            set.get(place)
                .map_or(PollFlags::empty(), |fd| fd.revents().unwrap_or(PollFlags::POLLERR))
        };
        let is_ready = |place: Option<usize>| place.is_some_and(|place| !events(place).is_empty());
        if is_ready(Some(1)) {
            tx_kick.take();
        }
        if is_ready(rx_place) {
            rx_kick.take();
        }
        let slots = slots.into_iter().enumerate().map(|(at, slot)| (slot, events(first + at)));
        Ok(Woken {
            stopped: is_ready(Some(0)),
            accepts: is_ready(listener_place),
            slots: slots.filter(|(_, events)| !events.is_empty()).collect(),
        })
    }
}

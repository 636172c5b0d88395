//! One queue pair's thread: frames from the interface into receive buffers, frames of the guest
//! to the interface.
//!
//! It sleeps on what can make progress: on the interface only while there are receive buffers, on
//! the receive queue's kicks only while there are none. Receive buffers are taken off the ring
//! ahead of the frames, as many as the largest frame may need; what a frame left over is kept for
//! the next, and what is left at the end goes back to the ring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use vm_memory::VolatileSlice;

use super::PairCounters;
use super::ctrl::Control;
use crate::event::{Event, wait_readable};
use crate::net::{HEADER_LEN, MAX_FRAME, NetBackend, Received};
use crate::virtio::Interrupt;
use crate::virtio::queue::{Chain, QueueError, Virtqueue};
use crate::virtio::service::ServiceError;

/// Frames of one direction before the other gets its turn.
const BUDGET: usize = 128;
/// Receive buffers held at most: enough for the largest frame in buffers of half a kilobyte.
const MAX_HELD: usize = 144;
/// `num_buffers` in the header (§5.1.6).
const NUM_BUFFERS: usize = 10;

/// What a pair's thread works with.
pub struct Pair<'a, 'm> {
    /// Its number.
    pub number: usize,
    /// Receive queue.
    pub rx: &'a mut Virtqueue<'m>,
    /// Transmit queue.
    pub tx: &'a mut Virtqueue<'m>,
    /// The interface's queue.
    pub backend: &'a mut dyn NetBackend,
    /// What was negotiated of it.
    pub control: &'a Control,
    /// What is reported.
    pub counters: &'a PairCounters,
    /// How to tell the driver.
    pub interrupt: &'a dyn Interrupt,
    /// MRG_RXBUF was negotiated.
    pub mergeable: bool,
    /// The largest frame to make room for, header included.
    pub largest: usize,
    /// The pair is somebody else's to serve while it is switched on.
    pub yields: bool,
}

/// Why a pair is served no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The device stops.
    Stopped,
    /// The driver has switched it on or off, and it is for the other kind of service now.
    Switched,
}

/// Receive buffers taken off the ring, in order.
#[derive(Default)]
struct Held<'m> {
    chains: VecDeque<Chain<'m>>,
    room: usize,
}

/// A direction's answer to "go on": is there more to do right now, or only after an event?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    More,
    /// Nothing comes from the interface, or the transmit ring is empty.
    Idle,
    /// There is no receive buffer.
    Starved,
}

impl<'m> Pair<'_, 'm> {
    /// Serves both queues until `stop`, or until it yields.
    ///
    /// # Errors
    /// When the rings cannot be served.
    pub fn serve(mut self, stop: &Event) -> Result<Ended, ServiceError> {
        let mut held = Held::default();
        let result = self.turns(stop, &mut held);
        while let Some(chain) = held.chains.pop_back() {
            self.rx.unpop(chain);
        }
        result
    }

    fn turns(&mut self, stop: &Event, held: &mut Held<'m>) -> Result<Ended, ServiceError> {
        let (rx_kick, tx_kick) = (self.rx.kick(), self.tx.kick());
        let changed = self.control.changed.get(self.number).cloned();
        let mut enabled = self.control.follow(self.number, self.backend);
        let mut alive = true;
        let mut pieces = Vec::new();
        loop {
            if enabled && self.yields {
                return Ok(Ended::Switched);
            }
            let receiving = if enabled && alive {
                self.receive(held, &mut pieces).or_else(|error| match error {
                    Failure::Ring(error) => Err(error),
                    Failure::Interface(error) => {
                        log::error!("net{}: interface is gone: {error}", self.number);
                        alive = false;
                        Ok(Progress::Idle)
                    }
                })?
            } else {
                Progress::Idle
            };
            let sending = self.transmit()?;
            self.publish()?;
            let timeout_ms =
                (receiving == Progress::More || sending == Progress::More).then_some(0);
            let listens = enabled && alive && receiving != Progress::Starved;
            let [stopped, control, kicked_rx, kicked_tx, _] = wait_readable(
                [
                    Some(stop.as_fd()),
                    changed.as_ref().map(AsFd::as_fd),
                    (receiving == Progress::Starved).then(|| rx_kick.as_fd()),
                    Some(tx_kick.as_fd()),
                    listens.then(|| self.backend.fd()),
                ],
                timeout_ms,
            )?;
            if stopped {
                return Ok(Ended::Stopped);
            }
            if control {
                changed.as_ref().map(Event::take);
                enabled = self.control.follow(self.number, self.backend);
            }
            if kicked_rx {
                rx_kick.take();
            }
            if kicked_tx {
                tx_kick.take();
            }
        }
    }

    fn publish(&mut self) -> Result<(), QueueError> {
        if self.rx.publish()? {
            self.interrupt.queue(self.rx.index());
        }
        if self.tx.publish()? {
            self.interrupt.queue(self.tx.index());
        }
        Ok(())
    }

    fn receive(
        &mut self,
        held: &mut Held<'m>,
        pieces: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<Progress, Failure> {
        for _ in 0..BUDGET {
            self.hold(held)?;
            if held.chains.is_empty() {
                // What was received so far must not wait for the driver's next buffers.
                return Ok(if self.rx.enable_kicks()? {
                    Progress::More
                } else {
                    Progress::Starved
                });
            }
            pieces.clear();
            let frames = if self.mergeable { held.chains.len() } else { 1 };
            for chain in held.chains.iter().take(frames) {
                pieces.extend_from_slice(chain.writable.pieces());
            }
            match self.backend.receive(pieces).map_err(Failure::Interface)? {
                Received::Nothing => return Ok(Progress::Idle),
                Received::Frame(len) if len >= HEADER_LEN => self.deliver(held, len)?,
                Received::Frame(_) | Received::TooLarge => {
                    self.counters.rx.dropped.add(1);
                }
            }
        }
        Ok(Progress::More)
    }

    /// Takes buffers off the ring until the largest frame has room.
    fn hold(&mut self, held: &mut Held<'m>) -> Result<(), QueueError> {
        let enough = if self.mergeable { self.largest } else { 1 };
        if held.room >= enough {
            return Ok(());
        }
        self.rx.disable_kicks()?;
        // A driver that offers nothing but unusable buffers must not keep us here.
        for _ in 0..self.rx.size() {
            if held.room >= enough || held.chains.len() >= MAX_HELD {
                break;
            }
            let Some(chain) = self.rx.pop()? else { break };
            if chain.writable.len() < HEADER_LEN {
                // Not even the header fits (§5.1.6.3.1). But the buffers held come first.
                if !held.chains.is_empty() {
                    self.rx.unpop(chain);
                    break;
                }
                self.rx.complete(chain, 0)?;
                continue;
            }
            held.room = held.room.saturating_add(chain.writable.len());
            held.chains.push_back(chain);
        }
        Ok(())
    }

    /// Completes the buffers that a frame of `len` bytes lies in.
    fn deliver(&mut self, held: &mut Held<'m>, len: usize) -> Result<(), QueueError> {
        let (mut buffers, mut covered) = (0u16, 0);
        for chain in &held.chains {
            if covered >= len {
                break;
            }
            covered += chain.writable.len();
            buffers += 1;
        }
        let mut left = len;
        for number in 0..buffers {
            let Some(mut chain) = held.chains.pop_front() else { break };
            let room = chain.writable.len();
            held.room = held.room.saturating_sub(room);
            let used = left.min(room);
            left -= used;
            if number == 0 && chain.writable.skip(NUM_BUFFERS).is_some() {
                chain.writable.write(&buffers.to_le_bytes());
            }
            self.rx.complete(chain, used as u32)?;
        }
        self.counters.rx.frames.add(1);
        self.counters.rx.bytes.add((len - HEADER_LEN) as u64);
        Ok(())
    }

    fn transmit(&mut self) -> Result<Progress, QueueError> {
        self.tx.disable_kicks()?;
        for _ in 0..BUDGET {
            let Some(chain) = self.tx.pop()? else {
                let more = self.tx.enable_kicks()?;
                return Ok(if more { Progress::More } else { Progress::Idle });
            };
            let len = chain.readable.len();
            let sent = (HEADER_LEN + 1..=MAX_FRAME).contains(&len)
                && self.backend.send(chain.readable.pieces()).is_ok();
            if sent {
                self.counters.tx.frames.add(1);
                self.counters.tx.bytes.add((len - HEADER_LEN) as u64);
            } else {
                self.counters.tx.dropped.add(1);
            }
            self.tx.complete(chain, 0)?;
        }
        Ok(Progress::More)
    }
}

enum Failure {
    Ring(QueueError),
    Interface(io::Error),
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Failure {
        Failure::Ring(error)
    }
}

//! A queue pair while the kernel serves it: rings, eventfds and the tap are handed over, and the
//! pair's thread sleeps until it is time to take them back.
//!
//! ```text
//! the driver's kicks ── ioeventfd ──► kick ─┐                 ┌─► call ── irqfd ──► the driver
//!                                           ├─ vhost's worker ┤
//! tap ──────────────────────────────────────┘                 └─► error ──► this thread
//! ```
//! Where a ring is to go on, whoever served it last says: the kernel is told the entry of the
//! available ring, and asked for it at the end; the used ring's index is in the ring. Kicks that
//! came before the hand-over are still in the eventfd, and the kernel looks at the transmit ring by
//! itself when it gets the tap: it is writable.
//!
//! Runs on the pair's thread.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use virtio_queue::QueueT;

use super::config::F_MRG_RXBUF;
use super::ctrl::Control;
use super::job::Context;
use super::pair::Ended;
use crate::event::{Event, wait_readable};
use crate::net::NetBackend;
use crate::net::vhost::{Ring, RingEvents, Vhost, VhostError};
use crate::virtio::service::ServiceError;
use crate::virtio::{F_VERSION_1, LiveQueue, RING_FEATURES};

/// The features that are the kernel's matter; the others are the tap's, or ours.
const FEATURES: u64 = F_VERSION_1 | RING_FEATURES | F_MRG_RXBUF;

/// The features that `vhost` cannot serve, so that they must not be offered.
pub fn unserved(vhost: &dyn Vhost) -> u64 {
    FEATURES & !vhost.features()
}

/// What the pair's thread works with.
pub struct VhostPair<'a> {
    /// The pair's number.
    pub number: usize,
    /// Who serves the rings.
    pub vhost: &'a mut dyn Vhost,
    /// The interface's queue.
    pub backend: &'a mut dyn NetBackend,
    /// What the driver controls.
    pub control: &'a Control,
    /// Memory, features, interrupts.
    pub context: &'a Context,
}

/// Why the kernel does not serve the pair.
pub enum Failure {
    /// It does not begin: somebody else may.
    Refused(VhostError),
    /// The rings cannot be served any longer.
    Broken(ServiceError),
}

impl VhostPair<'_> {
    /// Has the receive and transmit queue served until `stop`, or while the driver has the pair
    /// switched on. The queues are then as the kernel left them.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn serve(mut self, queues: &mut [LiveQueue; 2], stop: &Event) -> Result<Ended, Failure> {
        // First: a tap queue that has not joined is nothing that the kernel would take.
        if !self.control.follow(self.number, self.backend) {
            return Ok(Ended::Switched);
        }
        let error = Event::new().map_err(|_| Failure::Refused(VhostError::Eventfd))?;
        let mut served = [false; 2];
        let result = match self.hand_over(queues, &error, &mut served) {
            Ok(()) => self.wait(&error, stop).map_err(Failure::Broken),
            Err(error) => Err(Failure::Refused(error)),
        };
        // A kernel that does not let go of a ring leaves nobody to serve it.
        self.take_back(queues, served).map_err(|error| Failure::Broken(error.into()))?;
        result
    }

    /// Notes in `served` which rings the kernel serves; all of them, unless it fails.
    fn hand_over(
        &mut self,
        queues: &[LiveQueue; 2],
        error: &Event,
        served: &mut [bool; 2],
    ) -> Result<(), VhostError> {
        let Context { memory, features, interrupt } = self.context;
        self.vhost.set_up(features & FEATURES, memory)?;
        for (ring, live) in Ring::ALL.into_iter().zip(queues) {
            self.vhost.set_ring(ring, &live.queue)?;
            let call = interrupt.queue_event(live.index).ok_or(VhostError::Eventfd)?;
            let (kick, error) = (live.kick.clone().into(), error.clone());
            self.vhost.set_events(ring, Some(&RingEvents { kick, call, error }))?;
        }
        for (ring, served) in Ring::ALL.into_iter().zip(served) {
            self.vhost.set_backend(ring, Some(self.backend.fd()))?;
            *served = true;
        }
        Ok(())
    }

    /// Ends what was begun. Rings that were never served are where they were: for them, whoever
    /// refused to begin may refuse to end.
    fn take_back(
        &mut self,
        queues: &mut [LiveQueue; 2],
        served: [bool; 2],
    ) -> Result<(), VhostError> {
        let mut result = Ok(());
        for ((ring, live), served) in Ring::ALL.into_iter().zip(queues).zip(served) {
            let ended = self.vhost.set_backend(ring, None);
            // What is not unbound is replaced at the next hand-over, and signals in vain until then.
            let _ = self.vhost.set_events(ring, None);
            if served {
                result = result.and(ended).and(self.settle(ring, live));
            }
        }
        result
    }

    /// Notes where a ring is to go on.
    fn settle(&self, ring: Ring, live: &mut LiveQueue) -> Result<(), VhostError> {
        live.queue.set_next_avail(self.vhost.next_avail(ring)?);
        let used = live.queue.used_idx(&*self.context.memory, Ordering::Acquire);
        live.queue.set_next_used(used.map_err(|_| VhostError::Memory("a ring outside RAM"))?.0);
        Ok(())
    }

    fn wait(&self, error: &Event, stop: &Event) -> Result<Ended, ServiceError> {
        let changed = self.control.changed.get(self.number);
        loop {
            let [stopped, failed, switched] = wait_readable(
                [Some(stop.as_fd()), Some(error.as_fd()), changed.map(AsFd::as_fd)],
                None,
            )?;
            if stopped {
                return Ok(Ended::Stopped);
            }
            if failed {
                return Err(VhostError::Rings.into());
            }
            if switched {
                changed.map(Event::take);
                if !self.control.wants(self.number) {
                    return Ok(Ended::Switched);
                }
            }
        }
    }
}

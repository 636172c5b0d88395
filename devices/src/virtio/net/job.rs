//! A queue pair's thread: decides who serves the pair, and sees to it until the device stops.
//!
//! ```text
//! with vhost:     switched on → the kernel     switched off → this thread
//! without, or refused by the kernel:           always this thread
//! ```
//! A pair that is off receives nothing, and what is sent on it is dropped, which this thread does
//! in both cases: the kernel would leave the guest's frames lying in the ring, and a connection
//! that waits for one of them hangs. Each service ends with the queues' state complete, and the
//! next goes on from it.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::Counters;
use super::config::{self, F_MRG_RXBUF};
use super::ctrl::Control;
use super::pair::{Ended, Pair};
use super::vhost::{Failure, VhostPair};
use crate::event::Event;
use crate::mem::GuestMemory;
use crate::net::NetBackend;
use crate::net::vhost::{Vhost, VhostError};
use crate::virtio::queue::{QueueError, Virtqueue};
use crate::virtio::service::{ServiceError, report};
use crate::virtio::throttle::Throttle;
use crate::virtio::{Interrupt, LiveQueue};

static REFUSALS: Throttle = Throttle::new();

/// What all the threads of one activation have in common.
#[derive(Clone)]
pub struct Context {
    /// The guest's RAM.
    pub memory: GuestMemory,
    /// What was negotiated.
    pub features: u64,
    /// How to tell the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

/// What a pair leads to.
pub struct Port {
    /// A queue of the interface.
    pub backend: Box<dyn NetBackend>,
    /// Who may serve the rings in our place.
    pub vhost: Option<Box<dyn Vhost>>,
}

impl Port {
    /// Served by us.
    pub fn new(backend: Box<dyn NetBackend>) -> Port {
        Port { backend, vhost: None }
    }
}

/// What a pair's thread gives back.
pub struct PairEnd {
    /// The pair's number.
    pub number: usize,
    /// What it leads to.
    pub port: Port,
    /// Its queues.
    pub queues: [LiveQueue; 2],
}

/// What a pair's thread works with.
pub struct PairJob {
    /// The pair's number.
    pub number: usize,
    /// What it shares with the others.
    pub context: Context,
    /// What the driver controls.
    pub control: Arc<Control>,
    /// What is reported.
    pub counters: Arc<Counters>,
    /// Counts refused chains.
    pub malformed: Arc<AtomicU64>,
    /// The MTU that was offered.
    pub mtu: Option<u16>,
}

impl PairJob {
    /// The thread: serves both queues until `stop`, or until they cannot be served.
    pub fn run(self, mut port: Port, rx: LiveQueue, tx: LiveQueue, stop: &Event) -> PairEnd {
        let (queues, result) = self.serve(&mut port, [rx, tx], stop);
        if let Err(error) = result {
            report(&format!("net{}", self.number), &error, &*self.context.interrupt);
        }
        PairEnd { number: self.number, port, queues }
    }

    fn serve(
        &self,
        port: &mut Port,
        mut queues: [LiveQueue; 2],
        stop: &Event,
    ) -> ([LiveQueue; 2], Result<(), ServiceError>) {
        let mut kernel = port.vhost.as_mut();
        loop {
            if let Some(vhost) = &mut kernel {
                match self.by_kernel(&mut ***vhost, &mut *port.backend, &mut queues, stop) {
                    Ok(Ended::Switched) => {}
                    Ok(Ended::Stopped) => return (queues, Ok(())),
                    Err(Failure::Broken(error)) => return (queues, Err(error)),
                    Err(Failure::Refused(error)) => {
                        self.say_refused(&error);
                        kernel = None;
                    }
                }
            }
            let result;
            (queues, result) = self.by_hand(&mut *port.backend, queues, kernel.is_some(), stop);
            match result {
                Ok(Ended::Switched) => {}
                Ok(Ended::Stopped) => return (queues, Ok(())),
                Err(error) => return (queues, Err(error)),
            }
        }
    }

    fn by_kernel(
        &self,
        vhost: &mut dyn Vhost,
        backend: &mut dyn NetBackend,
        queues: &mut [LiveQueue; 2],
        stop: &Event,
    ) -> Result<Ended, Failure> {
        let (number, context, control) = (self.number, &self.context, &*self.control);
        VhostPair { number, vhost, backend, control, context }.serve(queues, stop)
    }

    fn by_hand(
        &self,
        backend: &mut dyn NetBackend,
        [rx, tx]: [LiveQueue; 2],
        yields: bool,
        stop: &Event,
    ) -> ([LiveQueue; 2], Result<Ended, ServiceError>) {
        let Context { memory, features, interrupt } = &self.context;
        let open = |live| -> Result<Virtqueue<'_>, (LiveQueue, QueueError)> {
            Virtqueue::new(live, memory, *features, &self.malformed)
        };
        let mut rx = match open(rx) {
            Ok(queue) => queue,
            Err((live, error)) => return ([live, tx], Err(error.into())),
        };
        let mut tx = match open(tx) {
            Ok(queue) => queue,
            Err((live, error)) => return ([rx.into_live(), live], Err(error.into())),
        };
        let result = Pair {
            number: self.number,
            rx: &mut rx,
            tx: &mut tx,
            backend,
            control: &self.control,
            counters: self.counters.pair(self.number),
            interrupt: &**interrupt,
            mergeable: features & F_MRG_RXBUF != 0,
            largest: config::largest_frame(*features, self.mtu),
            yields,
        }
        .serve(stop);
        ([rx.into_live(), tx.into_live()], result)
    }

    /// A sentence for the log, causes and all; a driver may start the device again and again.
    fn say_refused(&self, error: &VhostError) {
        if !REFUSALS.allows() {
            return;
        }
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        log::warn!("net{}: {error}{cause}; frames go through this process", self.number);
    }
}

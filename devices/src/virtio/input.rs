//! Input devices (VIRTIO 1.3 §5.8): a keyboard, and a tablet whose positions are absolute.
//!
//! ```text
//! event queue   device → driver: buffers of 8 bytes, an event each: type, code, value
//! status queue  driver → device: the same, for lights
//! config        select and subsel written, size and 128 bytes of answer read
//! ```
//! What a viewer does is kept as reports ([`Reports`]) until the driver has buffers for their events;
//! a report is delivered whole, ended by SYN_REPORT. The keyboard does not repeat by itself: a
//! viewer's repeated presses are passed on with value 2.
//!
//! Two threads serve a device, one a queue, while its driver runs: only then it takes reports.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use self::config::Config;
use self::reports::{Event, Reports};
use super::queue::{Chain, Virtqueue};
use super::service::{Service, ServiceError, serve_each, stop_all};
use super::{Activation, DeviceError, Interrupt, LiveQueue, RING_FEATURES, VirtioDevice};
use crate::event::{self, wait_readable};
use crate::worker::Worker;

mod config;
pub mod reports;

const ID_INPUT: u16 = 18;
/// Input device, none of the kinds that PCI knows.
const CLASS: u32 = 0x09_80_00;
const QUEUE_SIZE: u16 = 64;
const EVENT_QUEUE: u16 = 0;

const EV_LED: u16 = 0x11;

/// Which device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keys and lights.
    Keyboard,
    /// A position on the screen, buttons, wheels.
    Tablet,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Keyboard => "keyboard",
            Kind::Tablet => "tablet",
        }
    }
}

/// An input device.
pub struct Input {
    kind: Kind,
    config: Config,
    reports: Arc<Reports>,
    workers: Vec<Worker<LiveQueue>>,
    malformed: Arc<AtomicU64>,
}

impl Input {
    /// A device, and what feeds it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(kind: Kind) -> std::io::Result<(Input, Arc<Reports>)> {
        let reports = Arc::new(Reports::new(event::Event::new()?));
        let input = Input {
            kind,
            config: Config::new(kind),
            reports: reports.clone(),
            workers: Vec::new(),
            malformed: Arc::default(),
        };
        Ok((input, reports))
    }
}

impl VirtioDevice for Input {
    fn id(&self) -> u16 {
        ID_INPUT
    }

    fn pci_class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn start(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, queues, interrupt } = activation;
        for live in queues {
            let is_events = live.index == EVENT_QUEUE;
            let service = Service {
                live,
                memory: memory.clone(),
                features,
                interrupt: interrupt.clone(),
                malformed: self.malformed.clone(),
            };
            let reports = self.reports.clone();
            let name = self.kind.name();
            self.workers.push(if is_events {
                self.reports.open();
                service.spawn(name, move |queue, interrupt, stop| {
                    deliver(&reports, queue, interrupt, stop)
                })?
            } else {
                service.spawn(&format!("{name}-leds"), move |queue, interrupt, stop| {
                    serve_each(queue, interrupt, stop, |chain| take_status(&reports, chain))
                })?
            });
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<LiveQueue> {
        self.reports.close();
        stop_all(&mut self.workers)
    }
}

/// Serves the event queue: as many events as there are buffers for, then sleeps until either comes.
fn deliver(
    reports: &Reports,
    queue: &mut Virtqueue<'_>,
    interrupt: &dyn Interrupt,
    stop: &event::Event,
) -> Result<(), ServiceError> {
    let kick = queue.kick();
    let mut outbox: VecDeque<Event> = VecDeque::new();
    loop {
        queue.disable_kicks()?;
        // No more than a ring's worth before we look whether to stop.
        for _ in 0..queue.size() {
            if outbox.is_empty() {
                outbox.extend(reports.take());
            }
            let Some(event) = outbox.front() else { break };
            let Some(mut chain) = queue.pop()? else { break };
            let bytes = event.bytes();
            let fits = chain.writable.len() >= bytes.len();
            let written = if fits { chain.writable.write(&bytes) } else { 0 };
            queue.complete(chain, written as u32)?;
            // A buffer that is too small is given back, and the next one tried.
            if fits {
                outbox.pop_front();
            }
        }
        if queue.publish()? {
            interrupt.queue(queue.index());
        }
        // New buffers matter only while there is something to put into them.
        let is_empty = outbox.is_empty() && !reports.is_waiting();
        let more = !is_empty && queue.enable_kicks()?;
        let timeout_ms = more.then_some(0);
        let wake = reports.wake();
        let fds = [Some(stop.as_fd()), Some(kick.as_fd()), Some(wake.as_fd())];
        let [stopped, kicked, woken] = wait_readable(fds, timeout_ms)?;
        if kicked {
            kick.take();
        }
        if woken {
            wake.take();
        }
        if stopped {
            return Ok(());
        }
    }
}

/// Takes one event of the status queue: a light goes on or off.
fn take_status(reports: &Reports, chain: &mut Chain<'_>) -> u32 {
    let mut bytes = [0; Event::LEN];
    if chain.readable.read(&mut bytes).is_some() {
        let event = Event::parse(bytes);
        if event.kind == EV_LED {
            reports.set_led(event.code, event.value != 0);
        }
    }
    0
}

#[cfg(test)]
mod tests;

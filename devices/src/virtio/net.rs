//! A network device (VIRTIO 1.3 §5.1): frames ↔ [`NetBackend`].
//!
//! Each queue pair has a thread (`job.rs`) and a queue of the interface. The thread carries the
//! frames itself (`pair.rs`), or has the kernel do it (`vhost.rs`). The control queue has a thread
//! of its own (`ctrl.rs`). Checksum and segmentation offloads are passed through: the
//! interface and the guest do each other's work only where both agreed.
//!
//! Left out: receive filtering, VLAN filtering, announcements, RSS, hash reports, coalescing, and
//! changing guest offloads after negotiation.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use super::service::{Service, serve_each, stop_all};
use super::{Activation, DeviceError, LiveQueue, VirtioDevice, read_config_bytes};
use crate::event::Event;
use crate::net::vhost::Vhost;
use crate::net::{MacAddr, NetBackend};
use crate::worker::Worker;
use config::F_MQ;
use ctrl::Control;
use job::{Context, PairEnd, PairJob, Port};

pub use counters::{Counters, Flow, PairCounters, Total};

pub mod config;
mod counters;
mod ctrl;
mod job;
mod pair;
mod vhost;

#[cfg(test)]
mod tests;

const ID_NETWORK: u16 = 1;
/// Ethernet controller.
const CLASS: u32 = 0x02_00_00;
const QUEUE_SIZE: u16 = 256;
const CTRL_QUEUE_SIZE: u16 = 64;
/// More pairs than this are not served.
pub const MAX_PAIRS: usize = 64;
/// The least MTU of IPv4 (RFC 791), which is the least a driver accepts.
pub const MIN_MTU: u16 = 68;

/// The device cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The interface has no queue, or too many.
    #[error("{0} queues of an interface, but 1 to {MAX_PAIRS} are possible")]
    Pairs(usize),
    /// The MTU is too small.
    #[error("mtu {0} is below {MIN_MTU}")]
    Mtu(u16),
    /// The address is one of a group.
    #[error("{0:02x?} is not a unicast hardware address")]
    Mac(MacAddr),
    /// No eventfd.
    #[error("no eventfd for the queue pairs")]
    Eventfd(#[source] std::io::Error),
}

/// A network device.
pub struct Net {
    /// One for each pair; taken by its thread while that runs.
    ports: Vec<Option<Port>>,
    /// What is not offered, though this code could serve it.
    withheld: u64,
    uso: bool,
    mac: MacAddr,
    mtu: Option<u16>,
    control: Arc<Control>,
    pairs: Vec<Worker<PairEnd>>,
    others: Vec<Worker<LiveQueue>>,
    counters: Arc<Counters>,
    malformed: Arc<AtomicU64>,
}

impl Net {
    /// An interface with one of `backends` for each queue pair, and this address.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn new(
        backends: Vec<Box<dyn NetBackend>>,
        mac: MacAddr,
        mtu: Option<u16>,
    ) -> Result<Net, NetError> {
        if !(1..=MAX_PAIRS).contains(&backends.len()) {
            return Err(NetError::Pairs(backends.len()));
        }
        if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(NetError::Mtu(mtu));
        }
        if mac[0] & 1 != 0 {
            return Err(NetError::Mac(mac));
        }
        let events = backends.iter().map(|_| Event::new()).collect::<Result<_, _>>();
        Ok(Net {
            uso: backends.iter().all(|backend| backend.has_uso()),
            control: Arc::new(Control {
                mac: Mutex::new(mac),
                active: AtomicUsize::new(1),
                changed: events.map_err(NetError::Eventfd)?,
            }),
            ports: backends.into_iter().map(|backend| Some(Port::new(backend))).collect(),
            withheld: 0,
            mac,
            mtu,
            pairs: vec![],
            others: vec![],
            counters: Arc::default(),
            malformed: Arc::default(),
        })
    }

    /// Lets the kernel serve the pairs, one of `kernels` for each from the first on; pairs that are
    /// left over, and any that the kernel refuses, are served by threads of ours. To be called
    /// before the device is plugged in: fewer features may be offered.
    pub fn with_vhost(mut self, kernels: Vec<Box<dyn Vhost>>) -> Net {
        for (port, kernel) in self.ports.iter_mut().flatten().zip(kernels) {
            self.withheld |= vhost::unserved(&*kernel);
            port.vhost = Some(kernel);
        }
        self
    }

    /// Counts in `counters`. To be called before the device is plugged in.
    pub fn with_counters(mut self, counters: Arc<Counters>) -> Net {
        self.counters = counters;
        self
    }

    /// What was done so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Counts the chains refused as malformed.
    pub fn malformed(&self) -> Arc<AtomicU64> {
        self.malformed.clone()
    }

    fn start_pair(
        &mut self,
        number: usize,
        (rx, tx): (LiveQueue, LiveQueue),
        context: &Context,
    ) -> Result<(), DeviceError> {
        let mut port = self.ports.get_mut(number).and_then(Option::take).ok_or_else(|| {
            DeviceError(format!("queue {number} of the interface was lost in a panic"))
        })?;
        let offloads = config::guest_offloads(context.features);
        if let Err(error) = port.backend.set_guest_offloads(offloads) {
            self.ports[number] = Some(port);
            return Err(DeviceError(format!("offloads {offloads:?}: {error}")));
        }
        let job = PairJob {
            number,
            context: context.clone(),
            control: self.control.clone(),
            counters: self.counters.clone(),
            malformed: self.malformed.clone(),
            mtu: self.mtu,
        };
        let on_panic = context.interrupt.clone();
        let name = format!("net{number}");
        let worker = Worker::spawn(
            &name,
            move || on_panic.needs_reset(),
            move |stop| job.run(port, rx, tx, stop),
        )
        .map_err(|error| DeviceError(format!("thread {name}: {error}")))?;
        self.pairs.push(worker);
        Ok(())
    }

    fn start_control(&mut self, live: LiveQueue, context: &Context) -> Result<(), DeviceError> {
        let (control, features) = (self.control.clone(), context.features);
        let service = Service {
            live,
            memory: context.memory.clone(),
            features,
            interrupt: context.interrupt.clone(),
            malformed: self.malformed.clone(),
        };
        let worker = service.spawn("net-ctrl", move |queue, interrupt, stop| {
            serve_each(queue, interrupt, stop, |chain| control.command(features, chain))
        })?;
        self.others.push(worker);
        Ok(())
    }

    fn start_all(&mut self, queues: Vec<LiveQueue>, context: &Context) -> Result<(), DeviceError> {
        // Where the control queue is depends on what was negotiated (§5.1.2).
        let pairs = if context.features & F_MQ == 0 { 1 } else { self.ports.len() };
        let mut rx: Vec<Option<LiveQueue>> = (0..pairs).map(|_| None).collect();
        for live in queues {
            let (number, is_tx) = (usize::from(live.index) / 2, live.index % 2 == 1);
            if number >= pairs {
                if number == pairs && !is_tx {
                    self.start_control(live, context)?;
                }
                continue;
            }
            // Queues come in order: a pair is complete with its transmit queue.
            if !is_tx {
                rx[number] = Some(live);
            } else if let Some(receive) = rx[number].take() {
                self.start_pair(number, (receive, live), context)?;
            }
        }
        Ok(())
    }
}

impl VirtioDevice for Net {
    fn id(&self) -> u16 {
        ID_NETWORK
    }

    fn pci_class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        config::features(self.ports.len(), self.mtu, self.uso) & !self.withheld
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * self.ports.len()];
        sizes.push(CTRL_QUEUE_SIZE);
        sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mac = *self.control.mac.lock().expect("nothing panics under this lock");
        let config = config::bytes(mac, self.ports.len(), self.mtu);
        read_config_bytes(&config, offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn start(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, queues, interrupt } = activation;
        let context = Context { memory, features, interrupt };
        self.start_all(queues, &context).inspect_err(|_| {
            self.stop();
        })
    }

    fn stop(&mut self) -> Vec<LiveQueue> {
        let mut queues = stop_all(&mut self.others);
        self.pairs.iter().for_each(Worker::signal);
        for end in self.pairs.drain(..).filter_map(Worker::join) {
            queues.extend(end.queues);
            self.ports[end.number] = Some(end.port);
        }
        queues.sort_by_key(|live| live.index);
        // What the driver controlled is as it was at power-on.
        *self.control.mac.lock().expect("nothing panics under this lock") = self.mac;
        let _ = self.control.set_active(1);
        queues
    }
}

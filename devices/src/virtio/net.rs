//! A network device (VIRTIO 1.3 §5.1): frames ↔ [`NetBackend`].
//!
//! Each queue pair has a thread and a queue of the interface (`pair.rs`); the control queue has a
//! thread of its own (`ctrl.rs`). Checksum and segmentation offloads are passed through: the
//! interface and the guest do each other's work only where both agreed.
//!
//! Left out: receive filtering, VLAN filtering, announcements, RSS, hash reports, coalescing, and
//! changing guest offloads after negotiation.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use super::queue::{QueueError, Virtqueue};
use super::service::{Service, ServiceError, report, serve_each, stop_all};
use super::{Activation, DeviceError, Interrupt, LiveQueue, VirtioDevice, read_config_bytes};
use crate::event::Event;
use crate::mem::GuestMemory;
use crate::net::{MacAddr, NetBackend};
use crate::worker::Worker;
use config::{F_MQ, F_MRG_RXBUF};
use ctrl::Control;
use pair::Pair;

pub mod config;
mod ctrl;
mod pair;

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

/// What was done; shared with whoever reports it. rx and tx are seen from the guest.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames received.
    pub rx_frames: AtomicU64,
    /// Their bytes, without headers.
    pub rx_bytes: AtomicU64,
    /// Frames that did not fit into the guest's buffers.
    pub rx_dropped: AtomicU64,
    /// Frames sent.
    pub tx_frames: AtomicU64,
    /// Their bytes, without headers.
    pub tx_bytes: AtomicU64,
    /// Frames that were malformed, or that the interface did not take.
    pub tx_dropped: AtomicU64,
}

/// A network device.
pub struct Net {
    /// One for each pair; taken by its thread while that runs.
    backends: Vec<Option<Box<dyn NetBackend>>>,
    uso: bool,
    mac: MacAddr,
    mtu: Option<u16>,
    control: Arc<Control>,
    pairs: Vec<Worker<PairEnd>>,
    others: Vec<Worker<LiveQueue>>,
    counters: Arc<Counters>,
    malformed: Arc<AtomicU64>,
}

/// What a pair's thread gives back.
struct PairEnd {
    number: usize,
    backend: Box<dyn NetBackend>,
    queues: Vec<LiveQueue>,
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
            backends: backends.into_iter().map(Some).collect(),
            mac,
            mtu,
            pairs: vec![],
            others: vec![],
            counters: Arc::default(),
            malformed: Arc::default(),
        })
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
        let mut backend =
            self.backends.get_mut(number).and_then(Option::take).ok_or_else(|| {
                DeviceError(format!("queue {number} of the interface was lost in a panic"))
            })?;
        let offloads = config::guest_offloads(context.features);
        if let Err(error) = backend.set_guest_offloads(offloads) {
            self.backends[number] = Some(backend);
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
            move |stop| job.run(backend, rx, tx, stop),
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
        let pairs = if context.features & F_MQ == 0 { 1 } else { self.backends.len() };
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

/// What all the threads of one activation have in common.
#[derive(Clone)]
struct Context {
    memory: GuestMemory,
    features: u64,
    interrupt: Arc<dyn Interrupt>,
}

struct PairJob {
    number: usize,
    context: Context,
    control: Arc<Control>,
    counters: Arc<Counters>,
    malformed: Arc<AtomicU64>,
    mtu: Option<u16>,
}

impl PairJob {
    fn run(
        self,
        mut backend: Box<dyn NetBackend>,
        rx: LiveQueue,
        tx: LiveQueue,
        stop: &Event,
    ) -> PairEnd {
        let (queues, result) = self.serve(&mut *backend, rx, tx, stop);
        if let Err(error) = result {
            report(&format!("net{}", self.number), &error, &*self.context.interrupt);
        }
        PairEnd { number: self.number, backend, queues }
    }

    fn serve(
        &self,
        backend: &mut dyn NetBackend,
        rx: LiveQueue,
        tx: LiveQueue,
        stop: &Event,
    ) -> (Vec<LiveQueue>, Result<(), ServiceError>) {
        let Context { memory, features, interrupt } = &self.context;
        let open = |live| -> Result<Virtqueue<'_>, (LiveQueue, QueueError)> {
            Virtqueue::new(live, memory, *features, &self.malformed)
        };
        let mut rx = match open(rx) {
            Ok(queue) => queue,
            Err((live, error)) => return (vec![live, tx], Err(error.into())),
        };
        let mut tx = match open(tx) {
            Ok(queue) => queue,
            Err((live, error)) => return (vec![rx.into_live(), live], Err(error.into())),
        };
        let result = Pair {
            number: self.number,
            rx: &mut rx,
            tx: &mut tx,
            backend,
            control: &self.control,
            counters: &self.counters,
            interrupt: &**interrupt,
            mergeable: features & F_MRG_RXBUF != 0,
            largest: config::largest_frame(*features, self.mtu),
        }
        .serve(stop);
        (vec![rx.into_live(), tx.into_live()], result)
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
        config::features(self.backends.len(), self.mtu, self.uso)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * self.backends.len()];
        sizes.push(CTRL_QUEUE_SIZE);
        sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mac = *self.control.mac.lock().expect("nothing panics under this lock");
        let config = config::bytes(mac, self.backends.len(), self.mtu);
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
            self.backends[end.number] = Some(end.backend);
        }
        queues.sort_by_key(|live| live.index);
        // What the driver controlled is as it was at power-on.
        *self.control.mac.lock().expect("nothing panics under this lock") = self.mac;
        let _ = self.control.set_active(1);
        queues
    }
}

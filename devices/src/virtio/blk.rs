//! A block device (VIRTIO 1.3 §5.2): requests ↔ [`BlockBackend`].
//!
//! Each queue has a thread. It runs one of two engines with the same behaviour: io_uring, which
//! moves data between guest memory and files by itself, as many requests at once as there are; or
//! plain calls to the backend, one after the other. Discards and write-zeroes are calls in both.
//!
//! Left out: lifetime, secure erase, zones, and a write cache that the driver can switch.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::service::{Service, ServiceError, stop_all};
use super::throttle::Throttle;
use super::{Activation, DeviceError, LiveQueue, VirtioDevice, read_config_bytes};
use crate::block::BlockBackend;
use crate::block::ring::Idle;
use crate::block::shortage::Shortages;
use crate::worker::Worker;
use config::{F_FLUSH, QUEUE_SIZE};
use disk::{Disk, ID_LEN};
use limit::Limiter;

pub use counters::{Counters, LATENCY_BOUNDS, LATENCY_CLASSES, Operation, Totals};
pub use limit::Limits;

pub mod config;
mod counters;
mod disk;
mod limit;
mod request;
mod segments;
mod slot;
mod stall;
mod sync;
mod uring;
mod waits;

#[cfg(test)]
mod tests;

const ID_BLOCK: u16 = 2;
/// Mass storage, SCSI; what QEMU's device has.
const CLASS: u32 = 0x01_00_00;
/// More queues than this help nobody.
pub const MAX_QUEUES: u16 = 64;

static NO_RING: Throttle = Throttle::new();

/// How data is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where the kernel allows it, else calls.
    #[default]
    Auto,
    /// io_uring.
    IoUring,
    /// Calls to the backend.
    Sync,
}

/// The device cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum BlkError {
    /// Its serial number does not fit.
    #[error("disk serial number {0:?} is not 0 to {ID_LEN} printable ASCII characters")]
    Serial(String),
    /// Its number of queues is out of range.
    #[error("{0} queues for a disk, but 1 to {MAX_QUEUES} are possible")]
    Queues(u16),
    /// The backend's block size or capacity is off the grid.
    #[error("disk of {capacity} bytes in blocks of {logical_block}: not on a grid of 512 or 4096")]
    Grid {
        /// Size in bytes.
        capacity: u64,
        /// Logical block in bytes.
        logical_block: u32,
    },
    /// io_uring was asked for by name.
    #[error("the kernel does not allow io_uring here")]
    IoUring(#[source] io::Error),
}

/// A block device.
pub struct Blk {
    disk: Disk,
    queues: u16,
    engine: Engine,
    /// A ring that cannot be had when the device starts is done without.
    may_call: bool,
    workers: Vec<Worker<LiveQueue>>,
    malformed: Arc<AtomicU64>,
}

/// Whether disks can be moved by [`Engine::IoUring`] here.
///
/// # Errors
/// Why not: the kernel has no io_uring, or does not allow it.
pub fn has_io_uring() -> std::io::Result<()> {
    Idle::new(uring::OPERATIONS).map(drop)
}

impl Blk {
    /// A disk with the given serial number, 0 to 20 characters, and 1 to [`MAX_QUEUES`] queues.
    ///
    /// # Errors
    /// See [`BlkError`].
    pub fn new(
        backend: Arc<dyn BlockBackend>,
        serial: &str,
        queues: u16,
        engine: Engine,
    ) -> Result<Blk, BlkError> {
        if serial.len() > ID_LEN || !serial.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(BlkError::Serial(serial.to_owned()));
        }
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(BlkError::Queues(queues));
        }
        let info = backend.info();
        let (capacity, logical_block) = (info.capacity, info.logical_block);
        if !matches!(logical_block, 512 | 4096) || !capacity.is_multiple_of(logical_block.into()) {
            return Err(BlkError::Grid { capacity, logical_block });
        }
        let may_call = engine == Engine::Auto;
        let engine = match (engine, Idle::new(uring::OPERATIONS)) {
            (Engine::Sync, _) => Engine::Sync,
            (_, Ok(_)) => Engine::IoUring,
            (Engine::IoUring, Err(error)) => return Err(BlkError::IoUring(error)),
            (Engine::Auto, Err(error)) => {
                log::info!("no io_uring for disks ({error}), using calls");
                Engine::Sync
            }
        };
        let mut padded = [0; ID_LEN];
        padded[..serial.len()].copy_from_slice(serial.as_bytes());
        let disk = Disk {
            name: "a disk".into(),
            backend,
            serial: padded,
            read_only: info.read_only,
            write_through: false,
            inline: true,
            counters: Arc::new(Counters::new(queues)),
            limiter: None,
            shortages: Arc::default(),
        };
        Ok(Blk { disk, queues, engine, may_call, workers: vec![], malformed: Arc::default() })
    }

    /// Gives it a name, for logs and reports.
    pub fn named(mut self, name: Arc<str>) -> Blk {
        self.disk.name = name;
        self
    }

    /// Limits what its guest may ask for.
    pub fn limited(mut self, limits: Limits) -> Blk {
        self.disk.limiter = Limiter::new(limits, Instant::now()).map(Arc::new);
        self
    }

    /// Says whom to tell when the host has no room. Requests then wait whoever is told; but a guest
    /// that goes on meanwhile takes a disk that does not answer for broken.
    pub fn with_shortages(mut self, shortages: Arc<Shortages>) -> Blk {
        self.disk.shortages = shortages;
        self
    }

    /// Lets the ring do everything, so that tests see it at work.
    #[cfg(test)]
    fn without_inline(mut self) -> Blk {
        self.disk.inline = false;
        self
    }

    /// The engine in use; never [`Engine::Auto`].
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// What was done so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.disk.counters.clone()
    }

    /// Counts the chains refused as malformed.
    pub fn malformed(&self) -> Arc<AtomicU64> {
        self.malformed.clone()
    }

    fn spawn(&self, service: Service, disk: Disk) -> Result<Worker<LiveQueue>, DeviceError> {
        let name = format!("blk{}", service.live.index);
        if self.engine == Engine::Sync {
            return service.spawn(&name, move |queue, interrupt, stop| {
                sync::serve(&disk, queue, interrupt, stop)
            });
        }
        let (memory, may_call, label) = (service.memory.clone(), self.may_call, name.clone());
        // A ring can do more than the calls that the thread may make, so it may not make rings.
        let make = || Idle::new(uring::OPERATIONS);
        service.spawn_with(&name, make, move |idle, queue, interrupt, stop| match idle {
            Ok(idle) => uring::serve(idle, memory, &disk, queue, interrupt, stop),
            Err(error) if may_call => {
                // The guest can start the device as often as it likes.
                if NO_RING.allows() {
                    log::warn!("no io_uring for {label} ({error}), using calls");
                }
                sync::serve(&disk, queue, interrupt, stop)
            }
            Err(error) => Err(ServiceError::NoRing(error)),
        })
    }
}

impl VirtioDevice for Blk {
    fn id(&self) -> u16 {
        ID_BLOCK
    }

    fn pci_class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        config::features(&self.disk.backend.info(), self.queues)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.into()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = config::bytes(&self.disk.backend.info(), self.queues);
        read_config_bytes(&config, offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn start(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, queues, interrupt } = activation;
        let disk = Disk { write_through: features & F_FLUSH == 0, ..self.disk.clone() };
        for live in queues {
            let service = Service {
                live,
                memory: memory.clone(),
                features,
                interrupt: interrupt.clone(),
                malformed: self.malformed.clone(),
            };
            match self.spawn(service, disk.clone()) {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<LiveQueue> {
        stop_all(&mut self.workers)
    }
}

//! Memory balloon (VIRTIO 1.3 §5.5): the guest gives memory back to the host.
//!
//! ```text
//! 0 inflate    driver → device: 32-bit numbers of pages of 4 KiB that it does without
//! 1 deflate    driver → device: numbers of pages that it takes back
//! 2 statistics a buffer of the driver's, kept until somebody asks: tags and values
//! 3, 4         free page reporting: buffers that are free memory
//! config       0 num_pages: what we want | 4 actual: what it has given | 12 poison_val
//! ```
//! Free page reporting goes on by itself: what the guest frees is the host's again some seconds later,
//! and comes back when it is touched. The balloon proper has a size, which is asked for from outside
//! ([`Control`]): it makes the guest itself go short of memory.
//!
//! A page is given back by [`Reclaim`], whatever the driver uses it for: a driver that names pages it
//! still needs finds zeroes in them. Where the driver fills free pages with a pattern that it relies
//! on (VIRTIO_BALLOON_F_PAGE_POISON with another value than 0), reported pages are left alone.
//!
//! The reporting queue has number 4 by the specification, which counts the queues of features that
//! are not there, and 3 (or 2) for drivers that count only those that are, as Linux does. No other
//! queue of ours can be meant, so both are served.
//!
//! Where nothing can be given back (RAM on huge pages, which stay as a whole) the device is there for
//! its statistics: free page reporting is not offered, and what is put into the balloon stays where it is.
//!
//! Left out: free page hints (for migration), telling the host before pages are used again: there is
//! nothing to prepare for that. One thread serves all queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::control::{Control, Counts};
pub use self::statistics::{Statistic, Statistics};
use super::{Activation, DeviceError, LiveQueue, RING_FEATURES, VirtioDevice, read_config_bytes};
use crate::mem::Reclaim;
use crate::worker::Worker;

mod control;
mod pages;
mod serve;
mod statistics;

const ID_BALLOON: u16 = 5;
/// Unclassified; what QEMU's device has.
const CLASS: u32 = 0x00_ff_00;
/// Linux reports no free pages through a smaller one than 32.
const QUEUE_SIZE: u16 = 32;
const QUEUES: usize = 5;

/// There is a queue for statistics (§5.5.3).
pub const F_STATS_VQ: u64 = 1 << 1;
/// The guest may take memory back rather than kill processes for want of it.
pub const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// The driver says what it fills free pages with.
pub const F_PAGE_POISON: u64 = 1 << 4;
/// The driver reports free pages.
pub const F_REPORTING: u64 = 1 << 5;

/// The pages of this device, whatever the guest's are (§5.5.6).
pub const PAGE: u64 = 4096;

/// Offsets in struct virtio_balloon_config (§5.5.4).
const ACTUAL: u64 = 4;
const POISON: u64 = 12;

/// A balloon.
pub struct Balloon {
    control: Arc<Control>,
    reclaim: Option<Arc<dyn Reclaim>>,
    deflate_on_oom: bool,
    worker: Option<Worker<Vec<LiveQueue>>>,
    malformed: Arc<AtomicU64>,
}

impl Balloon {
    /// A balloon for a guest with `ram` bytes of RAM, which `reclaim` gives back; `None`: nothing is
    /// given back. With `deflate_on_oom` a guest that is out of memory may take back what it gave.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(
        ram: u64,
        reclaim: Option<Arc<dyn Reclaim>>,
        deflate_on_oom: bool,
    ) -> std::io::Result<Balloon> {
        Ok(Balloon {
            control: Arc::new(Control::new(ram)?),
            reclaim,
            deflate_on_oom,
            worker: None,
            malformed: Arc::default(),
        })
    }

    /// What says how large it is to be, and knows how large it is.
    pub fn control(&self) -> Arc<Control> {
        self.control.clone()
    }
}

impl VirtioDevice for Balloon {
    fn id(&self) -> u16 {
        ID_BALLOON
    }

    fn pci_class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        let oom = if self.deflate_on_oom { F_DEFLATE_ON_OOM } else { 0 };
        let reporting = if self.reclaim.is_some() { F_PAGE_POISON | F_REPORTING } else { 0 };
        RING_FEATURES | F_STATS_VQ | reporting | oom
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let control = &self.control;
        let fields = [
            control.target_pages.load(Ordering::Relaxed),
            control.actual_pages.load(Ordering::Relaxed),
            0,
            control.poison.load(Ordering::Relaxed),
        ];
        let mut bytes = [0; 16];
        for (to, field) in bytes.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        read_config_bytes(&bytes, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return };
        match offset {
            ACTUAL => self.control.actual_pages.store(value, Ordering::Relaxed),
            POISON => self.control.poison.store(value, Ordering::Relaxed),
            _ => {}
        }
    }

    fn start(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let job = serve::Job {
            memory: activation.memory,
            features: activation.features,
            interrupt: activation.interrupt.clone(),
            control: self.control.clone(),
            reclaim: self.reclaim.clone(),
            malformed: self.malformed.clone(),
        };
        let (queues, on_panic) = (activation.queues, activation.interrupt.clone());
        let has_statistics = activation.features & F_STATS_VQ != 0;
        let panicked = move || on_panic.needs_reset();
        let worker = Worker::spawn("balloon", panicked, move |stop| job.run(queues, stop));
        self.worker =
            Some(worker.map_err(|error| DeviceError(format!("thread balloon: {error}")))?);
        self.control.open(activation.interrupt, has_statistics);
        Ok(())
    }

    fn stop(&mut self) -> Vec<LiveQueue> {
        // A thread that panicked has none to give.
        let queues = self.worker.take().and_then(Worker::join).unwrap_or_default();
        self.control.close();
        queues
    }
}

#[cfg(test)]
mod tests;

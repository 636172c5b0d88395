//! VIRTIO 1.3 devices, and the PCI transport they share.
//!
//! A device declares its id, features, queue sizes and config space. The transport negotiates, and
//! then hands it the live queues with [`VirtioDevice::start`]; [`VirtioDevice::stop`] takes them
//! back. Reset, pause and drop are all the same path.

use std::sync::Arc;

use crate::event::Event;
use crate::mem::GuestMemory;

pub mod balloon;
pub mod blk;
pub mod buffers;
pub mod input;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod service;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod throttle;
pub mod vsock;

/// Chains may name a table of descriptors elsewhere (VIRTIO 1.3 §6).
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Kicks and interrupts are asked for by index (VIRTIO 1.3 §6).
pub const F_EVENT_IDX: u64 = 1 << 29;
/// The driver knows VIRTIO 1.0 or later; required (VIRTIO 1.3 §6).
pub const F_VERSION_1: u64 = 1 << 32;
/// The ring features that [`queue::Virtqueue`] serves: every device offers them.
pub const RING_FEATURES: u64 = F_INDIRECT_DESC | F_EVENT_IDX;

/// Fills `data` from a device's configuration space: zeroes past its end.
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(config.len());
    let bytes = config[start..].iter().copied().chain(std::iter::repeat(0));
    for (to, from) in data.iter_mut().zip(bytes) {
        *to = from;
    }
}

/// Tells the driver: through a queue's vector, or the configuration vector (VIRTIO 1.3 §2.3, §4.1.4.5).
pub trait Interrupt: Send + Sync {
    /// Buffers of queue `index` were used.
    fn queue(&self, index: u16);
    /// An eventfd of which each signal tells the driver what [`queue`](Self::queue) would, whatever
    /// vector the queue has by then: for the kernel, which uses buffers without asking us. The same
    /// one at every call; `None` when there is no such queue, or no descriptor left.
    fn queue_event(&self, index: u16) -> Option<Event>;
    /// The configuration has changed.
    fn config(&self);
    /// The device cannot go on: sets DEVICE_NEEDS_RESET and tells (VIRTIO 1.3 §2.1.1).
    fn needs_reset(&self);
}

/// What a device gets when the driver has set DRIVER_OK.
pub struct Activation {
    /// The guest's RAM, for as long as any I/O may touch it.
    pub memory: GuestMemory,
    /// The features that were negotiated.
    pub features: u64,
    /// The enabled queues.
    pub queues: Vec<LiveQueue>,
    /// How to tell the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

/// One enabled queue, and the eventfd that the driver's kicks signal.
#[derive(Debug)]
pub struct LiveQueue {
    /// Its number.
    pub index: u16,
    /// The rings; validated to lie in guest RAM.
    pub queue: virtio_queue::Queue,
    /// Signalled by each kick.
    pub kick: Arc<std::os::fd::OwnedFd>,
}

/// The device stopped serving; the text says why.
#[derive(Debug, thiserror::Error)]
#[error("virtio device failed: {0}")]
pub struct DeviceError(pub String);

/// A VIRTIO device, without its transport.
pub trait VirtioDevice: Send {
    /// Device ID (VIRTIO 1.3 §5).
    fn id(&self) -> u16;
    /// PCI class code as 0xCCSSPP.
    fn pci_class(&self) -> u32;
    /// Device and ring features offered; VERSION_1 is added by the transport.
    fn features(&self) -> u64;
    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Reads device configuration; bytes beyond its end are zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes device configuration; what is not writable is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);
    /// Takes the queues and serves them until [`stop`](Self::stop).
    ///
    /// # Errors
    /// When its workers cannot be started; the device is then stopped.
    fn start(&mut self, activation: Activation) -> Result<(), DeviceError>;
    /// Ends all work, waits for what is in flight, and gives the queues back. Harmless when stopped.
    fn stop(&mut self) -> Vec<LiveQueue>;
}

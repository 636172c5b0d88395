//! The common configuration structure (VIRTIO 1.3 §4.1.4.3): selectors, features, queue addresses.
//!
//! Reads of any width see the structure as bytes. Writes count at a field's own width (§4.1.3.1),
//! and 64-bit addresses also by halves; anything else has no effect. What a write asks of the
//! device as a whole is returned as an [`Action`].

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::line::{FEATURES_OK, Line};
use crate::event::Event;
use crate::mem::GuestRam;
use crate::virtio::queue::ring_lengths;
use crate::virtio::{F_EVENT_IDX, LiveQueue};

/// Length of the structure in bytes.
pub const COMMON_LEN: usize = 0x40;

const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const CONFIG_VECTOR: usize = 0x10;
const NUM_QUEUES: usize = 0x12;
const DEVICE_STATUS: usize = 0x14;
const CONFIG_GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFF: usize = 0x1e;
const QUEUE_DESC: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;

/// What the transport must do after a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Device status was written.
    Status(u8),
    /// The selected queue shall be enabled.
    Enable(u16),
}

/// What the driver has set up so far.
pub struct Common {
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

/// What the driver says of one queue.
pub struct QueueSetup {
    max_size: u16,
    size: u16,
    enabled: bool,
    desc: u64,
    driver: u64,
    device: u64,
    kick: Event,
}

/// Why a queue cannot be enabled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SetupError {
    /// The device has no such queue.
    #[error("there is no queue {0}")]
    NoQueue(u16),
    /// Not a power of two, or above what the device offers.
    #[error("queue size {size} is no power of two up to {max}")]
    Size {
        /// What the driver wrote.
        size: u16,
        /// The largest size.
        max: u16,
    },
    /// A ring is misaligned (§2.7), or not in RAM.
    #[error("ring at {at:#x} is off its alignment of {align}, or not in one piece of guest ram")]
    Ring {
        /// Guest-physical address.
        at: u64,
        /// What it must be a multiple of.
        align: u64,
    },
}

impl Common {
    /// For a device that offers `offered`, with queues of these largest sizes and kicks.
    pub fn new(offered: u64, queues: Vec<(u16, Event)>) -> Common {
        let queues = queues.into_iter().map(|(max_size, kick)| QueueSetup::new(max_size, kick));
        Common {
            offered,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            queues: queues.collect(),
        }
    }

    /// What the driver has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// What the driver has accepted, though it was not offered.
    pub fn unoffered(&self) -> u64 {
        self.accepted & !self.offered
    }

    /// The kicks, in the order of the queues.
    pub fn kicks(&self) -> impl Iterator<Item = &Event> {
        self.queues.iter().map(|queue| &queue.kick)
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.accepted = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            // A kick of the past must not wake the next driver's device.
            queue.kick.take();
            *queue = QueueSetup::new(queue.max_size, queue.kick.clone());
        }
    }

    /// Reads any bytes of the structure; zeroes past its end.
    pub fn read(&self, line: &Line, offset: u64, data: &mut [u8]) {
        let mut bytes = [0u8; COMMON_LEN];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(DEVICE_FEATURE, &half(self.offered, self.device_feature_select).to_le_bytes());
        put(DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(DRIVER_FEATURE, &half(self.accepted, self.driver_feature_select).to_le_bytes());
        put(CONFIG_VECTOR, &line.config_vector().to_le_bytes());
        put(NUM_QUEUES, &(self.queues.len() as u16).to_le_bytes());
        put(DEVICE_STATUS, &[line.status()]);
        put(CONFIG_GENERATION, &[line.generation()]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        put(QUEUE_VECTOR, &line.queue_vector(self.queue_select).to_le_bytes());
        // A queue that does not exist has size 0 (§4.1.5.1.3).
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(QUEUE_SIZE, &queue.size.to_le_bytes());
            put(QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(QUEUE_DESC, &queue.desc.to_le_bytes());
            put(QUEUE_DRIVER, &queue.driver.to_le_bytes());
            put(QUEUE_DEVICE, &queue.device.to_le_bytes());
        }
        crate::virtio::read_config_bytes(&bytes, offset, data);
    }

    /// Writes a field.
    pub fn write(&mut self, line: &Line, offset: u64, data: &[u8]) -> Action {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        match *data {
            [value] if at == DEVICE_STATUS => return Action::Status(value),
            [a, b] => return self.write_16(line, at, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_32(line, at, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if at >= QUEUE_DESC => {
                self.write_32(line, at, u32::from_le_bytes([a, b, c, d]));
                self.write_32(line, at.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        Action::None
    }

    fn write_16(&mut self, line: &Line, at: usize, value: u16) -> Action {
        let selected = self.queues.get_mut(usize::from(self.queue_select));
        match (at, selected) {
            (CONFIG_VECTOR, _) => line.set_config_vector(value),
            (QUEUE_SELECT, _) => self.queue_select = value,
            (QUEUE_VECTOR, _) => line.set_queue_vector(self.queue_select, value),
            (QUEUE_SIZE, Some(queue)) if !queue.enabled => queue.size = value,
            // Only a reset disables a queue (§4.1.4.3.2).
            (QUEUE_ENABLE, Some(queue)) if !queue.enabled && value == 1 => {
                return Action::Enable(self.queue_select);
            }
            _ => {}
        }
        Action::None
    }

    fn write_32(&mut self, line: &Line, at: usize, value: u32) {
        match at {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            DRIVER_FEATURE if line.status() & FEATURES_OK == 0 => {
                set_half(&mut self.accepted, self.driver_feature_select, value);
            }
            _ => {
                let selected = self.queues.get_mut(usize::from(self.queue_select));
                let Some(queue) = selected.filter(|queue| !queue.enabled) else { return };
                let address = match at & !4 {
                    QUEUE_DESC => &mut queue.desc,
                    QUEUE_DRIVER => &mut queue.driver,
                    QUEUE_DEVICE => &mut queue.device,
                    _ => return,
                };
                set_half(address, u32::from(at & 4 != 0), value);
            }
        }
    }

    /// Enables queue `index`, if what the driver says of it holds.
    ///
    /// # Errors
    /// See [`SetupError`]; the queue stays disabled.
    pub fn enable(&mut self, index: u16, memory: &GuestRam) -> Result<(), SetupError> {
        let queue = self.queues.get_mut(usize::from(index)).ok_or(SetupError::NoQueue(index))?;
        queue.check(memory)?;
        queue.enabled = true;
        Ok(())
    }

    /// The enabled queues, as the device gets them.
    pub fn live_queues(&self) -> Vec<LiveQueue> {
        let event_idx = self.accepted & F_EVENT_IDX != 0;
        let queues = self.queues.iter().zip(0u16..);
        queues
            .filter(|(queue, _)| queue.enabled)
            .filter_map(|(queue, index)| {
                let kick = queue.kick.fd().clone();
                Some(LiveQueue { index, queue: queue.build(event_idx)?, kick })
            })
            .collect()
    }
}

impl QueueSetup {
    fn new(max_size: u16, kick: Event) -> QueueSetup {
        QueueSetup { max_size, size: max_size, enabled: false, desc: 0, driver: 0, device: 0, kick }
    }

    fn check(&self, memory: &GuestRam) -> Result<(), SetupError> {
        if !self.size.is_power_of_two() || self.size > self.max_size {
            return Err(SetupError::Size { size: self.size, max: self.max_size });
        }
        let rings = [(self.desc, 16), (self.driver, 2), (self.device, 4)];
        for ((at, align), len) in rings.into_iter().zip(ring_lengths(self.size)) {
            if at % align != 0 || memory.get_slice(GuestAddress(at), len).is_err() {
                return Err(SetupError::Ring { at, align });
            }
        }
        Ok(())
    }

    /// `None` only if [`Self::check`] has not been passed.
    fn build(&self, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(self.size).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.desc)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.device)).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Some(queue)
    }
}

/// The half of `value` that `select` names; there are but two.
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, bits: u32) {
    match select {
        0 => *value = (*value & !0xffff_ffff) | u64::from(bits),
        1 => *value = (*value & 0xffff_ffff) | u64::from(bits) << 32,
        _ => {}
    }
}

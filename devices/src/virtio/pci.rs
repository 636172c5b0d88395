//! The PCI transport: modern only (VIRTIO 1.3 §4.1).
//!
//! One 32 KiB BAR holds every structure (layout: [`caps`]). Kicks are doorbells, which KVM turns
//! into eventfd signals without coming here; the same write through an ordinary exit signals the
//! same eventfd. Interrupts leave through MSI-X only: without it the driver must poll.
//!
//! Register accesses run on vCPU threads, under one lock. Resetting (and dropping) waits under that
//! lock for the device's threads, which therefore only ever touch [`line::Line`].
//!
//! Left out: legacy and transitional interfaces, INTx, VIRTIO_F_RING_RESET, notification data, the
//! admin queue, shared memory.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::bus::{Doorbell, Effect};
use crate::event::Event;
use crate::mem::GuestMemory;
use crate::pci::msix::Msix;
use crate::pci::{BarSpec, Capability, Identity, MsixPlace, PciDevice};

use super::throttle::Throttle;
use super::{Activation, F_VERSION_1, Interrupt, VirtioDevice};
use caps::WindowAccess;
use common::{Action, Common};
use line::{DRIVER_OK, FEATURES_OK, Line, NEEDS_RESET};

pub mod caps;
pub mod common;
pub mod line;

/// PCI vendor of virtio devices (§4.1.2), and of the subsystem that QEMU's machines name.
const VENDOR: u16 = 0x1af4;
/// Device IDs start here (§4.1.2.1).
const DEVICE_BASE: u16 = 0x1040;
const SUBSYSTEM: u16 = 0x1100;

static GUEST_MISTAKES: Throttle = Throttle::new();

/// The device cannot be put behind this transport.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// It has no queue, or too many.
    #[error("{0} queues, but the transport has room for 1 to {max}", max = caps::MAX_QUEUES)]
    Queues(usize),
    /// A queue's largest size is no power of two up to 32768.
    #[error("queue {index} has the impossible size {size}")]
    QueueSize {
        /// The queue.
        index: usize,
        /// Its size.
        size: u16,
    },
    /// No eventfd for the kicks.
    #[error("no eventfd for the queues")]
    Eventfd(#[source] io::Error),
}

/// A VIRTIO device as a PCI function.
pub struct VirtioPci {
    id: u16,
    class: u32,
    memory: GuestMemory,
    msix: Arc<Msix>,
    line: Arc<Line>,
    kicks: Vec<Event>,
    /// Lock order: this, then the line's, then MSI-X's own. Device threads take only the latter two.
    state: Mutex<State>,
}

struct State {
    device: Box<dyn VirtioDevice>,
    common: Common,
}

impl VirtioPci {
    /// How many MSI-X vectors `device` can use: one a queue, and one for configuration changes.
    pub fn vectors(device: &dyn VirtioDevice) -> usize {
        device.queue_sizes().len() + 1
    }

    /// Puts `device` behind the transport. With fewer vectors in `msix` than
    /// [`vectors`](Self::vectors), drivers share them.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        msix: Arc<Msix>,
    ) -> Result<Arc<VirtioPci>, TransportError> {
        let sizes = device.queue_sizes();
        if !(1..=caps::MAX_QUEUES).contains(&sizes.len()) {
            return Err(TransportError::Queues(sizes.len()));
        }
        if let Some((index, size)) =
            sizes.iter().enumerate().find(|(_, size)| !size.is_power_of_two())
        {
            return Err(TransportError::QueueSize { index, size: *size });
        }
        let kicks = sizes
            .iter()
            .map(|_| Event::new())
            .collect::<io::Result<Vec<Event>>>()
            .map_err(TransportError::Eventfd)?;
        let queues = sizes.into_iter().zip(kicks.iter().cloned()).collect();
        Ok(Arc::new(VirtioPci {
            id: device.id(),
            class: device.pci_class(),
            memory,
            line: Line::new(msix.clone(), kicks.len()),
            msix,
            kicks,
            state: Mutex::new(State {
                common: Common::new(device.features() | F_VERSION_1, queues),
                device,
            }),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no device panics on a register access")
    }

    fn mistake(&self, what: &dyn std::fmt::Display) {
        if GUEST_MISTAKES.allows() {
            log::warn!("virtio device {}: driver's mistake: {what}", self.id);
        }
    }

    /// The status state machine (§2.1, §3.1.1).
    fn write_status(&self, value: u8) {
        let mut state = self.lock();
        if value == 0 {
            return self.reset_locked(&mut state);
        }
        let old = self.line.status();
        // The driver only ever adds bits, and NEEDS_RESET is ours.
        let mut added = value & !old & !NEEDS_RESET;
        if added & FEATURES_OK != 0 {
            let accepted = state.common.accepted();
            let unoffered = state.common.unoffered();
            if unoffered != 0 || accepted & F_VERSION_1 == 0 {
                self.mistake(&format_args!("accepts features {accepted:#x}"));
                added &= !(FEATURES_OK | DRIVER_OK);
            }
        }
        let starts = added & DRIVER_OK != 0;
        if starts && (old | added) & FEATURES_OK == 0 {
            self.mistake(&"sets DRIVER_OK before features are agreed");
            added &= !DRIVER_OK;
            self.line.add_status(added);
            return;
        }
        self.line.add_status(added);
        // A device that needs a reset serves nobody before it got one.
        if starts && old & NEEDS_RESET == 0 {
            self.start(&mut state);
        }
    }

    fn start(&self, state: &mut State) {
        let activation = Activation {
            memory: self.memory.clone(),
            features: state.common.accepted(),
            queues: state.common.live_queues(),
            interrupt: self.line.clone(),
        };
        if let Err(error) = state.device.start(activation) {
            log::error!("virtio device {}: {error}", self.id);
            self.line.needs_reset();
        }
    }

    fn reset_locked(&self, state: &mut State) {
        // The queues are the next driver's to set up: nothing of these is kept.
        drop(state.device.stop());
        state.common.reset();
        self.line.reset();
    }

    fn enable(&self, state: &mut State, index: u16) {
        // The queues are handed over at DRIVER_OK, and none can join later.
        if self.line.status() & DRIVER_OK != 0 {
            return self.mistake(&format_args!("enables queue {index} after DRIVER_OK"));
        }
        if let Err(error) = state.common.enable(index, &self.memory) {
            self.mistake(&error);
            self.line.needs_reset();
        }
    }

    fn notify(&self, offset: u64) {
        let queue = offset / u64::from(caps::NOTIFY_MULTIPLIER);
        if let Some(kick) = usize::try_from(queue).ok().and_then(|queue| self.kicks.get(queue)) {
            kick.signal();
        }
    }
}

impl PciDevice for VirtioPci {
    fn identity(&self) -> Identity {
        Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + self.id,
            revision: 1,
            class: self.class,
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
        }
    }

    fn bars(&self) -> Vec<BarSpec> {
        vec![caps::BAR]
    }

    fn capabilities(&self) -> Vec<Capability> {
        caps::capabilities(self.kicks.len())
    }

    fn msix(&self) -> Option<MsixPlace> {
        Some(MsixPlace {
            table: self.msix.clone(),
            bar: caps::BAR.index,
            table_offset: caps::MSIX_TABLE as u32,
            pba_offset: caps::MSIX_PBA as u32,
        })
    }

    fn doorbells(&self, bar: usize) -> Vec<Doorbell> {
        if bar != caps::BAR.index {
            return vec![];
        }
        let offsets = (caps::NOTIFY..).step_by(caps::NOTIFY_MULTIPLIER as usize);
        self.kicks
            .iter()
            .zip(offsets)
            .map(|(kick, offset)| Doorbell { offset, eventfd: kick.fd().clone() })
            .collect()
    }

    fn read_bar(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if bar != caps::BAR.index {
            return data.fill(0xff);
        }
        let page = offset & !(caps::PAGE - 1);
        match page {
            caps::COMMON => self.lock().common.read(&self.line, offset, data),
            caps::ISR => {
                data.fill(0);
                if let (0, Some(isr)) = (offset - page, data.first_mut()) {
                    *isr = self.line.take_isr();
                }
            }
            caps::DEVICE => self.lock().device.read_config(offset - page, data),
            caps::NOTIFY => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    fn write_bar(&self, bar: usize, offset: u64, data: &[u8]) -> Effect {
        if bar != caps::BAR.index {
            return Effect::None;
        }
        let page = offset & !(caps::PAGE - 1);
        match page {
            caps::COMMON => {
                let mut state = self.lock();
                match state.common.write(&self.line, offset, data) {
                    Action::None => {}
                    Action::Enable(index) => self.enable(&mut state, index),
                    Action::Status(value) => {
                        drop(state);
                        self.write_status(value);
                    }
                }
            }
            caps::DEVICE => self.lock().device.write_config(offset - page, data),
            caps::NOTIFY => self.notify(offset - page),
            _ => {}
        }
        Effect::None
    }

    fn read_capability(&self, index: usize, body: &[u8], offset: usize, data: &mut [u8]) -> bool {
        if index != caps::WINDOW {
            return false;
        }
        let Some(access) = WindowAccess::of(body, offset, data.len()) else { return false };
        let mut window = [0; 4];
        let seen = &mut window[..access.len];
        match access.offset {
            caps::MSIX_TABLE..caps::MSIX_PBA => {
                self.msix.read_table(access.offset - caps::MSIX_TABLE, seen);
            }
            caps::MSIX_PBA.. => self.msix.read_pba(access.offset - caps::MSIX_PBA, seen),
            _ => self.read_bar(caps::BAR.index, access.offset, seen),
        }
        let from = WindowAccess::data_offset(offset);
        for (to, byte) in data.iter_mut().zip(window.iter().skip(from)) {
            *to = *byte;
        }
        true
    }

    fn capability_written(&self, index: usize, body: &[u8], offset: usize, data: &[u8]) -> Effect {
        if index != caps::WINDOW {
            return Effect::None;
        }
        let Some(access) = WindowAccess::of(body, offset, data.len()) else {
            return Effect::None;
        };
        let written = &access.data[..access.len];
        if access.offset >= caps::MSIX_TABLE {
            self.msix.write_table(access.offset - caps::MSIX_TABLE, written);
            return Effect::None;
        }
        self.write_bar(caps::BAR.index, access.offset, written)
    }

    fn reset(&self) {
        let mut state = self.lock();
        self.reset_locked(&mut state);
        drop(state);
        self.msix.reset();
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        // The lock may be poisoned by a panic that is now unwinding; stopping is right even then.
        let state = self.state.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(state.device.stop());
    }
}

#[cfg(test)]
mod tests;

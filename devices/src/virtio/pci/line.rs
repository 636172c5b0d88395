//! How a virtio-pci device tells its driver: vectors, ISR, and the status bits the device sets.
//!
//! Device threads call in here while the transport's lock is held by someone who waits for those
//! very threads (a reset). So nothing here takes that lock, and what they call at every interrupt
//! is atomic.
//!
//! The kernel tells of used buffers by an eventfd, past this code: then the ISR bit stays as it is.
//! No driver that has MSI-X on may read it (VIRTIO 1.3 §4.1.4.5.2), and there is no other interrupt.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::event::Event;
use crate::irq::MsiSink;
use crate::pci::msix::Msix;
use crate::virtio::Interrupt;

/// No vector: the event is not signalled (VIRTIO 1.3 §4.1.4.3, VIRTIO_MSI_NO_VECTOR).
pub const NO_VECTOR: u16 = 0xffff;

/// Status bits (VIRTIO 1.3 §2.1); the driver sets DRIVER_OK when it is ready.
pub const DRIVER_OK: u8 = 4;
/// The driver has accepted the features.
pub const FEATURES_OK: u8 = 8;
/// The device cannot go on.
pub const NEEDS_RESET: u8 = 64;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The way out of the device.
pub struct Line {
    msix: Arc<Msix>,
    vectors: u16,
    status: AtomicU8,
    isr: AtomicU8,
    generation: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    /// What the kernel signals for each queue; made when asked for. A queue's vector changes only
    /// under this lock, so that its event cannot be left on the old one. Lock order: the
    /// transport's, this, MSI-X's own.
    queue_events: Mutex<Vec<Option<Event>>>,
}

impl Line {
    /// For a device with `queues` queues; no vector is set.
    pub fn new(msix: Arc<Msix>, queues: usize) -> Arc<Line> {
        let vectors = u16::try_from(msix.len()).unwrap_or(NO_VECTOR);
        Arc::new(Line {
            msix,
            vectors,
            status: AtomicU8::new(0),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            queue_events: Mutex::new(vec![None; queues]),
        })
    }

    /// Device status.
    pub fn status(&self) -> u8 {
        self.status.load(Ordering::SeqCst)
    }

    /// Sets bits of the device status.
    pub fn add_status(&self, bits: u8) {
        self.status.fetch_or(bits, Ordering::SeqCst);
    }

    /// Reads the ISR, which clears it.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::SeqCst)
    }

    /// Changes with every change of the device configuration.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The configuration vector.
    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::SeqCst)
    }

    /// Sets the configuration vector; one that does not exist becomes [`NO_VECTOR`].
    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.checked(vector), Ordering::SeqCst);
    }

    /// The vector of queue `index`; [`NO_VECTOR`] when there is no such queue.
    pub fn queue_vector(&self, index: u16) -> u16 {
        let vector = self.queue_vectors.get(usize::from(index));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst))
    }

    /// Sets the vector of queue `index`; one that does not exist becomes [`NO_VECTOR`].
    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        let index = usize::from(index);
        let events = self.events();
        if let Some(slot) = self.queue_vectors.get(index) {
            let vector = self.checked(vector);
            slot.store(vector, Ordering::SeqCst);
            if let Some(Some(event)) = events.get(index) {
                self.msix.connect(event, vector);
            }
        }
    }

    /// Back to the state after power-on; the generation goes on.
    pub fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.isr.store(0, Ordering::SeqCst);
        let events = self.events();
        for vector in self.queue_vectors.iter().chain([&self.config_vector]) {
            vector.store(NO_VECTOR, Ordering::SeqCst);
        }
        for event in events.iter().flatten() {
            self.msix.connect(event, NO_VECTOR);
        }
    }

    fn events(&self) -> MutexGuard<'_, Vec<Option<Event>>> {
        self.queue_events.lock().expect("nothing panics under this lock")
    }

    fn checked(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    fn send(&self, isr: u8, vector: u16) {
        // The bit is nearly always set already: no driver with MSI-X reads the register.
        if self.isr.load(Ordering::Relaxed) & isr == 0 {
            self.isr.fetch_or(isr, Ordering::SeqCst);
        }
        if vector != NO_VECTOR {
            self.msix.send(vector);
        }
    }
}

impl Interrupt for Line {
    fn queue(&self, index: u16) {
        self.send(ISR_QUEUE, self.queue_vector(index));
    }

    fn queue_event(&self, index: u16) -> Option<Event> {
        let mut events = self.events();
        let slot = events.get_mut(usize::from(index))?;
        if slot.is_none() {
            *slot = Some(Event::new().ok()?);
        }
        let event = slot.clone()?;
        self.msix.connect(&event, self.queue_vector(index));
        Some(event)
    }

    fn config(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.status() & DRIVER_OK != 0 {
            self.send(ISR_CONFIG, self.config_vector());
        }
    }

    fn needs_reset(&self) {
        self.add_status(NEEDS_RESET);
        // Told only to a driver that is up (§2.1.2).
        if self.status() & DRIVER_OK != 0 {
            self.send(ISR_CONFIG, self.config_vector());
        }
    }
}

//! The driver's side, for tests and fuzz targets: builds rings, well-formed and hostile.
//!
//! A [`Rig`] is a guest with one device: RAM, the device's BAR, MSI-X vectors that count. It speaks
//! to the device as a driver would, through registers and rings, and waits for interrupts only: a
//! lost interrupt is a failed test. [`drive`] feeds a device arbitrary bytes.
//!
//! Everything here panics on surprises, as tests do; [`drive`] does not.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::pci::{VirtioPci, caps, line};
use super::{F_EVENT_IDX, VirtioDevice};
use crate::event::Event;
use crate::irq::{ConnectedEvents, MsiMessage, MsiRoute};
use crate::mem::{GuestMemory, GuestRam};
use crate::pci::PciDevice;
use crate::pci::msix::{ENTRY_LEN, Msix};

mod fuzz;
mod ring;

pub use fuzz::drive;
pub use ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Ring, write_descriptor};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// RAM below the hole; a second piece lies above 4 GiB.
pub const LOW_RAM: u64 = 16 << 20;
/// Where the second piece of RAM starts.
pub const HIGH_RAM: u64 = 4 << 30;
/// Its length.
pub const HIGH_RAM_LEN: u64 = 1 << 20;

/// Status after which features and queues are set up.
const ACKNOWLEDGE_DRIVER: u8 = 1 | 2;

/// The guest's RAM, with a simple allocator.
#[derive(Clone)]
pub struct Ram {
    /// What the device sees.
    pub memory: GuestMemory,
    next: u64,
}

impl Default for Ram {
    fn default() -> Ram {
        Ram::new()
    }
}

impl Ram {
    /// 16 MiB at 0, 1 MiB at 4 GiB; all zeroes.
    pub fn new() -> Ram {
        let ranges =
            [(GuestAddress(0), LOW_RAM as usize), (GuestAddress(HIGH_RAM), HIGH_RAM_LEN as usize)];
        let memory = GuestRam::from_ranges(&ranges).expect("17 MiB can be mapped");
        Ram { memory: Arc::new(memory), next: 0x1000 }
    }

    /// Allocates `len` bytes of zeroes, at a multiple of 4096.
    pub fn take(&mut self, len: u64) -> u64 {
        let at = self.next;
        self.next = (at + len).next_multiple_of(4096);
        assert!(self.next <= LOW_RAM, "the test needs more RAM than there is");
        at
    }

    /// Allocates a copy of `bytes`.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.take(bytes.len() as u64);
        self.write(at, bytes);
        at
    }

    /// Writes bytes.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).expect("tests write to RAM");
    }

    /// Reads bytes.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).expect("tests read from RAM");
        bytes
    }
}

/// A vector that counts, and can be waited for.
#[derive(Default)]
pub struct Signal {
    count: Mutex<u64>,
    changed: Condvar,
    connected: ConnectedEvents,
}

impl MsiRoute for Signal {
    fn set(&self, _: MsiMessage) {}

    fn fire(&self) {
        *self.count.lock().expect("nothing panics under this lock") += 1;
        self.changed.notify_all();
    }

    fn connect(&self, event: &Event) -> io::Result<()> {
        self.connected.add(event);
        Ok(())
    }

    fn disconnect(&self, event: &Event) {
        self.carry();
        assert!(self.connected.remove(event), "only what is connected is disconnected");
    }
}

impl Signal {
    /// Counts what connected eventfds were signalled, which KVM does at the signal itself.
    fn carry(&self) {
        (0..self.connected.take()).for_each(|_| self.fire());
    }

    /// How often it was sent.
    pub fn count(&self) -> u64 {
        self.carry();
        *self.count.lock().expect("nothing panics under this lock")
    }

    /// Waits until it was sent more than `seen` times; false when that does not happen.
    pub fn wait_beyond(&self, seen: u64, until: Instant) -> bool {
        let mut count = self.count.lock().expect("nothing panics under this lock");
        while *count <= seen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(count, left);
            count = waited.expect("nothing panics under this lock").0;
        }
        true
    }
}

/// A guest with one device.
pub struct Rig {
    /// The guest's RAM.
    pub ram: Ram,
    /// The device.
    pub pci: Arc<VirtioPci>,
    /// Its vectors: 0 for configuration, n + 1 for queue n.
    pub signals: Vec<Arc<Signal>>,
    /// The MSI-X table.
    pub msix: Arc<Msix>,
    rings: Vec<Ring>,
}

/// The status of a device that runs.
const READY: u8 = ACKNOWLEDGE_DRIVER | line::FEATURES_OK | line::DRIVER_OK;

impl Rig {
    /// Plugs `device` in; its vectors are enabled and unmasked.
    pub fn new(device: Box<dyn VirtioDevice>) -> Rig {
        let vectors = VirtioPci::vectors(&*device);
        let signals: Vec<_> = (0..vectors).map(|_| Arc::new(Signal::default())).collect();
        let msix = Msix::new(signals.iter().map(|s| s.clone() as Arc<dyn MsiRoute>).collect());
        let ram = Ram::new();
        let pci = VirtioPci::new(device, ram.memory.clone(), msix.clone())
            .expect("the device fits its transport");
        let rig = Rig { ram, pci, signals, msix, rings: vec![] };
        rig.unmask_all();
        rig
    }

    /// Enables MSI-X, and every vector.
    pub fn unmask_all(&self) {
        self.msix.set_control(true, false);
        for vector in 0..self.signals.len() as u64 {
            self.msix.write_table(vector * ENTRY_LEN + 12, &0u32.to_le_bytes());
        }
    }

    /// Reads a register of the BAR.
    pub fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.pci.read_bar(0, offset, &mut data);
        data
    }

    /// Writes a register of the BAR.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let _ = self.pci.write_bar(0, offset, data);
    }

    /// Device status.
    pub fn status(&self) -> u8 {
        self.read::<1>(0x14)[0]
    }

    /// Sets device status.
    pub fn set_status(&self, status: u8) {
        self.write(0x14, &[status]);
    }

    /// All the features offered.
    pub fn offered(&self) -> u64 {
        self.write(0x00, &1u32.to_le_bytes());
        let high = u32::from_le_bytes(self.read(0x04));
        self.write(0x00, &0u32.to_le_bytes());
        u64::from(high) << 32 | u64::from(u32::from_le_bytes(self.read(0x04)))
    }

    /// Resets, and goes on to FEATURES_OK; true when the device agrees.
    pub fn negotiate(&self, features: u64) -> bool {
        self.set_status(0);
        assert_eq!(self.status(), 0, "a reset has ended when its write returns");
        self.set_status(ACKNOWLEDGE_DRIVER);
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(0x08, &select.to_le_bytes());
            self.write(0x0c, &half.to_le_bytes());
        }
        self.set_status(ACKNOWLEDGE_DRIVER | line::FEATURES_OK);
        self.status() & line::FEATURES_OK != 0
    }

    /// Sets up queue `index` with a fresh ring of `size` entries (0: the largest), and enables it.
    pub fn set_up_queue(&mut self, index: u16, size: u16, features: u64) -> Ring {
        self.write(0x16, &index.to_le_bytes());
        let max = u16::from_le_bytes(self.read(0x18));
        let size = if size == 0 { max } else { size };
        let ring = Ring::new(&mut self.ram, size, features & F_EVENT_IDX != 0);
        self.write(0x18, &size.to_le_bytes());
        self.write(0x1a, &(index + 1).to_le_bytes());
        self.write(0x20, &ring.table.to_le_bytes());
        self.write(0x28, &ring.avail.to_le_bytes());
        self.write(0x30, &ring.used.to_le_bytes());
        self.write(0x1c, &1u16.to_le_bytes());
        ring
    }

    /// Brings the device up as a driver does, every queue at its largest size.
    pub fn bring_up(&mut self, features: u64) {
        self.bring_up_sized(features, 0);
    }

    /// The same, with queues of `size` entries.
    pub fn bring_up_sized(&mut self, features: u64, size: u16) {
        assert!(self.negotiate(features), "features {features:#x} are refused");
        self.start(features, size);
        assert_eq!(self.status(), READY, "the device does not start");
    }

    /// Sets every queue up and lets the device go, after [`negotiate`](Self::negotiate); whether it
    /// likes what is in the rings' memory is for the status to say.
    pub fn start(&mut self, features: u64, size: u16) {
        self.write(0x10, &0u16.to_le_bytes());
        let queues = u16::from_le_bytes(self.read(0x12));
        let rings = (0..queues).map(|index| self.set_up_queue(index, size, features)).collect();
        self.rings = rings;
        self.set_status(READY);
    }

    /// The ring of queue `index`.
    pub fn queue(&mut self, index: usize) -> &mut Ring {
        &mut self.rings[index]
    }

    /// Kicks queue `index`, whether the device asks for it or not.
    pub fn kick(&self, index: usize) {
        self.write(caps::NOTIFY + 4 * index as u64, &(index as u16).to_le_bytes());
    }

    /// Kicks queue `index` if the device asks for it.
    pub fn kick_if_asked(&mut self, index: usize) -> bool {
        let asked = self.rings[index].wants_kick();
        if asked {
            self.kick(index);
        }
        asked
    }

    /// Kicks queue `index`, waits for everything outstanding, and returns what was used, in order.
    pub fn complete(&mut self, index: usize) -> Vec<(u32, u32)> {
        self.kick_if_asked(index);
        let until = Instant::now() + PATIENCE;
        let mut used = vec![];
        loop {
            let seen = self.signals[index + 1].count();
            used.extend(self.rings[index].take_used());
            if self.rings[index].outstanding() == 0 {
                return used;
            }
            let told = self.signals[index + 1].wait_beyond(seen, until);
            assert!(told, "queue {index}: no interrupt, {} left", self.rings[index].outstanding());
        }
    }

    /// Waits until the device says that it needs a reset.
    pub fn wait_needs_reset(&self) {
        let until = Instant::now() + PATIENCE;
        while self.status() & line::NEEDS_RESET == 0 {
            assert!(Instant::now() < until, "the device goes on");
            std::thread::yield_now();
        }
    }
}

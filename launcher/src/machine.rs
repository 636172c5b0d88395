//! The machine as the launcher sees it: started from a configuration, asked for a few things, waited
//! for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use devices::display::Screen;
use devices::input::InputSink;

use devices::virtio::balloon;
use devices::virtio::blk::{Operation, Totals};
use vmm::config::MachineConfig;
use vmm::{ExitKind, Exits, Machine, MachineHandle, Pause, Refused, StartError};

pub use vmm::ExitReason as MachineEnd;

/// What one disk has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// By operation.
    pub operations: Vec<(Operation, Totals)>,
    /// How often a request has found the host full.
    pub stalls: u64,
    /// Requests that were not even in the form of one.
    pub malformed: u64,
    /// Whether it waits for room on the host now.
    pub waits: bool,
}

impl DiskCounts {
    /// Requests that failed, and of which the guest was told so.
    pub fn errors(&self) -> u64 {
        self.operations.iter().fold(0, |sum, (_, totals)| sum.saturating_add(totals.errors))
    }
}

/// What the rest of the machine has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// For each vCPU, what it has come out of guest mode for.
    pub exits: Vec<Vec<(ExitKind, u64)>>,
    /// How often it was reset.
    pub resets: u64,
    /// Bytes of its RAM that are in the host's memory, if that can be told.
    pub resident_bytes: Option<u64>,
}

/// What the sockets between host and guest have done; directions are the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VsockCounts {
    /// Connections that are open.
    pub open: u64,
    /// Those that the guest has made so far.
    pub from_guest: u64,
    /// Those that programs of the host have.
    pub from_host: u64,
    /// Those that were asked for and not made.
    pub refused: u64,
    /// Bytes to the guest.
    pub rx_bytes: u64,
    /// Bytes from it.
    pub tx_bytes: u64,
    /// What was not even in the form of a packet.
    pub malformed: u64,
}

/// What can be asked of a running machine, from any thread, without waiting.
pub trait Control: Send + Sync {
    /// Presses the ACPI power button.
    ///
    /// # Errors
    /// It has ended, or is busy.
    fn power_button(&self) -> Result<(), Refused>;
    /// Resets it.
    ///
    /// # Errors
    /// It has ended, or is busy.
    fn reset(&self) -> Result<(), Refused>;
    /// Flushes the disks and ends now.
    ///
    /// # Errors
    /// It has ended, or is busy.
    fn stop(&self) -> Result<(), Refused>;
    /// Offers input to the serial console; answers how many bytes it took.
    fn console_input(&self, bytes: &[u8]) -> usize;
    /// Why the guest does not run although nobody has stopped it; `None`: it runs.
    fn paused(&self) -> Option<String>;
    /// What its disks have done, in the order in which the guest finds them.
    fn disks(&self) -> Vec<DiskCounts>;
    /// What the rest of it has done. Takes milliseconds for a large machine.
    fn counts(&self) -> Counts;
    /// What its sockets between host and guest have done, if it has them.
    fn vsock(&self) -> Option<VsockCounts> {
        None
    }
    /// Its balloon, if it has one.
    fn balloon(&self) -> Option<Arc<balloon::Control>> {
        None
    }
}

impl Control for MachineHandle {
    fn power_button(&self) -> Result<(), Refused> {
        MachineHandle::power_button(self)
    }

    fn reset(&self) -> Result<(), Refused> {
        MachineHandle::reset(self)
    }

    fn stop(&self) -> Result<(), Refused> {
        MachineHandle::stop(self)
    }

    fn console_input(&self, bytes: &[u8]) -> usize {
        MachineHandle::console_input(self, bytes)
    }

    fn paused(&self) -> Option<String> {
        self.status().paused.map(|pause| pause.to_string())
    }

    fn disks(&self) -> Vec<DiskCounts> {
        let waiting = match self.status().paused {
            Some(Pause::DiskFull(shortages)) => shortages,
            None => Vec::new(),
        };
        let count = |disk: &vmm::DiskStatus| DiskCounts {
            operations: Operation::ALL.map(|it| (it, disk.counters.totals(it))).to_vec(),
            stalls: disk.counters.stalls.load(Ordering::Relaxed),
            malformed: disk.malformed.load(Ordering::Relaxed),
            waits: waiting.iter().any(|shortage| shortage.disk == disk.name),
        };
        MachineHandle::disks(self).iter().map(count).collect()
    }

    fn counts(&self) -> Counts {
        let of = |exits: &Arc<Exits>| ExitKind::ALL.map(|kind| (kind, exits.of(kind))).to_vec();
        Counts {
            exits: self.exits().iter().map(of).collect(),
            resets: self.resets(),
            resident_bytes: self.resident_bytes().ok(),
        }
    }

    fn vsock(&self) -> Option<VsockCounts> {
        let vsock = MachineHandle::vsock(self)?;
        let counters = &vsock.counters;
        Some(VsockCounts {
            open: counters.open(),
            from_guest: counters.from_guest.get(),
            from_host: counters.from_host.get(),
            refused: counters.refused.get(),
            rx_bytes: counters.rx_bytes.get(),
            tx_bytes: counters.tx_bytes.get(),
            malformed: vsock.malformed.load(Ordering::Relaxed),
        })
    }

    fn balloon(&self) -> Option<Arc<balloon::Control>> {
        MachineHandle::balloon(self)
    }
}

/// What somebody sees of a machine, and what they do it with.
#[derive(Default)]
pub struct Face {
    /// Its display.
    pub screen: Option<Arc<dyn Screen>>,
    /// Its keyboard and pointer.
    pub input: Option<Arc<dyn InputSink>>,
}

/// A running machine.
pub struct Started {
    /// The way in.
    pub control: Arc<dyn Control>,
    /// What somebody sees of it.
    pub face: Face,
    /// Returns when the machine has ended, its disks flushed and its threads joined.
    pub wait: Box<dyn FnOnce() -> MachineEnd + Send>,
}

/// Starts the machine.
///
/// # Errors
/// [`StartError`]; the backends in `config` are closed then.
pub fn start_machine(config: MachineConfig) -> Result<Started, StartError> {
    let machine = Machine::start(config)?;
    let handle = machine.handle();
    let face = Face { screen: handle.screen(), input: handle.input() };
    Ok(Started { control: Arc::new(handle), face, wait: Box::new(move || machine.wait()) })
}

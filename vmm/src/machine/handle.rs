//! The one way into a running machine from outside.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devices::block::shortage::Shortages;
use devices::display::Screen;
use devices::input::InputSink;
use devices::mem::GuestMemory;
use devices::serial::SerialPort;
use devices::tally::Lane;
use devices::virtio::balloon;
use devices::virtio::blk::Counters;

use super::lifecycle::Request;
use super::mailbox::{Mailbox, Refused};
use super::pause::Pause;
use crate::config::VsockCounters;
use crate::kvm::exits::Exits;
use crate::memory;

/// Asks things of a machine, from any thread. Outlives the machine: it then refuses.
#[derive(Clone)]
pub struct MachineHandle {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) serial: Arc<SerialPort>,
    pub(super) shortages: Arc<Shortages>,
    pub(super) disks: Arc<[DiskStatus]>,
    pub(super) exits: Arc<[Arc<Exits>]>,
    pub(super) resets: Arc<AtomicU64>,
    pub(super) memory: GuestMemory,
    pub(super) balloon: Option<Arc<balloon::Control>>,
    pub(super) vsock: Option<VsockStatus>,
    pub(super) screen: Option<Arc<dyn Screen>>,
    pub(super) input: Option<Arc<dyn InputSink>>,
}

/// What a machine does right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineStatus {
    /// Why the guest does not run, if it does not.
    pub paused: Option<Pause>,
}

/// One of a machine's disks.
#[derive(Clone, Debug)]
pub struct DiskStatus {
    /// As in [`DiskConfig::name`](crate::config::DiskConfig::name).
    pub name: Arc<str>,
    /// What was done with it so far, errors and pauses included.
    pub counters: Arc<Counters>,
    /// Chains that were refused as malformed.
    pub malformed: Arc<AtomicU64>,
}

/// The sockets between host and guest.
#[derive(Clone, Debug)]
pub struct VsockStatus {
    /// What was done with them so far.
    pub counters: Arc<Lane<VsockCounters>>,
    /// Chains and packets that were refused as malformed.
    pub malformed: Arc<AtomicU64>,
}

impl MachineHandle {
    /// Presses the ACPI power button. A guest that does not listen yet hears of it when it does.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn power_button(&self) -> Result<(), Refused> {
        self.mailbox.request(Request::PowerButton)
    }

    /// Resets the machine, as its reset button would.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn reset(&self) -> Result<(), Refused> {
        self.mailbox.request(Request::Reset)
    }

    /// Flushes the disks and ends the machine, whatever the guest is doing.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn stop(&self) -> Result<(), Refused> {
        self.mailbox.request(Request::Stop)
    }

    /// What the machine does now. One that has ended does nothing, and is not paused.
    pub fn status(&self) -> MachineStatus {
        MachineStatus { paused: Pause::new(self.shortages.list()) }
    }

    /// The disks, in the order of their PCI slots.
    pub fn disks(&self) -> &[DiskStatus] {
        &self.disks
    }

    /// What the vCPUs have come out of guest mode for, in the order of their numbers.
    pub fn exits(&self) -> &[Arc<Exits>] {
        &self.exits
    }

    /// How often the machine was reset, by the guest or from outside.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Bytes of guest RAM that are in the host's memory. Takes milliseconds for a large machine.
    ///
    /// # Errors
    /// What the host says.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        memory::resident(&self.memory)
    }

    /// The balloon, by which the guest is asked for memory, if the machine has one.
    pub fn balloon(&self) -> Option<Arc<balloon::Control>> {
        self.balloon.clone()
    }

    /// The sockets between host and guest, if the machine has them.
    pub fn vsock(&self) -> Option<&VsockStatus> {
        self.vsock.as_ref()
    }

    /// There is room again: disks that wait for some try at once, instead of in a few seconds.
    pub fn retry_disks(&self) {
        self.shortages.retry();
    }

    /// What the display adapter shows, if the machine has one. One viewer paints at a time: whoever
    /// has several shares a picture between them.
    pub fn screen(&self) -> Option<Arc<dyn Screen>> {
        self.screen.clone()
    }

    /// Where keys and pointer go, in a machine with a display.
    pub fn input(&self) -> Option<Arc<dyn InputSink>> {
        self.input.clone()
    }

    /// Types into the serial console, and answers how many bytes were taken.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.serial.input(bytes)
    }
}

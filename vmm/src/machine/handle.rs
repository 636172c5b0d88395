//! The one way into a running machine from outside.

use std::sync::Arc;

use devices::serial::SerialPort;

use super::lifecycle::Request;
use super::mailbox::{Mailbox, Refused};

/// Asks things of a machine, from any thread. Outlives the machine: it then refuses.
#[derive(Clone)]
pub struct MachineHandle {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) serial: Arc<SerialPort>,
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

    /// Types into the serial console, and answers how many bytes were taken.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.serial.input(bytes)
    }
}

//! The one way into a running machine from outside.

use std::sync::Arc;

use devices::display::Screen;
use devices::input::InputSink;
use devices::serial::SerialPort;

use super::lifecycle::Request;
use super::mailbox::{Mailbox, Refused};

/// Asks things of a machine, from any thread. Outlives the machine: it then refuses.
#[derive(Clone)]
pub struct MachineHandle {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) serial: Arc<SerialPort>,
    pub(super) screen: Option<Arc<dyn Screen>>,
    pub(super) input: Option<Arc<dyn InputSink>>,
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

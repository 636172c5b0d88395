//! The machine as the launcher sees it: started from a configuration, asked for a few things, waited
//! for.

use std::sync::Arc;

use devices::display::Screen;
use devices::input::InputSink;

use vmm::config::MachineConfig;
use vmm::{Machine, MachineHandle, Refused, StartError};

pub use vmm::ExitReason as MachineEnd;

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

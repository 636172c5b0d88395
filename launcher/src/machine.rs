//! The machine as the launcher sees it: started from a configuration, asked for three things,
//! waited for.

use std::sync::Arc;

use vmm::config::MachineConfig;

/// What can be asked of a running machine, from any thread, without waiting.
pub trait Control: Send + Sync {
    /// Presses the ACPI power button.
    fn power_button(&self);
    /// Flushes the disks and ends now.
    fn stop(&self);
    /// Offers input to the serial console; answers how many bytes it took.
    fn console_input(&self, bytes: &[u8]) -> usize;
}

/// How a machine has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "start_machine makes them"))]
pub enum MachineEnd {
    /// The guest powered off.
    PoweredOff,
    /// [`Control::stop`] was called.
    Stopped,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// Triple fault.
    TripleFault,
    /// The machine could not go on; the reason.
    Failed(String),
}

/// A running machine.
pub struct Started {
    /// The way in.
    pub control: Arc<dyn Control>,
    /// Returns when the machine has ended, its disks flushed and its threads joined.
    pub wait: Box<dyn FnOnce() -> MachineEnd + Send>,
}

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This build has no machine to start.
    #[error("this build of berth cannot run machines yet")]
    NotBuilt,
}

/// Starts the machine.
///
/// # Errors
/// [`StartError`]; the backends in `config` are closed then.
pub fn start_machine(config: MachineConfig) -> Result<Started, StartError> {
    drop(config);
    Err(StartError::NotBuilt)
}

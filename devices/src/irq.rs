//! Interrupts, from the device's side: a line to raise, or a message to send.
//!
//! Every call here is one eventfd write or ioctl underneath, so it may come from any thread, also
//! under a device's own lock.

use std::sync::Mutex;

/// A wired interrupt, such as an ISA line or the SCI.
pub trait IrqLine: Send + Sync {
    /// Drives the line. An edge-triggered input sees an interrupt at each rise.
    fn set(&self, level: bool);
}

/// What a message-signalled interrupt writes, and where (PCI 3.0 §6.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where the message goes: the LAPIC window at 0xFEE0_0000.
    pub address: u64,
    /// Vector and delivery mode.
    pub data: u32,
}

/// One message's way to the CPUs, handed out by the machine; MSI-X keeps one for each vector.
pub trait MsiRoute: Send + Sync {
    /// Points the route at `message`. Costly: call it only when the message has changed.
    fn set(&self, message: MsiMessage);
    /// Sends the message last set; nothing happens when there is none.
    fn fire(&self);
}

/// Sends a device's vectors, honouring masks: a masked vector is pending, never lost.
pub trait MsiSink: Send + Sync {
    /// Sends `vector`; one that the device does not have is ignored.
    fn send(&self, vector: u16);
}

/// An [`IrqLine`] for tests: remembers every level it was given.
#[derive(Debug, Default)]
pub struct RecordingLine(pub Mutex<Vec<bool>>);

impl IrqLine for RecordingLine {
    fn set(&self, level: bool) {
        self.0.lock().expect("no test panics under the lock").push(level);
    }
}

/// An [`MsiSink`] for tests: remembers every vector sent.
#[derive(Debug, Default)]
pub struct RecordingSink(pub Mutex<Vec<u16>>);

impl MsiSink for RecordingSink {
    fn send(&self, vector: u16) {
        self.0.lock().expect("no test panics under the lock").push(vector);
    }
}

/// An [`MsiRoute`] for tests: remembers the message, and those it sent.
#[derive(Debug, Default)]
pub struct RecordingRoute {
    /// The message last set.
    pub message: Mutex<Option<MsiMessage>>,
    /// Every message sent.
    pub sent: Mutex<Vec<MsiMessage>>,
}

impl MsiRoute for RecordingRoute {
    fn set(&self, message: MsiMessage) {
        *self.message.lock().expect("no test panics under the lock") = Some(message);
    }

    fn fire(&self) {
        let message = *self.message.lock().expect("no test panics under the lock");
        self.sent.lock().expect("no test panics under the lock").extend(message);
    }
}

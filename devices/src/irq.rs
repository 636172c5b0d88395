//! Interrupts, from the device's side: a line to raise, or a message to send.
//!
//! Every call here is one eventfd write or ioctl underneath, so it may come from any thread, also
//! under a device's own lock.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use crate::event::Event;

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
    /// Lets each signal of `event` send the message, by the kernel alone: whoever signals needs no
    /// thread of ours. So does a signal that is in its counter already.
    ///
    /// # Errors
    /// When the kernel refuses; the signals then stay in the eventfd's counter.
    fn connect(&self, event: &Event) -> io::Result<()>;
    /// Ends what [`connect`](Self::connect) began: each signal up to then has sent the message and
    /// is off the eventfd's counter, and each later one stays in it.
    fn disconnect(&self, event: &Event);
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
    /// What is connected.
    pub connected: ConnectedEvents,
}

/// The eventfds connected to a route of a test, which looks at them where KVM would be told.
#[derive(Debug, Default)]
pub struct ConnectedEvents(Mutex<Vec<Event>>);

impl ConnectedEvents {
    /// Adds one.
    pub fn add(&self, event: &Event) {
        self.0.lock().expect("no test panics under the lock").push(event.clone());
    }

    /// Removes one; true when it was there.
    pub fn remove(&self, event: &Event) -> bool {
        let mut events = self.0.lock().expect("no test panics under the lock");
        let before = events.len();
        events.retain(|other| other.fd().as_raw_fd() != event.fd().as_raw_fd());
        events.len() < before
    }

    /// Takes the signals of all; answers how many eventfds had one.
    pub fn take(&self) -> usize {
        let events = self.0.lock().expect("no test panics under the lock");
        events.iter().filter(|event| event.take()).count()
    }
}

impl RecordingRoute {
    /// Sends for what is signalled, which KVM does at the signal itself.
    pub fn carry(&self) {
        (0..self.connected.take()).for_each(|_| self.fire());
    }
}

impl MsiRoute for RecordingRoute {
    fn set(&self, message: MsiMessage) {
        *self.message.lock().expect("no test panics under the lock") = Some(message);
    }

    fn fire(&self) {
        let message = *self.message.lock().expect("no test panics under the lock");
        self.sent.lock().expect("no test panics under the lock").extend(message);
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

//! Sockets between host and guest (VIRTIO 1.3 §5.10), whose host's side is a Unix socket.
//!
//! ```text
//! 0 receive    device → driver: packets, a header and data
//! 1 transmit   driver → device: packets
//! 2 events     buffers that are kept: nothing is told
//! config       0 guest_cid
//! ```
//! A program of the host connects to the socket, writes `CONNECT PORT\n`, reads `OK PORT\n`, and is
//! connected with that port of the guest. A guest that connects to port N of the host (context id 2)
//! is connected with whoever listens on the Unix socket of the same path with `_N` at its end.
//!
//! A packet passes through `packet.rs` (the header), `table.rs` (which connection), `connection.rs`
//! (what is open, in which direction) with `credit.rs` (how much may be sent), and `unix.rs` (the
//! host's sockets). One thread, `serve.rs`, does all of it, and sleeps while there is nothing to do.
//!
//! Bounds: [`CONNECTIONS_MAX`] connections, [`BUFFER`] bytes kept of each for a program of the host
//! that does not read, and nothing kept for a guest that does not: then the socket is not read.
//! While as many answers as a ring has entries wait for the guest's receive buffers, no more of its
//! packets are looked at (§5.10.6.1).
//!
//! Left out: seqpacket and datagram sockets, the event of a transport reset, timeouts: who waits for
//! an answer of the guest's waits until it goes away itself, or the driver resets the device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use self::counters::Counters;
pub use self::unix::Sockets;
use super::{Activation, DeviceError, LiveQueue, RING_FEATURES, VirtioDevice, read_config_bytes};
use crate::tally::Lane;
use crate::worker::Worker;

mod connection;
mod counters;
mod credit;
pub mod packet;
mod serve;
mod table;
mod unix;

#[cfg(test)]
mod tests;

const ID_VSOCK: u16 = 19;
/// Communication controller of another kind.
const CLASS: u32 = 0x07_80_00;
const QUEUE_SIZE: u16 = 256;
const QUEUES: usize = 3;
/// Stream sockets (§5.10.3).
const F_STREAM: u64 = 1 << 0;

/// The host's context id (§5.10.4).
pub const HOST_CID: u64 = 2;
/// The least context id that a guest may have.
pub const CID_MIN: u32 = 3;
/// The greatest: the one above means any.
pub const CID_MAX: u32 = u32::MAX - 1;
/// The most connections at once, those that are still being made included.
pub const CONNECTIONS_MAX: usize = 128;
/// What is kept of a connection's data until a program of the host takes it, in bytes.
pub const BUFFER: u32 = 128 << 10;

/// A vsock device.
pub struct Vsock {
    cid: u32,
    /// Taken by the thread while that runs.
    sockets: Option<Sockets>,
    worker: Option<Worker<serve::End>>,
    counters: Arc<Lane<Counters>>,
    malformed: Arc<AtomicU64>,
}

impl Vsock {
    /// A device for a guest with context id `cid`, whose host's side is `sockets`.
    ///
    /// # Errors
    /// When no guest may have that id.
    pub fn new(cid: u32, sockets: Sockets) -> io::Result<Vsock> {
        if !(CID_MIN..=CID_MAX).contains(&cid) {
            return Err(io::Error::other(format!("{cid} is no context id of a guest")));
        }
        Ok(Vsock {
            cid,
            sockets: Some(sockets),
            worker: None,
            counters: Arc::default(),
            malformed: Arc::default(),
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> Arc<Lane<Counters>> {
        self.counters.clone()
    }

    /// Counts the chains and packets refused as malformed.
    pub fn malformed(&self) -> Arc<AtomicU64> {
        self.malformed.clone()
    }
}

impl VirtioDevice for Vsock {
    fn id(&self) -> u16 {
        ID_VSOCK
    }

    fn pci_class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        RING_FEATURES | F_STREAM
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn start(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, queues, interrupt } = activation;
        let sockets = self.sockets.take();
        let sockets =
            sockets.ok_or_else(|| DeviceError("the host's sockets are gone".to_owned()))?;
        let on_panic = interrupt.clone();
        let job = serve::Job {
            memory,
            features,
            interrupt,
            cid: self.cid.into(),
            counters: self.counters.clone(),
            malformed: self.malformed.clone(),
        };
        let panicked = move || on_panic.needs_reset();
        let worker = Worker::spawn("vsock", panicked, move |stop| job.run(sockets, queues, stop));
        self.worker = Some(worker.map_err(|error| DeviceError(format!("thread vsock: {error}")))?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<LiveQueue> {
        let Some(worker) = self.worker.take() else { return Vec::new() };
        // A thread that panicked has none to give.
        let Some(end) = worker.join() else { return Vec::new() };
        self.sockets = Some(end.sockets);
        end.queues
    }
}

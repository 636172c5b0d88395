//! What stands behind virtio-net: whole Ethernet frames, each behind its offload header.
//!
//! A [`NetBackend`] is one queue of an interface. It never blocks: whoever serves it waits on its
//! descriptor. Frames travel with a `virtio_net_hdr_v1` (VIRTIO 1.3 §5.1.6) of [`HEADER_LEN`]
//! bytes in front, in little-endian; both sides agree on what may stand in it by [`Offloads`].

use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::VolatileSlice;

pub mod loopback;
pub mod tap;
pub mod vhost;

/// Length of the header in front of each frame (VIRTIO 1.3 §5.1.6, always with `num_buffers`).
pub const HEADER_LEN: usize = 12;
/// The largest frame, header included: a segmentation offload's 64 KiB, Ethernet, and a VLAN tag.
pub const MAX_FRAME: usize = HEADER_LEN + 18 + 65535;

/// A hardware address.
pub type MacAddr = [u8; 6];

/// Work left to whoever receives a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be partial. Without it, the others count for nothing.
    pub csum: bool,
    /// TCP over IPv4 may come unsegmented.
    pub tso4: bool,
    /// TCP over IPv6 may come unsegmented.
    pub tso6: bool,
    /// Unsegmented TCP may have ECN bits.
    pub ecn: bool,
    /// UDP may come unsegmented, over IPv4 and IPv6.
    pub uso: bool,
}

/// What came of asking for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// There is none.
    Nothing,
    /// One, of so many bytes, header included.
    Frame(usize),
    /// One that had no room; it is gone.
    TooLarge,
}

/// One queue of an interface.
pub trait NetBackend: Send {
    /// Readable when a frame may be there.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Whether UDP segmentation is understood; the other offloads always are.
    fn has_uso(&self) -> bool;

    /// Sets what the guest takes upon itself.
    ///
    /// # Errors
    /// When the interface refuses.
    fn set_guest_offloads(&mut self, offloads: Offloads) -> io::Result<()>;

    /// Joins the interface's queues, or leaves them: only those that joined receive frames.
    ///
    /// # Errors
    /// When the interface refuses.
    fn set_enabled(&mut self, enabled: bool) -> io::Result<()>;

    /// Receives the next frame into `bufs`.
    ///
    /// # Errors
    /// When the interface is gone; there being no frame is none.
    fn receive(&mut self, bufs: &[VolatileSlice<'_>]) -> io::Result<Received>;

    /// Sends a frame.
    ///
    /// # Errors
    /// When it was not sent, for whatever reason: it is lost, as frames are.
    fn send(&mut self, bufs: &[VolatileSlice<'_>]) -> io::Result<()>;
}

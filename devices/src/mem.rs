//! Guest memory, as every device sees it.
//!
//! Guest memory is volatile: another CPU writes it while we look. It is never a Rust slice or
//! reference, only copied in and out, or handed to the kernel by address.

use std::io;
use std::sync::Arc;

pub use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    VolatileSlice,
};

/// All of the guest's RAM. The map is fixed for the life of the machine.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;

/// A share in the guest's RAM: whoever starts I/O on guest memory holds one until it has ended.
pub type GuestMemory = Arc<GuestRam>;

/// Gives the guest's RAM back to the host, page by page.
pub trait Reclaim: Send + Sync {
    /// Takes the host's memory from behind the whole pages of `piece`, a piece of the guest's RAM.
    /// They read as zeroes from then on, and have memory again as soon as anybody touches them.
    ///
    /// What the kernel does with them at that moment stays sound: it holds on to the pages that it
    /// reads or writes for us until it has finished. Only the guest may miss what was written.
    ///
    /// # Errors
    /// When it is no RAM, or the host refuses; nothing is lost then.
    fn reclaim(&self, piece: &VolatileSlice<'_>) -> io::Result<()>;
}

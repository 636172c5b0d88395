//! Guest memory, as every device sees it.
//!
//! Guest memory is volatile: another CPU writes it while we look. It is never a Rust slice or
//! reference, only copied in and out, or handed to the kernel by address.

use std::sync::Arc;

pub use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    VolatileSlice,
};

/// All of the guest's RAM. The map is fixed for the life of the machine.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;

/// A share in the guest's RAM: whoever starts I/O on guest memory holds one until it has ended.
pub type GuestMemory = Arc<GuestRam>;

//! From a boot source to the state a vCPU starts in.

pub mod cmdline;
pub mod guestfs;

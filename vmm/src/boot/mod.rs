//! From a boot source to the state a vCPU starts in.

pub mod guestfs;

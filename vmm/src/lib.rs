//! KVM and the machine. Knows no pod, image store, DHCP or VNC.
//!
//! The public face is [`config::MachineConfig`] (what is asked for), [`Machine`] (what is alive)
//! and [`MachineHandle`] (the one way in from outside). Behind it:
//!
//! - [`kvm`]: the virtual machine, its CPUs, and what they ask for;
//! - [`machine`]: assembly, the address map, who owns what, what becomes of it;
//! - [`boot`]: from a disk or a kernel file to the state the first CPU starts in;
//! - [`acpi`], [`smbios`]: what the guest is told of the board;
//! - [`memory`]: guest RAM.

pub mod acpi;
pub mod boot;
pub mod config;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod smbios;

pub use kvm::exits::{ExitKind, Exits};
pub use machine::handle::{DiskStatus, MachineHandle, MachineStatus, VsockStatus};
pub use machine::lifecycle::ExitReason;
pub use machine::mailbox::Refused;
pub use machine::pause::Pause;
pub use machine::{Machine, StartError};

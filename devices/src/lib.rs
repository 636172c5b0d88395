//! What the guest can touch, and what stands behind it. No KVM, no pods, no HTTP.
//!
//! The crate is built in layers; each knows only those above it in this list:
//!
//! - [`mem`], [`irq`], [`bus`]: guest memory, interrupts out, register accesses in;
//! - [`event`], [`timer`], [`thread`], [`worker`]: what a device's threads wait on, and how they start and end;
//!   [`tally`]: what they count;
//! - [`pci`]: configuration space, BARs, MSI-X, and the host bridge that leads to them;
//! - [`virtio`]: queues and the PCI transport, then one file per device;
//! - [`block`], [`net`], [`serial`]: what the virtio devices and the UART hand their data to;
//! - [`display`], [`input`]: what somebody who watches sees and does;
//! - [`platform`]: the board's own registers.
//!
//! A guest's value is an allegation until it is checked: no panic, unbounded allocation or
//! unbounded loop is reachable from a register, a ring or an image byte. The smallest whole
//! device, and the best one to read first, is `virtio/rng.rs`.

pub mod block;
pub mod bus;
pub mod display;
pub mod event;
pub mod input;
pub mod irq;
pub mod mem;
pub mod net;
pub mod pci;
pub mod platform;
pub mod serial;
pub mod tally;
pub mod thread;
pub mod timer;
pub mod virtio;
pub mod worker;

//! KVM and the machine. Knows no pod, image store, DHCP or VNC.
//!
//! The public face is [`config::MachineConfig`] (what is asked for), `Machine` (what is alive) and
//! `MachineHandle` (the one way in from outside).

pub mod boot;
pub mod config;

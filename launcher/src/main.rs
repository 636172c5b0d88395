//! `berth`: runs one virtual machine per pod.
#![allow(dead_code)]

mod args;
mod config;
mod config_drive;
mod console;
mod exit;
mod host;
mod logging;
mod machine;
mod shutdown;
mod signals;
mod spool;
mod terminal;
mod units;

fn main() {}

//! `berth`: runs one virtual machine from a stock cloud image.
//!
//! [`args`] holds what was typed, [`config`] makes a plan of it, [`run`] tells the story:
//! [`image`] and [`config_drive`] prepare the disks, [`net`] the network, [`machine`] is started,
//! [`console`] and [`terminal`] join it to the user, [`shutdown`] ends it, [`exit`] says how it
//! ended. [`pull`] fetches an image without running it.

mod args;
mod config;
mod config_drive;
mod console;
mod exit;
mod failure;
mod host;
mod image;
mod logging;
mod machine;
mod net;
mod nic;
mod program;
mod pull;
mod run;
mod shutdown;
mod signals;
mod spool;
mod terminal;
mod units;

use std::process::ExitCode;

use args::{Cli, Command, ImageCommand};
use clap::Parser;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => ExitCode::from(run::run(&args)),
        Command::Image(ImageCommand::Pull(args)) => ExitCode::from(pull::pull(&args)),
    }
}

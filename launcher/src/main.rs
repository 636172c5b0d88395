//! `berth`: runs one virtual machine from a stock cloud image.
//!
//! [`args`] holds what was typed, [`config`] makes a plan of it, [`run`] tells the story:
//! [`image`] and [`config_drive`] prepare the disks, [`net`] the network, [`vsock`] a socket that leads
//! to the guest, [`machine`] is started, [`console`] and [`terminal`] join it to the user, [`screen`] serves it to viewers through
//! [`server`] and [`vnc`], [`hugepages`] sees to its memory's, [`balloon`] asks its guest for memory, [`shutdown`] ends it, [`exit`] says how it ended. [`pull`] fetches an image
//! without running it, [`check`] looks whether one would run. A machine that runs is reached from
//! outside through [`api`], joined to it by [`interface`], and counted by [`metrics`]; [`client`] is the
//! other end.

mod api;
mod args;
mod balloon;
mod check;
mod client;
mod config;
mod config_drive;
mod console;
mod exit;
mod failure;
mod history;
mod host;
mod hugepages;
mod image;
mod interface;
mod machine;
mod metrics;
mod net;
mod nic;
mod privilege;
mod program;
mod pull;
mod ready;
mod run;
mod running;
mod sandbox;
mod screen;
mod serial_screen;
mod server;
mod shutdown;
mod signals;
mod terminal;
mod units;
mod unix_socket;
mod vnc;
mod vsock;

use std::io::{self, stdout};
use std::process::ExitCode;

use args::{Cli, Command, generate};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        let of_image = std::env::args_os().nth(1).is_some_and(|command| command == "image");
        if of_image && error.use_stderr() {
            // 2 is an answer of `image check`.
            let _ = error.print();
            std::process::exit(exit::ERROR.into());
        }
        error.exit()
    });
    if matches!(cli.command, Command::Run(_) | Command::Check(_) | Command::Caretaker)
        && let Err(why) = privilege::take_up()
    {
        eprintln!("berth warn: {why}");
    }
    match cli.command {
        Command::Run(args) => ExitCode::from(run::run(&args)),
        Command::Check(args) => ExitCode::from(check::run(&args)),
        Command::Image(args) => ExitCode::from(image::commands::run(&args)),
        Command::Status(args) => ExitCode::from(client::status(&args)),
        Command::Console(args) => ExitCode::from(client::console(&args)),
        Command::Screenshot(args) => ExitCode::from(client::screenshot(&args)),
        Command::Power(args) => ExitCode::from(client::power(&args)),
        Command::Health(args) => ExitCode::from(client::health(&args)),
        Command::Completions(args) => {
            wrote(generate::completions(args.shell, &mut stdout().lock()), "the script")
        }
        Command::Man(args) => wrote(
            generate::manual(&args.directory),
            &format!("a manual page in {}", args.directory.display()),
        ),
        Command::Caretaker => ExitCode::from(net::caretaker::run()),
    }
}

fn wrote(result: io::Result<()>, what: &str) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("berth error: {what} cannot be written: {error}");
    ExitCode::from(exit::ERROR)
}

//! `berth-device-plugin`: reads its flags, starts a log, and offers devices until it is told to stop.
//!
//! The exit status is 0 after TERM or INT, 2 for a mistake in flags or environment, 1 for all else.
//! The log looks as `berth`'s does.

mod args;

use std::io;
use std::process::ExitCode;

use berth_device_plugin::{device, plugin};
use clap::Parser;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::Args;

const ERROR: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(error) => return complain(&error.to_string(), USAGE),
    };
    let log = match logging::start(args.log_format, args.log_level, |_| ()) {
        Ok(log) => log,
        Err(error) => return complain(&format!("the log cannot be started: {error}"), ERROR),
    };
    std::panic::set_hook(Box::new(|panic| {
        log::error!("this is a bug in berth-device-plugin: {panic}")
    }));
    let status = match offer(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            log::error!("{sentence}");
            ExitCode::from(ERROR)
        }
    };
    drop(log);
    status
}

/// For what goes wrong before there is a log.
fn complain(sentence: &str, status: u8) -> ExitCode {
    eprintln!("berth error: {sentence}");
    ExitCode::from(status)
}

fn offer(settings: &plugin::Settings) -> Result<(), String> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot be started: {error}"))?;
    runtime.block_on(async {
        let signals =
            Signals::new().map_err(|error| format!("signals cannot be heard: {error}"))?;
        plugin::run(settings, device::judge, signals.asked())
            .await
            .map_err(|error| error.to_string())
    })
}

/// What asks this process to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt })
    }

    async fn asked(mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "TERM",
            _ = self.interrupt.recv() => "INT",
        };
        log::info!("{name}: the devices are no longer offered");
    }
}

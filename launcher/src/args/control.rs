//! `berth status`, `console`, `screenshot`, `power` and `health`: the flags, as typed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// For `berth console --help`.
pub const CONSOLE_HELP: &str = "\
First what is remembered of it, then what comes. Several may be attached. On a terminal, Ctrl-] then \
q leaves, Ctrl-] then ? lists the rest; the machine goes on. Input that is no terminal is typed as it \
is.

Exit status: 0, also when the machine ends; 1 for an error.";

/// Which machine.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Name of the machine [env: HOSTNAME] [default: this host's name, or the only one that runs]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Path of its control socket [env: BERTH_CONTROL] [default: where berth run has it]
    #[arg(long, value_name = "PATH", conflicts_with = "name")]
    pub control: Option<PathBuf>,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Text,
    /// As /status gives it
    Json,
}

/// `berth status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The machine.
    #[command(flatten)]
    pub which: Which,
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: Form,
}

/// `berth console`.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// The machine.
    #[command(flatten)]
    pub which: Which,
}

/// `berth screenshot`.
#[derive(Debug, Args)]
pub struct ScreenshotArgs {
    /// The machine.
    #[command(flatten)]
    pub which: Which,
    /// Where the picture goes, as a PNG file; - for standard output
    #[arg(value_name = "FILE.png")]
    pub file: PathBuf,
}

/// A button.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Press {
    /// The ACPI power button: the guest shuts down, if it listens
    Button,
    /// Flush the disks and end the machine, whatever the guest is doing
    Off,
    /// Reset the machine
    Reset,
}

/// `berth power`.
#[derive(Debug, Args)]
pub struct PowerArgs {
    /// Which button
    #[arg(value_name = "BUTTON")]
    pub button: Press,
    /// The machine.
    #[command(flatten)]
    pub which: Which,
}

/// `berth health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Whether it is ready, by the --ready of its berth run
    #[arg(long)]
    pub ready: bool,
    /// The machine.
    #[command(flatten)]
    pub which: Which,
}

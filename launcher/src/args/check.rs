//! `berth check`: the settings of a run, and the form of the answer.

use clap::Args;

use super::RunArgs;
use super::image::Output;

/// What `berth check --help` ends with.
pub const AFTER_HELP: &str = "\
Takes the settings of berth run: flags, environment and file. Nothing is changed, and nothing is \
fetched. One line for each finding: ok, warning, error, then what is wrong, then what to do about it; \
and one for each step that would be done to the network.

Exit status: 0, or 1 if berth run would be stopped.";

/// `berth check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Those of `berth run`.
    #[command(flatten)]
    pub run: RunArgs,
    /// Answer for people, or for programs
    #[arg(long, short = 'o', value_name = "FORM", default_value = "text", help_heading = "Answer")]
    pub output: Output,
}

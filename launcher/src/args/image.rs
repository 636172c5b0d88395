//! `berth image`: the flags, as typed.

use clap::{Args, Subcommand, ValueEnum};

use super::pull::PullArgs;

/// `berth image`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct ImageArgs {
    /// What to do with an image.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// The subcommands of `berth image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Fetch an image into the image directory, as berth run URL does before it boots it
    Pull(Box<PullArgs>),
    /// Show an image, the files it is based on, whose it is, and who uses it
    #[command(after_help = "\
A machine may be running on the image. Only headers are read, and a base that has been touched since \
the disk was made on it is read whole if its digest was recorded.

Exit status: 0, or 1 for an error.")]
    Info(Which),
    /// Look for damage and lost space in an image that nobody writes to
    #[command(after_help = CHECK_HELP)]
    Check(Which),
    /// Repair what can be repaired of an image that nobody uses
    #[command(after_help = REPAIR_HELP)]
    Repair(RepairArgs),
    /// Make a disk larger; it is never made smaller
    #[command(after_help = "\
Nobody may use the disk meanwhile. The new space reads as zeroes. What is in the disk is for the guest \
to grow: partitions and file systems. Exit status: 0, or 1 for an error.")]
    Resize(ResizeArgs),
}

const CHECK_HELP: &str = "\
An entry of the image's tables that leads nowhere, or a cluster counted less often than it is used, is \
a corruption; a cluster that is counted but not used is a leak: lost space, and nothing worse.

Exit status, as of qemu-img check: 0 nothing is wrong; 1 the image could not be checked; 2 there are \
corruptions; 3 there are leaks only; 63 the format has nothing to check (raw).";

const REPAIR_HELP: &str = "\
Keep a copy of a corrupt image first. Reference counts and flags can be repaired; an entry that leads \
nowhere stays, and so does the image's mark then. The image is checked before and after.

Exit status, as of qemu-img check -r: that of berth image check afterwards.";

/// Which image, and how to answer.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Path of an image, or name of a machine: NAME.qcow2 in the image directory
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// IMAGE names a machine that has its disk in this directory [env: IMG_DIR] [default: as of
    /// berth run, for what is no path]
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<String>,
    /// Format of the image, qcow2 or raw [default: by its header; repair and resize ask for it
    /// unless the name ends in .qcow2, for a guest can write what it likes to a raw disk]
    #[arg(long, short = 'f', value_name = "FORMAT")]
    pub format: Option<String>,
    /// Answer for people, or for programs
    #[arg(long, short = 'o', value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// Form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines of text.
    Text,
    /// One JSON object.
    Json,
}

/// `berth image repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The image.
    #[command(flatten)]
    pub which: Which,
    /// Only give lost space back: qemu-img check -r leaks
    #[arg(long, conflicts_with = "all")]
    pub leaks_only: bool,
    /// Everything that can be repaired: qemu-img check -r all (the default)
    #[arg(long)]
    pub all: bool,
}

/// `berth image resize`.
#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// The image.
    #[command(flatten)]
    pub which: Which,
    /// The new size, such as 20G, or with a plus what to add, such as +5G
    #[arg(value_name = "SIZE")]
    pub size: String,
}

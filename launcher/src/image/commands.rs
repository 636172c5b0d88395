//! `berth image info`, `check`, `repair`, `resize`: looking after a disk by hand.
//!
//! Only `repair` and `resize` write, to the image that was named and to no other file; both and
//! `check` need it to be unused, by QEMU's locks and ours. `info` takes no lock.
//! Answers go to standard output, errors to standard error. Runs on the main thread, without a log.

mod check;
mod info;
mod resize;

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use devices::block::{Fault, ImageFormat, OpenError};
use serde_json::Value;

use super::base::BaseRecord;
use super::identity::{Identity, IdentityError};
use super::resolver::Beneath;
use crate::args::image::{ImageArgs, ImageCommand, Output, Which};
use crate::args::{self, Settings};
use crate::config::{self, ConfigError, Layers};
use crate::exit;
use crate::failure::sentence;
use crate::host::Host;
use crate::pull;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// A mistake in what was typed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was named is not there.
    #[error(
        "there is neither a file {image} nor a disk {}; give the path of an image, or a machine's \
         name with --image-dir", disk.display()
    )]
    Absent {
        /// As it was typed.
        image: String,
        /// The machine's disk, if it is one's name.
        disk: PathBuf,
    },
    /// The file cannot be used.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, a FIFO.
    #[error("{} is neither a file nor a block device; name a qcow2 or raw image", .0.display())]
    Kind(PathBuf),
    /// The format has to be stated before something is written.
    #[error(
        "{} may be a raw disk whose guest wrote its header; state what it is with --format qcow2 \
         or --format raw", .0.display()
    )]
    FormatNeeded(PathBuf),
    /// The image.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// The identity file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Sizes.
    #[error("{0}")]
    Size(String),
    /// The answer.
    #[error("the answer cannot be written")]
    Answer(#[from] io::Error),
}

/// Does what was asked; answers the exit status.
pub fn run(args: &ImageArgs) -> u8 {
    let done = match &args.command {
        // It has a log, and hears signals.
        ImageCommand::Pull(args) => return pull::pull(args),
        ImageCommand::Info(which) => info::run(which),
        ImageCommand::Check(which) => check::check(which),
        ImageCommand::Repair(args) => check::repair(args),
        ImageCommand::Resize(args) => resize::run(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("berth error: {}", sentence(&error as &(dyn Error + 'static)));
        exit::ERROR
    })
}

/// Whether an image is opened to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

/// The image that was named.
struct Target {
    path: PathBuf,
    file: File,
    format: ImageFormat,
}

impl Target {
    fn open(which: &Which, wanted: Use) -> Result<Self, CommandError> {
        let path = find(which)?;
        let failed = |source| CommandError::Open { path: path.clone(), source };
        let kind = path.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(CommandError::Kind(path));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(wanted == Use::Write)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(failed)?;
        let format = format(which, &path, &file, wanted)?;
        Ok(Self { path, file, format })
    }

    /// Says which image something is wrong with.
    fn fault(&self, fault: Fault) -> CommandError {
        OpenError { image: self.path.display().to_string(), fault }.into()
    }

    /// The identity file beside it, if it is a machine's disk: its path and what is in it.
    fn identity(&self) -> Result<Option<(PathBuf, Identity)>, IdentityError> {
        if self.path.extension().is_none_or(|extension| extension != "qcow2") {
            return Ok(None);
        }
        let path = self.path.with_extension("id");
        Ok(Identity::load(&path)?.map(|identity| (path, identity)))
    }

    /// What may be opened below it: the files of its directory, and those beside its recorded base.
    fn resolver(&self, record: Option<&BaseRecord>) -> Beneath {
        let real = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let beside = record.and_then(|record| Path::new(&record.path).parent());
        Beneath::new(real.parent(), beside)
    }
}

/// The path of the image: as it was typed, or a machine's disk.
fn find(which: &Which) -> Result<PathBuf, CommandError> {
    let path = PathBuf::from(&which.image);
    if which.image_dir.is_none() && (which.image.contains('/') || path.exists()) {
        return Ok(path);
    }
    let (_, environment) =
        args::from_environment(|name| std::env::var_os(name)).map_err(ConfigError::from)?;
    let flags = Settings { image_dir: which.image_dir.clone(), ..Settings::default() };
    let layers = Layers { flags, environment, file: None };
    let host = Host::gather(|name| std::env::var_os(name));
    let dir = config::image_dir(&layers, &host)?;
    let name = config::parse_machine_name(&which.image).map_err(|(problem, fix)| {
        ConfigError::Together(format!("IMAGE: `{}` {problem}; {fix}", which.image))
    })?;
    let disk = dir.join(format!("{name}.qcow2"));
    if disk.exists() { Ok(disk) } else { Err(CommandError::Absent { image: name, disk }) }
}

/// As stated, or by the header.
fn format(
    which: &Which,
    path: &Path,
    file: &File,
    wanted: Use,
) -> Result<ImageFormat, CommandError> {
    let fault = |fault| OpenError { image: path.display().to_string(), fault };
    if let Some(stated) = &which.format {
        return config::parse_format(stated).map(ImageFormat::from).map_err(|(problem, fix)| {
            ConfigError::Together(format!("--format: `{stated}` {problem}; {fix}")).into()
        });
    }
    let format = ImageFormat::probe(file).map_err(fault)?;
    let is_named = path.extension().is_some_and(|extension| extension == "qcow2");
    match (wanted, format) {
        (Use::Write, ImageFormat::Qcow2) if !is_named => {
            Err(CommandError::FormatNeeded(path.to_owned()))
        }
        _ => Ok(format),
    }
}

/// Prints an answer in the form that was asked for.
fn answer(output: Output, json: &Value, text: &str) -> io::Result<()> {
    use io::Write as _;
    let mut out = io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(json)?)?,
        Output::Text => out.write_all(text.as_bytes())?,
    }
    out.flush()
}

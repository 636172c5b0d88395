//! From what was typed to a [`Plan`] that cannot hold a wrong value. Every default is in this file.
//!
//! Nothing is created or changed here: files are looked at, and a mistake ends the run with one
//! sentence that names the setting as the user wrote it, its value, and the fix.

mod balloon;
mod disk;
mod disks;
mod hugepages;
mod layers;
mod network;
mod ready;
mod screen;
mod serials;
mod source;
mod value;
mod volumes;
mod vsock;

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use vmm::config::DiskEngine;
use vmm::config::{BalloonConfig, DiskLimits, HugePage, MAX_CPUS};

use crate::args::{self, Field};
use crate::host::Host;
use crate::image::fetch::Wanted;
use crate::image::generation::Wish;
use crate::sandbox::Enforcement;
use crate::units;
pub use disk::Disk;
pub use disks::MAX_DISK_SIZE;
pub use layers::{Given, Layers, Origin};
use logging::LogForm;
pub use network::{Net, NetworkConfig, Publish, Subnet, Vhost};
pub use ready::Ready;
pub use screen::{Mode, Vnc};
pub use source::wanted;
pub use value::{
    Digest, Format, digest as parse_digest, format as parse_format, mac as parse_mac,
    machine_name as parse_machine_name, show_mac,
};
pub use vsock::Vsock;

const MIB: u64 = 1 << 20;
const DEFAULT_CPUS: u32 = 1;
const DEFAULT_MEMORY: u64 = 1024 * MIB;
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(25);
const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Where a container's image volume is mounted.
const CONTAINER_IMAGE_DIR: &str = "image";
const TERMINATION_LOG: &str = "dev/termination-log";
/// Where Debian's package novnc has its files.
const WEB_ROOT: &str = "usr/share/novnc";
/// The machine's smallest memory, and the unit it comes in: large pages of 2 MiB.
const MIN_MEMORY: u64 = 32 * MIB;
const MEMORY_UNIT: u64 = 2 * MIB;

/// A mistake in flags, environment or configuration: nothing has been touched.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is wrong.
    #[error("{origin}: `{value}` {problem}; {fix}")]
    Value {
        /// Where it was given.
        origin: Origin,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// A file that was named cannot be read.
    #[error("{origin}: cannot read {}: {reason}; name a file that this user can read", path.display())]
    Unreadable {
        /// Where it was named.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The configuration file is not what it should be.
    #[error("{}: {reason}; keys are the long flags without dashes, see berth run --help", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// There is nothing to boot.
    #[error("no image to boot; name a qcow2 or raw image: berth run IMAGE")]
    NoImage,
    /// Settings that contradict each other, or a missing one; the whole sentence.
    #[error("{0}")]
    Together(String),
    /// A variable is not text.
    #[error(transparent)]
    NotText(#[from] args::NotText),
}

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the machine.
    pub name: String,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Guest memory in bytes, a multiple of 2 MiB, and of `hugepages`.
    pub memory_bytes: u64,
    /// The huge pages that it is on.
    pub hugepages: Option<HugePage>,
    /// How the guest gives memory back; `None`: not at all.
    pub balloon: Option<BalloonConfig>,
    /// Sockets between host and guest.
    pub vsock: Option<Vsock>,
    /// Of which generation the root disk is.
    pub generation: Wish,
    /// The root disk.
    pub root: Root,
    /// What has to be fetched into the image directory first.
    pub fetch: Option<Wanted>,
    /// Directory of overlay and identity file.
    pub image_dir: PathBuf,
    /// Further disks, in order.
    pub disks: Vec<Disk>,
    /// Most memory for the tables of each qcow2 image, in bytes.
    pub table_cache: usize,
    /// Where the kernel comes from.
    pub boot: Boot,
    /// The network.
    pub network: NetworkConfig,
    /// How the screen is served; `None`: TCP 5900 is the guest's.
    pub vnc: Option<Vnc>,
    /// The display that the guest finds.
    pub display: Mode,
    /// Files for the config drive.
    pub cloud: CloudFiles,
    /// From the power button to the hard stop.
    pub stop_timeout: Duration,
    /// The serial console.
    pub console: ConsoleMode,
    /// What counts as ready.
    pub ready: Ready,
    /// The control socket, if its place was given.
    pub control: Option<PathBuf>,
    /// Directory of noVNC's files.
    pub web_root: PathBuf,
    /// Where an unhappy end is reported.
    pub termination_log: Option<PathBuf>,
    /// What the user should hear before the start.
    pub warnings: Vec<String>,
}

/// The root disk.
#[derive(Debug, PartialEq, Eq)]
pub enum Root {
    /// An overlay on an image.
    Image(RootImage),
    /// `/dev/vm/root`: raw, written in place.
    Device(Disk),
    /// None: the kernel was given.
    None,
}

/// An overlay on an image.
#[derive(Debug, PartialEq, Eq)]
pub struct RootImage {
    /// The base, as it was named.
    pub base: PathBuf,
    /// Its format, if stated.
    pub format: Option<Format>,
    /// What it must contain.
    pub digest: Option<Digest>,
    /// Least size of the overlay in bytes.
    pub size: Option<u64>,
    /// Number of queues; 0: as many as vCPUs, at most 4.
    pub queues: u16,
    /// What moves its data.
    pub engine: DiskEngine,
    /// What it may do in a second.
    pub limits: DiskLimits,
}

/// Where the kernel comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum Boot {
    /// What the root disk's own loader would boot.
    Disk {
        /// Added to the command line.
        cmdline_extra: String,
    },
    /// These files.
    Kernel {
        /// A bzImage or an ELF kernel.
        kernel: PathBuf,
        /// The initial ramdisk.
        initrd: Option<PathBuf>,
        /// The command line, whole.
        cmdline: String,
    },
}

/// Files for the config drive.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CloudFiles {
    /// YAML or JSON.
    pub metadata: Option<PathBuf>,
    /// Any bytes.
    pub userdata: Option<PathBuf>,
    /// YAML or JSON.
    pub networkdata: Option<PathBuf>,
    /// JSON or text.
    pub vendordata: Option<PathBuf>,
}

/// What the serial console is joined to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleMode {
    /// Output always, input from a terminal.
    Auto,
    /// Output and input, whatever they are.
    Stdio,
    /// Neither.
    None,
}

/// How Berth's own log looks; read before the rest, so that the rest can be logged.
///
/// # Errors
/// [`ConfigError::Value`].
pub fn log_settings(layers: &Layers) -> Result<(LogForm, log::LevelFilter), ConfigError> {
    let form =
        choice(layers, args::LOG_FORMAT, LogForm::Text, "text or json", |text| match text {
            "text" => Some(LogForm::Text),
            "json" => Some(LogForm::Json),
            _ => None,
        })?;
    let levels = "error, warn, info, debug or trace";
    let level = choice(layers, args::LOG_LEVEL, log::LevelFilter::Info, levels, |text| {
        text.parse().ok().filter(|level| *level != log::LevelFilter::Off)
    })?;
    Ok((form, level))
}

/// Whether the process is to be confined; read before the rest, since it begins before all else.
///
/// # Errors
/// [`ConfigError::Value`].
pub fn sandbox(layers: &Layers) -> Result<Enforcement, ConfigError> {
    choice(layers, args::SANDBOX, Enforcement::On, "on, off or log", |text| match text {
        "on" => Some(Enforcement::On),
        "off" => Some(Enforcement::Off),
        "log" => Some(Enforcement::Log),
        _ => None,
    })
}

/// Decides what to run.
///
/// # Errors
/// [`ConfigError`]; nothing has been touched then.
pub fn plan(layers: &Layers, host: &Host) -> Result<Plan, ConfigError> {
    let mut warnings = Vec::new();
    let name = name(layers, host)?;
    let cpus = parse(layers, args::CPUS, |text| value::number(text, 1, u64::from(MAX_CPUS)))?
        .map_or(DEFAULT_CPUS, |cpus| u32::try_from(cpus).unwrap_or(MAX_CPUS));
    let image_dir = image_dir(layers, host)?;
    let boot = boot(layers)?;
    let place = (image_dir.as_path(), name.as_str());
    let (root, fetch) = disks::root(layers, host, place, &boot, &mut warnings)?;
    let network = network::config(layers, host)?;
    let hugepages = hugepages::config(layers)?;
    let memory_bytes = memory(layers, host, hugepages)?;
    let ready = ready::wanted(layers, &network.net, network.dhcp)?;
    let vnc = screen::vnc(layers, host, &network.net, &mut warnings)?;
    let control = path(layers, args::CONTROL)?;
    Ok(Plan {
        name,
        cpus,
        memory_bytes,
        hugepages,
        balloon: balloon::config(layers, host, memory_bytes)?,
        vsock: vsock::config(layers, control.as_deref())?,
        generation: choice(
            layers,
            args::GENERATION_ID,
            Wish::Auto,
            "auto, new or a UUID",
            |text| {
                Some(match text {
                    "auto" => Wish::Auto,
                    "new" => Wish::New,
                    text => Wish::Is(text.parse().ok()?),
                })
            },
        )?,
        disks: disks::further(layers, host, &mut warnings)?,
        table_cache: disks::table_cache(layers)?,
        root,
        fetch,
        image_dir,
        boot,
        network,
        vnc,
        display: screen::display(layers)?,
        cloud: CloudFiles {
            metadata: cloud_file(layers, host, args::METADATA)?,
            userdata: cloud_file(layers, host, args::USERDATA)?,
            networkdata: cloud_file(layers, host, args::NETWORKDATA)?,
            vendordata: cloud_file(layers, host, args::VENDORDATA)?,
        },
        stop_timeout: stop_timeout(layers)?,
        console: choice(layers, args::CONSOLE, ConsoleMode::Auto, "auto, stdio or none", |text| {
            Some(match text {
                "auto" => ConsoleMode::Auto,
                "stdio" => ConsoleMode::Stdio,
                "none" => ConsoleMode::None,
                _ => return None,
            })
        })?,
        ready,
        control,
        web_root: path(layers, args::WEB_ROOT)?.unwrap_or_else(|| host.root.join(WEB_ROOT)),
        termination_log: match layers.get(args::TERMINATION_LOG) {
            Some(given) => Some(PathBuf::from(given.value)),
            None => Some(host.root.join(TERMINATION_LOG)).filter(|path| path.exists()),
        },
        warnings,
    })
}

/// One warning for each variable that is set and means nothing here.
pub fn ignored_variables(is_set: impl Fn(&str) -> bool) -> Vec<String> {
    let replaced = [
        ("KVM_BLK_OPTS", "use --disk-queues and --disk-engine"),
        ("KVM_RAW_BLK_OPTS", "use the options of --disk"),
        ("KVM_NET_OPTS", "use --net, --mac, --mtu and --vhost"),
        ("LAUNCHER", "there is no QEMU to launch"),
    ];
    replaced
        .iter()
        .filter(|(name, _)| is_set(name))
        .map(|(name, instead)| format!("{name} held QEMU's arguments and is ignored: {instead}"))
        .collect()
}

/// The value of `field` through `read`, if it was given.
fn parse<T>(
    layers: &Layers,
    field: Field,
    read: impl Fn(&str) -> Result<T, value::Wrong>,
) -> Result<Option<T>, ConfigError> {
    let Some(given) = layers.get(field) else { return Ok(None) };
    read(&given.value).map(Some).map_err(|(problem, fix)| given.error(problem, fix))
}

/// Whether something is switched on: by any value but none, `0` and `false`.
fn switch(layers: &Layers, field: Field) -> bool {
    layers.get(field).is_some_and(|given| !["", "0", "false"].contains(&given.value.as_str()))
}

/// One of a few words.
fn choice<T>(
    layers: &Layers,
    field: Field,
    default: T,
    words: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, ConfigError> {
    let read = |text: &str| {
        read(text).ok_or_else(|| ("is not known here".to_owned(), format!("write {words}")))
    };
    Ok(parse(layers, field, read)?.unwrap_or(default))
}

fn name(layers: &Layers, host: &Host) -> Result<String, ConfigError> {
    if let Some(name) = parse(layers, args::NAME, value::machine_name)? {
        return Ok(name);
    }
    let text = host.hostname.clone().unwrap_or_default();
    value::machine_name(&text).map_err(|_| {
        ConfigError::Together(format!(
            "the host's name `{text}` cannot name the machine; give one with --name"
        ))
    })
}

fn memory(layers: &Layers, host: &Host, hugepages: Option<HugePage>) -> Result<u64, ConfigError> {
    let given = layers.get(args::MEMORY).unwrap_or_else(|| Given {
        value: DEFAULT_MEMORY.wrapping_div(MIB).to_string(),
        origin: Origin::Flag("--memory (default)".to_owned()),
    });
    let fix = "write MiB as a plain number, or a unit such as 512M or 2G";
    let bytes =
        units::size(&given.value, Some(MIB)).map_err(|problem| given.error(problem, fix))?;
    if bytes < MIN_MEMORY {
        return Err(given.error("is too little for a machine", "give at least 32M"));
    }
    // Huge pages are no part of what a cgroup's memory limit is about.
    if let Some(limit) = host.memory.filter(|_| hugepages.is_none())
        && bytes > limit.bytes
    {
        let (whose, more) = match limit.by_cgroup {
            true => ("this cgroup may use", ", or raise the pod's memory limit"),
            false => ("this host has", ""),
        };
        let (asked, have) = (bytes / MIB, limit.bytes / MIB);
        return Err(given.error(
            format_args!("is {asked} MiB, more than the {have} MiB {whose}"),
            format_args!("give less{more}"),
        ));
    }
    let unit = hugepages.map_or(MEMORY_UNIT, HugePage::bytes);
    if !bytes.is_multiple_of(unit) {
        let near = units::show((bytes - bytes % unit).max(unit));
        let whose = if hugepages.is_some() { ", a page of --hugepages" } else { "" };
        let problem = format!("is not a multiple of {}{whose}", units::show(unit));
        return Err(given.error(problem, format!("give {near}, for example")));
    }
    Ok(bytes)
}

fn stop_timeout(layers: &Layers) -> Result<Duration, ConfigError> {
    let Some(given) = layers.get(args::STOP_TIMEOUT) else { return Ok(DEFAULT_STOP_TIMEOUT) };
    let fix = "write seconds as a plain number, or a unit such as 90s or 2m";
    let time = units::duration(&given.value).map_err(|problem| given.error(problem, fix))?;
    if time > MAX_STOP_TIMEOUT {
        return Err(given.error("is more than a day", "give at most 24h"));
    }
    Ok(time)
}

/// The image directory: as given, or where it is by default.
///
/// # Errors
/// [`ConfigError`]: it is not given, and there is no place for it by default.
pub fn image_dir(layers: &Layers, host: &Host) -> Result<PathBuf, ConfigError> {
    if let Some(given) = layers.get(args::IMAGE_DIR) {
        if given.value.is_empty() {
            return Err(given.error("names no directory", "name one that this user can write"));
        }
        return Ok(PathBuf::from(given.value));
    }
    if host.in_container {
        return Ok(host.root.join(CONTAINER_IMAGE_DIR));
    }
    host.data_dir.as_ref().map(|dir| dir.join("berth")).ok_or_else(|| {
        ConfigError::Together(
            "there is no HOME to keep the machine's disk under; give --image-dir".to_owned(),
        )
    })
}

/// A path that need not be there.
fn path(layers: &Layers, field: Field) -> Result<Option<PathBuf>, ConfigError> {
    match layers.get(field) {
        Some(given) if given.value.is_empty() => {
            Err(given.error("names nothing", "give a path, or leave it away"))
        }
        given => Ok(given.map(|given| PathBuf::from(given.value))),
    }
}

fn boot(layers: &Layers) -> Result<Boot, ConfigError> {
    parse(layers, args::BOOT_WAY, value::boot)?;
    let cmdline = layers.get(args::CMDLINE);
    if let Some(given) = &cmdline
        && (given.value.len() > 4096 || given.value.contains(['\0', '\n']))
    {
        let problem = "is not one line of at most 4096 bytes";
        return Err(given.error(problem, "shorten it, and write it on one line"));
    }
    let cmdline = cmdline.map(|given| given.value).unwrap_or_default();
    let kernel = readable(layers, args::KERNEL)?;
    let initrd = readable(layers, args::INITRD)?;
    match (kernel, initrd) {
        (Some(kernel), initrd) => Ok(Boot::Kernel { kernel, initrd, cmdline }),
        (None, None) => Ok(Boot::Disk { cmdline_extra: cmdline }),
        (None, Some(initrd)) => Err(ConfigError::Together(format!(
            "--initrd {} has no kernel to go with; give --kernel too, or neither",
            initrd.display()
        ))),
    }
}

/// Opens `path` and closes it again, to see that it can be. Nothing but files and block devices is
/// opened: a FIFO would wait for its writer.
fn look(path: &Path, write: bool) -> Result<(), String> {
    let kind = fs::metadata(path).map_err(|error| error.to_string())?.file_type();
    if kind.is_dir() {
        return Err("it is a directory".to_owned());
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err("it is neither a file nor a block device".to_owned());
    }
    let opened = File::options().read(true).write(write).open(path);
    opened.map(drop).map_err(|error| error.to_string())
}

/// A file named by `field`, which has to be there and readable.
fn readable(layers: &Layers, field: Field) -> Result<Option<PathBuf>, ConfigError> {
    let Some(given) = layers.get(field) else { return Ok(None) };
    let path = PathBuf::from(given.value);
    match look(&path, false) {
        Ok(()) => Ok(Some(path)),
        Err(reason) => Err(ConfigError::Unreadable { origin: given.origin, path, reason }),
    }
}

/// A file for the config drive: as named, else where the container has it.
fn cloud_file(layers: &Layers, host: &Host, field: Field) -> Result<Option<PathBuf>, ConfigError> {
    if let Some(path) = readable(layers, field)? {
        return Ok(Some(path));
    }
    // The key is also the name of the file at the container's root.
    let path = host.root.join(field.key);
    if !host.in_container || !path.is_file() {
        return Ok(None);
    }
    match File::open(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) => {
            let reason = error.to_string();
            Err(ConfigError::Unreadable { origin: Origin::Found, path, reason })
        }
    }
}

#[cfg(test)]
mod tests;

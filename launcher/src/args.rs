//! Flags and environment exactly as typed: text, not yet looked at.
//!
//! One struct, [`Settings`], is what the command line, the environment and the configuration file
//! each fill. [`Field`] joins the three names of a setting, so that a mistake can be reported by
//! the name the user wrote. What the text means is decided in `config.rs`.

pub mod check;
pub mod control;
pub mod generate;
pub mod image;
pub mod pull;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs one virtual machine.
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    version,
    about = "Runs one virtual machine from a stock cloud image.",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prepare the disk and the config drive, boot the machine, serve it, shut it down
    #[command(after_help = AFTER_HELP)]
    Run(Box<RunArgs>),
    /// Say what would stop or slow down berth run with the same settings, and what to do about it
    #[command(after_help = check::AFTER_HELP)]
    Check(Box<check::CheckArgs>),
    /// Look after disk images by hand
    Image(image::ImageArgs),
    /// Show what a running machine is, and how it does
    Status(control::StatusArgs),
    /// Attach to the serial console of a running machine
    #[command(after_help = control::CONSOLE_HELP)]
    Console(control::ConsoleArgs),
    /// Take a picture of a running machine's screen
    Screenshot(control::ScreenshotArgs),
    /// Press a button of a running machine
    Power(control::PowerArgs),
    /// Say by the exit status whether a machine runs: 0, or 1 if not
    Health(control::HealthArgs),
    /// Print the script by which a shell completes berth's flags
    #[command(after_help = generate::COMPLETIONS_HELP)]
    Completions(generate::CompletionsArgs),
    /// Write the manual pages
    Man(generate::ManArgs),
    /// Take a network back at the end; started by berth run, for itself
    #[command(hide = true)]
    Caretaker,
}

const AFTER_HELP: &str = "\
A flag stands over its environment variable, that over the file given by --config, that over the \
default. An empty variable counts as unset.

The guest's serial console is standard output; Berth's own log is standard error. On a terminal, \
Ctrl-] then q presses the power button (twice: stops at once), Ctrl-] then ? lists the rest.

Exit status: 0 the guest powered off; 1 an error before the machine ran; 2 a mistake in flags, \
environment or configuration; 3 the guest's kernel panicked; 4 triple fault; 5 the machine could \
not go on; 6 stopped after --stop-timeout; 7 stopped at once, by a second signal or berth power off; \
8 ended by the sandbox; 101 a bug in Berth.";

/// `berth run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Read settings from this YAML file; its keys are the long flags without the dashes, and
    /// `image` [env: BERTH_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    pub config: Option<PathBuf>,

    /// The settings given as flags.
    #[command(flatten)]
    pub settings: Settings,
}

/// Every setting, as text. The same struct for flags, environment and file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Path of a qcow2 or raw image, or an http or https URL it is fetched from once, into the
    /// image directory: the base. It is only read; what the guest writes goes to an overlay in the
    /// image directory [env: IMG_SOURCE]
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,

    /// Name of the base in the image directory; without IMAGE, one that is there [env: IMG_TARGET]
    /// [default: the last part of the URL]
    #[arg(long, value_name = "NAME", help_heading = IMAGE)]
    pub image_name: Option<String>,
    /// Refuse a base with any other content: sha256:HEX, sha512:HEX, or for a URL the URL of a
    /// list such as SHA256SUMS; it is of the file as it is fetched, compressed or not
    /// [env: IMG_SHA256]
    #[arg(long, value_name = "DIGEST", help_heading = IMAGE)]
    pub image_sha256: Option<String>,
    /// Format of the base: qcow2 or raw [env: IMG_FORMAT] [default: by the base's header]
    #[arg(long, value_name = "FORMAT", help_heading = IMAGE)]
    pub image_format: Option<String>,
    /// Also trust the certificate authorities in this PEM file when fetching [env: IMG_CA]
    #[arg(long, value_name = "FILE", help_heading = IMAGE)]
    pub image_ca: Option<String>,
    /// How long a server may send nothing: seconds, or with a unit [env: IMG_TIMEOUT]
    /// [default: 60]
    #[arg(long, value_name = "TIME", help_heading = IMAGE)]
    pub image_timeout: Option<String>,
    /// Tries without progress until fetching is given up, 1 to 1000 [env: IMG_TRIES]
    /// [default: 10]
    #[arg(long, value_name = "N", help_heading = IMAGE)]
    pub image_tries: Option<String>,
    /// Directory of fetched bases, the overlay and the identity file [env: IMG_DIR] [default: /image in a
    /// container, else berth in the user's data directory]
    #[arg(long, value_name = "DIR", help_heading = IMAGE)]
    pub image_dir: Option<String>,

    /// Size of the root disk, such as 10G; grows the overlay, never shrinks it [env: IMG_SIZE]
    /// [default: the base's]
    #[arg(long, value_name = "SIZE", help_heading = DISKS)]
    pub disk_size: Option<String>,
    /// Queues of the root disk, 1 to 16 [env: BERTH_DISK_QUEUES] [default: one for each vCPU, at
    /// most 4]
    #[arg(long, value_name = "N", help_heading = DISKS)]
    pub disk_queues: Option<String>,
    /// What moves the root disk's data: auto, io_uring, sync [env: BERTH_DISK_ENGINE]
    /// [default: auto]
    #[arg(long, value_name = "ENGINE", help_heading = DISKS)]
    pub disk_engine: Option<String>,
    /// Requests per second that each disk may do, with a second's worth at once; 0: no limit.
    /// For the root disk and every further disk by itself [env: DISK_IOPS] [default: 0]
    #[arg(long, value_name = "N", help_heading = DISKS)]
    pub disk_iops: Option<String>,
    /// Bytes per second that each disk may read and write, such as 50M, likewise [env: DISK_BPS]
    /// [default: 0]
    #[arg(long, value_name = "SIZE", help_heading = DISKS)]
    pub disk_bps: Option<String>,
    /// Most memory for the tables of each qcow2 image, a base too: 64K to 1G. 1M maps 8 GiB of an image
    /// with the usual clusters, and is used only as far as the guest roams [env: DISK_CACHE]
    /// [default: 2M]
    #[arg(long, value_name = "SIZE", help_heading = DISKS)]
    pub disk_cache: Option<String>,
    /// A further disk:
    /// PATH[,format=raw|qcow2][,ro][,serial=S][,queues=N][,engine=auto|io_uring|sync][,iops=N][,bps=SIZE];
    /// repeatable. Without format: qcow2 if the name ends in .qcow2, else raw. Without serial: by
    /// its file's name [env: BERTH_DISK, separated by semicolons]
    #[arg(long, value_name = "DISK", help_heading = DISKS)]
    pub disk: Vec<String>,

    /// Number of vCPUs, 1 to 64 [env: IMG_VCPU] [default: 1]
    #[arg(long, value_name = "N", help_heading = MACHINE)]
    pub cpus: Option<String>,
    /// Guest memory: MiB, or with a unit such as 512M or 2G [env: IMG_RAM_MB] [default: 1024]
    #[arg(long, value_name = "SIZE", help_heading = MACHINE)]
    pub memory: Option<String>,
    /// Put all of the guest's memory on huge pages of this size that the host has set aside: 2M or 1G.
    /// They are taken at the start, and nothing of them is given back before the end [env: HUGEPAGES]
    /// [default: none]
    #[arg(long, value_name = "SIZE", help_heading = MACHINE)]
    pub hugepages: Option<String>,
    /// Whether the guest gives memory back, by a balloon: what it frees, always; and what it could
    /// do without, when this pod's cgroup has too little. With --hugepages the balloon only tells how
    /// the guest's memory does. on or off [env: BERTH_BALLOON] [default: on]
    #[arg(long, value_name = "WHETHER", help_heading = MACHINE)]
    pub balloon: Option<String>,
    /// Sockets between this host's programs and the guest's: PATH[,cid=N]. A program connects to the
    /// Unix socket PATH and writes CONNECT PORT; the guest's connections to port N of the host lead to
    /// the Unix socket PATH_N. cid is the guest's context id [env: BERTH_VSOCK] [default: none; cid=3]
    #[arg(long, value_name = "SOCKET", help_heading = MACHINE)]
    pub vsock: Option<String>,
    /// Name of the machine: names the overlay and the identity file, and is the guest's host name
    /// [env: HOSTNAME] [default: this host's name]
    #[arg(long, value_name = "NAME", help_heading = MACHINE)]
    pub name: Option<String>,
    /// Generation of the root disk, which tells the guest that it was copied or restored: auto (a
    /// new one when the overlay's file is another one, or older than it was), new (as after a volume
    /// was restored as a whole), or a UUID [env: BERTH_GENERATION_ID] [default: auto]
    #[arg(long, value_name = "WHICH", help_heading = MACHINE)]
    pub generation_id: Option<String>,

    /// auto or direct: the kernel the image's own boot loader would take. (uefi and bios are not
    /// built yet) [env: BOOT] [default: auto]
    #[arg(long, value_name = "WAY", help_heading = BOOT)]
    pub boot: Option<String>,
    /// Boot this kernel (bzImage, or ELF with a PVH note) instead of the image's own
    /// [env: BERTH_KERNEL]
    #[arg(long, value_name = "FILE", help_heading = BOOT)]
    pub kernel: Option<String>,
    /// Initial ramdisk for --kernel [env: BERTH_INITRD]
    #[arg(long, value_name = "FILE", help_heading = BOOT)]
    pub initrd: Option<String>,
    /// Added to the kernel command line found in the image; with --kernel, the whole command line
    /// [env: CMDLINE]
    #[arg(long, value_name = "TEXT", help_heading = BOOT, allow_hyphen_values = true)]
    pub cmdline: Option<String>,

    /// Network: pod (the pod's addresses lead to the guest), direct (the guest has them itself),
    /// nat (a host masquerades the guest), none, or tap:NAME to use a tap device that exists
    /// [env: NET] [default: pod in a container, else nat]
    #[arg(long, value_name = "NET", help_heading = NETWORK)]
    pub net: Option<String>,
    /// With --net nat: a port of this host that leads to the guest, [ADDRESS:]HOST:GUEST[/udp];
    /// repeatable [env: BERTH_PUBLISH, separated by semicolons]
    #[arg(long, value_name = "PORTS", help_heading = NETWORK)]
    pub publish: Vec<String>,
    /// The guest's address, one of a /30 with --vm-gw; for pod and nat [env: VM_IP]
    /// [default: 192.168.254.2, or with nat the first that is free]
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    pub vm_ip: Option<String>,
    /// The guest's router [env: VM_GW] [default: 192.168.254.1, or with nat the first that is free]
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    pub vm_gw: Option<String>,
    /// Do not tell the guest of its network by DHCP and router advertisements [env: NO_DHCP]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", help_heading = NETWORK)]
    pub no_dhcp: Option<String>,
    /// MAC address of the guest's interface [env: BERTH_MAC] [default: the one in the identity
    /// file, made at the first start]
    #[arg(long, value_name = "MAC", help_heading = NETWORK)]
    pub mac: Option<String>,
    /// MTU offered to the guest, 68 to 65535 [env: BERTH_MTU] [default: that of the interface it
    /// leads to]
    #[arg(long, value_name = "N", help_heading = NETWORK)]
    pub mtu: Option<String>,
    /// Whether the kernel carries the guest's frames itself, through /dev/vhost-net: auto (where
    /// that can be opened), on or off [env: VHOST] [default: auto]
    #[arg(long, value_name = "WHETHER", help_heading = NETWORK)]
    pub vhost: Option<String>,

    /// No screen: TCP port 5900 is left to the guest [env: NO_VNC]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", help_heading = SCREEN)]
    pub no_vnc: Option<String>,
    /// Password of the screen; on the command line everybody on this host can read it, so better
    /// give it as a variable or in a file [env: VNC_PASSWORD]
    #[arg(long, value_name = "TEXT", help_heading = SCREEN, allow_hyphen_values = true)]
    pub vnc_password: Option<String>,
    /// The same, in the first line of this file, which is read again for each viewer
    /// [env: VNC_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", help_heading = SCREEN)]
    pub vnc_password_file: Option<String>,
    /// A second password, in the first line of this file, for those who may look but not type
    /// [env: VNC_VIEW_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", help_heading = SCREEN)]
    pub vnc_view_password_file: Option<String>,
    /// Without a password, serve the screen not only on this host but on the network, which is
    /// trusted then [env: VNC_OPEN]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", help_heading = SCREEN)]
    pub vnc_open: Option<String>,
    /// Where the screen is served: ADDRESS, ADDRESS:PORT or :PORT; repeatable [env: VNC_LISTEN,
    /// separated by semicolons] [default: port 5900 of every address, or without a password of
    /// this host only]
    #[arg(long, value_name = "ADDRESS", help_heading = SCREEN)]
    pub vnc_listen: Vec<String>,
    /// Certificate for TLS, PEM, with those between it and its authority behind it
    /// [env: VNC_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = SCREEN)]
    pub vnc_tls_cert: Option<String>,
    /// Its key, PEM [env: VNC_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = SCREEN)]
    pub vnc_tls_key: Option<String>,
    /// Size of the display that the guest finds, which it may change [env: BERTH_DISPLAY]
    /// [default: 1024x768]
    #[arg(long, value_name = "WIDTHxHEIGHT", help_heading = SCREEN)]
    pub display: Option<String>,

    /// Instance metadata, YAML or JSON [env: BERTH_METADATA] [default: /metadata in a container,
    /// if it exists]
    #[arg(long, value_name = "FILE", help_heading = CLOUD)]
    pub metadata: Option<String>,
    /// User data, handed over byte for byte [env: BERTH_USERDATA] [default: /userdata in a
    /// container, if it exists]
    #[arg(long, value_name = "FILE", help_heading = CLOUD)]
    pub userdata: Option<String>,
    /// OpenStack network_data, YAML or JSON [env: BERTH_NETWORKDATA] [default: /networkdata in a
    /// container, if it exists]
    #[arg(long, value_name = "FILE", help_heading = CLOUD)]
    pub networkdata: Option<String>,
    /// Vendor data: JSON, or text for cloud-init [env: BERTH_VENDORDATA] [default: /vendordata in
    /// a container, if it exists]
    #[arg(long, value_name = "FILE", help_heading = CLOUD)]
    pub vendordata: Option<String>,

    /// Time from the power button to a hard stop: seconds, or with a unit such as 90s or 2m
    /// [env: STOP_TIMEOUT] [default: 25]
    #[arg(long, value_name = "TIME", help_heading = RUNNING)]
    pub stop_timeout: Option<String>,
    /// Serial console. auto: standard output, and input from a terminal; stdio: both, whatever
    /// they are; none: neither [env: BERTH_CONSOLE] [default: auto]
    #[arg(long, value_name = "MODE", help_heading = RUNNING)]
    pub console: Option<String>,
    /// What counts as ready: running (the machine runs), lease (the guest has got its address by
    /// DHCP), tcp:PORT (it takes connections there), cloud-init (it has said on the serial console
    /// that it has finished) [env: READY] [default: lease where Berth gives the guest its address,
    /// else running]
    #[arg(long, value_name = "WHAT", help_heading = RUNNING)]
    pub ready: Option<String>,
    /// Path of the control socket, for berth status and its like [env: BERTH_CONTROL] [default:
    /// NAME.sock in berth in the user's runtime directory, /run/berth or /tmp/berth-UID]
    #[arg(long, value_name = "PATH", help_heading = RUNNING)]
    pub control: Option<String>,
    /// Directory of noVNC's files, for the page that shows the screen [env: BERTH_WEB_ROOT]
    /// [default: /usr/share/novnc]
    #[arg(long, value_name = "DIR", help_heading = RUNNING)]
    pub web_root: Option<String>,
    /// Form of Berth's own log: text or json [env: BERTH_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORM", help_heading = RUNNING)]
    pub log_format: Option<String>,
    /// error, warn, info, debug or trace [env: BERTH_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = RUNNING)]
    pub log_level: Option<String>,
    /// Whether the process gives up what the machine does not need: on, off, or log (the kernel's log
    /// tells of forbidden system calls, which are made) [env: BERTH_SANDBOX] [default: on]
    #[arg(long, value_name = "WHETHER", help_heading = RUNNING)]
    pub sandbox: Option<String>,
    /// Where the reason of an unhappy end is written [env: BERTH_TERMINATION_LOG]
    /// [default: /dev/termination-log, if it exists]
    #[arg(long, value_name = "FILE", help_heading = RUNNING)]
    pub termination_log: Option<String>,
}

const IMAGE: &str = "Image";
const DISKS: &str = "Disks";
const MACHINE: &str = "Machine";
const BOOT: &str = "Boot";
const NETWORK: &str = "Network";
const SCREEN: &str = "Screen";
const CLOUD: &str = "Config drive";
const RUNNING: &str = "Running";

/// The names of one setting, and its place in [`Settings`].
#[derive(Clone, Copy)]
pub struct Field {
    /// Key in the file; the long flag without its dashes.
    pub key: &'static str,
    /// Environment variable.
    pub env: &'static str,
    slot: fn(&mut Settings) -> &mut Option<String>,
}

macro_rules! fields {
    ($($name:ident, $slot:ident, $key:literal, $env:literal;)*) => {
        $(
            #[doc = concat!("`--", $key, "`, `", $env, "`.")]
            pub const $name: Field = Field { key: $key, env: $env, slot: |s| &mut s.$slot };
        )*
        /// Every setting that holds one value.
        pub const FIELDS: &[Field] = &[$($name),*];
    };
}

fields! {
    IMAGE_SOURCE, image, "image", "IMG_SOURCE";
    IMAGE_NAME, image_name, "image-name", "IMG_TARGET";
    IMAGE_SHA256, image_sha256, "image-sha256", "IMG_SHA256";
    IMAGE_FORMAT, image_format, "image-format", "IMG_FORMAT";
    IMAGE_CA, image_ca, "image-ca", "IMG_CA";
    IMAGE_TIMEOUT, image_timeout, "image-timeout", "IMG_TIMEOUT";
    IMAGE_TRIES, image_tries, "image-tries", "IMG_TRIES";
    IMAGE_DIR, image_dir, "image-dir", "IMG_DIR";
    DISK_SIZE, disk_size, "disk-size", "IMG_SIZE";
    DISK_QUEUES, disk_queues, "disk-queues", "BERTH_DISK_QUEUES";
    DISK_ENGINE, disk_engine, "disk-engine", "BERTH_DISK_ENGINE";
    DISK_IOPS, disk_iops, "disk-iops", "DISK_IOPS";
    DISK_BPS, disk_bps, "disk-bps", "DISK_BPS";
    DISK_CACHE, disk_cache, "disk-cache", "DISK_CACHE";
    CPUS, cpus, "cpus", "IMG_VCPU";
    MEMORY, memory, "memory", "IMG_RAM_MB";
    HUGEPAGES, hugepages, "hugepages", "HUGEPAGES";
    BALLOON, balloon, "balloon", "BERTH_BALLOON";
    VSOCK, vsock, "vsock", "BERTH_VSOCK";
    NAME, name, "name", "HOSTNAME";
    GENERATION_ID, generation_id, "generation-id", "BERTH_GENERATION_ID";
    BOOT_WAY, boot, "boot", "BOOT";
    KERNEL, kernel, "kernel", "BERTH_KERNEL";
    INITRD, initrd, "initrd", "BERTH_INITRD";
    CMDLINE, cmdline, "cmdline", "CMDLINE";
    NET, net, "net", "NET";
    VM_IP, vm_ip, "vm-ip", "VM_IP";
    VM_GW, vm_gw, "vm-gw", "VM_GW";
    NO_DHCP, no_dhcp, "no-dhcp", "NO_DHCP";
    NO_VNC, no_vnc, "no-vnc", "NO_VNC";
    VNC_PASSWORD, vnc_password, "vnc-password", "VNC_PASSWORD";
    VNC_PASSWORD_FILE, vnc_password_file, "vnc-password-file", "VNC_PASSWORD_FILE";
    VNC_VIEW_PASSWORD_FILE, vnc_view_password_file, "vnc-view-password-file",
        "VNC_VIEW_PASSWORD_FILE";
    VNC_OPEN, vnc_open, "vnc-open", "VNC_OPEN";
    VNC_TLS_CERT, vnc_tls_cert, "vnc-tls-cert", "VNC_TLS_CERT";
    VNC_TLS_KEY, vnc_tls_key, "vnc-tls-key", "VNC_TLS_KEY";
    DISPLAY, display, "display", "BERTH_DISPLAY";
    MAC, mac, "mac", "BERTH_MAC";
    MTU, mtu, "mtu", "BERTH_MTU";
    VHOST, vhost, "vhost", "VHOST";
    METADATA, metadata, "metadata", "BERTH_METADATA";
    USERDATA, userdata, "userdata", "BERTH_USERDATA";
    NETWORKDATA, networkdata, "networkdata", "BERTH_NETWORKDATA";
    VENDORDATA, vendordata, "vendordata", "BERTH_VENDORDATA";
    STOP_TIMEOUT, stop_timeout, "stop-timeout", "STOP_TIMEOUT";
    CONSOLE, console, "console", "BERTH_CONSOLE";
    READY, ready, "ready", "READY";
    CONTROL, control, "control", "BERTH_CONTROL";
    WEB_ROOT, web_root, "web-root", "BERTH_WEB_ROOT";
    LOG_FORMAT, log_format, "log-format", "BERTH_LOG_FORMAT";
    LOG_LEVEL, log_level, "log-level", "BERTH_LOG_LEVEL";
    SANDBOX, sandbox, "sandbox", "BERTH_SANDBOX";
    TERMINATION_LOG, termination_log, "termination-log", "BERTH_TERMINATION_LOG";
}

/// The variable behind `--disk`.
pub const DISK_ENV: &str = "BERTH_DISK";
/// The variable behind `--publish`.
pub const PUBLISH_ENV: &str = "BERTH_PUBLISH";
/// The variable behind `--vnc-listen`.
pub const LISTEN_ENV: &str = "VNC_LISTEN";
/// The variable behind `--config`.
pub const CONFIG_ENV: &str = "BERTH_CONFIG";

impl Field {
    /// The value in `settings`, if there is one.
    pub fn of(self, settings: &Settings) -> Option<String> {
        (self.slot)(&mut settings.clone()).take()
    }

    /// How the flag is written.
    pub fn flag(self) -> String {
        match self.key {
            "image" => "IMAGE".to_owned(),
            key => format!("--{key}"),
        }
    }
}

/// A variable whose value is not UTF-8.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} in the environment is not UTF-8 text; set it to plain text or unset it")]
pub struct NotText(pub &'static str);

/// Reads the settings out of the environment. Empty means unset.
///
/// # Errors
/// [`NotText`] for a variable of ours that is not UTF-8.
pub fn from_environment(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(Option<PathBuf>, Settings), NotText> {
    let text = |name: &'static str| -> Result<Option<String>, NotText> {
        match variable(name) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => value.into_string().map(Some).map_err(|_| NotText(name)),
        }
    };
    let mut settings = Settings::default();
    for field in FIELDS {
        *(field.slot)(&mut settings) = text(field.env)?;
    }
    let list = |text: String| -> Vec<String> {
        text.split(';').map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned).collect()
    };
    settings.disk = text(DISK_ENV)?.map(list).unwrap_or_default();
    settings.publish = text(PUBLISH_ENV)?.map(list).unwrap_or_default();
    settings.vnc_listen = text(LISTEN_ENV)?.map(list).unwrap_or_default();
    let config = variable(CONFIG_ENV).filter(|value| !value.is_empty()).map(PathBuf::from);
    Ok((config, settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Settings, clap::Error> {
        let command = Cli::try_parse_from(["berth", "run"].iter().chain(args))?.command;
        let Command::Run(run) = command else { panic!("{args:?} is not for run") };
        Ok(run.settings)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_field_is_a_flag_and_is_named_in_the_help() {
        let mut cli = Cli::command();
        let run = cli.find_subcommand_mut("run").unwrap();
        let help = run.render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let flags: Vec<String> =
            run.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect();
        for field in FIELDS {
            assert!(help.contains(&format!("[env: {}]", field.env)), "{} in help", field.env);
            if field.key != "image" {
                assert!(flags.iter().any(|f| f == field.key), "--{}", field.key);
            }
        }
        for flag in &flags {
            let known = ["config", "disk", "publish", "vnc-listen", "help"]
                .contains(&flag.as_str())
                || FIELDS.iter().any(|field| field.key == flag);
            assert!(known, "--{flag} has no Field, so no environment variable");
        }
        assert!(
            [DISK_ENV, PUBLISH_ENV, LISTEN_ENV, CONFIG_ENV].iter().all(|env| help.contains(env))
        );
    }

    #[test]
    fn each_field_reaches_its_own_slot() {
        let (_, env) = from_environment(|name| Some(format!("v-{name}").into())).unwrap();
        for field in FIELDS {
            assert_eq!(field.of(&env).unwrap(), format!("v-{}", field.env));
        }
        for field in FIELDS.iter().filter(|f| f.key != "image") {
            let given = parse(&[&format!("{}=x", field.flag())]).unwrap();
            assert_eq!(field.of(&given).as_deref(), Some("x"), "{}", field.key);
        }
        assert_eq!(parse(&["disk.img"]).unwrap().image.as_deref(), Some("disk.img"));
    }

    #[test]
    fn empty_variables_are_unset_and_disks_are_a_list() {
        let (config, env) = from_environment(|name| match name {
            DISK_ENV => Some("/a.img,ro; /b.qcow2;".into()),
            _ => Some("".into()),
        })
        .unwrap();
        assert_eq!(config, None);
        assert_eq!(env.disk, ["/a.img,ro", "/b.qcow2"]);
        assert_eq!(Settings { disk: vec![], ..env }, Settings::default());
    }

    #[test]
    fn a_variable_that_is_not_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let bad = |name: &str| (name == "NET").then(|| OsString::from_vec(vec![0xff]));
        assert_eq!(from_environment(bad), Err(NotText("NET")));
    }

    #[test]
    fn unknown_flags_and_doubled_flags_are_refused() {
        assert!(parse(&["--memroy", "2G"]).unwrap_err().to_string().contains("--memory"));
        assert!(parse(&["--cpus", "1", "--cpus", "2"]).is_err());
        assert!(parse(&["a.img", "b.img"]).is_err());
        assert_eq!(parse(&["--disk", "a", "--disk", "b"]).unwrap().disk, ["a", "b"]);
        assert_eq!(parse(&["--cmdline", "-x y"]).unwrap().cmdline.as_deref(), Some("-x y"));
    }
}

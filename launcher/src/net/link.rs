//! Tap devices: those that exist are opened, one file for each queue pair, and new ones are made.
//!
//! `/sys/class/net/NAME/tun_flags` says what a tap was made with; TUNSETIFF has to ask for the
//! same. It would also make a tap of a name that is free, which [`open`] does not want: it looks
//! first; and attach to one that exists, which [`create`] does not want: it says so. Linux `Documentation/networking/tuntap`.
#![allow(unsafe_code)] // One ioctl, TUNSETIFF.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `linux/if_tun.h`.
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_TUN_EXCL: u16 = 0x8000;
const IFF_VNET_HDR: u16 = 0x4000;
/// `linux/if.h`, of an interface.
const IFF_UP: u32 = 1;

/// The most queue pairs opened of a tap that exists.
const MAX_QUEUES: u32 = 4;

/// An open tap.
#[derive(Debug)]
pub struct Tap {
    /// One for each queue pair.
    pub queues: Vec<File>,
    /// Its MTU.
    pub mtu: Option<u16>,
}

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No such interface.
    #[error(
        "there is no tap device {0}; make it with `ip tuntap add {0} mode tap user $USER` and `ip link set {0} up`"
    )]
    Missing(String),
    /// An interface of another kind.
    #[error(
        "the network interface {0} is not a tap device; name one, or make it with `ip tuntap add NAME mode tap user $USER`"
    )]
    Kind(String),
    /// No access to `/dev/net/tun`.
    #[error("/dev/net/tun cannot be opened; give this process access to it")]
    Device(#[source] io::Error),
    /// The tap cannot be made.
    #[error("the tap device {name} cannot be made; this process needs CAP_NET_ADMIN here")]
    Make {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The tap cannot be attached to.
    #[error(
        "the tap device {name} cannot be used; it has to belong to this user, and nobody else may use it"
    )]
    Attach {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// `struct ifreq`, as far as TUNSETIFF looks at it: 40 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

nix::ioctl_readwrite_bad!(
    /// Attaches a file of `/dev/net/tun` to an interface.
    tun_set_interface, libc::TUNSETIFF, InterfaceRequest
);

/// Opens the tap `name`, with a queue pair for each vCPU if it has several.
///
/// # Errors
/// See [`TapError`]; no tap is ever made.
pub fn open(name: &str, cpus: u32) -> Result<Tap, TapError> {
    let sys = Path::new("/sys/class/net").join(name);
    if !sys.exists() {
        return Err(TapError::Missing(name.to_owned()));
    }
    let read = |file: &str| fs::read_to_string(sys.join(file)).ok();
    let hex = |text: String| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let flags = read("tun_flags").and_then(hex).unwrap_or(0);
    if flags & u32::from(IFF_TAP) == 0 {
        return Err(TapError::Kind(name.to_owned()));
    }
    if read("flags").and_then(hex).is_some_and(|flags| flags & IFF_UP == 0) {
        log::warn!("the tap device {name} is down; `ip link set {name} up` brings it up");
    }
    let several = flags & u32::from(IFF_MULTI_QUEUE) != 0;
    let count = if several { cpus.clamp(1, MAX_QUEUES) } else { 1 };
    let mode = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | if several { IFF_MULTI_QUEUE } else { 0 };
    let queues = (0..count).map(|_| attach(name, mode)).collect::<Result<_, _>>()?;
    let mtu = read("mtu").and_then(|text| text.trim().parse().ok());
    Ok(Tap { queues, mtu })
}

/// Makes the tap `name`, which vanishes when the last of its files is closed. `queues`: the guest's,
/// with an offload header before each frame; `None`: one queue of frames alone.
///
/// # Errors
/// See [`TapError`]; also if the name is taken.
pub fn create(name: &str, queues: Option<u32>) -> Result<Vec<File>, TapError> {
    let mode = match queues {
        Some(_) => IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE,
        None => IFF_TAP | IFF_NO_PI,
    };
    let first = attach(name, mode | IFF_TUN_EXCL).map_err(|error| match error {
        TapError::Attach { name, source } => TapError::Make { name, source },
        other => other,
    })?;
    let rest = (1..queues.unwrap_or(1)).map(|_| attach(name, mode));
    std::iter::once(Ok(first)).chain(rest).collect()
}

fn attach(name: &str, flags: u16) -> Result<File, TapError> {
    // Whoever serves a queue also waits for other things than frames.
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open("/dev/net/tun");
    let file = file.map_err(TapError::Device)?;
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    // The last byte stays zero: the name has been checked, at most 15 bytes.
    for (to, from) in request.name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: `request` is as large as the `struct ifreq` that the kernel reads and writes, and
    // lives across the call; the file is open.
    let attached = unsafe { tun_set_interface(file.as_raw_fd(), &raw mut request) };
    attached.map_err(|error| TapError::Attach { name: name.to_owned(), source: error.into() })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Command;

    #[test]
    fn the_request_is_an_ifreq() {
        assert_eq!(size_of::<InterfaceRequest>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn only_taps_that_exist() {
        let error = open("berth-none", 1).unwrap_err().to_string();
        assert!(error.starts_with("there is no tap device berth-none; make it with"), "{error}");
        assert!(!Path::new("/sys/class/net/berth-none").exists());
        if Path::new("/sys/class/net/lo").exists() {
            assert!(matches!(open("lo", 1), Err(TapError::Kind(_))));
        }
    }

    /// Needs the right to make taps.
    #[test]
    fn a_queue_without_frames_is_not_waited_for() {
        let mut queues = match create("berth-t3", None) {
            Err(TapError::Make { .. } | TapError::Device(_)) => {
                eprintln!("SKIPPED: no right to make a tap device here");
                return;
            }
            made => made.unwrap(),
        };
        let raised = Command::new("ip").args(["link", "set", "berth-t3", "up"]).output();
        assert!(raised.unwrap().status.success());
        let mut frame = [0; 2048];
        // What the kernel itself sends comes first.
        while let Ok(length) = queues[0].read(&mut frame) {
            assert!(length > 0);
        }
        let nothing = queues[0].read(&mut frame).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    /// Needs the right to make taps.
    #[test]
    fn a_tap_is_opened_as_it_was_made() {
        let ip = |args: &[&str]| {
            Command::new("ip").args(args).output().is_ok_and(|output| output.status.success())
        };
        for (name, kind, cpus, queues) in
            [("berth-t1", None, 8, 1), ("berth-t2", Some("multi_queue"), 2, 2)]
        {
            let mut args = vec!["tuntap", "add", name, "mode", "tap"];
            args.extend(kind);
            if !ip(&args) {
                eprintln!("SKIPPED: no right to make a tap device here");
                return;
            }
            let opened = open(name, cpus);
            let busy = open(name, 1).map(drop).is_err();
            ip(&["tuntap", "del", name, "mode", "tap"]);
            let tap = opened.unwrap();
            assert_eq!(tap.queues.len(), queues);
            assert_eq!(tap.mtu, Some(1500));
            assert!(busy || kind.is_some(), "a single queue has one user");
        }
    }
}

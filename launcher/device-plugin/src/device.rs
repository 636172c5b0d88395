//! The three devices, and whether a node's can be used.
//!
//! A file in `/dev` says little: systemd makes `kvm`, `tun` and `vhost-net` at boot for every module
//! that is installed, whether it can work or not. So a device is opened, and KVM is asked for a
//! machine. Where this process may not open it, as in a container without privilege, whose cgroup
//! forbids devices, the next best witness is `/proc/misc`: KVM is listed there once its module has
//! found that the processor can do it. The others' modules need no hardware, and are loaded when
//! somebody opens the file.

use std::ffi::CString;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kvm_ioctls::Kvm;

/// Misc devices have this major number (Linux, `Documentation/admin-guide/devices.txt`).
const MISC_MAJOR: u32 = 10;
/// The one version there is (Linux, `Documentation/virt/kvm/api.rst` 4.1).
const KVM_API_VERSION: i32 = 12;
/// `KVM_CREATE_VM` may be interrupted.
const TRIES: u32 = 5;
/// Which misc devices have a driver that works.
const LISTING: &str = "/proc/misc";

/// A device that VMs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The processor's virtualisation.
    Kvm,
    /// Frames of a guest as a network interface of its pod.
    Tun,
    /// The kernel carries a guest's frames.
    VhostNet,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Kvm, Self::Tun, Self::VhostNet];

    /// The kernel's name for it, unique among these.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tun => "tun",
            Self::VhostNet => "vhost-net",
        }
    }

    /// Where it is in `/dev`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tun => "net/tun",
            Self::VhostNet => "vhost-net",
        }
    }

    /// Where it is on a node, and in a container.
    pub fn path(self) -> PathBuf {
        Path::new("/dev").join(self.file())
    }

    fn minor(self) -> u32 {
        match self {
            Self::Kvm => 232,
            Self::Tun => 200,
            Self::VhostNet => 238,
        }
    }
}

/// What has been found of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Absent,
    /// It is there and cannot be used: why, as the rest of a sentence.
    Unusable(String),
    /// It is there; whether it works could not be tried, because this process may not open it.
    Untried,
    /// It works.
    Usable,
}

impl State {
    /// Whether containers can be given it.
    pub fn is_healthy(&self) -> bool {
        matches!(self, Self::Untried | Self::Usable)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("is absent"),
            Self::Unusable(why) => f.write_str(why),
            Self::Untried => f.write_str("is there, and not tried: this process may not open it"),
            Self::Usable => f.write_str("can be used"),
        }
    }
}

/// Judges the device of that kind at `path`.
pub fn judge(kind: Kind, path: &Path) -> State {
    let is_it = match fs::metadata(path) {
        Ok(found) => {
            found.file_type().is_char_device()
                && libc::major(found.rdev()) == MISC_MAJOR
                && libc::minor(found.rdev()) == kind.minor()
        }
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            return State::Absent;
        }
        Err(error) => return State::Unusable(format!("cannot be looked at: {error}")),
    };
    if !is_it {
        let minor = kind.minor();
        return State::Unusable(format!("is not the character device {MISC_MAJOR}:{minor}"));
    }
    match open(path) {
        Ok(()) => {}
        // By permissions or by the cgroup: that says nothing of others.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return by_listing(kind, fs::read_to_string(LISTING).ok().as_deref());
        }
        Err(error) => return State::Unusable(format!("cannot be opened: {error}")),
    }
    let tried = if kind == Kind::Kvm { try_kvm(path) } else { Ok(()) };
    tried.map_or_else(State::Unusable, |()| State::Usable)
}

fn open(path: &Path) -> io::Result<()> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map(drop)
}

/// Makes an empty machine and lets go of it.
fn try_kvm(path: &Path) -> Result<(), String> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    let kvm = Kvm::new_with_path(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION {
        return Err(format!("has version {version} of KVM's interface, not {KVM_API_VERSION}"));
    }
    for _ in 1..TRIES {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => {
                return result.map(drop).map_err(|error| format!("makes no machine: {error}"));
            }
        }
    }
    Err("makes no machine: interrupted each time".to_owned())
}

/// Judges by the kernel's list of misc devices, `None` where it cannot be read.
fn by_listing(kind: Kind, listing: Option<&str>) -> State {
    let lists =
        |text: &str| text.lines().any(|line| line.split_whitespace().nth(1) == Some(kind.name()));
    match listing {
        Some(text) if kind == Kind::Kvm && !lists(text) => {
            State::Unusable(format!("has no driver: the kernel does not list it in {LISTING}"))
        }
        _ => State::Untried,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const MISC: &str = "238 vhost-net\n200 tun\n232 kvm\n229 fuse\n";

    #[test]
    fn what_is_not_there_is_absent() {
        let devices = tempfile::tempdir().unwrap();
        fs::write(devices.path().join("net"), "").unwrap();
        for kind in Kind::ALL {
            assert_eq!(judge(kind, &devices.path().join(kind.file())), State::Absent);
        }
    }

    #[test]
    fn another_file_is_no_device() {
        let devices = tempfile::tempdir().unwrap();
        let path = devices.path().join("kvm");
        symlink("/dev/null", &path).unwrap();
        let State::Unusable(why) = judge(Kind::Kvm, &path) else { panic!("/dev/null is taken") };
        assert_eq!(why, "is not the character device 10:232");
        let path = devices.path().join("vhost-net");
        fs::write(&path, "").unwrap();
        let State::Unusable(why) = judge(Kind::VhostNet, &path) else { panic!("a file is taken") };
        assert_eq!(why, "is not the character device 10:238");
    }

    #[test]
    fn the_kernels_list_speaks_for_kvm() {
        assert_eq!(by_listing(Kind::Kvm, Some(MISC)), State::Untried);
        let without = MISC.replace("kvm", "kvm-intel");
        assert!(!by_listing(Kind::Kvm, Some(&without)).is_healthy());
        assert!(!by_listing(Kind::Kvm, Some("")).is_healthy());
        assert_eq!(by_listing(Kind::Kvm, None), State::Untried);
        // Loaded when they are opened.
        assert_eq!(by_listing(Kind::Tun, Some("")), State::Untried);
        assert_eq!(by_listing(Kind::VhostNet, Some("")), State::Untried);
    }

    #[test]
    fn a_kvm_that_works_is_found_to() {
        let path = Kind::Kvm.path();
        if open(&path).is_err() {
            eprintln!("skipped: {} cannot be opened here", path.display());
            return;
        }
        assert_eq!(judge(Kind::Kvm, &path), State::Usable);
    }
}

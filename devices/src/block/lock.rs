//! One writer at a time: open-file-description locks on the bytes that QEMU's own image locking
//! uses (QEMU `docs/system/qemu-block-drivers`, "Disk image file locking"), so that QEMU, its
//! tools and a second machine of ours all keep out of each other's way.
//!
//! Each permission has one byte that its users share-lock, and one that those who do not tolerate
//! it share-lock. Everybody locks first and looks second: of two that clash at least one sees it.
//! The locks live as long as the open file. Called once per image, at open.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Fault;
use super::file_io::{byte_is_held, release_byte, share_byte};

/// First of the bytes that say "I use this permission".
const USED: u64 = 100;
/// First of the bytes that say "nobody else may use this permission".
const DENIED: u64 = 200;

/// Permission numbers, which are byte offsets.
const CONSISTENT_READ: u64 = 0;
const WRITE: u64 = 1;
const RESIZE: u64 = 3;

/// Most processes looked at in search of a lock's holder.
const MAX_PROCESSES: usize = 4096;
/// Most files looked at in one process.
const MAX_FILES: usize = 1024;

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// To be read, with no writer about: a base.
    Read,
    /// To be written by us alone.
    Write,
}

/// How an image is used by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Nobody has locked it.
    Free,
    /// Somebody reads it and tolerates other readers; who, if that can be told.
    Read(Option<Holder>),
    /// Somebody may write to it; who, if that can be told.
    Written(Option<Holder>),
}

/// How others use an image, as far as locks tell. Takes no lock, so it is in nobody's way.
///
/// # Errors
/// [`Fault::LockUnavailable`] when the file system has no such locks.
pub fn usage(file: &File) -> Result<Usage, Fault> {
    let held = |byte| byte_is_held(file, USED + byte).map_err(Fault::LockUnavailable);
    if held(WRITE)? {
        Ok(Usage::Written(holder(file)))
    } else if held(CONSISTENT_READ)? {
        Ok(Usage::Read(holder(file)))
    } else {
        Ok(Usage::Free)
    }
}

/// Who has the image open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id, in our own process namespace.
    pub pid: u32,
    /// The process's short name.
    pub command: String,
}

impl Holder {
    pub(super) fn name(holder: Option<&Self>) -> String {
        holder.map_or_else(|| "another process".into(), ToString::to_string)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// Locks an image for as long as `file`'s open file description lives.
///
/// # Errors
/// [`Fault::Locked`] when somebody's use excludes ours, [`Fault::LockUnavailable`] when the file
/// system has no such locks. Nothing stays locked then.
pub fn lock(file: &File, claim: Claim) -> Result<(), Fault> {
    let used: &[u64] = match claim {
        Claim::Read => &[CONSISTENT_READ],
        Claim::Write => &[CONSISTENT_READ, WRITE, RESIZE],
    };
    let denied = [WRITE, RESIZE];
    let ours: Vec<u64> =
        used.iter().map(|p| USED + p).chain(denied.iter().map(|p| DENIED + p)).collect();
    let theirs = used.iter().map(|p| DENIED + p).chain(denied.iter().map(|p| USED + p));
    let outcome = take(file, &ours, theirs);
    if outcome.is_err() {
        for byte in ours {
            // Whatever cannot be released now is released when the caller closes the file.
            let _ = release_byte(file, byte);
        }
    }
    outcome
}

fn take(file: &File, ours: &[u64], theirs: impl Iterator<Item = u64>) -> Result<(), Fault> {
    for byte in ours {
        share_byte(file, *byte).map_err(|e| match e.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Fault::Locked(holder(file)),
            _ => Fault::LockUnavailable(e),
        })?;
    }
    for byte in theirs {
        if byte_is_held(file, byte).map_err(Fault::LockUnavailable)? {
            return Err(Fault::Locked(holder(file)));
        }
    }
    Ok(())
}

/// Finds another process that has the file open. The kernel names no holder for this kind of lock,
/// so the file's identity is looked for among the open files that we may see; whoever has locked it
/// counts before those who have only opened it.
fn holder(file: &File) -> Option<Holder> {
    let wanted = identity(&file.metadata().ok()?);
    let ourselves = std::process::id();
    let processes = fs::read_dir("/proc").ok()?.flatten().take(MAX_PROCESSES);
    let mut only_open = None;
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Some(locked) = has_open(pid, wanted).ok().flatten().filter(|_| pid != ourselves) else {
            continue;
        };
        let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let holder = Holder { pid, command: command.trim_end().escape_debug().to_string() };
        if locked {
            return Some(holder);
        }
        only_open.get_or_insert(holder);
    }
    only_open
}

/// Whether a process has the file open, and if so, whether locked.
fn has_open(pid: u32, wanted: (u64, u64)) -> io::Result<Option<bool>> {
    let mut open = None;
    for file in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().take(MAX_FILES) {
        if !fs::metadata(file.path()).is_ok_and(|m| identity(&m) == wanted) {
            continue;
        }
        let info = Path::new("/proc").join(pid.to_string()).join("fdinfo").join(file.file_name());
        let locked = fs::read_to_string(info).is_ok_and(|text| text.contains("OFDLCK"));
        open = Some(locked || open == Some(true));
    }
    Ok(open)
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::super::qcow2::{CreateOptions, create};
    use super::*;

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    /// Takes a lock that nobody holds any more. Another test of this process may be starting a
    /// program at this moment, and until the program is executed the child has our files open too.
    fn take_freed(file: &File, claim: Claim) {
        let patience = Instant::now() + Duration::from_secs(30);
        while let Err(fault) = lock(file, claim) {
            assert!(matches!(fault, Fault::Locked(_)) && Instant::now() < patience, "{fault}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_writer_or_many_readers() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let (first, second) = (open(image.path()), open(image.path()));
        lock(&first, Claim::Read).unwrap();
        lock(&second, Claim::Read).unwrap();
        assert!(matches!(usage(&first), Ok(Usage::Read(_))));
        let writer = open(image.path());
        assert!(matches!(lock(&writer, Claim::Write), Err(Fault::Locked(_))));
        drop((first, second));
        take_freed(&writer, Claim::Write);
        let late = open(image.path());
        assert!(matches!(lock(&late, Claim::Write), Err(Fault::Locked(_))));
        assert!(matches!(lock(&late, Claim::Read), Err(Fault::Locked(_))));
        assert!(matches!(usage(&late), Ok(Usage::Written(_))));
        drop(writer);
        // A refused claim has left nothing behind, so the next one is not in its own way.
        take_freed(&late, Claim::Write);
    }

    #[test]
    fn qemu_keeps_out_and_we_keep_out_of_its_way() {
        let image = tempfile::NamedTempFile::new().unwrap();
        create(image.as_file(), &CreateOptions::new(1 << 20)).unwrap();
        let info = || {
            let path = image.path().to_str().unwrap();
            Command::new("qemu-img").args(["info", "-f", "qcow2", path]).output()
        };
        let Ok(free) = info() else {
            eprintln!("skipped: qemu-img is not installed");
            return;
        };
        assert!(free.status.success());
        let writer = open(image.path());
        lock(&writer, Claim::Write).unwrap();
        let refused = info().unwrap();
        assert!(!refused.status.success(), "{refused:?}");
        drop(writer);
        let reader = open(image.path());
        lock(&reader, Claim::Read).unwrap();
        assert!(info().unwrap().status.success());
        let write = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", "write 0 512"])
            .arg(image.path())
            .output()
            .unwrap();
        assert!(!write.status.success(), "{write:?}");
    }
}

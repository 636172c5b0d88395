//! The image volume: free space, direct I/O, locks; and whether the machine's disk is in use.
//!
//! What a file system can do is tried on a file without a name (`O_TMPFILE`), which nobody ever sees;
//! where there is no such thing, on one that is removed at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use devices::block::{self, Claim, Usage};
use nix::sys::statvfs::fstatvfs;

use super::Place;
use super::finding::Finding;
use crate::failure::sentence;
use crate::units;

const SUBJECT: &str = "image volume";
/// Less is no room for a machine to write anything, in bytes.
const LEAST: u64 = 64 * MIB;
const MIB: u64 = 1 << 20;
/// For a file that has to have a name for a moment.
const TRIAL: &str = ".berth-check";

/// What there is.
pub struct Volume {
    /// The directory.
    pub dir: PathBuf,
    /// What of it exists: itself, or the directory in which it would be made.
    pub there: PathBuf,
    /// In bytes.
    pub free: Option<u64>,
    /// Whether files can be made in it.
    pub writable: io::Result<()>,
    /// Whether files can be read and written without the page cache.
    pub direct: io::Result<()>,
    /// Whether disks can be kept to one writer; the sentence if not.
    pub locks: Result<(), String>,
    /// The machine's disk, if it has one, and who has it open.
    pub disk: Option<(PathBuf, Usage)>,
}

impl Volume {
    /// Looks at the directory, and at the disk of the machine `name` in it.
    pub fn gather(dir: &Path, name: &str) -> Self {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/")).to_owned();
        let file = trial(&there, 0);
        let free = File::open(&there).ok().and_then(|dir| fstatvfs(&dir).ok()).map(|stat| {
            let unit: u64 = stat.fragment_size();
            stat.blocks_available().saturating_mul(unit)
        });
        let locks = file.as_ref().map_or(Ok(()), |file| {
            block::lock(file, Claim::Write).map_err(|fault| sentence(&fault))
        });
        let path = dir.join(format!("{name}.qcow2"));
        let usage = File::open(&path).ok().and_then(|file| block::usage(&file).ok());
        Self {
            direct: trial(&there, libc::O_DIRECT).map(drop),
            writable: file.map(drop),
            disk: usage.map(|usage| (path, usage)),
            dir,
            there,
            free,
            locks,
        }
    }

    /// What is found of it; `disk` is the size that the machine's disk may grow to, in bytes.
    pub fn judge(&self, disk: Option<u64>, place: Place) -> Vec<Finding> {
        let mut findings = Vec::new();
        let dir = self.dir.display();
        if let Err(error) = &self.writable {
            let text = format!("no file can be made in {}: {error}", self.there.display());
            let remedy = place.pick(
                "mount a volume at /image, and let the pod write it: securityContext: {fsGroup: GID}",
                "--image-dir DIR, a directory of this user's",
            );
            findings.push(Finding::error(SUBJECT, text).remedy(remedy));
        }
        if let Err(problem) = &self.locks {
            let text =
                format!("{dir} keeps no locks, so two machines could write one disk: {problem}");
            let remedy = "--image-dir on another file system (NFS: version 4, or lockd running)";
            findings.push(Finding::error(SUBJECT, text).remedy(remedy));
        }
        if self.writable.is_ok()
            && let Err(error) = &self.direct
        {
            let text = format!(
                "{dir} has no direct I/O ({error}): what a guest writes is in this host's memory \
                 twice"
            );
            let remedy = place.pick(
                "use a storageClassName of block devices for the volume",
                "--image-dir on a disk's file system",
            );
            findings.push(Finding::warning(SUBJECT, text).remedy(remedy));
        }
        findings.extend(self.space(disk));
        if let Some((path, Usage::Written(holder))) = &self.disk {
            let whose = holder.as_ref().map_or("another process".to_owned(), ToString::to_string);
            let text = format!("the machine's disk {} is in use by {whose}", path.display());
            let remedy = "stop that, or give this machine another --name";
            findings.push(Finding::error(SUBJECT, text).remedy(remedy));
        }
        findings
    }

    fn space(&self, disk: Option<u64>) -> Option<Finding> {
        let free = self.free?;
        let made = if self.there == self.dir { "" } else { ", which would be made" };
        let text = format!("{}{made}: {} free", self.dir.display(), units::show(free / MIB * MIB));
        let remedy = "make room, or the volume larger";
        if free < LEAST {
            return Some(Finding::error(SUBJECT, format!("{text}, too little")).remedy(remedy));
        }
        match disk.filter(|size| *size > free) {
            Some(size) => {
                let text = format!(
                    "{text}, less than the {} that the machine's disk may grow by: it would be \
                     paused when there is none left",
                    units::show(size)
                );
                Some(Finding::warning(SUBJECT, text).remedy(remedy))
            }
            None => Some(Finding::fine(SUBJECT, text)),
        }
    }
}

/// A file that is gone when it is closed.
fn trial(dir: &Path, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let unnamed = options.clone().custom_flags(libc::O_TMPFILE | flags).open(dir);
    match unnamed {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let path = dir.join(format!("{TRIAL}-{}", std::process::id()));
            let file = options.create_new(true).custom_flags(flags).open(&path);
            // Also where it was made and then not opened: EINVAL for O_DIRECT comes late.
            drop(fs::remove_file(&path));
            file
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn fine() -> Volume {
        Volume {
            dir: "/image".into(),
            there: "/image".into(),
            free: Some(10 << 30),
            writable: Ok(()),
            direct: Ok(()),
            locks: Ok(()),
            disk: None,
        }
    }

    fn levels(volume: &Volume, disk: Option<u64>) -> Vec<Level> {
        volume.judge(disk, Place::Container).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn each_trouble_is_found() {
        use Level::{Error, Fine, Warning};
        let no = || io::Error::from_raw_os_error(libc::EINVAL);
        assert_eq!(levels(&fine(), Some(10 << 30)), [Fine]);
        assert_eq!(levels(&fine(), Some(11 << 30)), [Warning]);
        assert_eq!(levels(&Volume { free: Some(1 << 20), ..fine() }, None), [Error]);
        assert_eq!(levels(&Volume { free: None, ..fine() }, None), []);
        assert_eq!(levels(&Volume { direct: Err(no()), ..fine() }, None), [Warning, Fine]);
        assert_eq!(levels(&Volume { locks: Err("no".into()), ..fine() }, None), [Error, Fine]);
        let bad = Volume { writable: Err(no()), direct: Err(no()), ..fine() };
        assert_eq!(levels(&bad, None), [Error, Fine]);
        let busy = Volume { disk: Some(("a".into(), Usage::Written(None))), ..fine() };
        assert_eq!(levels(&busy, None), [Fine, Error]);
        let read = Volume { disk: Some(("a".into(), Usage::Read(None))), ..fine() };
        assert_eq!(levels(&read, None), [Fine]);
    }

    #[test]
    fn a_look_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let volume = Volume::gather(&root.path().join("a/b"), "pet");
        assert_eq!(volume.there, root.path());
        assert!(volume.writable.is_ok() && volume.locks.is_ok() && volume.free.is_some());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        let disk = root.path().join("pet.qcow2");
        let file = File::create_new(&disk).unwrap();
        block::lock(&file, Claim::Write).unwrap();
        let volume = Volume::gather(root.path(), "pet");
        assert!(matches!(volume.disk, Some((_, Usage::Written(_)))));
    }
}

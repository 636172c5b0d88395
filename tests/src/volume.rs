//! Small filesystems and block devices of their own, to be filled and broken. Root only, as
//! everything that mounts.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::scratch;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("scratch paths are text")
}

/// A mounted ext4 filesystem of its own size.
pub struct Volume {
    _directory: TempDir,
    point: PathBuf,
}

impl Volume {
    /// A filesystem of `mib` MiB.
    ///
    /// # Panics
    /// If it cannot be made and mounted.
    pub fn new(mib: u64) -> Self {
        let directory = scratch();
        let (image, point) = (directory.path().join("volume"), directory.path().join("mounted"));
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("there is room");
        fs::create_dir(&point).expect("the directory is writable");
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "nodiscard", text(&image)]);
        run("mount", &["-o", "loop", text(&image), text(&point)]);
        Self { _directory: directory, point }
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// Puts a file on it that leaves `mib` MiB free.
    ///
    /// # Panics
    /// If less is free already.
    pub fn fill_up_to(&self, name: &str, mib: u64) {
        let free = run("df", &["--output=avail", "-k", text(&self.point)]);
        let free: u64 = free.lines().last().unwrap_or("").trim().parse().expect("df says a number");
        let size = free.checked_sub(mib << 10).expect("so much is free");
        let mut file = File::create(self.path(name)).expect("the volume is writable");
        for _ in 0..size / 1024 {
            file.write_all(&[1; 1 << 20]).expect("there is room");
        }
        file.sync_all().expect("there is room");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Whoever used it may be ending just now.
        let _ = Command::new("umount").arg("--lazy").arg(&self.point).status();
    }
}

/// A block device that stands for a file, which may break under it.
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// A device for `file`, without a cache between them: what lies beyond the file's end, or finds
    /// no room on its filesystem, is an error.
    ///
    /// # Panics
    /// If there is none to be had.
    pub fn on(file: &Path) -> Self {
        Self { path: run("losetup", &["--direct-io=on", "--show", "--find", text(file)]).into() }
    }

    /// A device with blocks of 4096 bytes.
    ///
    /// # Panics
    /// As [`on`](Self::on).
    pub fn with_large_blocks(file: &Path) -> Self {
        Self { path: run("losetup", &["--show", "--find", "-b", "4096", text(file)]).into() }
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

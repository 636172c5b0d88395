//! Disk images, made and judged by qemu-img: the reference for the format, and no part of Berth.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image in a test's directory.
pub struct DiskImage {
    path: PathBuf,
}

/// What `qemu-img check` says of a qcow2 image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Nothing is wrong.
    Clean,
    /// Clusters are in use that nothing refers to; no data is in danger.
    Leaks,
}

impl DiskImage {
    /// A raw image of `bytes`, all holes.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn raw(path: &Path, bytes: u64) -> Self {
        File::create(path).and_then(|file| file.set_len(bytes)).expect("the directory is writable");
        Self { path: path.into() }
    }

    /// A qcow2 overlay on the raw image `base`.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn overlay(path: &Path, base: &Self) -> Self {
        let status = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([base.path(), path])
            .status()
            .expect("qemu-img is installed");
        assert!(status.success(), "qemu-img cannot make {}", path.display());
        Self { path: path.into() }
    }

    /// An image that exists.
    ///
    /// # Panics
    /// If it does not.
    pub fn at(path: &Path) -> Self {
        assert!(path.exists(), "{} is missing", path.display());
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has qemu-img check it.
    ///
    /// # Panics
    /// On corruption, or if it cannot be opened.
    pub fn check(&self) -> Checked {
        let output = Command::new("qemu-img")
            .args(["check", "-f", "qcow2"])
            .arg(&self.path)
            .output()
            .expect("qemu-img is installed");
        match output.status.code() {
            Some(0) => Checked::Clean,
            Some(3) => Checked::Leaks,
            _ => panic!(
                "qemu-img check of {}: {}\n{}{}",
                self.path.display(),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }

    /// The SHA-256 of the file, in hexadecimal.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn sha256(&self) -> String {
        let output = Command::new("sha256sum").arg(&self.path).output().expect("sha256sum runs");
        assert!(output.status.success(), "sha256sum cannot read {}", self.path.display());
        String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or("").to_owned()
    }
}

//! The image directory: what belongs to a machine of a given name, and who may change it.
//!
//! `<name>.qcow2` is the machine's disk, an overlay; `<name>.id` says who the machine is and what
//! the overlay was made on. A base that was fetched is here as well, with its record `<name>.base`
//! ([`fetch`]); any other is used where it is. No base is ever written.

pub mod base;
pub mod commands;
pub mod fetch;
pub mod generation;
pub mod identity;
pub mod overlay;
pub mod resolver;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use base::BaseError;
use devices::block::OpenError;
use identity::{Identity, IdentityError};

/// What can go wrong with a machine's disks.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The image directory cannot be used.
    #[error("the image directory {} cannot be used; give another with --image-dir", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The identity file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The base.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// An image cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file of the image directory, or a disk, cannot be used.
    #[error("{} cannot be {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What could not be done with it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The overlay is on another base.
    #[error(
        "the disk {} was made on {was}, not on {is}; name that image, give this machine another \
         --name, or remove the disk to start from the new image", overlay.display()
    )]
    OtherBase {
        /// The overlay.
        overlay: PathBuf,
        /// What it was made on.
        was: String,
        /// What was named now.
        is: String,
    },
    /// The file with the overlay's name is no overlay.
    #[error("{} is not an overlay on a base; move it away, or give another --name", .0.display())]
    NoOverlay(PathBuf),
    /// A disk would shrink.
    #[error(
        "--disk-size is {asked}, less than the {have} of {}; a disk is never shrunk: give at \
         least that, or leave it out", path.display()
    )]
    Shrink {
        /// The disk.
        path: PathBuf,
        /// As asked for.
        asked: String,
        /// As it is.
        have: String,
    },
    /// A disk is damaged, and to repair it somebody has to decide.
    #[error(
        "the disk {path} is damaged, and is not repaired unasked: {reason}; see what is wrong with \
         `berth image check {path}`, keep a copy of it, then run `berth image repair {path}`",
        path = path.display()
    )]
    Damaged {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The base's path cannot be written into the overlay.
    #[error("the path of the image {} is not UTF-8 text of at most 1023 bytes; move it", .0.display())]
    Name(PathBuf),
}

/// Files and directories made by this run, removed again unless the machine starts.
#[derive(Debug, Default)]
pub struct Created(Vec<PathBuf>);

impl Created {
    fn add(&mut self, path: &Path) {
        self.0.push(path.to_owned());
    }

    /// The directories that it would be removed from.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        })
    }

    /// The machine has started: what was made stays.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
            if let Err(error) = removed {
                log::warn!("{} is left behind: {error}", path.display());
            }
        }
    }
}

/// A machine's place in the image directory. Nobody else prepares one there while it lives.
pub struct Store {
    dir: PathBuf,
    name: String,
    /// Locked; see [`lock`].
    _lock: File,
    /// What this run has made so far.
    pub created: Created,
}

impl Store {
    /// Opens the place of the machine `name` in `dir`, which is made if need be.
    ///
    /// # Errors
    /// [`ImageError::Directory`].
    pub fn open(dir: &Path, name: &str) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Directory { path: dir.to_owned(), source };
        let mut created = Created::default();
        let missing: Vec<&Path> =
            dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).collect();
        for dir in missing.into_iter().rev() {
            fs::create_dir(dir).map_err(failed)?;
            created.add(dir);
        }
        let real = dir.canonicalize().map_err(failed)?;
        let lock = lock(&real).map_err(failed)?;
        Ok(Self { dir: real, name: name.to_owned(), _lock: lock, created })
    }

    /// The directory's real path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the overlay is.
    pub fn overlay_path(&self) -> PathBuf {
        self.dir.join(format!("{}.qcow2", self.name))
    }

    /// Where the identity file is.
    pub fn identity_path(&self) -> PathBuf {
        self.dir.join(format!("{}.id", self.name))
    }

    /// The machine's identity: kept, or new and not yet written.
    ///
    /// # Errors
    /// [`ImageError::Identity`].
    pub fn identity(&self) -> Result<Identity, ImageError> {
        Ok(Identity::load(&self.identity_path())?.unwrap_or_else(Identity::new))
    }

    /// Writes `identity`, unless it is there already.
    ///
    /// # Errors
    /// [`ImageError::Identity`].
    pub fn keep_identity(&mut self, identity: &Identity) -> Result<(), ImageError> {
        let path = self.identity_path();
        let there = Identity::load(&path)?;
        if there.as_ref() == Some(identity) {
            return Ok(());
        }
        identity.save(&path)?;
        if there.is_none() {
            self.created.add(&path);
        }
        Ok(())
    }
}

/// Locks the directory while a machine's files are made in it. Where the file system cannot lock
/// directories (NFS), two machines of the same name are still kept apart by the overlay's lock;
/// only their very first starts must not coincide.
fn lock(dir: &Path) -> io::Result<File> {
    let file = File::open(dir)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            log::info!("waiting for another berth to prepare its disk in {}", dir.display());
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => {
            log::debug!("{} cannot be locked: {error}", dir.display());
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_unless_it_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        for keep in [false, true] {
            let mut store = Store::open(&dir, "pet").unwrap();
            let identity = store.identity().unwrap();
            store.keep_identity(&identity).unwrap();
            assert!(store.identity_path().exists());
            if keep {
                std::mem::take(&mut store.created).keep();
            }
            drop(store);
            assert_eq!(root.path().join("a").exists(), keep);
            assert_eq!(dir.join("pet.id").exists(), keep);
        }
        // The second time nothing is made, so nothing goes; the identity is the same.
        let mut store = Store::open(&dir, "pet").unwrap();
        let identity = store.identity().unwrap();
        store.keep_identity(&identity).unwrap();
        drop(store);
        assert_eq!(Store::open(&dir, "pet").unwrap().identity().unwrap(), identity);
    }

    #[test]
    fn one_prepares_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), "a").unwrap();
        let dir = File::open(root.path()).unwrap();
        assert!(matches!(dir.try_lock(), Err(TryLockError::WouldBlock)));
        drop(store);
        assert!(dir.try_lock().is_ok());
    }

    #[test]
    fn a_file_is_no_directory() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Store::open(&file.join("x"), "a"), Err(ImageError::Directory { .. })));
    }
}

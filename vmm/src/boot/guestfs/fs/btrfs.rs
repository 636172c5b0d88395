//! btrfs on one device, by `lambutter`, as the several trees that its subvolumes make.
//!
//! A Linux mount without options shows the default subvolume; GRUB sees the top level (id 5), or
//! with a distribution's patch the default subvolume; a system usually lives in a subvolume named
//! `@`, `root` or the like. So a filesystem is opened several times: at its default subvolume, at
//! the top level, and at each subvolume that the top level lists.
//!
//! Left out: several devices and striped profiles, which the reader refuses by name.

use lambutter::{Btrfs, Error, Path};

use super::{FsError, GuestFs, Node, Tree, read_pieces};
use crate::boot::guestfs::disk::Volume;

/// Subvolumes of the top level looked at, beside the default one.
const MAX_SUBVOLUMES: usize = 16;
/// Id of the top level (`BTRFS_FS_TREE_OBJECTID`).
const TOP_LEVEL: u64 = 5;

/// A btrfs filesystem, opened at one subvolume.
struct Subvolume(Btrfs<Volume>);

/// Opens every tree worth looking at: the default subvolume, the top level, its subvolumes.
///
/// # Errors
/// [`FsError::Reader`], where not even the default subvolume can be read.
pub fn open_all(volume: &Volume) -> Result<Vec<Tree>, FsError> {
    let size = volume.size();
    let tree = |fs: Btrfs<Volume>, name: &str| Tree {
        fs: Box::new(Subvolume(fs)),
        subvolume: name.to_owned(),
    };
    let default =
        Btrfs::open(volume.clone(), size).map_err(|error| FsError::Reader(error.to_string()))?;
    let default_id = default.subvolume();
    let mut trees = vec![tree(default, "")];
    let Ok(mut top) = Btrfs::open_subvol_id(volume.clone(), size, TOP_LEVEL) else {
        return Ok(trees);
    };
    let listed = top.read_dir(Path::from("/")).unwrap_or_default();
    if default_id != TOP_LEVEL {
        trees.push(tree(top, "/"));
    }
    let subvolumes =
        listed.iter().filter(|entry| ![TOP_LEVEL, default_id].contains(&entry.inode.subvolume()));
    for entry in subvolumes.take(MAX_SUBVOLUMES) {
        let Ok(name) = std::str::from_utf8(&entry.name) else { continue };
        let path = format!("/{name}");
        let opened = Btrfs::open_subvol_path(volume.clone(), size, Path::from(path.as_str()));
        trees.extend(opened.ok().map(|fs| tree(fs, name)));
    }
    Ok(trees)
}

fn failed(path: &str, error: &Error) -> FsError {
    match error {
        Error::NotFound => FsError::NotFound(path.to_owned()),
        other => FsError::Reader(format!("{path}: {other}")),
    }
}

impl GuestFs for Subvolume {
    fn node(&mut self, path: &str) -> Result<Node, FsError> {
        let inode = self.0.resolve(Path::from(path)).map_err(|e| failed(path, &e))?;
        let found = self.0.metadata(&inode).map_err(|e| failed(path, &e))?;
        Ok(match found {
            found if found.is_file() => Node::File(found.size),
            found if found.is_dir() => Node::Directory,
            found if found.is_symlink() => Node::Link,
            _ => Node::Special,
        })
    }

    fn read(&mut self, path: &str, size: usize) -> Result<Vec<u8>, FsError> {
        let inode = self.0.resolve(Path::from(path)).map_err(|e| failed(path, &e))?;
        read_pieces(path, size, |offset, buf| {
            self.0.read_file_at(&inode, offset, buf).map_err(|e| failed(path, &e))
        })
    }

    fn link(&mut self, path: &str) -> Result<String, FsError> {
        let target = self.0.read_link(Path::from(path)).map_err(|e| failed(path, &e))?;
        Ok(String::from_utf8_lossy(&target).into_owned())
    }

    fn list(&mut self, path: &str, max: usize) -> Result<Vec<String>, FsError> {
        let entries = self.0.read_dir(Path::from(path)).map_err(|e| failed(path, &e))?;
        let names = entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned());
        Ok(names.take(max).collect())
    }
}

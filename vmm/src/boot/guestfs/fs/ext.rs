//! ext2, ext3 and ext4, with the journal replayed in memory, by `ext4-view`.
//!
//! Left out: what the reader refuses by feature flag (encryption, an external journal, ...).

use ext4_view::{Ext4, Ext4Error, FileType, Path};

use super::{FsError, GuestFs, Node, read_pieces};
use crate::boot::guestfs::disk::Volume;

/// An open ext2/3/4 filesystem.
pub struct Ext(Ext4);

impl Ext {
    /// Opens the filesystem in `volume`.
    ///
    /// # Errors
    /// [`FsError::Reader`].
    pub fn open(volume: &Volume) -> Result<Self, FsError> {
        match Ext4::load(Box::new(volume.clone())) {
            Ok(fs) => Ok(Ext(fs)),
            Err(error) => Err(FsError::Reader(error.to_string())),
        }
    }
}

fn path_of(path: &str) -> Result<Path<'_>, FsError> {
    Path::try_from(path).map_err(|_| FsError::NotFound(path.to_owned()))
}

fn failed(path: &str, error: &Ext4Error) -> FsError {
    match error {
        Ext4Error::NotFound | Ext4Error::NotADirectory => FsError::NotFound(path.to_owned()),
        other => FsError::Reader(format!("{path}: {other}")),
    }
}

impl GuestFs for Ext {
    fn node(&mut self, path: &str) -> Result<Node, FsError> {
        let found = self.0.symlink_metadata(path_of(path)?).map_err(|e| failed(path, &e))?;
        Ok(match found.file_type() {
            FileType::Regular => Node::File(found.len()),
            FileType::Directory => Node::Directory,
            FileType::Symlink => Node::Link,
            _ => Node::Special,
        })
    }

    fn read(&mut self, path: &str, size: usize) -> Result<Vec<u8>, FsError> {
        let mut file = self.0.open(path_of(path)?).map_err(|e| failed(path, &e))?;
        read_pieces(path, size, |_, buf| file.read_bytes(buf).map_err(|e| failed(path, &e)))
    }

    fn link(&mut self, path: &str) -> Result<String, FsError> {
        let target = self.0.read_link(path_of(path)?).map_err(|e| failed(path, &e))?;
        Ok(String::from_utf8_lossy(target.as_ref()).into_owned())
    }

    fn list(&mut self, path: &str, max: usize) -> Result<Vec<String>, FsError> {
        let mut names = Vec::new();
        for entry in self.0.read_dir(path_of(path)?).map_err(|e| failed(path, &e))? {
            let entry = entry.map_err(|e| failed(path, &e))?;
            let name = entry.file_name();
            if name != "." && name != ".." {
                names.push(String::from_utf8_lossy(name.as_ref()).into_owned());
            }
            if names.len() == max {
                break;
            }
        }
        Ok(names)
    }
}

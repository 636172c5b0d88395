//! XFS version 4 and 5, with the log replayed in memory, by `lamxfs`.
//!
//! Left out: realtime and external-log devices, which the reader refuses by name.

use lamxfs::{Error, Path, Xfs};

use super::{FsError, GuestFs, Node, read_pieces};
use crate::boot::guestfs::disk::Volume;

/// An open XFS filesystem.
pub struct XfsTree(Xfs<Volume>);

impl XfsTree {
    /// Opens the filesystem in `volume`.
    ///
    /// # Errors
    /// [`FsError::Reader`].
    pub fn open(volume: &Volume) -> Result<Self, FsError> {
        match Xfs::open(volume.clone(), volume.size()) {
            Ok(fs) => Ok(XfsTree(fs)),
            Err(error) => Err(FsError::Reader(error.to_string())),
        }
    }
}

fn failed(path: &str, error: &Error) -> FsError {
    match error {
        Error::NotFound { .. } => FsError::NotFound(path.to_owned()),
        other => FsError::Reader(format!("{path}: {other}")),
    }
}

impl GuestFs for XfsTree {
    fn node(&mut self, path: &str) -> Result<Node, FsError> {
        let at = Path::new(path.as_bytes());
        let inode = self.0.resolve(at).map_err(|e| failed(path, &e))?;
        let found = self.0.metadata(&inode).map_err(|e| failed(path, &e))?;
        Ok(match found {
            found if found.is_file() => Node::File(found.size()),
            found if found.is_dir() => Node::Directory,
            found if found.is_symlink() => Node::Link,
            _ => Node::Special,
        })
    }

    fn read(&mut self, path: &str, size: usize) -> Result<Vec<u8>, FsError> {
        let inode = self.0.resolve(Path::new(path.as_bytes())).map_err(|e| failed(path, &e))?;
        read_pieces(path, size, |offset, buf| {
            self.0.read_file_at(&inode, offset, buf).map_err(|e| failed(path, &e))
        })
    }

    fn link(&mut self, path: &str) -> Result<String, FsError> {
        let target = self.0.read_link(Path::new(path.as_bytes())).map_err(|e| failed(path, &e))?;
        Ok(String::from_utf8_lossy(&target).into_owned())
    }

    fn list(&mut self, path: &str, max: usize) -> Result<Vec<String>, FsError> {
        let entries = self.0.read_dir(Path::new(path.as_bytes())).map_err(|e| failed(path, &e))?;
        let names = entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned());
        Ok(names.filter(|name| name != "." && name != "..").take(max).collect())
    }
}

//! FAT12, FAT16 and FAT32 with long names, by `hadris-fat`: EFI system partitions.
//!
//! Names are compared without regard to case, as the firmware does.

use hadris_fat::Error;
use hadris_fat::sync::read::FileReader;
use hadris_fat::sync::{DirectoryEntry, FatDir, FatVolume, FileEntry};

use super::{FsError, GuestFs, Node, components, read_pieces};
use crate::boot::guestfs::disk::Volume;

/// An open FAT filesystem.
pub struct Fat(FatVolume<Volume>);

impl Fat {
    /// Opens the filesystem in `volume`.
    ///
    /// # Errors
    /// [`FsError::Reader`].
    pub fn open(volume: &Volume) -> Result<Self, FsError> {
        match FatVolume::open(volume.clone()) {
            Ok(fs) => Ok(Fat(fs)),
            Err(error) => Err(FsError::Reader(error.to_string())),
        }
    }

    /// The entry at `path`; `None` for the root.
    fn entry(&self, path: &str) -> Result<Option<FileEntry>, FsError> {
        let mut dir = self.0.root_dir();
        let mut found: Option<FileEntry> = None;
        for name in components(path) {
            if let Some(entry) = found {
                dir = dir.open_entry(&entry).map_err(|e| failed(path, &e))?;
            }
            let entry = dir.find(name).map_err(|e| failed(path, &e))?;
            found = Some(entry.ok_or_else(|| FsError::NotFound(path.to_owned()))?);
        }
        Ok(found)
    }

    fn directory(&self, path: &str) -> Result<FatDir<'_, Volume>, FsError> {
        let root = self.0.root_dir();
        match self.entry(path)? {
            None => Ok(root),
            Some(entry) => root.open_entry(&entry).map_err(|e| failed(path, &e)),
        }
    }
}

fn failed(path: &str, error: &Error) -> FsError {
    match error {
        Error::EntryNotFound | Error::NotADirectory => FsError::NotFound(path.to_owned()),
        other => FsError::Reader(format!("{path}: {other}")),
    }
}

impl GuestFs for Fat {
    fn node(&mut self, path: &str) -> Result<Node, FsError> {
        Ok(match self.entry(path)? {
            Some(entry) if !entry.is_directory() => Node::File(entry.len()),
            _ => Node::Directory,
        })
    }

    fn read(&mut self, path: &str, size: usize) -> Result<Vec<u8>, FsError> {
        let entry = self.entry(path)?.ok_or_else(|| FsError::NotAFile(path.to_owned()))?;
        let mut file = FileReader::new(&self.0, &entry).map_err(|e| failed(path, &e))?;
        read_pieces(path, size, |_, buf| file.read(buf).map_err(|e| failed(path, &e)))
    }

    fn link(&mut self, path: &str) -> Result<String, FsError> {
        Err(FsError::NotFound(path.to_owned()))
    }

    fn list(&mut self, path: &str, max: usize) -> Result<Vec<String>, FsError> {
        let mut entries = self.directory(path)?.entries();
        let mut names = Vec::new();
        while names.len() < max {
            let Some(entry) = entries.next_entry() else { break };
            let DirectoryEntry::Entry(entry) = entry.map_err(|e| failed(path, &e))?;
            let name = entry.name().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }
}

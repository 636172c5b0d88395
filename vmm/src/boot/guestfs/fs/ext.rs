//! ext2, ext3 and ext4, with the journal replayed in memory, by `ext4-view`.
//!
//! The reader allocates what the superblock's block size and count of groups, and the length of a
//! link, ask for, before it reads any of that. So these are looked at first: what Linux would not
//! mount is refused, and what no boot disk has.
//!
//! Left out: what the reader refuses by feature flag (encryption, an external journal, ...).

use ext4_view::{Ext4, Ext4Error, FileType, Path};

use super::{FsError, GuestFs, MAX_PATH, Node, read_pieces};
use crate::boot::guestfs::disk::Volume;

/// Where the superblock is, in bytes from the start, and how much of it is looked at.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_LEN: usize = 0x154;
/// Blocks have 1 KiB shifted by at most this: 64 KiB.
const MAX_LOG_BLOCK_SIZE: u32 = 6;
/// Block groups: those of 32 TiB with blocks of 4 KiB.
const MAX_GROUPS: u64 = 1 << 18;

/// An open ext2/3/4 filesystem.
pub struct Ext(Ext4);

impl Ext {
    /// Opens the filesystem in `volume`.
    ///
    /// # Errors
    /// [`FsError::Reader`].
    pub fn open(volume: &Volume) -> Result<Self, FsError> {
        let mut superblock = [0; SUPERBLOCK_LEN];
        volume
            .read_exact_at(SUPERBLOCK, &mut superblock)
            .map_err(|error| FsError::Reader(error.to_string()))?;
        bounds(&superblock, volume.size()).map_err(FsError::Reader)?;
        match Ext4::load(Box::new(volume.clone())) {
            Ok(fs) => Ok(Ext(fs)),
            Err(error) => Err(FsError::Reader(error.to_string())),
        }
    }
}

/// Whether a superblock's numbers fit a volume of `size` bytes.
fn bounds(superblock: &[u8; SUPERBLOCK_LEN], size: u64) -> Result<(), String> {
    let field = |at: usize| {
        let bytes = superblock.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let log_block_size = field(0x18);
    if log_block_size > MAX_LOG_BLOCK_SIZE {
        return Err(format!("the block size 2^{} is over 64 KiB", u64::from(log_block_size) + 10));
    }
    // The upper half belongs to the 64BIT feature; the reader takes it always.
    let blocks = u64::from(field(0x150)) << 32 | u64::from(field(0x4));
    if u128::from(blocks) << (10 + log_block_size) > u128::from(size) {
        return Err(format!("it claims {blocks} blocks, which is more than its partition has"));
    }
    let groups = blocks.div_ceil(u64::from(field(0x20)).max(1));
    if groups > MAX_GROUPS {
        return Err(format!("it claims {groups} block groups, which is more than {MAX_GROUPS}"));
    }
    Ok(())
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
        let found = self.0.symlink_metadata(path_of(path)?).map_err(|e| failed(path, &e))?;
        if found.len() > MAX_PATH as u64 {
            return Err(FsError::Links(path.to_owned()));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(fields: &[(usize, u32)]) -> [u8; SUPERBLOCK_LEN] {
        let mut bytes = [0; SUPERBLOCK_LEN];
        for (at, value) in fields {
            bytes[*at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn numbers_that_would_take_all_memory_are_refused() {
        // 2 GiB in blocks of 4 KiB, 32,768 of them a group.
        let fields = [(0x4, 1 << 19), (0x18, 2), (0x20, 32_768)];
        let with = |at, value| {
            let mut bytes = superblock(&fields);
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            bounds(&bytes, 2 << 30)
        };
        assert_eq!(with(0x20, 32_768), Ok(()));
        assert!(bounds(&superblock(&fields), (2 << 30) - 1).unwrap_err().contains("blocks"));
        assert!(with(0x18, 7).unwrap_err().contains("block size"));
        assert!(with(0x18, u32::MAX).unwrap_err().contains("block size"));
        assert!(with(0x4, u32::MAX).unwrap_err().contains("blocks"));
        assert!(with(0x20, 1).unwrap_err().contains("block groups"));
        assert!(with(0x20, 0).unwrap_err().contains("block groups"));
        assert!(with(0x150, 1).unwrap_err().contains("blocks"));
    }
}

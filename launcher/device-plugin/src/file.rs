//! Which file a path leads to, to tell a file from its successor at the same path.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file's identity. An inode's number is soon used again, so its time is part of it; nothing
/// changes a socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl FileId {
    /// What is at `path` now; nothing if nothing is, or it cannot be known.
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_successor_is_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        assert_eq!(FileId::of(&path), None);
        let first = UnixListener::bind(&path).unwrap();
        let id = FileId::of(&path);
        assert!(id.is_some());
        drop(first);
        assert_eq!(FileId::of(&path), id);
        // Both exist for a moment, so that their inodes differ whatever the clock's grain.
        let aside = directory.path().join("b.sock");
        let _second = UnixListener::bind(&aside).unwrap();
        fs::rename(&aside, &path).unwrap();
        assert_ne!(FileId::of(&path), id);
    }
}

//! The generation of a machine's disk: a number that is another one when the disk has gone back to, or
//! become a copy of, what it was at an earlier time. Guests draw new random numbers then, and some
//! services new identities ("Virtual Machine Generation ID", Microsoft 2018).
//!
//! It is kept in the identity file, with what was seen of the overlay at the last start. A file with
//! another inode number was copied or restored, and so was one that is older than it has been. What
//! happens below the file system, as with a volume that was restored as a whole, cannot be seen from
//! here: then it has to be said (`--generation-id new`).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which generation is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// The same, unless the disk is another.
    #[default]
    Auto,
    /// A new one.
    New,
    /// This one.
    Is(Uuid),
}

/// A generation, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Generation {
    /// Its number.
    pub id: Uuid,
    /// The overlay at the last start; `None`: the disk is no file of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Seen>,
}

/// What was seen of a disk's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Seen {
    /// Its inode number.
    pub inode: u64,
    /// Modification time, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl Seen {
    /// The file at `path` as it is now.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = path.metadata()?;
        let seconds = metadata.mtime().saturating_mul(1_000_000_000);
        let mtime_ns = seconds.saturating_add(metadata.mtime_nsec());
        Ok(Self { inode: metadata.ino(), mtime_ns })
    }

    /// Why this can hardly be the same disk, later; `None`: it can.
    fn differs(self, before: Self) -> Option<&'static str> {
        if self.inode != before.inode {
            Some("its file is another one")
        } else if self.mtime_ns < before.mtime_ns {
            Some("its file is older than it was")
        } else {
            None
        }
    }
}

impl Generation {
    /// What follows `before`, with the disk as it is now.
    pub fn next(before: Option<&Self>, wish: Wish, disk: Option<Seen>) -> Self {
        let same = before.map(|before| before.id);
        let moved = before
            .and_then(|before| before.disk)
            .zip(disk)
            .and_then(|(before, disk)| disk.differs(before));
        let id = match (wish, same, moved) {
            (Wish::Is(id), ..) => id,
            (Wish::Auto, Some(id), None) => id,
            (Wish::Auto, Some(_), Some(why)) => {
                log::info!("the disk was copied or restored ({why}): the guest is told so");
                Uuid::new_v4()
            }
            (Wish::New, ..) | (Wish::Auto, None, _) => Uuid::new_v4(),
        };
        Self { id, disk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_changes_with_the_disk_and_not_with_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pet.qcow2");
        std::fs::write(&path, "x").unwrap();
        let seen = Seen::of(&path).unwrap();
        let auto =
            |before: &Generation, disk| Generation::next(Some(before), Wish::Auto, Some(disk));
        let first = Generation::next(None, Wish::Auto, Some(seen));
        assert_eq!(auto(&first, seen), first);
        // The guest has written to it.
        let later = Seen { mtime_ns: seen.mtime_ns + 1, ..seen };
        let second = auto(&first, later);
        assert_eq!((second.id, second.disk), (first.id, Some(later)));
        // It was put back with its time, or it was copied.
        assert_ne!(auto(&second, seen).id, first.id);
        let copied = auto(&second, Seen { inode: seen.inode + 1, ..later });
        assert_ne!(copied.id, first.id);
        assert_eq!(copied, auto(&copied, copied.disk.unwrap()));
        // A disk that is no file does not tell.
        let device = Generation::next(Some(&first), Wish::Auto, None);
        assert_eq!((device.id, device.disk), (first.id, None));
        assert_eq!(auto(&device, later).id, first.id);
    }

    #[test]
    fn it_is_what_was_asked_for() {
        let first = Generation::next(None, Wish::Auto, None);
        assert_ne!(first.id, Generation::next(None, Wish::Auto, None).id);
        let new = Generation::next(Some(&first), Wish::New, None);
        assert_ne!(new.id, first.id);
        let id = Uuid::new_v4();
        assert_eq!(Generation::next(Some(&first), Wish::Is(id), None).id, id);
    }
}

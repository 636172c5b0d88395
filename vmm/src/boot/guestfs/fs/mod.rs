//! A guest's filesystem, read only: files, directories and links by path.
//!
//! [`GuestFs`] is what a reader has to offer: what lies at a path, without following links.
//! [`Tree`] is what the rest works with: it follows symbolic links inside the filesystem, as the
//! guest would see them from its own root, with a bound on how many, and puts a bound on everything
//! that is read.
//!
//! Runs on the thread of [`choose`](super::choose).

mod btrfs;
mod ext;
mod fat;
mod probe;
mod xfs;

pub use probe::{Identity, Kind, identify};

use super::disk::Volume;

/// Links followed on the way to one file, as Linux allows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Longest path while links are resolved, in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// Longest path in components.
const MAX_DEPTH: usize = 64;
/// Entries listed in one directory.
const MAX_ENTRIES: usize = 4096;
/// Bytes read from a file in one call of a reader.
const PIECE: usize = 4 << 20;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Nothing is there.
    #[error("{0} does not exist")]
    NotFound(String),
    /// It is not a regular file.
    #[error("{0} is not a regular file")]
    NotAFile(String),
    /// It is longer than the caller wants to read.
    #[error("{path} is {size} bytes long, more than the {max} that are allowed")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// Too many links, or a path that grows without end.
    #[error("{0} leads through too many symbolic links")]
    Links(String),
    /// The reader cannot read the filesystem, or found it damaged; its own words.
    #[error("{0}")]
    Reader(String),
    /// The reader failed in a way it does not know of.
    #[error("its reader failed: {0}")]
    Panicked(String),
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file of this many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Special,
}

/// A filesystem reader. Paths are absolute, without `.`, `..` or doubled slashes; no link in them
/// is followed.
pub trait GuestFs {
    /// What lies at `path`.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::Reader`].
    fn node(&mut self, path: &str) -> Result<Node, FsError>;

    /// Reads `size` bytes, as [`node`](Self::node) said, of the regular file `path`.
    ///
    /// # Errors
    /// [`FsError`].
    fn read(&mut self, path: &str, size: usize) -> Result<Vec<u8>, FsError>;

    /// Where the symbolic link `path` points.
    ///
    /// # Errors
    /// [`FsError`].
    fn link(&mut self, path: &str) -> Result<String, FsError>;

    /// Names in the directory `path`, without `.` and `..`, at most `max` of them.
    ///
    /// # Errors
    /// [`FsError`].
    fn list(&mut self, path: &str, max: usize) -> Result<Vec<String>, FsError>;
}

/// A filesystem with its links followed.
pub struct Tree {
    fs: Box<dyn GuestFs>,
    /// Name of the btrfs subvolume it starts at; empty for the default one, and everywhere else.
    pub subvolume: String,
}

/// Opens the filesystem of `kind` in `volume`: one tree, or for btrfs one for each subvolume that
/// may hold a system, the default one first and the top level second.
///
/// # Errors
/// [`FsError::Reader`], with what the filesystem needs that the reader has not.
pub fn open(volume: &Volume, kind: Kind) -> Result<Vec<Tree>, FsError> {
    let single = |fs: Box<dyn GuestFs>| vec![Tree::new(fs)];
    Ok(match kind {
        Kind::Ext => single(Box::new(ext::Ext::open(volume)?)),
        Kind::Xfs => single(Box::new(xfs::XfsTree::open(volume)?)),
        Kind::Btrfs => btrfs::open_all(volume)?,
        Kind::Fat => single(Box::new(fat::Fat::open(volume)?)),
        Kind::Foreign(_) | Kind::Unknown => {
            return Err(FsError::Reader("no filesystem that Berth can read".into()));
        }
    })
}

impl Tree {
    /// A tree over any reader.
    pub fn new(fs: Box<dyn GuestFs>) -> Self {
        Tree { fs, subvolume: String::new() }
    }

    /// The path of what `path` leads to, with every link followed, and what that is.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn resolve(&mut self, path: &str) -> Result<(String, Node), FsError> {
        let too_many = || FsError::Links(path.to_owned());
        let mut todo: Vec<String> = components(path).rev().map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        let mut node = Node::Directory;
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                node = Node::Directory;
                continue;
            }
            if node != Node::Directory {
                return Err(FsError::NotFound(path.to_owned()));
            }
            done.push(name);
            let here = joined(&done);
            if here.len() > MAX_PATH || done.len() > MAX_DEPTH {
                return Err(too_many());
            }
            node = self.fs.node(&here)?;
            if node == Node::Link {
                links += 1;
                let target = self.fs.link(&here)?;
                if links > MAX_LINKS || target.len() > MAX_PATH || target.is_empty() {
                    return Err(too_many());
                }
                if target.starts_with('/') {
                    done.clear();
                } else {
                    done.pop();
                }
                todo.extend(components(&target).rev().map(str::to_owned));
                node = Node::Directory;
            }
        }
        Ok((joined(&done), node))
    }

    /// The contents of a regular file of at most `max` bytes.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn read(&mut self, path: &str, max: u64) -> Result<Vec<u8>, FsError> {
        let (real, node) = self.resolve(path)?;
        let Node::File(size) = node else { return Err(FsError::NotAFile(path.to_owned())) };
        let too_large = || FsError::TooLarge { path: path.to_owned(), size, max };
        if size > max {
            return Err(too_large());
        }
        self.fs.read(&real, usize::try_from(size).map_err(|_| too_large())?)
    }

    /// The names in a directory, in the order of their bytes; bounded.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn list(&mut self, path: &str) -> Result<Vec<String>, FsError> {
        let (real, node) = self.resolve(path)?;
        if node != Node::Directory {
            return Err(FsError::NotFound(path.to_owned()));
        }
        let mut names = self.fs.list(&real, MAX_ENTRIES)?;
        names.sort_unstable();
        Ok(names)
    }
}

/// The parts of a path that lead somewhere.
fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

fn joined(parts: &[String]) -> String {
    if parts.is_empty() { "/".to_owned() } else { format!("/{}", parts.join("/")) }
}

/// Fills `size` bytes by calling `read(offset, buf)` for pieces; memory grows with what was really
/// read, not with what the filesystem claims.
fn read_pieces(
    path: &str,
    size: usize,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, FsError>,
) -> Result<Vec<u8>, FsError> {
    let mut bytes = Vec::new();
    let mut filled = 0;
    while filled < size {
        if filled == bytes.len() {
            bytes.resize(filled + (size - filled).min(PIECE), 0);
        }
        let got = read(filled as u64, &mut bytes[filled..])?;
        if got == 0 {
            return Err(FsError::Reader(format!("{path} ends after {filled} of {size} bytes")));
        }
        filled += got;
    }
    Ok(bytes)
}

#[cfg(test)]
pub mod fake {
    //! A filesystem in memory, for tests of what reads files.

    use std::collections::BTreeMap;

    use super::{FsError, GuestFs, Node};

    /// Something in the fake filesystem.
    #[derive(Clone, Debug)]
    pub enum Item {
        /// A file.
        File(Vec<u8>),
        /// A symbolic link.
        Link(String),
    }

    /// Items by path; directories are implied.
    #[derive(Clone, Debug, Default)]
    pub struct FakeFs(pub BTreeMap<String, Item>);

    impl FakeFs {
        /// A filesystem with these files; a content that starts with `-> ` is a link.
        pub fn new(files: &[(&str, &str)]) -> Self {
            let item = |text: &str| match text.strip_prefix("-> ") {
                Some(target) => Item::Link(target.to_owned()),
                None => Item::File(text.as_bytes().to_vec()),
            };
            FakeFs(files.iter().map(|(path, text)| ((*path).to_owned(), item(text))).collect())
        }
    }

    impl GuestFs for FakeFs {
        fn node(&mut self, path: &str) -> Result<Node, FsError> {
            match self.0.get(path) {
                Some(Item::File(bytes)) => Ok(Node::File(bytes.len() as u64)),
                Some(Item::Link(_)) => Ok(Node::Link),
                None if self.0.keys().any(|key| key.starts_with(&format!("{path}/"))) => {
                    Ok(Node::Directory)
                }
                None => Err(FsError::NotFound(path.to_owned())),
            }
        }

        fn read(&mut self, path: &str, _: usize) -> Result<Vec<u8>, FsError> {
            match self.0.get(path) {
                Some(Item::File(bytes)) => Ok(bytes.clone()),
                _ => Err(FsError::NotAFile(path.to_owned())),
            }
        }

        fn link(&mut self, path: &str) -> Result<String, FsError> {
            match self.0.get(path) {
                Some(Item::Link(target)) => Ok(target.clone()),
                _ => Err(FsError::NotFound(path.to_owned())),
            }
        }

        fn list(&mut self, path: &str, max: usize) -> Result<Vec<String>, FsError> {
            let prefix = format!("{}/", path.trim_end_matches('/'));
            let below = self.0.keys().filter_map(|key| key.strip_prefix(&prefix));
            let mut names: Vec<String> =
                below.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect();
            names.dedup();
            names.truncate(max);
            Ok(names)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeFs;
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        Tree::new(Box::new(FakeFs::new(files)))
    }

    #[test]
    fn links_lead_from_the_filesystems_own_root() {
        let mut tree = tree(&[
            ("/boot/vmlinuz-6.1", "kernel"),
            ("/boot/boot", "-> ."),
            ("/vmlinuz", "-> boot/vmlinuz-6.1"),
            ("/boot/vmlinuz", "-> ../vmlinuz"),
            ("/boot/loader.0/entries/a.conf", "a"),
            ("/boot/loader", "-> loader.0"),
            ("/abs", "-> /boot/./boot//boot/vmlinuz"),
            ("/up", "-> ../../../vmlinuz"),
        ]);
        for path in ["/vmlinuz", "/boot/vmlinuz", "/abs", "/up", "/boot/boot/boot/vmlinuz-6.1"] {
            assert_eq!(tree.read(path, 100).unwrap(), b"kernel", "{path}");
        }
        assert_eq!(tree.list("/boot/loader/entries").unwrap(), ["a.conf"]);
        assert_eq!(tree.resolve("/boot/boot/..").unwrap().0, "/");
    }

    #[test]
    fn loops_end() {
        let mut tree = tree(&[
            ("/a", "-> b"),
            ("/b", "-> a"),
            ("/grow", "-> grow/x"),
            ("/file", "x"),
            ("/file2", "-> file/x"),
        ]);
        assert!(matches!(tree.read("/a", 9), Err(FsError::Links(_))));
        assert!(matches!(tree.read("/grow", 9), Err(FsError::Links(_))));
        assert!(matches!(tree.read("/file2", 9), Err(FsError::NotFound(_))));
        let deep = "/x".repeat(5000);
        assert!(tree.read(&deep, 9).is_err());
    }

    #[test]
    fn sizes_and_kinds_are_checked() {
        let mut tree = tree(&[("/d/f", "12345")]);
        assert_eq!(tree.read("/d/f", 5).unwrap(), b"12345");
        assert!(matches!(tree.read("/d/f", 4), Err(FsError::TooLarge { size: 5, max: 4, .. })));
        assert!(matches!(tree.read("/d", 4), Err(FsError::NotAFile(_))));
        assert!(matches!(tree.list("/d/f"), Err(FsError::NotFound(_))));
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let read =
            |offset: u64, buf: &mut [u8]| Ok(if offset < 10 { buf.len().min(10) } else { 0 });
        assert_eq!(read_pieces("/f", 10, read).unwrap().len(), 10);
        assert!(read_pieces("/f", usize::MAX, read).is_err());
    }
}

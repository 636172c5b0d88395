//! The partitions of a disk with what is on them, found by number, label, UUID or file.
//!
//! Filesystems are opened when they are first looked into. Their readers are other people's code
//! working on hostile bytes: a reader that panics costs its own partition, and is named. Runs on the
//! thread of [`choose`](super::choose).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::{Disk, ReadError, Volume};
use super::entries::Place;
use super::entries::grub::{Devices, SearchBy};
use super::fs::{self, FsError, Identity, Kind, Node, Tree};
use super::partition::{self, Partition, Scheme};

/// Largest configuration file, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// What is being read at the moment, for the one who waits.
pub type Progress = Arc<Mutex<String>>;

/// A partition, and its filesystem once it has been opened.
pub struct Part {
    /// Where it is.
    pub partition: Partition,
    /// What is on it.
    pub identity: Identity,
    volume: Volume,
    trees: Trees,
    /// The tree that a configuration was found in: paths are first looked up there.
    view: usize,
}

impl Part {
    /// The tree that is looked in first.
    pub fn view(&self) -> usize {
        self.view
    }
}

enum Trees {
    Unopened,
    Open(Vec<Tree>),
    Failed(String),
}

/// How far a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Only in the tree that is looked in.
    View,
    /// Also in the default tree and in btrfs's top level, where GRUB's paths begin.
    Outer,
}

/// Every partition of a disk.
pub struct Volumes {
    /// How the disk is divided.
    pub scheme: Scheme,
    /// Its partitions, in the order of their numbers.
    pub parts: Vec<Part>,
    progress: Progress,
}

impl Volumes {
    /// Reads the partition table and looks at what begins where.
    ///
    /// # Errors
    /// [`ReadError`], where not even the first sector can be read.
    pub fn new(disk: &Rc<Disk>, progress: Progress) -> Result<Self, ReadError> {
        let table = partition::scan(disk)?;
        let part = |partition: Partition| {
            let volume = Volume::new(disk, partition.start, partition.len);
            let identity = fs::identify(&volume);
            Part { partition, identity, volume, trees: Trees::Unopened, view: 0 }
        };
        let mut parts: Vec<Part> = table.partitions.into_iter().map(part).collect();
        if table.scheme == Scheme::Mbr {
            // A boot sector's code can look like a table of partitions: a filesystem that fills the
            // disk is tried as well, last of all.
            let whole = part(partition::whole(disk));
            if matches!(whole.identity.kind, Kind::Ext | Kind::Xfs | Kind::Btrfs) {
                parts.push(whole);
            }
        }
        Ok(Volumes { scheme: table.scheme, parts, progress })
    }

    /// The name that GRUB has for the partition at `index`.
    pub fn device(&self, index: usize) -> String {
        match (self.parts.get(index).map_or(0, |part| part.partition.number), self.scheme) {
            (0, _) | (_, Scheme::Whole) => "hd0".to_owned(),
            (number, Scheme::Gpt) => format!("hd0,gpt{number}"),
            (number, Scheme::Mbr) => format!("hd0,msdos{number}"),
        }
    }

    /// The partition that GRUB means by `device`.
    pub fn index(&self, device: &str) -> Option<usize> {
        let number = match device.strip_prefix("hd0")? {
            "" => 0,
            rest => {
                let name = rest.strip_prefix(',')?;
                let digits = name.strip_prefix("gpt").or_else(|| name.strip_prefix("msdos"));
                digits.unwrap_or(name).parse().ok()?
            }
        };
        self.parts.iter().position(|part| part.partition.number == number)
    }

    /// The trees of the partition at `index`: 1 unless it is btrfs, 0 if it cannot be opened.
    pub fn open(&mut self, index: usize) -> usize {
        let Some(part) = self.parts.get_mut(index) else { return 0 };
        if matches!(part.trees, Trees::Unopened) {
            note(&self.progress, part);
            let (volume, kind) = (part.volume.clone(), part.identity.kind);
            part.trees = match guarded(move || fs::open(&volume, kind)) {
                Ok(trees) => Trees::Open(trees),
                Err(error) => Trees::Failed(error.to_string()),
            };
        }
        match &part.trees {
            Trees::Open(trees) => trees.len(),
            _ => 0,
        }
    }

    /// Why the partition at `index` cannot be read; `None` where it can, or was not looked into.
    pub fn failure(&self, index: usize) -> Option<&str> {
        match &self.parts.get(index)?.trees {
            Trees::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// The name of a tree that is a btrfs subvolume other than the default one; empty elsewhere.
    pub fn subvolume(&self, index: usize, tree: usize) -> &str {
        match self.parts.get(index).map(|part| &part.trees) {
            Some(Trees::Open(trees)) => trees.get(tree).map_or("", |tree| tree.subvolume.as_str()),
            _ => "",
        }
    }

    /// From now on, paths on the partition at `index` are first looked up in tree `tree`.
    pub fn look_in(&mut self, index: usize, tree: usize) {
        if let Some(part) = self.parts.get_mut(index) {
            part.view = tree;
        }
    }

    /// Does `work` in the tree that is looked in, and as far as `reach` goes where nothing is found
    /// there.
    fn with_tree<T>(
        &mut self,
        index: usize,
        path: &str,
        reach: Reach,
        mut work: impl FnMut(&mut Tree) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.open(index);
        let Some(part) = self.parts.get_mut(index) else {
            return Err(FsError::NotFound(path.to_owned()));
        };
        note(&self.progress, part);
        let trees = match &mut part.trees {
            Trees::Open(trees) => trees,
            Trees::Failed(why) => return Err(FsError::Reader(why.clone())),
            Trees::Unopened => return Err(FsError::NotFound(path.to_owned())),
        };
        let mut order = vec![part.view];
        let outer =
            trees.iter().enumerate().filter(|(_, tree)| matches!(&*tree.subvolume, "" | "/"));
        if reach == Reach::Outer {
            order.extend(outer.map(|(tree, _)| tree).filter(|tree| *tree != part.view));
        }
        let mut first_error = None;
        for tree in order {
            let Some(tree) = trees.get_mut(tree) else { continue };
            match guarded(|| work(tree)) {
                Err(FsError::NotFound(path)) => {
                    first_error.get_or_insert(FsError::NotFound(path));
                }
                Err(FsError::Panicked(what)) => {
                    let error = FsError::Panicked(what);
                    part.trees = Trees::Failed(error.to_string());
                    return Err(error);
                }
                done => return done,
            }
        }
        Err(first_error.unwrap_or_else(|| FsError::NotFound(path.to_owned())))
    }

    /// The contents of a file of at most `max` bytes.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn read_file(&mut self, index: usize, path: &str, max: u64) -> Result<Vec<u8>, FsError> {
        self.with_tree(index, path, Reach::Outer, |tree| tree.read(path, max))
    }

    /// The text of a configuration file; `None` where there is none, or none of a sane size.
    pub fn read_text(&mut self, index: usize, path: &str) -> Option<String> {
        let bytes = self.read_file(index, path, MAX_CONFIG).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What is at `path`.
    pub fn node(&mut self, index: usize, path: &str) -> Option<Node> {
        self.with_tree(index, path, Reach::Outer, |tree| tree.resolve(path))
            .ok()
            .map(|(_, node)| node)
    }

    /// What is at `path` in the tree that is looked in, and in no other.
    pub fn node_here(&mut self, index: usize, path: &str) -> Option<Node> {
        let found = self.with_tree(index, path, Reach::View, |tree| tree.resolve(path));
        found.ok().map(|(_, node)| node)
    }

    /// The names in a directory; empty where there is none.
    pub fn names(&mut self, index: usize, path: &str) -> Vec<String> {
        self.with_tree(index, path, Reach::Outer, |tree| tree.list(path)).unwrap_or_default()
    }

    /// The partition with this filesystem UUID.
    pub fn by_uuid(&self, uuid: &str) -> Option<usize> {
        self.parts.iter().position(|part| {
            !part.identity.uuid.is_empty() && part.identity.uuid.eq_ignore_ascii_case(uuid)
        })
    }
}

impl Devices for Volumes {
    fn read(&mut self, place: &Place) -> Option<Vec<u8>> {
        let index = self.index(&place.device)?;
        self.read_file(index, &place.path, MAX_CONFIG).ok()
    }

    fn exists(&mut self, place: &Place) -> bool {
        self.index(&place.device).is_some_and(|index| self.node(index, &place.path).is_some())
    }

    fn list(&mut self, place: &Place) -> Vec<String> {
        let index = self.index(&place.device);
        index.map(|index| self.names(index, &place.path)).unwrap_or_default()
    }

    fn search(&mut self, by: SearchBy, value: &str) -> Option<String> {
        let index = match by {
            SearchBy::Uuid => self.by_uuid(value),
            SearchBy::Label => self.parts.iter().position(|part| part.identity.label == value),
            SearchBy::File => {
                (0..self.parts.len()).find(|index| self.node(*index, value).is_some())
            }
        };
        index.map(|index| self.device(index))
    }
}

/// Tells the one who waits what is being read.
fn note(progress: &Progress, part: &Part) {
    let text = format!("{} on {}", part.identity, part.partition);
    *progress.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

/// Runs a reader; its panic is an error. Whoever gets that error must not use the reader again.
fn guarded<T>(work: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(FsError::Panicked(text.unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::fs::GuestFs;
    use super::super::fs::fake::FakeFs;
    use super::super::testdisk::{self, MemoryDisk, Part as TestPart, open};
    use super::*;

    fn volumes(bytes: Vec<u8>) -> Volumes {
        Volumes::new(&open(MemoryDisk::new(bytes, 512)), Progress::default()).unwrap()
    }

    #[test]
    fn devices_have_grubs_names() {
        let part = |number| TestPart { number, name: "", kind: testdisk::LINUX, bytes: b"x" };
        let gpt = volumes(testdisk::gpt(&[part(3), part(15)], 512));
        assert_eq!((gpt.device(0), gpt.device(1)), ("hd0,gpt3".into(), "hd0,gpt15".into()));
        for name in ["hd0,gpt15", "hd0,15", "hd0,msdos15"] {
            assert_eq!(gpt.index(name), Some(1), "{name}");
        }
        for name in ["hd0", "hd1,gpt15", "hd0,gpt4", "hd0,gpt", "lvm/x", "", "hd0,99999999999"] {
            assert_eq!(gpt.index(name), None, "{name}");
        }
        let mbr = volumes(testdisk::mbr(&[b"x"]));
        assert_eq!(mbr.device(0), "hd0,msdos1");
        let whole = volumes(vec![0; 4096]);
        assert_eq!((whole.device(0), whole.index("hd0")), ("hd0".into(), Some(0)));
    }

    #[test]
    fn paths_lead_from_the_tree_that_is_looked_in_and_then_from_the_top() {
        let tree = |subvolume: &str, files: &[(&str, &str)]| {
            let mut tree = Tree::new(Box::new(FakeFs::new(files)));
            tree.subvolume = subvolume.to_owned();
            tree
        };
        let mut volumes = volumes(testdisk::mbr(&[b"x"]));
        volumes.parts[0].trees = Trees::Open(vec![
            tree("", &[("/a", "default"), ("/b", "default")]),
            tree("home", &[("/c", "home")]),
            tree("/", &[("/b", "top"), ("/@/x", "top")]),
            tree("@", &[("/a", "@"), ("/x", "@")]),
        ]);
        let mut read = |tree, path| {
            volumes.look_in(0, tree);
            let here = volumes.node_here(0, path).is_some();
            let text = volumes.read_text(0, path).unwrap_or_default();
            format!("{text} {here}")
        };
        assert_eq!(read(3, "/a"), "@ true");
        assert_eq!(read(3, "/@/x"), "top false");
        assert_eq!(read(3, "/b"), "default false");
        assert_eq!(read(2, "/b"), "top true");
        assert_eq!(read(0, "/c"), " false");
        assert_eq!(volumes.subvolume(0, 3), "@");
    }

    struct Broken;

    impl GuestFs for Broken {
        fn node(&mut self, path: &str) -> Result<Node, FsError> {
            if path == "/ok" { Ok(Node::File(0)) } else { panic!("index out of range") }
        }
        fn read(&mut self, _: &str, _: usize) -> Result<Vec<u8>, FsError> {
            Ok(Vec::new())
        }
        fn link(&mut self, path: &str) -> Result<String, FsError> {
            Err(FsError::NotFound(path.to_owned()))
        }
        fn list(&mut self, _: &str, _: usize) -> Result<Vec<String>, FsError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_reader_that_panics_is_not_used_again() {
        let mut volumes = volumes(testdisk::mbr(&[b"x"]));
        volumes.parts[0].trees = Trees::Open(vec![Tree::new(Box::new(Broken))]);
        assert!(volumes.read_file(0, "/ok", 10).is_ok());
        let error = volumes.read_file(0, "/boot", 10).unwrap_err();
        assert!(matches!(&error, FsError::Panicked(text) if text == "index out of range"));
        assert!(matches!(volumes.read_file(0, "/ok", 10), Err(FsError::Reader(_))));
        assert!(volumes.failure(0).unwrap().contains("index out of range"));
    }
}

//! Disks that a container's volumes bring along: images below `/volumes`, and devices that a pod
//! names `/dev/vm/disk...`.
//!
//! Directories are followed eight deep, links to directories not at all; a link to an image counts
//! if what it leads to is in the same tree (that is how Kubernetes mounts files), so that nothing
//! in a volume can name a file outside. What cannot be taken is said, not passed over.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Directories below each other.
const MAX_DEPTH: u32 = 8;
/// Entries of one directory that are looked at: a volume of another kind may have millions.
const MAX_ENTRIES: usize = 4096;
/// Entries of all of them.
const MAX_ALL: usize = 65_536;

/// What was found, and what should be said of it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Images, sorted, then devices, sorted.
    pub disks: Vec<PathBuf>,
    pub warnings: Vec<String>,
    /// Entries looked at.
    seen: usize,
}

/// Looks below `root` for at most `most` disks and one more, which then is too much.
pub(super) fn find(root: &Path, most: usize) -> Found {
    let mut found = Found::default();
    let volumes = root.join("volumes");
    if let Ok(real) = volumes.canonicalize() {
        found.collect(&volumes, &real, MAX_DEPTH, most);
    }
    found.disks.sort();
    let mut devices = found.list(&root.join("dev/vm"));
    devices.retain(|path| {
        let named = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"disk"));
        let kind = fs::metadata(path).map(|metadata| metadata.file_type());
        named && kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device())
    });
    devices.sort();
    found.disks.extend(devices);
    found
}

impl Found {
    /// The entries of a directory, in no order.
    fn list(&mut self, dir: &Path) -> Vec<PathBuf> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.warnings.push(format!("{} cannot be looked into: {error}", dir.display()));
                return Vec::new();
            }
        };
        let most = MAX_ENTRIES.min(MAX_ALL.saturating_sub(self.seen));
        let mut paths: Vec<PathBuf> =
            entries.take(most + 1).flatten().map(|entry| entry.path()).collect();
        if paths.len() > most {
            paths.truncate(most);
            let dir = dir.display();
            self.warnings.push(format!("{dir} has too many entries: not all are looked at"));
        }
        self.seen += paths.len();
        paths
    }

    fn collect(&mut self, dir: &Path, volumes: &Path, depth: u32, most: usize) {
        for path in self.list(dir) {
            if self.disks.len() > most {
                return;
            }
            let Ok(kind) = path.symlink_metadata().map(|metadata| metadata.file_type()) else {
                continue;
            };
            if kind.is_dir() {
                match depth.checked_sub(1) {
                    Some(depth) => self.collect(&path, volumes, depth, most),
                    None => self.warnings.push(format!(
                        "{} is {MAX_DEPTH} directories deep: it is not looked into",
                        path.display()
                    )),
                }
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "img") || !path.is_file() {
                continue;
            }
            let real = path.canonicalize();
            if real.as_ref().is_ok_and(|real| real.starts_with(volumes)) {
                self.disks.push(path);
            } else {
                let path = path.display();
                self.warnings.push(format!("{path} leads out of the volumes: it is no disk"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        dir
    }

    fn names(dir: &tempfile::TempDir, found: &Found) -> Vec<String> {
        let within = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().display().to_string();
        found.disks.iter().map(within).collect()
    }

    #[test]
    fn images_come_sorted_and_before_devices() {
        let dir = place(&[
            "volumes/b/2.img",
            "volumes/b/10.img",
            "volumes/a.img",
            "volumes/a/z.img",
            "volumes/no.txt",
            "volumes/img",
            "dev/vm/disk1",
            "dev/vm/disk0",
            "dev/vm/disks/x",
            "dev/vm/other",
        ]);
        let found = find(dir.path(), 24);
        let want = [
            "volumes/a/z.img",
            "volumes/a.img",
            "volumes/b/10.img",
            "volumes/b/2.img",
            "dev/vm/disk0",
            "dev/vm/disk1",
        ];
        assert_eq!(names(&dir, &found), want);
        assert_eq!(found.warnings, Vec::<String>::new());
        assert!(find(&dir.path().join("nowhere"), 24).disks.is_empty());
    }

    #[test]
    fn links_lead_nowhere_else() {
        let dir = place(&["volumes/..2026/real.img", "secret.img", "elsewhere/b.img"]);
        let at = |name: &str| dir.path().join(name);
        symlink("..2026/real.img", at("volumes/disk.img")).unwrap();
        symlink("../secret.img", at("volumes/out.img")).unwrap();
        symlink(at("elsewhere"), at("volumes/dir")).unwrap();
        symlink("..", at("volumes/..2026/up")).unwrap();
        symlink("loop.img", at("volumes/loop.img")).unwrap();
        let found = find(dir.path(), 24);
        assert_eq!(names(&dir, &found), ["volumes/..2026/real.img", "volumes/disk.img"]);
        assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
        assert!(found.warnings[0].contains("volumes/out.img leads out of the volumes"));
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let deep = |levels: usize| format!("volumes/{}x.img", "d/".repeat(levels));
        let dir = place(&[&deep(8), &deep(9)]);
        let found = find(dir.path(), 24);
        assert_eq!(names(&dir, &found), [deep(8)]);
        assert!(found.warnings[0].contains("8 directories deep"), "{:?}", found.warnings);
        let many: Vec<String> = (0..9).map(|n| format!("volumes/{n}.img")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(find(place(&many).path(), 4).disks.len(), 5, "one too many is seen");
    }
}

//! The only opener of files that an image names: read-only, regular files, and nothing outside the
//! directories the user has given, whatever `..` and symbolic links say.
//!
//! The image directory is Berth's, so everything in it may be a base. The directory a user keeps a
//! base in may be a home directory: there only the files beside it may be, not all that is below.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use devices::block::{BackingFile, BackingResolver, ResolveError};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Opens backing files below its roots.
pub struct Beneath {
    roots: Vec<Root>,
}

struct Root {
    /// A directory's real path.
    path: PathBuf,
    /// Only the files in it, not those in its subdirectories.
    flat: bool,
}

impl Root {
    /// The way from here to `path`, if it may be gone.
    fn way<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let relative = path.strip_prefix(&self.path).ok()?;
        (!self.flat || relative.components().count() == 1).then_some(relative)
    }
}

/// Why a backing file is not opened.
#[derive(Debug, thiserror::Error)]
pub enum BeneathError {
    /// Not a path.
    #[error("it names no file; use `qemu-img rebase -u -b PATH` to name one")]
    NotAPath,
    /// It leads out of the roots.
    #[error(
        "it leads to {}, outside of {roots}; move it there and name it with `qemu-img rebase -u`",
        path.display()
    )]
    Outside {
        /// Where it leads.
        path: PathBuf,
        /// The directories it may be in.
        roots: String,
    },
    /// A directory, a device, a FIFO.
    #[error("{} is not a regular file", .0.display())]
    Kind(PathBuf),
    /// The system refuses.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Beneath {
    /// A resolver for files anywhere below `tree`, and for those in each of `beside`. A directory
    /// that does not exist allows nothing.
    pub fn new<'a>(tree: Option<&'a Path>, beside: impl IntoIterator<Item = &'a Path>) -> Self {
        let tree = tree.into_iter().map(|path| (path, false));
        let all = tree.chain(beside.into_iter().map(|path| (path, true)));
        let roots = all
            .filter_map(|(path, flat)| Some(Root { path: path.canonicalize().ok()?, flat }))
            .collect();
        Self { roots }
    }

    /// Opens the file that `image` calls `backing`; answers its path too.
    ///
    /// # Errors
    /// See [`BeneathError`].
    pub fn open(&self, image: &Path, backing: &str) -> Result<(File, PathBuf), BeneathError> {
        // QEMU reads `nbd:...`, `json:{...}` and `http://...` as protocols, not paths. `./a:b` is
        // a path.
        let before_slash = backing.split('/').next().unwrap_or_default();
        if backing.is_empty() || backing.contains('\0') || before_slash.contains(':') {
            return Err(BeneathError::NotAPath);
        }
        let directory = image.parent().filter(|dir| !dir.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let directory = directory
            .canonicalize()
            .map_err(|source| BeneathError::Open { path: directory.to_owned(), source })?;
        let path = normal(&directory.join(backing));
        for root in &self.roots {
            if let Some(relative) = root.way(&path) {
                match open_beneath(&root.path, relative) {
                    Ok(file) => return checked(file, path),
                    // A link that leads out of this root may lead into another.
                    Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {}
                    Err(source) => return Err(BeneathError::Open { path, source }),
                }
            }
        }
        // An absolute path may go through a link into a root, as /var/run does.
        let real = path.canonicalize().ok().filter(|real| *real != path);
        let found = real.as_ref().and_then(|real| {
            self.roots.iter().find_map(|root| Some((real, root, root.way(real)?)))
        });
        if let Some((real, root, relative)) = found {
            let file = open_beneath(&root.path, relative)
                .map_err(|source| BeneathError::Open { path: real.clone(), source })?;
            return checked(file, real.clone());
        }
        let roots: Vec<String> =
            self.roots.iter().map(|root| root.path.display().to_string()).collect();
        Err(BeneathError::Outside { path, roots: roots.join(" and ") })
    }
}

impl BackingResolver for Beneath {
    fn resolve(&self, image: &str, backing: &str) -> Result<BackingFile, ResolveError> {
        let (file, path) = self.open(Path::new(image), backing)?;
        Ok(BackingFile { file, name: path.display().to_string(), format: None })
    }
}

fn checked(file: File, path: PathBuf) -> Result<(File, PathBuf), BeneathError> {
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok((file, path)),
        Ok(_) => Err(BeneathError::Kind(path)),
        Err(source) => Err(BeneathError::Open { path, source }),
    }
}

/// Opens `relative` below `root`. EXDEV: it leads out.
fn open_beneath(root: &Path, relative: &Path) -> io::Result<File> {
    // Not to wait for the writer of a FIFO, which is refused later.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    let directory = File::open(root)?;
    match openat2(&directory, relative, how) {
        Ok(fd) => Ok(fd.into()),
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(Errno::ENOSYS | Errno::EPERM) => open_checked(root, relative),
        Err(error) => Err(error.into()),
    }
}

/// The same by comparing real paths: enough against images, though not against somebody who
/// changes the directory meanwhile.
fn open_checked(root: &Path, relative: &Path) -> io::Result<File> {
    let real = fs::canonicalize(root.join(relative))?;
    if !real.starts_with(root) {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(real)
}

/// `path` without `.` and `..`, by its text alone.
fn normal(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            part => clean.push(part),
        }
    }
    clean
}

/// How the header of an image in `directory` names `base`: relatively where one of the two is
/// below the other's directory, else absolutely. Both are real paths.
pub fn backing_name(directory: &Path, base: &Path) -> Option<String> {
    let parent = base.parent()?;
    let relative = if let Ok(below) = base.strip_prefix(directory) {
        below.to_owned()
    } else if let Some(deeper) =
        // Everything is below `/`, and that makes no tree.
        directory.strip_prefix(parent).ok().filter(|_| parent.parent().is_some())
    {
        let up: PathBuf = deeper.components().map(|_| "..").collect();
        up.join(base.file_name()?)
    } else {
        base.to_owned()
    };
    let text = relative.to_str()?;
    // Not to be taken for a protocol.
    let colon = text.split('/').next().unwrap_or_default().contains(':');
    Some(if colon { format!("./{text}") } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        /// `in/` is a tree, `other/` is flat, `out/` is neither; each has a file called as it is.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["in", "out", "in/sub", "other", "other/sub"] {
                fs::create_dir(dir.path().join(name)).unwrap();
            }
            for name in ["in/in", "in/sub/deep", "out/out", "other/other", "other/sub/secret"] {
                fs::write(dir.path().join(name), name).unwrap();
            }
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().canonicalize().unwrap().join(name)
        }

        fn open(&self, image: &str, backing: &str) -> Result<String, String> {
            let (inside, other) = (self.path("in"), self.path("other"));
            let resolver = Beneath::new(Some(&inside), [other.as_path()]);
            let backing = backing.replace('@', self.path("").to_str().unwrap());
            let opened = resolver.open(&self.path(image), &backing);
            let (mut file, _) = opened.map_err(|error| error.to_string())?;
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            Ok(text)
        }
    }

    #[test]
    fn files_in_the_roots_are_opened() {
        let place = Place::new();
        symlink("sub/deep", place.path("in/link")).unwrap();
        symlink(place.path("other/other"), place.path("in/across")).unwrap();
        for (image, backing, want) in [
            ("in/top", "in", "in/in"),
            ("in/top", "./in", "in/in"),
            ("in/top", "sub/deep", "in/sub/deep"),
            ("in/top", "sub/../in", "in/in"),
            ("in/sub/top", "../in", "in/in"),
            ("in/top", "../other/other", "other/other"),
            ("in/top", "@in/in", "in/in"),
            ("in/top", "link", "in/sub/deep"),
            ("in/top", "across", "other/other"),
        ] {
            assert_eq!(place.open(image, backing).as_deref(), Ok(want), "{backing}");
        }
    }

    #[test]
    fn nothing_leads_out() {
        let place = Place::new();
        symlink("../out/out", place.path("in/relative")).unwrap();
        symlink(place.path("out/out"), place.path("in/absolute")).unwrap();
        symlink(place.path("out"), place.path("in/directory")).unwrap();
        for backing in [
            "../out/out",
            "@out/out",
            "../other/sub/secret",
            "@other/sub/secret",
            "relative",
            "absolute",
            "directory/out",
            "sub/../../out/out",
            "/etc/passwd",
            "../../../../../../../../etc/passwd",
            "/proc/self/exe",
        ] {
            let error = place.open("in/top", backing).unwrap_err();
            assert!(error.contains(", outside of "), "{backing}: {error}");
        }
    }

    #[test]
    fn only_paths_of_regular_files() {
        let place = Place::new();
        let mode = nix::sys::stat::Mode::S_IRWXU;
        nix::unistd::mkfifo(&place.path("in/fifo"), mode).unwrap();
        for backing in ["", "nbd:host:1", "json:{}", "http://x/y", "a\0b"] {
            let error = place.open("in/top", backing).unwrap_err();
            assert!(error.starts_with("it names no file"), "{backing:?}: {error}");
        }
        assert!(place.open("in/top", "fifo").unwrap_err().contains("not a regular file"));
        assert!(place.open("in/top", "sub").unwrap_err().contains("not a regular file"));
        assert!(place.open("in/top", "none").unwrap_err().contains("cannot be opened"));
    }

    #[test]
    fn without_openat2_the_real_path_decides() {
        let place = Place::new();
        symlink("../out/out", place.path("in/bad")).unwrap();
        let root = place.path("in");
        assert!(open_checked(&root, Path::new("sub/deep")).is_ok());
        let error = open_checked(&root, Path::new("bad")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
    }

    #[test]
    fn names_are_relative_within_a_tree() {
        for (directory, base, want) in [
            ("/d", "/d/base", "base"),
            ("/d", "/d/sub/base", "sub/base"),
            ("/d/vms/a", "/d/base", "../../base"),
            ("/d", "/e/base", "/e/base"),
            ("/d", "/d/a:b", "./a:b"),
            ("/d/e", "/d/a:b", "../a:b"),
            ("/data", "/base", "/base"),
        ] {
            let name = backing_name(Path::new(directory), Path::new(base));
            assert_eq!(name.as_deref(), Some(want), "{directory} {base}");
        }
    }
}

//! `--web-root`: the files of noVNC, which the page loads. Nothing outside of that directory can be
//! had: the path is of harmless names only, and the kernel resolves it beneath the open directory
//! (openat2(2), RESOLVE_BENEATH), symbolic links included.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// The largest file: noVNC's largest has 300 KB.
const FILE_MAX: u64 = 2 << 20;

/// What is served, by the end of the name.
const TYPES: [(&str, &str); 4] = [
    (".js", "text/javascript; charset=utf-8"),
    (".css", "text/css; charset=utf-8"),
    (".svg", "image/svg+xml"),
    (".png", "image/png"),
];

/// The directory, if it is there.
#[derive(Debug)]
pub struct WebRoot(Option<OwnedFd>);

impl WebRoot {
    /// Opens it.
    pub fn open(path: &Path) -> Self {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty());
        if let Err(error) = &root {
            log::debug!("noVNC is not served: {} cannot be opened: {error}", path.display());
        }
        Self(root.ok())
    }

    /// The file `name`, a relative path, with its media type. `None`: there is none that is served.
    pub fn file(&self, name: &str) -> Option<(&'static str, Vec<u8>)> {
        let root = self.0.as_ref()?;
        let kind = TYPES.iter().find(|(end, _)| name.ends_with(end)).map(|(_, kind)| *kind)?;
        let harmless = |part: &str| {
            part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && part.bytes().next().is_some_and(|first| first != b'.')
        };
        if !name.split('/').all(harmless) {
            return None;
        }
        // Not blocking, should somebody have put a FIFO there.
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = File::from(openat2(root, name, how).ok()?);
        let about = file.metadata().ok()?;
        if !about.is_file() || about.len() > FILE_MAX {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
        Some((kind, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_what_is_beneath_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("core/dir.js")).unwrap();
        fs::write(root.join("core/rfb.js"), "rfb").unwrap();
        fs::write(root.join("core/.hidden.js"), "no").unwrap();
        fs::write(root.join("core/secret.txt"), "no").unwrap();
        fs::write(dir.path().join("outside.js"), "no").unwrap();
        symlink("rfb.js", root.join("core/link.js")).unwrap();
        symlink("../../outside.js", root.join("core/out.js")).unwrap();
        symlink(dir.path().join("outside.js"), root.join("core/absolute.js")).unwrap();
        symlink("/proc/self/fd/0", root.join("core/magic.js")).unwrap();
        nix::unistd::mkfifo(&root.join("core/fifo.js"), Mode::S_IRWXU).unwrap();
        let web = WebRoot::open(&root);
        let (kind, bytes) = web.file("core/rfb.js").expect("it is there");
        assert_eq!((kind, bytes.as_slice()), ("text/javascript; charset=utf-8", &b"rfb"[..]));
        assert!(web.file("core/link.js").is_some());
        for name in [
            "",
            "/",
            "core",
            "core/",
            "core//rfb.js",
            "/core/rfb.js",
            "./core/rfb.js",
            "core/./rfb.js",
            "../outside.js",
            "core/../../outside.js",
            "core/..%2f..%2foutside.js",
            "core/out.js",
            "core/absolute.js",
            "core/magic.js",
            "core/fifo.js",
            "core/dir.js",
            "core/.hidden.js",
            "core/secret.txt",
            "core/none.js",
            "core/rfb.js\0",
            "core\\rfb.js",
        ] {
            assert!(web.file(name).is_none(), "{name:?}");
        }
        fs::write(root.join("big.js"), vec![b' '; (FILE_MAX + 1) as usize]).unwrap();
        assert!(web.file("big.js").is_none());
        assert!(WebRoot::open(&dir.path().join("none")).file("core/rfb.js").is_none());
    }
}

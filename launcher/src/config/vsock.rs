//! The sockets between host and guest, as `--vsock` describes them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use devices::virtio::vsock::{CID_MAX, CID_MIN};

use super::value::{Wrong, number, wrong};
use super::{ConfigError, Layers, parse};
use crate::args;

/// The longest path: with `_` and the longest port behind it, it has to fit into a socket's address.
const PATH_MAX: usize = 107 - "_4294967295".len();

/// A socket whose other end is the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vsock {
    /// Where programs connect; absolute.
    pub path: PathBuf,
    /// The guest's context id.
    pub cid: u32,
}

/// What was asked for; `None`: nothing.
///
/// # Errors
/// [`ConfigError`].
pub fn config(layers: &Layers, control: Option<&Path>) -> Result<Option<Vsock>, ConfigError> {
    let vsock = parse(layers, args::VSOCK, |text| vsock(text).and_then(place))?;
    let same = |path: &Path| std::path::absolute(path).ok();
    if let Some(vsock) = &vsock
        && control.and_then(same).as_ref() == Some(&vsock.path)
    {
        return Err(ConfigError::Together(format!(
            "--vsock and --control both name {}; give each a path of its own",
            vsock.path.display()
        )));
    }
    Ok(vsock)
}

/// `PATH[,cid=N]`.
fn vsock(text: &str) -> Result<Vsock, Wrong> {
    let mut parts = text.split(',');
    let path = parts.next().unwrap_or_default();
    if path.is_empty() {
        return wrong("names no socket", "write PATH, or PATH,cid=N");
    }
    let mut cid = None;
    for part in parts {
        match part.split_once('=') {
            Some(("cid", _)) if cid.is_some() => {
                return wrong("has the option cid twice", "give it once");
            }
            Some(("cid", value)) => {
                let read = number(value, CID_MIN.into(), CID_MAX.into());
                let read =
                    read.map_err(|(problem, fix)| (format!("has {part}, which {problem}"), fix));
                cid = Some(u32::try_from(read?).unwrap_or(CID_MAX));
            }
            _ => return wrong(format!("has the unknown option `{part}`"), "the option is cid=N"),
        }
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    Ok(Vsock { path, cid: cid.unwrap_or(CID_MIN) })
}

/// Whether there can be a socket at its path.
fn place(vsock: Vsock) -> Result<Vsock, Wrong> {
    let length = vsock.path.as_os_str().as_bytes().len();
    if length > PATH_MAX {
        let problem = format!("is a path of {length} bytes, and {PATH_MAX} are possible");
        return wrong(problem, "give a shorter one");
    }
    if !vsock.path.parent().is_some_and(Path::is_dir) || vsock.path.file_name().is_none() {
        return wrong("is in no directory that is there", "make the directory first");
    }
    match fs::symlink_metadata(&vsock.path) {
        Ok(about) if !about.file_type().is_socket() => {
            wrong("is there, and is no socket", "remove it, or give another path")
        }
        _ => Ok(vsock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options() {
        let plain = Vsock { path: "/run/v".into(), cid: 3 };
        assert_eq!(vsock("/run/v"), Ok(plain.clone()));
        assert_eq!(vsock("/run/v,cid=3"), Ok(plain.clone()));
        assert_eq!(vsock("/run/v,cid=4294967294"), Ok(Vsock { cid: u32::MAX - 1, ..plain }));
        assert!(vsock("v").unwrap().path.is_absolute());
        for (text, part) in [
            ("", "names no socket"),
            (",cid=3", "names no socket"),
            ("/v,cid=2", "is not a whole number from 3 to 4294967294"),
            ("/v,cid=4294967295", "is not a whole number"),
            ("/v,cid=", "is not a whole number"),
            ("/v,cid=3,cid=4", "has the option cid twice"),
            ("/v,cid", "has the unknown option `cid`"),
            ("/v,port=3", "has the unknown option `port=3`"),
        ] {
            let (problem, _) = vsock(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn its_place() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| place(Vsock { path: dir.path().join(name), cid: 3 });
        assert!(at("new").is_ok());
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("old")).unwrap());
        assert!(at("old").is_ok());
        fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("old", dir.path().join("link")).unwrap();
        for name in ["file", "link"] {
            assert!(at(name).unwrap_err().0.contains("is no socket"), "{name}");
        }
        assert!(at("none/v").unwrap_err().0.contains("no directory"));
        assert!(at("file/v").unwrap_err().0.contains("no directory"));
        let long = "x".repeat(PATH_MAX - dir.path().as_os_str().len() - 1);
        assert!(at(&long).is_ok());
        assert!(at(&format!("{long}x")).unwrap_err().0.contains("97 bytes, and 96 are possible"));
    }
}

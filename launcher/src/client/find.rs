//! Which machine is meant, and a connection to its control socket.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::ClientError;
use crate::api::place;
use crate::args::CONTROL;
use crate::args::control::Which;

/// Connects to the machine that is meant.
///
/// # Errors
/// There is none, or there are several.
pub fn connect(which: &Which) -> Result<UnixStream, ClientError> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let path = which.control.clone();
    let path = path.or_else(|| match which.name {
        None => variable(CONTROL.env).map(PathBuf::from),
        Some(_) => None,
    });
    if let Some(path) = path {
        return UnixStream::connect(&path).map_err(|error| no_answer(&path, &error));
    }
    Search { directories: place::directories(variable), variable }.connect(which.name.as_deref())
}

fn no_answer(path: &Path, error: &io::Error) -> ClientError {
    let path = path.display();
    ClientError(match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("no machine runs with the control socket {path}; start one with berth run")
        }
        _ => format!("the control socket {path} cannot be used: {error}"),
    })
}

/// Where to look.
struct Search<V> {
    directories: Vec<PathBuf>,
    variable: V,
}

impl<V: Fn(&str) -> Option<OsString>> Search<V> {
    fn connect(&self, name: Option<&str>) -> Result<UnixStream, ClientError> {
        let named = match name {
            Some(name) => Some(name.to_owned()),
            None => {
                (self.variable)("HOSTNAME").and_then(|name| name.into_string().ok()).or_else(|| {
                    Some(fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned())
                })
            }
        };
        // In a directory that others can write, a socket could be anybody's.
        let usable = self.directories.iter().filter(|directory| place::is_own(directory).is_ok());
        let usable: Vec<&PathBuf> = usable.collect();
        if let Some(named) = named.filter(|name| !name.contains('/')) {
            for directory in &usable {
                let path = directory.join(place::file_name(&named));
                match UnixStream::connect(&path) {
                    Ok(stream) => return Ok(stream),
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::NotFound | ErrorKind::ConnectionRefused
                        ) => {}
                    Err(error) => return Err(no_answer(&path, &error)),
                }
            }
        }
        if let Some(name) = name {
            return Err(self.nothing(&format!("no machine named {name} runs here for this user")));
        }
        self.only_one(&usable)
    }

    /// The one machine that runs.
    fn only_one(&self, usable: &[&PathBuf]) -> Result<UnixStream, ClientError> {
        let entries = usable.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let sockets = paths.filter(|path| path.extension().is_some_and(|end| end == "sock"));
        let mut running: Vec<(String, UnixStream)> = sockets
            .filter_map(|path| {
                let name = path.file_stem()?.to_string_lossy().into_owned();
                Some((name, UnixStream::connect(&path).ok()?))
            })
            .collect();
        match (running.pop(), running.is_empty()) {
            (None, _) => Err(self.nothing("no machine runs here for this user")),
            (Some((_, stream)), true) => Ok(stream),
            (Some((name, _)), false) => {
                let mut names: Vec<String> = running.into_iter().map(|(name, _)| name).collect();
                names.push(name);
                names.sort();
                Err(ClientError(format!(
                    "several machines run here: {}; say which with --name",
                    names.join(", ")
                )))
            }
        }
    }

    fn nothing(&self, what: &str) -> ClientError {
        let places: Vec<String> =
            self.directories.iter().map(|place| place.display().to_string()).collect();
        ClientError(format!(
            "{what} (there is no control socket in {}); start one with berth run, or give the path \
             of its socket with --control",
            places.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn by_name_by_host_name_or_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        place::prepare(&own).unwrap();
        let search = |host: &'static str| Search {
            directories: vec![dir.path().join("none"), own.clone()],
            variable: move |name: &str| (name == "HOSTNAME").then(|| host.into()),
        };
        let told = |name, host| search(host).connect(name).map(drop).map_err(|e| e.to_string());
        let error = told(Some("a"), "h").unwrap_err();
        assert!(
            error.starts_with("no machine named a runs here for this user (there is no"),
            "{error}"
        );
        assert!(told(None, "h").unwrap_err().starts_with("no machine runs here for this user ("));

        let a = UnixListener::bind(own.join("a.sock")).unwrap();
        assert_eq!(told(Some("a"), "h"), Ok(()));
        assert_eq!(told(None, "h"), Ok(()), "it is the only one");
        assert!(told(Some("b"), "h").is_err(), "who is named is meant");
        assert!(told(Some("../own/a"), "h").is_err());
        let _b = UnixListener::bind(own.join("b.sock")).unwrap();
        assert_eq!(
            told(None, "h").unwrap_err(),
            "several machines run here: a, b; say which with --name"
        );
        assert_eq!(told(None, "b"), Ok(()), "the host's name comes first");
        // One that was killed leaves its socket, which nobody answers on.
        drop(a);
        assert_eq!(told(None, "h"), Ok(()));
        assert!(told(Some("a"), "h").is_err());
    }
}

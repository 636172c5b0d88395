//! Where the control socket is: decided here for both ends, so that `berth status` finds what
//! `berth run` has made.
//!
//! `NAME.sock`, in the first of these directories that can be used: `$XDG_RUNTIME_DIR/berth`,
//! `/run/berth`, `/tmp/berth-UID`. The last may be made by anybody, so it counts only if it belongs
//! to this user, and to nobody else.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// The name of a machine's socket.
pub fn file_name(machine: &str) -> String {
    format!("{machine}.sock")
}

/// The directories, in order.
pub fn directories(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let own = runtime.map(|dir| dir.join("berth"));
    let last = PathBuf::from(format!("/tmp/berth-{}", geteuid()));
    own.into_iter().chain([PathBuf::from("/run/berth"), last]).collect()
}

/// Makes `directory` for this user alone, if it is not there.
///
/// # Errors
/// It cannot be made, or belongs to others too.
pub fn prepare(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    is_own(directory)
}

/// Sees that `directory` is one, and that nobody else can put anything there.
///
/// # Errors
/// It is not there, or others can.
pub fn is_own(directory: &Path) -> io::Result<()> {
    let about = directory.symlink_metadata()?;
    if about.is_dir() && about.uid() == geteuid().as_raw() && about.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::PermissionDenied, "it belongs to others too"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_users_own_directory_comes_first() {
        let with = |value: &'static str| {
            directories(move |name| (name == "XDG_RUNTIME_DIR").then(|| value.into()))
        };
        assert_eq!(with("/run/user/7")[0], Path::new("/run/user/7/berth"));
        let last = PathBuf::from(format!("/tmp/berth-{}", geteuid()));
        assert_eq!(with("relative"), [PathBuf::from("/run/berth"), last]);
        assert_eq!(file_name("web-1"), "web-1.sock");
    }

    #[test]
    fn a_directory_of_others_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        prepare(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
        prepare(&own).unwrap();
        symlink(&own, dir.path().join("link")).unwrap();
        assert!(prepare(&dir.path().join("link")).is_err());
        fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
        assert!(prepare(&own).is_err());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(prepare(&dir.path().join("file")).is_err());
        assert!(prepare(&dir.path().join("none/deep")).is_err());
    }
}

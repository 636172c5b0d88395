//! The socket that programs of this host reach the guest through, bound before there is a machine: what
//! is wrong with it refuses to start. The device serves it.

use std::io;
use std::path::PathBuf;

use vmm::config::VsockConfig;

use crate::config::Vsock;
use crate::unix_socket::{BindError, Bound};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// Another process answers on it.
    #[error("the socket {} is in use; give this machine another path with --vsock", .0.display())]
    InUse(PathBuf),
    /// Something else has its name.
    #[error("{} is there, and is no socket; remove it, or give another path with --vsock", .0.display())]
    NoSocket(PathBuf),
    /// It cannot be made.
    #[error("the socket {} cannot be made; give a path that this user can write with --vsock", path.display())]
    Make {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Binds the socket, and describes the device that is to serve it. What is bound keeps the name until
/// it is dropped, whether the device is still there or not.
///
/// # Errors
/// [`VsockError`].
pub fn bind(wanted: &Vsock) -> Result<(Bound, VsockConfig), VsockError> {
    let path = &wanted.path;
    let make = |source: io::Error| VsockError::Make { path: path.clone(), source };
    let bound = Bound::at(path).map_err(|error| match error {
        BindError::InUse => VsockError::InUse(path.clone()),
        BindError::NoSocket => VsockError::NoSocket(path.clone()),
        BindError::Make(source) => make(source),
    })?;
    let listener = bound.listener.try_clone().map_err(make)?;
    Ok((bound, VsockConfig { cid: wanted.cid, listener, path: path.clone() }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn it_is_this_user_s_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Vsock { path: dir.path().join("v"), cid: 5 };
        let (socket, config) = bind(&wanted).unwrap();
        assert_eq!((config.cid, socket.name.path()), (5, wanted.path.as_path()));
        assert_eq!(fs::metadata(&wanted.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&wanted), Err(VsockError::InUse(_))));
        // The name is kept from others even when the machine has ended already.
        drop(config);
        assert!(matches!(bind(&wanted), Err(VsockError::InUse(_))));
        drop(socket);
        assert!(!wanted.path.exists());
    }

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Vsock { path: dir.path().join("v"), cid: 3 };
        drop(UnixListener::bind(&wanted.path).unwrap());
        let (socket, _config) = bind(&wanted).unwrap();
        UnixStream::connect(&wanted.path).unwrap();
        drop(socket);
        fs::write(&wanted.path, "mine").unwrap();
        let error = bind(&wanted).unwrap_err();
        assert!(matches!(error, VsockError::NoSocket(_)), "{error}");
        assert_eq!(fs::read(&wanted.path).unwrap(), b"mine");
        let nowhere = Vsock { path: dir.path().join("no/v"), cid: 3 };
        assert!(matches!(bind(&nowhere), Err(VsockError::Make { .. })));
    }
}

//! A listening Unix socket with a name of its own in the file system, which only this user may connect
//! to: its mode, 0600, is there before its name is. The name goes when it is dropped.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

/// Why there is none.
#[derive(Debug)]
pub enum BindError {
    /// Another process answers on it.
    InUse,
    /// Something else has its name.
    NoSocket,
    /// What the system says.
    Make(io::Error),
}

/// The socket, bound.
#[derive(Debug)]
pub struct Bound {
    /// Goes first: what has no listener is stale, and may be another's by the time it is removed.
    pub name: Name,
    /// The socket, which does not wait.
    pub listener: UnixListener,
}

/// Its name, removed when this is dropped.
#[derive(Debug)]
pub struct Name(PathBuf);

impl Name {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Whoever has removed it before meant it.
        let _ = fs::remove_file(&self.0);
    }
}

impl Bound {
    /// Binds a socket at `path`. One that nobody answers on is replaced.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn at(path: &Path) -> Result<Self, BindError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(parent.unwrap_or(Path::new("."))).map_err(BindError::Make)?;
        // Two that find the same stale socket would replace each other's: one at a time.
        directory.lock().map_err(BindError::Make)?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(BindError::Make(error)),
            Ok(about) if !about.file_type().is_socket() => return Err(BindError::NoSocket),
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(BindError::Make)?;
                }
                // It may answer, or be too busy to, or be another user's.
                Ok(_) => return Err(BindError::InUse),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(BindError::InUse);
                }
                Err(error) => return Err(BindError::Make(error)),
            },
        }
        let listener = listener(path).map_err(BindError::Make)?;
        Ok(Self { name: Name(path.to_owned()), listener })
    }
}

/// A listening socket that was never anybody else's: its mode is set before it has a name.
fn listener(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(16)?)?;
    Ok(UnixListener::from(fd))
}

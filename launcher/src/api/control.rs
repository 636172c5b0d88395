//! The control socket: the same interface on a Unix socket of this host, without a password. Its
//! mode, 0600, says who may use it. Runs the thread `control`, and one for each connection.
//!
//! [`Control::bind`] comes before the machine, so that what is wrong refuses to start;
//! [`Control::serve`] after. The socket is there from the one to the drop of what it became.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::event::{Event, wait_readable};
use devices::thread::{self, Thread};
use devices::worker::Worker;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::origin::Origin;
use super::{Api, serve};

/// Connections at once.
const CONNECTIONS_MAX: usize = 32;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process answers on it.
    #[error(
        "the control socket {} is in use: a machine of this name runs already; stop it, or give \
         this one another --name or --control", .0.display()
    )]
    InUse(PathBuf),
    /// Something else has its name.
    #[error("{} is there, and is no socket; remove it, or give another path with --control", .0.display())]
    NoSocket(PathBuf),
    /// It cannot be made.
    #[error("the control socket {} cannot be made; give a path of at most 107 bytes that this user can write with --control", path.display())]
    Make {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The socket, bound. It is removed when this is dropped.
#[derive(Debug)]
pub struct Control {
    /// Goes first: what has no listener is stale, and may be another's by the time it is removed.
    path: Name,
    listener: UnixListener,
}

/// The socket's name, removed when this is dropped.
#[derive(Debug)]
struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // Whoever has removed it before meant it.
        let _ = fs::remove_file(&self.0);
    }
}

impl Control {
    /// Binds the socket at `path`. One that nobody answers on is replaced.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let make = |source: io::Error| ControlError::Make { path: path.to_owned(), source };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(parent.unwrap_or(Path::new("."))).map_err(make)?;
        // Two that find the same stale socket would replace each other's: one at a time.
        directory.lock().map_err(make)?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(make(error)),
            Ok(about) if !about.file_type().is_socket() => {
                return Err(ControlError::NoSocket(path.to_owned()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(make)?;
                }
                // It may answer, or be too busy to, or be another user's.
                Ok(_) => return Err(ControlError::InUse(path.to_owned())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(ControlError::InUse(path.to_owned()));
                }
                Err(error) => return Err(make(error)),
            },
        }
        let listener = listener(path).map_err(make)?;
        Ok(Self { listener, path: Name(path.to_owned()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path.0
    }

    /// Serves `api` on it.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn serve(self, api: Arc<Api>) -> io::Result<Served> {
        let Self { listener, path } = self;
        let served = Arc::clone(&api);
        let body = move |stop: &Event| accept(&listener, &served, stop);
        let worker = Worker::spawn("control", || (), body)?;
        Ok(Served { _path: path, api, _worker: worker })
    }
}

/// The socket, served. Dropping it closes the whole interface, and waits for its connections here.
pub struct Served {
    /// Goes first, so that nobody connects who is not served.
    _path: Name,
    api: Arc<Api>,
    _worker: Worker<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.api.close();
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

/// Accepts until told to stop, then waits for the connections that are left.
fn accept(listener: &UnixListener, api: &Arc<Api>, stop: &Event) {
    let mut connections: Vec<Thread<()>> = Vec::new();
    loop {
        match wait_readable([Some(stop.as_fd()), Some(listener.as_fd())], None) {
            Ok([false, _]) => {}
            Ok([true, _]) => break,
            Err(error) => {
                log::error!("the control socket is not served any more: {error}");
                break;
            }
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => {
                log::debug!("a connection to the control socket failed: {error}");
                // Out of descriptors: the same would fail at once again.
                if matches!(wait_readable([Some(stop.as_fd())], Some(100)), Ok([true])) {
                    break;
                }
                continue;
            }
        };
        connections.retain(|connection| !connection.handle().is_finished());
        if connections.len() >= CONNECTIONS_MAX || stream.set_nonblocking(true).is_err() {
            // Closed unanswered: more than this is a mistake of whoever asks.
            continue;
        }
        let api = Arc::clone(api);
        let run = move || serve(Box::new(stream), Vec::new(), Origin::Control, &api);
        match thread::start("control-conn", run) {
            Ok(connection) => connections.push(connection),
            Err(error) => log::warn!("a connection to the control socket is not served: {error}"),
        }
    }
    api.close();
    for connection in connections {
        // A panic in it has been reported.
        let _ = connection.join();
    }
}

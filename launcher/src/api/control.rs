//! The control socket: the same interface on a Unix socket of this host, without a password. Its
//! mode, 0600, says who may use it. Runs the thread `control`, and one for each connection.
//!
//! [`Control::bind`] comes before the machine, so that what is wrong refuses to start;
//! [`Control::serve`] after. The socket is there from the one to the drop of what it became.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::event::{Event, wait_readable};
use devices::thread::{self, Thread};
use devices::worker::Worker;

use super::origin::Origin;
use super::{Api, serve};
use crate::unix_socket::{BindError, Bound, Name};

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
pub struct Control(Bound);

impl Control {
    /// Binds the socket at `path`. One that nobody answers on is replaced.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let bound = Bound::at(path).map_err(|error| match error {
            BindError::InUse => ControlError::InUse(path.to_owned()),
            BindError::NoSocket => ControlError::NoSocket(path.to_owned()),
            BindError::Make(source) => ControlError::Make { path: path.to_owned(), source },
        })?;
        Ok(Self(bound))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.name.path()
    }

    /// Serves `api` on it.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn serve(self, api: Arc<Api>) -> io::Result<Served> {
        let Self(Bound { name, listener }) = self;
        let served = Arc::clone(&api);
        let body = move |stop: &Event| accept(&listener, &served, stop);
        let worker = Worker::spawn("control", || (), body)?;
        Ok(Served { _name: name, api, _worker: worker })
    }
}

/// The socket, served. Dropping it closes the whole interface, and waits for its connections here.
pub struct Served {
    /// Goes first, so that nobody connects who is not served.
    _name: Name,
    api: Arc<Api>,
    _worker: Worker<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.api.close();
    }
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

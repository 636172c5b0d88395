//! One at a time: whoever sets up or takes down a network holds this lock of its namespace.
//!
//! The lock is an abstract Unix socket's name (unix(7)). Those belong to the network namespace,
//! exactly what is to be guarded, wherever `/run` may be another's or read-only, and the name goes
//! with a process that is killed.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread::sleep;
use std::time::{Duration, Instant};

const NAME: &str = "berth-network";
/// How long another may take to set up its network; a neighbour's hardware address takes the most.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// The lock, held until it is dropped.
pub struct Lock {
    _name: UnixListener,
}

/// Waits for the lock.
///
/// # Errors
/// Somebody holds it for too long, or what the system says.
pub fn take() -> io::Result<Lock> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(name) => return Ok(Lock { _name: name }),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
            Err(_) if Instant::now() >= deadline => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("a process here has held the Unix socket @{NAME} for too long"),
                ));
            }
            Err(_) => sleep(PAUSE),
        }
    }
}

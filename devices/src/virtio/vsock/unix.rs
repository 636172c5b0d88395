//! The host's side: a Unix socket that programs connect to, those that the guest's connections are
//! connected to, and the line that a program says first.
//!
//! ```text
//! program → device   CONNECT 1234\n
//! device → program   OK 1073741824\n    or the end, when the guest does not want it
//! ```
//! No call here waits: a socket whose queue of newcomers is full counts as one where nobody listens.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};

/// The longest line that a program may begin with, in bytes: `CONNECT`, a number, and some blanks.
const LINE_MAX: usize = 32;

/// What the device has of the host: it opens nothing else.
#[derive(Debug)]
pub struct Sockets {
    listener: UnixListener,
    path: PathBuf,
}

impl Sockets {
    /// The socket `listener`, and those whose paths are `path` with `_` and a port at its end.
    ///
    /// # Errors
    /// The listener cannot be told not to wait.
    pub fn new(listener: UnixListener, path: PathBuf) -> io::Result<Sockets> {
        listener.set_nonblocking(true)?;
        Ok(Sockets { listener, path })
    }

    /// Readable when a program wants to connect.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The next program that wants to; `None`: there is none now.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            return match self.listener.accept() {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => Ok(None),
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => continue,
                    _ => Err(error),
                },
            };
        }
    }

    /// Connects to whoever listens for the guest's connections to `port`.
    ///
    /// # Errors
    /// Nobody does, or has too much to do.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let mut path: OsString = self.path.clone().into();
        path.push(format!("_{port}"));
        connect(fd.as_raw_fd(), &UnixAddr::new(path.as_os_str())?)?;
        Ok(UnixStream::from(fd))
    }
}

/// Takes bytes that have come; `Ok(0)`: the other side sends no more.
///
/// # Errors
/// [`ErrorKind::WouldBlock`]: none have; else the connection is broken.
pub fn receive(stream: &UnixStream, into: &mut [u8]) -> io::Result<usize> {
    retry(|| recv(stream.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT))
}

/// Gives as many bytes as are taken.
///
/// # Errors
/// [`ErrorKind::WouldBlock`]: none are taken now; else none will be.
pub fn give(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    retry(|| send(stream.as_raw_fd(), bytes, flags))
}

fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome.map_err(io::Error::from),
        }
    }
}

/// A program that has connected, and is yet to say where to.
#[derive(Debug)]
pub struct Greeting {
    /// Its connection.
    pub stream: UnixStream,
    line: Vec<u8>,
}

/// What was made of a program's first words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It has not finished.
    More,
    /// It wants to be connected to this port.
    Port(u32),
    /// It has gone, or wants something else.
    Nonsense,
}

impl Greeting {
    /// Of a connection of which nothing was read.
    pub fn new(stream: UnixStream) -> Greeting {
        Greeting { stream, line: Vec::new() }
    }

    /// Reads on, to the end of the line and no further: what follows is for the guest.
    pub fn hear(&mut self) -> Heard {
        let mut seen = [0; LINE_MAX];
        let room = LINE_MAX.saturating_sub(self.line.len());
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let fd = self.stream.as_raw_fd();
        let count = match retry(|| recv(fd, &mut seen[..room], flags)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Heard::More,
            Ok(0) | Err(_) => return Heard::Nonsense,
            Ok(count) => count,
        };
        let end = seen[..count].iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(count, |end| end + 1);
        // What was seen is there.
        if !matches!(receive(&self.stream, &mut seen[..taken]), Ok(count) if count == taken) {
            return Heard::Nonsense;
        }
        self.line.extend_from_slice(&seen[..taken]);
        match end {
            Some(_) => port(&self.line).map_or(Heard::Nonsense, Heard::Port),
            None if self.line.len() < LINE_MAX => Heard::More,
            None => Heard::Nonsense,
        }
    }
}

/// The port in `CONNECT PORT`.
fn port(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let asked = words.next().is_some_and(|word| word.eq_ignore_ascii_case("connect"));
    let port = words.next()?.parse().ok()?;
    (asked && words.next().is_none()).then_some(port)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_line_names_a_port() {
        for (line, want) in [
            ("CONNECT 1234\n", Some(1234)),
            ("connect 0\r\n", Some(0)),
            ("  CONNECT   4294967295 \n", Some(u32::MAX)),
            ("CONNECT 4294967296\n", None),
            ("CONNECT -1\n", None),
            ("CONNECT\n", None),
            ("CONNECT 1 2\n", None),
            ("CONNECTED 1\n", None),
            ("GET / HTTP/1.1\r\n", None),
            ("\n", None),
        ] {
            assert_eq!(port(line.as_bytes()), want, "{line:?}");
        }
        assert_eq!(port(b"CONNECT \xff\n"), None);
    }

    #[test]
    fn a_line_may_come_in_pieces_and_what_follows_stays() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut greeting = Greeting::new(near);
        assert_eq!(greeting.hear(), Heard::More);
        for byte in b"CONNECT 77" {
            far.write_all(&[*byte]).unwrap();
            assert_eq!(greeting.hear(), Heard::More);
        }
        far.write_all(b"\nhello\n").unwrap();
        assert_eq!(greeting.hear(), Heard::Port(77));
        let mut rest = [0; 6];
        greeting.stream.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello\n");
    }

    #[test]
    fn a_line_has_an_end() {
        for first in [&[b' '; LINE_MAX + 9][..], b"CONNECT x\n", b"\xff\xfe\n"] {
            let (near, mut far) = UnixStream::pair().unwrap();
            far.write_all(first).unwrap();
            assert_eq!(Greeting::new(near).hear(), Heard::Nonsense);
        }
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert_eq!(Greeting::new(near).hear(), Heard::Nonsense);
    }

    #[test]
    fn nobody_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let sockets = Sockets::new(UnixListener::bind(&path).unwrap(), path.clone()).unwrap();
        assert!(sockets.accept().unwrap().is_none());
        assert!(sockets.connect(7).is_err(), "nobody listens");
        let listener = UnixListener::bind(dir.path().join("v_7")).unwrap();
        let near = sockets.connect(7).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert_eq!(give(&near, b"x").unwrap(), 1);
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        let error = receive(&near, &mut byte).unwrap_err();
        assert_eq!((byte[0], error.kind()), (b'x', ErrorKind::WouldBlock));
        drop(far);
        assert_eq!(receive(&near, &mut byte).unwrap(), 0);
        // No signal, only an error.
        assert_eq!(give(&near, b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}

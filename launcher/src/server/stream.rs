//! A connection as those see it who speak over it: TCP, TLS and WebSocket look alike.
//!
//! `flush` fails with [`std::io::ErrorKind::WouldBlock`] while bytes that were taken wait inside;
//! the descriptor then has to become writable before it is tried again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// A connection: non-blocking reads and writes (io::ErrorKind::WouldBlock), and what to poll.
pub trait Stream: Read + Write + Send {
    /// What to poll.
    fn fd(&self) -> BorrowedFd<'_>;
    /// True while bytes already received wait inside (TLS, WebSocket), which poll does not show.
    fn has_buffered(&self) -> bool;
}

impl Stream for TcpStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn has_buffered(&self) -> bool {
        false
    }
}

impl Stream for UnixStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn has_buffered(&self) -> bool {
        false
    }
}

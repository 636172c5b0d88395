//! The HTTP and WebSocket parsers at a hostile client's bytes: no panic, one meaning for a request
//! however it is cut, and bounded memory. An input's last byte says which: a run of requests, or
//! frames that arrive in pieces.
#![no_main]

// The launcher is a program, not a library: these modules of it stand alone.
#[path = "../../../launcher/src/api"]
#[allow(dead_code)]
mod api {
    pub mod http;
    pub mod websocket;
}
#[path = "../../../launcher/src/server"]
mod server {
    pub mod stream;
}

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use api::http::{BODY_MAX, HEAD_MAX, parse};
use api::websocket::{self, Content, Socket};
use libfuzzer_sys::fuzz_target;
use server::stream::Stream;

/// Requests on one connection, as far as they are requests.
fn requests(mut bytes: &[u8]) {
    while let Ok(Some((request, head))) = parse(bytes) {
        assert!(head <= HEAD_MAX + 2 && head <= bytes.len() && request.body_len <= BODY_MAX);
        assert!(request.path.starts_with('/') && request.path.is_ascii());
        let again = parse(&bytes[..head]);
        assert!(again.is_ok_and(|again| again == Some((request.clone(), head))));
        // Cut anywhere it is no request yet.
        for end in [1, head / 3, head / 2, head - 1] {
            assert_eq!(parse(&bytes[..end.min(head - 1)]), Ok(None));
        }
        let _ = websocket::is_asked_for(&request);
        let _ = websocket::handshake(&request);
        let _ = request.members("sec-websocket-protocol").count();
        bytes = bytes.get(head + request.body_len..).unwrap_or_default();
    }
}

/// Bytes that arrive a few at a time; what is written takes turns at being taken.
struct Wire {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    turn: bool,
}

impl Read for Wire {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.turn = !self.turn;
        if self.turn && self.at < self.bytes.len() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(to.len()).min(self.piece);
        to[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.turn = !self.turn;
        if self.turn { Err(ErrorKind::WouldBlock.into()) } else { Ok(bytes.len().min(self.piece)) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Wire {
    fn fd(&self) -> BorrowedFd<'_> {
        static NULL: OnceLock<File> = OnceLock::new();
        NULL.get_or_init(|| File::open("/dev/null").expect("it is there")).as_fd()
    }

    fn has_buffered(&self) -> bool {
        self.at < self.bytes.len()
    }
}

/// Frames, read as a session reads them, which also writes.
fn frames(bytes: &[u8], how: u8) {
    let content = if how & 2 == 0 { Content::Binary } else { Content::Text };
    let piece = usize::from(how >> 2) + 1;
    let first = bytes.len().min(usize::from(how & 0x0f));
    let wire = Wire { bytes: bytes[first..].to_vec(), at: 0, piece, turn: false };
    let mut socket = Socket::new(Box::new(wire), bytes[..first].to_vec(), content);
    let mut buffer = [0; 64];
    let mut got = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if socket.write(&buffer).is_err_and(|e| e.kind() != ErrorKind::WouldBlock) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    assert!(got <= bytes.len(), "there are more bytes in messages than came");
}

fuzz_target!(|data: &[u8]| {
    match data.split_last() {
        Some((how, bytes)) if how & 1 != 0 => frames(bytes, *how),
        Some((_, bytes)) => requests(bytes),
        None => {}
    }
});

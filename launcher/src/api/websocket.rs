//! WebSocket (RFC 6455), server side: the handshake's answer, and the connection after it as a
//! [`Stream`]. Frames, masks and control messages are tungstenite's.
//!
//! What is written goes out as one message a call, at most [`CHUNK`] bytes; a message that the socket
//! has no room for waits inside, and nothing more is taken until it is gone. So: `flush` until it is
//! no longer `WouldBlock`, with `poll` for writing in between. What is read is the messages' content,
//! without their bounds. Runs on the thread of its connection.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;

use data_encoding::BASE64;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::http::{Request, Response};
use crate::server::stream::Stream;

/// The most bytes of a message sent.
pub const CHUNK: usize = 32 << 10;
/// The most bytes of a message received: more than any that RFB or a console has a use for.
const MESSAGE_MAX: usize = 1 << 20;
/// What is read of the socket at once.
const READ: usize = 8 << 10;

/// What frames carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes.
    Binary,
    /// Text: what is no UTF-8 becomes U+FFFD. For clients that are people.
    Text,
}

/// Whether `request` asks for a WebSocket.
pub fn is_asked_for(request: &Request) -> bool {
    request.has_member("upgrade", "websocket") && request.has_member("connection", "upgrade")
}

/// Whether the client names the subprotocol `binary`, as older ones do.
pub fn wants_binary(request: &Request) -> bool {
    request.members("sec-websocket-protocol").any(|name| name == "binary")
}

/// The answer to a handshake (RFC 6455 §4.2).
///
/// # Errors
/// The answer to what is not one.
pub fn handshake(request: &Request) -> Result<Response, Box<Response>> {
    if request.field("sec-websocket-version") != Some("13") {
        let response = Response::line(426, "this server speaks version 13 of WebSocket");
        return Err(Box::new(response.with("Sec-WebSocket-Version", "13")));
    }
    let key = request.field("sec-websocket-key").unwrap_or_default();
    if BASE64.decode(key.as_bytes()).map(|key| key.len()) != Ok(16) {
        return Err(Box::new(Response::line(400, "Sec-WebSocket-Key is not 16 bytes in Base64")));
    }
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let response = Response::upgrade("websocket").with("Sec-WebSocket-Accept", accept);
    Ok(match wants_binary(request) {
        true => response.with("Sec-WebSocket-Protocol", "binary"),
        false => response,
    })
}

/// A WebSocket as a stream of bytes.
pub struct Socket {
    socket: WebSocket<Box<dyn Stream>>,
    content: Content,
    /// What has been received and not been read.
    inbox: Vec<u8>,
    /// How much of `inbox` has been read.
    read: usize,
    /// Nothing waits in the library.
    drained: bool,
    /// Something waits to be sent.
    unsent: bool,
    /// The beginning of a character whose rest was not written yet.
    cut: Vec<u8>,
}

impl Socket {
    /// The connection after its handshake was answered; `first` of it has been read already.
    pub fn new(stream: Box<dyn Stream>, first: Vec<u8>, content: Content) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        let socket = WebSocket::from_partially_read(stream, first, Role::Server, Some(config));
        Self {
            socket,
            content,
            inbox: Vec::new(),
            read: 0,
            drained: false,
            unsent: false,
            cut: Vec::new(),
        }
    }

    /// Sends what waits; `WouldBlock`: some of it still does.
    fn unblock(&mut self) -> io::Result<()> {
        if self.unsent {
            self.socket.flush().map_err(fault)?;
            self.unsent = false;
        }
        Ok(())
    }

    /// `bytes` as text, without a character at its end that is not whole yet.
    fn text(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.cut);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let unfinished = chunks.peek().is_none()
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if unfinished {
                self.cut = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }
}

/// What went wrong, as a stream says it.
fn fault(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => ErrorKind::BrokenPipe.into(),
        error => io::Error::new(ErrorKind::InvalidData, error),
    }
}

impl Read for Socket {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.inbox.len() <= self.read {
            self.drained = false;
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.inbox = bytes.into(),
                Ok(Message::Text(text)) => self.inbox = text.as_bytes().to_vec(),
                // The library answers what needs an answer.
                Ok(_) => continue,
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(0),
                Err(error) => {
                    let error = fault(error);
                    self.drained = error.kind() == ErrorKind::WouldBlock;
                    return match error.kind() {
                        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => Ok(0),
                        _ => Err(error),
                    };
                }
            }
            self.read = 0;
        }
        let rest = self.inbox.get(self.read..).unwrap_or_default();
        let count = rest.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.read = self.read.saturating_add(count);
        if self.read >= self.inbox.len() {
            // A message of a megabyte is not kept for its room.
            self.inbox = Vec::new();
            self.read = 0;
        }
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unblock()?;
        let bytes = bytes.get(..bytes.len().min(CHUNK)).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(0);
        }
        let message = match self.content {
            Content::Binary => Message::binary(bytes.to_vec()),
            Content::Text => match self.text(bytes) {
                text if text.is_empty() => return Ok(bytes.len()),
                text => Message::text(text),
            },
        };
        self.unsent = true;
        // What cannot be sent at once has been taken all the same.
        match self.socket.write(message).map_err(fault).and_then(|()| self.unblock()) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unblock()
    }
}

impl Stream for Socket {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().fd()
    }

    fn has_buffered(&self) -> bool {
        // What the library has read cannot be seen: only its `WouldBlock` says that it is nothing.
        !self.drained || self.socket.get_ref().has_buffered()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // As far as there is room for it; a client that is gone misses nothing.
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::parse;
    use std::os::unix::net::UnixStream;

    fn pair(content: Content) -> (Socket, WebSocket<UnixStream>) {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let client = WebSocket::from_raw_socket(there, Role::Client, None);
        (Socket::new(Box::new(here), Vec::new(), content), client)
    }

    fn blocks(result: io::Result<usize>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn the_answer_of_the_rfc() {
        let ask = |fields: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            let request = parse(text.as_bytes()).unwrap().unwrap().0;
            handshake(&request).map_err(|response| response.status)
        };
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        let response = ask(&format!("Sec-WebSocket-Version: 13\r\n{key}")).unwrap();
        assert_eq!(response.fields[1].1, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.fields.len(), 2);
        let with =
            format!("Sec-WebSocket-Version: 13\r\n{key}\r\nSec-WebSocket-Protocol: a, binary");
        assert_eq!(ask(&with).unwrap().fields[2], ("Sec-WebSocket-Protocol", "binary".to_owned()));
        assert_eq!(ask(&format!("Sec-WebSocket-Version: 8\r\n{key}")), Err(426));
        assert_eq!(ask(key), Err(426));
        assert_eq!(ask("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: abc"), Err(400));
        assert_eq!(ask("Sec-WebSocket-Version: 13"), Err(400));
    }

    #[test]
    fn messages_become_bytes_and_bytes_messages() {
        let (mut socket, mut client) = pair(Content::Binary);
        let mut buffer = [0; 4];
        assert!(socket.has_buffered(), "nobody knows yet");
        assert!(blocks(socket.read(&mut buffer)));
        assert!(!socket.has_buffered());
        client.send(Message::binary(b"abcdef".to_vec())).unwrap();
        client.send(Message::Ping(vec![7].into())).unwrap();
        client.send(Message::text("gh")).unwrap();
        assert_eq!((socket.read(&mut buffer).unwrap(), &buffer), (4, b"abcd"));
        assert!(socket.has_buffered());
        assert_eq!((socket.read(&mut buffer).unwrap(), &buffer[..2]), (2, &b"ef"[..]));
        assert_eq!((socket.read(&mut buffer).unwrap(), &buffer[..2]), (2, &b"gh"[..]));
        assert!(blocks(socket.read(&mut buffer)));
        assert!(!socket.has_buffered());
        socket.write_all(b"RFB 003.008\n").unwrap();
        assert_eq!(client.read().unwrap(), Message::Pong(vec![7].into()));
        assert_eq!(client.read().unwrap(), Message::binary(b"RFB 003.008\n".to_vec()));
        client.close(None).unwrap();
        assert_eq!(socket.read(&mut buffer).unwrap(), 0);
        assert_eq!(socket.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn what_was_read_before_is_not_lost() {
        let (here, mut there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        // A masked binary frame of two bytes (RFC 6455 §5.2), cut in two.
        let frame = [0x82, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
        let mut socket = Socket::new(Box::new(here), frame[..5].to_vec(), Content::Binary);
        let mut buffer = [0; 4];
        assert!(blocks(socket.read(&mut buffer)));
        there.write_all(&frame[5..]).unwrap();
        assert_eq!((socket.read(&mut buffer).unwrap(), &buffer[..2]), (2, &b"hi"[..]));
    }

    #[test]
    fn a_client_that_does_not_read_stops_the_flow_and_loses_nothing() {
        let (mut socket, mut client) = pair(Content::Binary);
        let chunk: Vec<u8> = (0..CHUNK).map(|n| n as u8).collect();
        let mut sent = 0;
        while let Ok(count) = socket.write(&chunk) {
            sent += count;
            assert!(sent < 64 << 20, "it must block");
        }
        assert!(blocks(socket.write(b"x")) && socket.flush().is_err());
        let mut got = Vec::new();
        while got.len() < sent {
            let message = client.read().unwrap().into_data();
            got.extend_from_slice(&message);
            let _ = socket.flush();
        }
        assert!(got.chunks(CHUNK).all(|part| part == chunk) && got.len() == sent);
        socket.flush().unwrap();
    }

    #[test]
    fn text_is_text_wherever_it_is_cut() {
        let (mut socket, mut client) = pair(Content::Text);
        for byte in "a\u{e4}\u{20ac}".bytes().chain([0xff, 0xe2, b'z', 0xc3]) {
            assert_eq!(socket.write(&[byte]).unwrap(), 1);
        }
        let mut text = String::new();
        while !text.ends_with('z') {
            text.push_str(client.read().unwrap().to_text().unwrap());
        }
        assert_eq!(text, "a\u{e4}\u{20ac}\u{fffd}\u{fffd}z");
    }

    #[test]
    fn hostile_frames_end_the_connection() {
        for frame in [
            // Not masked.
            &[0x82, 2, b'h', b'i'][..],
            // A reserved bit; an unknown opcode; a continuation of nothing.
            &[0xc2, 0x80, 0, 0, 0, 0],
            &[0x83, 0x80, 0, 0, 0, 0],
            &[0x80, 0x80, 0, 0, 0, 0],
            // A length of 2^63, and one over the limit.
            &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0, 0],
            // A ping of 126 bytes; text that is no UTF-8.
            &[&[0x89, 0xfe, 0, 126][..], &[0; 130]].concat(),
            &[0x81, 0x81, 0, 0, 0, 0, 0xff],
        ] {
            let (here, _there) = UnixStream::pair().unwrap();
            here.set_nonblocking(true).unwrap();
            let mut socket = Socket::new(Box::new(here), frame.to_vec(), Content::Binary);
            let error = socket.read(&mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{frame:?}: {error}");
        }
    }
}

//! One HTTP request over a Unix socket, and its answer (RFC 9112). For talking to our own server
//! only: an answer has a Content-Length, and comes in one piece.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::ClientError;

/// The most bytes of an answer's head.
const HEAD_MAX: usize = 16 << 10;
/// The most bytes of an answer: a large screen.
const BODY_MAX: usize = 256 << 20;
/// How long the machine's process may take for anything.
const PATIENCE: Duration = Duration::from_secs(15);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body; after an upgrade, what has been read of what follows.
    pub body: Vec<u8>,
}

/// Asks, and reads the answer.
///
/// # Errors
/// There is no answer, or none that is understood.
pub fn send(
    mut stream: UnixStream,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<Reply, ClientError> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (mut reply, length) = exchange(&mut stream, &[head.as_bytes(), body].concat())?;
    if length > BODY_MAX {
        return Err(ClientError("the answer is too large".to_owned()));
    }
    while reply.body.len() < length {
        more(&mut stream, &mut reply.body)?;
    }
    reply.body.truncate(length);
    Ok(reply)
}

/// Sends `request`, and reads the head of the answer; answers the length of its body, too.
///
/// # Errors
/// There is no answer, or none that is understood.
pub fn exchange(stream: &mut UnixStream, request: &[u8]) -> Result<(Reply, usize), ClientError> {
    let patience = Some(PATIENCE);
    stream
        .set_read_timeout(patience)
        .and_then(|()| stream.set_write_timeout(patience))
        .and_then(|()| stream.write_all(request))
        .map_err(|error| ClientError(format!("the machine cannot be asked: {error}")))?;
    let mut bytes = Vec::new();
    loop {
        if let Some((mut reply, length, head)) = parse(&bytes)? {
            reply.body = bytes.split_off(head);
            return Ok((reply, length));
        }
        if bytes.len() > HEAD_MAX {
            return Err(strange());
        }
        more(stream, &mut bytes)?;
    }
}

fn strange() -> ClientError {
    ClientError("what answers on the control socket is no machine of Berth's".to_owned())
}

fn more(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> Result<(), ClientError> {
    let mut chunk = [0; 16 << 10];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => {
                let gone = "the machine ends, or has too many connections: it gives no answer";
                return Err(ClientError(gone.to_owned()));
            }
            Ok(count) => {
                bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ClientError(
                    "the machine does not answer: it may be on its way to start, as while its image is \
                     fetched"
                        .to_owned(),
                ));
            }
            Err(error) => return Err(ClientError(format!("there is no answer: {error}"))),
        }
    }
}

/// The head that `bytes` begin with, the length of the body, and where that begins.
fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize, usize)>, ClientError> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(strange()),
    };
    let status = response.code.unwrap_or_default();
    let length =
        response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| str::from_utf8(field.value).ok()?.trim().parse().ok());
    match (status, length) {
        (101, None) => Ok(Some((Reply { status, body: Vec::new() }, 0, head))),
        (_, Some(length)) => Ok(Some((Reply { status, body: Vec::new() }, length, head))),
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn answered(answer: &'static [u8]) -> Result<Reply, String> {
        let (here, mut there) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            let mut chunk = [0; 1024];
            let _ = there.read(&mut chunk).unwrap();
            for byte in answer {
                // A client that has heard enough does not listen to the end.
                let _ = there.write_all(&[*byte]);
            }
        });
        let reply = send(here, "GET", "/x", b"").map_err(|error| error.to_string());
        server.join().unwrap();
        reply
    }

    #[test]
    fn answers_whole_and_cut_and_none() {
        let reply = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!(reply, Reply { status: 200, body: b"hi".to_vec() });
        let cut = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi").unwrap_err();
        assert!(cut.starts_with("the machine ends, or has too many"), "{cut}");
        assert!(answered(b"").unwrap_err().starts_with("the machine ends, or has too many"));
        for strange in [
            &b"RFB 003.008\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        ] {
            assert!(answered(strange).unwrap_err().contains("no machine of Berth's"));
        }
    }
}

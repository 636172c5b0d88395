//! `berth console`: the terminal joined to the serial console, until the user leaves or the machine
//! ends. Output on the main thread, input on `console-in`, signals on `signals`.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use super::{ClientError, find, request};
use crate::api::CONSOLE_UPGRADE;
use crate::args::control::Which;
use crate::signals::Signals;
use crate::terminal::{Input, InputTo, RawMode, Wish};

const GREETING: &str = "serial console; Ctrl-] then q leaves, Ctrl-] then ? helps";
const HELP: &str = "Ctrl-] then q: leave, the machine goes on; Ctrl-] twice: one Ctrl-] for the \
                    guest; everything else is the guest's";

/// Attaches.
///
/// # Errors
/// There is no machine, or it refuses, or standard output does.
pub fn attach(which: &Which) -> Result<(), ClientError> {
    let failed = |error: io::Error| ClientError(format!("the console cannot be joined: {error}"));
    // Before there are other threads; and so that the terminal is given back.
    let signals = Signals::block().map_err(failed)?;
    let mut stream = find::connect(which)?;
    let first = upgrade(&mut stream)?;
    let end = stream.try_clone().map_err(failed)?;
    let _watch = signals.watch(move |_| drop(end.shutdown(Shutdown::Both))).map_err(failed)?;
    let raw = RawMode::enter(io::stdin()).map_err(failed)?;
    if raw.is_some() {
        say(GREETING);
    }
    let input = input(&stream, raw.is_some()).map_err(failed)?;
    let outcome = carry(stream, &first);
    drop(input);
    drop(raw);
    outcome
}

/// Makes the connection a console; answers what has been read of it already.
fn upgrade(stream: &mut UnixStream) -> Result<Vec<u8>, ClientError> {
    let ask = format!(
        "GET /console HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {CONSOLE_UPGRADE}\r\n\r\n"
    );
    let (reply, _) = request::exchange(stream, ask.as_bytes())?;
    if reply.status != 101 {
        let line = String::from_utf8_lossy(&reply.body);
        let line = line.lines().next().unwrap_or("the machine refuses");
        return Err(ClientError(line.to_owned()));
    }
    let unlimited = stream.set_read_timeout(None);
    unlimited.map_err(|error| ClientError(format!("the console cannot be joined: {error}")))?;
    Ok(reply.body)
}

/// Carries what is typed to the guest.
fn input(stream: &UnixStream, escape: bool) -> io::Result<Input> {
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (to, leave) = (stream.try_clone()?, stream.try_clone()?);
    let guest = move |bytes: &[u8]| {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(to.as_raw_fd(), bytes, flags) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            // It has ended: what is still typed goes nowhere.
            Err(_) => bytes.len(),
        }
    };
    let wish = move |wish| match wish {
        Wish::Help => say(HELP),
        Wish::Quit => drop(leave.shutdown(Shutdown::Both)),
    };
    Input::start(stdin, InputTo { guest: Box::new(guest), wish: Box::new(wish), escape })
}

/// Carries what the guest says to standard output.
fn carry(mut stream: UnixStream, first: &[u8]) -> Result<(), ClientError> {
    let failed = |error| ClientError(format!("standard output cannot be written: {error}"));
    let mut out = io::stdout().lock();
    out.write_all(first).and_then(|()| out.flush()).map_err(failed)?;
    let mut chunk = [0; 16 << 10];
    loop {
        let count = match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // However it went away.
            Err(_) => return Ok(()),
        };
        let bytes = chunk.get(..count).unwrap_or_default();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(failed)?;
    }
}

/// A word of Berth's own, amid the guest's.
fn say(line: &str) {
    // A standard error that is closed hears nothing.
    let _ = write!(io::stderr(), "\r\n[berth: {line}]\r\n");
}

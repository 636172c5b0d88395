//! `berth status`, `console`, `screenshot`, `power` and `health`: the other end of the control
//! socket. [`find`] the machine, [`request`] something of it, or [`attach`] to its console. On the
//! main thread.

mod attach;
mod find;
mod request;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::api::Power;
use crate::api::status::Status;
use crate::args::control::{
    ConsoleArgs, Form, HealthArgs, PowerArgs, Press, ScreenshotArgs, StatusArgs, Which,
};
use crate::exit;
use request::Reply;

/// Why there is no answer: a sentence for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(String);

/// `berth status`.
pub fn status(args: &StatusArgs) -> u8 {
    outcome(ask(&args.which, "GET", "/status", b"").and_then(|reply| match args.output {
        Form::Json => print(&reply.body),
        Form::Text => {
            let status: Status = serde_json::from_slice(&reply.body).map_err(|error| {
                ClientError(format!("the answer is not understood ({error}); try -o json"))
            })?;
            print(status.to_text().as_bytes())
        }
    }))
}

/// `berth console`.
pub fn console(args: &ConsoleArgs) -> u8 {
    outcome(attach::attach(&args.which))
}

/// `berth screenshot`.
pub fn screenshot(args: &ScreenshotArgs) -> u8 {
    outcome(ask(&args.which, "GET", "/screenshot.png", b"").and_then(|reply| {
        if args.file == Path::new("-") {
            return print(&reply.body);
        }
        fs::write(&args.file, &reply.body).map_err(|error| {
            ClientError(format!("{} cannot be written: {error}", args.file.display()))
        })
    }))
}

/// `berth power`.
pub fn power(args: &PowerArgs) -> u8 {
    let (button, word) = match args.button {
        Press::Button => (Power::Button, "button"),
        Press::Off => (Power::Off, "off"),
        Press::Reset => (Power::Reset, "reset"),
    };
    debug_assert_eq!(Power::from_word(word), Some(button));
    outcome(ask(&args.which, "POST", "/power", word.as_bytes()).map(drop))
}

/// `berth health`.
pub fn health(args: &HealthArgs) -> u8 {
    let path = if args.ready { "/readyz" } else { "/healthz" };
    outcome(ask(&args.which, "GET", path, b"").and_then(|reply| print(&reply.body)))
}

/// Asks the machine for something, and takes nothing but that for an answer.
fn ask(which: &Which, method: &str, path: &str, body: &[u8]) -> Result<Reply, ClientError> {
    let stream = find::connect(which)?;
    let reply = request::send(stream, method, path, body)?;
    if (200..300).contains(&reply.status) {
        return Ok(reply);
    }
    let line = String::from_utf8_lossy(&reply.body);
    Err(ClientError(line.lines().next().unwrap_or("the machine refuses").to_owned()))
}

fn print(bytes: &[u8]) -> Result<(), ClientError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| ClientError(format!("standard output cannot be written: {error}")))
}

fn outcome(outcome: Result<(), ClientError>) -> u8 {
    match outcome {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("berth error: {error}");
            exit::ERROR
        }
    }
}

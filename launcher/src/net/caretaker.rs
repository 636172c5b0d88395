//! Who takes a network's changes back when the process itself may not any more.
//!
//! To change links, rules and filters takes `NET_ADMIN`, of whoever opened the netlink socket *and*
//! of whoever sends (netlink_capable(9)): a socket that is left open from before is not enough. No
//! thread of a machine's process keeps that capability. So a process of its own does, `berth
//! caretaker`, started while the capability is there. It is told what to do at once, has nothing to
//! do with the guest or with anybody else, and waits on a pipe:
//!
//! ```text
//! machine → caretaker   the charge, as JSON on one line; at the end a line "end"
//! caretaker → machine   a line "ready"; at the end a line for each thing that went wrong
//! ```
//!
//! If the machine's process dies without the last word nothing is taken back, as without a
//! caretaker: whoever starts next in this place replaces what is left, and must not lose its own.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use serde::{Deserialize, Serialize};

use super::netlink::Netlink;
use super::undo::{Undo, Undoing};
use crate::exit;
use crate::sandbox::{self, capabilities};

/// How long it may take to stand, and to take everything back: another may hold the lock for a
/// while.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most that is read of what it says, in bytes.
const REPORT_MAX: u64 = 64 << 10;
/// The longest charge, in bytes.
const CHARGE_MAX: u64 = 64 << 10;

/// What is to be taken back.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Charge {
    /// The machine's taps.
    pub own: Vec<String>,
    /// The changes, in the order in which they were made.
    pub changes: Vec<Undoing>,
}

/// A caretaker that stands by. Dropping it has it take back its charge, and waits for that.
pub struct Caretaker {
    tell: ChildStdin,
    hear: BufReader<std::process::ChildStdout>,
    _process: Child,
}

impl Caretaker {
    /// Starts one with this charge, and waits until it stands by.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(charge: &Charge) -> io::Result<Caretaker> {
        let mut process = Command::new("/proc/self/exe")
            .arg("caretaker")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A terminal's Ctrl-C is for the machine.
            .process_group(0)
            .spawn()?;
        let gone = || io::Error::other("its pipes are gone");
        let tell = process.stdin.take().ok_or_else(gone)?;
        let hear = process.stdout.take().ok_or_else(gone)?;
        let mut caretaker = Caretaker { tell, hear: BufReader::new(hear), _process: process };
        let mut line = serde_json::to_vec(charge).map_err(io::Error::other)?;
        line.push(b'\n');
        caretaker.tell.write_all(&line)?;
        let said = caretaker.line(Instant::now() + PATIENCE)?;
        if said == "ready" {
            return Ok(caretaker);
        }
        Err(io::Error::other(if said.is_empty() { "it has ended".to_owned() } else { said }))
    }

    /// The next line that it says, without its end; empty: there is none.
    fn line(&mut self, deadline: Instant) -> io::Result<String> {
        if self.hear.buffer().is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.hear.get_ref().as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout)? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let mut line = String::new();
        // It writes whole lines.
        (&mut self.hear).take(REPORT_MAX).read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Caretaker {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let told = self.tell.write_all(b"end\n");
        let heard = told.and_then(|()| {
            loop {
                let line = self.line(deadline)?;
                match line.split_once(' ') {
                    None => return Ok(()),
                    Some(("INFO", text)) => log::info!("{text}"),
                    Some((_, text)) => log::warn!("{text}"),
                }
            }
        });
        if let Err(error) = heard {
            log::warn!("the network was not taken back: {error}");
        }
    }
}

/// `berth caretaker`: the other end. Answers the exit status.
pub fn run() -> u8 {
    match serve() {
        Ok(()) => exit::OK,
        Err(error) => {
            println!("it cannot stand by: {error}");
            exit::ERROR
        }
    }
}

fn serve() -> io::Result<()> {
    // It ends when it is told to, not with whoever else is signalled.
    SigSet::all().thread_block()?;
    let mut machine = io::stdin().lock();
    let mut charge = String::new();
    (&mut machine).take(CHARGE_MAX).read_line(&mut charge)?;
    let Charge { own, changes } = serde_json::from_str(&charge)?;
    let mut undo = Undo::inherit(Netlink::open()?, own, changes);
    capabilities::keep_net_admin().map_err(io::Error::other)?;
    sandbox::confine_caretaker().map_err(io::Error::other)?;
    log::set_logger(&Lines).map_err(io::Error::other)?;
    log::set_max_level(LevelFilter::Info);
    println!("ready");
    let mut word = String::new();
    machine.take(16).read_line(&mut word)?;
    if word != "end\n" {
        undo.forget();
    }
    drop(undo);
    Ok(())
}

/// Tells the machine's process what would be in a log, a line each.
struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string().replace('\n', " ");
            // Nobody may be there any more.
            let _ = writeln!(io::stdout(), "{} {text}", record.level());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_the_same_at_the_other_end() {
        let charge = Charge {
            own: vec!["berth-0".to_owned()],
            changes: vec![
                Undoing::Table("berth".to_owned()),
                Undoing::Forwarding("eth0".to_owned()),
                Undoing::Sysctl { path: "/proc/sys/net/x".into(), value: "0".to_owned() },
                Undoing::Filters { link: "eth0".to_owned(), made: true },
            ],
        };
        let line = serde_json::to_string(&charge).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Charge>(&line).unwrap(), charge);
    }
}

//! The serial console's way out: standard output, and what is remembered, for the report and for
//! consoles that are attached later.
//!
//! The guest's bytes go through a [`Spool`] and a [`History`] as they are: the guest never waits for
//! whoever reads them. The way in is in `terminal.rs`. Called from vCPU threads.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use devices::serial::Console;

use crate::history::History;
use crate::sandbox;
use logging::spool::Spool;

/// What may wait for a slow reader.
const CAPACITY: usize = 256 << 10;
/// What the report may have of it.
const TAIL: usize = 8 << 10;

/// The console.
pub struct SerialConsole {
    /// `None`: the output is only remembered.
    out: Option<Spool>,
    history: Arc<History>,
}

impl SerialConsole {
    /// A console on standard output.
    ///
    /// # Errors
    /// Standard output is closed, or no thread could be started.
    pub fn on_stdout() -> io::Result<Self> {
        Self::on_file(io::stdout().as_fd().try_clone_to_owned()?.into())
    }

    /// A console on `file`.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn on_file(file: File) -> io::Result<Self> {
        let notice = |dropped| format!("\r\n[berth: {dropped} bytes of console dropped]\r\n");
        let out = Spool::start("console-out", file, CAPACITY, notice, sandbox::confine)?;
        Ok(Self { out: Some(out), history: Arc::default() })
    }

    /// A console that is only remembered.
    pub fn silent() -> Self {
        Self { out: None, history: Arc::default() }
    }

    /// The last `count` lines, at most 8 KiB, without control characters.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let tail = self.history.last(TAIL);
        let text = String::from_utf8_lossy(&tail).into_owned();
        let clean = |line: &str| plain(line).trim_end().to_owned();
        let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.is_empty()).collect();
        lines.into_iter().rev().take(count).rev().collect()
    }

    /// What is remembered, to be followed.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Bytes that found no room.
    pub fn dropped(&self) -> u64 {
        self.out.as_ref().map_or(0, Spool::lost)
    }

    /// Writes out what is left, waiting at most `patience`.
    pub fn finish(&self, patience: Duration) {
        if let Some(out) = &self.out {
            out.finish(patience);
        }
    }
}

impl Console for SerialConsole {
    fn write(&self, bytes: &[u8]) {
        self.history.write(bytes);
        if let Some(out) = &self.out {
            out.push(bytes);
        }
    }
}

/// `line` without control characters and without the sequences that steer a terminal (ECMA-48
/// §5.4: CSI, parameters, a final byte from `@` to `~`).
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            }
            chars.next();
        } else if !c.is_control() || c == '\t' {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    #[test]
    fn a_blocked_reader_never_blocks_the_guest() {
        let (mut read, write) = std::io::pipe().unwrap();
        let console = SerialConsole::on_file(OwnedFd::from(write).into()).unwrap();
        let line = [b'.'; 63];
        let start = Instant::now();
        for _ in 0..50_000 {
            console.write(&line);
            console.write(b"\n");
        }
        console.write(b"the end\n");
        assert!(start.elapsed() < Duration::from_secs(20));
        let dropped = console.dropped();
        assert!(dropped > 1 << 20, "{dropped}");
        // The report has what the reader has missed.
        assert_eq!(console.last_lines(1), ["the end"]);
        console.finish(Duration::from_millis(10));
        drop(console);
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("bytes of console dropped]"));
        assert!(text.len() < CAPACITY + (256 << 10), "{}", text.len());
    }

    #[test]
    fn bytes_pass_unchanged() {
        let (mut read, write) = std::io::pipe().unwrap();
        let console = SerialConsole::on_file(OwnedFd::from(write).into()).unwrap();
        let all: Vec<u8> = (0..=255).collect();
        console.write(&all);
        console.finish(Duration::from_secs(20));
        drop(console);
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, all);
    }

    #[test]
    fn the_last_lines_are_plain_text() {
        let console = SerialConsole::silent();
        assert_eq!(console.last_lines(3), Vec::<String>::new());
        console.write(b"one\r\n\x1b[0;32m OK \x1b[0m two\x07\r\n\r\n\xff three\x1b[");
        assert_eq!(console.last_lines(2), [" OK  two", "\u{fffd} three"]);
        assert_eq!(console.last_lines(9).len(), 3);
        console.write(&vec![b'x'; 3 * TAIL]);
        assert_eq!(console.last_lines(9), ["x".repeat(TAIL)]);
        console.write(b"\nnew");
        assert_eq!(console.last_lines(1), ["new"]);
    }
}

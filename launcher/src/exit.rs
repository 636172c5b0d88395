//! How a run can end, the exit status of each end, and the report of an unhappy one.
//!
//! | status | end |
//! |---|---|
//! | 0 | the guest powered off, by itself or when asked |
//! | 1 | an error before the machine ran |
//! | 2 | a mistake in flags, environment or configuration; nothing was touched |
//! | 3 | the guest's kernel panicked |
//! | 4 | triple fault |
//! | 5 | the machine could not go on |
//! | 6 | stopped: the guest had not powered off within the stop timeout |
//! | 7 | stopped at once, as asked: by a second request, or `berth power off` |
//! | 8 | a thread made a system call that the sandbox forbids it |
//! | 101 | a bug in Berth (Rust's status of a panic) |

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// Kubernetes keeps 4096 bytes of a termination message.
const REPORT_BYTES: usize = 4096;

/// Everything went well.
pub const OK: u8 = 0;
/// An error before the machine ran.
pub const ERROR: u8 = 1;
/// A mistake in flags, environment or configuration.
pub const USAGE: u8 = 2;

/// A thread made a system call that the sandbox forbids it.
pub const FORBIDDEN: u8 = 8;

/// How a machine that ran has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered off.
    PoweredOff,
    /// The guest's kernel panicked (pvpanic).
    GuestPanicked,
    /// A vCPU met a fault while it handled a double fault.
    TripleFault,
    /// The machine could not go on; the reason.
    Failed(String),
    /// The stop timeout passed.
    TimedOut(Duration),
    /// A second request came, or one that does not wait.
    StoppedAtOnce,
}

impl Ending {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::PoweredOff => 0,
            Self::GuestPanicked => 3,
            Self::TripleFault => 4,
            Self::Failed(_) => 5,
            Self::TimedOut(_) => 6,
            Self::StoppedAtOnce => 7,
        }
    }

    /// Whether the report has something to say.
    pub fn is_unhappy(&self) -> bool {
        self.status() != 0
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered off"),
            Self::GuestPanicked => f.write_str("the guest's kernel panicked"),
            Self::TripleFault => f.write_str("the guest met a triple fault"),
            Self::Failed(reason) => write!(f, "the machine could not go on: {reason}"),
            Self::TimedOut(timeout) => write!(
                f,
                "the guest did not power off within {} s, and was stopped",
                timeout.as_secs_f64()
            ),
            Self::StoppedAtOnce => f.write_str("stopped at once, as asked"),
        }
    }
}

/// Writes the report: the reason, then as many of the last serial lines as fit, in order.
///
/// # Errors
/// The file cannot be written.
pub fn report(path: &Path, reason: &str, last_lines: &[String]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(report_text(reason, last_lines).as_bytes())
}

fn report_text(reason: &str, last_lines: &[String]) -> String {
    let mut text = String::new();
    push_cut(&mut text, reason, REPORT_BYTES / 2);
    text.push('\n');
    if last_lines.is_empty() {
        return text;
    }
    text.push_str("last lines of the serial console:\n");
    let mut room = REPORT_BYTES - text.len();
    let mut first = last_lines.len();
    for (index, line) in last_lines.iter().enumerate().rev() {
        let Some(left) = room.checked_sub(line.len() + 1) else { break };
        (room, first) = (left, index);
    }
    for line in last_lines.iter().skip(first) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn push_cut(text: &mut String, more: &str, room: usize) {
    let mut end = more.len().min(room);
    while !more.is_char_boundary(end) {
        end -= 1;
    }
    text.push_str(more.get(..end).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Ending> {
        vec![
            Ending::PoweredOff,
            Ending::GuestPanicked,
            Ending::TripleFault,
            Ending::Failed("no room".into()),
            Ending::TimedOut(Duration::from_millis(2500)),
            Ending::StoppedAtOnce,
        ]
    }

    #[test]
    fn statuses_are_the_documented_ones() {
        let statuses: Vec<u8> = all().iter().map(Ending::status).collect();
        assert_eq!(statuses, [0, 3, 4, 5, 6, 7]);
        assert_eq!(all().iter().filter(|ending| !ending.is_unhappy()).count(), 1);
        assert_eq!(
            Ending::TimedOut(Duration::from_millis(2500)).to_string(),
            "the guest did not power off within 2.5 s, and was stopped"
        );
    }

    #[test]
    fn the_report_fits_and_keeps_the_end() {
        assert_eq!(report_text("why", &[]), "why\n");
        let lines: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
        let text = report_text("why", &lines);
        assert!(text.len() <= REPORT_BYTES && text.len() > REPORT_BYTES - 20, "{}", text.len());
        assert!(text.starts_with("why\nlast lines of the serial console:\nline "));
        assert!(text.ends_with("line 998\nline 999\n"));
        let long = "ä".repeat(REPORT_BYTES);
        assert!(report_text(&long, std::slice::from_ref(&long)).len() <= REPORT_BYTES);
    }

    #[test]
    fn the_report_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "x".repeat(9000)).unwrap();
        report(&path, "why", &["last".into()]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "why\nlast lines of the serial console:\nlast\n");
        assert!(report(dir.path(), "why", &[]).is_err());
    }
}

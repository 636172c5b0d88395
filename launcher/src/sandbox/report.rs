//! The report of a forbidden system call: one sentence to the log and to the termination log, and
//! the end of the process.
//!
//! The kernel answers such a call with the signal SIGSYS (seccomp(2), `SECCOMP_RET_TRAP`), in the
//! thread that made it. Its handler may use neither memory nor locks, which that thread may hold: it
//! writes into a buffer of its own, and from there to descriptors that were opened before. What
//! else is in the log's queue is lost.
#![allow(unsafe_code)] // A signal handler reads what the kernel tells, and calls write(2) and _exit(2).

use std::ffi::CStr;
use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::register_signal_handler;

use crate::exit;
use logging::{LogForm, civil};

/// Where the number of the call is in the `siginfo_t` of SIGSYS, in `int`s: after three of them,
/// padding and the call's address (sigaction(2)).
const SI_SYSCALL: usize = 6;
/// The longest line, in bytes.
const LINE: usize = 512;

static TERMINATION_LOG: AtomicI32 = AtomicI32::new(-1);
static JSON: AtomicBool = AtomicBool::new(false);

/// Hears of forbidden calls from now on, and reports them in the log's form.
///
/// # Errors
/// The system refuses.
pub fn listen(form: LogForm) -> Result<(), vmm_sys_util::errno::Error> {
    JSON.store(form == LogForm::Json, Ordering::Relaxed);
    register_signal_handler(libc::SIGSYS, forbidden)
}

/// Reports to the file `path` too. It is opened now, and emptied: what is in it is of a former run.
pub fn also_to(path: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_CLOEXEC);
    match options.open(path) {
        Ok(file) => TERMINATION_LOG.store(file.into_raw_fd(), Ordering::Relaxed),
        Err(error) => log::warn!("{} cannot be written: {error}", path.display()),
    }
}

/// The handler.
extern "C" fn forbidden(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel has passed the address of a whole `siginfo_t`, 128 bytes, on this stack.
    let number = unsafe { info.cast::<c_int>().add(SI_SYSCALL).read() };
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, which there are.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = CStr::from_bytes_until_nul(&name).ok().and_then(|name| name.to_str().ok());
    let name = name.unwrap_or("?");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = Line::default();
    // What does not fit is cut.
    let _ = line.record(JSON.load(Ordering::Relaxed), since, &Sentence { name, number });
    put(libc::STDERR_FILENO, &line);
    let file = TERMINATION_LOG.load(Ordering::Relaxed);
    if file >= 0 {
        let mut line = Line::default();
        let _ = writeln!(line, "{}", Sentence { name, number });
        put(file, &line);
    }
    // SAFETY: it ends the process, and nothing else.
    unsafe { libc::_exit(exit::FORBIDDEN.into()) }
}

fn put(fd: c_int, line: &Line) {
    let bytes = line.bytes();
    // SAFETY: the bytes are initialised and stay; a descriptor that is none is an error, and there is
    // nothing to be done about any.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// What has happened.
struct Sentence<'a> {
    name: &'a str,
    number: c_int,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, number } = self;
        write!(
            f,
            "thread {name} was stopped at system call {number}, which the sandbox forbids it: this \
             is a bug in berth, or somebody has taken it over; report it, and if the machine has to \
             run meanwhile, give --sandbox off"
        )
    }
}

/// A line of text in place.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; LINE], len: 0 }
    }
}

impl Line {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// A record of the log. A thread's name and a number need no escapes.
    fn record(&mut self, json: bool, since: Duration, sentence: &Sentence<'_>) -> fmt::Result {
        if !json {
            self.time(since)?;
            return writeln!(self, " berth error: {sentence}");
        }
        write!(
            self,
            r#"{{"level":"error","message":"{sentence}","target":"berth::sandbox","time":""#
        )?;
        self.time(since)?;
        writeln!(self, r#""}}"#)
    }

    /// RFC 3339, UTC, with milliseconds.
    fn time(&mut self, since_1970: Duration) -> fmt::Result {
        let seconds = since_1970.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let ms = since_1970.subsec_millis();
        write!(self, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let fits = text.len().min(room.len());
        let (Some(to), Some(from)) = (room.get_mut(..fits), text.as_bytes().get(..fits)) else {
            return Err(fmt::Error);
        };
        to.copy_from_slice(from);
        self.len = self.len.saturating_add(fits);
        if fits < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_record_of_the_log() {
        let sentence = Sentence { name: "vcpu0", number: 41 };
        let mut line = Line::default();
        line.record(true, Duration::from_secs(1), &sentence).unwrap();
        let value: serde_json::Value = serde_json::from_slice(line.bytes()).unwrap();
        assert_eq!(value["time"], "1970-01-01T00:00:01.000Z");
        assert_eq!(value["level"], "error");
        assert_eq!(value["message"], sentence.to_string());
        let mut line = Line::default();
        line.record(false, Duration::from_secs(1), &sentence).unwrap();
        let text = String::from_utf8(line.bytes().to_vec()).unwrap();
        assert_eq!(text, format!("1970-01-01T00:00:01.000Z berth error: {sentence}\n"));
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let mut line = Line::default();
        assert!(write!(line, "{:1000}", "x").is_err());
        assert_eq!(line.bytes().len(), LINE);
    }
}

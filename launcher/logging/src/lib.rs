//! Where log records go: standard error, as text or as one JSON object a line.
//!
//! A record is formatted on the thread that made it and handed to a [`Spool`]; nobody waits for
//! whoever reads the log. Records at `info` and above are limited to [`BURST`] at once and
//! [`RATE`] a second, so that a guest that finds a warning to cause cannot fill the log; `debug`
//! and `trace` are for developers, and unlimited.

pub mod spool;

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use spool::Spool;

const CAPACITY: usize = 256 << 10;
/// Records that may come at once.
const BURST: u32 = 500;
/// Records a second that may follow.
const RATE: u32 = 50;
/// Libraries that log what they send and receive: passwords would be among it. They are heard only
/// when something is wrong.
const SECRETIVE: [&str; 3] = ["ureq", "ureq_proto", "rustls"];
/// A longer message is cut.
const MAX_MESSAGE: usize = 8 << 10;

/// How a record looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    /// A line of text.
    Text,
    /// A JSON object on a line.
    Json,
}

struct Sink {
    spool: Arc<Spool>,
    form: LogForm,
    /// A person looks on: the date says nothing new.
    on_terminal: bool,
    bucket: Mutex<Bucket>,
}

/// Writes out what is left when it is dropped.
pub struct LogGuard(Arc<Spool>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        log::logger().flush();
        self.0.finish(Duration::from_secs(2));
    }
}

/// Makes standard error the place of all log records, on a thread that calls `begun` with its name
/// first. Once for a process.
///
/// # Errors
/// No thread could be started, or a sink is there already.
pub fn start(form: LogForm, level: LevelFilter, begun: fn(&str)) -> io::Result<LogGuard> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    let notice = |dropped| format!("berth: {dropped} bytes of log dropped here\n");
    let spool = Arc::new(Spool::start("log", stderr.into(), CAPACITY, notice, begun)?);
    let sink = Sink {
        spool: Arc::clone(&spool),
        form,
        on_terminal: io::stderr().is_terminal(),
        bucket: Mutex::new(Bucket::new(Instant::now())),
    };
    log::set_boxed_logger(Box::new(sink)).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(LogGuard(spool))
}

/// Whether `target` is in the crate of that name.
fn is_of(target: &str) -> impl Fn(&&str) -> bool {
    move |name| target.split("::").next() == Some(*name)
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
            && (metadata.level() <= Level::Warn || !SECRETIVE.iter().any(is_of(metadata.target())))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut suppressed = 0;
        if record.level() <= Level::Info {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            match bucket.take(Instant::now()) {
                Some(count) => suppressed = count,
                None => return,
            }
        }
        if suppressed > 0 {
            let text = format!("{suppressed} messages left out here: too many at once");
            self.emit(Level::Warn, "berth::logging", &text);
        }
        self.emit(record.level(), record.target(), &record.args().to_string());
    }

    fn flush(&self) {
        let suppressed = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).suppressed;
        if suppressed > 0 {
            let text = format!("{suppressed} messages left out at the end: too many at once");
            self.emit(Level::Warn, "berth::logging", &text);
        }
    }
}

impl Sink {
    fn emit(&self, level: Level, target: &str, message: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = format_record(self.form, self.on_terminal, since, level, target, message);
        self.spool.push(line.as_bytes());
    }
}

fn format_record(
    form: LogForm,
    on_terminal: bool,
    since_epoch: Duration,
    level: Level,
    target: &str,
    message: &str,
) -> String {
    let time = timestamp(since_epoch);
    let message = cut(message);
    let level = level.as_str().to_ascii_lowercase();
    match form {
        LogForm::Json => {
            let object = serde_json::json!({
                "time": time, "level": level, "target": target, "message": message,
            });
            format!("{object}\n")
        }
        LogForm::Text => {
            // Control characters in a message, which may hold bytes of the guest's choosing, must
            // neither forge another line nor steer a terminal.
            let mut line = String::with_capacity(message.len() + 40);
            if !on_terminal {
                line.push_str(&time);
                line.push(' ');
            }
            let _ = write!(line, "berth {level}: ");
            for c in message.chars() {
                if c.is_control() {
                    line.extend(c.escape_default());
                } else {
                    line.push(c);
                }
            }
            line.push('\n');
            line
        }
    }
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default()
}

/// RFC 3339, UTC, with milliseconds.
fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let ms = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day counted from 1 January 1970, in the Gregorian calendar.
pub fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 1 March of year 0, so that a leap day is the last of its year: eras of 400
    // years have 146 097 days.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A token bucket.
struct Bucket {
    tokens: f64,
    last: Instant,
    suppressed: u64,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { tokens: f64::from(BURST), last: now, suppressed: 0 }
    }

    /// Whether a record may pass, and how many were held back before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.tokens = passed.mul_add(f64::from(RATE), self.tokens).min(f64::from(BURST));
        if self.tokens < 1.0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(seconds)), want);
        }
        assert!(timestamp(Duration::from_millis(1_234)).ends_with("01.234Z"));
    }

    #[test]
    fn records_are_one_line_whatever_they_say() {
        let now = Duration::from_secs(1);
        let format = |form, terminal| {
            format_record(form, terminal, now, Level::Warn, "vmm::x", "a\nb \u{1b}[2J \"c\" ä")
        };
        let escaped = r#"berth warn: a\nb \u{1b}[2J "c" ä"#;
        assert_eq!(format(LogForm::Text, true), format!("{escaped}\n"));
        let dated = format!("1970-01-01T00:00:01.000Z {escaped}\n");
        assert_eq!(format(LogForm::Text, false), dated);
        let json = format(LogForm::Json, true);
        assert_eq!(json.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["message"], "a\nb \u{1b}[2J \"c\" ä");
        assert_eq!(value["level"], "warn");
        assert_eq!(value["target"], "vmm::x");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let message = "ä".repeat(MAX_MESSAGE);
        assert_eq!(cut(&message).len(), MAX_MESSAGE);
        let odd = format!("x{message}");
        assert_eq!(cut(&odd).len(), MAX_MESSAGE - 1);
    }

    #[test]
    fn a_flood_is_held_back_and_told() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let passed = (0..2000).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!(passed, BURST as usize);
        let later = start + Duration::from_secs(1);
        assert_eq!(bucket.take(later), Some(1500));
        assert_eq!(bucket.take(later), Some(0));
        let passed = (0..100).filter(|_| bucket.take(later).is_some()).count();
        assert!((47..=48).contains(&passed), "{passed}");
    }
}

//! How long work is shown: a bar on a terminal, else a line in the log every few seconds.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines in the log.
const PAUSE: Duration = Duration::from_secs(5);
const MIB: f64 = 1_048_576.0;

/// Shows one piece of work.
pub struct Progress {
    /// What is done to what: "fetching debian-12.qcow2".
    what: String,
    on_terminal: bool,
    bar: Option<ProgressBar>,
    /// When a line was last written, and what had been done then.
    last: (Instant, u64),
}

impl Progress {
    /// Nothing is shown before the first step.
    pub fn new(what: String) -> Self {
        let on_terminal = io::stderr().is_terminal();
        Self { what, on_terminal, bar: None, last: (Instant::now(), 0) }
    }

    /// `done` bytes of `total` are there.
    pub fn step(&mut self, done: u64, total: Option<u64>) {
        if self.on_terminal {
            let bar = self.bar.get_or_insert_with(|| new_bar(self.what.clone(), total));
            bar.set_position(done);
            return;
        }
        let (when, before) = self.last;
        let passed = when.elapsed();
        if passed < PAUSE {
            return;
        }
        // A transfer that began anew has less than before.
        let speed = done.saturating_sub(before) as f64 / passed.as_secs_f64();
        log::info!("{}: {}, {} a second", self.what, share(done, total), mib(speed as u64));
        self.last = (Instant::now(), done);
    }

    /// Takes the bar away until the next step: lines are written meanwhile.
    pub fn pause(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.pause();
    }
}

fn new_bar(what: String, total: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(4);
    let bar = ProgressBar::with_draw_target(total, target);
    bar.with_style(style(total.is_some())).with_message(what)
}

fn style(with_total: bool) -> ProgressStyle {
    let template = match with_total {
        true => "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        false => "{msg} {spinner} {bytes} {bytes_per_sec}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// "123.4 MiB of 500.0 MiB (24 %)".
pub fn share(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => {
            let percent = u128::from(done) * 100 / u128::from(total.max(1));
            format!("{} of {} ({percent} %)", mib(done), mib(total))
        }
        None => mib(done),
    }
}

/// Bytes as people read them when they do not count them.
pub fn mib(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} bytes"),
        10_000..=1_048_575 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / MIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_roughly() {
        assert_eq!(share(0, Some(0)), "0 bytes of 0 bytes (0 %)");
        assert_eq!(share(5 << 20, Some(20 << 20)), "5.0 MiB of 20.0 MiB (25 %)");
        assert_eq!(share(u64::MAX, Some(u64::MAX)).split(' ').nth(5), Some("(100"));
        assert_eq!(share(12_345, None), "12 KiB");
    }

    #[test]
    fn every_style_is_understood() {
        for with_total in [false, true] {
            let _ = style(with_total);
        }
        let mut progress = Progress::new("testing".into());
        progress.step(1, Some(2));
        progress.step(1, None);
    }
}

//! Why a guest does not run although nobody has stopped it: a disk's host is full.
//!
//! A disk whose write finds no room keeps it, and says so ([`devices::block::shortage`]). The
//! machine's thread then pauses the vCPUs, so that no driver loses its patience, and lets them go
//! on when no disk waits any more. This file is what is said of that: to whoever asks for the
//! machine's status, and in the log.

use std::fmt;
use std::time::Instant;

use devices::block::shortage::Shortage;

/// Why the guest is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pause {
    /// These disks wait for room on the host; at least one.
    DiskFull(Vec<Shortage>),
}

impl Pause {
    /// The pause that these shortages mean, if there are any.
    pub fn new(shortages: Vec<Shortage>) -> Option<Pause> {
        (!shortages.is_empty()).then_some(Pause::DiskFull(shortages))
    }

    /// When it began.
    pub fn since(&self) -> Option<Instant> {
        let Pause::DiskFull(shortages) = self;
        shortages.iter().map(|shortage| shortage.since).min()
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pause::DiskFull(shortages) = self;
        for (number, shortage) in shortages.iter().enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            write!(f, "{separator}there is no room for {}", shortage.disk)?;
            match shortage.free_bytes {
                Some(free) => write!(f, " ({} KiB are free where it is stored)", free >> 10)?,
                None => write!(f, " (how much is free cannot be told)")?,
            }
        }
        Ok(())
    }
}

/// What the vCPUs are to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// What they do.
    None,
    /// Stop.
    Pause,
    /// Go on.
    GoOn,
}

/// What was made known of the pause that is, if any.
#[derive(Debug, Default)]
pub(super) struct Known(Option<Pause>);

impl Known {
    /// Whether the guest is paused.
    pub(super) fn is_paused(&self) -> bool {
        self.0.is_some()
    }

    /// Compares what is with what was known: the change, and a line for the log.
    pub(super) fn update(&mut self, now: Option<Pause>, at: Instant) -> (Change, Option<String>) {
        let was = std::mem::replace(&mut self.0, now);
        match (&was, &self.0) {
            (None, None) => (Change::None, None),
            (None, Some(why)) => {
                let line = format!("the machine is paused: {why}; it goes on when there is room");
                (Change::Pause, Some(line))
            }
            (Some(was), None) => {
                let begun = was.since().unwrap_or(at);
                let seconds = at.saturating_duration_since(begun).as_secs();
                let line = format!("there is room again: the machine goes on, after {seconds} s");
                (Change::GoOn, Some(line))
            }
            (Some(was), Some(now)) => {
                let more = disks(now).any(|disk| disks(was).all(|known| known != disk));
                (Change::None, more.then(|| format!("the machine stays paused: {now}")))
            }
        }
    }
}

fn disks(pause: &Pause) -> impl Iterator<Item = &str> {
    let Pause::DiskFull(shortages) = pause;
    shortages.iter().map(|shortage| &*shortage.disk)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_change_is_one_line() {
        let start = Instant::now();
        let full = |disks: &[&str]| {
            let shortage = |disk: &&str| Shortage {
                disk: (*disk).into(),
                free_bytes: Some(8192),
                since: start,
            };
            Pause::new(disks.iter().map(shortage).collect())
        };
        let mut known = Known::default();
        let mut update = |now| known.update(now, start + Duration::from_secs(61));
        assert_eq!(update(None), (Change::None, None));
        let (change, line) = update(full(&["/a"]));
        assert_eq!(change, Change::Pause);
        assert_eq!(
            line.unwrap(),
            "the machine is paused: there is no room for /a (8 KiB are free where it is stored); \
             it goes on when there is room"
        );
        assert_eq!(update(full(&["/a"])), (Change::None, None));
        let (change, line) = update(full(&["/a", "/b"]));
        assert!(change == Change::None && line.unwrap().contains("; there is no room for /b ("));
        assert_eq!(update(full(&["/b"])), (Change::None, None));
        let (change, line) = update(None);
        assert_eq!(change, Change::GoOn);
        assert_eq!(line.unwrap(), "there is room again: the machine goes on, after 61 s");
        assert!(!known.is_paused());
    }
}

//! A queue that has met a full host: it keeps its requests, takes no new ones, and tries again.
//!
//! The first try is a second later, then after 2, 4, 8 and each 10 seconds; and at once when
//! somebody asks ([`Shortages::retry`](crate::block::shortage::Shortages::retry)). When the device
//! is stopped there is a last try, and what then finds no room is given up, and said.

use std::time::{Duration, Instant};

use super::disk::Disk;
use crate::block::shortage::Waiting;
use crate::event::Event;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// Whether a queue waits for room, and until when.
#[derive(Debug, Default)]
pub struct Stall(Option<State>);

#[derive(Debug)]
struct State {
    waiting: Waiting,
    delay: Duration,
    at: Instant,
}

impl Stall {
    /// Whether it waits.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// When to try again.
    pub fn at(&self) -> Option<Instant> {
        self.0.as_ref().map(|state| state.at)
    }

    /// A request has found no room. The first to do so begins the waiting.
    pub fn begin(&mut self, disk: &Disk, wake: &Event, now: Instant) {
        if self.0.is_none() {
            let waiting = disk.shortages.begin(&disk.name, disk.backend.free_bytes(), wake);
            self.0 = Some(State { waiting, delay: FIRST, at: now + FIRST });
        }
    }

    /// It is tried again now; the next time is set.
    pub fn try_again(&mut self, disk: &Disk, now: Instant) {
        if let Some(state) = &mut self.0 {
            state.waiting.still(disk.backend.free_bytes());
            state.delay = (state.delay * 2).min(LONGEST);
            state.at = now + state.delay;
        }
    }

    /// Every request that was kept has been dealt with.
    pub fn end(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::driver::{Layout, TestDisk, bare_disk};
    use super::*;

    #[test]
    fn the_pauses_grow_to_ten_seconds() {
        let disk = bare_disk(TestDisk::new(Layout::File));
        let wake = Event::new().unwrap();
        let mut stall = Stall::default();
        let mut now = Instant::now();
        assert_eq!((stall.is_on(), stall.at()), (false, None));
        let mut pauses = vec![];
        stall.begin(&disk, &wake, now);
        for _ in 0..6 {
            pauses.push((stall.at().unwrap() - now).as_secs());
            now = stall.at().unwrap();
            stall.try_again(&disk, now);
            // Another request of the same queue changes nothing.
            stall.begin(&disk, &wake, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(disk.shortages.list().len(), 1);
        stall.end();
        assert!(!stall.is_on() && disk.shortages.list().is_empty());
    }
}

//! What a queue's thread waits for beside kicks and completions: its requests' turn by the disk's
//! limits, and room on the host. Both engines wait by it.

use std::io;
use std::time::Instant;

use super::disk::Disk;
use super::stall::Stall;
use crate::block::BlockError;
use crate::event::Event;
use crate::timer::Timer;

/// One queue's waits.
pub struct Waits {
    timer: Timer,
    wake: Event,
    /// Whether it waits for room on the host.
    pub stall: Stall,
    /// When the first of the requests that the limits keep may pass.
    pub turn: Option<Instant>,
    /// Somebody asks to try at once.
    pub woken: bool,
    /// Requests that were given up at the end.
    lost: u32,
}

impl Waits {
    /// It waits for nothing.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Waits> {
        let (timer, wake) = (Timer::new()?, Event::new()?);
        Ok(Waits { timer, wake, stall: Stall::default(), turn: None, woken: false, lost: 0 })
    }

    /// Signalled when a time has come.
    pub fn timer(&self) -> &Event {
        self.timer.event()
    }

    /// Signalled when it should be tried again at once.
    pub fn wake(&self) -> &Event {
        &self.wake
    }

    /// Sets the timer to what comes first. Costs nothing while nothing is waited for.
    ///
    /// # Errors
    /// See [`Timer::set`].
    pub fn set_timer(&mut self) -> io::Result<()> {
        self.timer.set(self.turn.into_iter().chain(self.stall.at()).min())
    }

    /// Whether what found no room is to be tried again.
    pub fn is_time_to_try(&self, now: Instant) -> bool {
        self.woken || self.stall.at().is_some_and(|at| at <= now)
    }

    /// It is tried again now.
    pub fn try_again(&mut self, disk: &Disk, now: Instant) {
        self.woken = false;
        self.stall.try_again(disk, now);
    }

    /// The status of a request that has failed; `None`: the host is full, and the request is to be
    /// kept. At the `end` there is nothing to wait for any more.
    pub fn outcome(&mut self, disk: &Disk, error: &BlockError, end: bool) -> Option<u8> {
        let status = disk.outcome(error);
        if status.is_some() {
            return status;
        }
        if end {
            self.lost = self.lost.saturating_add(1);
            return Some(disk.refuse(error));
        }
        self.stall.begin(disk, &self.wake, Instant::now());
        None
    }

    /// Says, at the end, what was given up.
    pub fn report(&self, disk: &Disk) {
        disk.report_lost(self.lost);
    }
}

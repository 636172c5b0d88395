//! A clock that wakes a thread: timerfd(2), waited for like any other event.
//!
//! A device's thread sleeps on a handful of descriptors. What it has to do at a given time (try
//! again, let a request through) becomes one descriptor more; it is set only when there is such a
//! time, so that an idle thread sleeps for good.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::event::Event;

/// A timer. It goes off once, at the time it was last set to.
#[derive(Debug)]
pub struct Timer {
    fd: TimerFd,
    event: Event,
    set: Option<Instant>,
}

impl Timer {
    /// A new one, not set.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let shared = fd.as_fd().try_clone_to_owned()?;
        Ok(Timer { fd, event: Event::from(Arc::new(shared)), set: None })
    }

    /// What is signalled when it goes off, to be waited for. [`Event::take`] takes that back.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Sets it to go off at `at`, at once if that has passed; `None`: never.
    ///
    /// # Errors
    /// What the kernel refuses with; nothing known makes it refuse.
    pub fn set(&mut self, at: Option<Instant>) -> io::Result<()> {
        match at {
            None if self.set.is_none() => return Ok(()),
            None => self.fd.unset()?,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                if self.set == Some(at) && !left.is_zero() {
                    return Ok(());
                }
                // Zero would switch it off.
                let left = left.max(Duration::from_nanos(1));
                let once = Expiration::OneShot(TimeSpec::from_duration(left));
                self.fd.set(once, TimerSetTimeFlags::empty())?;
            }
        }
        self.set = at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::wait_readable;

    #[test]
    fn it_goes_off_once_and_when_set_anew() {
        let mut timer = Timer::new().unwrap();
        let now = Instant::now();
        assert!(!timer.event().take());
        for at in [now, now + Duration::from_millis(1)] {
            timer.set(Some(at)).unwrap();
            assert_eq!(wait_readable([Some(timer.event().as_fd())], None).unwrap(), [true]);
            assert!(timer.event().take());
            assert!(!timer.event().take());
        }
        timer.set(Some(now + Duration::from_secs(3600))).unwrap();
        timer.set(None).unwrap();
        assert_eq!(wait_readable([Some(timer.event().as_fd())], Some(0)).unwrap(), [false]);
    }
}

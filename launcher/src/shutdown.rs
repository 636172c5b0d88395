//! Who ends a machine, and when: power button, deadline, stop. A pure state machine; clocks are
//! passed in.

use std::time::{Duration, Instant};

use crate::exit::Ending;
use crate::machine::MachineEnd;

/// How long a stopped machine may take to flush its disks and end.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// The power button is pressed again after this long: a guest that was still starting may have lost
/// the first press, and one that is shutting down ignores the second.
const PRESS_AGAIN: Duration = Duration::from_secs(10);

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Press the power button.
    PowerButton,
    /// Flush and stop.
    Stop,
    /// Nothing has helped: leave the process.
    Leave(Ending),
}

/// Where the shutdown is.
#[derive(Debug)]
pub struct Shutdown {
    timeout: Duration,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Running,
    /// The power button has been pressed.
    Asked {
        deadline: Instant,
        again: Instant,
    },
    /// The machine has been told to stop, because of `why`.
    Stopping {
        deadline: Instant,
        why: Ending,
    },
}

impl Shutdown {
    /// `timeout`: from the power button to the hard stop.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, phase: Phase::Running }
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => None,
            Phase::Asked { deadline, again } => Some(deadline.min(again)),
            Phase::Stopping { deadline, .. } => Some(deadline),
        }
    }

    /// A signal, or the user at the terminal, asks for the end.
    pub fn on_request(&mut self, now: Instant) -> Action {
        match self.phase {
            Phase::Running if self.timeout.is_zero() => {
                self.stop(now, Ending::TimedOut(self.timeout))
            }
            Phase::Running => {
                let (deadline, again) = (now + self.timeout, now + PRESS_AGAIN);
                self.phase = Phase::Asked { deadline, again };
                Action::PowerButton
            }
            Phase::Asked { .. } => self.stop(now, Ending::StoppedAtOnce),
            // Flushing is the one thing that is never cut short by impatience.
            Phase::Stopping { .. } => Action::Wait,
        }
    }

    /// Somebody asks for the end, and does not want to wait for the guest.
    pub fn on_stop(&mut self, now: Instant) -> Action {
        match self.phase {
            Phase::Stopping { .. } => Action::Wait,
            _ => self.stop(now, Ending::StoppedAtOnce),
        }
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Instant) -> Action {
        match &mut self.phase {
            Phase::Asked { deadline, .. } if now >= *deadline => {
                self.stop(now, Ending::TimedOut(self.timeout))
            }
            Phase::Asked { again, .. } if now >= *again => {
                *again = now + PRESS_AGAIN;
                Action::PowerButton
            }
            Phase::Stopping { deadline, .. } if now >= *deadline => {
                let seconds = STOP_PATIENCE.as_secs();
                Action::Leave(Ending::Failed(format!("it did not stop within {seconds} s")))
            }
            _ => Action::Wait,
        }
    }

    /// The machine has ended: what that means.
    pub fn on_end(self, end: MachineEnd) -> Ending {
        match (end, self.phase) {
            (MachineEnd::PoweredOff, _) => Ending::PoweredOff,
            (MachineEnd::GuestPanicked, _) => Ending::GuestPanicked,
            (MachineEnd::TripleFault, _) => Ending::TripleFault,
            (MachineEnd::Failed(reason), _) => Ending::Failed(reason),
            (MachineEnd::Stopped, Phase::Stopping { why, .. }) => why,
            (MachineEnd::Stopped, _) => Ending::Failed("it stopped unasked".to_owned()),
        }
    }

    fn stop(&mut self, now: Instant, why: Ending) -> Action {
        self.phase = Phase::Stopping { deadline: now + STOP_PATIENCE, why };
        Action::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(25);

    #[test]
    fn power_button_then_deadline_then_stop() {
        let start = Instant::now();
        let mut shutdown = Shutdown::new(TIMEOUT);
        assert_eq!(shutdown.deadline(), None);
        assert_eq!(shutdown.on_time(start + TIMEOUT), Action::Wait);
        assert_eq!(shutdown.on_request(start), Action::PowerButton);
        // Pressed again on the way, in case nobody heard the first.
        for presses in 1..3 {
            let again = start + presses * PRESS_AGAIN;
            assert_eq!(shutdown.deadline(), Some(again));
            assert_eq!(shutdown.on_time(again - Duration::from_millis(1)), Action::Wait);
            assert_eq!(shutdown.on_time(again), Action::PowerButton);
        }
        assert_eq!(shutdown.deadline(), Some(start + TIMEOUT));
        assert_eq!(shutdown.on_time(start + TIMEOUT), Action::Stop);
        assert_eq!(shutdown.on_request(start + TIMEOUT), Action::Wait);
        let last = start + TIMEOUT + STOP_PATIENCE;
        assert_eq!(shutdown.deadline(), Some(last));
        assert!(matches!(shutdown.on_time(last), Action::Leave(Ending::Failed(_))));
        assert_eq!(shutdown.on_end(MachineEnd::Stopped), Ending::TimedOut(TIMEOUT));
    }

    #[test]
    fn a_second_request_stops_at_once() {
        let now = Instant::now();
        let mut shutdown = Shutdown::new(TIMEOUT);
        assert_eq!(shutdown.on_request(now), Action::PowerButton);
        assert_eq!(shutdown.on_request(now), Action::Stop);
        assert_eq!(shutdown.on_end(MachineEnd::Stopped), Ending::StoppedAtOnce);
    }

    #[test]
    fn a_stop_does_not_wait_for_the_guest() {
        let now = Instant::now();
        for requests in 0..3 {
            let mut shutdown = Shutdown::new(TIMEOUT);
            (0..requests).for_each(|_| drop(shutdown.on_request(now)));
            let action = shutdown.on_stop(now);
            assert_eq!(action, if requests < 2 { Action::Stop } else { Action::Wait });
            assert_eq!(shutdown.on_end(MachineEnd::Stopped), Ending::StoppedAtOnce);
        }
    }

    #[test]
    fn no_timeout_is_no_power_button() {
        let mut shutdown = Shutdown::new(Duration::ZERO);
        assert_eq!(shutdown.on_request(Instant::now()), Action::Stop);
        assert_eq!(shutdown.on_end(MachineEnd::Stopped), Ending::TimedOut(Duration::ZERO));
    }

    #[test]
    fn the_guests_own_end_counts_in_every_phase() {
        for requests in 0..3 {
            for (end, want) in [
                (MachineEnd::PoweredOff, Ending::PoweredOff),
                (MachineEnd::GuestPanicked, Ending::GuestPanicked),
                (MachineEnd::TripleFault, Ending::TripleFault),
                (MachineEnd::Failed("x".into()), Ending::Failed("x".into())),
            ] {
                let mut shutdown = Shutdown::new(TIMEOUT);
                (0..requests).for_each(|_| drop(shutdown.on_request(Instant::now())));
                assert_eq!(shutdown.on_end(end), want);
            }
        }
        let unasked = Shutdown::new(TIMEOUT).on_end(MachineEnd::Stopped);
        assert!(matches!(unasked, Ending::Failed(_)));
    }
}

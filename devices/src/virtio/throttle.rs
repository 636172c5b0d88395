//! Keeps a guest from filling the host's log: a few lines at once, then one in a while.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lines that may come at once.
const BURST: u32 = 10;
/// How long until one more may come.
const REFILL: Duration = Duration::from_secs(60);

/// An allowance of log lines, shared by all that hold it.
#[derive(Debug)]
pub struct Throttle(Mutex<State>);

#[derive(Debug)]
struct State {
    left: u32,
    last: Option<Instant>,
}

impl Throttle {
    /// A full allowance; made to live in a `static`.
    pub const fn new() -> Throttle {
        Throttle(Mutex::new(State { left: BURST, last: None }))
    }

    /// Whether a line may be written now.
    pub fn allows(&self) -> bool {
        self.allows_at(Instant::now())
    }

    fn allows_at(&self, now: Instant) -> bool {
        let mut state = self.0.lock().expect("nothing panics under this lock");
        let last = *state.last.get_or_insert(now);
        let refills = now.saturating_duration_since(last).as_secs() / REFILL.as_secs();
        if refills > 0 {
            state.left = state.left.saturating_add(refills.min(BURST.into()) as u32).min(BURST);
            state.last = Some(now);
        }
        let allowed = state.left > 0;
        state.left = state.left.saturating_sub(1);
        allowed
    }
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_a_minute() {
        let throttle = Throttle::new();
        let start = Instant::now();
        let allowed = (0..100).filter(|_| throttle.allows_at(start)).count();
        assert_eq!(allowed, BURST as usize);
        let later = start + REFILL;
        assert!(throttle.allows_at(later) && !throttle.allows_at(later));
        let much_later = start + REFILL * 1000;
        let allowed = (0..100).filter(|_| throttle.allows_at(much_later)).count();
        assert_eq!(allowed, BURST as usize);
    }
}

//! How often a guest may make us write into the log. Time is passed in.

use std::time::{Duration, Instant};

/// Lines at once.
const BURST: u32 = 5;
/// The time in which one more is allowed.
const REFILL: Duration = Duration::from_secs(60);

/// A token bucket.
#[derive(Debug)]
pub struct LogLimit {
    tokens: u32,
    /// When the last token came in.
    filled: Instant,
}

impl LogLimit {
    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now }
    }

    /// Whether a line may be written now.
    pub fn allows(&mut self, now: Instant) -> bool {
        let missing = BURST.saturating_sub(self.tokens);
        for _ in 0..missing {
            match self.filled.checked_add(REFILL) {
                Some(next) if next <= now => {
                    self.filled = next;
                    self.tokens = self.tokens.saturating_add(1);
                }
                _ => break,
            }
        }
        if self.tokens == BURST {
            self.filled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_a_minute() {
        let start = Instant::now();
        let mut limit = LogLimit::new(start);
        let mut count = |seconds: u64, tries: usize| {
            let now = start + Duration::from_secs(seconds);
            (0..tries).filter(|_| limit.allows(now)).count()
        };
        assert_eq!(count(1000, 100), 5);
        assert_eq!(count(1059, 100), 0);
        assert_eq!(count(1060, 100), 1);
        assert_eq!(count(1185, 100), 2);
        assert_eq!(count(100_000, 100), 5);
    }
}

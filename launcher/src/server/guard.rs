//! Who may come in: the passwords, and a brake on those who guess.
//!
//! Each address (each /64, with IPv6) may be wrong three times; then it is turned away for a second,
//! and for twice as long after each further mistake, up to five minutes. All addresses together may
//! be wrong thirty times, and once every two seconds from then on, so that many of them find out no
//! more than that. Who is already in is not touched by either. Mistakes are forgotten after an hour,
//! an address's own when it is let in.
//!
//! Screen and web page share it. Called from the connections' threads; time is passed in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::passwords::{Access, Passwords};

/// Mistakes that an address may make without consequences.
const FREE: u32 = 3;
/// The longest that one is turned away.
const LONGEST: Duration = Duration::from_secs(300);
/// How long mistakes are remembered.
const MEMORY: Duration = Duration::from_secs(3600);
/// Addresses that are remembered; beyond, the one whose last mistake is the oldest is forgotten.
const ADDRESSES: usize = 1024;
/// Mistakes of everybody together, at once.
const TOGETHER: u32 = 30;
/// When one more is allowed.
const REFILL: Duration = Duration::from_secs(2);

/// What comes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Come in.
    Admitted(Access),
    /// That was wrong.
    Wrong,
    /// Too many were wrong: it was not looked at. Try again after that long.
    TooMany(Duration),
}

/// Passwords and brake.
#[derive(Debug)]
pub struct Guard {
    passwords: Passwords,
    brake: Mutex<Brake>,
}

impl Guard {
    /// Guards with these.
    pub fn new(passwords: Passwords, now: Instant) -> Guard {
        let brake = Brake { addresses: HashMap::new(), left: TOGETHER, filled: now };
        Guard { passwords, brake: Mutex::new(brake) }
    }

    /// Whether a password is asked for.
    pub fn asks(&self) -> bool {
        self.passwords.asked_for()
    }

    /// How long `from` has to wait before it may try again, if it has to.
    pub fn wait(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        self.brake().wait(network(from), now)
    }

    /// Looks at the answer of `from`; `proof` says what it would be for a given password. Attempts
    /// are looked at one after the other, so that they cannot all be made at once.
    pub fn judge(
        &self,
        from: IpAddr,
        now: Instant,
        answer: &[u8],
        proof: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Verdict {
        let from = network(from);
        let mut brake = self.brake();
        if let Some(wait) = brake.wait(from, now) {
            return Verdict::TooMany(wait);
        }
        match self.passwords.judge(answer, proof) {
            Some(access) => {
                brake.addresses.remove(&from);
                Verdict::Admitted(access)
            }
            None => {
                brake.mistake(from, now);
                Verdict::Wrong
            }
        }
    }

    fn brake(&self) -> MutexGuard<'_, Brake> {
        // Sound between any two statements.
        self.brake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one place: with IPv6 everybody has a /64 at least.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[derive(Debug)]
struct Brake {
    addresses: HashMap<IpAddr, Mistakes>,
    /// Of [`TOGETHER`].
    left: u32,
    /// When the last of them came in.
    filled: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Mistakes {
    count: u32,
    last: Instant,
}

impl Brake {
    fn wait(&mut self, from: IpAddr, now: Instant) -> Option<Duration> {
        self.refill(now);
        let together = match self.left {
            0 => REFILL.saturating_sub(now.saturating_duration_since(self.filled)),
            _ => Duration::ZERO,
        };
        let own = self.addresses.get(&from).map_or(Duration::ZERO, |mistakes| {
            let since = now.saturating_duration_since(mistakes.last);
            if since > MEMORY {
                return Duration::ZERO;
            }
            let doublings = match mistakes.count.checked_sub(FREE) {
                Some(over) => over.min(16),
                None => return Duration::ZERO,
            };
            let turned_away = Duration::from_secs(1 << doublings).min(LONGEST);
            turned_away.saturating_sub(since)
        });
        Some(own.max(together)).filter(|wait| !wait.is_zero())
    }

    fn mistake(&mut self, from: IpAddr, now: Instant) {
        self.left = self.left.saturating_sub(1);
        let old = |mistakes: &Mistakes| now.saturating_duration_since(mistakes.last) > MEMORY;
        if self.addresses.len() >= ADDRESSES && !self.addresses.contains_key(&from) {
            self.addresses.retain(|_, mistakes| !old(mistakes));
            let oldest = self.addresses.iter().min_by_key(|(_, mistakes)| mistakes.last);
            if let Some(oldest) = oldest.map(|(address, _)| *address)
                && self.addresses.len() >= ADDRESSES
            {
                self.addresses.remove(&oldest);
            }
        }
        let mistakes = self.addresses.entry(from).or_insert(Mistakes { count: 0, last: now });
        let count = if old(mistakes) { 0 } else { mistakes.count };
        *mistakes = Mistakes { count: count.saturating_add(1), last: now };
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled);
        let new = u32::try_from(since.as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(new);
        if self.left >= TOGETHER {
            (self.left, self.filled) = (TOGETHER, now);
        } else if let Some(filled) = self.filled.checked_add(REFILL.saturating_mul(new)) {
            self.filled = filled;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::passwords::{Secret, Source};
    use super::*;

    fn guard(now: Instant) -> Guard {
        let full = Some(Source::Given(Secret::new("right".to_owned())));
        Guard::new(Passwords { full, view: None }, now)
    }

    fn attempt(guard: &Guard, from: &str, answer: &[u8], now: Instant) -> Verdict {
        guard.judge(from.parse().unwrap(), now, answer, |secret| secret.to_vec())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_address_that_guesses_waits_ever_longer() {
        let mut now = Instant::now();
        let guard = guard(now);
        for _ in 0..3 {
            assert_eq!(attempt(&guard, "10.0.0.1", b"wrong", now), Verdict::Wrong);
        }
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let wait = Duration::from_secs(seconds);
            let refused = attempt(&guard, "10.0.0.1", b"right", now);
            assert_eq!(refused, Verdict::TooMany(wait), "not even the right one is looked at");
            assert_eq!(guard.wait("::ffff:10.0.0.1".parse().unwrap(), now), Some(wait));
            now += wait;
            assert_eq!(attempt(&guard, "10.0.0.1", b"wrong", now), Verdict::Wrong);
        }
        let other = attempt(&guard, "10.0.0.2", b"right", now);
        assert_eq!(other, Verdict::Admitted(Access::Full), "others are not touched");
        // Whoever gets it right begins anew.
        now += LONGEST;
        assert_eq!(attempt(&guard, "10.0.0.1", b"right", now), Verdict::Admitted(Access::Full));
        assert_eq!(attempt(&guard, "10.0.0.1", b"wrong", now), Verdict::Wrong);
        assert_eq!(guard.wait("10.0.0.1".parse().unwrap(), now), None);
    }

    #[test]
    fn an_hour_is_long_enough() {
        let now = Instant::now();
        let guard = guard(now);
        for _ in 0..3 {
            attempt(&guard, "10.0.0.1", b"wrong", now);
        }
        let later = now + MEMORY + SECOND;
        for _ in 0..2 {
            assert_eq!(attempt(&guard, "10.0.0.1", b"wrong", later), Verdict::Wrong);
        }
        assert_eq!(guard.wait("10.0.0.1".parse().unwrap(), later), None);
    }

    #[test]
    fn many_addresses_guess_no_faster() {
        let now = Instant::now();
        let guard = guard(now);
        let tried = |from: u32, now| {
            let from = IpAddr::V4(std::net::Ipv4Addr::from_bits(from));
            guard.judge(from, now, b"wrong", |secret| secret.to_vec())
        };
        let wrong = (0..5000).filter(|n| tried(*n, now) == Verdict::Wrong).count();
        assert_eq!(wrong, 30);
        assert_eq!(tried(9000, now + SECOND), Verdict::TooMany(SECOND));
        let wrong = (0..5000).filter(|n| tried(10_000 + n, now + 61 * SECOND) == Verdict::Wrong);
        assert_eq!(wrong.count(), 30);
        // Three quarters of an hour at full speed: what is remembered stays bounded.
        for n in 0..2500 {
            tried(20_000 + n, now + (100 + 2 * n) * SECOND);
        }
        assert!(guard.brake().addresses.len() <= ADDRESSES);
    }

    #[test]
    fn a_network_of_ipv6_is_one_place() {
        let now = Instant::now();
        let guard = guard(now);
        for host in 1..=3 {
            attempt(&guard, &format!("2001:db8::{host}"), b"wrong", now);
        }
        assert!(guard.wait("2001:db8::ffff".parse().unwrap(), now).is_some());
        assert!(guard.wait("2001:db8:0:1::1".parse().unwrap(), now).is_none());
    }
}

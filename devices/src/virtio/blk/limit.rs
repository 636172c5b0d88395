//! How much a guest may ask of a disk: a token bucket for requests and one for bytes.
//!
//! A bucket holds what one second gives, and is full at first. A request passes while there is
//! anything in the bucket, and takes what it needs even if that is more: what is missing is waited
//! for by the next. So in any time of `t` seconds at most `t + 1` seconds' worth passes, and one
//! request. All queues of a disk share its buckets. Times are passed in; nothing here waits.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a disk may do in a second; 0: as much as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per second: reads, writes, flushes, discards and write-zeroes.
    pub iops: u64,
    /// Bytes per second, read and written together.
    pub bytes_per_second: u64,
}

const SECOND: u128 = 1_000_000_000;

/// One bucket. In the units used here, a nanosecond is worth `rate`, and one of what is counted is
/// worth a second's nanoseconds: both are whole numbers, so nothing is ever rounded.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: u128,
    /// When it will be full again, in nanoseconds times `rate`.
    full_at: u128,
}

impl Bucket {
    fn new(rate: u64) -> Option<Bucket> {
        (rate > 0).then_some(Bucket { rate: rate.into(), full_at: 0 })
    }

    /// How long until something may be taken, in nanoseconds after `now`.
    fn wait(&self, now: u128) -> u128 {
        // What is missing to a full bucket must be less than a second's worth.
        let missing = self.full_at.saturating_sub(now * self.rate);
        let over = missing.saturating_sub((SECOND * self.rate).saturating_sub(1));
        over.div_ceil(self.rate)
    }

    fn take(&mut self, count: u64, now: u128) {
        let from = self.full_at.max(now * self.rate);
        self.full_at = from.saturating_add(u128::from(count) * SECOND);
    }
}

/// The buckets of one disk.
#[derive(Debug)]
pub struct Limiter {
    start: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Limiter {
    /// Full buckets; `None` where nothing is limited.
    pub fn new(limits: Limits, now: Instant) -> Option<Limiter> {
        let (requests, bytes) = (Bucket::new(limits.iops), Bucket::new(limits.bytes_per_second));
        let buckets = Mutex::new(Buckets { requests, bytes });
        (limits != Limits::default()).then_some(Limiter { start: now, buckets })
    }

    /// Lets a request of so many bytes pass, and counts it.
    ///
    /// # Errors
    /// How long to wait before asking again. Nothing is counted then.
    pub fn admit(&self, bytes: u64, now: Instant) -> Result<(), Duration> {
        self.with(now, |buckets, now| {
            let wait = |bucket: &Option<Bucket>| bucket.map_or(0, |bucket| bucket.wait(now));
            // A request without bytes does not wait for them.
            let for_bytes = if bytes == 0 { 0 } else { wait(&buckets.bytes) };
            match wait(&buckets.requests).max(for_bytes) {
                0 => {
                    buckets.take(bytes, now);
                    Ok(())
                }
                wait => Err(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))),
            }
        })
    }

    /// Counts a request that is not kept waiting; what comes after it may be.
    pub fn charge(&self, now: Instant) {
        self.with(now, |buckets, now| buckets.take(0, now));
    }

    fn with<T>(&self, now: Instant, act: impl FnOnce(&mut Buckets, u128) -> T) -> T {
        let now = now.saturating_duration_since(self.start).as_nanos();
        // Two numbers are set under this lock; no panic leaves them half done.
        act(&mut self.buckets.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

impl Buckets {
    fn take(&mut self, bytes: u64, now: u128) {
        if let Some(bucket) = &mut self.requests {
            bucket.take(1, now);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a driver that always has a request of `bytes`; how many passed in `seconds`.
    fn passed(limits: Limits, bytes: u64, seconds: u64) -> u64 {
        let start = Instant::now();
        let limiter = Limiter::new(limits, start).unwrap();
        let (mut now, mut count) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            match limiter.admit(bytes, now) {
                Ok(()) => count += 1,
                Err(wait) => {
                    assert!(!wait.is_zero());
                    let early = now + wait - Duration::from_nanos(1);
                    assert!(limiter.admit(bytes, early).is_err(), "it need not have waited");
                    now += wait;
                }
            }
        }
        count
    }

    #[test]
    fn a_second_s_worth_at_once_then_the_rate() {
        for rate in [1, 3, 7, 100, 999_983] {
            let limits = Limits { iops: rate, bytes_per_second: 0 };
            for seconds in [1, 2] {
                let count = passed(limits, 4096, seconds);
                let all = rate * (seconds + 1);
                assert!((all..=all + 1).contains(&count), "{count} at {rate} in {seconds} s");
            }
        }
        let limits = Limits { iops: 0, bytes_per_second: 10 << 20 };
        let count = passed(limits, 1 << 20, 5);
        assert!((60..=61).contains(&count), "{count}");
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_is_paid_for() {
        let start = Instant::now();
        let limits = Limits { iops: 0, bytes_per_second: 1000 };
        let limiter = Limiter::new(limits, start).unwrap();
        assert_eq!(limiter.admit(10_000, start), Ok(()));
        let wait = limiter.admit(1, start).unwrap_err();
        assert!(wait > Duration::from_secs(9) && wait <= Duration::from_secs(10), "{wait:?}");
        assert_eq!(limiter.admit(0, start), Ok(()), "no bytes, no waiting for them");
    }

    #[test]
    fn the_stricter_bucket_decides_and_charges_are_paid_by_the_next() {
        let start = Instant::now();
        let limiter = Limiter::new(Limits { iops: 2, bytes_per_second: 1 << 30 }, start).unwrap();
        limiter.charge(start);
        assert_eq!(limiter.admit(512, start), Ok(()));
        assert!(limiter.admit(512, start).is_err());
        limiter.charge(start);
        let wait = limiter.admit(512, start).unwrap_err();
        assert!(wait > Duration::from_millis(500), "{wait:?}");
        // An idle disk saves up no more than a second's worth.
        let later = start + Duration::from_secs(1000);
        assert_eq!([0; 3].map(|_| limiter.admit(512, later).is_ok()), [true, true, false]);
        assert!(Limiter::new(Limits::default(), start).is_none());
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let start = Instant::now();
        let limits = Limits { iops: u64::MAX, bytes_per_second: u64::MAX };
        let limiter = Limiter::new(limits, start).unwrap();
        let late = start + Duration::from_secs(1 << 32);
        for _ in 0..1000 {
            let _ = limiter.admit(u64::MAX, late);
        }
        let slow = Limiter::new(Limits { iops: 1, bytes_per_second: 1 }, start).unwrap();
        assert_eq!(slow.admit(u64::MAX, start), Ok(()));
        assert_eq!(slow.admit(1, start), Err(Duration::from_nanos(u64::MAX)));
    }
}

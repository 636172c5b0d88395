//! What a disk has done: requests, bytes, failures, and how long requests took.
//!
//! Each queue's thread writes numbers of its own ([`Tally`]); a reader adds them up. A request's
//! time begins when its queue's thread takes it off the ring and ends when the driver is told, so waiting
//! for the disk's limits and for room on the host is in it. Clocks are read once for all requests that
//! are taken together, and once for all that the driver is told of together.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::request::{Kind, S_OK, T_DISCARD, T_WRITE_ZEROES};
use crate::tally::{Lane, Tally};

/// What a request does, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Data from the disk.
    Read,
    /// Data to the disk.
    Write,
    /// Durability of what was written.
    Flush,
    /// Ranges are given back.
    Discard,
    /// Ranges become zeroes.
    WriteZeroes,
}

impl Operation {
    /// All of them, in the order of [`Operation`]'s numbers.
    pub const ALL: [Operation; 5] = [
        Operation::Read,
        Operation::Write,
        Operation::Flush,
        Operation::Discard,
        Operation::WriteZeroes,
    ];

    /// What a request of this kind is counted as. `None`: it is about no data, or not understood.
    fn of(kind: Kind) -> Option<Operation> {
        Some(match kind {
            Kind::In => Operation::Read,
            Kind::Out => Operation::Write,
            Kind::Flush => Operation::Flush,
            Kind::Other(T_DISCARD) => Operation::Discard,
            Kind::Other(T_WRITE_ZEROES) => Operation::WriteZeroes,
            Kind::Other(_) => return None,
        })
    }
}

/// Bounds of the classes into which times are sorted, ascending; a time that equals a bound is
/// within it. There is one more class, for what took longer.
pub const LATENCY_BOUNDS: [Duration; 15] = {
    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }
    [
        us(50),
        us(100),
        us(250),
        us(500),
        us(1_000),
        us(2_500),
        us(5_000),
        us(10_000),
        us(25_000),
        us(50_000),
        us(100_000),
        us(250_000),
        us(1_000_000),
        us(2_500_000),
        us(10_000_000),
    ]
};

/// Classes of times.
pub const LATENCY_CLASSES: usize = LATENCY_BOUNDS.len() + 1;

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// What it did.
    pub operation: Operation,
    /// Whether it went well.
    pub good: bool,
    /// Bytes it was about.
    pub bytes: u64,
    /// When it was taken off the ring.
    pub taken: Instant,
}

impl Ended {
    /// A request that ends with `status`. `None`: it is not counted.
    pub(super) fn new(kind: Kind, status: u8, bytes: u64, taken: Instant) -> Option<Ended> {
        Operation::of(kind).map(|operation| Ended { operation, good: status == S_OK, bytes, taken })
    }
}

/// What was done; shared with whoever reports it.
#[derive(Debug)]
pub struct Counters {
    queues: Box<[Lane<Queue>]>,
    /// How often a request found the host full; it was kept, and tried again.
    pub stalls: AtomicU64,
}

/// What one queue's thread has done.
type Queue = [Tallies; Operation::ALL.len()];

/// One operation of one queue.
#[derive(Debug, Default)]
struct Tallies {
    /// Requests by how long they took.
    classes: [Tally; LATENCY_CLASSES],
    nanoseconds: Tally,
    bytes: Tally,
    errors: Tally,
}

/// What all queues have done of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that have ended and of which the driver was told, failed ones included.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Bytes that the others were about; a flush is about none.
    pub bytes: u64,
    /// Requests by how long they took, see [`LATENCY_BOUNDS`]. They add up to `requests`.
    pub classes: [u64; LATENCY_CLASSES],
    /// How long they took together.
    pub time: Duration,
}

impl Counters {
    /// Nothing was done by any of so many queues.
    pub fn new(queues: u16) -> Counters {
        let queues = (0..queues).map(|_| Lane::default()).collect();
        Counters { queues, stalls: AtomicU64::new(0) }
    }

    /// Counts a request of which the driver is told at `now`. Only the thread of `queue` may.
    pub(super) fn count(&self, queue: u16, ended: &Ended, now: Instant) {
        let Ended { operation, good, bytes, taken } = *ended;
        let Some(tallies) =
            self.queues.get(usize::from(queue)).and_then(|queue| queue.get(operation as usize))
        else {
            return;
        };
        let time = now.saturating_duration_since(taken);
        if let Some(class) = tallies.classes.get(class(time)) {
            class.add(1);
        }
        tallies.nanoseconds.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        if good {
            tallies.bytes.add(bytes);
        } else {
            tallies.errors.add(1);
        }
    }

    /// What was done of this operation so far. While requests end, the numbers may differ by a few
    /// of them from each other.
    pub fn totals(&self, operation: Operation) -> Totals {
        let mut totals = Totals::default();
        let mut nanoseconds = 0_u64;
        for tallies in self.queues.iter().filter_map(|queue| queue.get(operation as usize)) {
            for (sum, class) in totals.classes.iter_mut().zip(&tallies.classes) {
                *sum = sum.wrapping_add(class.get());
            }
            totals.errors = totals.errors.wrapping_add(tallies.errors.get());
            totals.bytes = totals.bytes.wrapping_add(tallies.bytes.get());
            nanoseconds = nanoseconds.wrapping_add(tallies.nanoseconds.get());
        }
        totals.requests = totals.classes.iter().fold(0, |sum, class| sum.wrapping_add(*class));
        totals.time = Duration::from_nanos(nanoseconds);
        totals
    }

    /// Requests of any operation that failed, and of which the guest was told so.
    pub fn errors(&self) -> u64 {
        let errors = Operation::ALL.map(|operation| self.totals(operation).errors);
        errors.into_iter().fold(0, u64::wrapping_add)
    }
}

/// The class of a time.
fn class(time: Duration) -> usize {
    LATENCY_BOUNDS.partition_point(|bound| *bound < time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_numbered_as_they_are_listed() {
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, number);
        }
        assert!(LATENCY_BOUNDS.is_sorted());
        assert_eq!(Operation::of(Kind::Other(8)), None, "a serial number is no data");
        assert_eq!(Operation::of(Kind::Other(11)), Some(Operation::Discard));
    }

    #[test]
    fn times_are_sorted_by_their_bounds() {
        let us = Duration::from_micros;
        for (time, want) in [
            (us(0), 0),
            (us(50), 0),
            (us(51), 1),
            (us(1_000), 4),
            (us(10_000_000), 14),
            (us(10_000_001), 15),
            (Duration::MAX, 15),
        ] {
            assert_eq!(class(time), want, "{time:?}");
        }
    }

    #[test]
    fn queues_are_added_up() {
        let counters = Counters::new(2);
        let taken = Instant::now();
        let count = |queue, operation, good, bytes, ms| {
            let ended = Ended { operation, good, bytes, taken };
            counters.count(queue, &ended, taken + Duration::from_millis(ms));
        };
        count(0, Operation::Read, true, 4096, 3);
        count(1, Operation::Read, true, 512, 4);
        count(1, Operation::Read, false, 512, 60_000);
        count(1, Operation::Flush, false, 0, 0);
        // No such queue: not counted, and no harm.
        count(2, Operation::Read, true, 1, 1);
        let mut classes = [0; LATENCY_CLASSES];
        (classes[6], classes[15]) = (2, 1);
        let want = Totals {
            requests: 3,
            errors: 1,
            bytes: 4608,
            classes,
            time: Duration::from_millis(60_007),
        };
        assert_eq!(counters.totals(Operation::Read), want);
        assert_eq!(counters.totals(Operation::Flush).requests, 1);
        assert_eq!(counters.totals(Operation::Write), Totals::default());
        assert_eq!(counters.errors(), 2);
    }
}

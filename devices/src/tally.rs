//! A number that one thread adds to and any thread reads: what a queue's or a vCPU's thread counts.
//!
//! Adding is a load and a store without a lock prefix, which costs as much as a variable of the
//! thread's own as long as nobody else writes the cache line. So each thread gets a [`Lane`] of its own.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that grows. If two threads add to it at once, counts are lost, and nothing worse
/// happens.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds `more`; only one thread may. Wraps around.
    pub fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    /// What it has come to, on any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one thread writes, on cache lines of its own: processors fetch lines of 64 bytes in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Lane<T>(T);

impl<T> Lane<T> {
    /// Keeps `inner` to itself.
    pub fn new(inner: T) -> Lane<T> {
        Lane(inner)
    }
}

impl<T> Deref for Lane<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_adds_and_others_read() {
        let lanes: Vec<Lane<Tally>> = (0..4).map(|_| Lane::default()).collect();
        std::thread::scope(|scope| {
            for lane in &lanes {
                scope.spawn(move || (0..10_000).for_each(|_| lane.add(3)));
            }
        });
        assert_eq!(lanes.iter().map(|lane| lane.get()).sum::<u64>(), 120_000);
        assert!(size_of_val(&lanes[0]) == 128 && align_of_val(&lanes[0]) == 128);
        let last = Tally(u64::MAX.into());
        last.add(2);
        assert_eq!(last.get(), 1);
    }
}

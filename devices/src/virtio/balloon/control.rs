//! The balloon from outside: how large it is to be, how large the guest says that it is, and what the
//! guest says of its memory. Used from any thread.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::PAGE;
use super::statistics::Statistics;
use crate::event::Event;
use crate::virtio::Interrupt;

/// Statistics that are no older are given again: however often somebody asks, the guest is asked no
/// more often than this.
const FRESH: Duration = Duration::from_secs(1);

/// Sets the balloon's size, and tells what is known of it.
pub struct Control {
    ram_pages: u32,
    pub(super) target_pages: AtomicU32,
    /// As the driver says: any number.
    pub(super) actual_pages: AtomicU32,
    pub(super) poison: AtomicU32,
    inflated: AtomicU64,
    reported: AtomicU64,
    failed: AtomicU64,
    ask: Event,
    state: Mutex<State>,
    told: Condvar,
}

/// Bytes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Put into the balloon and given back to the host.
    pub inflated: u64,
    /// Reported as free and given back to the host.
    pub reported: u64,
    /// Times that the host refused to take pages.
    pub failed: u64,
}

#[derive(Default)]
struct State {
    /// While the driver runs.
    interrupt: Option<Arc<dyn Interrupt>>,
    has_statistics: bool,
    statistics: Option<(Statistics, Instant)>,
    /// Counts the statistics that came.
    round: u64,
}

impl Control {
    pub(super) fn new(ram: u64) -> io::Result<Control> {
        Ok(Control {
            ram_pages: u32::try_from(ram / PAGE).unwrap_or(u32::MAX),
            target_pages: AtomicU32::new(0),
            actual_pages: AtomicU32::new(0),
            poison: AtomicU32::new(0),
            inflated: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            ask: Event::new()?,
            state: Mutex::default(),
            told: Condvar::new(),
        })
    }

    /// Asks the guest for a balloon of `bytes`, at most all of its RAM. It is kept over resets: each
    /// driver finds it.
    pub fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX).min(self.ram_pages);
        if self.target_pages.swap(pages, Ordering::Relaxed) == pages {
            return;
        }
        let interrupt = self.lock().interrupt.clone();
        if let Some(interrupt) = interrupt {
            interrupt.config();
        }
    }

    /// The size that was asked for last, in bytes.
    pub fn target(&self) -> u64 {
        u64::from(self.target_pages.load(Ordering::Relaxed)) * PAGE
    }

    /// The size that the guest says it has, in bytes; at most all of its RAM.
    pub fn actual(&self) -> u64 {
        u64::from(self.actual_pages.load(Ordering::Relaxed).min(self.ram_pages)) * PAGE
    }

    /// The guest's RAM in bytes.
    pub fn ram(&self) -> u64 {
        u64::from(self.ram_pages) * PAGE
    }

    /// Whether a driver serves the balloon.
    #[cfg(test)]
    pub(super) fn is_served(&self) -> bool {
        self.lock().interrupt.is_some()
    }

    /// What was given back so far.
    pub fn counts(&self) -> Counts {
        Counts {
            inflated: self.inflated.load(Ordering::Relaxed),
            reported: self.reported.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// What the guest says of its memory: asks it, and waits up to `patience`; what it has said last
    /// if it does not answer by then. `None`: it has never said anything.
    pub fn statistics(&self, patience: Duration) -> Option<Statistics> {
        let state = self.lock();
        let fresh = state.statistics.is_some_and(|(_, at)| at.elapsed() < FRESH);
        if fresh || !state.has_statistics {
            return state.statistics.map(|(statistics, _)| statistics);
        }
        let round = state.round;
        self.ask.signal();
        let waits = |state: &mut State| state.round == round && state.has_statistics;
        let waited = self.told.wait_timeout_while(state, patience, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.statistics.map(|(statistics, _)| statistics)
    }

    /// A driver has come.
    pub(super) fn open(&self, interrupt: Arc<dyn Interrupt>, has_statistics: bool) {
        let mut state = self.lock();
        state.interrupt = Some(interrupt);
        state.has_statistics = has_statistics;
    }

    /// The driver is gone, and with it the balloon: the next one has all its RAM.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        let round = state.round;
        *state = State { round, ..State::default() };
        self.actual_pages.store(0, Ordering::Relaxed);
        self.poison.store(0, Ordering::Relaxed);
        self.told.notify_all();
    }

    /// Signalled when somebody asks for statistics.
    pub(super) fn ask(&self) -> &Event {
        &self.ask
    }

    /// The driver has told its statistics.
    pub(super) fn tell(&self, statistics: Statistics) {
        let mut state = self.lock();
        state.statistics = Some((statistics, Instant::now()));
        state.round = state.round.wrapping_add(1);
        self.told.notify_all();
    }

    pub(super) fn count_inflated(&self, bytes: u64) {
        self.inflated.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_reported(&self, bytes: u64) {
        self.reported.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Sound between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! How many connections there may be: in all, as viewers, and of one address before it has come in.
//!
//! A connection that is one too many is closed at once. The limits hold what strangers can make us
//! keep (a thread and some buffers each) and how often they can make us write into the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::dhcp::limit::LogLimit;

/// Connections in all.
pub const CONNECTIONS: usize = 64;
/// Viewers that are in.
pub const VIEWERS: usize = 32;
/// Connections of one address that have not come in, or have not said yet what they speak.
pub const NEWCOMERS: usize = 8;
/// Connections of one address that speak HTTP: a browser makes six.
pub const HTTP: usize = 16;
/// For how long an address is known as a browser's.
const KNOWN: Duration = Duration::from_secs(60);
/// How many such addresses are known: the latest.
const BROWSERS: usize = 64;

/// What a connection counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Newcomer,
    Http,
    Viewer,
}

impl Stage {
    /// How many there may be: in all, and of one address.
    fn limits(self) -> (usize, usize) {
        match self {
            Stage::Newcomer => (CONNECTIONS, NEWCOMERS),
            Stage::Http => (CONNECTIONS, HTTP),
            Stage::Viewer => (VIEWERS, VIEWERS),
        }
    }
}

/// Counts connections; clones count together.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    /// No entry is zero, so there are at most as many as connections.
    by_address: HashMap<(Stage, IpAddr), usize>,
    /// When an address last seemed a browser's; at most [`BROWSERS`].
    browsers: HashMap<IpAddr, Instant>,
    log: LogLimit,
}

impl Counts {
    fn of(&self, stage: Stage) -> usize {
        let entries = self.by_address.iter().filter(|((other, _), _)| *other == stage);
        entries.map(|(_, count)| *count).sum()
    }

    fn add(&mut self, stage: Stage, from: IpAddr) -> bool {
        let (all, of_one) = stage.limits();
        let count = self.by_address.get(&(stage, from)).copied().unwrap_or(0);
        if self.of(stage) >= all || count >= of_one {
            return false;
        }
        self.by_address.insert((stage, from), count.saturating_add(1));
        true
    }

    fn know(&mut self, from: IpAddr, now: Instant) {
        self.browsers.insert(from, now);
        if self.browsers.len() > BROWSERS
            && let Some(oldest) = self.browsers.iter().min_by_key(|(_, when)| **when)
        {
            let oldest = *oldest.0;
            self.browsers.remove(&oldest);
        }
    }

    fn remove(&mut self, stage: Stage, from: IpAddr) {
        if let Some(count) = self.by_address.get_mut(&(stage, from)) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_address.remove(&(stage, from));
            }
        }
    }
}

impl Gate {
    /// One that nobody has passed.
    pub fn new(now: Instant) -> Gate {
        let (by_address, browsers) = (HashMap::new(), HashMap::new());
        Gate(Arc::new(Mutex::new(Counts { by_address, browsers, log: LogLimit::new(now) })))
    }

    /// Lets a new connection in; `None`: it is one too many.
    pub fn enter(&self, from: IpAddr) -> Option<Ticket> {
        let from = from.to_canonical();
        let mut counts = self.counts();
        let total: usize = counts.by_address.values().sum();
        let fits = total < CONNECTIONS && counts.add(Stage::Newcomer, from);
        fits.then(|| Ticket { gate: self.clone(), from, stage: Stage::Newcomer })
    }

    /// Whether something that strangers cause may be logged now.
    pub fn may_log(&self) -> bool {
        self.counts().log.allows(Instant::now())
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Sound between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    gate: Gate,
    from: IpAddr,
    stage: Stage,
}

impl Ticket {
    /// It speaks HTTP. `false`: too many of its address do.
    pub fn speaks_http(&mut self) -> bool {
        self.seems_a_browser();
        self.become_a(Stage::Http)
    }

    /// Its address speaks HTTP, or has gone without a word when it was greeted in RFB, as a browser does: it
    /// will try again, and is waited for then.
    pub fn seems_a_browser(&self) {
        self.gate.counts().know(self.from, Instant::now());
    }

    /// Whether its address seemed a browser's of late, or has a page open.
    pub fn beside_http(&self) -> bool {
        let counts = self.gate.counts();
        counts.by_address.contains_key(&(Stage::Http, self.from))
            || counts.browsers.get(&self.from).is_some_and(|when| when.elapsed() < KNOWN)
    }

    /// It is a viewer that may come in. `false`: there are too many.
    pub fn admit(&mut self) -> bool {
        self.become_a(Stage::Viewer)
    }

    /// Whether no viewer can come in now.
    pub fn viewers_are_full(&self) -> bool {
        self.gate.counts().of(Stage::Viewer) >= VIEWERS
    }

    /// Whether something that this connection causes may be logged now. Who is in may.
    pub fn may_log(&self) -> bool {
        self.stage == Stage::Viewer || self.gate.may_log()
    }

    fn become_a(&mut self, stage: Stage) -> bool {
        let mut counts = self.gate.counts();
        let fits = counts.add(stage, self.from);
        if fits {
            counts.remove(self.stage, self.from);
            drop(counts);
            self.stage = stage;
        }
        fits
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.counts().remove(self.stage, self.from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_address_cannot_keep_others_out_before_it_is_in() {
        let gate = Gate::new(Instant::now());
        let mut first: Vec<Ticket> =
            (0..NEWCOMERS).filter_map(|_| gate.enter(address(1))).collect();
        assert_eq!(first.len(), NEWCOMERS);
        assert!(gate.enter(address(1)).is_none());
        assert!(gate.enter("::ffff:10.0.0.1".parse().unwrap()).is_none());
        assert!(gate.enter(address(2)).is_some());
        assert!(first[0].admit() && first[1].speaks_http());
        assert_eq!((0..9).filter_map(|_| gate.enter(address(1))).count(), 9, "dropped at once");
        drop(first);
        assert!(gate.counts().by_address.is_empty());
    }

    #[test]
    fn there_are_limits_for_all_together() {
        let gate = Gate::new(Instant::now());
        let enter = |last| gate.enter(address(last));
        let mut viewers: Vec<Ticket> = (0..VIEWERS as u8).map(|n| enter(n).unwrap()).collect();
        assert!(viewers.iter_mut().all(Ticket::admit));
        let mut late = enter(200).unwrap();
        assert!(late.viewers_are_full() && !late.admit());
        let rest: Vec<Ticket> = (0..=255).map_while(enter).collect();
        assert_eq!(viewers.len() + 1 + rest.len(), CONNECTIONS);
        viewers.pop();
        assert!(late.admit());
    }

    #[test]
    fn an_address_that_speaks_http_is_known() {
        let gate = Gate::new(Instant::now());
        let mut page = gate.enter(address(1)).unwrap();
        let (beside, other) = (gate.enter(address(1)).unwrap(), gate.enter(address(2)).unwrap());
        assert!(!beside.beside_http());
        assert!(page.speaks_http());
        assert!(beside.beside_http() && !other.beside_http());
        drop(page);
        assert!(beside.beside_http(), "for a while");
        for last in 0..=255 {
            assert!(gate.enter(address(last)).unwrap().speaks_http());
        }
        assert_eq!(gate.counts().browsers.len(), BROWSERS);
        assert!(!beside.beside_http() && gate.enter(address(255)).unwrap().beside_http());
    }

    #[test]
    fn strangers_do_not_fill_the_log() {
        let gate = Gate::new(Instant::now());
        let mut ticket = gate.enter(address(1)).unwrap();
        let lines = (0..100).filter(|_| ticket.may_log()).count();
        assert!(lines < 10, "{lines}");
        assert!(ticket.admit() && ticket.may_log());
    }
}

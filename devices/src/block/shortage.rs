//! A host without room: which disks wait for some, and who is to know.
//!
//! A request that meets ENOSPC is not failed. The queue that serves it keeps it, says so here, and
//! tries again from time to time; whoever runs the machine is told of each change, and pauses the
//! guest as long as anybody waits. Nothing here has a thread. The one lock is held only to look at
//! or change the list; `changed` is called without it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::event::Event;

/// One disk that waits for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The disk, as its files are named to users.
    pub disk: Arc<str>,
    /// Bytes that its filesystem had left at the last try, if that can be told. There may be some,
    /// and yet too few; or a quota is used up.
    pub free_bytes: Option<u64>,
    /// Since when.
    pub since: Instant,
}

/// Everybody of one machine who waits for room.
pub struct Shortages {
    waiting: Mutex<Vec<Entry>>,
    changed: Box<dyn Fn() + Send + Sync>,
}

struct Entry {
    number: u64,
    shortage: Shortage,
    wake: Event,
}

impl Shortages {
    /// Nobody waits yet. `changed` is called whenever somebody begins or ceases to, from their
    /// threads: it must not block.
    pub fn new(changed: impl Fn() + Send + Sync + 'static) -> Arc<Shortages> {
        Arc::new(Shortages { waiting: Mutex::default(), changed: Box::new(changed) })
    }

    /// Notes that a queue of `disk` waits, until the answer is dropped. `wake` is signalled when it
    /// should try at once.
    pub fn begin(
        self: &Arc<Shortages>,
        disk: &Arc<str>,
        free_bytes: Option<u64>,
        wake: &Event,
    ) -> Waiting {
        let number = {
            let mut waiting = self.lock();
            let number = waiting.last().map_or(0, |entry| entry.number.wrapping_add(1));
            let shortage = Shortage { disk: disk.clone(), free_bytes, since: Instant::now() };
            waiting.push(Entry { number, shortage, wake: wake.clone() });
            number
        };
        (self.changed)();
        Waiting { shortages: self.clone(), number }
    }

    /// The disks that wait, each once, the one that has waited longest first.
    pub fn list(&self) -> Vec<Shortage> {
        let mut disks: Vec<Shortage> = Vec::new();
        for entry in self.lock().iter() {
            match disks.iter_mut().find(|known| known.disk == entry.shortage.disk) {
                Some(known) => known.free_bytes = entry.shortage.free_bytes,
                None => disks.push(entry.shortage.clone()),
            }
        }
        disks
    }

    /// Lets everybody who waits try again at once.
    pub fn retry(&self) {
        self.lock().iter().for_each(|entry| entry.wake.signal());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Shortages {
    /// For disks whose waiting is nobody's business.
    fn default() -> Shortages {
        Shortages { waiting: Mutex::default(), changed: Box::new(|| ()) }
    }
}

impl fmt::Debug for Shortages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shortages").field(&self.list()).finish()
    }
}

/// A queue's place among those who wait.
#[derive(Debug)]
#[must_use = "waiting ends when this is dropped"]
pub struct Waiting {
    shortages: Arc<Shortages>,
    number: u64,
}

impl Waiting {
    /// It was tried again, in vain; so much was free.
    pub fn still(&self, free_bytes: Option<u64>) {
        let mut waiting = self.shortages.lock();
        if let Some(entry) = waiting.iter_mut().find(|entry| entry.number == self.number) {
            entry.shortage.free_bytes = free_bytes;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shortages.lock().retain(|entry| entry.number != self.number);
        (self.shortages.changed)();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn each_disk_is_listed_once_and_each_queue_is_woken() {
        let changes = Arc::new(AtomicU32::new(0));
        let count = changes.clone();
        let shortages = Shortages::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let events = [(); 3].map(|()| Event::new().unwrap());
        let first = shortages.begin(&a, Some(5), &events[0]);
        let second = shortages.begin(&b, None, &events[1]);
        let third = shortages.begin(&a, Some(7), &events[2]);
        let list = |shortages: &Shortages| -> Vec<(String, Option<u64>)> {
            shortages.list().iter().map(|s| (s.disk.to_string(), s.free_bytes)).collect()
        };
        assert_eq!(list(&shortages), [("a".into(), Some(7)), ("b".into(), None)]);
        second.still(Some(9));
        shortages.retry();
        assert!(events.iter().all(Event::take));
        drop(first);
        assert_eq!(list(&shortages), [("b".into(), Some(9)), ("a".into(), Some(7))]);
        drop((second, third));
        assert_eq!(shortages.list(), []);
        assert_eq!(changes.load(Ordering::SeqCst), 6);
    }
}

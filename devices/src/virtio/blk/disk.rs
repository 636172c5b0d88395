//! The disk, as requests see it: what is allowed, and what an error comes to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::config::SECTOR;
use super::counters::Counters;
use super::limit::Limiter;
use super::request::{Kind, Request, S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_GET_ID, T_WRITE_ZEROES};
use super::segments::{Command, Segments};
use crate::block::shortage::Shortages;
use crate::block::{BlockBackend, BlockError};
use crate::virtio::queue::Chain;
use crate::virtio::throttle::Throttle;

/// Length of the serial number (VIRTIO 1.3 §5.2.6).
pub const ID_LEN: usize = 20;
/// A request is never kept longer by its disk's limits before they are asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

static FAILURES: Throttle = Throttle::new();

/// What is left to be done for a request that was checked.
#[derive(Debug)]
pub enum Task {
    /// Its data is moved to or from this place on the disk, in bytes.
    Transfer {
        /// Position of the first byte.
        offset: u64,
    },
    /// What was written is made durable.
    Flush,
    /// Ranges are discarded or zeroed.
    Trim(Segments),
    /// Nothing.
    Answer {
        /// Its status.
        status: u8,
        /// Bytes of data in the answer.
        written: usize,
    },
}

impl Task {
    /// Bytes that a request with this task is about, if it moves `data` bytes.
    pub fn bytes(&self, data: u64) -> u64 {
        match self {
            Task::Transfer { .. } => data,
            Task::Trim(segments) => segments.bytes(),
            Task::Flush | Task::Answer { .. } => 0,
        }
    }
}

/// The disk, as requests see it.
#[derive(Clone)]
pub struct Disk {
    /// How it is called in logs and reports.
    pub name: Arc<str>,
    /// The data.
    pub backend: Arc<dyn BlockBackend>,
    /// Answer to GET_ID, padded with zeroes.
    pub serial: [u8; ID_LEN],
    /// Writes are refused.
    pub read_only: bool,
    /// The driver does not flush: each write must be durable by itself (§5.2.6.2).
    pub write_through: bool,
    /// What needs no waiting may be done without the ring.
    pub inline: bool,
    /// What was done.
    pub counters: Arc<Counters>,
    /// What its guest may ask for in a second.
    pub limiter: Option<Arc<Limiter>>,
    /// Who waits for room on the host.
    pub shortages: Arc<Shortages>,
}

impl Disk {
    /// Checks a request: what is left to be done for it.
    pub fn task(&self, request: &Request<'_>, chain: &mut Chain<'_>) -> Task {
        let refused = |status| Task::Answer { status, written: 0 };
        let command = match request.kind {
            Kind::In | Kind::Out => {
                let len = request.data(chain).len();
                let place = self.locate(request.kind, request.sector, len);
                return place.map_or_else(refused, |offset| Task::Transfer { offset });
            }
            Kind::Flush => return Task::Flush,
            Kind::Other(T_DISCARD) => Command::Discard,
            Kind::Other(T_WRITE_ZEROES) => Command::WriteZeroes,
            Kind::Other(T_GET_ID) => {
                return Task::Answer { status: S_OK, written: chain.writable.write(&self.serial) };
            }
            Kind::Other(_) => return refused(S_UNSUPP),
        };
        if self.read_only {
            return refused(self.refuse(&BlockError::ReadOnly));
        }
        Segments::read(self, command, &mut chain.readable).map_or_else(refused, Task::Trim)
    }

    /// The byte offset of a data transfer of `len` bytes, or the status that refuses it.
    pub fn locate(&self, kind: Kind, sector: u64, len: usize) -> Result<u64, u8> {
        if kind == Kind::Out && self.read_only {
            return Err(self.refuse(&BlockError::ReadOnly));
        }
        let len = len as u64;
        let offset = sector.checked_mul(SECTOR).filter(|_| len.is_multiple_of(SECTOR));
        let end = offset.and_then(|offset| offset.checked_add(len));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= self.backend.info().capacity => Ok(offset),
            _ => Err(self.refuse(&BlockError::Range { offset: offset.unwrap_or(u64::MAX), len })),
        }
    }

    /// Lets a request pass its disk's limits, or says until when it has to wait. A flush is
    /// counted, but never waits.
    ///
    /// # Errors
    /// When to ask again.
    pub fn admit(&self, task: &Task, bytes: u64) -> Result<(), Instant> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let now = Instant::now();
        let wait = match task {
            Task::Answer { .. } => return Ok(()),
            Task::Flush => {
                limiter.charge(now);
                return Ok(());
            }
            Task::Trim(_) => limiter.admit(0, now),
            Task::Transfer { .. } => limiter.admit(bytes, now),
        };
        // A time that cannot be told is centuries away.
        wait.map_err(|wait| now.checked_add(wait).unwrap_or(now + LONGEST_WAIT))
    }

    /// What becomes of a request that has failed: the one place where that is decided. `Some`: it
    /// ends with this status. `None`: the host is full; it is kept until there is room.
    pub fn outcome(&self, error: &BlockError) -> Option<u8> {
        if matches!(error, BlockError::NoSpace) {
            self.counters.stalls.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.refuse(error))
    }

    /// The status byte that an error comes to; it is logged.
    pub fn refuse(&self, error: &BlockError) -> u8 {
        if FAILURES.allows() {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
            let name = &self.name;
            log::warn!("{name}: a request failed: {error}{}", cause.unwrap_or_default());
        }
        match error {
            BlockError::Unsupported => S_UNSUPP,
            BlockError::NoSpace
            | BlockError::Range { .. }
            | BlockError::ReadOnly
            | BlockError::Corrupt(_)
            | BlockError::Io(_) => S_IOERR,
        }
    }

    /// Says at the end of a queue's service how many of its requests were given up.
    pub fn report_lost(&self, lost: u32) {
        if lost > 0 {
            let name = &self.name;
            log::error!("{name}: {lost} requests found no room to the end, and were not done");
        }
    }
}

/// An error of the host's I/O on data, told apart as a backend would.
pub fn host_error(error: io::Error) -> BlockError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlockError::NoSpace,
        _ => BlockError::Io(error),
    }
}

//! A block request (VIRTIO 1.3 §5.2.6): 16 bytes of header, data, one byte of status.
//!
//! Header and status may be cut across descriptors anyhow; data is left in place. This file also
//! holds the disk as requests see it: what is allowed, and which status an outcome comes to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{Bytes, VolatileSlice};

use super::config::{MAX_SEGMENT_SECTORS, MAX_SEGMENTS, SECTOR};
use crate::block::{BlockBackend, BlockError};
use crate::virtio::buffers::Buffers;
use crate::virtio::queue::Chain;
use crate::virtio::throttle::Throttle;

/// It was done.
pub const S_OK: u8 = 0;
/// It failed.
pub const S_IOERR: u8 = 1;
/// It is not understood.
pub const S_UNSUPP: u8 = 2;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

const HEADER_LEN: usize = 16;
const SEGMENT_LEN: usize = 16;
/// Length of the serial number (§5.2.6).
pub const ID_LEN: usize = 20;
/// A write-zeroes segment may be given back to the host.
const SEGMENT_UNMAP: u32 = 1;

static FAILURES: Throttle = Throttle::new();

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data from the disk.
    In,
    /// Data to the disk.
    Out,
    /// Durability of what was written.
    Flush,
    /// Anything that is done at once: its type.
    Other(u32),
}

/// A request, taken apart; its data is what is left in the chain.
#[derive(Debug)]
pub struct Request<'m> {
    /// What it wants.
    pub kind: Kind,
    /// Position on the disk, in sectors of 512 bytes.
    pub sector: u64,
    /// Where the status goes.
    pub status: VolatileSlice<'m>,
}

impl<'m> Request<'m> {
    /// Takes header and status off the chain. `None`: there is no room even for a status.
    pub fn parse(chain: &mut Chain<'m>) -> Option<Request<'m>> {
        let status = chain.writable.split_last()?;
        let mut header = [0; HEADER_LEN];
        let kind = match chain.readable.read(&mut header) {
            None => Kind::Other(u32::MAX),
            Some(()) => match u32_at(&header, 0) {
                T_IN => Kind::In,
                T_OUT => Kind::Out,
                T_FLUSH => Kind::Flush,
                other => Kind::Other(other),
            },
        };
        Some(Request { kind, sector: u64_at(&header, 8), status })
    }

    /// Writes the status byte.
    pub fn finish(&self, status: u8) {
        // The byte was found in RAM when the chain was walked, and RAM stays.
        let _ = self.status.write_obj(status, 0);
    }
}

/// Which errors and chains were counted, and how much was done; shared with whoever reports it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads that succeeded.
    pub reads: AtomicU64,
    /// Bytes they moved.
    pub read_bytes: AtomicU64,
    /// Writes that succeeded.
    pub writes: AtomicU64,
    /// Bytes they moved.
    pub written_bytes: AtomicU64,
    /// Flushes that succeeded.
    pub flushes: AtomicU64,
    /// Requests that failed.
    pub errors: AtomicU64,
}

/// The disk, as requests see it.
#[derive(Clone)]
pub struct Disk {
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
}

impl Disk {
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

    /// Does a request that moves no disk data: returns its status, and how many data bytes the
    /// answer has.
    pub fn other(&self, kind: u32, chain: &mut Chain<'_>) -> (u8, usize) {
        match kind {
            T_GET_ID => (S_OK, chain.writable.write(&self.serial)),
            T_DISCARD | T_WRITE_ZEROES => {
                (self.segments(kind, &mut chain.readable).unwrap_or_else(|status| status), 0)
            }
            _ => (S_UNSUPP, 0),
        }
    }

    /// Discards, or writes zeroes to, a list of ranges.
    fn segments(&self, kind: u32, list: &mut Buffers<'_>) -> Result<u8, u8> {
        if self.read_only {
            return Err(self.refuse(&BlockError::ReadOnly));
        }
        let most = MAX_SEGMENTS as usize * SEGMENT_LEN;
        if list.is_empty() || !list.len().is_multiple_of(SEGMENT_LEN) || list.len() > most {
            return Err(S_IOERR);
        }
        let mut segment = [0; SEGMENT_LEN];
        while list.read(&mut segment).is_some() {
            let (sector, sectors) = (u64_at(&segment, 0), u32_at(&segment, 8));
            let flags = u32_at(&segment, 12);
            let allowed = if kind == T_WRITE_ZEROES { SEGMENT_UNMAP } else { 0 };
            if flags & !allowed != 0 {
                return Err(S_UNSUPP);
            }
            if sectors > MAX_SEGMENT_SECTORS {
                return Err(S_IOERR);
            }
            let len = u64::from(sectors) * SECTOR;
            let offset = self.locate(Kind::Out, sector, len as usize)?;
            let done = match (len, kind) {
                (0, _) => Ok(()),
                (_, T_DISCARD) => self.backend.discard(offset, len),
                _ => self.backend.zero(offset, len, flags & SEGMENT_UNMAP != 0),
            };
            done.map_err(|error| self.refuse(&error))?;
        }
        if self.write_through {
            self.backend.flush().map_err(|error| self.refuse(&error))?;
        }
        Ok(S_OK)
    }

    /// Counts a request that went well.
    pub fn count(&self, kind: Kind, len: usize) {
        let (requests, bytes) = match kind {
            Kind::In => (&self.counters.reads, &self.counters.read_bytes),
            Kind::Out => (&self.counters.writes, &self.counters.written_bytes),
            Kind::Flush => {
                self.counters.flushes.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Kind::Other(_) => return,
        };
        requests.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// The status byte that an error comes to; the one place where that is decided. That a full
    /// host disk pauses the machine instead is to be decided here too.
    pub fn refuse(&self, error: &BlockError) -> u8 {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        if FAILURES.allows() {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
            log::warn!("disk request failed: {error}{}", cause.unwrap_or_default());
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
}

/// An error of the host's I/O, told apart as a backend would.
pub fn host_error(error: io::Error) -> BlockError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlockError::NoSpace,
        _ => BlockError::Io(error),
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from(u32_at(bytes, at + 4)) << 32 | u64::from(u32_at(bytes, at))
}

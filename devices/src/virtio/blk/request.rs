//! A block request (VIRTIO 1.3 §5.2.6): 16 bytes of header, data, one byte of status.
//!
//! Header and status may be cut across descriptors anyhow; data is left in place.

use vm_memory::{Bytes, VolatileSlice};

use crate::virtio::buffers::Buffers;
use crate::virtio::queue::Chain;

/// It was done.
pub const S_OK: u8 = 0;
/// It failed.
pub const S_IOERR: u8 = 1;
/// It is not understood.
pub const S_UNSUPP: u8 = 2;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
/// Asks for the serial number.
pub const T_GET_ID: u32 = 8;
/// Declares ranges unused.
pub const T_DISCARD: u32 = 11;
/// Makes ranges zeroes.
pub const T_WRITE_ZEROES: u32 = 13;

const HEADER_LEN: usize = 16;
/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data from the disk.
    In,
    /// Data to the disk.
    Out,
    /// Durability of what was written.
    Flush,
    /// Anything else: its type.
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

    /// The data that it moves.
    pub fn data<'c>(&self, chain: &'c Chain<'m>) -> &'c Buffers<'m> {
        if self.kind == Kind::In { &chain.writable } else { &chain.readable }
    }

    /// Writes the status byte.
    pub fn finish(&self, status: u8) {
        // The byte was found in RAM when the chain was walked, and RAM stays.
        let _ = self.status.write_obj(status, 0);
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from(u32_at(bytes, at + 4)) << 32 | u64::from(u32_at(bytes, at))
}

//! A request in the io_uring engine: how far it has come, and where in its buffers that is.

use std::time::Instant;

use vm_memory::VolatileSlice;

use super::disk::Task;
use super::request::{Kind, Request, S_IOERR, S_OK};
use crate::block::ring::{Direction, MAX_PIECES};
use crate::block::{Access, BlockError};
use crate::virtio::queue::Chain;

/// A request that is being served.
pub struct Slot<'m> {
    /// The chain; its data is what is left of it.
    pub chain: Chain<'m>,
    /// Header and status.
    pub request: Request<'m>,
    /// What is to be done.
    pub task: Task,
    /// Position of the data on the disk, in bytes.
    pub offset: u64,
    /// Its place in the order in which requests came.
    pub number: u64,
    /// When it was taken off the ring.
    pub taken: Instant,
    /// How much of the data has been placed, and where that is in the chain.
    pub placed: Cursor,
    /// Length of the data.
    pub len: u64,
    /// Operations in flight.
    pub operations: u32,
    /// In which of the engine's queues it waits, if in any.
    pub waits: Option<WaitsFor>,
    /// It has found no room on the host, and has not ended since.
    pub held: bool,
    /// What is being done.
    pub phase: Phase,
    /// Its outcome so far.
    pub status: u8,
}

/// What a request is at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its data is being moved.
    Data,
    /// Its ranges are being discarded or zeroed.
    Trim,
    /// A flush, be it the request itself or the end of a durable write.
    Flush,
    /// It has found no room on the host, and is to be done again from the start.
    Held,
    /// Only the end of what is in flight is awaited.
    Last,
}

/// What keeps a request that could go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// Room in the ring.
    Ring,
    /// Its disk's limits.
    Turn,
}

/// A place in a list of pieces.
#[derive(Clone, Copy, Default)]
pub struct Cursor {
    /// From the start of the data, in bytes.
    pub at: u64,
    /// The piece.
    pub piece: usize,
    /// Bytes into the piece.
    pub within: usize,
}

impl<'m> Slot<'m> {
    /// A request that nothing has been done for.
    pub fn new(
        chain: Chain<'m>,
        request: Request<'m>,
        task: Task,
        (number, taken): (u64, Instant),
    ) -> Slot<'m> {
        let (offset, len) = match task {
            Task::Transfer { offset } => (offset, request.data(&chain).len() as u64),
            Task::Flush | Task::Trim(_) | Task::Answer { .. } => (0, 0),
        };
        Slot {
            phase: Phase::of(&task),
            chain,
            request,
            task,
            offset,
            number,
            taken,
            placed: Cursor::default(),
            len,
            operations: 0,
            waits: None,
            held: false,
            status: S_OK,
        }
    }

    /// Begins anew: what was done is done again. Nothing of it may be in flight.
    pub fn restart(&mut self) {
        (self.placed, self.phase) = (Cursor::default(), Phase::of(&self.task));
    }

    /// Whatever comes now, the request has failed: the first reason counts.
    pub fn fail(&mut self, status: u8) {
        if self.status == S_OK {
            self.status = status.max(S_IOERR);
        }
        self.phase = Phase::Last;
    }

    /// Which way its data goes.
    pub fn direction(&self) -> (Access, Direction) {
        match self.request.kind {
            Kind::In => (Access::Read, Direction::Read),
            _ => (Access::Write, Direction::Write),
        }
    }

    /// Its data.
    pub fn data(&self) -> &[VolatileSlice<'m>] {
        self.request.data(&self.chain).pieces()
    }

    /// Takes at most `len` further bytes of the data, and at most [`MAX_PIECES`] pieces.
    ///
    /// # Errors
    /// When nothing comes of it: a placement of no length would be asked for forever.
    pub fn take(
        &mut self,
        len: u64,
        pieces: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<(), BlockError> {
        let mut cursor = self.placed;
        cursor.advance(self.data(), len, MAX_PIECES, |piece| pieces.push(piece));
        if cursor.at == self.placed.at {
            return Err(BlockError::Corrupt("a placement of no length".into()));
        }
        self.placed = cursor;
        Ok(())
    }
}

impl Phase {
    fn of(task: &Task) -> Phase {
        match task {
            Task::Transfer { .. } => Phase::Data,
            Task::Flush => Phase::Flush,
            Task::Trim(_) => Phase::Trim,
            Task::Answer { .. } => Phase::Last,
        }
    }
}

impl Cursor {
    /// Passes over at most `len` bytes in at most `count` pieces, and shows them to `each`.
    pub fn advance<'m>(
        &mut self,
        pieces: &[VolatileSlice<'m>],
        mut len: u64,
        count: usize,
        mut each: impl FnMut(VolatileSlice<'m>),
    ) {
        for _ in 0..count {
            let Some(piece) = pieces.get(self.piece).filter(|_| len > 0) else { return };
            let left = piece.len().saturating_sub(self.within);
            let some = left.min(usize::try_from(len).unwrap_or(usize::MAX));
            let Ok(part) = piece.subslice(self.within, some) else { return };
            each(part);
            len -= some as u64;
            self.at += some as u64;
            self.within += some;
            if self.within == piece.len() {
                (self.piece, self.within) = (self.piece + 1, 0);
            }
        }
    }
}

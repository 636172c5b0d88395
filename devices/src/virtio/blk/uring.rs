//! The io_uring engine: many requests at once, straight between guest memory and file.
//!
//! A request becomes a [`Slot`]. Its data is cut where [`BlockBackend::place`] says, and each
//! extent is done at once where that takes no waiting ([`Inline`]), and else is an operation of the
//! ring; zeroes are filled in, and what only a call can do is called for, in this thread.
//! Operations end in any order; with the last of a request its status is written. One
//! `io_uring_enter` hands over a batch and sleeps until a kick, the stop event, the timer or a
//! completion comes; one interrupt tells of a batch. Requests that have to wait: `uring/kept.rs`.
//!
//! A flush is started as soon as it is seen: it covers what was completed before, which the
//! driver has been told of, and nothing else (VIRTIO 1.3 §5.2.6.2).

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use vm_memory::VolatileSlice;

use super::counters::Ended;
use super::disk::{Disk, Task, host_error};
use super::request::{Kind, Request, S_OK};
use super::slot::{Cursor, Phase, Slot, WaitsFor};
use super::waits::Waits;
use crate::block::inline::{Attempt, Inline};
use crate::block::ring::{Completion, Extent, Idle, Ring, Token};
use crate::block::{Access, BlockError, FlushPlan, Placement};
use crate::event::Event;
use crate::mem::GuestMemory;
use crate::virtio::Interrupt;
use crate::virtio::queue::{Chain, Virtqueue};
use crate::virtio::service::ServiceError;

mod kept;

/// Operations in flight for one queue; requests beyond wait their turn.
pub const OPERATIONS: u16 = 128;

/// So much data is moved by this thread itself before the driver is told of what is done: it need
/// not idle meanwhile.
const TELL_BYTES: u64 = 256 << 10;

const EVENT_STOP: usize = 0;
const EVENT_WAKE: usize = 3;
const ZEROES: [u8; 4096] = [0; 4096];

/// Serves the queue until `stop`, and until nothing is in flight.
///
/// # Errors
/// When the rings cannot be served. What was in flight has ended even then.
pub fn serve(
    idle: Idle,
    memory: GuestMemory,
    disk: &Disk,
    queue: &mut Virtqueue<'_>,
    interrupt: &dyn Interrupt,
    stop: &Event,
) -> Result<(), ServiceError> {
    let waits = Waits::new()?;
    let events = vec![stop.clone(), queue.kick(), waits.timer().clone(), waits.wake().clone()];
    let ring = idle.enter(memory, events)?;
    Engine::new(disk, ring, waits, usize::from(queue.size())).run(queue, interrupt)
}

struct Engine<'d, 'm> {
    disk: &'d Disk,
    ring: Ring<'m>,
    inline: Inline,
    /// Bytes moved by this thread since the driver was told last.
    untold: u64,
    slots: Vec<Option<Slot<'m>>>,
    free: Vec<usize>,
    /// Requests that wait for room in the ring.
    waiting: VecDeque<usize>,
    /// Requests that wait for the disk's limits.
    limited: VecDeque<usize>,
    /// How many requests have found no room on the host, and have not ended since.
    held: usize,
    waits: Waits,
    /// Requests so far.
    count: u64,
    /// Requests whose status is written; `None`: it is not counted.
    done: Vec<(Chain<'m>, u32, Option<Ended>)>,
    /// Scratch for calls.
    pieces: Vec<VolatileSlice<'m>>,
    stopping: bool,
}

impl<'d, 'm> Engine<'d, 'm> {
    fn new(disk: &'d Disk, ring: Ring<'m>, waits: Waits, slots: usize) -> Engine<'d, 'm> {
        Engine {
            disk,
            ring,
            inline: Inline::default(),
            untold: 0,
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            waiting: VecDeque::new(),
            limited: VecDeque::new(),
            held: 0,
            waits,
            count: 0,
            done: Vec::with_capacity(slots),
            pieces: Vec::new(),
            stopping: false,
        }
    }

    fn run(
        mut self,
        queue: &mut Virtqueue<'m>,
        interrupt: &dyn Interrupt,
    ) -> Result<(), ServiceError> {
        loop {
            self.reap();
            self.go_on();
            let mut more = false;
            if self.accepts() {
                queue.disable_kicks()?;
                self.accept(queue, interrupt)?;
            }
            self.tell(queue, interrupt)?;
            if self.stopping && self.free.len() == self.slots.len() {
                self.waits.report(self.disk);
                return Ok(());
            }
            // Without a free slot a kick would change nothing.
            if self.accepts() && !self.free.is_empty() {
                more = queue.enable_kicks()?;
            }
            self.waits.set_timer()?;
            if more { self.ring.submit()? } else { self.ring.wait()? }
        }
    }

    /// Whether new requests are taken.
    fn accepts(&self) -> bool {
        !self.stopping && !self.waits.stall.is_on()
    }

    /// Takes note of everything that has ended.
    fn reap(&mut self) {
        while let Some(completion) = self.ring.next_completion() {
            match completion {
                Completion::Event(EVENT_STOP) => self.stopping = true,
                Completion::Event(EVENT_WAKE) => self.waits.woken = true,
                // The kick, or the timer: there is something to be looked after.
                Completion::Event(_) => {}
                Completion::Done { token, result } => self.operation_done(token, result),
            }
        }
        for _ in 0..self.waiting.len() {
            if !self.ring.has_room() {
                break;
            }
            let Some(index) = self.waiting.pop_front() else { break };
            self.with_slot(index, |engine, slot| {
                slot.waits = None;
                engine.advance(index, slot);
            });
        }
    }

    /// Tells the driver of everything that is done.
    fn tell(
        &mut self,
        queue: &mut Virtqueue<'m>,
        interrupt: &dyn Interrupt,
    ) -> Result<(), ServiceError> {
        if !self.done.is_empty() {
            let now = Instant::now();
            for (chain, written, ended) in self.done.drain(..) {
                if let Some(ended) = &ended {
                    self.disk.counters.count(queue.index(), ended, now);
                }
                queue.complete(chain, written)?;
            }
        }
        if queue.publish()? {
            interrupt.queue(queue.index());
        }
        self.untold = 0;
        Ok(())
    }

    /// Takes new requests, while there are slots: no more than a ring's worth.
    fn accept(
        &mut self,
        queue: &mut Virtqueue<'m>,
        interrupt: &dyn Interrupt,
    ) -> Result<(), ServiceError> {
        let mut clock = None;
        for _ in 0..queue.size() {
            let Some(&index) = self.free.last() else { break };
            let Some(mut chain) = queue.pop()? else { break };
            let Some(request) = Request::parse(&mut chain) else {
                queue.complete(chain, 0)?;
                continue;
            };
            let taken = *clock.get_or_insert_with(Instant::now);
            let task = self.disk.task(&request, &mut chain);
            if let Task::Answer { status, written } = task {
                request.finish(status);
                let ended = Ended::new(request.kind, status, 0, taken);
                self.done.push((chain, used_len(written), ended));
                continue;
            }
            self.count = self.count.wrapping_add(1);
            let mut slot = Slot::new(chain, request, task, (self.count, taken));
            self.free.pop();
            if self.has_turn(&slot) {
                self.slots[index] = Some(slot);
                self.with_slot(index, |engine, slot| engine.advance(index, slot));
            } else {
                slot.waits = Some(WaitsFor::Turn);
                self.slots[index] = Some(slot);
                self.limited.push_back(index);
            }
            if !self.accepts() {
                break;
            }
            if self.untold >= TELL_BYTES {
                self.tell(queue, interrupt)?;
                clock = None;
            }
        }
        Ok(())
    }

    /// Lets `change` work on a slot, and completes it when it has nothing left to do.
    fn with_slot(&mut self, index: usize, change: impl FnOnce(&mut Self, &mut Slot<'m>)) {
        let Some(mut slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        change(self, &mut slot);
        if slot.waits.is_some() || slot.operations > 0 || slot.phase != Phase::Last {
            self.slots[index] = Some(slot);
            return;
        }
        self.let_go(&slot);
        let kind = slot.request.kind;
        slot.request.finish(slot.status);
        let written = if kind == Kind::In { slot.len as usize } else { 0 };
        let ended = Ended::new(kind, slot.status, slot.task.bytes(slot.len), slot.taken);
        self.done.push((slot.chain, used_len(written), ended));
        self.free.push(index);
    }

    /// Goes on with a request as far as the ring has room.
    fn advance(&mut self, index: usize, slot: &mut Slot<'m>) {
        while slot.phase == Phase::Data && slot.placed.at < slot.len {
            if !self.ring.has_room() {
                return self.wait_for_room(index, slot);
            }
            if let Err(error) = self.place(index, slot) {
                self.failed(slot, &error);
            }
        }
        if slot.phase == Phase::Trim {
            slot.phase = Phase::Last;
            if let Task::Trim(segments) = &mut slot.task
                && let Err(error) = segments.run(self.disk)
            {
                self.failed(slot, &error);
            }
        }
        if slot.phase == Phase::Data && slot.operations == 0 {
            let durable = slot.request.kind == Kind::Out && self.disk.write_through;
            slot.phase = if durable { Phase::Flush } else { Phase::Last };
        }
        if slot.phase == Phase::Flush && slot.operations == 0 {
            if !self.ring.has_room() {
                return self.wait_for_room(index, slot);
            }
            slot.phase = Phase::Last;
            if let Err(error) = self.flush(index, slot) {
                self.failed(slot, &error);
            }
        }
    }

    fn wait_for_room(&mut self, index: usize, slot: &mut Slot<'m>) {
        slot.waits = Some(WaitsFor::Ring);
        self.waiting.push_back(index);
    }

    /// Deals with the next extent of a request's data.
    fn place(&mut self, index: usize, slot: &mut Slot<'m>) -> Result<(), BlockError> {
        let at = slot.placed.at;
        let (position, left) = (slot.offset + at, slot.len - at);
        let (access, direction) = slot.direction();
        self.pieces.clear();
        match self.disk.backend.place(position, left, access)? {
            Placement::File { file, offset, len, lease } => {
                slot.take(len, &mut self.pieces)?;
                let token = Token { slot: index, at, len: slot.placed.at - at };
                if self.disk.inline
                    && let Attempt::Done =
                        self.inline.transfer(&file, offset, direction, &self.pieces)
                {
                    self.untold += token.len;
                    return Ok(());
                }
                let extent = Extent { file, offset, lease };
                if !self.ring.transfer(token, direction, extent, self.pieces.iter().copied()) {
                    return Err(BlockError::Io(io::ErrorKind::OutOfMemory.into()));
                }
                slot.operations += 1;
                Ok(())
            }
            Placement::Zeroes { .. } if access == Access::Write => {
                Err(BlockError::Corrupt("a write was placed on zeroes".into()))
            }
            Placement::Zeroes { len } => {
                slot.take(len, &mut self.pieces)?;
                self.pieces.iter().for_each(zero);
                Ok(())
            }
            Placement::Call { len } => {
                slot.take(len, &mut self.pieces)?;
                self.untold += slot.placed.at - at;
                self.call(access, position)
            }
        }
    }

    fn call(&mut self, access: Access, position: u64) -> Result<(), BlockError> {
        match access {
            Access::Read => self.disk.backend.read_at(&self.pieces, position),
            Access::Write => self.disk.backend.write_at(&self.pieces, position),
        }
    }

    fn flush(&mut self, index: usize, slot: &mut Slot<'m>) -> Result<(), BlockError> {
        match self.disk.backend.plan_flush() {
            FlushPlan::Done => Ok(()),
            FlushPlan::Call => self.disk.backend.flush(),
            FlushPlan::Sync(file) if self.inline.is_volatile(&file) => Ok(()),
            FlushPlan::Sync(file) => {
                if !self.ring.sync(Token { slot: index, at: 0, len: 0 }, file) {
                    return self.disk.backend.flush();
                }
                slot.operations += 1;
                Ok(())
            }
        }
    }

    fn operation_done(&mut self, token: Token, result: io::Result<()>) {
        self.with_slot(token.slot, |engine, slot| {
            slot.operations = slot.operations.saturating_sub(1);
            if let Err(error) = result
                && let Err(error) = engine.repeat(slot, token, error)
            {
                engine.failed(slot, &error);
            }
            if slot.waits.is_none() {
                engine.advance(token.slot, slot);
            }
        });
    }

    /// What the kernel would not do with these buffers (a file opened with O_DIRECT wants them
    /// aligned), the backend may. A sync is never repeated: what it failed to write is gone.
    fn repeat(
        &mut self,
        slot: &mut Slot<'m>,
        token: Token,
        error: io::Error,
    ) -> Result<(), BlockError> {
        if token.len == 0 {
            self.disk.backend.sync_failed(&error);
            return Err(BlockError::Io(error));
        }
        let refused = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
        if !refused || slot.phase != Phase::Data || slot.status != S_OK {
            return Err(host_error(error));
        }
        let mut cursor = Cursor::default();
        cursor.advance(slot.data(), token.at, usize::MAX, |_| ());
        self.pieces.clear();
        cursor.advance(slot.data(), token.len, usize::MAX, |piece| self.pieces.push(piece));
        self.call(slot.direction().0, slot.offset + token.at)
    }
}

fn zero(piece: &VolatileSlice<'_>) {
    let mut at = 0;
    while let Some(rest) = piece.offset(at).ok().filter(|rest| !rest.is_empty()) {
        let len = rest.len().min(ZEROES.len());
        rest.copy_from(&ZEROES[..len]);
        at += len;
    }
}

/// What the used ring says: data, and the status byte.
fn used_len(data: usize) -> u32 {
    u32::try_from(data).unwrap_or(u32::MAX).saturating_add(1)
}

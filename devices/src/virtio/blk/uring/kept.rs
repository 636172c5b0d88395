//! Requests that the io_uring engine keeps: until it is their turn by the disk's limits, and until
//! there is room on the host.

use std::time::Instant;

use super::super::disk::Task;
use super::super::request::S_OK;
use super::super::slot::{Phase, Slot};
use super::Engine;
use crate::block::BlockError;

impl<'m> Engine<'_, 'm> {
    /// Whether a new request may pass now. A flush may, whatever waits before it.
    pub(super) fn has_turn(&mut self, slot: &Slot<'m>) -> bool {
        if !self.limited.is_empty() && !matches!(slot.task, Task::Flush) {
            return false;
        }
        let turn = self.disk.admit(&slot.task, slot.len);
        self.waits.turn = self.waits.turn.or(turn.err());
        turn.is_ok()
    }

    /// Goes on with requests whose time has come. When stopping, all that is kept is done, without
    /// limits, or fails.
    pub(super) fn go_on(&mut self) {
        if self.limited.is_empty() && self.held == 0 {
            self.waits.woken = false;
            return;
        }
        let now = Instant::now();
        if self.stopping || self.waits.is_time_to_try(now) {
            self.try_again(now);
        }
        while let Some(&index) = self.limited.front() {
            let slot = self.slots.get(index).and_then(Option::as_ref);
            if let Some(slot) = slot.filter(|_| !self.stopping)
                && let Err(at) = self.disk.admit(&slot.task, slot.len)
            {
                self.waits.turn = Some(at);
                return;
            }
            self.limited.pop_front();
            self.with_slot(index, |engine, slot| {
                slot.waits = None;
                engine.advance(index, slot);
            });
        }
        self.waits.turn = None;
    }

    /// Begins the requests anew that have found no room, in the order in which they came; those of
    /// which something is still in flight wait for the next time.
    fn try_again(&mut self, now: Instant) {
        self.waits.try_again(self.disk, now);
        let is_ready = |slot: &Slot<'_>| {
            slot.phase == Phase::Held && slot.operations == 0 && slot.waits.is_none()
        };
        let mut ready: Vec<(u64, usize)> = (self.slots.iter().enumerate())
            .filter_map(|(index, slot)| slot.as_ref().map(|slot| (slot, index)))
            .filter(|(slot, _)| is_ready(slot))
            .map(|(slot, index)| (slot.number, index))
            .collect();
        ready.sort_unstable();
        for (_, index) in ready {
            self.with_slot(index, |engine, slot| {
                slot.restart();
                engine.advance(index, slot);
            });
        }
    }

    /// A request has failed: it ends so, or it is kept until there is room.
    pub(super) fn failed(&mut self, slot: &mut Slot<'m>, error: &BlockError) {
        if slot.status != S_OK {
            // The first reason counts.
            return;
        }
        if let Some(status) = self.waits.outcome(self.disk, error, self.stopping) {
            return slot.fail(status);
        }
        slot.phase = Phase::Held;
        self.held += usize::from(!std::mem::replace(&mut slot.held, true));
    }

    /// A request has ended. The last of those that were held ends the waiting.
    pub(super) fn let_go(&mut self, slot: &Slot<'m>) {
        if slot.held {
            self.held = self.held.saturating_sub(1);
            if self.held == 0 {
                self.waits.stall.end();
            }
        }
    }
}

//! The driver's side of a split virtqueue (VIRTIO 1.3 §2.7), and ways to break its rules.

use std::collections::HashMap;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::Ram;
use crate::event::Event;
use crate::mem::GuestMemory;
use crate::virtio::LiveQueue;

/// The chain goes on in `next`.
pub const DESC_NEXT: u16 = 1;
/// The device writes this buffer.
pub const DESC_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;

/// A queue, seen from the driver.
pub struct Ring {
    /// Descriptor table, guest-physical.
    pub table: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
    /// Entries.
    pub size: u16,
    memory: GuestMemory,
    event_idx: bool,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
    next_avail: u16,
    kicked: u16,
    last_used: u16,
}

impl Ring {
    /// An empty one, in fresh RAM.
    pub fn new(ram: &mut Ram, size: u16, event_idx: bool) -> Ring {
        let entries = u64::from(size);
        Ring {
            table: ram.take(16 * entries),
            avail: ram.take(6 + 2 * entries),
            used: ram.take(6 + 8 * entries),
            size,
            memory: ram.memory.clone(),
            event_idx,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
            next_avail: 0,
            kicked: 0,
            last_used: 0,
        }
    }

    /// The queue as a device gets it, for tests that need no transport.
    pub fn live(&self, index: u16) -> LiveQueue {
        let mut queue = Queue::new(self.size).expect("the size is a power of two");
        let at = GuestAddress;
        let set = queue
            .try_set_desc_table_address(at(self.table))
            .and_then(|()| queue.try_set_avail_ring_address(at(self.avail)))
            .and_then(|()| queue.try_set_used_ring_address(at(self.used)));
        set.expect("rings are aligned");
        queue.set_ready(true);
        let kick = Event::new().expect("tests have descriptors left");
        LiveQueue { index, queue, kick: kick.fd().clone() }
    }

    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Chains that the device has not used yet.
    pub fn outstanding(&self) -> usize {
        self.chains.len()
    }

    /// Makes a well-formed chain available; returns its head.
    pub fn add(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        let count = readable.len() + writable.len();
        let ids: Vec<u16> = (0..count)
            .map(|_| self.free.pop().expect("the test leaves room in the ring"))
            .collect();
        let buffers =
            readable.iter().map(|b| (b, 0)).chain(writable.iter().map(|b| (b, DESC_WRITE)));
        for (position, (&(at, len), flags)) in buffers.enumerate() {
            match ids.get(position + 1) {
                Some(next) => self.describe(ids[position], at, len, flags | DESC_NEXT, *next),
                None => self.describe(ids[position], at, len, flags, 0),
            }
        }
        self.track(ids)
    }

    /// The same through an indirect table; returns the head.
    pub fn add_indirect(
        &mut self,
        ram: &mut Ram,
        readable: &[(u64, u32)],
        writable: &[(u64, u32)],
    ) -> u16 {
        let count = readable.len() + writable.len();
        let table = ram.take(16 * count as u64);
        let buffers =
            readable.iter().map(|b| (b, 0)).chain(writable.iter().map(|b| (b, DESC_WRITE)));
        for (position, (&(at, len), flags)) in (0u16..).zip(buffers) {
            let last = usize::from(position) + 1 == count;
            let (flags, next) = if last { (flags, 0) } else { (flags | DESC_NEXT, position + 1) };
            write_descriptor(&self.memory, table, position, (at, len, flags, next));
        }
        let id = self.free.pop().expect("the test leaves room in the ring");
        self.describe(id, table, 16 * count as u32, DESC_INDIRECT, 0);
        self.track(vec![id])
    }

    /// Makes a chain available that the test has written by [`describe`](Self::describe).
    pub fn add_raw(&mut self, head: u16) {
        self.chains.insert(head, vec![]);
        self.offer(head);
    }

    /// Takes a free descriptor.
    pub fn take_free(&mut self) -> u16 {
        self.free.pop().expect("the test leaves room in the ring")
    }

    fn track(&mut self, ids: Vec<u16>) -> u16 {
        let head = ids[0];
        self.chains.insert(head, ids);
        self.offer(head);
        head
    }

    /// Writes a descriptor.
    pub fn describe(&self, index: u16, at: u64, len: u32, flags: u16, next: u16) {
        write_descriptor(&self.memory, self.table, index, (at, len, flags, next));
    }

    /// Puts `head` into the available ring, and moves its index on.
    pub fn offer(&mut self, head: u16) {
        let entry = self.avail + 4 + 2 * u64::from(self.next_avail % self.size);
        self.store(entry, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.set_avail_index(self.next_avail);
    }

    /// Sets the available ring's index to any value.
    pub fn set_avail_index(&self, index: u16) {
        self.memory
            .store(index.to_le(), GuestAddress(self.avail + 2), Ordering::Release)
            .expect("the ring is in RAM");
    }

    /// Whether the device asks to be kicked for what was added since it was asked last (§2.7.10).
    pub fn wants_kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked, self.next_avail);
        if self.event_idx {
            let event = self.load(self.used + 4 + 8 * u64::from(self.size));
            let (new, ahead) = (self.next_avail, self.next_avail.wrapping_sub(event));
            ahead.wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load(self.used) & 1 == 0
        }
    }

    /// Asks for no interrupts (without event indices).
    pub fn set_no_interrupt(&self, on: bool) {
        self.store(self.avail, u16::from(on));
    }

    /// Asks for an interrupt when the device's index passes `event` (with event indices).
    pub fn set_used_event(&self, event: u16) {
        self.store(self.avail + 4 + 2 * u64::from(self.size), event);
    }

    /// The device's index.
    pub fn used_index(&self) -> u16 {
        self.memory
            .load(GuestAddress(self.used + 2), Ordering::Acquire)
            .map(u16::from_le)
            .expect("the ring is in RAM")
    }

    /// Takes what the device has used, as (head, written), and asks for the next interrupt.
    pub fn take_used(&mut self) -> Vec<(u32, u32)> {
        let mut used = vec![];
        loop {
            while self.last_used != self.used_index() {
                used.push(self.take_next_used());
            }
            if self.event_idx {
                self.set_used_event(self.last_used);
            }
            fence(Ordering::SeqCst);
            if self.last_used == self.used_index() {
                return used;
            }
        }
    }

    /// The same of one chain, if the device has used any.
    pub fn take_one_used(&mut self) -> Option<(u32, u32)> {
        if self.event_idx {
            self.set_used_event(self.last_used);
        }
        fence(Ordering::SeqCst);
        (self.last_used != self.used_index()).then(|| self.take_next_used())
    }

    fn take_next_used(&mut self) -> (u32, u32) {
        let at = self.used + 4 + 8 * u64::from(self.last_used % self.size);
        let entry: u64 = self.memory.read_obj(GuestAddress(at)).expect("the ring is in RAM");
        let (head, len) = (u64::from_le(entry) as u32, (u64::from_le(entry) >> 32) as u32);
        let ids = self.chains.remove(&(head as u16));
        let ids = ids.unwrap_or_else(|| panic!("{head} was completed twice, or never added"));
        self.free.extend(ids.into_iter().rev());
        self.last_used = self.last_used.wrapping_add(1);
        (head, len)
    }

    fn load(&self, at: u64) -> u16 {
        self.memory
            .load(GuestAddress(at), Ordering::Relaxed)
            .map(u16::from_le)
            .expect("the ring is in RAM")
    }

    fn store(&self, at: u64, value: u16) {
        self.memory
            .store(value.to_le(), GuestAddress(at), Ordering::Relaxed)
            .expect("the ring is in RAM");
    }
}

/// Writes entry `index` of a table: address, length, flags, next.
pub fn write_descriptor(
    memory: &GuestMemory,
    table: u64,
    index: u16,
    (at, len, flags, next): (u64, u32, u16, u16),
) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&at.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    memory
        .write_slice(&bytes, GuestAddress(table + 16 * u64::from(index)))
        .expect("the table is in RAM");
}

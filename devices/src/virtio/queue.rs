//! The device's side of a split virtqueue (VIRTIO 1.3 §2.7).
//!
//! `virtio_queue::Queue` carries the state of a queue between transport and device, and is what
//! would be saved. While a thread serves the queue, this [`Virtqueue`] holds the three rings as
//! host addresses that were checked once, publishes used indices in batches, and tells a malformed
//! chain from one that has ended, which that crate's iterators do not.
//!
//! A chain is handed out by [`Virtqueue::pop`] and must come back by [`Virtqueue::complete`], which
//! consumes it: so it is completed exactly once. A malformed chain (a loop, out of RAM, too long,
//! wrong order of directions) never leaves this file: it is completed with zero length and counted.
//! A ring whose indices are impossible is an error: the device then needs a reset.
//!
//! Left out: packed rings, in-order use. Runs on the thread that serves the queue.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use virtio_queue::QueueT;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory, VolatileSlice};

use super::buffers::Buffers;
use super::{F_EVENT_IDX, F_INDIRECT_DESC, LiveQueue};
use crate::mem::GuestRam;

/// Most descriptors of one chain. Drivers with indirect tables go beyond the queue size (which the
/// specification forbids), and the host's `IOV_MAX` is the same.
pub const MAX_CHAIN: u16 = 1024;

const DESCRIPTOR_LEN: usize = 16;
/// Offset of `idx` in both the available and the used ring (§2.7.6, §2.7.8).
const INDEX: usize = 2;
/// Offset of the first entry in both.
const ENTRIES: usize = 4;
const AVAIL_ENTRY_LEN: usize = 2;
const USED_ENTRY_LEN: usize = 8;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

/// The rings cannot be served any longer; the device needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A ring is not in RAM, or not in one piece.
    #[error("ring of {len:#x} bytes at {at:#x} is not in one piece of guest ram")]
    Ring {
        /// Guest-physical address.
        at: u64,
        /// Length in bytes.
        len: usize,
    },
    /// The driver made more chains available than the ring has entries.
    #[error("available index {index} is more than {size} ahead of {served}")]
    AvailIndex {
        /// The driver's index.
        index: u16,
        /// Ours.
        served: u16,
        /// The queue size.
        size: u16,
    },
    /// An entry of the available ring is outside the descriptor table.
    #[error("available entry names descriptor {head} of {size}")]
    Head {
        /// The entry.
        head: u16,
        /// The queue size.
        size: u16,
    },
    /// A ring access failed, though the rings were checked.
    #[error("ring access failed")]
    Memory(#[from] vm_memory::volatile_memory::Error),
}

/// A chain of buffers that the driver has made available.
#[derive(Debug)]
#[must_use = "a chain that is not completed is lost to the driver"]
pub struct Chain<'m> {
    head: u16,
    /// What the device may read.
    pub readable: Buffers<'m>,
    /// What the device may write.
    pub writable: Buffers<'m>,
}

/// Lengths in bytes of descriptor table, available and used ring (§2.7).
pub fn ring_lengths(size: u16) -> [usize; 3] {
    let size = usize::from(size);
    [
        DESCRIPTOR_LEN * size,
        ENTRIES + AVAIL_ENTRY_LEN * size + 2,
        ENTRIES + USED_ENTRY_LEN * size + 2,
    ]
}

/// One queue, being served.
#[derive(Debug)]
pub struct Virtqueue<'m> {
    live: LiveQueue,
    memory: &'m GuestRam,
    malformed: &'m AtomicU64,
    table: VolatileSlice<'m>,
    avail: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
    size: u16,
    event_idx: bool,
    indirect: bool,
    /// The entry of the available ring to be served next.
    next_avail: u16,
    /// The driver's index as last read: what is before it need not be looked for.
    avail_index: u16,
    /// Where the next completion goes.
    next_used: u16,
    /// What the driver was shown of `next_used`.
    published: u16,
    /// Completed chains, whose buffer lists are used again.
    spare: Vec<Chain<'m>>,
}

impl<'m> Virtqueue<'m> {
    /// Takes a queue into service. `malformed` counts the chains that were refused.
    ///
    /// # Errors
    /// [`QueueError::Ring`], and the queue comes back.
    pub fn new(
        live: LiveQueue,
        memory: &'m GuestRam,
        features: u64,
        malformed: &'m AtomicU64,
    ) -> Result<Virtqueue<'m>, (LiveQueue, QueueError)> {
        let [table_len, avail_len, used_len] = ring_lengths(live.queue.size());
        let piece = |at: u64, len| {
            memory.get_slice(GuestAddress(at), len).map_err(|_| QueueError::Ring { at, len })
        };
        let rings = || {
            Ok((
                piece(live.queue.desc_table(), table_len)?,
                piece(live.queue.avail_ring(), avail_len)?,
                piece(live.queue.used_ring(), used_len)?,
            ))
        };
        let (table, avail, used) = match rings() {
            Ok(rings) => rings,
            Err(error) => return Err((live, error)),
        };
        let next_avail = live.queue.next_avail();
        let next_used = live.queue.next_used();
        Ok(Virtqueue {
            size: live.queue.size(),
            event_idx: features & F_EVENT_IDX != 0,
            indirect: features & F_INDIRECT_DESC != 0,
            live,
            memory,
            malformed,
            table,
            avail,
            used,
            next_avail,
            avail_index: next_avail,
            next_used,
            published: next_used,
            spare: Vec::new(),
        })
    }

    /// Ends the service. The queue goes on where it was when it is served again.
    pub fn into_live(mut self) -> LiveQueue {
        self.live.queue.set_next_avail(self.next_avail);
        self.live.queue.set_next_used(self.next_used);
        self.live
    }

    /// The queue's number.
    pub fn index(&self) -> u16 {
        self.live.index
    }

    /// The queue size: no more chains than this are rightly in flight.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The guest's RAM.
    pub fn memory(&self) -> &'m GuestRam {
        self.memory
    }

    /// The eventfd of the driver's kicks.
    pub fn kick(&self) -> crate::event::Event {
        self.live.kick.clone().into()
    }

    /// The next chain, if the driver has made one available.
    ///
    /// # Errors
    /// When the ring's state is impossible.
    pub fn pop(&mut self) -> Result<Option<Chain<'m>>, QueueError> {
        // A driver that feeds us nothing but malformed chains must not keep us here.
        for _ in 0..self.size {
            if self.next_avail == self.avail_index && !self.look()? {
                return Ok(None);
            }
            let entry = ENTRIES + usize::from(self.next_avail % self.size) * AVAIL_ENTRY_LEN;
            let head = u16::from_le(self.avail.load(entry, Ordering::Relaxed)?);
            if head >= self.size {
                return Err(QueueError::Head { head, size: self.size });
            }
            self.next_avail = self.next_avail.wrapping_add(1);
            let mut chain = self.spare.pop().unwrap_or_else(|| Chain {
                head,
                readable: Buffers::default(),
                writable: Buffers::default(),
            });
            chain.head = head;
            if self.walk(&mut chain).is_some() {
                return Ok(Some(chain));
            }
            self.malformed.fetch_add(1, Ordering::Relaxed);
            self.complete(chain, 0)?;
        }
        Ok(None)
    }

    /// Makes the chain popped last available again: the next [`pop`](Self::pop) returns it.
    pub fn unpop(&mut self, chain: Chain<'m>) {
        self.next_avail = self.next_avail.wrapping_sub(1);
        self.recycle(chain);
    }

    /// Gives a chain back, of whose writable part the first `written` bytes were written. The
    /// driver sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// When the used ring cannot be written.
    pub fn complete(&mut self, chain: Chain<'m>, written: u32) -> Result<(), QueueError> {
        let entry = ENTRIES + usize::from(self.next_used % self.size) * USED_ENTRY_LEN;
        let value = u64::from(written) << 32 | u64::from(chain.head);
        self.used.get_ref::<u64>(entry)?.store(value.to_le());
        self.next_used = self.next_used.wrapping_add(1);
        self.recycle(chain);
        Ok(())
    }

    /// Shows the driver everything that was completed; true when it wants an interrupt for it
    /// (§2.7.7). Call it once a batch.
    ///
    /// # Errors
    /// When the rings cannot be accessed.
    pub fn publish(&mut self) -> Result<bool, QueueError> {
        if self.next_used == self.published {
            return Ok(false);
        }
        let old = std::mem::replace(&mut self.published, self.next_used);
        self.used.store(self.next_used.to_le(), INDEX, Ordering::Release)?;
        // The index must be out before the driver's wish is read: it does the same the other way
        // round, and one of us sees the other.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let at = ENTRIES + usize::from(self.size) * AVAIL_ENTRY_LEN;
            let event = u16::from_le(self.avail.load(at, Ordering::Relaxed)?);
            Ok(crossed(event, old, self.next_used))
        } else {
            let flags = u16::from_le(self.avail.load(0, Ordering::Relaxed)?);
            Ok(flags & AVAIL_F_NO_INTERRUPT == 0)
        }
    }

    /// Asks the driver not to kick while we look by ourselves. Only a hint.
    ///
    /// # Errors
    /// When the used ring cannot be written.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        if !self.event_idx {
            self.used.store(USED_F_NO_NOTIFY.to_le(), 0, Ordering::Relaxed)?;
        }
        // With event indices, a kick is asked for once, and thereby not any more.
        Ok(())
    }

    /// Asks for a kick at the next chain; true when one came in the meantime, and must be served
    /// before anyone sleeps.
    ///
    /// # Errors
    /// When the ring's state is impossible.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        if self.event_idx {
            let at = ENTRIES + usize::from(self.size) * USED_ENTRY_LEN;
            self.used.store(self.next_avail.to_le(), at, Ordering::Relaxed)?;
        } else {
            self.used.store(0u16, 0, Ordering::Relaxed)?;
        }
        fence(Ordering::SeqCst);
        self.look()
    }

    /// Reads the driver's index; true when there is something to serve.
    fn look(&mut self) -> Result<bool, QueueError> {
        let index = u16::from_le(self.avail.load(INDEX, Ordering::Acquire)?);
        if index.wrapping_sub(self.next_avail) > self.size {
            let (served, size) = (self.next_avail, self.size);
            return Err(QueueError::AvailIndex { index, served, size });
        }
        self.avail_index = index;
        Ok(index != self.next_avail)
    }

    fn recycle(&mut self, mut chain: Chain<'m>) {
        chain.readable.clear();
        chain.writable.clear();
        if self.spare.len() < usize::from(self.size) {
            self.spare.push(chain);
        }
    }

    /// Collects the buffers of a chain; `None` when it is malformed.
    fn walk(&self, chain: &mut Chain<'m>) -> Option<()> {
        let mut table = self.table;
        let mut entries = self.size;
        let mut indirect = false;
        let mut index = chain.head;
        // Each descriptor once: whoever comes by more often is in a loop.
        let mut left = entries;
        loop {
            if index >= entries {
                return None;
            }
            left = left.checked_sub(1)?;
            let at = usize::from(index) * DESCRIPTOR_LEN;
            let descriptor: Descriptor = table.get_ref(at).ok()?.load();
            if descriptor.refers_to_indirect_table() {
                // Not within another, not followed by more (§2.7.5.3.1).
                if indirect || !self.indirect || descriptor.has_next() {
                    return None;
                }
                let len = descriptor.len() as usize;
                if len == 0
                    || !len.is_multiple_of(DESCRIPTOR_LEN)
                    || len / DESCRIPTOR_LEN > usize::from(MAX_CHAIN)
                {
                    return None;
                }
                table = self.memory.get_slice(descriptor.addr(), len).ok()?;
                entries = (len / DESCRIPTOR_LEN) as u16;
                (indirect, index, left) = (true, 0, entries);
                continue;
            }
            self.collect(chain, &descriptor)?;
            if !descriptor.has_next() {
                return Some(());
            }
            index = descriptor.next();
        }
    }

    fn collect(&self, chain: &mut Chain<'m>, descriptor: &Descriptor) -> Option<()> {
        let len = descriptor.len() as usize;
        let list = if descriptor.is_write_only() {
            &mut chain.writable
        } else if chain.writable.is_begun() {
            return None;
        } else {
            &mut chain.readable
        };
        list.begin();
        // The common case is one region, found once.
        if let Ok(slice) = self.memory.get_slice(descriptor.addr(), len) {
            list.push(slice);
        } else {
            for slice in self.memory.get_slices(descriptor.addr(), len) {
                list.push(slice.ok()?);
            }
        }
        // A chain is at most 2^32 bytes long (§2.7.5.2); used lengths have 32 bits.
        let total = chain.readable.len().checked_add(chain.writable.len())?;
        u32::try_from(total).ok().map(|_| ())
    }
}

/// Whether the index has passed `event` on its way from `old` to `new` (§2.7.7.2).
fn crossed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests;

//! The metadata cache, and the order in which metadata reaches the disk.
//!
//! L2 tables and refcount blocks are cached in pieces of at most 4 KiB, least recently used out
//! first, up to a limit. What is changed stays here until a flush, or until half of the cache is
//! changed. The promise is that **whatever part of the writes since the last `fdatasync` survives
//! a power cut, sector by sector, the image on disk opens, with leaked clusters at most**. It
//! rests on these rules:
//!
//! 1. A cluster's refcount is raised before anything on disk points to it, and lowered only after
//!    nothing does. In memory a refcount is lowered only when the unlinking is durable, so a
//!    refcount block in memory never counts less than the disk refers to, and *may be written at
//!    any time*.
//! 2. Contents come before what points to them: guest data and copied parts of its cluster, a new
//!    table's or block's full contents, are in the file before the pointer is even set in memory.
//! 3. A flush writes in levels, with an `fdatasync` between those that are not empty:
//!    refcount blocks | refcount table entries (which point to new blocks) | L2 pieces and L1
//!    entries | the final one, which is the guest's flush.
//!    An L1 entry may overtake the L2 pieces of its level: a new L2 table was written whole, as
//!    zeroes or as a copy, when it was allocated.
//! 4. A level writes what was set when the flush began, from a copy-on-write snapshot. What other
//!    threads set meanwhile waits for the next flush, for its data might not be durable.
//! 5. A cluster that lost its last pointer is punched out, counted down and used again only after
//!    the flush that made the loss durable, and when no transfer that might use it is in flight
//!    (`inflight.rs`).
//!
//! Entries are at most 8 bytes on their own grid, so a torn write leaves each old or new; both are
//! fine by the rules. A flush thus costs one `fdatasync` when nothing was allocated, two when
//! something was, three when a new refcount block (one for 2 GiB, by default) was needed.
//! The L1 and refcount tables move only in `grow.rs`, with a switch in one header sector.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::BlockError;
use super::super::file_io::ImageFile;

/// Fewest pieces that are cached whatever the limit: one of each table and room to turn.
const MIN_SLICES: usize = 16;

/// Which level of a flush a piece belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Part of a refcount block: written first, or at any time.
    Counts,
    /// Part of an L2 table: written last.
    Links,
}

struct Slot {
    at: u64,
    /// Shared with a flush while that writes it; changing it then makes a copy.
    data: Arc<[u8]>,
    /// Changed since it was last taken for writing.
    dirty: Option<Kind>,
    /// A flush is writing it: reading it back from the file would be too early.
    writing: bool,
    used: bool,
}

/// Pieces of metadata, by their offset in the file.
pub(super) struct SliceCache {
    slots: Vec<Slot>,
    index: HashMap<u64, usize>,
    hand: usize,
    limit: usize,
    slice: usize,
    dirty_links: usize,
}

/// A changed piece, taken to be written.
pub(super) type Taken = (u64, Arc<[u8]>);

impl SliceCache {
    /// A cache of at most about `bytes`, in pieces of `slice` bytes. Allocates nothing yet.
    pub(super) fn new(bytes: usize, slice: u64) -> Self {
        let slice = slice as usize;
        Self {
            slots: Vec::new(),
            index: HashMap::new(),
            hand: 0,
            limit: (bytes / slice).max(MIN_SLICES),
            slice,
            dirty_links: 0,
        }
    }

    /// Whether so much of the cache is changed that it should be flushed before more is.
    pub(super) fn wants_flush(&self) -> bool {
        self.dirty_links >= self.limit / 2
    }

    /// Whether a link is changed that no flush has taken.
    pub(super) fn has_dirty_links(&self) -> bool {
        self.dirty_links > 0
    }

    /// The piece at `at`.
    pub(super) fn bytes(&mut self, file: &ImageFile, at: u64) -> Result<&[u8], BlockError> {
        let slot = self.load(file, at)?;
        Ok(&self.slots[slot].data)
    }

    /// The piece at `at`, to be changed.
    pub(super) fn bytes_mut(
        &mut self,
        file: &ImageFile,
        at: u64,
        kind: Kind,
    ) -> Result<&mut [u8], BlockError> {
        let index = self.load(file, at)?;
        let slot = &mut self.slots[index];
        self.dirty_links -= usize::from(slot.dirty == Some(Kind::Links));
        self.dirty_links += usize::from(kind == Kind::Links);
        slot.dirty = Some(kind);
        Ok(Arc::make_mut(&mut slot.data))
    }

    /// Drops what is cached of a range whose contents have been written around the cache.
    pub(super) fn forget(&mut self, at: u64, len: u64) {
        let mut next = at;
        while next < at.saturating_add(len) {
            if let Some(slot) = self.index.get(&next).copied() {
                self.remove(slot);
            }
            next = next.saturating_add(self.slice as u64);
        }
    }

    /// Takes every changed piece of a kind, to be written by a flush; [`finish`](Self::finish)
    /// must follow.
    pub(super) fn take(&mut self, kind: Kind) -> Vec<Taken> {
        let mut taken = Vec::new();
        for slot in &mut self.slots {
            if slot.dirty == Some(kind) {
                slot.dirty = None;
                slot.writing = true;
                taken.push((slot.at, slot.data.clone()));
            }
        }
        if kind == Kind::Links {
            self.dirty_links = 0;
        }
        taken.sort_unstable_by_key(|(at, _)| *at);
        taken
    }

    /// Ends the writing of what was taken; unless it went well, it counts as changed again.
    pub(super) fn finish(&mut self, taken: &[Taken], kind: Kind, well: bool) {
        for (at, _) in taken {
            let Some(slot) = self.index.get(at).and_then(|i| self.slots.get_mut(*i)) else {
                continue;
            };
            slot.writing = false;
            if !well && slot.dirty.is_none() {
                slot.dirty = Some(kind);
                self.dirty_links += usize::from(kind == Kind::Links);
            }
        }
    }

    fn load(&mut self, file: &ImageFile, at: u64) -> Result<usize, BlockError> {
        if let Some(slot) = self.index.get(&at).copied() {
            self.slots[slot].used = true;
            return Ok(slot);
        }
        // Two at a time, so that a cache which outgrew its limit finds back to it.
        for _ in 0..2 {
            if self.slots.len() >= self.limit {
                self.evict(file)?;
            }
        }
        let mut data = vec![0; self.slice];
        file.read(&mut data, at)?;
        self.slots.push(Slot { at, data: data.into(), dirty: None, writing: false, used: true });
        self.index.insert(at, self.slots.len() - 1);
        Ok(self.slots.len() - 1)
    }

    /// Makes room if it can. Changed links stay: they have to wait for their flush, which the
    /// limit on them brings about. What a full host does not take stays as well: the guest is paused
    /// then, and little more is asked for. The cache outgrows its limit by a few pieces meanwhile.
    fn evict(&mut self, file: &ImageFile) -> Result<(), BlockError> {
        for _ in 0..2 * self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if slot.writing || slot.dirty == Some(Kind::Links) {
                continue;
            }
            if slot.used {
                slot.used = false;
                continue;
            }
            if slot.dirty == Some(Kind::Counts) {
                match file.write(&slot.data, slot.at) {
                    Err(BlockError::NoSpace) => continue,
                    written => written?,
                }
                slot.dirty = None;
            }
            self.remove(self.hand);
            break;
        }
        Ok(())
    }

    fn remove(&mut self, slot: usize) {
        let gone = self.slots.swap_remove(slot);
        self.index.remove(&gone.at);
        self.dirty_links -= usize::from(gone.dirty == Some(Kind::Links));
        if let Some(moved) = self.slots.get(slot) {
            self.index.insert(moved.at, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> ImageFile {
        ImageFile::new(tempfile::tempfile().unwrap()).unwrap()
    }

    #[test]
    fn changed_counts_are_written_when_evicted_and_changed_links_are_not() {
        let file = file();
        let mut cache = SliceCache::new(0, 512);
        cache.bytes_mut(&file, 0, Kind::Counts).unwrap().fill(1);
        cache.bytes_mut(&file, 512, Kind::Links).unwrap().fill(2);
        for at in 2..100 {
            cache.bytes(&file, at * 512).unwrap();
        }
        assert!(cache.slots.len() <= MIN_SLICES);
        let mut disk = [0; 1024];
        file.read(&mut disk, 0).unwrap();
        assert!(disk[..512].iter().all(|b| *b == 1) && disk[512..].iter().all(|b| *b == 0));
        assert_eq!(cache.bytes(&file, 512).unwrap()[0], 2);
        assert!(cache.has_dirty_links());
    }

    #[test]
    fn a_flush_writes_what_was_set_when_it_began() {
        let file = file();
        let mut cache = SliceCache::new(0, 512);
        cache.bytes_mut(&file, 0, Kind::Links).unwrap()[0] = 1;
        let taken = cache.take(Kind::Links);
        assert!(!cache.has_dirty_links());
        cache.bytes_mut(&file, 0, Kind::Links).unwrap()[0] = 2;
        assert_eq!(taken[0].1[0], 1);
        cache.finish(&taken, Kind::Links, true);
        assert!(cache.has_dirty_links());
        assert_eq!(cache.take(Kind::Links)[0].1[0], 2);
    }

    #[test]
    fn what_could_not_be_written_counts_as_changed_again() {
        let file = file();
        let mut cache = SliceCache::new(0, 512);
        cache.bytes_mut(&file, 0, Kind::Links).unwrap()[0] = 1;
        let taken = cache.take(Kind::Links);
        cache.finish(&taken, Kind::Links, false);
        assert_eq!(cache.take(Kind::Links).len(), 1);
    }
}

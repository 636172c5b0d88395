//! Buffers for what is copied from one place of a disk to another, kept from one copy to the next.
//!
//! Memory of an allocator's own is zeroed, faulted in page by page, and given back each time, which
//! costs more than the copy itself.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most bytes that are kept while nobody uses them.
const MAX_SPARE: usize = 512 << 10;

/// Buffers of one size.
pub(super) struct Scratch {
    size: usize,
    spare: Mutex<Vec<Box<[u8]>>>,
}

impl Scratch {
    /// For buffers of at most `size` bytes. Allocates nothing yet.
    pub(super) fn new(size: usize) -> Self {
        Self { size, spare: Mutex::new(Vec::new()) }
    }

    /// A buffer of `len` bytes, no more than the size; what is in it is left from others.
    pub(super) fn take(&self, len: usize) -> Taken<'_> {
        let spare = if len == 0 { Some(Box::default()) } else { self.lock().pop() };
        let bytes = spare.unwrap_or_else(|| vec![0; self.size].into());
        debug_assert!(len <= bytes.len());
        Taken { len: len.min(bytes.len()), bytes, from: self }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer in use; it goes back when dropped.
pub(super) struct Taken<'a> {
    bytes: Box<[u8]>,
    len: usize,
    from: &'a Scratch,
}

impl Deref for Taken<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut spare = self.from.lock();
        if !bytes.is_empty() && (spare.len() + 1) * self.from.size <= MAX_SPARE {
            spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_few_are_kept() {
        let scratch = Scratch::new(64 << 10);
        {
            let (mut one, none) = (scratch.take(60 << 10), scratch.take(0));
            assert_eq!((one.len(), none.len()), (60 << 10, 0));
            one.fill(7);
        }
        assert_eq!(scratch.lock().len(), 1);
        assert_eq!(scratch.take(100)[..], [7; 100], "the same memory, whatever was in it");
        drop((0..20).map(|_| scratch.take(1)).collect::<Vec<_>>());
        assert_eq!(scratch.lock().len() * (64 << 10), MAX_SPARE);
    }

    #[test]
    fn large_ones_are_not_kept() {
        let scratch = Scratch::new(2 << 20);
        assert_eq!(scratch.take(2 << 20).len(), 2 << 20);
        assert!(scratch.lock().is_empty());
    }
}

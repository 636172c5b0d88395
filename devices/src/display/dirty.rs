//! Which pages of video memory the guest has written: the seam to whoever can know (KVM's dirty
//! log), and what a painter asks of the answer.

/// Size of the pages a log is about, in bytes.
pub const PAGE: usize = 4096;

/// Keeps track of writes to video memory, while it is asked to.
pub trait DirtyLog: Send + Sync {
    /// Starts to keep track, or ends it. An untracked memory costs the guest nothing.
    fn watch(&self, watched: bool);

    /// The pages written since the last call, one bit a page from the lowest bit of the first word
    /// on. `None` when that is not known: any page may have been written.
    fn take(&self) -> Option<Vec<u64>>;
}

/// Pages that may have been written.
#[derive(Clone, Debug)]
pub struct Pages(Option<Vec<u64>>);

impl Pages {
    /// Every page there is.
    pub const ALL: Pages = Pages(None);

    /// What a log says.
    pub fn new(log: Option<Vec<u64>>) -> Pages {
        Pages(log)
    }

    /// True when one of the pages that hold the `len` bytes at `start` may have been written.
    pub fn touch(&self, start: usize, len: usize) -> bool {
        let Some(bits) = &self.0 else { return true };
        let Some(last) = len.checked_sub(1).and_then(|more| start.checked_add(more)) else {
            return false;
        };
        // What the log does not reach is not walked through.
        let end = (last / PAGE + 1).min(bits.len() * 64);
        (start / PAGE..end)
            .any(|page| bits.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_touched_by_any_of_its_pages() {
        let pages = Pages::new(Some(vec![1 << 63, 1]));
        assert!(!pages.touch(0, 63 * PAGE));
        assert!(pages.touch(0, 63 * PAGE + 1) && pages.touch(65 * PAGE - 1, 1));
        assert!(!pages.touch(65 * PAGE, usize::MAX - 65 * PAGE));
        assert!(!pages.touch(63 * PAGE, 0) && !pages.touch(usize::MAX, 2));
        assert!(Pages::ALL.touch(0, 0));
    }
}

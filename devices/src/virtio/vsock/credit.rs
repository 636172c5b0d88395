//! How much each side of a connection may still send (VIRTIO 1.3 §5.10.6.3): numbers to numbers.
//!
//! Both count what has gone through a connection in 32 bits, which wrap around. What is on its way is
//! the difference, and must not be more than the receiver said it has room for.

use super::BUFFER;
use super::packet::Header;

/// What may be sent to the guest, as far as it has said.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToGuest {
    buf_alloc: u32,
    fwd_cnt: u32,
    sent: u32,
}

impl ToGuest {
    /// Takes note of what any packet of the guest's tells.
    pub fn learn(&mut self, header: &Header) {
        (self.buf_alloc, self.fwd_cnt) = (header.buf_alloc, header.fwd_cnt);
    }

    /// Bytes that it has room for. A guest that says it has read more than it was sent has none.
    pub fn room(&self) -> u32 {
        self.buf_alloc.saturating_sub(self.sent.wrapping_sub(self.fwd_cnt))
    }

    /// Notes that `len` bytes were sent.
    pub fn sent(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }
}

/// What the guest may send, and what was done with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct FromGuest {
    received: u32,
    forwarded: u32,
    /// What of `forwarded` the guest knows.
    told: u32,
}

impl FromGuest {
    /// Accepts `len` bytes; false when the guest was not allowed so many.
    pub fn take(&mut self, len: u32) -> bool {
        let kept = self.received.wrapping_sub(self.forwarded);
        let fits = kept.checked_add(len).is_some_and(|all| all <= BUFFER);
        if fits {
            self.received = self.received.wrapping_add(len);
        }
        fits
    }

    /// Notes that `len` of the accepted bytes are no longer kept.
    pub fn forward(&mut self, len: usize) {
        // No more than were accepted, which are few.
        self.forwarded = self.forwarded.wrapping_add(len as u32);
    }

    /// Whether the guest thinks that there is much less room than there is.
    pub fn is_stale(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= BUFFER / 2
    }

    /// The value for a header that is about to be sent.
    pub fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.told
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn says(buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header { buf_alloc, fwd_cnt, ..Header::default() }
    }

    #[test]
    fn a_guest_is_sent_what_it_has_room_for() {
        let mut credit = ToGuest::default();
        assert_eq!(credit.room(), 0, "it has said nothing yet");
        credit.learn(&says(100, 0));
        credit.sent(60);
        assert_eq!(credit.room(), 40);
        credit.sent(40);
        assert_eq!(credit.room(), 0);
        credit.learn(&says(100, 70));
        assert_eq!(credit.room(), 70);
        // It may shrink its buffer below what is on its way.
        credit.learn(&says(10, 70));
        assert_eq!(credit.room(), 0);
        // More than there was, which cannot be.
        credit.learn(&says(u32::MAX, 101));
        assert_eq!(credit.room(), 0);
    }

    #[test]
    fn a_guest_may_send_no_more_than_is_kept() {
        let mut credit = FromGuest::default();
        assert!(credit.take(BUFFER) && !credit.take(1) && credit.take(0) && !credit.take(u32::MAX));
        credit.forward(BUFFER as usize / 2 - 1);
        assert!(!credit.is_stale());
        credit.forward(1);
        assert!(credit.is_stale());
        assert_eq!(credit.tell(), BUFFER / 2);
        assert!(!credit.is_stale());
        assert!(!credit.take(BUFFER / 2 + 1) && credit.take(BUFFER / 2));
    }

    proptest! {
        #[test]
        fn counters_wrap_around(start: u32, steps in prop::collection::vec(1_u32..=BUFFER, 1..64)) {
            let mut to = ToGuest { buf_alloc: BUFFER, fwd_cnt: start, sent: start };
            let mut from = FromGuest { received: start, forwarded: start, told: start };
            let mut read = start;
            for step in steps {
                prop_assert_eq!(to.room(), BUFFER);
                to.sent(step);
                prop_assert_eq!(to.room(), BUFFER - step);
                read = read.wrapping_add(step);
                to.learn(&says(BUFFER, read));
                prop_assert!(from.take(step) && !from.take(BUFFER - step + 1));
                from.forward(step as usize);
                prop_assert_eq!(from.is_stale(), from.forwarded.wrapping_sub(from.told) >= BUFFER / 2);
                if from.is_stale() {
                    prop_assert_eq!(from.tell(), read);
                }
            }
        }

        #[test]
        fn no_claim_makes_more_room_than_it_says(buf_alloc: u32, fwd_cnt: u32, sent: u32) {
            let credit = ToGuest { buf_alloc, fwd_cnt, sent };
            prop_assert!(credit.room() <= buf_alloc);
        }
    }
}

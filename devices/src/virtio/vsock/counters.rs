//! What the thread has done; rx and tx are seen from the guest.

use crate::tally::Tally;

/// What was done; only the device's thread adds.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that the guest has made to programs of the host.
    pub from_guest: Tally,
    /// Connections that programs of the host have made to the guest.
    pub from_host: Tally,
    /// Connections that were asked for, by either, and not made.
    pub refused: Tally,
    /// Connections that are over, of those that were made.
    pub ended: Tally,
    /// Bytes to the guest.
    pub rx_bytes: Tally,
    /// Bytes from the guest.
    pub tx_bytes: Tally,
}

impl Counters {
    /// Connections that are there now.
    pub fn open(&self) -> u64 {
        let made = self.from_guest.get().wrapping_add(self.from_host.get());
        // Read while they change: the end may be seen before the beginning.
        made.saturating_sub(self.ended.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_and_not_over_is_open() {
        let counters = Counters::default();
        counters.from_guest.add(3);
        counters.from_host.add(2);
        counters.ended.add(4);
        assert_eq!(counters.open(), 1);
        counters.ended.add(4);
        assert_eq!(counters.open(), 0);
    }
}

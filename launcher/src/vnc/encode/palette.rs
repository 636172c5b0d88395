//! The colours of a tile, numbered in the order in which they appear, and how they run.

use std::iter;

/// The most colours that are told apart: Tight's indexes are bytes.
pub const COLOURS_MAX: usize = 256;

/// Places in the hash table; four a colour, so that chains are short.
const SLOTS: usize = 1024;
const EMPTY: u16 = u16::MAX;

/// Which colours there are. Kept and used again: nothing is allocated for a tile.
pub struct Palette {
    colours: Vec<u32>,
    /// Numbers of colours by the hash of their values; chains go on in the next slot.
    slots: Box<[u16; SLOTS]>,
}

/// How values run, row after row as if these were one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Runs of equal values.
    pub count: usize,
    /// Those of one value only.
    pub singles: usize,
    /// Bytes for all lengths in the way of ZRLE (RFC 6143 §7.7.6).
    pub length_bytes: usize,
}

impl Palette {
    /// No colours.
    pub fn new() -> Palette {
        let colours = Vec::with_capacity(COLOURS_MAX);
        Palette { colours, slots: Box::new([EMPTY; SLOTS]) }
    }

    /// Numbers the colours of `values`. `None`, and no colours, where there are more than `limit`,
    /// which is at most [`COLOURS_MAX`].
    pub fn collect(&mut self, values: &[u32], limit: usize) -> (bool, Runs) {
        self.colours.clear();
        self.slots.fill(EMPTY);
        let limit = limit.min(COLOURS_MAX);
        let mut known = true;
        let mut sum = Runs::default();
        for (value, length) in runs(values) {
            sum.count += 1;
            sum.singles += usize::from(length == 1);
            sum.length_bytes += length_bytes(length);
            known = known && self.add(value, limit);
        }
        if !known {
            self.colours.clear();
        }
        (known, sum)
    }

    /// The colours, by number.
    pub fn colours(&self) -> &[u32] {
        &self.colours
    }

    /// The number of a colour that was collected.
    pub fn index(&self, value: u32) -> u8 {
        // At most COLOURS_MAX - 1.
        self.find(value).map_or(0, |(_, number)| number as u8)
    }

    fn add(&mut self, value: u32, limit: usize) -> bool {
        match self.find(value) {
            Some((_, number)) if number != EMPTY => true,
            Some((slot, _)) if self.colours.len() < limit => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    *slot = self.colours.len() as u16;
                }
                self.colours.push(value);
                true
            }
            _ => false,
        }
    }

    /// The slot that has `value`'s number, or the empty one where it would be.
    fn find(&self, value: u32) -> Option<(usize, u16)> {
        // Fibonacci hashing: the upper bits of the product depend on all bits of the value.
        let first = (value.wrapping_mul(0x9e37_79b1) >> 22) as usize;
        // There are more slots than colours: an empty one comes.
        (first..first + SLOTS).find_map(|slot| {
            let slot = slot % SLOTS;
            let number = *self.slots.get(slot)?;
            let is_it = number == EMPTY || self.colours.get(usize::from(number)) == Some(&value);
            is_it.then_some((slot, number))
        })
    }
}

/// Runs of equal values, as (value, length).
pub fn runs(values: &[u32]) -> impl Iterator<Item = (u32, usize)> {
    let mut rest = values;
    iter::from_fn(move || {
        let value = *rest.first()?;
        let length = rest.iter().position(|other| *other != value).unwrap_or(rest.len());
        rest = rest.get(length..).unwrap_or_default();
        Some((value, length))
    })
}

/// The bytes that a run's length takes: each says up to 255 of the length but one, and all but the
/// last say 255.
pub fn length_bytes(length: usize) -> usize {
    length.saturating_sub(1) / 255 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_are_numbered_as_they_come() {
        let mut palette = Palette::new();
        let (known, runs) = palette.collect(&[7, 7, 9, 0, 0, 0, 7], 3);
        assert!(known);
        assert_eq!(runs, Runs { count: 4, singles: 2, length_bytes: 4 });
        assert_eq!(palette.colours(), [7, 9, 0]);
        assert_eq!([9, 0, 7].map(|value| palette.index(value)), [1, 2, 0]);
        // One too many; the runs are counted all the same.
        let (known, runs) = palette.collect(&[1, 2, 3, 3], 2);
        assert_eq!((known, runs.count, palette.colours()), (false, 3, &[][..]));
        assert_eq!(palette.collect(&[], 2), (true, Runs::default()));
    }

    #[test]
    fn lengths_take_a_byte_for_every_255() {
        for (length, bytes) in [(1, 1), (255, 1), (256, 2), (510, 2), (511, 3), (4096, 17)] {
            assert_eq!(length_bytes(length), bytes, "{length}");
        }
    }

    proptest! {
        #[test]
        fn every_colour_has_a_number_of_its_own(
            colours in prop::collection::hash_set(any::<u32>(), 1..=COLOURS_MAX),
        ) {
            // Values that differ in few bits share slots more often than random ones.
            for shift in [0, 8, 24] {
                let values: Vec<u32> = colours.iter().map(|colour| colour << shift).collect();
                let mut palette = Palette::new();
                prop_assert!(palette.collect(&values, COLOURS_MAX).0);
                for value in &values {
                    let index = usize::from(palette.index(*value));
                    prop_assert_eq!(palette.colours().get(index), Some(value));
                }
            }
        }
    }
}

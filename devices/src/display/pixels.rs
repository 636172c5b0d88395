//! The guest's pixel formats, and pixels on their way into a picture.

use super::{Damage, Picture, Rect, TILE};

/// Colours of indexed pixels, 0x00RRGGBB.
pub type Palette = [u32; 256];

/// How the guest's pixels lie in memory; little-endian, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// A byte that selects from the palette.
    Indexed8,
    /// Five bits a colour, blue lowest; the highest bit unused.
    Rgb555,
    /// Blue five bits, green six, red five.
    Rgb565,
    /// Blue, green, red, a byte each.
    Rgb888,
    /// The same, and a byte unused.
    Xrgb8888,
}

impl Depth {
    /// The format that is asked for by bits a pixel: 8, 15, 16, 24 or 32.
    pub fn from_bits(bits: u16) -> Option<Depth> {
        Some(match bits {
            8 => Depth::Indexed8,
            15 => Depth::Rgb555,
            16 => Depth::Rgb565,
            24 => Depth::Rgb888,
            32 => Depth::Xrgb8888,
            _ => return None,
        })
    }

    /// Bytes a pixel.
    pub const fn bytes(self) -> usize {
        match self {
            Depth::Indexed8 => 1,
            Depth::Rgb555 | Depth::Rgb565 => 2,
            Depth::Rgb888 => 3,
            Depth::Xrgb8888 => 4,
        }
    }

    /// Converts pixels into `row`, as many as both have.
    pub fn convert(self, bytes: &[u8], palette: &Palette, row: &mut [u32]) {
        match self {
            Depth::Indexed8 => fill(row, bytes.iter(), |byte| palette[usize::from(*byte)]),
            Depth::Rgb555 => fill(row, bytes.as_chunks().0.iter(), |pixel| {
                let value = u32::from(u16::from_le_bytes(*pixel));
                widen(value >> 10, 5) << 16 | widen(value >> 5, 5) << 8 | widen(value, 5)
            }),
            Depth::Rgb565 => fill(row, bytes.as_chunks().0.iter(), |pixel| {
                let value = u32::from(u16::from_le_bytes(*pixel));
                widen(value >> 11, 5) << 16 | widen(value >> 5, 6) << 8 | widen(value, 5)
            }),
            Depth::Rgb888 => fill(row, bytes.as_chunks().0.iter(), |[b, g, r]| {
                u32::from_le_bytes([*b, *g, *r, 0])
            }),
            Depth::Xrgb8888 => fill(row, bytes.as_chunks().0.iter(), |pixel| {
                u32::from_le_bytes(*pixel) & 0x00ff_ffff
            }),
        }
    }
}

fn fill<T>(row: &mut [u32], pixels: impl Iterator<Item = T>, colour: impl Fn(T) -> u32) {
    for (to, from) in row.iter_mut().zip(pixels) {
        *to = colour(from);
    }
}

/// The lowest `bits` (4 to 8) of `value` as eight: the highest are repeated, so that white is white.
pub fn widen(value: u32, bits: u32) -> u32 {
    let value = (value & ((1 << bits) - 1)) << (8 - bits);
    value | value >> bits
}

/// Puts pixels into row `y` from column `x` on, and adds those that differ to the damage. What is
/// outside the picture is left out.
pub fn put(picture: &mut Picture, damage: &mut Damage, (x, y): (u32, u32), pixels: &[u32]) {
    let row = picture.row_mut(y).get_mut(x as usize..).unwrap_or_default();
    let chunks = row.chunks_mut(TILE as usize).zip(pixels.chunks(TILE as usize));
    for (number, (old, new)) in chunks.enumerate() {
        let len = old.len().min(new.len());
        let (old, new) = (&mut old[..len], &new[..len]);
        let differs = |(a, b): (&u32, &u32)| a != b;
        let Some(first) = old.iter().zip(new).position(differs) else { continue };
        let last = old.iter().zip(new).rposition(differs).unwrap_or(first);
        old.copy_from_slice(new);
        let start = x + number as u32 * TILE + first as u32;
        damage.add(&Rect { x: start, y, width: (last - first) as u32 + 1, height: 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_knows_black_white_and_red() {
        let mut palette = [0; 256];
        (palette[7], palette[9]) = (0xff_ffff, 0xff_0000);
        let cases: [(u16, &[u8]); 5] = [
            (8, &[0, 7, 9]),
            (15, &[0, 0, 0xff, 0x7f, 0, 0x7c]),
            (16, &[0, 0, 0xff, 0xff, 0, 0xf8]),
            (24, &[0, 0, 0, 0xff, 0xff, 0xff, 0, 0, 0xff]),
            (32, &[0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x80]),
        ];
        for (bits, bytes) in cases {
            let depth = Depth::from_bits(bits).unwrap();
            assert_eq!(bytes.len(), 3 * depth.bytes());
            let mut row = [1; 4];
            depth.convert(bytes, &palette, &mut row);
            assert_eq!(row, [0, 0xff_ffff, 0xff_0000, 1], "{bits} bits");
        }
        assert!([0, 4, 12, 64].iter().all(|bits| Depth::from_bits(*bits).is_none()));
    }

    #[test]
    fn widening_keeps_the_ends_and_the_order() {
        for bits in [5, 6] {
            let all: Vec<u32> = (0..1 << bits).map(|value| widen(value, bits)).collect();
            assert_eq!((all[0], all.last()), (0, Some(&0xff)));
            assert!(all.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn only_pixels_that_differ_are_damage() {
        let mut picture = Picture::new(64, 32);
        let mut damage = Damage::new(64, 32);
        put(&mut picture, &mut damage, (0, 3), &[0; 64]);
        assert!(damage.is_empty());
        let mut row = [0; 64];
        (row[15], row[40]) = (1, 2);
        put(&mut picture, &mut damage, (0, 3), &row);
        let all = Rect { x: 0, y: 0, width: 64, height: 32 };
        let rect = |x| Rect { x, y: 0, width: 16, height: 16 };
        assert_eq!(damage.take(&all), [rect(0), rect(32)]);
        assert_eq!(picture.row(3), row);
        // A chunk that straddles two tiles damages only the one that differs.
        put(&mut picture, &mut damage, (8, 4), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(damage.take(&all), [rect(16)]);
        put(&mut picture, &mut damage, (60, 31), &[9; 100]);
        put(&mut picture, &mut damage, (64, 31), &[9; 100]);
        put(&mut picture, &mut damage, (0, 32), &[9; 100]);
        assert_eq!(damage.take(&all), [Rect { y: 16, ..rect(48) }]);
    }
}

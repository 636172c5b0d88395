//! Pixel formats (RFC 6143 §7.4): what a client asks for, and colours in its form.
//!
//! Every format with 8, 16 or 32 bits a pixel is possible. A client that wants a colour map gets a
//! fixed one: three bits of red, three of green, two of blue. Which colours go over the wire is
//! looked up in tables, one a channel: a pixel of any format costs three look-ups.

use std::cmp::min;

use thiserror::Error;

/// A pixel format that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    /// bits-per-pixel is none of those in RFC 6143 §7.4.
    #[error("{0} bits a pixel: 8, 16 or 32 are possible")]
    BitsPerPixel(u8),
    /// depth is 0 or more than a pixel has.
    #[error("a depth of {depth} in pixels of {bits} bits")]
    Depth {
        /// depth.
        depth: u8,
        /// bits-per-pixel.
        bits: u8,
    },
    /// A channel does not fit in a pixel.
    #[error("values up to {max} from bit {shift} on in pixels of {bits} bits")]
    Channel {
        /// red-max, green-max or blue-max.
        max: u16,
        /// Its shift.
        shift: u8,
        /// bits-per-pixel.
        bits: u8,
    },
}

/// PIXEL_FORMAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelFormat {
    bits_per_pixel: u8,
    depth: u8,
    big_endian: bool,
    true_colour: bool,
    /// Of red, green, blue.
    max: [u16; 3],
    shift: [u8; 3],
}

impl PixelFormat {
    /// What a picture has: 0x00RRGGBB, the least significant byte first.
    pub const NATIVE: PixelFormat = PixelFormat {
        bits_per_pixel: 32,
        depth: 24,
        big_endian: false,
        true_colour: true,
        max: [255; 3],
        shift: [16, 8, 0],
    };

    /// The format in these bytes.
    ///
    /// ```text
    /// 0 bits-per-pixel  1 depth  2 big-endian  3 true-colour
    /// 4 red-max  6 green-max  8 blue-max  10 red-shift  11 green-shift  12 blue-shift  13 padding
    /// ```
    ///
    /// # Errors
    /// No pixel can be like this.
    pub fn parse(bytes: &[u8; 16]) -> Result<PixelFormat, FormatError> {
        let [bits, depth, big, colour, rh, rl, gh, gl, bh, bl, rs, gs, bs, ..] = *bytes;
        let format = PixelFormat {
            bits_per_pixel: bits,
            depth,
            big_endian: big != 0,
            true_colour: colour != 0,
            max: [[rh, rl], [gh, gl], [bh, bl]].map(u16::from_be_bytes),
            shift: [rs, gs, bs],
        };
        if ![8, 16, 32].contains(&bits) {
            return Err(FormatError::BitsPerPixel(bits));
        }
        if depth == 0 || depth > bits {
            return Err(FormatError::Depth { depth, bits });
        }
        let channels = format.max.into_iter().zip(format.shift);
        for (max, shift) in channels.filter(|_| format.true_colour) {
            if shift >= bits || u64::from(max) << shift >= 1 << bits {
                return Err(FormatError::Channel { max, shift, bits });
            }
        }
        Ok(format)
    }

    /// The format as it is sent.
    pub fn to_bytes(self) -> [u8; 16] {
        let [[rh, rl], [gh, gl], [bh, bl]] = self.max.map(u16::to_be_bytes);
        let [rs, gs, bs] = self.shift;
        let (big, colour) = (u8::from(self.big_endian), u8::from(self.true_colour));
        let (bits, depth) = (self.bits_per_pixel, self.depth);
        [bits, depth, big, colour, rh, rl, gh, gl, bh, bl, rs, gs, bs, 0, 0, 0]
    }

    /// SetColourMapEntries (RFC 6143 §7.6.2), which a client that asked for a format with a colour
    /// map needs before any pixel. `None`: the format has none.
    pub fn colour_map(&self) -> Option<Vec<u8>> {
        if self.true_colour {
            return None;
        }
        // Message type 1, padding, first colour 0, 256 colours.
        let mut message = vec![1, 0, 0, 0, 1, 0];
        for index in 0..=255u32 {
            for (max, shift) in MAP {
                let level = (index >> shift) & u32::from(max);
                // At most 65535, since a level is at most its channel's maximum.
                let full = (level * 0xffff / u32::from(max)) as u16;
                message.extend_from_slice(&full.to_be_bytes());
            }
        }
        Some(message)
    }

    /// PIXEL.
    pub fn pixels(&self) -> Wire {
        Wire::new(self, usize::from(self.bits_per_pixel / 8), 0)
    }

    /// CPIXEL (RFC 6143 §7.7.5): three bytes where the fourth is always 0. Where either end of a
    /// pixel may be left out, its last byte is: the choice of the clients in use.
    pub fn cpixels(&self) -> Wire {
        let used = self.used_bits();
        let (low, high) = (used < 1 << 24, used & 0xff == 0);
        let fits = self.true_colour && self.bits_per_pixel == 32 && self.depth <= 24;
        match (fits, self.big_endian) {
            (true, false) if low => Wire::new(self, 3, 0),
            (true, true) if high => Wire::new(self, 3, 0),
            (true, _) if low || high => Wire::new(self, 3, 1),
            _ => self.pixels(),
        }
    }

    /// TPIXEL (Tight, community RFB specification): red, green and blue, a byte each, for pixels of
    /// 32 bits and depth 24 with 8 bits a channel, whatever the order in the pixel.
    pub fn tpixels(&self) -> Wire {
        if self.true_colour && (self.bits_per_pixel, self.depth, self.max) == (32, 24, [255; 3]) {
            let rgb = PixelFormat { big_endian: false, shift: [0, 8, 16], ..*self };
            return Wire::new(&rgb, 3, 0);
        }
        self.pixels()
    }

    /// Whether JPEG may be sent: colours are not indexes, and there are more of them than 256.
    pub fn takes_jpeg(&self) -> bool {
        self.true_colour && self.bits_per_pixel >= 16
    }

    /// The bits of a pixel that may be 1.
    fn used_bits(&self) -> u32 {
        let bits = |max: u16| u32::MAX.checked_shr(u32::from(max).leading_zeros()).unwrap_or(0);
        self.channels().into_iter().fold(0, |used, (max, shift)| used | bits(max) << shift)
    }

    fn channels(&self) -> [(u16, u8); 3] {
        if !self.true_colour {
            return MAP;
        }
        let ([r, g, b], [rs, gs, bs]) = (self.max, self.shift);
        [(r, rs), (g, gs), (b, bs)]
    }
}

/// The fixed colour map: maximum and shift of red, green and blue in an index.
const MAP: [(u16, u8); 3] = [(7, 5), (7, 2), (3, 0)];

/// Colours as they go over the wire: a value's first bytes, the least significant first.
#[derive(Clone)]
pub struct Wire {
    bytes: usize,
    /// Values are a picture's pixels as they are.
    native: bool,
    /// For red, green, blue: what a channel's 8 bits add to a value.
    tables: Box<[[u32; 256]; 3]>,
}

impl Wire {
    /// Of `format`'s pixels, `bytes` bytes from byte `first` on.
    fn new(format: &PixelFormat, bytes: usize, first: usize) -> Wire {
        let mut tables = Box::new([[0; 256]; 3]);
        for (table, (max, shift)) in tables.iter_mut().zip(format.channels()) {
            for (level, entry) in table.iter_mut().enumerate() {
                let scaled = (level as u32 * u32::from(max) + 127) / 255;
                let pixel = scaled << shift;
                let ordered = match (format.big_endian, format.bits_per_pixel) {
                    (true, 16) => u32::from((pixel as u16).swap_bytes()),
                    (true, 32) => pixel.swap_bytes(),
                    _ => pixel,
                };
                *entry = ordered >> (8 * first);
            }
        }
        let native = first == 0
            && PixelFormat { depth: 24, ..*format } == PixelFormat::NATIVE
            && format.true_colour;
        Wire { bytes, native, tables }
    }

    /// Bytes a pixel has: 1 to 4.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A pixel's value.
    pub fn value(&self, pixel: u32) -> u32 {
        if self.native {
            return pixel & 0x00ff_ffff;
        }
        let [_, r, g, b] = pixel.to_be_bytes();
        let [red, green, blue] = &*self.tables;
        red[usize::from(r)] | green[usize::from(g)] | blue[usize::from(b)]
    }

    /// Adds the values of `pixels` to `values`.
    pub fn convert(&self, pixels: &[u32], values: &mut Vec<u32>) {
        if self.native {
            values.extend(pixels.iter().map(|pixel| pixel & 0x00ff_ffff));
        } else {
            values.extend(pixels.iter().map(|pixel| self.value(*pixel)));
        }
    }

    /// Adds a value's bytes to `out`.
    pub fn put(&self, value: u32, out: &mut Vec<u8>) {
        let bytes = value.to_le_bytes();
        out.extend_from_slice(&bytes[..min(self.bytes, 4)]);
    }

    /// Adds the bytes of many values.
    pub fn put_all(&self, values: &[u32], out: &mut Vec<u8>) {
        match self.bytes {
            1 => put_all(values, out, |[a, _, _, _]| [a]),
            2 => put_all(values, out, |[a, b, _, _]| [a, b]),
            3 => put_all(values, out, |[a, b, c, _]| [a, b, c]),
            _ => put_all(values, out, |bytes| bytes),
        }
    }
}

/// Adds `cut` of each value's bytes.
fn put_all<const N: usize>(values: &[u32], out: &mut Vec<u8>, cut: impl Fn([u8; 4]) -> [u8; N]) {
    let start = out.len();
    out.resize(start + values.len() * N, 0);
    let (places, _) = out[start..].as_chunks_mut::<N>();
    for (place, value) in places.iter_mut().zip(values) {
        *place = cut(value.to_le_bytes());
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A format from its fields, in the order of the specification.
    pub fn format(bits: [u8; 4], max: [u16; 3], shift: [u8; 3]) -> PixelFormat {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&bits);
        for (place, max) in bytes[4..10].chunks_mut(2).zip(max) {
            place.copy_from_slice(&max.to_be_bytes());
        }
        bytes[10..13].copy_from_slice(&shift);
        PixelFormat::parse(&bytes).expect("a format that can be")
    }

    /// Formats that clients are known to ask for, and odd ones.
    pub fn formats() -> Vec<PixelFormat> {
        vec![
            PixelFormat::NATIVE,
            // As it is in a client's memory of the other byte order.
            format([32, 24, 1, 1], [255; 3], [16, 8, 0]),
            // Red first.
            format([32, 24, 0, 1], [255; 3], [0, 8, 16]),
            // In the upper three bytes, in either order.
            format([32, 24, 0, 1], [255; 3], [24, 16, 8]),
            format([32, 24, 1, 1], [255; 3], [24, 16, 8]),
            // All 32 bits are its depth: no pixel can be made shorter.
            format([32, 32, 0, 1], [255; 3], [16, 8, 0]),
            format([32, 30, 0, 1], [1023; 3], [20, 10, 0]),
            format([16, 16, 0, 1], [31, 63, 31], [11, 5, 0]),
            format([16, 16, 1, 1], [31, 63, 31], [11, 5, 0]),
            format([16, 15, 0, 1], [31; 3], [10, 5, 0]),
            format([8, 8, 0, 1], [7, 7, 3], [0, 3, 6]),
            format([8, 6, 0, 1], [3; 3], [4, 2, 0]),
            format([8, 3, 0, 1], [1; 3], [2, 1, 0]),
            format([8, 8, 0, 0], [0; 3], [0; 3]),
            format([16, 8, 1, 0], [0; 3], [0; 3]),
        ]
    }

    fn bytes(wire: &Wire, pixel: u32) -> Vec<u8> {
        let mut out = vec![];
        wire.put(wire.value(pixel), &mut out);
        out
    }

    #[test]
    fn golden_pixels() {
        // In the order of formats(): PIXEL, CPIXEL, TPIXEL of 0x80c0ff.
        let golden: [[&[u8]; 3]; 15] = [
            [&[0xff, 0xc0, 0x80, 0], &[0xff, 0xc0, 0x80], &[0x80, 0xc0, 0xff]],
            [&[0, 0x80, 0xc0, 0xff], &[0x80, 0xc0, 0xff], &[0x80, 0xc0, 0xff]],
            [&[0x80, 0xc0, 0xff, 0], &[0x80, 0xc0, 0xff], &[0x80, 0xc0, 0xff]],
            [&[0, 0xff, 0xc0, 0x80], &[0xff, 0xc0, 0x80], &[0x80, 0xc0, 0xff]],
            [&[0x80, 0xc0, 0xff, 0], &[0x80, 0xc0, 0xff], &[0x80, 0xc0, 0xff]],
            [&[0xff, 0xc0, 0x80, 0]; 3],
            // 514, 770, 1023.
            [&[0xff, 0x0b, 0x2c, 0x20]; 3],
            // 16, 47, 31 (of 31, 63, 31): 0x85ff.
            [&[0xff, 0x85]; 3],
            [&[0x85, 0xff]; 3],
            // 16, 23, 31: 0x42ff.
            [&[0xff, 0x42]; 3],
            // 4, 5, 3.
            [&[0b1110_1100]; 3],
            // 2, 2, 3.
            [&[0b10_1011]; 3],
            [&[0b111]; 3],
            // 4, 5, 3 of the map.
            [&[0b1001_0111]; 3],
            [&[0, 0b1001_0111]; 3],
        ];
        for (format, golden) in formats().iter().zip(golden) {
            let wires = [format.pixels(), format.cpixels(), format.tpixels()];
            let got = wires.each_ref().map(|wire| bytes(wire, 0xff80_c0ff));
            assert_eq!(got.each_ref().map(Vec::as_slice), golden, "{format:?}");
            for (wire, golden) in wires.iter().zip(golden) {
                let (mut values, mut out) = (vec![], vec![]);
                wire.convert(&[0xff80_c0ff, 0], &mut values);
                wire.put_all(&values, &mut out);
                assert_eq!((&out[..golden.len()], wire.bytes()), (golden, golden.len()));
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let parse = |change: fn(&mut [u8; 16])| {
            let mut bytes = PixelFormat::NATIVE.to_bytes();
            change(&mut bytes);
            PixelFormat::parse(&bytes).map_err(|error| error.to_string())
        };
        let error = |text: &str| Err(text.to_owned());
        assert_eq!(parse(|b| b[0] = 24), error("24 bits a pixel: 8, 16 or 32 are possible"));
        assert_eq!(parse(|b| b[1] = 33), error("a depth of 33 in pixels of 32 bits"));
        assert_eq!(parse(|b| b[1] = 0), error("a depth of 0 in pixels of 32 bits"));
        let far = "values up to 255 from bit 25 on in pixels of 32 bits";
        assert_eq!(parse(|b| b[10] = 25), error(far));
        let beyond = "values up to 255 from bit 255 on in pixels of 32 bits";
        assert_eq!(parse(|b| b[12] = 255), error(beyond));
        assert!(parse(|b| b[10] = 24).is_ok());
        // Of a colour map, maxima and shifts mean nothing.
        assert!(parse(|b| (b[3], b[10]) = (0, 255)).is_ok());
    }

    /// A fuzzer found it: they were used as they are said to be in a pixel.
    #[test]
    fn channels_of_a_format_with_a_colour_map_mean_nothing() {
        for bits in [8, 32] {
            let mapped = format([bits, 8, 0, 0], [0xffff, 0x30, 1], [251, 32, 0x30]);
            for wire in [mapped.pixels(), mapped.cpixels(), mapped.tpixels()] {
                assert_eq!(wire.bytes(), usize::from(bits / 8));
                assert_eq!(wire.value(0xff_8040), 0xf1);
            }
        }
    }

    #[test]
    fn the_colour_map_says_what_its_indexes_are() {
        assert_eq!(PixelFormat::NATIVE.colour_map(), None);
        let mapped = format([8, 8, 0, 0], [0; 3], [0; 3]);
        let message = mapped.colour_map().expect("it has a map");
        assert_eq!((&message[..6], message.len()), (&[1, 0, 0, 0, 1, 0][..], 6 + 6 * 256));
        let entry = |index: usize| &message[6 + 6 * index..12 + 6 * index];
        assert_eq!((entry(0), entry(255)), (&[0; 6][..], &[255; 6][..]));
        assert_eq!(entry(0b1000_0001), [0x92, 0x48, 0, 0, 0x55, 0x55]);
        let wire = mapped.pixels();
        for (colour, index) in [(0, 0), (0xff_ffff, 255), (0xff_0000, 0xe0), (0x00_00ff, 3)] {
            assert_eq!(wire.value(colour), index);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_kept(bytes: [u8; 16], pixel: u32) {
            if let Ok(format) = PixelFormat::parse(&bytes) {
                prop_assert_eq!(PixelFormat::parse(&format.to_bytes()), Ok(format));
                for wire in [format.pixels(), format.cpixels(), format.tpixels()] {
                    prop_assert!(wire.value(pixel) < 1u64.wrapping_shl(8 * wire.bytes() as u32) as u32
                        || wire.bytes() == 4);
                }
            }
        }

        #[test]
        fn formats_that_can_be_can_be_used(
            bits in prop::sample::select(vec![8u8, 16, 32]),
            big: bool, max: [u16; 3], shift: [u8; 3], pixel: u32,
        ) {
            let mut bytes = PixelFormat::NATIVE.to_bytes();
            bytes[..4].copy_from_slice(&[bits, bits, u8::from(big), 1]);
            for (place, max) in bytes[4..10].chunks_mut(2).zip(max) {
                place.copy_from_slice(&(max >> (max & 15)).to_be_bytes());
            }
            bytes[10..13].copy_from_slice(&shift.map(|shift| shift & 31));
            if let Ok(format) = PixelFormat::parse(&bytes) {
                let value = u64::from(format.pixels().value(pixel));
                prop_assert!(value < 1 << bits);
            }
        }
    }
}

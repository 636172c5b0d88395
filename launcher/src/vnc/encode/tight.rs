//! Tight (community RFB specification, "Tight Encoding"): blocks of one colour, of a palette, of
//! all colours, or as JPEG, each with the zlib stream that has seen its like.
//!
//! Left out: the gradient filter, and blocks of copied pixels without zlib, which only old clients
//! know.

use super::super::pixel::{PixelFormat, Wire};
use super::deflate::Deflate;
use super::palette::COLOURS_MAX;
use super::source::Source;
use super::wishes::{TIGHT, Wishes};
use super::zrle::pack;
use super::{Scratch, put_header};

/// The widest rectangle that there may be.
const WIDTH_MAX: u32 = 2048;
/// Pixels of a rectangle, so that what is kept for a client is small, and a palette is of one part
/// of the picture only.
const PIXELS_MAX: u32 = 1 << 16;
/// A block's side where JPEG may be used: its head takes more bytes than a small block's pixels.
const PHOTO_SIDE: u32 = 256;
/// The fewest pixels that JPEG is used for.
const PHOTO_PIXELS_MIN: usize = 1024;

/// Shorter data goes as it is.
const COMPRESSED_MIN: usize = 12;

/// Compression control, upper half: one colour; JPEG; a filter's number follows.
const FILL: u8 = 0x80;
const JPEG: u8 = 0x90;
const WITH_FILTER: u8 = 0x40;
/// Filter: indexes of a palette.
const PALETTE: u8 = 1;

/// The zlib streams; the fourth that there may be is not used.
#[derive(Clone, Copy)]
enum Stream {
    Full = 0,
    Mono = 1,
    Indexed = 2,
}

/// What a client's blocks depend on.
pub struct Terms<'a> {
    /// What it asked for.
    pub wishes: &'a Wishes,
    /// Its pixels.
    pub format: &'a PixelFormat,
    /// Their TPIXEL.
    pub wire: &'a Wire,
}

impl Terms<'_> {
    /// JPEG's quality, where JPEG may be used.
    fn jpeg(&self) -> Option<u8> {
        self.wishes.quality.filter(|_| self.format.takes_jpeg())
    }
}

/// A client's zlib streams, each made when it is first used.
#[derive(Default)]
pub struct Tight {
    streams: [Option<Deflate>; 3],
}

impl Tight {
    /// Adds rectangles, heads included; answers how many.
    pub fn encode(
        &mut self,
        source: &Source<'_>,
        terms: &Terms<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> u16 {
        let width = source.area().width.clamp(1, WIDTH_MAX);
        let (width, height) = match terms.jpeg() {
            Some(_) => (PHOTO_SIDE, PHOTO_SIDE),
            None => (width, PIXELS_MAX / width),
        };
        let mut count = 0;
        for block in source.tiles(width, height) {
            put_header(&block.area(), TIGHT, out);
            self.add(&block, terms, scratch, out);
            count += 1;
        }
        count
    }

    fn add(
        &mut self,
        block: &Source<'_>,
        terms: &Terms<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) {
        let Terms { wire, wishes, .. } = terms;
        block.values(wire, &mut scratch.values);
        let Scratch { values, bytes, palette, .. } = &mut *scratch;
        let (known, runs) = palette.collect(values, COLOURS_MAX);
        let colours = if known { palette.colours() } else { &[] };
        bytes.clear();
        let stream = match colours {
            [colour] => {
                out.push(FILL);
                return wire.put(*colour, out);
            }
            [_, _] => {
                for row in values.chunks(block.area().width.max(1) as usize) {
                    pack(row, 1, |value| palette.index(value), bytes);
                }
                Stream::Mono
            }
            _ if known
                && colours.len() * wire.bytes() + values.len() < values.len() * wire.bytes() =>
            {
                pack_bytes(scratch);
                Stream::Indexed
            }
            _ => {
                // Where most pixels are like their neighbours it is a drawing, which JPEG blurs.
                let is_photo = values.len() >= PHOTO_PIXELS_MIN && runs.count > values.len() / 2;
                if let Some(quality) = terms.jpeg().filter(|_| is_photo && !known)
                    && photo(block, quality, scratch, out)
                {
                    return;
                }
                wire.put_all(&scratch.values, &mut scratch.bytes);
                Stream::Full
            }
        };
        self.put(stream, wishes.compression, (wire, scratch), out);
    }

    /// Adds what is in `scratch.bytes` as a block of `stream`.
    fn put(
        &mut self,
        stream: Stream,
        level: u8,
        (wire, scratch): (&Wire, &mut Scratch),
        out: &mut Vec<u8>,
    ) {
        let number = stream as usize;
        let Some(zlib) = self.streams.get_mut(number) else { return };
        let mut control = (stream as u8) << 4;
        let is_long = scratch.bytes.len() >= COMPRESSED_MIN;
        if is_long && zlib.as_ref().is_some_and(|zlib| zlib.level() != level) {
            // The client asked for another level: both sides begin anew.
            control |= 1 << number;
            *zlib = None;
        }
        if matches!(stream, Stream::Full) {
            out.push(control);
        } else {
            let colours = scratch.palette.colours();
            // 2 to 256 colours, less one.
            out.extend_from_slice(&[control | WITH_FILTER, PALETTE, (colours.len() - 1) as u8]);
            wire.put_all(colours, out);
        }
        if !is_long {
            return out.extend_from_slice(&scratch.bytes);
        }
        let zlib = zlib.get_or_insert_with(|| Deflate::new(level));
        scratch.packed.clear();
        zlib.write(&scratch.bytes, &mut scratch.packed);
        zlib.flush(&mut scratch.packed);
        put_compact(scratch.packed.len(), out);
        out.extend_from_slice(&scratch.packed);
    }
}

/// Adds the pixels' indexes to `scratch.bytes`, a byte each.
fn pack_bytes(scratch: &mut Scratch) {
    let Scratch { values, bytes, palette, .. } = scratch;
    for (value, length) in super::palette::runs(values) {
        bytes.extend(std::iter::repeat_n(palette.index(value), length));
    }
}

/// Adds the block as JPEG; false, and nothing added, if that cannot be.
fn photo(block: &Source<'_>, quality: u8, scratch: &mut Scratch, out: &mut Vec<u8>) -> bool {
    let Scratch { bytes, packed, .. } = scratch;
    bytes.clear();
    packed.clear();
    for row in block.rows() {
        for pixel in row {
            let [_, red, green, blue] = pixel.to_be_bytes();
            bytes.extend_from_slice(&[red, green, blue]);
        }
    }
    let area = block.area();
    let encoder = jpeg_encoder::Encoder::new(&mut *packed, quality);
    // A block's sides are PHOTO_SIDE at most.
    let (width, height) = (area.width as u16, area.height as u16);
    let done = encoder.encode(bytes, width, height, jpeg_encoder::ColorType::Rgb).is_ok();
    bytes.clear();
    if done {
        out.push(JPEG);
        put_compact(packed.len(), out);
        out.extend_from_slice(packed);
    }
    done
}

/// Adds a length in compact representation: seven bits a byte, the least significant first, the
/// upper bit saying that more follow; the third byte has eight. Blocks are shorter than 2^22.
fn put_compact(length: usize, out: &mut Vec<u8>) {
    let part = |shift: u32| (length >> shift) as u8;
    match length {
        0..0x80 => out.push(part(0)),
        0x80..0x4000 => out.extend_from_slice(&[part(0) | 0x80, part(7)]),
        _ => out.extend_from_slice(&[part(0) | 0x80, part(7) | 0x80, part(14)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_lengths() {
        for (length, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (10_000, &[0x90, 0x4e]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 1]),
            ((1 << 22) - 1, &[0xff, 0xff, 0xff]),
        ] {
            let mut out = vec![];
            put_compact(length, &mut out);
            assert_eq!(out, bytes, "{length}");
        }
    }
}

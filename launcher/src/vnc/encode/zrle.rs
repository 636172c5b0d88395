//! ZRLE (RFC 6143 §7.7.6): tiles of 64 × 64 pixels, each in the form that takes the fewest bytes,
//! all in one zlib stream.

use super::super::pixel::Wire;
use super::Scratch;
use super::deflate::Deflate;
use super::palette::{Runs, length_bytes, runs};
use super::source::Source;

/// A tile's side.
const SIDE: u32 = 64;
/// Subencodings: 0 is raw, 1 one colour, 2 to 16 a packed palette of so many colours.
const RAW: u8 = 0;
const SOLID: u8 = 1;
const PACKED_MAX: usize = 16;
const PLAIN_RLE: u8 = 128;
/// 130 to 255: runs of a palette of 2 to 127 colours.
const PALETTE_RLE: u8 = 128;
const PALETTE_MAX: usize = 127;
/// In a palette's index: a length follows.
const RUN: u8 = 128;

/// The forms of a tile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Raw,
    Solid,
    Packed,
    PlainRle,
    PaletteRle,
}

/// Adds the length and data of `source`, whose colours go as `wire`, the CPIXEL.
pub fn encode(
    source: &Source<'_>,
    wire: &Wire,
    scratch: &mut Scratch,
    stream: &mut Deflate,
    out: &mut Vec<u8>,
) {
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    for tile in source.tiles(SIDE, SIDE) {
        tile.values(wire, &mut scratch.values);
        scratch.bytes.clear();
        add(tile.area().width as usize, wire, scratch);
        stream.write(&scratch.bytes, out);
    }
    stream.flush(out);
    // A picture's pixels are fewer than 2^32 / 4.
    let length = (out.len() - length_at - 4) as u32;
    if let Some(place) = out.get_mut(length_at..length_at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Adds the tile in `scratch.values` to `scratch.bytes`.
fn add(width: usize, wire: &Wire, scratch: &mut Scratch) {
    let Scratch { values, bytes, palette, .. } = scratch;
    let (known, counted) = palette.collect(values, PALETTE_MAX);
    let colours = if known { palette.colours() } else { &[] };
    let form = cheapest(values.len(), width, (colours.len(), wire.bytes()), &counted);
    match form {
        Form::Raw => bytes.push(RAW),
        Form::Solid => bytes.push(SOLID),
        // At most 127 colours.
        Form::Packed => bytes.push(colours.len() as u8),
        Form::PlainRle => bytes.push(PLAIN_RLE),
        Form::PaletteRle => bytes.push(PALETTE_RLE + colours.len() as u8),
    }
    if matches!(form, Form::Solid | Form::Packed | Form::PaletteRle) {
        wire.put_all(colours, bytes);
    }
    match form {
        Form::Solid => {}
        Form::Raw => wire.put_all(values, bytes),
        Form::Packed => {
            let bits = packed_bits(colours.len());
            for row in values.chunks(width.max(1)) {
                pack(row, bits, |value| palette.index(value), bytes);
            }
        }
        Form::PlainRle => {
            for (value, length) in runs(values) {
                wire.put(value, bytes);
                put_length(length, bytes);
            }
        }
        Form::PaletteRle => {
            for (value, length) in runs(values) {
                let index = palette.index(value);
                if length == 1 {
                    bytes.push(index);
                } else {
                    bytes.push(RUN | index);
                    put_length(length, bytes);
                }
            }
        }
    }
}

/// The form that takes the fewest bytes, of `pixels` pixels in rows of `width` with `colours`
/// colours (0: too many) of `size` bytes.
fn cheapest(pixels: usize, width: usize, (colours, size): (usize, usize), runs: &Runs) -> Form {
    let rows = pixels.div_ceil(width.max(1));
    let packed = colours * size + rows * (width * usize::from(packed_bits(colours))).div_ceil(8);
    let palette_rle = colours * size + runs.count + runs.length_bytes - runs.singles;
    let plain_rle = runs.count * size + runs.length_bytes;
    let forms = [
        (Form::Solid, colours == 1, 0),
        // First where it costs the same: text is the same bytes wherever it is, so that zlib finds
        // it again.
        (Form::Packed, (2..=PACKED_MAX).contains(&colours), packed),
        (Form::PaletteRle, colours > 1, palette_rle),
        (Form::PlainRle, true, plain_rle),
        (Form::Raw, true, pixels * size),
    ];
    let possible = forms.into_iter().filter(|(_, possible, _)| *possible);
    possible.min_by_key(|(_, _, bytes)| *bytes).map_or(Form::Raw, |(form, _, _)| form)
}

fn packed_bits(colours: usize) -> u8 {
    match colours {
        0..=2 => 1,
        3..=4 => 2,
        _ => 4,
    }
}

/// Adds a row's indexes, `bits` bits (1, 2, 4) each, the first in the most significant ones; the
/// last byte is filled up with zeros.
pub fn pack(row: &[u32], bits: u8, index: impl Fn(u32) -> u8, out: &mut Vec<u8>) {
    let mut last = None;
    for pixels in row.chunks(usize::from(8 / bits)) {
        let mut byte = 0;
        for (place, value) in pixels.iter().enumerate() {
            let number = match last {
                Some((known, number)) if known == *value => number,
                _ => index(*value),
            };
            last = Some((*value, number));
            // Less than eight of them, of `bits` bits: it fits.
            byte |= number << (8 - bits - bits * place as u8);
        }
        out.push(byte);
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    let full = length_bytes(length) - 1;
    out.extend(std::iter::repeat_n(255, full));
    // Less than 255 is left.
    out.push((length - 1 - full * 255) as u8);
}

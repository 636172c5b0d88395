//! Hextile (RFC 6143 §7.7.4): tiles of 16 × 16 pixels, each a background with rectangles on it.

use super::super::pixel::Wire;
use super::Scratch;
use super::source::Source;

/// A tile's side.
const SIDE: u32 = 16;
const PIXELS: usize = 256;

const RAW: u8 = 1;
const BACKGROUND_SPECIFIED: u8 = 2;
const FOREGROUND_SPECIFIED: u8 = 4;
const ANY_SUBRECTS: u8 = 8;
const SUBRECTS_COLOURED: u8 = 16;

/// What the client remembers from the tile before.
#[derive(Default)]
struct Memory {
    background: Option<u32>,
    foreground: Option<u32>,
}

/// Adds the tiles of `source`.
pub fn encode(source: &Source<'_>, wire: &Wire, scratch: &mut Scratch, out: &mut Vec<u8>) {
    let mut memory = Memory::default();
    for tile in source.tiles(SIDE, SIDE) {
        tile.values(wire, &mut scratch.values);
        scratch.palette.collect(&scratch.values, PIXELS);
        let width = tile.area().width as usize;
        let start = out.len();
        let size = 1 + scratch.values.len() * wire.bytes();
        let done = drawn(&Tile { width, scratch, wire }, &mut memory, out);
        if !done || out.len() - start >= size {
            out.truncate(start);
            out.push(RAW);
            wire.put_all(&scratch.values, out);
            // What was remembered may not be used after a raw tile.
            memory = Memory::default();
        }
    }
}

struct Tile<'a> {
    width: usize,
    scratch: &'a Scratch,
    wire: &'a Wire,
}

/// Adds a tile as background and rectangles; false where these are too many.
fn drawn(tile: &Tile<'_>, memory: &mut Memory, out: &mut Vec<u8>) -> bool {
    let Tile { scratch, wire, .. } = tile;
    let background = most_frequent(scratch);
    let mut mask = 0;
    if memory.background != Some(background) {
        mask |= BACKGROUND_SPECIFIED;
    }
    let colours = scratch.palette.colours();
    let foreground = match colours {
        [one, other] => Some(if *one == background { *other } else { *one }),
        _ => None,
    };
    match colours.len() {
        0 | 1 => {}
        2 if memory.foreground == foreground => mask |= ANY_SUBRECTS,
        2 => mask |= ANY_SUBRECTS | FOREGROUND_SPECIFIED,
        _ => mask |= ANY_SUBRECTS | SUBRECTS_COLOURED,
    }
    out.push(mask);
    if mask & BACKGROUND_SPECIFIED != 0 {
        wire.put(background, out);
    }
    memory.background = Some(background);
    if let (Some(colour), true) = (foreground, mask & FOREGROUND_SPECIFIED != 0) {
        wire.put(colour, out);
    }
    match mask & (ANY_SUBRECTS | SUBRECTS_COLOURED) {
        0 => return true,
        ANY_SUBRECTS => memory.foreground = foreground,
        // A tile with coloured rectangles leaves no foreground behind.
        _ => memory.foreground = None,
    }
    let count_at = out.len();
    out.push(0);
    let count = subrects(tile, background, mask & SUBRECTS_COLOURED != 0, out);
    match (u8::try_from(count), out.get_mut(count_at)) {
        (Ok(count), Some(place)) => *place = count,
        _ => return false,
    }
    true
}

/// The colour of most pixels.
fn most_frequent(scratch: &Scratch) -> u32 {
    let mut counts = [0u16; PIXELS];
    for (value, length) in super::palette::runs(&scratch.values) {
        if let Some(count) = counts.get_mut(usize::from(scratch.palette.index(value))) {
            // A tile has 256 pixels.
            *count += length as u16;
        }
    }
    let colours = scratch.palette.colours().iter().zip(counts);
    colours.max_by_key(|(_, count)| *count).map_or(0, |(colour, _)| *colour)
}

/// Adds the rectangles that are not background: each as wide as it can be, then as high; answers
/// how many.
fn subrects(tile: &Tile<'_>, background: u32, coloured: bool, out: &mut Vec<u8>) -> usize {
    let Tile { width, scratch, wire } = tile;
    let values = &scratch.values;
    let mut done = [false; PIXELS];
    let mut count = 0;
    for (start, value) in values.iter().enumerate() {
        if *value == background || done.get(start) != Some(&false) {
            continue;
        }
        let (x, y) = (start % width, start / width);
        let free =
            |place: usize| values.get(place) == Some(value) && done.get(place) == Some(&false);
        let wide = (x..*width).take_while(|column| free(y * width + column)).count();
        let rows = (y..).map(|row| row * width + x);
        let high = rows.take_while(|first| (*first..first + wide).all(free)).count();
        for row in y..y + high {
            let first = row * width + x;
            if let Some(places) = done.get_mut(first..first + wide) {
                places.fill(true);
            }
        }
        if coloured {
            wire.put(*value, out);
        }
        // Places and sizes less 1 are at most 15.
        out.push((x << 4 | y) as u8);
        out.push(((wide - 1) << 4 | (high - 1)) as u8);
        count += 1;
    }
    count
}

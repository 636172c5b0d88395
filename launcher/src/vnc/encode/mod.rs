//! Rectangles of a picture in the encodings of RFC 6143 §7.7 and of the community's RFB
//! specification.
//!
//! An [`Encoder`] belongs to one client, and is used by the thread that serves it. What it keeps is
//! bounded, whatever the client says: four zlib streams, each made at its first use, and room for
//! the pixels of one block. Nothing but what is encoded depends on the picture's size.

mod deflate;
mod hextile;
mod palette;
mod source;
mod tight;
pub mod wishes;
mod zrle;

#[cfg(test)]
pub mod tests;

use devices::display::{Picture, Rect};

use super::pixel::{PixelFormat, Wire};
use deflate::Deflate;
use palette::Palette;
use source::Source;
use tight::{Terms, Tight};
use wishes::{COPY_RECT, HEXTILE, RAW, ZRLE};
pub use wishes::{Encoding, Wishes};

/// What a block is worked on in; kept, so that none is allocated for each.
struct Scratch {
    /// The pixels as values of a [`Wire`].
    values: Vec<u32>,
    /// The block's bytes before zlib.
    bytes: Vec<u8>,
    /// And after it.
    packed: Vec<u8>,
    palette: Palette,
}

/// Makes rectangles for one client.
pub struct Encoder {
    format: PixelFormat,
    pixels: Wire,
    cpixels: Wire,
    tpixels: Wire,
    wishes: Wishes,
    scratch: Scratch,
    zrle: Option<Deflate>,
    tight: Tight,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// For a client that has asked for nothing yet: Raw, in [`PixelFormat::NATIVE`].
    pub fn new() -> Encoder {
        let format = PixelFormat::NATIVE;
        let scratch = Scratch {
            values: Vec::new(),
            bytes: Vec::new(),
            packed: Vec::new(),
            palette: Palette::new(),
        };
        Encoder {
            format,
            pixels: format.pixels(),
            cpixels: format.cpixels(),
            tpixels: format.tpixels(),
            wishes: Wishes::default(),
            scratch,
            zrle: None,
            tight: Tight::default(),
        }
    }

    /// Colours go in `format` from now on. One with a colour map needs
    /// [`PixelFormat::colour_map`] to be sent first.
    pub fn set_format(&mut self, format: PixelFormat) {
        self.format = format;
        self.pixels = format.pixels();
        self.cpixels = format.cpixels();
        self.tpixels = format.tpixels();
    }

    /// Takes the client's list of encodings, in its order of preference, pseudo-encodings included.
    pub fn set_encodings(&mut self, list: &[i32]) {
        self.wishes = Wishes::parse(list);
    }

    /// What the client asked for.
    pub fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// Adds rectangles, heads included, for what of `area` is inside `picture`; answers how many.
    /// They take little more than four bytes a pixel at most.
    pub fn encode(&mut self, picture: &Picture, area: Rect, out: &mut Vec<u8>) -> u16 {
        let source = Source::new(picture, area);
        if source.area().is_empty() {
            return 0;
        }
        let scratch = &mut self.scratch;
        match self.wishes.encoding {
            Encoding::Raw => {
                put_header(&source.area(), RAW, out);
                for row in source.rows() {
                    scratch.values.clear();
                    self.pixels.convert(row, &mut scratch.values);
                    self.pixels.put_all(&scratch.values, out);
                }
            }
            Encoding::Hextile => {
                put_header(&source.area(), HEXTILE, out);
                hextile::encode(&source, &self.pixels, scratch, out);
            }
            Encoding::Zrle => {
                put_header(&source.area(), ZRLE, out);
                let level = self.wishes.compression;
                // There is no way to begin it anew: its level stays what it was at first.
                let stream = self.zrle.get_or_insert_with(|| Deflate::new(level));
                zrle::encode(&source, &self.cpixels, scratch, stream, out);
            }
            Encoding::Tight => {
                let terms =
                    Terms { wishes: &self.wishes, format: &self.format, wire: &self.tpixels };
                return self.tight.encode(&source, &terms, scratch, out);
            }
        }
        1
    }
}

/// Adds a rectangle that the client copies from what it shows, `x` and `y` being the source's upper
/// left corner (CopyRect, RFC 6143 §7.7.2). Source and `to` are inside the picture, and the client
/// has asked for it ([`Wishes::copy_rect`]).
pub fn copy_rect(to: &Rect, x: u32, y: u32, out: &mut Vec<u8>) {
    put_header(to, COPY_RECT, out);
    for place in [x, y] {
        out.extend_from_slice(&short(place).to_be_bytes());
    }
}

/// Adds a rectangle's head (RFC 6143 §7.6.1).
fn put_header(area: &Rect, encoding: i32, out: &mut Vec<u8>) {
    for number in [area.x, area.y, area.width, area.height] {
        out.extend_from_slice(&short(number).to_be_bytes());
    }
    out.extend_from_slice(&encoding.to_be_bytes());
}

/// A place in a picture, whose sides are at most [`devices::display::SIDE_MAX`].
fn short(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

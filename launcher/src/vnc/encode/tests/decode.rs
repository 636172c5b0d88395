//! A client's side: every encoding read back, by the specifications and not by the encoders. What
//! is wrong in the bytes fails the test.

use flate2::{Decompress, FlushDecompress};

use crate::vnc::pixel::PixelFormat;

/// A client: what it shows, as the bytes of its pixels, and its zlib streams.
pub struct Client {
    width: usize,
    /// Pixels in the client's format, each one a number with the bytes as they came.
    pub shown: Vec<Option<u32>>,
    /// Where JPEG was used: red, green, blue as decoded.
    pub photo: Vec<Option<[u8; 3]>>,
    format: [u8; 16],
    zrle: Decompress,
    tight: [Decompress; 4],
}

/// Bytes that are taken from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn number(&mut self, bytes: usize) -> usize {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// A pixel's bytes, the first one the least significant.
    fn pixel(&mut self, bytes: usize) -> u32 {
        self.take(bytes).iter().rev().fold(0, |pixel, byte| pixel << 8 | u32::from(*byte))
    }
}

#[derive(Clone, Copy)]
struct Area {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

impl Client {
    pub fn new(width: u32, height: u32, format: PixelFormat) -> Client {
        let (width, pixels) = (width as usize, (width * height) as usize);
        Client {
            width,
            shown: vec![None; pixels],
            photo: vec![None; pixels],
            format: format.to_bytes(),
            zrle: Decompress::new(true),
            tight: [0; 4].map(|_| Decompress::new(true)),
        }
    }

    pub fn set_format(&mut self, format: PixelFormat) {
        self.format = format.to_bytes();
    }

    /// Reads `count` rectangles, which must be all there is. Answers their encodings.
    pub fn read(&mut self, count: u16, bytes: &[u8]) -> Vec<i32> {
        let mut bytes = Bytes(bytes);
        let encodings = (0..count).map(|_| self.rectangle(&mut bytes)).collect();
        assert!(bytes.0.is_empty(), "{} bytes too many", bytes.0.len());
        encodings
    }

    fn rectangle(&mut self, bytes: &mut Bytes<'_>) -> i32 {
        let [x, y, width, height] = [(); 4].map(|()| bytes.number(2));
        let area = Area { x, y, width, height };
        assert!(width > 0 && height > 0 && x + width <= self.width);
        let encoding = bytes.number(4) as u32 as i32;
        match encoding {
            0 => {
                let size = self.pixel_bytes();
                self.fill_with(area, |_, _| bytes.pixel(size));
            }
            1 => {
                let (from_x, from_y) = (bytes.number(2), bytes.number(2));
                let old = self.shown.clone();
                for row in 0..height {
                    for column in 0..width {
                        let from = (from_y + row) * self.width + from_x + column;
                        self.shown[(y + row) * self.width + x + column] = old[from];
                    }
                }
            }
            5 => self.hextile(area, bytes),
            7 => self.tight(area, bytes),
            16 => {
                let length = bytes.number(4);
                let data = inflate(&mut self.zrle, bytes.take(length));
                self.zrle(area, &data);
            }
            other => panic!("encoding {other}"),
        }
        encoding
    }

    fn pixel_bytes(&self) -> usize {
        usize::from(self.format[0] / 8)
    }

    fn fill_with(&mut self, area: Area, mut pixel: impl FnMut(usize, usize) -> u32) {
        for row in 0..area.height {
            for column in 0..area.width {
                let place = (area.y + row) * self.width + area.x + column;
                self.shown[place] = Some(pixel(column, row));
                self.photo[place] = None;
            }
        }
    }

    fn hextile(&mut self, area: Area, bytes: &mut Bytes<'_>) {
        let size = self.pixel_bytes();
        let (mut background, mut foreground) = (None, None);
        for tile in tiles(area, 16) {
            let mask = bytes.u8();
            if mask & 1 != 0 {
                self.fill_with(tile, |_, _| bytes.pixel(size));
                (background, foreground) = (None, None);
                continue;
            }
            if mask & 2 != 0 {
                background = Some(bytes.pixel(size));
            }
            if mask & 4 != 0 {
                foreground = Some(bytes.pixel(size));
            }
            let colour = background.expect("a background before it is used");
            self.fill_with(tile, |_, _| colour);
            let count = if mask & 8 != 0 { bytes.u8() } else { 0 };
            for _ in 0..count {
                let colour = match mask & 16 {
                    0 => foreground.expect("a foreground before it is used"),
                    _ => bytes.pixel(size),
                };
                let (place, extent) = (usize::from(bytes.u8()), usize::from(bytes.u8()));
                let (dx, dy) = (place >> 4, place & 15);
                let (width, height) = ((extent >> 4) + 1, (extent & 15) + 1);
                assert!(dx + width <= tile.width && dy + height <= tile.height);
                let part = Area { x: tile.x + dx, y: tile.y + dy, width, height };
                self.fill_with(part, |_, _| colour);
            }
            if mask & 16 != 0 {
                foreground = None;
            }
        }
    }

    /// CPIXEL: bytes there are, and how far up in the pixel they belong.
    fn cpixel(&self) -> (usize, u32) {
        let [bits, depth, big, true_colour, ..] = self.format;
        let max = |at: usize| u32::from(u16::from_be_bytes([self.format[at], self.format[at + 1]]));
        let used = (0..3).fold(0, |used, i| used | max(4 + 2 * i) << self.format[10 + i]);
        if bits != 32 || depth > 24 || true_colour == 0 {
            return (self.pixel_bytes(), 0);
        }
        match (used < 1 << 24, used & 0xff == 0, big != 0) {
            (true, _, false) | (_, true, true) => (3, 0),
            (_, true, false) | (true, _, true) => (3, 8),
            _ => (4, 0),
        }
    }

    fn zrle(&mut self, area: Area, data: &[u8]) {
        let (size, up) = self.cpixel();
        let mut bytes = Bytes(data);
        for tile in tiles(area, 64) {
            let kind = bytes.u8();
            let pixels = tile.width * tile.height;
            let colour = |bytes: &mut Bytes<'_>| bytes.pixel(size) << up;
            let colours = match kind {
                0 | 128 => 0,
                1..=16 => usize::from(kind),
                130..=255 => usize::from(kind - 128),
                _ => panic!("subencoding {kind}"),
            };
            let palette: Vec<u32> = (0..colours).map(|_| colour(&mut bytes)).collect();
            let mut values = Vec::new();
            match kind {
                0 => values.extend((0..pixels).map(|_| colour(&mut bytes))),
                1 => values.resize(pixels, palette[0]),
                2..=16 => {
                    let bits = [0, 0, 1, 2, 2].get(colours).copied().unwrap_or(4);
                    for _ in 0..tile.height {
                        let row = bytes.take((tile.width * bits).div_ceil(8));
                        values.extend((0..tile.width).map(|x| {
                            let shift = 8 - bits - x * bits % 8;
                            let index = row[x * bits / 8] >> shift & ((1 << bits) - 1);
                            palette[usize::from(index)]
                        }));
                    }
                }
                _ => {
                    while values.len() < pixels {
                        let (value, long) = if kind == 128 {
                            (colour(&mut bytes), true)
                        } else {
                            let index = bytes.u8();
                            (palette[usize::from(index & 127)], index & 128 != 0)
                        };
                        let length = if long { run_length(&mut bytes) } else { 1 };
                        values.resize(values.len() + length, value);
                    }
                }
            }
            assert_eq!(values.len(), pixels);
            self.fill_with(tile, |x, y| values[y * tile.width + x]);
        }
        assert!(bytes.0.is_empty());
    }

    fn tight(&mut self, area: Area, bytes: &mut Bytes<'_>) {
        assert!(area.width <= 2048);
        let [bits, depth, _, true_colour, max @ ..] = self.format;
        let is_short =
            bits == 32 && depth == 24 && true_colour != 0 && max[..6] == [0, 255].repeat(3);
        let size = if is_short { 3 } else { self.pixel_bytes() };
        // As bytes of a pixel of the client's, the first one the least significant.
        let shifts = [10, 11, 12].map(|at| u32::from(self.format[at]));
        let is_big = self.format[2] != 0;
        let widen = |colour: u32| {
            let [r, g, b, _] = colour.to_le_bytes();
            let parts = [r, g, b].into_iter().zip(shifts);
            let pixel = parts.fold(0, |pixel, (part, shift)| pixel | u32::from(part) << shift);
            match (is_short, is_big) {
                (false, _) => colour,
                (true, false) => pixel,
                (true, true) => pixel.swap_bytes(),
            }
        };
        let control = bytes.u8();
        for (number, stream) in self.tight.iter_mut().enumerate() {
            if control >> number & 1 != 0 {
                *stream = Decompress::new(true);
            }
        }
        match control >> 4 {
            8 => {
                let colour = widen(bytes.pixel(size));
                self.fill_with(area, |_, _| colour);
            }
            9 => {
                assert!(bits >= 16 && true_colour != 0, "JPEG for a client that cannot take it");
                let length = compact(bytes);
                self.jpeg(area, bytes.take(length));
            }
            kind @ 0..=7 => {
                let filter = if kind & 4 != 0 { bytes.u8() } else { 0 };
                let palette: Vec<u32> = match filter {
                    0 => vec![],
                    1 => {
                        let colours = usize::from(bytes.u8()) + 1;
                        assert!(colours > 1);
                        (0..colours).map(|_| widen(bytes.pixel(size))).collect()
                    }
                    other => panic!("filter {other}"),
                };
                let row_bytes = match palette.len() {
                    0 => area.width * size,
                    2 => area.width.div_ceil(8),
                    _ => area.width,
                };
                let data = match row_bytes * area.height {
                    all @ 0..12 => bytes.take(all).to_vec(),
                    _ => {
                        let length = compact(bytes);
                        inflate(&mut self.tight[usize::from(kind & 3)], bytes.take(length))
                    }
                };
                assert_eq!(data.len(), row_bytes * area.height);
                self.fill_with(area, |x, y| {
                    let row = &data[y * row_bytes..][..row_bytes];
                    match palette.len() {
                        0 => widen(Bytes(&row[x * size..]).pixel(size)),
                        2 => palette[usize::from(row[x / 8] >> (7 - x % 8) & 1)],
                        _ => palette[usize::from(row[x])],
                    }
                });
            }
            other => panic!("compression control {other}"),
        }
    }

    fn jpeg(&mut self, area: Area, data: &[u8]) {
        let mut decoder = jpeg_decoder::Decoder::new(data);
        let pixels = decoder.decode().expect("a JPEG");
        let info = decoder.info().expect("it was decoded");
        assert_eq!((usize::from(info.width), usize::from(info.height)), (area.width, area.height));
        assert_eq!(pixels.len(), area.width * area.height * 3);
        self.fill_with(area, |_, _| 0);
        for (index, colour) in pixels.as_chunks::<3>().0.iter().enumerate() {
            let (x, y) = (index % area.width, index / area.width);
            self.photo[(area.y + y) * self.width + area.x + x] = Some(*colour);
        }
    }
}

fn tiles(area: Area, side: usize) -> impl Iterator<Item = Area> {
    (0..area.height).step_by(side).flat_map(move |dy| {
        (0..area.width).step_by(side).map(move |dx| Area {
            x: area.x + dx,
            y: area.y + dy,
            width: side.min(area.width - dx),
            height: side.min(area.height - dy),
        })
    })
}

/// ZRLE's length of a run.
fn run_length(bytes: &mut Bytes<'_>) -> usize {
    let mut length = 1;
    loop {
        let more = bytes.u8();
        length += usize::from(more);
        if more != 255 {
            return length;
        }
    }
}

/// Tight's compact representation of a length.
fn compact(bytes: &mut Bytes<'_>) -> usize {
    let mut length = 0;
    for shift in [0, 7, 14] {
        let byte = usize::from(bytes.u8());
        let mask = if shift == 14 { 0xff } else { 0x7f };
        length |= (byte & mask) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    length
}

/// What comes out of the stream for this data: everything, at once.
fn inflate(stream: &mut Decompress, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    stream.decompress_vec(data, &mut out, FlushDecompress::Sync).expect("a zlib stream");
    assert!(out.len() < out.capacity(), "more than a test has");
    out
}

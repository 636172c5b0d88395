//! A picture of the screen, and the text in it.
//!
//! Fonts are the guest's affair, so nothing is known of them: the guest prints [`ALPHABET`], and
//! [`Glyphs::learn`] takes its characters from the picture of it.

use std::collections::{HashMap, HashSet};
use std::io::Cursor;

/// What a guest prints for [`Glyphs::learn`]: two lines with every character of ASCII.
pub const ALPHABET: [&str; 2] = [
    " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNO",
    "PQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~",
];

/// A character's cell in pixels, as the fonts of text consoles have it.
const CELL: (usize, usize) = (8, 16);

/// A character's cell, a byte for each row of pixels.
type Shape = [u8; CELL.1];

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Its first column.
    pub x: usize,
    /// Its first row.
    pub y: usize,
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// A picture.
#[derive(PartialEq, Eq)]
pub struct Picture {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue.
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads a PNG file of eight bits a colour.
    ///
    /// # Panics
    /// If it is none.
    pub fn from_png(bytes: &[u8]) -> Self {
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let mut reader = decoder.read_info().expect("a PNG file");
        let mut data = vec![0; reader.output_buffer_size().expect("a picture of this size")];
        let info = reader.next_frame(&mut data).expect("a whole PNG file");
        let samples = info.color_type.samples();
        let pixels = data[..info.buffer_size()]
            .chunks(samples)
            .map(|pixel| if samples < 3 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] })
            .collect();
        Self { width: info.width as usize, height: info.height as usize, pixels }
    }

    /// Reads a window dump of X (XWDFile.h) with 32 bits a pixel, least byte first: the header's
    /// length is its first word, at 16 stand width and height, at 76 the number of colours, of twelve
    /// bytes each, before the pixels.
    ///
    /// # Panics
    /// If it is none.
    pub fn from_xwd(bytes: &[u8]) -> Self {
        let number = |at: usize| {
            let word = bytes[at..at + 4].try_into().expect("four bytes");
            usize::try_from(u32::from_be_bytes(word)).expect("usize has 32 bits")
        };
        let (width, height) = (number(16), number(20));
        let pixels = bytes[number(0) + number(76) * 12..].chunks_exact(4);
        let pixels: Vec<_> = pixels.take(width * height).map(|p| [p[2], p[1], p[0]]).collect();
        assert_eq!(pixels.len(), width * height, "not a whole window dump");
        Self { width, height, pixels }
    }

    /// The colour of a pixel.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        self.pixels[y * self.width + x]
    }

    /// A part of it.
    ///
    /// # Panics
    /// If it reaches out of the picture.
    pub fn part(&self, area: Area) -> Self {
        let Area { x, y, width, height } = area;
        let rows = (y..y + height).map(|row| row * self.width);
        let pixels = rows.flat_map(|row| &self.pixels[row + x..row + x + width]).copied().collect();
        Self { width, height, pixels }
    }

    /// The least area that holds all pixels of a colour.
    pub fn area_of(&self, colour: [u8; 3]) -> Option<Area> {
        self.area_where(|pixel| pixel == colour)
    }

    /// The least area that holds all pixels of other colours.
    pub fn area_without(&self, colour: [u8; 3]) -> Option<Area> {
        self.area_where(|pixel| pixel != colour)
    }

    fn area_where(&self, is: impl Fn([u8; 3]) -> bool) -> Option<Area> {
        let found = (0..self.pixels.len()).filter(|at| is(self.pixels[*at]));
        let sides = found.fold(None, |sides, at| {
            let (x, y) = (at % self.width, at / self.width);
            let (left, top, right, bottom) = sides.unwrap_or((x, y, x, y));
            Some((left.min(x), top.min(y), right.max(x), bottom.max(y)))
        });
        sides.map(|(x, y, right, bottom)| Area {
            x,
            y,
            width: right + 1 - x,
            height: bottom + 1 - y,
        })
    }

    /// Its colours.
    pub fn colours(&self) -> HashSet<[u8; 3]> {
        self.pixels.iter().copied().collect()
    }

    /// True when all pixels have one colour.
    pub fn is_plain(&self) -> bool {
        self.pixels.iter().all(|pixel| *pixel == self.pixels[0])
    }

    /// The lines of text in it, without the spaces at their ends; U+FFFD for what is no character.
    pub fn text(&self, glyphs: &Glyphs) -> Vec<String> {
        (0..self.height / CELL.1)
            .map(|row| {
                let line: String = (0..self.width / CELL.0)
                    .map(|column| glyphs.0.get(&self.shape(column, row)).unwrap_or(&'\u{fffd}'))
                    .collect();
                line.trim_end().to_owned()
            })
            .collect()
    }

    fn shape(&self, column: usize, row: usize) -> Shape {
        let bit = |x, y| {
            let bright = self.pixel(column * CELL.0 + x, row * CELL.1 + y);
            u8::from(bright.iter().any(|part| *part >= 96)) << (7 - x)
        };
        std::array::from_fn(|y| (0..CELL.0).map(|x| bit(x, y)).sum())
    }
}

/// Characters by their shapes.
pub struct Glyphs(HashMap<Shape, char>);

impl Glyphs {
    /// Takes them from the lines of a picture that have [`ALPHABET`], if any do. Whatever the
    /// font, no two of its characters look the same; of any other two lines some do.
    pub fn learn(picture: &Picture) -> Option<Self> {
        let is_wide_enough = picture.width >= ALPHABET[0].len() * CELL.0;
        let rows = if is_wide_enough { picture.height / CELL.1 } else { 0 };
        (1..rows)
            .map(|row| Self::from_rows(picture, row - 1))
            .find(|glyphs| glyphs.0.len() == ALPHABET.iter().map(|line| line.len()).sum::<usize>())
    }

    fn from_rows(picture: &Picture, row: usize) -> Self {
        let mut glyphs = HashMap::new();
        for (line, y) in ALPHABET.iter().zip(row..) {
            for (character, x) in line.chars().zip(0..) {
                glyphs.entry(picture.shape(x, y)).or_insert(character);
            }
        }
        Self(glyphs)
    }
}

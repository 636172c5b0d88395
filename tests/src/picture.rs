//! A picture of the screen, and the text in it.
//!
//! Fonts are the guest's affair, so nothing is known of them: the guest prints [`ALPHABET`], and
//! [`Glyphs::learn`] takes its characters from the picture of it.

use std::collections::HashMap;
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

/// A picture.
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

    /// The colour of a pixel.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        self.pixels[y * self.width + x]
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
    /// Takes them from a picture with [`ALPHABET`] in the lines from `row` on.
    pub fn learn(picture: &Picture, row: usize) -> Self {
        let mut glyphs = HashMap::new();
        for (line, y) in ALPHABET.iter().zip(row..) {
            for (character, x) in line.chars().zip(0..) {
                glyphs.entry(picture.shape(x, y)).or_insert(character);
            }
        }
        Self(glyphs)
    }

    /// How many there are that differ.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

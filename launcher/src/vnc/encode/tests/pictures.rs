//! Pictures to encode: text, drawings, photos, noise.

use devices::display::Picture;

/// A small generator, so that a seed is a picture.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % bound
    }
}

/// What a picture is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lines of characters in two colours, some words in others.
    Text,
    /// Rectangles of some colours.
    Drawing(u32),
    /// Soft shades.
    Photo,
    /// Every pixel by itself.
    Noise,
    /// One colour.
    Plain,
}

pub const KINDS: [Kind; 8] = [
    Kind::Text,
    Kind::Drawing(2),
    Kind::Drawing(9),
    Kind::Drawing(100),
    Kind::Drawing(400),
    Kind::Photo,
    Kind::Noise,
    Kind::Plain,
];

pub fn picture(kind: Kind, width: u32, height: u32, seed: u64) -> Picture {
    let mut dice = Dice::new(seed);
    let mut picture = Picture::new(width, height);
    match kind {
        Kind::Plain => fill(&mut picture, |_, _| 0x0012_3456),
        Kind::Noise => fill(&mut picture, |_, _| dice.roll(1 << 24)),
        Kind::Photo => fill(&mut picture, |x, y| {
            let wave = |x: u32, y: u32| {
                let angle = f64::from(x) / 37.0 + f64::from(y) / 53.0;
                (127.0 + 100.0 * angle.sin()) as u32
            };
            (wave(x, y) << 16) | (wave(y, x) << 8) | (wave(x + y, 7) + (x & 1))
        }),
        Kind::Drawing(colours) => {
            let palette: Vec<u32> = (0..colours).map(|_| dice.roll(1 << 24)).collect();
            for _ in 0..colours.max(30) {
                let colour = palette[dice.roll(colours) as usize];
                let (x, y) = (dice.roll(width), dice.roll(height));
                let (w, h) = (1 + dice.roll(width), 1 + dice.roll(height.min(20)));
                for row in y..(y + h).min(height) {
                    picture.row_mut(row)[x as usize..(x + w).min(width) as usize].fill(colour);
                }
            }
        }
        Kind::Text => text(&mut picture, &mut dice),
    }
    picture
}

fn fill(picture: &mut Picture, mut pixel: impl FnMut(u32, u32) -> u32) {
    for y in 0..picture.height() {
        for (x, place) in picture.row_mut(y).iter_mut().enumerate() {
            *place = pixel(x as u32, y);
        }
    }
}

/// Characters of 8 × 16 pixels, from a set of 64 made-up ones: words, then an empty rest of a line.
fn text(picture: &mut Picture, dice: &mut Dice) {
    let mut glyphs = [[0u8; 16]; 64];
    for glyph in glyphs.iter_mut().skip(1) {
        let shape = glyph.iter_mut().skip(3).take(10);
        shape.for_each(|row| *row = (dice.roll(256) & dice.roll(256)) as u8 & 0x7e);
    }
    let height = picture.height();
    for line in 0..height.div_ceil(16) {
        let columns = picture.width() / 8;
        let length = dice.roll(columns.max(1));
        let mut colour = 0xaa_aaaa;
        for column in 0..length {
            if dice.roll(6) == 0 {
                let colours = [0xaa_aaaa, 0xaa_aaaa, 0xaa_aaaa, 0x00_aa00, 0xff_5555, 0x55_55ff];
                colour = colours[dice.roll(6) as usize];
                continue;
            }
            let glyph = glyphs[dice.roll(64) as usize];
            for (dy, bits) in (0..).zip(glyph) {
                let y = line * 16 + dy;
                if y < height {
                    let place = &mut picture.row_mut(y)[column as usize * 8..][..8];
                    for (dx, pixel) in place.iter_mut().enumerate() {
                        *pixel = if bits >> (7 - dx) & 1 != 0 { colour } else { 0 };
                    }
                }
            }
        }
    }
}

//! The built-in font, 8 × 16 pixels: Spleen (BSD-2-Clause, Frederic Cambus), as the spleen-font
//! crate carries it: a PC Screen Font of version 1.
//!
//! ```text
//! 36 04 | mode: bit 0 512 glyphs, bit 1 characters follow | bytes a glyph | glyphs
//! for each glyph: its characters as u16, little-endian; 0xfffe begins a sequence, 0xffff ends
//! ```
//! For guests in text mode it stands in for the one that a BIOS would have loaded, by code page
//! 437; whoever draws a terminal finds glyphs by character.

use std::collections::HashMap;
use std::sync::LazyLock;

use spleen_font::FONT_8X16;

/// Pixels a row: a byte, its highest bit at the left.
pub const WIDTH: u32 = 8;
/// Rows.
pub const HEIGHT: u32 = 16;

/// A glyph's rows from top to bottom.
pub type Glyph = [u8; HEIGHT as usize];

const HEADER_LEN: usize = 4;
const MODE_512: u8 = 1;
const SEQUENCE: u16 = 0xfffe;
const END: u16 = 0xffff;

/// Code page 437's characters, with pictures for control codes, as text modes show them.
const CODE_PAGE_437: &str = "\u{0}☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼ \
    !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~⌂\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
    └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// Characters the font lacks, and those that look most like them.
const STAND_INS: [(char, char); 11] = [
    ('►', '▶'),
    ('◄', '◀'),
    ('∟', '└'),
    ('α', 'a'),
    ('Σ', 'Ʃ'),
    ('σ', 'o'),
    ('τ', 't'),
    ('Θ', '⊖'),
    ('δ', 'd'),
    ('φ', '⊘'),
    ('ε', '€'),
];

static GLYPHS: LazyLock<HashMap<char, Glyph>> = LazyLock::new(parse);
static BY_CODE: LazyLock<Vec<Glyph>> = LazyLock::new(|| {
    let unknown = glyph(char::REPLACEMENT_CHARACTER).copied().unwrap_or([0x7e; HEIGHT as usize]);
    let shape = |c: char| match c {
        '\0' => [0; HEIGHT as usize],
        c => glyph(c).copied().unwrap_or(unknown),
    };
    CODE_PAGE_437.chars().map(shape).collect()
});

/// The glyph of a character, if the font has it or one that looks like it.
pub fn glyph(c: char) -> Option<&'static Glyph> {
    let stand_in = || STAND_INS.iter().find(|(missing, _)| *missing == c).map(|(_, used)| used);
    GLYPHS.get(&c).or_else(|| GLYPHS.get(stand_in()?))
}

/// The glyph of a code of code page 437; a placeholder for the few that the font lacks.
pub fn of_code(code: u8) -> &'static Glyph {
    // The page has 256 characters: a test counts them.
    BY_CODE.get(usize::from(code)).unwrap_or(&[0; HEIGHT as usize])
}

fn parse() -> HashMap<char, Glyph> {
    let mode = FONT_8X16.get(2).copied().unwrap_or_default();
    let count = if mode & MODE_512 != 0 { 512 } else { 256 };
    let data = FONT_8X16.get(HEADER_LEN..).unwrap_or_default();
    let (shapes, table) = data.split_at_checked(count * HEIGHT as usize).unwrap_or_default();
    let mut shapes = shapes.as_chunks::<{ HEIGHT as usize }>().0.iter();
    let mut shape = shapes.next();
    let mut glyphs = HashMap::new();
    let mut in_sequence = false;
    for unit in table.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)) {
        match unit {
            END => (shape, in_sequence) = (shapes.next(), false),
            SEQUENCE => in_sequence = true,
            unit if !in_sequence => {
                if let (Some(c), Some(shape)) = (char::from_u32(unit.into()), shape) {
                    glyphs.entry(c).or_insert(*shape);
                }
            }
            _ => {}
        }
    }
    glyphs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_font_is_the_expected_one() {
        assert_eq!((FONT_8X16[..2].to_vec(), FONT_8X16[3]), (vec![0x36, 0x04], HEIGHT as u8));
        assert_eq!(GLYPHS.len(), 705);
        assert_eq!(CODE_PAGE_437.chars().count(), 256);
        assert_eq!((of_code(0), of_code(b' ')), (&[0; 16], &[0; 16]));
        assert_eq!(of_code(0xdb), &[0xff; 16]);
        assert_eq!(of_code(b'A'), glyph('A').unwrap());
        assert_eq!(of_code(0xc4), glyph('─').unwrap());
        assert_eq!(of_code(0xf6), glyph('÷').unwrap());
        assert!(glyph('\u{e000}').is_none());
    }

    #[test]
    fn letters_differ_and_lines_meet() {
        for (a, b) in ('a'..='y').zip('b'..='z') {
            assert_ne!(glyph(a), glyph(b), "{a} and {b}");
        }
        let (horizontal, cross) = (glyph('─').unwrap(), glyph('┼').unwrap());
        let line = horizontal.iter().position(|row| *row == 0xff).unwrap();
        assert_eq!(cross[line], 0xff);
        assert!(glyph('│').unwrap().iter().all(|row| row & cross[0] == cross[0]));
    }

    #[test]
    fn every_code_but_the_unknown_has_a_shape_of_its_own() {
        let unknown = glyph(char::REPLACEMENT_CHARACTER).unwrap();
        let missing: Vec<u8> = (0..=255).filter(|code| of_code(*code) == unknown).collect();
        assert!(missing.len() < 4, "{missing:x?}");
    }
}

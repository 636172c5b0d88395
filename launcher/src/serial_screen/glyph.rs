//! What characters look like: the font Spleen in 8 × 16 pixels (BSD-2-Clause, Frederic Cambus), a PC
//! Screen Font of version 1 in the crate spleen-font.
//!
//! ```text
//! 36 04 | mode: bit 0 512 glyphs | bytes a glyph | glyphs
//! for each glyph its characters as u16, little-endian; 0xfffe begins a sequence, 0xffff ends
//! ```

use std::collections::HashMap;
use std::sync::LazyLock;

use spleen_font::FONT_8X16;

/// Pixels a glyph has in a row.
pub const WIDTH: u32 = 8;
/// Rows of pixels.
pub const HEIGHT: u32 = 16;

/// Rows of a glyph, the leftmost pixel in bit 7.
pub type Glyph = [u8; HEIGHT as usize];

/// The head's bytes.
const HEAD: usize = 4;
/// The font has 512 glyphs.
const GLYPHS: usize = 512;

/// The glyph of a character. `None`: the font has none.
pub fn glyph(character: char) -> Option<&'static Glyph> {
    static ALL: LazyLock<HashMap<char, Glyph>> = LazyLock::new(all);
    ALL.get(&character)
}

fn all() -> HashMap<char, Glyph> {
    let data = FONT_8X16.get(HEAD..).unwrap_or_default();
    let (shapes, table) = data.split_at_checked(GLYPHS * HEIGHT as usize).unwrap_or_default();
    let units: Vec<u16> =
        table.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let shapes = shapes.as_chunks().0;
    let mut glyphs = HashMap::new();
    for (characters, shape) in units.split(|unit| *unit == 0xffff).zip(shapes) {
        // Sequences are for marks, which the terminal leaves out.
        let single = characters.iter().take_while(|unit| **unit != 0xfffe);
        for character in single.filter_map(|unit| char::from_u32((*unit).into())) {
            glyphs.entry(character).or_insert(*shape);
        }
    }
    glyphs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_font_has_what_consoles_print() {
        for character in ('!'..='~').chain("éÄß│─┌┐└┘├┤┬┴┼═║█▒".chars())
        {
            let glyph = glyph(character).unwrap_or_else(|| panic!("no {character}"));
            assert!(glyph.iter().any(|row| *row != 0), "{character} is empty");
        }
        assert_eq!(glyph(' '), Some(&[0; 16]));
        assert_eq!(glyph('語'), None);
        assert_ne!(glyph('a'), glyph('b'));
    }
}

//! A terminal's picture. Only pixels that have another colour now are painted, and count.

use devices::display::font::{Glyph, HEIGHT, WIDTH, glyph};
use devices::display::{Damage, Picture, Rect};

use super::grid::{Cell, Grid, Look};

/// The row of pixels that an underline is in, and the one that strikes through.
const UNDERLINE: usize = 14;
const STRIKE: usize = 8;

/// Of a character that the font does not have: a box.
const UNKNOWN: Glyph =
    [0, 0, 0x7e, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x7e, 0, 0, 0, 0];

/// What a terminal shows.
pub struct Shown {
    /// The characters.
    pub grid: Grid,
    /// Column and row of the cursor, unless it is hidden.
    pub cursor: Option<(usize, usize)>,
}

/// Brings `picture` up to date, as [`devices::display::Screen::paint`] has it.
pub fn paint(shown: &Shown, picture: &mut Picture, damage: &mut Damage) {
    // At most 256 cells on each side: no more than a picture may have.
    let (columns, rows) = (shown.grid.columns() as u32, shown.grid.rows() as u32);
    let (width, height) = (columns * WIDTH, rows * HEIGHT);
    if (picture.width(), picture.height()) != (width, height) {
        *picture = Picture::new(width, height);
        *damage = Damage::new(width, height);
        damage.add_all();
    } else if !damage.fits(width, height) {
        *damage = Damage::new(width, height);
        damage.add_all();
    }
    for (row, cells) in shown.grid.iter_rows().enumerate() {
        for (column, cell) in cells.iter().enumerate() {
            let has_cursor = shown.cursor == Some((column, row));
            let x = column as u32 * WIDTH;
            let y = row as u32 * HEIGHT;
            if paint_cell(cell, has_cursor, (x, y), picture) {
                damage.add(&Rect { x, y, width: WIDTH, height: HEIGHT });
            }
        }
    }
}

/// Paints a cell with its upper left corner at `x`, `y`; answers whether any pixel changed.
fn paint_cell(cell: &Cell, has_cursor: bool, (x, y): (u32, u32), picture: &mut Picture) -> bool {
    let look = cell.style.look;
    let mut front = cell.style.foreground.in_front(look.contains(Look::BOLD));
    if look.contains(Look::DIM) {
        // Half of each channel.
        front = front >> 1 & 0x007f_7f7f;
    }
    let mut behind = cell.style.background.behind();
    if look.contains(Look::REVERSE) != has_cursor {
        (front, behind) = (behind, front);
    }
    if has_cursor && front == behind {
        front = !behind & 0x00ff_ffff;
    }
    let is_blank = look.contains(Look::HIDDEN) || cell.character == ' ';
    let glyph = if is_blank { &[0; 16] } else { glyph(cell.character).unwrap_or(&UNKNOWN) };
    let mut changed = false;
    for (line, bits) in glyph.iter().enumerate() {
        let lined = (look.contains(Look::UNDERLINED) && line == UNDERLINE)
            || (look.contains(Look::STRUCK) && line == STRIKE);
        let bits = if lined { 0xff } else { *bits };
        let start = x as usize;
        // A glyph has 16 lines.
        let row = picture.row_mut(y + line as u32);
        let Some(places) = row.get_mut(start..start + WIDTH as usize) else { continue };
        for (place, bit) in places.iter_mut().zip([0x80u8, 0x40, 0x20, 0x10, 8, 4, 2, 1]) {
            let colour = if bits & bit != 0 { front } else { behind };
            changed |= *place != colour;
            *place = colour;
        }
    }
    changed
}

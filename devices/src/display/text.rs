//! Text modes on their way into a picture: cells in the window at 0xB8000 → glyphs → pixels.
//!
//! ```text
//! cell   15 blink, or bright background | 14:12 background | 11:8 colour | 7:0 character
//! font   32 bytes a character, of which the first `cell_height` are rows (plane 2, at 0xA0000)
//! ```
//! The guest's own font is used when plane 2 holds one, else the built-in one by code page 437. A
//! blinking cell is shown steadily, as is the cursor: what does not change is not sent. Left out:
//! underlining (monochrome text), split screens and panning by pixels.

use super::{Damage, Picture, font, pixels};
use crate::mem::{Bytes, GuestAddress, GuestRam};

/// Guest-physical address of the legacy VGA window.
pub const WINDOW: u64 = 0xa_0000;
/// Its length in bytes.
pub const WINDOW_LEN: usize = 0x2_0000;
/// Cells wrap around in this many bytes.
const CELLS_LEN: usize = 0x8000;
const CELLS: usize = CELLS_LEN / 2;
const FONT_LEN: usize = 0x2000;
/// Bytes of a glyph in plane 2, used or not.
const GLYPH_LEN: usize = 32;
const CELL_WIDTH_MAX: usize = 9;

/// The cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Its cell, counted as the start address is.
    pub at: u16,
    /// Its first row in the cell.
    pub first: u32,
    /// Its last row.
    pub last: u32,
}

/// What a text mode's registers say.
#[derive(Clone, Debug, PartialEq)]
pub struct TextMode {
    /// Cells a row, 1 to 256.
    pub columns: u32,
    /// Rows, 1 to 1024.
    pub rows: u32,
    /// Pixels, 8 or 9.
    pub cell_width: u32,
    /// Pixels, 1 to 32.
    pub cell_height: u32,
    /// Cells from row to row.
    pub pitch: u32,
    /// The first cell shown.
    pub start: u16,
    /// The cursor, unless it is off.
    pub cursor: Option<Cursor>,
    /// Where cells begin in the window, in bytes.
    pub base: usize,
    /// What attributes select, 0x00RRGGBB.
    pub colours: [u32; 16],
    /// The ninth pixel of line graphics repeats the eighth.
    pub line_graphics: bool,
    /// Attribute bit 7 is to blink, not a bright background.
    pub blink: bool,
    /// Where fonts lie in the window, in bytes: for attributes with bit 3 clear, and set.
    pub fonts: [usize; 2],
}

impl TextMode {
    /// Pixels a row.
    pub fn width(&self) -> u32 {
        self.columns * self.cell_width
    }

    /// Rows of pixels.
    pub fn height(&self) -> u32 {
        self.rows * self.cell_height
    }

    /// Everything but the cells and the cursor is as in `other`.
    fn looks_like(&self, other: &TextMode) -> bool {
        let still = |mode: &TextMode| TextMode { cursor: None, start: 0, ..mode.clone() };
        still(self) == still(other)
    }
}

/// A font of 256 glyphs.
#[derive(Clone, PartialEq)]
enum Font {
    BuiltIn,
    Guest(Box<[u8; FONT_LEN]>),
}

impl Font {
    /// What plane 2 holds at `offset`, if that is a font for letters `height` rows high: blank where a
    /// space is, and something else for each letter.
    fn read(memory: &GuestRam, offset: usize, height: u32) -> Font {
        let mut bytes = Box::new([0; FONT_LEN]);
        let at = GuestAddress(WINDOW + offset as u64);
        if memory.read_slice(&mut *bytes, at).is_err() {
            return Font::BuiltIn;
        }
        let height = height as usize;
        let glyph = |code: u8| &bytes[usize::from(code) * GLYPH_LEN..][..height];
        let is_blank = |code: u8| glyph(code).iter().all(|row| *row == 0);
        let letters = || (b'A'..=b'Z').chain(b'a'..=b'z');
        let differ = letters().zip(letters().skip(1)).all(|(a, b)| glyph(a) != glyph(b));
        let is_font = is_blank(b' ') && !letters().any(is_blank) && differ;
        if is_font { Font::Guest(bytes) } else { Font::BuiltIn }
    }

    /// Row `y` of a glyph in a cell of `height` rows; the built-in one stays at the cell's top.
    fn row(&self, code: u8, y: u32) -> u8 {
        match self {
            Font::BuiltIn => font::of_code(code).get(y as usize).copied().unwrap_or(0),
            Font::Guest(bytes) => {
                let at = usize::from(code) * GLYPH_LEN + y as usize;
                bytes.get(at).copied().unwrap_or(0)
            }
        }
    }
}

/// A cell as it was painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    code: u8,
    attribute: u8,
    cursor: Option<Cursor>,
}

/// What was painted last.
#[derive(Default)]
pub struct TextPainter {
    last: Option<Painted>,
}

struct Painted {
    mode: TextMode,
    fonts: [Font; 2],
    cells: Vec<Cell>,
}

impl TextPainter {
    /// Forgets what was painted: everything is painted anew.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Paints the cells that have changed.
    pub fn paint(
        &mut self,
        memory: &GuestRam,
        mode: &TextMode,
        (picture, damage): (&mut Picture, &mut Damage),
    ) {
        let fonts = mode.fonts.map(|offset| Font::read(memory, offset, mode.cell_height));
        let cells = read_cells(memory, mode);
        let before = self
            .last
            .take()
            .filter(|last| last.mode.looks_like(mode) && last.fonts == fonts)
            .map(|last| last.cells)
            .unwrap_or_default();
        for (number, cell) in (0..).zip(&cells) {
            if before.get(number as usize) != Some(cell) {
                let place = (number % mode.columns, number / mode.columns);
                paint_cell(mode, &fonts, (*cell, place), (picture, damage));
            }
        }
        self.last = Some(Painted { mode: mode.clone(), fonts, cells });
    }
}

fn read_cells(memory: &GuestRam, mode: &TextMode) -> Vec<Cell> {
    let mut bytes = vec![0; CELLS_LEN];
    let base = GuestAddress(WINDOW + mode.base as u64);
    // Every machine has a mebibyte of memory; one without shows blanks.
    let _ = memory.read_slice(&mut bytes, base);
    let cells = bytes.as_chunks::<2>().0;
    let mut shown = Vec::with_capacity(mode.columns as usize * mode.rows as usize);
    for row in 0..mode.rows {
        let first = u32::from(mode.start) + row * mode.pitch;
        for at in first..first + mode.columns {
            let [code, attribute] = cells.get(at as usize % CELLS).copied().unwrap_or_default();
            let cursor = mode.cursor.filter(|cursor| u32::from(cursor.at) == at);
            // Where it is does not matter to the cell.
            let cursor = cursor.map(|cursor| Cursor { at: 0, ..cursor });
            shown.push(Cell { code, attribute, cursor });
        }
    }
    shown
}

fn paint_cell(
    mode: &TextMode,
    fonts: &[Font; 2],
    (cell, (column, row)): (Cell, (u32, u32)),
    (picture, damage): (&mut Picture, &mut Damage),
) {
    const LINE_GRAPHICS: std::ops::RangeInclusive<u8> = 0xc0..=0xdf;
    let colour = |index: u8| mode.colours[usize::from(index & 0xf)];
    let background_bits = if mode.blink { 7 } else { 0xf };
    let (front, back) = (colour(cell.attribute), colour(cell.attribute >> 4 & background_bits));
    let font = &fonts[usize::from(cell.attribute >> 3 & 1)];
    let width = (mode.cell_width as usize).min(CELL_WIDTH_MAX);
    for y in 0..mode.cell_height {
        let is_cursor = cell.cursor.is_some_and(|cursor| (cursor.first..=cursor.last).contains(&y));
        let bits = if is_cursor { 0xff } else { font.row(cell.code, y) };
        let ninth = is_cursor || mode.line_graphics && LINE_GRAPHICS.contains(&cell.code);
        let bits = u16::from(bits) << 1 | u16::from(bits & 1 != 0 && ninth);
        let mut pixels = [back; CELL_WIDTH_MAX];
        for (x, pixel) in pixels.iter_mut().enumerate() {
            if bits << x & 0x100 != 0 {
                *pixel = front;
            }
        }
        let place = (column * mode.cell_width, row * mode.cell_height + y);
        pixels::put(picture, damage, place, &pixels[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rect;
    use super::super::vga::{Vga, VgaView};
    use super::*;

    struct Rig {
        memory: GuestRam,
        painter: TextPainter,
        picture: Picture,
        damage: Damage,
        mode: TextMode,
    }

    const ALL: Rect = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };
    const WHITE: u32 = 0xff_ffff;
    const GREY: u32 = 0xaa_aaaa;
    const BLUE: u32 = 0x00_00aa;

    impl Rig {
        fn new() -> Rig {
            let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            let VgaView::Text(mode) = Vga::default().view(false) else { unreachable!("mode 3") };
            let (width, height) = (mode.width(), mode.height());
            let (picture, damage) = (Picture::new(width, height), Damage::new(width, height));
            Rig { memory, painter: TextPainter::default(), picture, damage, mode }
        }

        fn put(&self, cell: usize, code: u8, attribute: u8) {
            let at = GuestAddress(0xb_8000 + 2 * cell as u64);
            self.memory.write_slice(&[code, attribute], at).unwrap();
        }

        fn paint(&mut self) -> Vec<Rect> {
            let target = (&mut self.picture, &mut self.damage);
            self.painter.paint(&self.memory, &self.mode, target);
            self.damage.take(&ALL)
        }

        /// The pixels of a cell that have `colour`, a row each, leftmost highest.
        fn cell(&self, column: usize, row: u32, colour: u32) -> Vec<u16> {
            (0..16)
                .map(|y| {
                    let pixels = &self.picture.row(row * 16 + y)[column * 9..][..9];
                    pixels.iter().fold(0, |bits, pixel| bits << 1 | u16::from(*pixel == colour))
                })
                .collect()
        }
    }

    fn shape(c: char) -> Vec<u16> {
        font::glyph(c).unwrap().iter().map(|row| u16::from(*row) << 1).collect()
    }

    #[test]
    fn cells_are_painted_where_they_are_in_their_colours() {
        let mut rig = Rig::new();
        rig.mode.cursor = None;
        rig.put(0, b'A', 0x07);
        rig.put(80 + 79, b'z', 0x1f);
        rig.paint();
        assert_eq!(rig.cell(0, 0, GREY), shape('A'));
        assert_eq!(rig.cell(79, 1, WHITE), shape('z'));
        assert_eq!(
            rig.cell(79, 1, BLUE),
            shape('z').iter().map(|row| !row & 0x1ff).collect::<Vec<_>>()
        );
        assert!(rig.cell(1, 0, 0).iter().all(|row| *row == 0x1ff));
    }

    #[test]
    fn only_what_changes_is_damage() {
        let mut rig = Rig::new();
        rig.mode.cursor = None;
        assert!(rig.paint().is_empty(), "an empty screen is black");
        rig.put(80 * 24, b'x', 7);
        assert_eq!(rig.paint(), [Rect { x: 0, y: 384, width: 16, height: 16 }]);
        assert!(rig.paint().is_empty());
        // The same pixels by another character are no change.
        rig.put(5, 0, 0x0f);
        assert!(rig.paint().is_empty());
    }

    #[test]
    fn scrolling_by_the_start_address_wraps() {
        let mut rig = Rig::new();
        rig.mode.cursor = None;
        rig.mode.start = (CELLS - 80) as u16;
        rig.put(CELLS - 80, b'l', 7);
        rig.put(0, b'f', 7);
        rig.paint();
        assert_eq!((rig.cell(0, 0, GREY), rig.cell(0, 1, GREY)), (shape('l'), shape('f')));
        rig.mode.start = 0;
        rig.paint();
        assert_eq!(rig.cell(0, 0, GREY), shape('f'));
    }

    #[test]
    fn the_cursor_is_drawn_and_leaves_no_trace() {
        let mut rig = Rig::new();
        rig.put(2, b' ', 7);
        rig.mode.cursor = Some(Cursor { at: 2, first: 13, last: 14 });
        rig.paint();
        let mut bar = vec![0; 16];
        bar[13..15].fill(0x1ff);
        assert_eq!(rig.cell(2, 0, GREY), bar);
        rig.put(3, b' ', 7);
        rig.mode.cursor = Some(Cursor { at: 3, first: 13, last: 14 });
        assert_eq!(rig.paint().len(), 1);
        assert_eq!((rig.cell(2, 0, GREY), rig.cell(3, 0, GREY)), (vec![0; 16], bar));
        rig.mode.cursor = Some(Cursor { at: 3, first: 14, last: 13 });
        rig.paint();
        assert_eq!(rig.cell(3, 0, GREY), [0; 16]);
    }

    #[test]
    fn blink_takes_the_bright_background_away() {
        let mut rig = Rig::new();
        rig.mode.cursor = None;
        rig.put(0, b' ', 0x90);
        rig.paint();
        assert_eq!(rig.picture.row(0)[0], BLUE);
        rig.mode.blink = false;
        rig.paint();
        assert_eq!(rig.picture.row(0)[0], 0x55_55ff);
    }

    #[test]
    fn lines_reach_across_the_ninth_pixel() {
        let mut rig = Rig::new();
        rig.mode.cursor = None;
        rig.put(0, 0xc4, 7);
        rig.put(1, b'_', 7);
        rig.paint();
        assert!(rig.cell(0, 0, GREY).contains(&0x1ff));
        assert!(rig.cell(1, 0, GREY).iter().all(|row| row & 1 == 0));
    }

    #[test]
    fn the_guest_s_font_is_used_when_there_is_one() {
        let mut rig = Rig::new();
        rig.mode.cursor = None;
        rig.put(0, b'A', 7);
        let upload = |memory: &GuestRam, code: u8, rows: &[u8]| {
            let at = GuestAddress(WINDOW + 32 * u64::from(code));
            memory.write_slice(rows, at).unwrap();
        };
        upload(&rig.memory, b'A', &[0x81; 16]);
        rig.paint();
        assert_eq!(rig.cell(0, 0, GREY), shape('A'), "one letter is no font");
        for code in (b'A'..=b'Z').chain(b'a'..=b'z') {
            upload(&rig.memory, code, &[code; 16]);
        }
        rig.paint();
        assert_eq!(rig.cell(0, 0, GREY), [u16::from(b'A') << 1; 16]);
        rig.mode.fonts = [0x4000; 2];
        rig.paint();
        assert_eq!(rig.cell(0, 0, GREY), shape('A'));
    }

    #[test]
    fn extreme_modes_are_harmless() {
        let mut rig = Rig::new();
        rig.mode = TextMode { columns: 256, rows: 1024, cell_height: 1, pitch: 510, ..rig.mode };
        rig.mode.start = u16::MAX;
        rig.paint();
        rig.mode = TextMode { columns: 1, rows: 1, cell_height: 32, cell_width: 8, ..rig.mode };
        rig.paint();
    }
}

//! Rows of characters, and what moves and clears them. Whatever place or count is asked for, what
//! is outside is left alone.

use std::ops::Range;

use super::colours::Colour;

/// The most columns, and the most rows.
pub const SIDE_MAX: usize = 256;

bitflags::bitflags! {
    /// How a character is shown.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Look: u8 {
        /// In the brighter colour.
        const BOLD = 1;
        /// In half the brightness.
        const DIM = 1 << 1;
        /// With a line below.
        const UNDERLINED = 1 << 2;
        /// Colours exchanged.
        const REVERSE = 1 << 3;
        /// Not at all.
        const HIDDEN = 1 << 4;
        /// With a line through it.
        const STRUCK = 1 << 5;
    }
}

/// Colours and look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Of the character.
    pub foreground: Colour,
    /// Behind it.
    pub background: Colour,
    /// How it is shown.
    pub look: Look,
}

/// A place for a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What is in it; the right half of a wide character is a space.
    pub character: char,
    /// Its colours and look.
    pub style: Style,
}

impl Cell {
    /// A space in the default style.
    pub const EMPTY: Cell = Cell {
        character: ' ',
        style: Style {
            foreground: Colour::Default,
            background: Colour::Default,
            look: Look::empty(),
        },
    };

    /// What is left where something was cleared: the background of the style in use (as xterm, and
    /// what terminfo calls bce).
    pub fn cleared(style: &Style) -> Cell {
        let style = Style { background: style.background, ..Style::default() };
        Cell { character: ' ', style }
    }
}

/// Rows of cells.
#[derive(Clone, Debug)]
pub struct Grid {
    columns: usize,
    cells: Vec<Cell>,
}

impl Grid {
    /// Empty rows; at least one column and row, at most [`SIDE_MAX`].
    pub fn new(columns: usize, rows: usize) -> Grid {
        let (columns, rows) = (columns.clamp(1, SIDE_MAX), rows.clamp(1, SIDE_MAX));
        Grid { columns, cells: vec![Cell::EMPTY; columns * rows] }
    }

    /// Cells a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.cells.len() / self.columns
    }

    /// The cells, row after row.
    pub fn iter_rows(&self) -> impl Iterator<Item = &[Cell]> {
        self.cells.chunks(self.columns)
    }

    /// Row `y`; none outside.
    fn row_mut(&mut self, y: usize) -> &mut [Cell] {
        let start = y.saturating_mul(self.columns);
        self.cells.get_mut(start..start.saturating_add(self.columns)).unwrap_or_default()
    }

    /// Puts a cell at column `x` of row `y`.
    pub fn put(&mut self, x: usize, y: usize, cell: Cell) {
        if let Some(place) = self.row_mut(y).get_mut(x) {
            *place = cell;
        }
    }

    /// Fills columns of row `y`.
    pub fn fill(&mut self, y: usize, columns: Range<usize>, cell: Cell) {
        let row = self.row_mut(y);
        let end = columns.end.min(row.len());
        if let Some(places) = row.get_mut(columns.start..end) {
            places.fill(cell);
        }
    }

    /// Fills whole rows.
    pub fn fill_rows(&mut self, rows: Range<usize>, cell: Cell) {
        let end = rows.end.min(self.rows());
        if let Some(cells) = self.cells.get_mut(rows.start * self.columns..end * self.columns) {
            cells.fill(cell);
        }
    }

    /// Moves `rows` up by `count` within themselves; below, `cell` comes in.
    pub fn scroll_up(&mut self, rows: Range<usize>, count: usize, cell: Cell) {
        let count = count.min(rows.len());
        let columns = self.columns;
        if let Some(cells) = self.cells.get_mut(rows.start * columns..rows.end * columns) {
            cells.copy_within(count * columns.., 0);
            self.fill_rows(rows.end - count..rows.end, cell);
        }
    }

    /// Moves `rows` down by `count` within themselves; above, `cell` comes in.
    pub fn scroll_down(&mut self, rows: Range<usize>, count: usize, cell: Cell) {
        let count = count.min(rows.len());
        let columns = self.columns;
        if let Some(cells) = self.cells.get_mut(rows.start * columns..rows.end * columns) {
            cells.copy_within(..(rows.len() - count) * columns, count * columns);
            self.fill_rows(rows.start..rows.start + count, cell);
        }
    }

    /// Moves what is from column `x` on in row `y` to the right by `count`.
    pub fn insert(&mut self, x: usize, y: usize, count: usize, cell: Cell) {
        if let Some(cells) = self.row_mut(y).get_mut(x..) {
            let count = count.min(cells.len());
            cells.copy_within(..cells.len() - count, count);
            cells.iter_mut().take(count).for_each(|place| *place = cell);
        }
    }

    /// Moves what is behind `count` cells from column `x` on in row `y` to the left, over them.
    pub fn delete(&mut self, x: usize, y: usize, count: usize, cell: Cell) {
        if let Some(cells) = self.row_mut(y).get_mut(x..) {
            let count = count.min(cells.len());
            cells.copy_within(count.., 0);
            cells.iter_mut().rev().take(count).for_each(|place| *place = cell);
        }
    }
}

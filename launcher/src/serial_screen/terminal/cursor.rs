//! Where the next character goes, and how: what DECSC saves.

use vte::Params;

use super::super::grid::{Grid, Style};
use super::modes::Modes;
use super::{State, count};

/// The cursor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// Column, less than there are.
    pub x: usize,
    /// Row, less than there are.
    pub y: usize,
    /// The last column was written: the next character goes to the next row.
    pub wrap_next: bool,
    /// Of what is written.
    pub style: Style,
    /// Whether G0 and G1 are DEC's characters for drawing lines.
    pub drawing: [bool; 2],
    /// G1 is in use, not G0.
    pub shifted: bool,
}

impl Cursor {
    /// Puts it inside `grid`.
    pub fn clamp(&mut self, grid: &Grid) {
        self.x = self.x.min(grid.columns() - 1);
        self.y = self.y.min(grid.rows() - 1);
    }

    /// The character that is meant, in the character set in use.
    pub fn translate(&self, character: char) -> char {
        let [first, second] = self.drawing;
        let is_drawing = if self.shifted { second } else { first };
        if is_drawing { drawn(character) } else { character }
    }
}

/// DEC's special graphics (EK-VT220-RM, table 2-4): from 0x60 on, a character each.
fn drawn(character: char) -> char {
    const DRAWN: &str = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";
    match character {
        '`'..='~' => DRAWN.chars().nth(character as usize - 0x60).unwrap_or(character),
        other => other,
    }
}

impl State {
    /// Goes to a column and row from 0, those of the scrolling region in origin mode.
    pub fn move_to(&mut self, x: usize, y: usize) {
        let (first, end) = match self.modes.contains(Modes::ORIGIN) {
            true => self.region,
            false => (0, self.grid.rows()),
        };
        self.cursor.x = x.min(self.grid.columns() - 1);
        self.cursor.y = first.saturating_add(y).min(end - 1);
        self.cursor.wrap_next = false;
    }

    /// Goes to the right and down, or to the left and up; up and down not across the scrolling
    /// region's edges.
    pub fn move_by(&mut self, right: isize, down: isize) {
        let Cursor { x, y, .. } = self.cursor;
        let (first, end) = self.region;
        let top = if y >= first { first } else { 0 };
        let bottom = if y < end { end } else { self.grid.rows() };
        self.cursor.x = x.saturating_add_signed(right).min(self.grid.columns() - 1);
        self.cursor.y = y.saturating_add_signed(down).clamp(top, bottom - 1);
        self.cursor.wrap_next = false;
    }

    /// CSI that move the cursor.
    pub fn place(&mut self, params: &Params, action: char) {
        // Numbers have 16 bits.
        let steps = count(params, 0) as isize;
        let (first, second) = (count(params, 0) - 1, count(params, 1) - 1);
        match action {
            'A' => self.move_by(0, -steps),
            'B' | 'e' => self.move_by(0, steps),
            'C' | 'a' => self.move_by(steps, 0),
            'D' => self.move_by(-steps, 0),
            'E' => {
                self.move_by(0, steps);
                self.cursor.x = 0;
            }
            'F' => {
                self.move_by(0, -steps);
                self.cursor.x = 0;
            }
            'G' | '`' => {
                self.cursor.x = first.min(self.grid.columns() - 1);
                self.cursor.wrap_next = false;
            }
            'd' => self.move_to(self.cursor.x, first),
            _ => self.move_to(second, first),
        }
    }
}

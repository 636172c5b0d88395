//! The terminal itself: what bytes do to the characters shown.
//!
//! Control functions are those of ECMA-48 that a VT220 has (DEC's EK-VT220-RM), with xterm's colours,
//! alternate screen and cursor; `vte` takes the bytes apart, in bounded memory. What is unknown is
//! left out. A count asked for is never more than the terminal is large, so that no byte costs more
//! than one look at every cell.

use unicode_width::UnicodeWidthChar;
use vte::{Params, Parser, Perform};

use super::grid::{Cell, Grid, Style};
use super::paint::Shown;

mod cursor;
mod erase;
mod modes;
mod style;

use cursor::Cursor;
use modes::Modes;

/// Columns between tab stops that nobody has moved.
const TAB: usize = 8;

/// A terminal on a serial line.
pub struct Terminal {
    parser: Parser,
    state: State,
    /// Of a character in UTF-8 whose end has not come yet; empty between calls but for that.
    begun: Vec<u8>,
}

/// All but the parser, which calls it.
struct State {
    grid: Grid,
    /// The screen that is not shown: the main one while the alternate one is, and the other way
    /// round.
    hidden: Grid,
    cursor: Cursor,
    /// DECSC's.
    saved: Cursor,
    modes: Modes,
    /// The first row of the scrolling region, and the one behind its last.
    region: (usize, usize),
    tabs: Vec<bool>,
    /// What REP repeats.
    last: Option<char>,
    printed: bool,
}

impl Terminal {
    /// An empty terminal; its sides are as [`Grid::new`] has them.
    pub fn new(columns: usize, rows: usize) -> Terminal {
        Terminal { parser: Parser::new(), state: State::new(columns, rows), begun: Vec::new() }
    }

    /// Takes bytes of the guest. What they do does not depend on how they are divided: `vte` 0.15
    /// loses what follows a character that came in two parts, so it gets none in parts.
    pub fn write(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        let whole = self.begun.len() - unfinished(&self.begun);
        self.parser.advance(&mut self.state, &self.begun[..whole]);
        self.begun.drain(..whole);
    }

    /// A line for each row, without the spaces at their ends.
    #[cfg(test)]
    pub fn contents(&self) -> String {
        let mut text = String::new();
        for row in self.state.grid.iter_rows() {
            let line: String = row.iter().map(|cell| cell.character).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// What is to be painted.
    pub fn shown(&self) -> Shown {
        let state = &self.state;
        let is_visible = state.modes.contains(Modes::CURSOR_VISIBLE);
        let place = (state.cursor.x, state.cursor.y);
        Shown { grid: state.grid.clone(), cursor: is_visible.then_some(place) }
    }

    /// Whether a character was ever printed.
    pub fn has_printed(&self) -> bool {
        self.state.printed
    }

    /// DECCKM is set.
    pub fn application_cursor_keys(&self) -> bool {
        self.state.modes.contains(Modes::APPLICATION_CURSOR_KEYS)
    }
}

/// How many bytes at the end begin a character in UTF-8 and do not end it.
fn unfinished(bytes: &[u8]) -> usize {
    let is_beginning = |last: &&[u8]| {
        str::from_utf8(last).is_err_and(|err| err.valid_up_to() == 0 && err.error_len().is_none())
    };
    let ends = (1..=3.min(bytes.len())).map(|count| &bytes[bytes.len() - count..]);
    ends.rev().find(is_beginning).map_or(0, <[u8]>::len)
}

impl State {
    fn new(columns: usize, rows: usize) -> State {
        let grid = Grid::new(columns, rows);
        State {
            hidden: grid.clone(),
            cursor: Cursor::default(),
            saved: Cursor::default(),
            modes: Modes::AT_START,
            region: (0, grid.rows()),
            tabs: (0..grid.columns()).map(|column| column % TAB == 0).collect(),
            last: None,
            printed: false,
            grid,
        }
    }

    /// RIS.
    fn reset(&mut self) {
        let fresh = State::new(self.grid.columns(), self.grid.rows());
        *self = State { printed: self.printed, ..fresh };
    }

    fn blank(&self) -> Cell {
        Cell::cleared(&self.cursor.style)
    }

    fn put(&mut self, character: char) {
        let width = character.width().unwrap_or(0);
        if width == 0 {
            // Marks that go with the character before: the font has none.
            return;
        }
        let columns = self.grid.columns();
        let wraps = self.modes.contains(Modes::WRAP);
        let is_beyond = self.cursor.wrap_next || self.cursor.x + width > columns;
        if is_beyond && wraps {
            self.cursor.x = 0;
            self.line_feed();
        }
        self.cursor.wrap_next = false;
        let (x, y) = (self.cursor.x, self.cursor.y);
        if self.modes.contains(Modes::INSERT) {
            let blank = self.blank();
            self.grid.insert(x, y, width, blank);
        }
        let style = self.cursor.style;
        self.grid.put(x, y, Cell { character, style });
        if width > 1 {
            self.grid.put(x + 1, y, Cell { character: ' ', style });
        }
        self.cursor.x = (x + width).min(columns - 1);
        self.cursor.wrap_next = x + width >= columns && wraps;
        self.printed |= character != ' ';
    }

    /// IND.
    fn line_feed(&mut self) {
        self.cursor.wrap_next = false;
        if self.cursor.y + 1 == self.region.1 {
            self.scroll_up(1);
        } else if self.cursor.y + 1 < self.grid.rows() {
            self.cursor.y += 1;
        }
    }

    /// RI.
    fn reverse_line_feed(&mut self) {
        self.cursor.wrap_next = false;
        if self.cursor.y == self.region.0 {
            self.scroll_down(1);
        } else {
            self.cursor.y = self.cursor.y.saturating_sub(1);
        }
    }

    fn scroll_up(&mut self, count: usize) {
        let blank = self.blank();
        self.grid.scroll_up(self.region.0..self.region.1, count, blank);
    }

    fn scroll_down(&mut self, count: usize) {
        let blank = self.blank();
        self.grid.scroll_down(self.region.0..self.region.1, count, blank);
    }

    /// HT, CHT.
    fn tab(&mut self, count: usize) {
        for _ in 0..count.min(self.grid.columns()) {
            let stops = self.tabs.iter().enumerate().skip(self.cursor.x + 1);
            let next = stops.filter(|(_, stop)| **stop).map(|(column, _)| column).next();
            self.cursor.x = next.unwrap_or(self.grid.columns() - 1);
        }
        self.cursor.wrap_next = false;
    }

    /// CBT.
    fn tab_back(&mut self, count: usize) {
        for _ in 0..count.min(self.grid.columns()) {
            let mut stops = self.tabs.iter().take(self.cursor.x);
            self.cursor.x = stops.rposition(|stop| *stop).unwrap_or(0);
        }
        self.cursor.wrap_next = false;
    }

    fn restore_cursor(&mut self) {
        self.cursor = self.saved;
        self.cursor.clamp(&self.grid);
    }

    /// DECALN: a screen full of E, to adjust a tube by.
    fn align(&mut self) {
        let style = Style::default();
        self.grid.fill_rows(0..self.grid.rows(), Cell { character: 'E', style });
        self.region = (0, self.grid.rows());
        self.move_to(0, 0);
    }
}

/// A parameter's first number; 0 where there is none.
fn number(params: &Params, index: usize) -> usize {
    params.iter().nth(index).and_then(|param| param.first()).copied().unwrap_or(0).into()
}

/// A parameter that means 1 where it is 0 or missing.
fn count(params: &Params, index: usize) -> usize {
    number(params, index).max(1)
}

impl Perform for State {
    fn print(&mut self, character: char) {
        let character = self.cursor.translate(character);
        self.put(character);
        self.last = Some(character);
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            0x08 => self.move_by(-1, 0),
            b'\t' => self.tab(1),
            b'\n' | 0x0b | 0x0c => {
                self.line_feed();
                if self.modes.contains(Modes::NEW_LINE) {
                    self.cursor.x = 0;
                }
            }
            b'\r' => {
                self.cursor.x = 0;
                self.cursor.wrap_next = false;
            }
            // SO, SI.
            0x0e => self.cursor.shifted = true,
            0x0f => self.cursor.shifted = false,
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _ignored: bool, byte: u8) {
        match (intermediates, byte) {
            (b"", b'7') => self.saved = self.cursor,
            (b"", b'8') => self.restore_cursor(),
            (b"", b'D') => self.line_feed(),
            (b"", b'E') => {
                self.cursor.x = 0;
                self.line_feed();
            }
            (b"", b'H') => {
                if let Some(stop) = self.tabs.get_mut(self.cursor.x) {
                    *stop = true;
                }
            }
            (b"", b'M') => self.reverse_line_feed(),
            (b"", b'c') => self.reset(),
            (b"(", set) => self.cursor.drawing[0] = set == b'0',
            (b")", set) => self.cursor.drawing[1] = set == b'0',
            (b"#", b'8') => self.align(),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignored: bool, action: char) {
        if ignored {
            return;
        }
        match (intermediates, action) {
            (b"", 'g' | 'b' | 'I' | 'Z' | 'r' | 's' | 'u') => self.others(params, action),
            (b"", 'A'..='H' | 'a' | 'd' | 'e' | 'f' | '`') => self.place(params, action),
            (b"", 'J' | 'K' | 'L' | 'M' | '@' | 'P' | 'X' | 'S' | 'T') => self.edit(params, action),
            (b"", 'm') => self.cursor.style.select(params),
            (b"", 'h') => self.set_modes(params, true),
            (b"", 'l') => self.set_modes(params, false),
            (b"?", 'h') => self.set_private_modes(params, true),
            (b"?", 'l') => self.set_private_modes(params, false),
            // DECSTR.
            (b"!", 'p') => self.soft_reset(),
            _ => {}
        }
    }
}

impl State {
    /// CSI that are alone of their kind.
    fn others(&mut self, params: &Params, action: char) {
        match action {
            // TBC.
            'g' => match number(params, 0) {
                0 => {
                    if let Some(stop) = self.tabs.get_mut(self.cursor.x) {
                        *stop = false;
                    }
                }
                3 => self.tabs.fill(false),
                _ => {}
            },
            // REP: no more than a row of them.
            'b' => {
                if let Some(character) = self.last {
                    let times = count(params, 0).min(self.grid.columns());
                    (0..times).for_each(|_| self.put(character));
                }
            }
            'I' => self.tab(count(params, 0)),
            'Z' => self.tab_back(count(params, 0)),
            'r' => self.set_region(params),
            's' => self.saved = self.cursor,
            'u' => self.restore_cursor(),
            _ => {}
        }
    }

    /// DECSTBM.
    fn set_region(&mut self, params: &Params) {
        let first = count(params, 0) - 1;
        let end = match number(params, 1) {
            0 => self.grid.rows(),
            last => last.min(self.grid.rows()),
        };
        if first + 1 < end {
            self.region = (first, end);
            self.move_to(0, 0);
        }
    }

    fn soft_reset(&mut self) {
        self.cursor.style = Style::default();
        self.cursor.drawing = [false; 2];
        self.cursor.shifted = false;
        self.saved = Cursor::default();
        self.region = (0, self.grid.rows());
        self.modes = self.modes & Modes::ALTERNATE | Modes::AT_START;
    }
}

#[cfg(test)]
mod tests;

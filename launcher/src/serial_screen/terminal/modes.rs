//! What can be switched on and off (SM, RM, DECSET, DECRST).

use vte::Params;

use super::super::grid::Cell;
use super::State;

bitflags::bitflags! {
    /// Modes that are set.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Modes: u8 {
        /// IRM: characters push others to the right.
        const INSERT = 1;
        /// LNM: a line feed goes to the first column as well.
        const NEW_LINE = 1 << 1;
        /// DECAWM: a line that is too long goes on in the next row.
        const WRAP = 1 << 2;
        /// DECOM: rows are counted from the scrolling region's first.
        const ORIGIN = 1 << 3;
        /// DECTCEM.
        const CURSOR_VISIBLE = 1 << 4;
        /// DECCKM.
        const APPLICATION_CURSOR_KEYS = 1 << 5;
        /// The alternate screen is shown.
        const ALTERNATE = 1 << 6;
    }
}

impl Modes {
    /// After power-on, and RIS.
    pub const AT_START: Modes = Modes::WRAP.union(Modes::CURSOR_VISIBLE);
}

impl State {
    /// ECMA-48's.
    pub fn set_modes(&mut self, params: &Params, on: bool) {
        for mode in params.iter().filter_map(|param| param.first()) {
            match mode {
                4 => self.modes.set(Modes::INSERT, on),
                20 => self.modes.set(Modes::NEW_LINE, on),
                _ => {}
            }
        }
    }

    /// DEC's and xterm's.
    pub fn set_private_modes(&mut self, params: &Params, on: bool) {
        for mode in params.iter().filter_map(|param| param.first()) {
            match mode {
                1 => self.modes.set(Modes::APPLICATION_CURSOR_KEYS, on),
                6 => {
                    self.modes.set(Modes::ORIGIN, on);
                    self.move_to(0, 0);
                }
                7 => self.modes.set(Modes::WRAP, on),
                25 => self.modes.set(Modes::CURSOR_VISIBLE, on),
                47 | 1047 => self.alternate(on),
                1048 if on => self.saved = self.cursor,
                1048 => self.restore_cursor(),
                1049 if on => {
                    self.saved = self.cursor;
                    self.alternate(true);
                }
                1049 => {
                    self.alternate(false);
                    self.restore_cursor();
                }
                _ => {}
            }
        }
    }

    /// Shows the alternate screen, empty at first, or the main one as it was left.
    fn alternate(&mut self, on: bool) {
        if self.modes.contains(Modes::ALTERNATE) == on {
            return;
        }
        self.modes.set(Modes::ALTERNATE, on);
        std::mem::swap(&mut self.grid, &mut self.hidden);
        if on {
            let rows = self.grid.rows();
            self.grid.fill_rows(0..rows, Cell::EMPTY);
        }
    }
}

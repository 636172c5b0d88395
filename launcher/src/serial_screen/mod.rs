//! The guest's serial console as a screen: what a terminal on the line would show.
//!
//! A guest whose kernel has no driver for the display, or whose loader talks to the serial line
//! only, can be watched all the same. [`terminal`] is the terminal (ECMA-48, as DEC's VT220 and
//! xterm understand it), [`paint`] its picture, [`keys`] what is typed on it.
//!
//! Left out: history (the console's log has it), mouse reports, characters in double size, blinking.
//!
//! The guest's bytes come on a vCPU's thread, the painter is the viewers'. Both hold the terminal
//! for a moment only: the painter copies the characters and paints afterwards.

pub mod colours;
pub mod grid;
pub mod keys;
pub mod line;
pub mod paint;
pub mod terminal;

use std::sync::{Mutex, PoisonError};

use devices::display::{Damage, Picture, Screen};

use terminal::Terminal;

/// Columns and rows that a guest expects which has not been told.
pub const COLUMNS: usize = 80;
/// See [`COLUMNS`]. The lowest row is beyond what a VT100 has, which does no harm.
pub const ROWS: usize = 25;

/// A terminal that the guest's serial line is joined to.
pub struct SerialScreen {
    terminal: Mutex<Terminal>,
}

impl SerialScreen {
    /// An empty terminal; at least one column and row, at most [`grid::SIDE_MAX`].
    pub fn new(columns: usize, rows: usize) -> SerialScreen {
        SerialScreen { terminal: Mutex::new(Terminal::new(columns, rows)) }
    }

    /// Takes what the guest has sent. The time it takes is bounded by the number of bytes, whatever
    /// they are.
    pub fn write(&self, bytes: &[u8]) {
        self.with(|terminal| terminal.write(bytes));
    }

    /// What is shown: a line for each row, without the spaces at their ends.
    #[cfg(test)]
    pub fn contents(&self) -> String {
        self.with(|terminal| terminal.contents())
    }

    /// Whether the guest has ever sent anything that can be seen.
    pub fn has_printed(&self) -> bool {
        self.with(|terminal| terminal.has_printed())
    }

    /// What cursor keys send (DECCKM): see [`keys::bytes`].
    pub fn application_cursor_keys(&self) -> bool {
        self.with(|terminal| terminal.application_cursor_keys())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Terminal) -> T) -> T {
        act(&mut self.terminal.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Screen for SerialScreen {
    /// The terminal reads on while nobody watches: what it shows depends on all that came before.
    fn watch(&self, _watched: bool) {}

    fn paint(&self, picture: &mut Picture, damage: &mut Damage) {
        let shown = self.with(|terminal| terminal.shown());
        paint::paint(&shown, picture, damage);
    }
}

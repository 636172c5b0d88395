//! CSI that clear, insert and delete.

use vte::Params;

use super::{State, count, number};

impl State {
    /// ED, EL, IL, DL, ICH, DCH, ECH, SU, SD.
    pub fn edit(&mut self, params: &Params, action: char) {
        let blank = self.blank();
        let (x, y) = (self.cursor.x, self.cursor.y);
        let (columns, rows) = (self.grid.columns(), self.grid.rows());
        let steps = count(params, 0);
        let is_inside = (self.region.0..self.region.1).contains(&y);
        match (action, number(params, 0)) {
            ('J', 0) => {
                self.grid.fill(y, x..columns, blank);
                self.grid.fill_rows(y + 1..rows, blank);
            }
            ('J', 1) => {
                self.grid.fill_rows(0..y, blank);
                self.grid.fill(y, 0..x + 1, blank);
            }
            // 3 is for what has been scrolled away, which is not kept.
            ('J', 2) => self.grid.fill_rows(0..rows, blank),
            ('K', 0) => self.grid.fill(y, x..columns, blank),
            ('K', 1) => self.grid.fill(y, 0..x + 1, blank),
            ('K', 2) => self.grid.fill(y, 0..columns, blank),
            ('L', _) if is_inside => self.grid.scroll_down(y..self.region.1, steps, blank),
            ('M', _) if is_inside => self.grid.scroll_up(y..self.region.1, steps, blank),
            ('@', _) => self.grid.insert(x, y, steps, blank),
            ('P', _) => self.grid.delete(x, y, steps, blank),
            ('X', _) => self.grid.fill(y, x..x.saturating_add(steps), blank),
            ('S', _) => self.scroll_up(steps),
            ('T', _) => self.scroll_down(steps),
            _ => return,
        }
        self.cursor.wrap_next = false;
    }
}

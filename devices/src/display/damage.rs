//! What changed in a picture, in tiles of [`TILE`] × [`TILE`] pixels.

/// A tile's side in pixels: a line of text is one tile high, and ZRLE's tiles are four wide.
pub const TILE: u32 = 16;

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rect {
    /// True when no pixel is in it.
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// What both have in common.
    pub fn intersection(&self, other: &Rect) -> Rect {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let right = self.x.saturating_add(self.width).min(other.x.saturating_add(other.width));
        let bottom = self.y.saturating_add(self.height).min(other.y.saturating_add(other.height));
        Rect { x, y, width: right.saturating_sub(x), height: bottom.saturating_sub(y) }
    }
}

/// The tiles of a picture that have changed.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    width: u32,
    height: u32,
    columns: usize,
    tiles: Vec<bool>,
    any: bool,
}

impl Damage {
    /// No damage to a picture of `width` × `height` pixels.
    pub fn new(width: u32, height: u32) -> Damage {
        let columns = width.div_ceil(TILE) as usize;
        let tiles = vec![false; columns * height.div_ceil(TILE) as usize];
        Damage { width, height, columns, tiles, any: false }
    }

    /// True when nothing has changed.
    pub fn is_empty(&self) -> bool {
        !self.any
    }

    /// True when this is about a picture of `width` × `height` pixels.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        (self.width, self.height) == (width, height)
    }

    /// Adds a rectangle; what is outside the picture is left out.
    pub fn add(&mut self, rect: &Rect) {
        let rect = rect.intersection(&self.all_of_it());
        if rect.is_empty() {
            return;
        }
        self.any = true;
        let tile = |pixel: u32| (pixel / TILE) as usize;
        for row in tile(rect.y)..=tile(rect.y + rect.height - 1) {
            let first = row * self.columns;
            self.tiles[first + tile(rect.x)..=first + tile(rect.x + rect.width - 1)].fill(true);
        }
    }

    /// Adds the whole picture.
    pub fn add_all(&mut self) {
        let all = self.all_of_it();
        self.add(&all);
    }

    /// Adds what `other` has; both are about pictures of one size, else everything is added.
    pub fn merge(&mut self, other: &Damage) {
        if !other.fits(self.width, self.height) {
            return self.add_all();
        }
        self.any |= other.any;
        for (mine, theirs) in self.tiles.iter_mut().zip(&other.tiles) {
            *mine |= theirs;
        }
    }

    /// Takes the damage inside `area` away, as disjoint rectangles from top to bottom: runs of
    /// tiles, put together where rows below have the same run.
    pub fn take(&mut self, area: &Rect) -> Vec<Rect> {
        let area = area.intersection(&self.all_of_it());
        let mut done: Vec<Rect> = Vec::new();
        if area.is_empty() || !self.any {
            return done;
        }
        let tile = |pixel: u32| pixel / TILE;
        let mut open: Vec<Rect> = Vec::new();
        for row in tile(area.y)..=tile(area.y + area.height - 1) {
            let mut now = Vec::new();
            let mut column = tile(area.x);
            let last = tile(area.x + area.width - 1);
            while column <= last {
                let start = column;
                while column <= last && self.forget(row, column) {
                    column += 1;
                }
                if column == start {
                    column += 1;
                    continue;
                }
                let run = Rect {
                    x: start * TILE,
                    y: row * TILE,
                    width: (column - start) * TILE,
                    height: TILE,
                };
                let above = open.iter().position(|o| (o.x, o.width) == (run.x, run.width));
                now.push(match above.map(|index| open.swap_remove(index)) {
                    Some(above) => Rect { height: above.height + TILE, ..above },
                    None => run,
                });
            }
            done.append(&mut open);
            open = now;
        }
        done.append(&mut open);
        self.any = self.tiles.contains(&true);
        // A tile is taken whole: what of it is outside the area counts as seen, so it goes too.
        done.iter().map(|rect| rect.intersection(&self.all_of_it())).collect()
    }

    /// Clears a tile, and answers whether it was damaged.
    fn forget(&mut self, row: u32, column: u32) -> bool {
        let index = row as usize * self.columns + column as usize;
        self.tiles.get_mut(index).is_some_and(std::mem::take)
    }

    fn all_of_it(&self) -> Rect {
        Rect { x: 0, y: 0, width: self.width, height: self.height }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    const ALL: Rect = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };

    #[test]
    fn damage_is_taken_once_in_whole_tiles_cut_at_the_picture_s_edge() {
        let mut damage = Damage::new(100, 40);
        assert!(damage.is_empty() && damage.take(&ALL).is_empty());
        damage.add(&rect(90, 35, 1000, 1));
        assert_eq!(damage.take(&ALL), [rect(80, 32, 20, 8)]);
        assert!(damage.is_empty());
        damage.add(&rect(100, 0, 5, 5));
        damage.add(&rect(u32::MAX, u32::MAX, u32::MAX, u32::MAX));
        assert!(damage.is_empty());
    }

    #[test]
    fn runs_of_equal_width_are_one_rectangle() {
        let mut damage = Damage::new(64, 64);
        damage.add(&rect(16, 0, 32, 33));
        damage.add(&rect(0, 48, 1, 1));
        assert_eq!(damage.take(&ALL), [rect(16, 0, 32, 48), rect(0, 48, 16, 16)]);
    }

    #[test]
    fn what_lies_outside_the_area_stays() {
        let mut damage = Damage::new(64, 64);
        damage.add_all();
        assert_eq!(damage.take(&rect(0, 0, 64, 16)), [rect(0, 0, 64, 16)]);
        assert!(!damage.is_empty());
        assert_eq!(damage.take(&ALL), [rect(0, 16, 64, 48)]);
    }

    #[test]
    fn rectangles_are_disjoint_and_cover_what_was_added() {
        // A small pseudo-random walk; every pixel added must be covered, none twice.
        let mut seed = 7u32;
        let mut next = |bound: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % bound
        };
        for _ in 0..200 {
            let (width, height) = (1 + next(150), 1 + next(150));
            let mut damage = Damage::new(width, height);
            let mut added = vec![false; (width * height) as usize];
            for _ in 0..next(8) {
                let r = rect(next(160), next(160), next(40), next(40));
                damage.add(&r);
                for y in r.y..(r.y + r.height).min(height) {
                    for x in r.x..(r.x + r.width).min(width) {
                        added[(y * width + x) as usize] = true;
                    }
                }
            }
            let mut covered = vec![false; added.len()];
            for r in damage.take(&ALL) {
                for y in r.y..r.y + r.height {
                    for x in r.x..r.x + r.width {
                        let seen = &mut covered[(y * width + x) as usize];
                        assert!(!*seen, "{r:?} overlaps");
                        *seen = true;
                    }
                }
            }
            assert!(added.iter().zip(&covered).all(|(added, covered)| !added || *covered));
        }
    }

    #[test]
    fn damage_of_another_size_damages_everything() {
        let mut damage = Damage::new(32, 32);
        let mut other = Damage::new(32, 32);
        other.add(&rect(0, 0, 1, 1));
        damage.merge(&other);
        assert_eq!(damage.take(&ALL), [rect(0, 0, 16, 16)]);
        damage.merge(&Damage::new(16, 16));
        assert_eq!(damage.take(&ALL), [rect(0, 0, 32, 32)]);
    }
}

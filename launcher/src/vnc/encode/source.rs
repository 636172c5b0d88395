//! The part of a picture that is encoded.

use devices::display::{Picture, Rect};

use super::super::pixel::Wire;

/// An area of a picture; all of it is inside.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    picture: &'a Picture,
    area: Rect,
}

impl<'a> Source<'a> {
    /// What of `area` is inside `picture`.
    pub fn new(picture: &'a Picture, area: Rect) -> Source<'a> {
        let whole = Rect { x: 0, y: 0, width: picture.width(), height: picture.height() };
        Source { picture, area: area.intersection(&whole) }
    }

    /// Where it is.
    pub fn area(&self) -> Rect {
        self.area
    }

    /// Its tiles, from left to right and from top to bottom; those at the right and lower edges may
    /// be smaller than `width` × `height`, neither of which is 0.
    pub fn tiles(&self, width: u32, height: u32) -> impl Iterator<Item = Source<'a>> + use<'a> {
        let Source { picture, area } = *self;
        let (columns, rows) = (area.width.div_ceil(width), area.height.div_ceil(height));
        (0..rows).flat_map(move |row| {
            (0..columns).map(move |column| {
                let (x, y) = (area.x + column * width, area.y + row * height);
                let tile = Rect { x, y, width, height };
                Source { picture, area: tile.intersection(&area) }
            })
        })
    }

    /// Its rows of pixels.
    pub fn rows(&self) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        let Source { picture, area } = *self;
        let columns = area.x as usize..area.x as usize + area.width as usize;
        (area.y..area.y + area.height)
            .map(move |y| picture.row(y).get(columns.clone()).unwrap_or_default())
    }

    /// Its pixels' values, row after row, instead of what `values` had.
    pub fn values(&self, wire: &Wire, values: &mut Vec<u32>) {
        values.clear();
        for row in self.rows() {
            wire.convert(row, values);
        }
    }
}

//! A picture in memory: rows of pixels, each 0x00RRGGBB.

/// The most pixels a picture's side may have; a row of them fits what RFB can say of it.
pub const SIDE_MAX: u32 = 8192;

/// A picture. Its size is at most [`SIDE_MAX`] on each side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    pixels: Vec<u32>,
}

impl Picture {
    /// A black picture; sides longer than [`SIDE_MAX`] are cut.
    pub fn new(width: u32, height: u32) -> Picture {
        let (width, height) = (width.min(SIDE_MAX), height.min(SIDE_MAX));
        Picture { width, pixels: vec![0; width as usize * height as usize] }
    }

    /// Pixels a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        // Less than SIDE_MAX by construction.
        self.pixels.len().checked_div(self.width as usize).unwrap_or(0) as u32
    }

    /// Row `y`'s pixels; none outside the picture.
    pub fn row(&self, y: u32) -> &[u32] {
        let start = y as usize * self.width as usize;
        self.pixels.get(start..start + self.width as usize).unwrap_or_default()
    }

    /// Row `y`'s pixels, to be painted; none outside the picture.
    pub fn row_mut(&mut self, y: u32) -> &mut [u32] {
        let start = y as usize * self.width as usize;
        self.pixels.get_mut(start..start + self.width as usize).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_wide_as_the_picture_and_end_with_it() {
        let mut picture = Picture::new(3, 2);
        picture.row_mut(1)[2] = 0x00ff_ffff;
        assert_eq!((picture.width(), picture.height()), (3, 2));
        assert_eq!((picture.row(0), picture.row(1)), (&[0; 3][..], &[0, 0, 0xff_ffff][..]));
        assert!(picture.row(2).is_empty() && picture.row_mut(u32::MAX).is_empty());
    }

    #[test]
    fn a_picture_without_pixels_and_one_too_large_are_none_the_less_pictures() {
        assert_eq!((Picture::default().width(), Picture::default().height()), (0, 0));
        assert!(Picture::default().row(0).is_empty());
        assert_eq!(Picture::new(u32::MAX, 1).width(), SIDE_MAX);
    }
}

//! A linear framebuffer on its way into a picture: pages that were written → rows → pixels that
//! differ.

use super::dirty::Pages;
use super::pixels::{self, Depth, Palette};
use super::{Damage, Picture};
use crate::mem::{Bytes, GuestAddress, GuestRam};

/// Rows of pixels in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels a row, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
    /// The pixels' format.
    pub depth: Depth,
    /// Bytes from row to row, at least a row's.
    pub pitch: usize,
    /// Offset of the first pixel, in bytes.
    pub start: usize,
}

impl Frame {
    /// Bytes from the first pixel to the last.
    pub fn span(&self) -> usize {
        self.pitch * (self.height as usize).saturating_sub(1) + self.row_len()
    }

    fn row_len(&self) -> usize {
        self.width as usize * self.depth.bytes()
    }
}

/// Room for a row on its way.
#[derive(Default)]
pub struct LinearPainter {
    bytes: Vec<u8>,
    row: Vec<u32>,
}

impl LinearPainter {
    /// Paints the rows of `frame` that lie in `pages`; offsets count from `base` in `memory`. What is
    /// not in memory stays as it is.
    pub fn paint(
        &mut self,
        (memory, base): (&GuestRam, u64),
        (frame, palette): (&Frame, &Palette),
        pages: &Pages,
        (picture, damage): (&mut Picture, &mut Damage),
    ) {
        let len = frame.row_len();
        self.bytes.resize(len, 0);
        self.row.resize(frame.width as usize, 0);
        for y in 0..frame.height {
            let offset = frame.start + y as usize * frame.pitch;
            let at = GuestAddress(base.saturating_add(offset as u64));
            if !pages.touch(offset, len) || memory.read_slice(&mut self.bytes, at).is_err() {
                continue;
            }
            frame.depth.convert(&self.bytes, palette, &mut self.row);
            pixels::put(picture, damage, (0, y), &self.row);
        }
    }
}

//! Rectangles of a picture: Raw (RFC 6143 §7.7.1).

use devices::display::{Picture, Rect};

use super::pixel::PixelFormat;

/// Makes rectangles for one client.
pub struct Encoder {
    format: PixelFormat,
}

impl Encoder {
    /// For a client that has asked for nothing yet.
    pub fn new() -> Encoder {
        Encoder { format: PixelFormat::NATIVE }
    }

    /// Colours go in `format` from now on.
    pub fn set_format(&mut self, format: PixelFormat) {
        self.format = format;
    }

    /// Takes the client's list of encodings.
    pub fn set_encodings(&mut self, _list: &[i32]) {}

    /// Adds rectangles, heads included, for what of `area` is inside `picture`; answers how many.
    pub fn encode(&mut self, picture: &Picture, area: Rect, out: &mut Vec<u8>) -> u16 {
        let whole = Rect { x: 0, y: 0, width: picture.width(), height: picture.height() };
        let area = area.intersection(&whole);
        if area.is_empty() {
            return 0;
        }
        super::rfb::server::rectangle(out, &area, super::rfb::pseudo::RAW);
        let columns = area.x as usize..(area.x.saturating_add(area.width)) as usize;
        for y in area.y..area.y.saturating_add(area.height) {
            for pixel in picture.row(y).get(columns.clone()).unwrap_or_default() {
                self.format.put(*pixel, out);
            }
        }
        1
    }
}

//! Pixel formats (RFC 6143 §7.4): true colour of 8, 16 or 32 bits a pixel.

/// A pixel format that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no pixel can be like this")]
pub struct FormatError;

/// PIXEL_FORMAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelFormat([u8; 16]);

impl PixelFormat {
    /// What a picture has: 0x00RRGGBB, the least significant byte first.
    pub const NATIVE: PixelFormat =
        PixelFormat([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);

    /// The format in these bytes.
    ///
    /// # Errors
    /// No pixel can be like this.
    pub fn parse(bytes: &[u8; 16]) -> Result<PixelFormat, FormatError> {
        let [bits, _, _, colour, ..] = *bytes;
        let shifts = bytes.get(10..13).unwrap_or_default();
        let fits = [8, 16, 32].contains(&bits) && shifts.iter().all(|shift| *shift < bits);
        if fits && colour != 0 { Ok(PixelFormat(*bytes)) } else { Err(FormatError) }
    }

    /// The format as it is sent.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// SetColourMapEntries, for a format with a colour map.
    pub fn colour_map(&self) -> Option<Vec<u8>> {
        None
    }

    /// Adds a pixel in its form.
    pub fn put(&self, pixel: u32, out: &mut Vec<u8>) {
        let [bits, _, big, _, r0, r1, g0, g1, b0, b1, rs, gs, bs, ..] = self.0;
        let channels = [(16, r0, r1, rs), (8, g0, g1, gs), (0, b0, b1, bs)];
        let value = channels.into_iter().fold(0u32, |value, (from, high, low, shift)| {
            let max = u32::from(u16::from_be_bytes([high, low]));
            let level = (pixel >> from & 0xff).wrapping_mul(max) / 255;
            value | level.checked_shl(shift.into()).unwrap_or(0)
        });
        match (bits, big) {
            (8, _) => out.push(value as u8),
            (16, 0) => out.extend((value as u16).to_le_bytes()),
            (16, _) => out.extend((value as u16).to_be_bytes()),
            (_, 0) => out.extend(value.to_le_bytes()),
            _ => out.extend(value.to_be_bytes()),
        }
    }
}

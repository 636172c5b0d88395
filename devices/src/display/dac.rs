//! The palette DAC: 256 colours behind ports 0x3C6 to 0x3C9.
//!
//! ```text
//! 3c6 mask | 3c7 W: colour to read, R: state | 3c8 colour to write | 3c9 red, green, blue in turn
//! ```
//! Colours have six bits, or eight while DISPI asks for that.

use super::pixels::{Palette, widen};

/// The six-bit value that EGA's bright bit adds, and its plain one.
const EGA_THIRD: u8 = 0x15;
const STATE_READ: u8 = 3;

/// The DAC.
#[derive(Clone, Debug)]
pub struct Dac {
    mask: u8,
    colours: [[u8; 3]; 256],
    reading: bool,
    read_at: u8,
    write_at: u8,
    /// Which of red, green and blue comes next.
    part: usize,
    /// A colour takes effect when its blue arrives.
    written: [u8; 3],
}

impl Default for Dac {
    /// EGA's 64 colours, as a BIOS leaves them for text modes.
    fn default() -> Dac {
        let mut colours = [[0; 3]; 256];
        for (code, colour) in (0u8..64).zip(&mut colours) {
            let part = |strong: u8, weak: u8| {
                (code >> strong & 1) * 2 * EGA_THIRD + (code >> weak & 1) * EGA_THIRD
            };
            *colour = [part(2, 5), part(1, 4), part(0, 3)];
        }
        Dac {
            mask: 0xff,
            colours,
            reading: false,
            read_at: 0,
            write_at: 0,
            part: 0,
            written: [0; 3],
        }
    }
}

impl Dac {
    /// Reads port 0x3C6 + `port` (0 to 3).
    pub fn read(&mut self, port: u64) -> u8 {
        match port {
            0 => self.mask,
            1 => u8::from(self.reading) * STATE_READ,
            2 => self.write_at,
            _ => {
                let colour = self.colours[usize::from(self.read_at)];
                let value = colour.get(self.part).copied().unwrap_or(0);
                if self.next_part() {
                    self.read_at = self.read_at.wrapping_add(1);
                }
                value
            }
        }
    }

    /// Writes port 0x3C6 + `port` (0 to 3).
    pub fn write(&mut self, port: u64, value: u8) {
        match port {
            0 => self.mask = value,
            1 => (self.read_at, self.part, self.reading) = (value, 0, true),
            2 => (self.write_at, self.part, self.reading) = (value, 0, false),
            _ => {
                if let Some(part) = self.written.get_mut(self.part) {
                    *part = value;
                }
                if self.next_part() {
                    self.colours[usize::from(self.write_at)] = self.written;
                    self.write_at = self.write_at.wrapping_add(1);
                }
            }
        }
    }

    /// The colours as pixels see them.
    pub fn palette(&self, eight_bits: bool) -> Palette {
        std::array::from_fn(|index| self.colour(index as u8, eight_bits))
    }

    /// The colour of pixel value `index`, 0x00RRGGBB.
    pub fn colour(&self, index: u8, eight_bits: bool) -> u32 {
        let bits = if eight_bits { 8 } else { 6 };
        let colour = self.colours[usize::from(index & self.mask)];
        colour.iter().fold(0, |rgb, part| rgb << 8 | widen((*part).into(), bits))
    }

    /// Goes on to the next part; true after the last.
    fn next_part(&mut self) -> bool {
        self.part = (self.part + 1) % 3;
        self.part == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colours_are_ega_s() {
        let palette = Dac::default().palette(false);
        assert_eq!((palette[0], palette[7], palette[63]), (0, 0xaa_aaaa, 0xff_ffff));
        assert_eq!((palette[1], palette[0x14]), (0x00_00aa, 0xaa_5500));
    }

    #[test]
    fn colours_are_written_and_read_in_turn() {
        let mut dac = Dac::default();
        dac.write(2, 254);
        for value in [1, 2, 0x3f, 4, 5, 6, 7, 8] {
            dac.write(3, value);
        }
        assert_eq!((dac.read(2), dac.read(1)), (0, 0));
        dac.write(1, 254);
        assert_eq!([0; 6].map(|_| dac.read(3)), [1, 2, 0x3f, 4, 5, 6]);
        assert_eq!(dac.read(1), 3);
        assert_eq!(dac.colour(254, false), 0x04_08ff);
        assert_eq!(dac.colour(254, true), 0x01_023f);
        // A colour without its blue is not one.
        assert_eq!(dac.colour(0, false), 0);
        dac.write(0, 0);
        assert_eq!(dac.colour(254, false), 0);
    }
}

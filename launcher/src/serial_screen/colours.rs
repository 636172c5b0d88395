//! The terminal's colours: sixteen as VGA has them, xterm's 256, and all others (ISO 8613-6).

/// A colour that the guest chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    /// The terminal's own: light grey on black.
    #[default]
    Default,
    /// One of 256.
    Indexed(u8),
    /// 0x00RRGGBB.
    Rgb(u32),
}

/// What text is written in by default.
const LIGHT_GREY: u32 = 0x00aa_aaaa;

/// The first sixteen.
const BASIC: [u32; 16] = [
    0x00_0000, 0xaa_0000, 0x00_aa00, 0xaa_5500, 0x00_00aa, 0xaa_00aa, 0x00_aaaa, 0xaa_aaaa,
    0x55_5555, 0xff_5555, 0x55_ff55, 0xff_ff55, 0x55_55ff, 0xff_55ff, 0x55_ffff, 0xff_ffff,
];

/// The steps of a channel in the cube of 6 × 6 × 6 colours.
const STEPS: [u32; 6] = [0, 0x5f, 0x87, 0xaf, 0xd7, 0xff];

impl Colour {
    /// As 0x00RRGGBB, in front. Bold text has the brighter of two colours.
    pub fn in_front(self, bold: bool) -> u32 {
        match self {
            Colour::Default if bold => 0x00ff_ffff,
            Colour::Default => LIGHT_GREY,
            Colour::Indexed(index @ 0..8) if bold => indexed(index + 8),
            Colour::Indexed(index) => indexed(index),
            Colour::Rgb(rgb) => rgb,
        }
    }

    /// As 0x00RRGGBB, behind.
    pub fn behind(self) -> u32 {
        match self {
            Colour::Default => 0,
            Colour::Indexed(index) => indexed(index),
            Colour::Rgb(rgb) => rgb,
        }
    }
}

fn indexed(index: u8) -> u32 {
    let step = |number: u8| STEPS.get(usize::from(number % 6)).copied().unwrap_or_default();
    match index {
        0..16 => BASIC.get(usize::from(index)).copied().unwrap_or_default(),
        16..232 => {
            let number = index - 16;
            step(number / 36) << 16 | step(number / 6) << 8 | step(number)
        }
        232..=255 => (8 + 10 * u32::from(index - 232)) * 0x01_0101,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_256() {
        for (index, rgb) in [
            (1, 0xaa_0000),
            (15, 0xff_ffff),
            (16, 0),
            (21, 0x00_00ff),
            (46, 0x00_ff00),
            (196, 0xff_0000),
            (102, 0x87_8787),
            (231, 0xff_ffff),
            (232, 0x08_0808),
            (255, 0xee_eeee),
        ] {
            assert_eq!(Colour::Indexed(index).behind(), rgb, "{index}");
        }
        assert_eq!(Colour::Indexed(1).in_front(true), 0xff_5555);
        assert_eq!(Colour::Indexed(9).in_front(true), 0xff_5555);
        assert_eq!((Colour::Default.in_front(false), Colour::Default.behind()), (0xaa_aaaa, 0));
    }
}

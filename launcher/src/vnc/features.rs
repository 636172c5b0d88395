//! What a client understands beside pixels: the pseudo-encodings that it names (RFC 6143 §7.8,
//! rfbproto).

use bitflags::bitflags;

use super::rfb::pseudo;

bitflags! {
    /// What a client understands.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u16 {
        /// The picture may have another size.
        const RESIZE = 1;
        /// The same, with screens.
        const EXTENDED_RESIZE = 1 << 1;
        /// It draws the pointer itself.
        const CURSOR = 1 << 2;
        /// It says which key was pressed.
        const EXTENDED_KEY = 1 << 3;
        /// It wants to know the keyboard's lights.
        const LEDS = 1 << 4;
        /// Its window may be renamed.
        const NAME = 1 << 5;
        /// It answers fences.
        const FENCE = 1 << 6;
        /// It takes updates that it has not asked for.
        const CONTINUOUS = 1 << 7;
        /// Either of the two.
        const SIZES = Self::RESIZE.bits() | Self::EXTENDED_RESIZE.bits();
    }
}

impl Features {
    /// What is among the encodings that a client names.
    pub fn of(encodings: &[i32]) -> Features {
        encodings.iter().fold(Features::empty(), |all, encoding| {
            all | match *encoding {
                pseudo::DESKTOP_SIZE => Features::RESIZE,
                pseudo::EXTENDED_DESKTOP_SIZE => Features::EXTENDED_RESIZE,
                pseudo::CURSOR => Features::CURSOR,
                pseudo::EXTENDED_KEY => Features::EXTENDED_KEY,
                pseudo::LED_STATE => Features::LEDS,
                pseudo::DESKTOP_NAME => Features::NAME,
                pseudo::FENCE => Features::FENCE,
                pseudo::CONTINUOUS_UPDATES => Features::CONTINUOUS,
                _ => Features::empty(),
            }
        })
    }
}

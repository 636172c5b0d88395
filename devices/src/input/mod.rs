//! What somebody who watches the machine does to it: keys and a pointer.
//!
//! A viewer knows only [`InputSink`]. Keys are named by their place on the keyboard, in the numbers
//! of Linux's `input-event-codes.h` (KEY_*), which virtio-input passes on as they are and the PS/2
//! keyboard translates; what letter a key makes is the guest's affair.

use bitflags::bitflags;

pub mod desk;
pub mod i8042;
pub mod ps2;

/// A key by its place, as KEY_* of Linux's `input-event-codes.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u16);

bitflags! {
    /// Buttons of the pointer that are held.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Buttons: u8 {
        /// BTN_LEFT.
        const LEFT = 1;
        /// BTN_MIDDLE.
        const MIDDLE = 1 << 1;
        /// BTN_RIGHT.
        const RIGHT = 1 << 2;
        /// BTN_SIDE: back.
        const SIDE = 1 << 3;
        /// BTN_EXTRA: forward.
        const EXTRA = 1 << 4;
    }

    /// Lights of the keyboard that the guest has switched on.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Leds: u8 {
        /// Scroll Lock.
        const SCROLL_LOCK = 1;
        /// Num Lock.
        const NUM_LOCK = 1 << 1;
        /// Caps Lock.
        const CAPS_LOCK = 1 << 2;
    }
}

/// The largest [`Pointer`] coordinate.
pub const POSITION_MAX: u16 = 0x7fff;

/// Where the pointer is, and what its buttons and wheel do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pointer {
    /// 0 (left edge of the screen) to [`POSITION_MAX`] (right edge).
    pub x: u16,
    /// 0 (upper edge) to [`POSITION_MAX`] (lower edge).
    pub y: u16,
    /// Held now.
    pub buttons: Buttons,
    /// Steps the wheel was turned, away from the user positive.
    pub wheel: i8,
    /// Steps to the side, right positive.
    pub side_wheel: i8,
}

/// Where keys and pointer go. Never blocks: what the guest does not fetch is dropped, but a key's
/// release is never lost while its press was taken.
pub trait InputSink: Send + Sync {
    /// A key goes down or up. A press of a key that is down is a repetition.
    fn key(&self, key: Key, pressed: bool);

    /// The pointer moves, or its buttons change.
    fn pointer(&self, pointer: Pointer);

    /// The keyboard's lights.
    fn leds(&self) -> Leds;
}

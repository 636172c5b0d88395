//! What is plugged into the PS/2 controller: a keyboard and a mouse, each a device that is written
//! and read a byte at a time (IBM PS/2 Hardware Interface Technical Reference, Keyboards, Mouse).

pub mod keyboard;
pub mod mouse;
pub mod scancode;

/// Self-test passed.
pub const SELF_TEST_OK: u8 = 0xaa;
/// The byte was understood.
pub const ACK: u8 = 0xfa;
/// The byte was not.
pub const RESEND: u8 = 0xfe;

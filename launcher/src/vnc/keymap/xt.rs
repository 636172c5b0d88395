//! Keys by their place: XT scan codes, of a keyboard's main block.

use devices::input::Key;

/// The key at a place.
pub fn key(code: u32) -> Option<Key> {
    let code = u16::try_from(code).ok()?;
    (1..=0x58).contains(&code).then_some(Key(code))
}

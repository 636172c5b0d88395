//! What somebody who watches the machine sees: pictures, what changed in them, and the screens
//! that paint them.
//!
//! A viewer knows only [`Screen`]: it owns a [`Picture`] and a [`Damage`], and asks the screen to
//! bring them up to date when it wants to show something. Nothing is painted, and nothing kept
//! track of, while nobody asks. Whatever the guest's pixel format, a picture has one: 0x00RRGGBB.

pub mod bochs;
mod dac;
mod damage;
pub mod dirty;
pub mod dispi;
pub mod edid;
pub mod font;
pub mod linear;
mod picture;
pub mod pixels;
pub mod text;
pub mod vga;

pub use damage::{Damage, Rect, TILE};
pub use picture::{Picture, SIDE_MAX};

/// Something that can be watched: a display adapter, or a terminal.
pub trait Screen: Send + Sync {
    /// Somebody watches from now on, or nobody does any more. A screen that is not watched keeps no
    /// track of changes; the first [`Screen::paint`] after `watch(true)` paints everything anew.
    fn watch(&self, watched: bool);

    /// Brings `picture` up to date, and adds to `damage` what differs from before: only pixels that
    /// have another colour now count. A picture of another size than the screen's is made anew, and
    /// is damaged all over. Called by one thread at a time; never waits for the guest.
    fn paint(&self, picture: &mut Picture, damage: &mut Damage);

    /// Whether a driver of the guest's has set the screen up, and it is meant to be as it is, be it
    /// black.
    fn is_driven(&self) -> bool {
        false
    }
}

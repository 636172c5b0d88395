//! What the end-to-end tests are written with: virtual machines that are started, watched and
//! ended from outside, as a user would.
//!
//! A test builds a [`SmallGuest`] (a Debian kernel and an initramfs that runs one shell script)
//! or a [`CloudImage`] (a whole Debian), starts it, and reads what it says on the serial console.
//! The host half and the guest half of a test stand in one file: Rust around a shell script.
//!
//! Tests that need KVM are `#[ignore]`d with that reason, and `tests/run e2e` runs them where KVM
//! is: here, or inside `tests/nested-kvm`. Such a test fails if something it needs is missing; it
//! never passes by looking away.
//!
//! Everything runs on the test's own thread, except one reader thread for each stream of a
//! machine.

mod berth;
mod client;
mod cloud_image;
mod confinement;
mod cpio;
mod disk_image;
mod namespace;
mod picture;
mod place;
mod pod;
mod small_guest;
mod tap;
mod tigervnc;
mod transcript;
pub mod tree;
mod viewer;
mod virtual_machine;
mod volume;
mod watched;

pub use berth::{Berth, Outcome};
pub use cloud_image::CloudImage;
pub use confinement::confined_threads;
pub use disk_image::{Checked, DiskImage};
pub use namespace::Namespace;
pub use picture::{ALPHABET, Area, Glyphs, Picture};
pub use place::{berth_program, guest_file, has_program, scratch};
pub use pod::{Families, Pod, Shape};
pub use small_guest::{Kernel, SmallGuest};
pub use tap::{Queues, Tap};
pub use tigervnc::TigerVnc;
pub use transcript::Transcript;
pub use viewer::Viewer;
pub use virtual_machine::{Report, VirtualMachine};
pub use volume::{LoopDevice, Volume};
pub use watched::Watched;

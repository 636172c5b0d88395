//! Boot loaders' configuration: what each would load.
//!
//! One file for each kind of configuration. They read text and say which files to load; looking
//! for the configuration, and loading, is done by [`search`](super::search). All of it runs on the
//! thread of [`choose`](super::choose).

pub mod bls;
pub mod grub;
pub mod grubenv;
pub mod menulst;
pub mod sdboot;
pub mod syslinux;
pub mod uki;
pub mod version;

use std::fmt;

/// A file on a device of the guest's disk, as GRUB names both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// `hd0,gpt1`, `hd0,msdos5`, `hd0`.
    pub device: String,
    /// Path from the filesystem's root.
    pub path: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}){}", self.device, self.path)
    }
}

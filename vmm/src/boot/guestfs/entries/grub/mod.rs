//! GRUB 2: from `grub.cfg` to the kernel that its default entry loads.
//!
//! GRUB manual §6 (the language), §14 (commands). This is no shell: the configuration that
//! `grub-mkconfig` and the images' own scripts write is read for what it sets, searches and lists.
//! Commands that touch nothing of that are passed over; functions and loops are not run.
//!
//! One rule departs from GRUB, on purpose: where an entry first tries to boot without an initial
//! ramdisk and would only at a second attempt use one (Ubuntu's minimal images, `initrdfail`), the
//! branch with the ramdisk is taken at once.

mod blscfg;
mod condition;
mod find;
mod menu;
mod run;
mod syntax;

use super::Place;

/// What GRUB can see: devices by name, files on them.
pub trait Devices {
    /// The file, whole; `None` where there is none or it is too large for a configuration file.
    fn read(&mut self, place: &Place) -> Option<Vec<u8>>;

    /// Something is at `place`.
    fn exists(&mut self, place: &Place) -> bool;

    /// Names in a directory; empty where there is none.
    fn list(&mut self, place: &Place) -> Vec<String>;

    /// The device that `search` finds, as GRUB names it.
    fn search(&mut self, by: SearchBy, value: &str) -> Option<String>;
}

/// What `search` goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchBy {
    /// Filesystem UUID.
    Uuid,
    /// Filesystem label.
    Label,
    /// A file that is there.
    File,
}

/// What GRUB would load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration file that listed the entry.
    pub config: Place,
    /// Which entry, and why: `entry 0 'Debian GNU/Linux' (default=0)`.
    pub entry: String,
    /// The kernel.
    pub kernel: Place,
    /// Initial ramdisks, in order.
    pub initrds: Vec<Place>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Why a configuration leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrubError {
    /// It has no entries at all.
    #[error("has no menu entries")]
    Empty,
    /// The entry that would boot loads no Linux kernel.
    #[error("{0} does not load a Linux kernel")]
    NotLinux(String),
    /// Too deep, too long, or running in circles.
    #[error("{0}")]
    Limit(String),
}

/// Finds what the configuration `config` boots.
///
/// # Errors
/// [`GrubError`].
pub fn load(devices: &mut dyn Devices, config: &Place) -> Result<Loaded, GrubError> {
    let mut run = run::Run::new(devices, config);
    run.file(config, run::Menu::New)?;
    menu::boot_default(run)
}

/// Finds what `script` boots, as if it were the configuration `config`.
///
/// # Errors
/// [`GrubError`].
pub fn load_script(
    devices: &mut dyn Devices,
    config: &Place,
    script: &str,
) -> Result<Loaded, GrubError> {
    let mut run = run::Run::new(devices, config);
    run.script(script)?;
    menu::boot_default(run)
}

/// The directory of `path`, without a slash at the end.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

#[cfg(test)]
mod tests;

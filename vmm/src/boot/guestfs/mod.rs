//! Chooses the kernel that the guest's own boot loader would have chosen, from the guest's own
//! disk.

use std::sync::Arc;

use devices::block::BlockBackend;

mod disk;
mod fs;
mod partition;
#[cfg(test)]
mod testdisk;

/// A kernel chosen from a disk.
pub struct Choice {
    /// The kernel file's bytes.
    pub kernel: Vec<u8>,
    /// The initial ramdisks, in the order they are to be concatenated.
    pub initrds: Vec<Vec<u8>>,
    /// The command line as the boot loader would have passed it.
    pub cmdline: String,
    /// Where it was found and why it was taken, in a sentence for the log.
    pub reason: String,
}

/// Nothing that can be booted was found; says what was looked for, and where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NothingFound(pub String);

/// Chooses what to boot from `disk`.
///
/// # Errors
/// [`NothingFound`].
pub fn choose(_disk: &Arc<dyn BlockBackend>) -> Result<Choice, NothingFound> {
    Err(NothingFound("no bootable system found".into()))
}

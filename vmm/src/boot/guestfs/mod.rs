//! Chooses the kernel that the guest's own boot loader would have chosen, from the guest's own
//! disk.
//!
//! A disk is read through these layers: `disk` (bytes, with a budget), `partition` (GPT, MBR),
//! `fs` (ext, XFS, btrfs, FAT, one tree of files each), `volumes` (all of them, by number, label
//! or UUID), `entries` (what each kind of boot loader would load), `search` (where to look),
//! `load` (kernel and ramdisks). Nothing is written, and nothing guessed: without a configuration that leads to a
//! kernel, the answer is [`NothingFound`], which says what was seen.
//!
//! Everything here is under the guest's control, and the filesystem readers are not ours: the
//! choice is made on a thread of its own, with bounds on what is read, kept and waited for; a panic
//! on it ends in [`NothingFound`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use devices::block::BlockBackend;
use devices::thread;

mod disk;
mod entries;
mod fs;
mod load;
mod partition;
mod search;
#[cfg(test)]
mod testdisk;
#[cfg(test)]
mod tests;
mod volumes;

use disk::{Budget, Disk};
use search::Search;
use volumes::{Progress, Volumes};

/// What may be read in all, in bytes: several times the largest kernel and ramdisk.
const MAX_READ: u64 = 8 << 30;
/// Reads by filesystem readers in all. A hundred thousand serve for any sane disk.
const MAX_READS: u64 = 4_000_000;
/// Stack of the thread, for readers that recurse.
const STACK: usize = 16 << 20;

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

/// Bounds for a choice.
#[derive(Clone, Copy, Debug)]
pub struct BootPolicy {
    /// What kernel and ramdisks may add up to, in bytes: the guest's RAM, since that is where they
    /// go.
    pub memory_bytes: u64,
    /// How long the choice may take.
    pub timeout: Duration,
}

impl Default for BootPolicy {
    /// 1 GiB, and five minutes: a disk image on slow storage is waited for.
    fn default() -> Self {
        BootPolicy { memory_bytes: 1 << 30, timeout: Duration::from_secs(300) }
    }
}

/// Nothing that can be booted was found; says what was looked for, and where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NothingFound(pub String);

/// Chooses what to boot from `disk`. Blocks until it is done, on a thread of its own.
///
/// # Errors
/// [`NothingFound`].
pub fn choose(disk: &Arc<dyn BlockBackend>, policy: &BootPolicy) -> Result<Choice, NothingFound> {
    let (backend, policy) = (Arc::clone(disk), *policy);
    let called_off = Arc::new(AtomicBool::new(false));
    let progress = Progress::default();
    let (sender, receiver) = mpsc::sync_channel(1);
    let worker = {
        let (called_off, progress) = (Arc::clone(&called_off), Arc::clone(&progress));
        let work = move || {
            // The receiver may have given up.
            let _ = sender.send(look(backend, policy, called_off, progress));
        };
        thread::start_with_stack("guestfs", STACK, work)
    };
    let worker = worker.map_err(|error| {
        NothingFound(format!("the thread that looks for a bootable system did not start: {error}"))
    })?;
    let at = || progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match receiver.recv_timeout(policy.timeout) {
        Ok(answer) => {
            // It has nothing left to do but to end.
            let _ = worker.join();
            answer
        }
        Err(RecvTimeoutError::Disconnected) => {
            let _ = worker.join();
            Err(NothingFound(format!(
                "looking for a bootable system failed while reading {}",
                at()
            )))
        }
        Err(RecvTimeoutError::Timeout) => {
            // Its next read fails, and so it ends. Not waited for: a read may hang.
            called_off.store(true, Ordering::Relaxed);
            Err(NothingFound(format!(
                "looking for a bootable system took longer than {} s, the last of it reading {}",
                policy.timeout.as_secs(),
                at()
            )))
        }
    }
}

/// The choice itself, on its thread.
fn look(
    backend: Arc<dyn BlockBackend>,
    policy: BootPolicy,
    called_off: Arc<AtomicBool>,
    progress: Progress,
) -> Result<Choice, NothingFound> {
    let budget = Budget { bytes: MAX_READ, calls: MAX_READS };
    let disk = Disk::new(backend, budget, called_off);
    let mut volumes = Volumes::new(&disk, progress).map_err(|error| {
        NothingFound(format!("no bootable system found: the disk cannot be read: {error}"))
    })?;
    let mut search = Search::new(&mut volumes, policy);
    search.run().ok_or_else(|| {
        let mut text = search.seen();
        if disk.exhausted() {
            text.push_str("; gave up reading: the disk is damaged, or made to be read for ever");
        }
        NothingFound(text)
    })
}

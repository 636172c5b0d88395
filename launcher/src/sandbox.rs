//! What the process may still do once everything is open: nothing that the machine does not need.
//!
//! In this order:
//!
//! 1. [`begin`], first of all: no new privileges; from now on each thread that is started gives up
//!    its capabilities, and gets the filter of its kind ([`threads`], [`calls`], [`filters`]).
//! 2. Everything is opened: sockets, images, taps, vhost, netlink. What has to be taken back at the
//!    end is left to a process of its own, which keeps `NET_ADMIN` (`net/caretaker.rs`).
//! 3. [`Sandbox::enter`]: the main thread gives up its capabilities ([`capabilities`]), the files it
//!    does not need ([`files`]) and the system calls that none needs. What it starts inherits that.
//! 4. The machine starts, each of its threads with the filter of its kind, before any guest code.
//! 5. [`Sandbox::settle`]: the main thread, too, has nothing left but what waiting and the end take.
//!
//! A call that a filter forbids ends the process, and says so ([`report`]).

mod calls;
pub mod capabilities;
pub mod files;
mod filters;
mod heap;
mod report;
mod requests;
mod threads;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use files::{Files, Narrow};
use logging::LogForm;
use nix::sys::prctl;
use threads::{Appointed, Kind, Threads};

/// Whether there is a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// There is.
    #[default]
    On,
    /// There is none.
    Off,
    /// There is, but system calls are not refused: the kernel logs those that would be.
    Log,
}

/// The process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel refuses a filter.
    #[error(
        "this process cannot be confined: the kernel refuses {what} ({why}); use a kernel with \
         seccomp filters, or give --sandbox off"
    )]
    Refused {
        /// What it refuses.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// There is no thread left.
    #[error("a thread to start others cannot be had")]
    Thread(#[source] std::io::Error),
}

/// Names what the kernel refused.
fn refused(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> SandboxError {
    move |why| SandboxError::Refused { what, why: why.to_string() }
}

static THREADS: OnceLock<Arc<Threads>> = OnceLock::new();

/// Begins to confine this process, unless `mode` is off; the log has this form. To be called before
/// there are threads.
///
/// # Errors
/// [`SandboxError`].
pub fn begin(mode: Enforcement, form: LogForm) -> Result<(), SandboxError> {
    if mode == Enforcement::Off {
        return Ok(());
    }
    prctl::set_no_new_privs().map_err(|error| refused("to set no_new_privs")(&error))?;
    heap::settle();
    report::listen(form).map_err(|error| refused("a handler for SIGSYS")(&error))?;
    let threads = Arc::new(Threads::new(filters::compile_all(mode)?));
    // A kernel or a runtime that has none is told of now, not by a thread that cannot go on.
    let probe = threads::probe(&threads).map_err(SandboxError::Thread)?;
    probe.map_err(|error| refused("a system call filter")(&error))?;
    if THREADS.set(Arc::clone(&threads)).is_ok() {
        devices::thread::appoint(Box::new(Appointed(threads)));
    }
    Ok(())
}

/// Whether one was begun.
pub fn is_begun() -> bool {
    THREADS.get().is_some()
}

/// Confines the process that takes a network back; it has kept what it needs for that.
///
/// # Errors
/// [`SandboxError`].
pub fn confine_caretaker() -> Result<(), SandboxError> {
    prctl::set_no_new_privs().map_err(|error| refused("to set no_new_privs")(&error))?;
    let filters = filters::compile_all(Enforcement::On)?;
    filters::apply(filters.of(Kind::Caretaker)).map_err(|error| refused("a filter")(&error))
}

/// Confines the calling thread, of this name, which was not started as all others are.
pub fn confine(name: &str) {
    if let Some(threads) = THREADS.get() {
        threads.confine_by_name(name);
    }
}

/// The sandbox of a process that has begun one.
pub struct Sandbox {
    threads: Arc<Threads>,
    narrow: Narrow,
    /// What the kernel can do of it.
    has: String,
}

impl Sandbox {
    /// Enters it, if one was begun: the calling thread, and all that are started from now on, may
    /// open only `files`, and have no capabilities.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn enter(
        files: &Files,
        termination_log: Option<&Path>,
    ) -> Result<Option<Sandbox>, SandboxError> {
        let Some(threads) = THREADS.get() else {
            return Ok(None);
        };
        if let Some(path) = termination_log {
            report::also_to(path);
        }
        capabilities::drop_all().map_err(|error| refused("to drop capabilities")(&error))?;
        let (narrow, has) = files.restrict()?;
        threads.confine_process()?;
        // It has fewer files than this thread, and so have all that it starts.
        threads.hand_over(narrow.share())?;
        Ok(Some(Sandbox { threads: Arc::clone(threads), narrow, has }))
    }

    /// The machine runs: the calling thread, too, has no more than it needs.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn settle(self) -> Result<(), SandboxError> {
        self.narrow.restrict()?;
        log::info!("sandbox: no capabilities, a system call filter for each thread, {}", self.has);
        filters::apply(self.threads.filter(Kind::Main)).map_err(|error| refused("a filter")(&error))
    }
}

#[cfg(test)]
mod tests;

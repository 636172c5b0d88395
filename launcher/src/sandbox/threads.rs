//! Kinds of threads, and how a thread of each is started: confined before it does anything.
//!
//! The name that a thread is started under ([`devices::thread`]) says of which kind it is. A new
//! thread needs a row in [`Kind::of`], and if it does what no other does, a kind with a list of
//! [`calls`].
//!
//! A thread inherits what its starter may not do. So once the process is confined all are started
//! by one, `starter`, which is under the filter of the whole process and does nothing else: no
//! thread that a guest or a client reaches may start one, nor needs what another kind may do.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use devices::thread::{Request, STACK_BYTES, Starter};
use seccompiler::BpfProgram;

use super::calls::{self, Call};
use super::files::Narrow;
use super::filters::{self, Filters};
use super::{SandboxError, capabilities};
use crate::exit;

/// Threads that may do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Guest code.
    Vcpu,
    /// Resets and the end.
    Machine,
    /// Readers of the guest's file systems.
    Guestfs,
    /// A disk's queue.
    Disk,
    /// An interface's queues.
    Net,
    /// The sockets between host and guest.
    Vsock,
    /// What only waits, reads and writes what it was given.
    Plain,
    /// Paints the screen.
    Painter,
    /// Accepts connections.
    Listener,
    /// Serves one.
    Connection,
    /// Tells the guest of its network.
    Dhcp,
    /// Looks at the cgroup.
    Memory,
    /// Hears signals.
    Signals,
    /// The main thread, while the machine runs.
    Main,
    /// The process that takes a network back at the end.
    Caretaker,
    /// Fetches an image, before there is a machine: without capabilities, but with every call.
    Fetch,
}

impl Kind {
    /// All of them, in their order.
    pub const ALL: [Kind; 16] = [
        Kind::Vcpu,
        Kind::Machine,
        Kind::Guestfs,
        Kind::Disk,
        Kind::Net,
        Kind::Vsock,
        Kind::Plain,
        Kind::Painter,
        Kind::Listener,
        Kind::Connection,
        Kind::Dhcp,
        Kind::Memory,
        Kind::Signals,
        Kind::Main,
        Kind::Caretaker,
        Kind::Fetch,
    ];

    /// That of a thread of this name; `None`: nobody knows it.
    pub fn of(name: &str) -> Option<Kind> {
        Some(match name.trim_end_matches(|last: char| last.is_ascii_digit()) {
            "vcpu" => Kind::Vcpu,
            "machine" => Kind::Machine,
            "guestfs" => Kind::Guestfs,
            "blk" => Kind::Disk,
            "net" | "net-ctrl" => Kind::Net,
            "vsock" => Kind::Vsock,
            "rng" | "balloon" | "keyboard" | "keyboard-leds" | "tablet" | "tablet-leds" => {
                Kind::Plain
            }
            "log" | "console-in" | "console-out" | "cloud-init" | "wait" => Kind::Plain,
            "screen" => Kind::Painter,
            "listen" | "control" => Kind::Listener,
            "viewer" | "control-conn" => Kind::Connection,
            "dhcp" => Kind::Dhcp,
            "memory" => Kind::Memory,
            "signals" => Kind::Signals,
            "fetch" => Kind::Fetch,
            _ => return None,
        })
    }

    /// What it may do besides [`calls::EVERY_THREAD`]; `None`: it has no filter.
    pub fn calls(self) -> Option<&'static [&'static [Call]]> {
        Some(match self {
            Kind::Vcpu => &[calls::VCPU],
            Kind::Machine => &[calls::FILES, calls::MACHINE],
            Kind::Guestfs => &[calls::GUESTFS],
            Kind::Disk => &[calls::DISK],
            Kind::Net => &[calls::NET],
            Kind::Vsock => &[calls::VSOCK],
            Kind::Plain => &[],
            Kind::Painter => &[calls::PAINTER],
            Kind::Listener => &[calls::LISTENER],
            Kind::Connection => &[calls::FILES, calls::CONNECTION],
            Kind::Dhcp => &[calls::FILES],
            Kind::Memory => &[calls::MEMORY],
            Kind::Signals => &[calls::SIGNALS],
            Kind::Main => &[calls::FILES, calls::MAIN],
            Kind::Caretaker => &[calls::FILES, calls::CARETAKER],
            Kind::Fetch => return None,
        })
    }
}

/// Starts the threads of this process.
pub struct Threads {
    filters: Filters,
    /// To the thread that starts others, once there is one.
    starter: Mutex<Option<SyncSender<Job>>>,
}

/// A thread that is asked for, and where the answer goes.
struct Job {
    request: Request,
    kind: Kind,
    answer: SyncSender<io::Result<JoinHandle<()>>>,
}

impl Threads {
    /// Starts none yet.
    pub fn new(filters: Filters) -> Self {
        Self { filters, starter: Mutex::default() }
    }

    /// The filter of `kind`.
    pub fn filter(&self, kind: Kind) -> &BpfProgram {
        self.filters.of(kind)
    }

    /// Confines the calling thread as one of `kind`, when whoever started it was not confined.
    ///
    /// # Errors
    /// The kernel refuses, in words.
    fn confine(&self, kind: Kind) -> Result<(), String> {
        capabilities::drop_all().map_err(|error| error.to_string())?;
        filters::apply(self.filter(kind)).map_err(|error| error.to_string())
    }

    /// Confines the calling thread, which is called `name` and was started by no [`Starter`].
    pub fn confine_by_name(&self, name: &str) {
        end_unless(self.confine(Kind::of(name).unwrap_or(Kind::Plain)));
    }

    /// Gives the calling thread what the whole process is under.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn confine_process(&self) -> Result<(), SandboxError> {
        let refused = |error: seccompiler::Error| super::refused("a filter")(&error);
        filters::apply(&self.filters.base).map_err(refused)?;
        filters::apply(&self.filters.no_clone3).map_err(refused)
    }

    /// From now on threads are started by one that has no files but those of `narrow`.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn hand_over(self: &Arc<Self>, narrow: Narrow) -> Result<(), SandboxError> {
        let (ask, jobs) = sync_channel::<Job>(1);
        let (ready, is_ready) = sync_channel(1);
        let threads = Arc::clone(self);
        let run = move || {
            // Whoever asked waits for both answers.
            drop(ready.send(narrow.restrict()));
            while let Ok(Job { request, kind, answer }) = jobs.recv() {
                let filters = Arc::clone(&threads);
                // Without capabilities it is already, as this thread is.
                let confine = move || {
                    let confined = filters::apply(filters.filter(kind));
                    end_unless(confined.map_err(|error| error.to_string()));
                };
                drop(answer.send(request.spawn(confine)));
            }
        };
        let starter = Builder::new().name("starter".to_owned()).stack_size(STACK_BYTES);
        let started = starter.spawn(run);
        started.map_err(SandboxError::Thread)?;
        let ended = || SandboxError::Thread(io::Error::other("it has ended"));
        is_ready.recv().map_err(|_| ended())??;
        *self.starter.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask);
        Ok(())
    }
}

/// A thread that cannot be confined ends the process.
fn end_unless(confined: Result<(), String>) {
    if let Err(why) = confined {
        eprintln!("berth error: a thread cannot be confined ({why})");
        std::process::exit(exit::ERROR.into());
    }
}

/// What the process has appointed to start its threads.
pub struct Appointed(pub Arc<Threads>);

impl Starter for Appointed {
    fn start(&self, request: Request) -> io::Result<JoinHandle<()>> {
        let kind = Kind::of(&request.name).ok_or_else(|| {
            io::Error::other(format!("no kind of thread is called {}", request.name))
        })?;
        let starter = self.0.starter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(starter) = starter else {
            let threads = Arc::clone(&self.0);
            return request.spawn(move || end_unless(threads.confine(kind)));
        };
        let (answer, answered) = sync_channel(1);
        let ended = |_| io::Error::other("the thread that starts others has ended");
        starter.send(Job { request, kind, answer }).map_err(|_| ended(()))?;
        answered.recv().map_err(|_| ended(()))?
    }
}

/// Whether a thread can be confined here at all: one is, and ends.
///
/// # Errors
/// There is no thread left; within, what the kernel refuses.
pub fn probe(threads: &Arc<Threads>) -> io::Result<Result<(), String>> {
    let threads = Arc::clone(threads);
    let thread = Builder::new().name("probe".to_owned());
    let thread = thread.spawn(move || threads.confine(Kind::Plain))?;
    Ok(thread.join().unwrap_or_else(|_| Err("it panicked".to_owned())))
}

//! Asks the guest for memory when this pod has too little, so that the kernel need not kill the machine.
//!
//! What is free in the guest comes back by itself (free page reporting). What it uses, or keeps as its
//! cache, it gives up only when the balloon grows; [`size`] decides how large that is to be, from what
//! [`cgroup`] reads. That is looked at once at the start, then when the kernel says that there is
//! pressure, and while the balloon is not empty every ten seconds: a machine that is under no pressure
//! wakes nobody.
//!
//! Where the cgroup's files cannot be read there is free page reporting alone. Runs on the thread
//! `memory`.

mod cgroup;
mod program;
mod size;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use devices::event::Event;
use devices::virtio::balloon::{Control, Statistic};
use devices::worker::Worker;

use self::cgroup::{Cgroup, Woken};
use self::program::Program;
use self::size::{Cause, Guest};

const MIB: u64 = 1 << 20;
/// How often is looked whether the balloon may shrink.
const LOOK: Duration = Duration::from_secs(10);
/// The least time from one look to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// The most, under a pressure against which nothing can be done.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long the guest may take to say how much memory it can do without.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is known of this pod's memory, opened while files may be opened.
pub struct Pressure(Option<Watched>);

struct Watched {
    cgroup: Cgroup,
    /// `None`: its pages cannot be told from others.
    program: Option<Program>,
}

/// Drives a balloon until it is dropped.
#[derive(Debug)]
pub struct Driver {
    _thread: Option<Worker<()>>,
}

impl Pressure {
    /// Looks for this process's cgroup below `root`, which is `/` outside tests.
    pub fn open(root: &Path) -> Self {
        match Cgroup::open(root) {
            Ok(cgroup) => {
                log::debug!("memory: watching {cgroup}");
                let program = Program::open(&root.join("proc/self"));
                let why = |e: &io::Error| log::debug!("memory: the program is not kept in it: {e}");
                Self(Some(Watched { cgroup, program: program.inspect_err(why).ok() }))
            }
            Err(why) => {
                log::debug!("memory: {why}: of the guest's memory, only what is free comes back");
                Self(None)
            }
        }
    }

    /// Drives `balloon`.
    pub fn drive(self, balloon: Arc<Control>) -> Driver {
        let Some(watched) = self.0 else { return Driver { _thread: None } };
        let panicked = || log::error!("the guest is not asked for memory any more");
        let thread = Worker::spawn("memory", panicked, move |stop| {
            let Watched { cgroup, program } = watched;
            if let Err(error) = serve(&cgroup, program, &balloon, stop) {
                log::warn!("memory: {cgroup} cannot be watched any more: {error}");
            }
        });
        let thread = thread.inspect_err(|e| log::warn!("memory: there is no thread: {e}"));
        Driver { _thread: thread.ok() }
    }
}

fn serve(
    cgroup: &Cgroup,
    mut program: Option<Program>,
    balloon: &Control,
    stop: &Event,
) -> io::Result<()> {
    let mut pause = PAUSE;
    let mut cause = Cause::Time;
    loop {
        let changed = look(cgroup, balloon, cause)?;
        // What cannot be helped need not be heard of all the time.
        pause = match (changed, cause) {
            (true, _) | (_, Cause::Time) => PAUSE,
            (false, Cause::Pressure) => pause.saturating_mul(2).min(PAUSE_MAX),
        };
        let timeout = (balloon.target() > 0).then_some(LOOK);
        cause = match cgroup.wait(stop, pause, timeout)? {
            Woken::Stopped => return Ok(()),
            Woken::Pressure => {
                // Soon it may not be there any more.
                program.iter_mut().for_each(Program::keep);
                Cause::Pressure
            }
            Woken::Time => Cause::Time,
        };
    }
}

/// Sets the size that is right now; true when that is another one.
fn look(cgroup: &Cgroup, balloon: &Control, cause: Cause) -> io::Result<bool> {
    let usage = cgroup.usage()?;
    let before = balloon.target();
    let asked = balloon.statistics(PATIENCE);
    let guest = Guest {
        ram: balloon.ram(),
        target: before,
        actual: balloon.actual(),
        available: asked.and_then(|told| told.get(Statistic::Available)),
    };
    let target = size::target(cause, usage, guest);
    log::debug!("memory: {cause:?}: {usage:?}, {guest:?}: {} MiB", target / MIB);
    if target == before {
        return Ok(false);
    }
    let limit = usage.limit.map(|limit| format!(" of {}", limit / MIB)).unwrap_or_default();
    let asked = match target {
        0 => "may have all of its memory again".to_owned(),
        _ => format!("is asked to do without {} MiB", target / MIB),
    };
    log::info!("memory: {}{limit} MiB are used here; the guest {asked}", usage.current / MIB);
    balloon.set_target(target);
    Ok(true)
}

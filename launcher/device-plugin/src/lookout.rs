//! Waits until something may have changed: inotify on a few directories, and a slow clock.
//!
//! inotify only says when to look; what has changed is found by looking. So a missed event costs time
//! and nothing else, and the clock bounds that. inotify(7).
//!
//! Events are read on a thread of their own, `lookout`, the only other one: the runtime has no way to
//! wait for a file descriptor of this kind without `unsafe`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use nix::unistd::pipe2;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// The longest time between two looks. A device whose file stays may break or mend as well.
const PERIOD: Duration = Duration::from_secs(30);
/// The same where the node has no more inotify instances to give.
const PERIOD_WITHOUT_EVENTS: Duration = Duration::from_secs(5);
/// What comes within this time of an event is looked at together with it: udev gives a new file its
/// owner and mode in a second step.
const SETTLE: Duration = Duration::from_millis(100);

/// Watches files by name.
pub struct Lookout {
    ear: Option<Ear>,
    directories: Vec<PathBuf>,
}

impl Lookout {
    /// Watches for `names` in `directories`, which need not exist yet.
    pub fn new(directories: Vec<PathBuf>, names: Vec<OsString>) -> Self {
        let ear = Ear::open(names).map_err(|error| {
            let period = PERIOD_WITHOUT_EVENTS.as_secs();
            log::warn!("there is no inotify to be had, so it is looked every {period} s: {error}");
        });
        let lookout = Self { ear: ear.ok(), directories };
        lookout.watch();
        lookout
    }

    /// Returns when it is worth a look. What happens between two calls is not missed.
    pub async fn next(&mut self) {
        match &self.ear {
            Some(ear) => {
                if timeout(PERIOD, ear.heard.notified()).await.is_ok() {
                    sleep(SETTLE).await;
                }
            }
            None => sleep(PERIOD_WITHOUT_EVENTS).await,
        }
        // A directory may have come, or come anew. Before the look: what happens after is an event.
        self.watch();
    }

    fn watch(&self) {
        let Some(ear) = &self.ear else { return };
        let mask = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for directory in &self.directories {
            match ear.inotify.add_watch(directory, mask) {
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => log::debug!("{} is not watched: {error}", directory.display()),
            }
        }
    }
}

/// The thread that hears events. Joined when dropped.
struct Ear {
    inotify: Arc<Inotify>,
    heard: Arc<Notify>,
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    fn open(names: Vec<OsString>) -> io::Result<Self> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Arc::new(Inotify::init(flags)?);
        let heard = Arc::new(Notify::new());
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let (events, notify) = (Arc::clone(&inotify), Arc::clone(&heard));
        let run = move || {
            if let Err(error) = hear(&events, &stopped, &names, &notify) {
                log::error!("inotify is no longer heard: {error}");
            }
        };
        let thread = Builder::new().name("lookout".to_owned()).spawn(run)?;
        Ok(Self { inotify, heard, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported.
            let _ = thread.join();
        }
    }
}

/// Notifies of events of `names`, until the other end of `stopped` is closed.
fn hear(
    inotify: &Inotify,
    stopped: &OwnedFd,
    names: &[OsString],
    notify: &Notify,
) -> io::Result<()> {
    loop {
        let mut fds = [
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
            PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [stop, _] = fds;
        if stop.any() != Some(false) {
            return Ok(());
        }
        match inotify.read_events() {
            Ok(events) if events.iter().any(|event| is_of(event, names)) => notify.notify_one(),
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether an event is of one of the names, or of all that is watched.
fn is_of(event: &InotifyEvent, names: &[OsString]) -> bool {
    event.name.as_ref().is_none_or(|name| names.contains(name))
}

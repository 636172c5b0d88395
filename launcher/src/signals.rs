//! Signals as events: blocked in every thread, read from a signalfd by the thread `signals`.
//!
//! TERM, INT and HUP ask for a shutdown; CHLD is for a process 1, which has to collect children it
//! never had. PIPE and XFSZ are blocked and never read: the call that caused one fails with EPIPE
//! or EFBIG, which is an ordinary error of that file.
//!
//! Signals belong to a whole process, and this has to run before it has threads: the tests are in
//! `tests/signals.rs`, a program of its own.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use devices::thread::{self, Thread};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, pipe2};

/// The signals of this process, blocked.
pub struct Signals {
    fd: SignalFd,
    reap: bool,
}

impl Signals {
    /// Blocks the signals in this thread and in all that it starts. To be called before there are
    /// others.
    ///
    /// # Errors
    /// The system refuses.
    pub fn block() -> io::Result<Self> {
        let mut read = SigSet::empty();
        read.add(Signal::SIGTERM);
        read.add(Signal::SIGINT);
        // Under nohup, and only there, it is ignored: then it stays so. A blocked signal would
        // arrive all the same.
        if !is_ignored(Signal::SIGHUP) {
            read.add(Signal::SIGHUP);
        }
        let reap = getpid() == Pid::from_raw(1);
        if reap {
            read.add(Signal::SIGCHLD);
        }
        let mut blocked = read;
        blocked.add(Signal::SIGPIPE);
        blocked.add(Signal::SIGXFSZ);
        blocked.thread_block()?;
        let fd = SignalFd::with_flags(&read, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, reap })
    }

    /// Whether a signal has asked for a shutdown; for the time before [`watch`](Self::watch).
    pub fn asked(&self) -> bool {
        self.fd.read_signal().ok().flatten().is_some_and(|info| self.meaning(&info).is_some())
    }

    /// What a signal means: a request for a shutdown, or nothing more.
    fn meaning(&self, info: &siginfo) -> Option<Signal> {
        match Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()? {
            Signal::SIGCHLD => {
                if self.reap {
                    reap();
                }
                None
            }
            signal => Some(signal),
        }
    }

    /// Calls `asked` for each signal that asks for a shutdown, until the watch is dropped.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn watch(self, asked: impl Fn(Signal) + Send + 'static) -> io::Result<SignalWatch> {
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let run = move || {
            if let Err(error) = self.run(&asked, &stopped) {
                log::error!("signals are no longer heard: {error}");
            }
        };
        let thread = thread::start("signals", run)?;
        Ok(SignalWatch { stop: Some(stop), thread: Some(thread) })
    }

    fn run(&self, asked: &impl Fn(Signal), stopped: &OwnedFd) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [stop, _] = fds;
            if stop.any() != Some(false) {
                return Ok(());
            }
            while let Some(info) = self.fd.read_signal()? {
                if let Some(signal) = self.meaning(&info) {
                    asked(signal);
                }
            }
        }
    }
}

/// Ends the watch when dropped.
pub struct SignalWatch {
    stop: Option<OwnedFd>,
    thread: Option<Thread<()>>,
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported.
            let _ = thread.join();
        }
    }
}

/// Collects every child that has ended.
fn reap() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Whether this process was started with `signal` ignored.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as u32 - 1) & 1 == 1
}

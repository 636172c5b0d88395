//! The serial console's way in: standard input, in raw mode where it is a terminal.
//!
//! On a terminal every key is the guest's, Ctrl-C too, but for the escape Ctrl-]: followed by `q`
//! it presses the power button (a second time: stops at once), by Ctrl-] it sends one Ctrl-], by
//! `?` it tells this. Runs the thread `console-in`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use devices::thread::{self, Thread};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, LocalFlags, OutputFlags, SetArg, Termios};
use nix::unistd::{getpgrp, pipe2, tcgetpgrp};

/// What may wait for a guest that does not read.
const PENDING: usize = 4 << 10;
/// How soon a full UART is tried again.
const RETRY_MS: u16 = 5;
/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// What is said when the terminal is taken.
pub const GREETING: &str =
    "serial console of the guest; Ctrl-] then q presses the power button, Ctrl-] then ? helps";

/// What is said when help is wished for.
pub const HELP: &str = "Ctrl-] then q: power button, a second time stops at once; Ctrl-] twice: \
                        one Ctrl-] for the guest; everything else is the guest's";

/// What a terminal was like before raw mode. One for a process: there is one terminal.
static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// The terminal is raw while this lives.
pub struct RawMode(());

impl RawMode {
    /// Puts the terminal `fd` in raw mode. `None`: it is not a terminal, or another process has it
    /// in the foreground, and to touch it would stop this one.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn enter(fd: impl AsFd) -> io::Result<Option<Self>> {
        let Ok(before) = termios::tcgetattr(&fd) else { return Ok(None) };
        if tcgetpgrp(&fd).is_ok_and(|group| group != getpgrp()) {
            return Ok(None);
        }
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // Output keeps its line ends: Berth's own log may be on the same terminal.
        raw.output_flags.insert(OutputFlags::OPOST | OutputFlags::ONLCR);
        debug_assert!(!raw.local_flags.contains(LocalFlags::ISIG));
        let copy = fd.as_fd().try_clone_to_owned()?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some((copy, before));
        termios::tcsetattr(&fd, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was found, if it was taken. Also for the panic hook.
pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((fd, before)) = saved {
        // Nothing is left to do about a terminal that has gone away.
        let _ = termios::tcsetattr(&fd, SetArg::TCSANOW, &before);
    }
}

/// What the user asks of Berth, not of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Leave: as SIGTERM.
    Quit,
    /// Tell the keys.
    Help,
}

/// Finds the escape in what is typed.
#[derive(Debug, Default)]
struct Escape {
    pending: bool,
}

impl Escape {
    /// Takes one byte: what goes to the guest, and what is wished.
    fn feed(&mut self, byte: u8) -> (Option<u8>, Option<Wish>) {
        if !std::mem::take(&mut self.pending) {
            if byte == ESCAPE {
                self.pending = true;
                return (None, None);
            }
            return (Some(byte), None);
        }
        match byte {
            ESCAPE => (Some(ESCAPE), None),
            b'q' | b'Q' => (None, Some(Wish::Quit)),
            b'?' | b'h' => (None, Some(Wish::Help)),
            // Not ours: the guest gets the key, and the escape is forgotten.
            _ => (Some(byte), None),
        }
    }
}

/// The thread that carries input to the guest. Ends when dropped.
pub struct Input {
    /// The thread ends when this end of its pipe is closed.
    stop: Option<OwnedFd>,
    thread: Option<Thread<()>>,
}

/// Takes bytes for the guest; answers how many.
pub type Sink = Box<dyn Fn(&[u8]) -> usize + Send>;

/// Where input goes, and what the thread may do besides.
pub struct InputTo {
    /// Hands bytes to the UART; answers how many it took.
    pub guest: Sink,
    /// Called with what the user wishes of Berth.
    pub wish: Box<dyn Fn(Wish) + Send>,
    /// Whether the escape is looked for: on a terminal, not in a pipe.
    pub escape: bool,
}

impl Input {
    /// Starts to carry from `from` to the guest, until the end of `from`.
    ///
    /// # Errors
    /// No thread or event could be made.
    pub fn start(from: File, to: InputTo) -> io::Result<Self> {
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let run = move || {
            if let Err(error) = carry(from, &to, &stopped) {
                log::warn!("no more console input: {error}");
            }
        };
        let thread = thread::start("console-in", run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported.
            let _ = thread.join();
        }
    }
}

fn carry(mut from: File, to: &InputTo, stop: &OwnedFd) -> io::Result<()> {
    let mut waiting: VecDeque<u8> = VecDeque::new();
    let mut escape = Escape::default();
    let mut buffer = [0; 512];
    let mut open = true;
    while open || !waiting.is_empty() {
        let timeout: PollTimeout =
            if waiting.is_empty() { PollTimeout::NONE } else { RETRY_MS.into() };
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        if open {
            fds.push(PollFd::new(from.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.any() != Some(false));
        if ready(fds.first()) {
            return Ok(());
        }
        let readable = ready(fds.get(1));
        if readable {
            let count = match from.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if retry(&error) => continue,
                // The end of a terminal whose other side has closed.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
                Err(error) => return Err(error),
            };
            open = count > 0;
            for byte in buffer.iter().take(count) {
                let (byte, wish) = if to.escape { escape.feed(*byte) } else { (Some(*byte), None) };
                // A guest that does not read loses what is typed, not Berth its memory.
                waiting.extend(byte.filter(|_| waiting.len() < PENDING));
                if let Some(wish) = wish {
                    (to.wish)(wish);
                }
            }
        }
        let taken = (to.guest)(waiting.make_contiguous());
        waiting.drain(..taken.min(waiting.len()));
    }
    Ok(())
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(20);

    fn through(escape: &mut Escape, typed: &[u8]) -> (Vec<u8>, Vec<Wish>) {
        let (mut bytes, mut wishes) = (vec![], vec![]);
        for byte in typed {
            let (byte, wish) = escape.feed(*byte);
            bytes.extend(byte);
            wishes.extend(wish);
        }
        (bytes, wishes)
    }

    #[test]
    fn the_escape() {
        for (typed, bytes, wishes) in [
            (&b"ls\r\x03"[..], &b"ls\r\x03"[..], &[][..]),
            (b"\x1dq", b"", &[Wish::Quit]),
            (b"a\x1d\x1db", b"a\x1db", &[]),
            (b"\x1d?\x1dQq", b"q", &[Wish::Help, Wish::Quit]),
            (b"\x1dx", b"x", &[]),
            (b"\x1d", b"", &[]),
        ] {
            let got = through(&mut Escape::default(), typed);
            assert_eq!(got, (bytes.to_vec(), wishes.to_vec()), "{typed:?}");
        }
        let mut split = Escape::default();
        assert_eq!(through(&mut split, b"\x1d").1, []);
        assert_eq!(through(&mut split, b"q").1, [Wish::Quit]);
    }

    /// An input whose guest takes `at_once` bytes of each offer.
    fn input(escape: bool, at_once: usize) -> (File, Input, Receiver<Vec<u8>>, Receiver<Wish>) {
        let (read, write) = std::io::pipe().unwrap();
        let (bytes_in, bytes) = channel();
        let (wish_in, wishes) = channel();
        let to = InputTo {
            guest: Box::new(move |offer| {
                let taken = offer.len().min(at_once);
                if taken > 0 {
                    let _ = bytes_in.send(offer[..taken].to_vec());
                }
                taken
            }),
            wish: Box::new(move |wish| wish_in.send(wish).unwrap_or_default()),
            escape,
        };
        let read = OwnedFd::from(read).into();
        (OwnedFd::from(write).into(), Input::start(read, to).unwrap(), bytes, wishes)
    }

    fn collect(bytes: &Receiver<Vec<u8>>, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(bytes.recv_timeout(LONG).unwrap());
        }
        all
    }

    #[test]
    fn a_small_uart_gets_everything_in_order() {
        let (mut typed, input, bytes, _wishes) = input(false, 3);
        typed.write_all(b"hello \x1dq guest").unwrap();
        // The end of input must not lose what is still waiting.
        drop(typed);
        assert_eq!(collect(&bytes, 14), b"hello \x1dq guest");
        drop(input);
    }

    #[test]
    fn a_guest_that_reads_nothing_cannot_take_the_escape_away() {
        let (mut typed, input, _bytes, wishes) = input(true, 0);
        typed.write_all(&vec![b'x'; 5 * PENDING]).unwrap();
        typed.write_all(b"\x1dq").unwrap();
        assert_eq!(wishes.recv_timeout(LONG), Ok(Wish::Quit));
        // Ends at once, although bytes wait and the pipe is open.
        drop(input);
    }

    #[test]
    fn a_terminal_is_given_back_as_it_was() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let flags = || {
            let now = termios::tcgetattr(&pty.slave).unwrap();
            (now.input_flags, now.output_flags, now.local_flags)
        };
        let before = flags();
        let raw = RawMode::enter(&pty.slave).unwrap().expect("a pty is a terminal");
        assert!(!flags().2.intersects(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG));
        assert!(flags().1.contains(OutputFlags::OPOST));
        drop(raw);
        assert_eq!(flags(), before);

        // A panic between the two gives it back as well.
        let panicked = std::panic::catch_unwind(|| {
            let _raw = RawMode::enter(&pty.slave).unwrap();
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        assert_eq!(flags(), before);

        let (read, _write) = std::io::pipe().unwrap();
        let read = File::from(OwnedFd::from(read));
        assert!(RawMode::enter(&read).unwrap().is_none(), "a pipe is no terminal");
    }
}

//! Who watches, and the one painter they share.
//!
//! A viewer has a [`Seat`]. When it could show something it asks; the thread `screen` then paints,
//! adds what has changed to the damage of every seat, and wakes those that have asked. So at most
//! one picture is made for all of them, at most thirty times a second, and less often while nothing
//! changes. With nobody asking the thread sleeps, and with nobody there the screens are told so.
//!
//! A machine has up to two screens: its display, and its serial console as a terminal. A viewer looks
//! at one of them, or leaves the choice to us: the display, unless no driver has set it up and it has
//! not shown a single pixel yet, while the console has printed something.
//!
//! Lock order: a channel's picture, then a seat's state. The list of seats is never held with either.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use devices::display::{Picture, Screen};
use devices::event::{Event, wait_readable};
use devices::input::{InputSink, Leds};
use devices::worker::Worker;

use super::changes::Changes;
use super::painter::Painter;

/// The serial console as a screen that can be typed into.
pub trait Terminal: Screen {
    /// Whether the guest has printed anything.
    fn has_printed(&self) -> bool;

    /// A key goes down: its X11 keysym, and whether Control and Alt are held.
    fn press(&self, keysym: u32, control: bool, alt: bool);
}

/// What a machine has to show, and where keys and pointer go.
#[derive(Clone, Default)]
pub struct Desk {
    /// What the machine is called.
    pub name: String,
    /// Its display.
    pub display: Option<Arc<dyn Screen>>,
    /// Its serial console.
    pub terminal: Option<Arc<dyn Terminal>>,
    /// Its keyboard and pointer.
    pub input: Option<Arc<dyn InputSink>>,
}

/// One of the two screens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The display.
    #[default]
    Display,
    /// The serial console.
    Terminal,
}

/// What a viewer wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// Whichever has something to show.
    #[default]
    Auto,
    /// This one.
    At(Which),
}

/// A viewer's place.
pub(super) struct Seat {
    id: u64,
    /// Wakes the viewer: there is something for it, or it has to go.
    wake: Event,
    asks: AtomicBool,
    /// It wants an answer even if nothing has changed.
    asks_all: AtomicBool,
    displaced: AtomicBool,
    state: Mutex<SeatState>,
}

#[derive(Default)]
pub(super) struct SeatState {
    pub(super) look: Look,
    pub(super) shown: Which,
    /// Its client can copy what it shows.
    pub(super) copies: bool,
    pub(super) changes: Changes,
}

impl Seat {
    pub(super) fn state(&self) -> MutexGuard<'_, SeatState> {
        // Sound between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn asks(&self) -> bool {
        self.asks.load(Ordering::Acquire)
    }

    /// Wakes the viewer if it has asked and there is something for it.
    pub(super) fn answer(&self, news: bool) {
        let damaged = || !self.state().changes.is_empty();
        if self.asks() && (news || self.asks_all.load(Ordering::Acquire) || damaged()) {
            self.asks_all.store(false, Ordering::Release);
            self.asks.store(false, Ordering::Release);
            self.wake.signal();
        }
    }
}

/// A screen, and its picture as it was last painted.
pub(super) struct Channel {
    pub(super) screen: Option<Arc<dyn Screen>>,
    pub(super) picture: RwLock<Picture>,
}

/// What viewers and painter share.
pub(super) struct Shared {
    pub(super) desk: Desk,
    channels: [Channel; 2],
    seats: Mutex<Vec<Arc<Seat>>>,
    next: AtomicU64,
    /// Wakes the painter.
    kick: Event,
    /// Something was typed: the picture will change soon.
    pub(super) poked: AtomicBool,
    pub(super) leds: AtomicU8,
    /// Bytes that wait in the viewers' buffers.
    buffered: AtomicUsize,
}

impl Shared {
    fn new(desk: Desk) -> io::Result<Shared> {
        let channel = |screen| Channel { screen, picture: RwLock::default() };
        let terminal = desk.terminal.clone().map(|terminal| terminal as Arc<dyn Screen>);
        Ok(Shared {
            channels: [channel(desk.display.clone()), channel(terminal)],
            desk,
            seats: Mutex::default(),
            next: AtomicU64::new(1),
            kick: Event::new()?,
            poked: AtomicBool::new(false),
            leds: AtomicU8::new(0),
            buffered: AtomicUsize::new(0),
        })
    }

    pub(super) fn channel(&self, which: Which) -> &Channel {
        let [display, terminal] = &self.channels;
        match which {
            Which::Display => display,
            Which::Terminal => terminal,
        }
    }

    pub(super) fn seats(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine's screens, for any number of viewers. Dropping it ends the painter.
pub struct Hub {
    shared: Arc<Shared>,
    _painter: Worker<()>,
}

impl Hub {
    /// Starts the painter.
    ///
    /// # Errors
    /// There is no descriptor or thread left.
    pub fn start(desk: Desk) -> io::Result<Hub> {
        let shared = Arc::new(Shared::new(desk)?);
        let painter = Painter::new(Arc::clone(&shared));
        let run = move |stop: &Event| paint(painter, stop);
        Ok(Hub { shared, _painter: Worker::spawn("screen", || (), run)? })
    }

    /// Takes a seat.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn join(&self) -> io::Result<Viewer> {
        Viewer::of(&self.shared)
    }

    /// How many seats are taken.
    pub fn viewers(&self) -> usize {
        self.shared.seats().len()
    }

    /// What a viewer would see now, painted within `patience`.
    ///
    /// # Errors
    /// There is no descriptor left, or the painter did not answer.
    pub fn picture(&self, patience: Duration) -> io::Result<Picture> {
        let viewer = self.join()?;
        viewer.ask(true);
        let timeout = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        match wait_readable([Some(viewer.wake().as_fd())], Some(timeout))? {
            [true] => Ok(viewer.look_on(|_, picture, _| picture.clone())),
            [false] => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// A seat that is taken; leaves it when dropped.
pub struct Viewer {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    buffered: usize,
}

impl Viewer {
    fn of(shared: &Arc<Shared>) -> io::Result<Viewer> {
        let seat = Arc::new(Seat {
            id: shared.next.fetch_add(1, Ordering::Relaxed),
            wake: Event::new()?,
            asks: AtomicBool::new(false),
            asks_all: AtomicBool::new(false),
            displaced: AtomicBool::new(false),
            state: Mutex::default(),
        });
        shared.seats().push(Arc::clone(&seat));
        Ok(Viewer { shared: Arc::clone(shared), seat, buffered: 0 })
    }

    /// Signalled when what was asked for is there, or the viewer has to go.
    pub fn wake(&self) -> &Event {
        &self.seat.wake
    }

    /// Asks to be woken when something has changed; with `all`, after the next picture in any case.
    pub fn ask(&self, all: bool) {
        if all {
            self.seat.asks_all.store(true, Ordering::Release);
        }
        self.seat.asks.store(true, Ordering::Release);
        self.shared.kick.signal();
    }

    /// Shows the picture this viewer looks at, with what it has not been told of, which fits the picture.
    pub fn look_on<R>(&self, show: impl FnOnce(Which, &Picture, &mut Changes) -> R) -> R {
        let mut which = self.seat.state().shown;
        loop {
            let channel = self.shared.channel(which);
            let picture = channel.picture.read().unwrap_or_else(PoisonError::into_inner);
            let mut state = self.seat.state();
            if state.shown != which {
                // Switched meanwhile, by the painter.
                which = state.shown;
                continue;
            }
            state.changes.fit(&picture);
            return show(which, &picture, &mut state.changes);
        }
    }

    /// Looks elsewhere from now on.
    pub fn look_at(&self, look: Look) {
        self.seat.state().look = look;
        self.shared.poked.store(true, Ordering::Release);
        self.ask(true);
    }

    /// Says whether its client can copy what it shows (CopyRect).
    pub fn copies(&self, copies: bool) {
        let mut state = self.seat.state();
        state.copies = copies;
        if !copies {
            state.changes.forget_scroll();
        }
    }

    /// What the machine has.
    pub fn desk(&self) -> &Desk {
        &self.shared.desk
    }

    /// Says that something was typed or moved, so that its effect is seen soon.
    pub fn poke(&self) {
        self.shared.poked.store(true, Ordering::Release);
        self.shared.kick.signal();
    }

    /// The keyboard's lights.
    pub fn leds(&self) -> Leds {
        Leds::from_bits_truncate(self.shared.leds.load(Ordering::Acquire))
    }

    /// Sends everybody else away.
    pub fn displace_others(&self) {
        let seats = self.shared.seats().clone();
        for seat in seats.iter().filter(|seat| seat.id != self.seat.id) {
            seat.displaced.store(true, Ordering::Release);
            seat.wake.signal();
        }
    }

    /// Whether somebody has sent this viewer away.
    pub fn is_displaced(&self) -> bool {
        self.seat.displaced.load(Ordering::Acquire)
    }

    /// Tells how many bytes wait in this viewer's buffer, and answers how many wait for all of them.
    pub fn buffered(&mut self, bytes: usize) -> usize {
        let all = &self.shared.buffered;
        all.fetch_add(bytes, Ordering::AcqRel);
        let before = all.fetch_sub(self.buffered, Ordering::AcqRel);
        let now = before.saturating_sub(self.buffered);
        self.buffered = bytes;
        now
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.shared.seats().retain(|seat| seat.id != self.seat.id);
        self.shared.buffered.fetch_sub(self.buffered, Ordering::AcqRel);
        // So that the screens hear of it when nobody is left.
        self.shared.kick.signal();
    }
}

/// The thread `screen`: paints while somebody asks, sleeps while nobody does.
fn paint(mut painter: Painter, stop: &Event) {
    let kick = painter.shared().kick.clone();
    let mut due = Instant::now();
    loop {
        let now = Instant::now();
        let wanted = painter.is_wanted();
        if wanted && due <= now {
            due = now.checked_add(painter.round(now)).unwrap_or(now);
            continue;
        }
        let left = due.saturating_duration_since(now).as_millis().saturating_add(1);
        let timeout = wanted.then(|| u16::try_from(left).unwrap_or(u16::MAX));
        match wait_readable([Some(stop.as_fd()), Some(kick.as_fd())], timeout) {
            Ok([false, kicked]) => {
                if kicked {
                    kick.take();
                    due = due.min(painter.hurry());
                }
            }
            Ok([true, _]) => return painter.end(),
            Err(error) => {
                log::error!("the screen is not painted any more: poll fails ({error})");
                return painter.end();
            }
        }
    }
}

#[cfg(test)]
mod day;

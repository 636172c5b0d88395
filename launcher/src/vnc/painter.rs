//! What the thread `screen` does: pictures, and whose damage they are. Time is passed in.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use devices::display::{Damage, Picture, Rect};

use super::changes::{Round, all_of, fit};
use super::hub::{Look, Seat, Shared, Which};

/// From one picture to the next while something happens: at most 30 a second.
const LIVELY: Duration = Duration::from_millis(34);
/// And while nothing does, though somebody would see it.
const QUIET: Duration = Duration::from_millis(100);
/// And while nothing has for long: whoever types is still answered at once, and a screen that nobody
/// touches need not be looked at more often than its cursor blinks.
const DOZING: Duration = Duration::from_millis(500);
/// How long after the last change, or the last key, something still happens.
const LINGER: Duration = Duration::from_secs(1);
/// How long after it nothing has for long.
const LONG: Duration = Duration::from_secs(10);

/// Paints for a hub.
pub(super) struct Painter {
    shared: Arc<Shared>,
    /// Which of the screens know that they are watched: the display, the terminal.
    watched: [bool; 2],
    /// The screens' pictures as they were, while somebody who can copy looks on.
    before: [Option<Picture>; 2],
    /// The display has shown a pixel that is not black.
    has_shown: bool,
    last_round: Option<Instant>,
    last_change: Option<Instant>,
}

impl Painter {
    pub(super) fn new(shared: Arc<Shared>) -> Painter {
        Painter {
            shared,
            watched: [false; 2],
            before: [None, None],
            has_shown: false,
            last_round: None,
            last_change: None,
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether anybody waits for a picture, or the screens have to hear that nobody is there.
    pub(super) fn is_wanted(&self) -> bool {
        let seats = self.shared.seats();
        match seats.is_empty() {
            true => self.watched.contains(&true),
            false => seats.iter().any(|seat| seat.asks()),
        }
    }

    /// When the next picture may be made, should something be about to change.
    pub(super) fn hurry(&mut self) -> Instant {
        let now = Instant::now();
        if self.shared.poked.swap(false, Ordering::AcqRel) {
            self.last_change = Some(now);
        }
        let pace = self.pace(now);
        self.last_round.and_then(|last| last.checked_add(pace)).unwrap_or(now)
    }

    /// Paints what is looked at, and answers how long it is until the next time.
    pub(super) fn round(&mut self, now: Instant) -> Duration {
        self.last_round = Some(now);
        let seats = self.shared.seats().clone();
        let looks: Vec<Look> = seats.iter().map(|seat| seat.state().look).collect();
        let any = |look: Look| looks.contains(&look);
        self.watch(Which::Display, any(Look::Auto) || any(Look::At(Which::Display)));
        let mut changed = self.paint(Which::Display, &seats);
        let choice = self.choose();
        let terminal = any(Look::Auto) && choice == Which::Terminal;
        self.watch(Which::Terminal, terminal || any(Look::At(Which::Terminal)));
        for (seat, look) in seats.iter().zip(looks) {
            let which = match look {
                Look::Auto => choice,
                Look::At(which) => which,
            };
            let mut state = seat.state();
            if state.shown != which {
                state.changes.start_over();
                state.shown = which;
            }
        }
        changed |= self.paint(Which::Terminal, &seats);
        let news = self.look_at_leds();
        for seat in &seats {
            seat.answer(news);
        }
        if changed || news {
            self.last_change = Some(now);
        }
        self.pace(now)
    }

    /// Nobody watches any more.
    pub(super) fn end(mut self) {
        self.watch(Which::Display, false);
        self.watch(Which::Terminal, false);
    }

    /// From one picture to the next.
    fn pace(&self, now: Instant) -> Duration {
        match self.last_change.map(|last| now.saturating_duration_since(last)) {
            Some(since) if since < LINGER => LIVELY,
            Some(since) if since >= LONG => DOZING,
            _ => QUIET,
        }
    }

    /// Tells a screen whether somebody watches, if that has changed.
    fn watch(&mut self, which: Which, watched: bool) {
        let ([display, terminal], [of_display, of_terminal]) =
            (&mut self.watched, &mut self.before);
        let (known, before) = match which {
            Which::Display => (display, of_display),
            Which::Terminal => (terminal, of_terminal),
        };
        if !watched {
            *before = None;
        }
        if *known != watched {
            *known = watched;
            if let Some(screen) = &self.shared.channel(which).screen {
                screen.watch(watched);
            }
        }
    }

    /// Paints a screen if it is watched, and answers whether anything has changed.
    fn paint(&mut self, which: Which, seats: &[Arc<Seat>]) -> bool {
        let channel = self.shared.channel(which);
        let ([display, terminal], [of_display, of_terminal]) = (self.watched, &mut self.before);
        let (watched, before) = match which {
            Which::Display => (display, of_display),
            Which::Terminal => (terminal, of_terminal),
        };
        let (true, Some(screen)) = (watched, &channel.screen) else { return false };
        let mut picture = channel.picture.write().unwrap_or_else(PoisonError::into_inner);
        let mut damage = Damage::new(picture.width(), picture.height());
        screen.paint(&mut picture, &mut damage);
        fit(&mut damage, &picture);
        if damage.is_empty() {
            return false;
        }
        let looks = |seat: &&Arc<Seat>| seat.state().shown == which;
        let rects = damage.clone().take(&all_of(&picture));
        let round = Round::new(damage, &rects, before.as_ref(), &picture);
        for seat in seats.iter().filter(looks) {
            let mut state = seat.state();
            let copies = state.copies;
            state.changes.add(&round, copies, &picture);
        }
        let copies = seats.iter().filter(looks).any(|seat| seat.state().copies);
        remember(before, copies.then_some(&picture), &rects);
        if which == Which::Display && !self.has_shown {
            self.has_shown = !is_black(&picture);
        }
        true
    }

    /// Which screen has something to show.
    fn choose(&self) -> Which {
        let desk = &self.shared.desk;
        let printed = desk.terminal.as_ref().is_some_and(|terminal| terminal.has_printed());
        match (&desk.display, &desk.terminal) {
            (None, Some(_)) => Which::Terminal,
            (Some(display), Some(_)) if !self.has_shown && !display.is_driven() && printed => {
                Which::Terminal
            }
            _ => Which::Display,
        }
    }

    /// Whether the guest has switched lights.
    fn look_at_leds(&self) -> bool {
        let Some(input) = &self.shared.desk.input else { return false };
        let leds = input.leds().bits();
        self.shared.leds.swap(leds, Ordering::AcqRel) != leds
    }
}

/// Brings what is kept of a picture up to date, which differs in `rects`; `None`: nobody needs it.
fn remember(kept: &mut Option<Picture>, picture: Option<&Picture>, rects: &[Rect]) {
    let Some(picture) = picture else { return *kept = None };
    let Some(kept) = kept.as_mut().filter(|kept| all_of(kept) == all_of(picture)) else {
        return *kept = Some(picture.clone());
    };
    for rect in rects {
        let columns = rect.x as usize..(rect.x + rect.width) as usize;
        for y in rect.y..rect.y + rect.height {
            let new = picture.row(y).get(columns.clone());
            if let (Some(old), Some(new)) = (kept.row_mut(y).get_mut(columns.clone()), new) {
                old.copy_from_slice(new);
            }
        }
    }
}

fn is_black(picture: &Picture) -> bool {
    (0..picture.height()).all(|y| picture.row(y).iter().all(|pixel| *pixel == 0))
}

//! The terminal on the guest's serial line: shows what the console remembers, sends what is typed.
//!
//! It reads when somebody looks, and not before: what a guest prints costs nothing while nobody does.
//! What was printed longer ago than the console remembers is not shown. Questions that a guest asks
//! its terminal are not answered: they may be read long after they were asked, and another terminal
//! may be on the line. Runs on the thread that paints, and on the viewers' threads.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use devices::display::{Damage, Picture, Screen};

use super::keys::{self, Held};
use super::{COLUMNS, ROWS, SerialScreen};
use crate::history::{Follower, HISTORY, History};
use crate::machine::Control;
use crate::vnc::hub::Terminal;

/// Bytes taken at a time.
const PIECE: usize = 4096;
/// Pieces taken at one look: more than is remembered, so that only a guest that prints faster than
/// this reads is left behind, until the next look.
const PIECES: usize = 2 * HISTORY / PIECE;

/// The terminal, and the line it is on.
pub struct SerialLine {
    screen: SerialScreen,
    follower: Mutex<Follower>,
    control: Arc<dyn Control>,
}

impl SerialLine {
    /// A terminal that shows what `history` remembers and types into `control`'s console.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(history: &Arc<History>, control: Arc<dyn Control>) -> io::Result<Self> {
        let follower = Mutex::new(history.follow()?);
        Ok(Self { screen: SerialScreen::new(COLUMNS, ROWS), follower, control })
    }

    /// Reads what has come since the last look.
    fn catch_up(&self) {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(PIECE);
        for _ in 0..PIECES {
            if !follower.read(&mut bytes, PIECE) {
                break;
            }
            self.screen.write(&bytes);
            bytes.clear();
        }
    }
}

impl Screen for SerialLine {
    fn watch(&self, watched: bool) {
        self.screen.watch(watched);
    }

    fn paint(&self, picture: &mut Picture, damage: &mut Damage) {
        self.catch_up();
        self.screen.paint(picture, damage);
    }
}

impl Terminal for SerialLine {
    fn has_printed(&self) -> bool {
        self.catch_up();
        self.screen.has_printed()
    }

    fn press(&self, keysym: u32, control: bool, alt: bool) {
        let mut held = Held::empty();
        held.set(Held::CONTROL, control);
        held.set(Held::ALT, alt);
        if let Some(bytes) = keys::bytes(keysym, held, self.screen.application_cursor_keys()) {
            // What the guest does not take is lost, as on any line without flow control.
            self.control.console_input(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm::Refused;

    #[derive(Default)]
    struct Line(Mutex<Vec<u8>>);

    impl Control for Line {
        fn power_button(&self) -> Result<(), Refused> {
            Ok(())
        }

        fn reset(&self) -> Result<(), Refused> {
            Ok(())
        }

        fn stop(&self) -> Result<(), Refused> {
            Ok(())
        }

        fn console_input(&self, bytes: &[u8]) -> usize {
            self.0.lock().unwrap().extend(bytes);
            bytes.len()
        }

        fn paused(&self) -> Option<String> {
            None
        }

        fn disks(&self) -> Vec<crate::machine::DiskCounts> {
            Vec::new()
        }

        fn counts(&self) -> crate::machine::Counts {
            Default::default()
        }
    }

    #[test]
    fn what_was_printed_is_shown_at_the_next_look_and_what_is_typed_is_sent() {
        let (history, control) = (Arc::new(History::default()), Arc::new(Line::default()));
        let line = SerialLine::new(&history, control.clone()).unwrap();
        assert!(!line.has_printed());
        history.write(b"login: ");
        assert!(line.has_printed());
        let (mut picture, mut damage) = (Picture::default(), Damage::default());
        line.paint(&mut picture, &mut damage);
        assert_eq!((picture.width(), picture.height()), (640, 400));
        let before = picture.clone();
        history.write(b"me");
        line.paint(&mut picture, &mut damage);
        assert_ne!(before, picture);
        assert_eq!(line.screen.contents().lines().next(), Some("login: me"));
        line.press('c'.into(), true, false);
        line.press(0xff52, false, false);
        assert_eq!(*control.0.lock().unwrap(), b"\x03\x1b[A");
    }

    #[test]
    fn a_flood_is_read_as_far_as_it_is_remembered() {
        let history = Arc::new(History::default());
        let line = SerialLine::new(&history, Arc::new(Line::default())).unwrap();
        for _ in 0..3 * HISTORY / 16 {
            history.write(b"0123456789abcde\n");
        }
        history.write(b"end");
        assert!(line.has_printed());
        assert!(line.screen.contents().trim_end().ends_with("end"));
    }
}

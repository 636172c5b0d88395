//! The other side, for tests: a screen that is painted by hand, a keyboard that is remembered, and a
//! client that speaks RFB.

pub mod client;
pub mod process;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use devices::display::{Damage, Picture, Rect, Screen};
use devices::input::{InputSink, Key, Leds, Pointer};

use super::hub::{Desk, Terminal};

/// A screen that shows what it is told.
#[derive(Default)]
pub struct Board {
    picture: Mutex<Picture>,
    pub watched: AtomicBool,
    pub painted: AtomicUsize,
    pub printed: AtomicBool,
    pub typed: Mutex<Vec<(u32, bool, bool)>>,
}

impl Board {
    /// One of this size and colour.
    pub fn new(width: u32, height: u32, colour: u32) -> Arc<Board> {
        let board = Board::default();
        board.resize(width, height, colour);
        Arc::new(board)
    }

    /// Has another size and colour from now on.
    pub fn resize(&self, width: u32, height: u32, colour: u32) {
        let mut picture = Picture::new(width, height);
        (0..height).for_each(|y| picture.row_mut(y).fill(colour));
        *self.picture.lock().unwrap() = picture;
    }

    /// Fills a rectangle.
    pub fn fill(&self, area: Rect, colour: u32) {
        let mut picture = self.picture.lock().unwrap();
        for y in area.y..area.y + area.height {
            picture.row_mut(y)[area.x as usize..(area.x + area.width) as usize].fill(colour);
        }
    }

    /// Shows another picture, at once.
    pub fn show(&self, picture: Picture) {
        *self.picture.lock().unwrap() = picture;
    }

    /// What it shows.
    pub fn picture(&self) -> Picture {
        self.picture.lock().unwrap().clone()
    }
}

impl Screen for Board {
    fn watch(&self, watched: bool) {
        assert_ne!(self.watched.swap(watched, Ordering::SeqCst), watched, "told twice");
    }

    fn paint(&self, picture: &mut Picture, damage: &mut Damage) {
        assert!(self.watched.load(Ordering::SeqCst), "nobody watches");
        self.painted.fetch_add(1, Ordering::SeqCst);
        let now = self.picture.lock().unwrap();
        let (width, height) = (now.width(), now.height());
        if (picture.width(), picture.height()) != (width, height) {
            *damage = Damage::new(width, height);
            damage.add_all();
        } else {
            for y in 0..height {
                for (x, (old, new)) in picture.row(y).iter().zip(now.row(y)).enumerate() {
                    if old != new {
                        damage.add(&Rect { x: x as u32, y, width: 1, height: 1 });
                    }
                }
            }
        }
        picture.clone_from(&now);
    }
}

impl Terminal for Board {
    fn has_printed(&self) -> bool {
        self.printed.load(Ordering::SeqCst)
    }

    fn press(&self, keysym: u32, control: bool, alt: bool) {
        self.typed.lock().unwrap().push((keysym, control, alt));
    }
}

/// A keyboard and pointer that remember.
#[derive(Default)]
pub struct Recorder {
    keys: Mutex<Vec<i32>>,
    pub pointer: Mutex<Vec<Pointer>>,
    leds: AtomicU8,
}

impl Recorder {
    /// The keys so far, each as its number, released ones negative.
    pub fn take(&self) -> Vec<i32> {
        std::mem::take(&mut self.keys.lock().unwrap())
    }

    /// The same, and they stay.
    pub fn keys(&self) -> Vec<i32> {
        self.keys.lock().unwrap().clone()
    }

    pub fn set_leds(&self, leds: Leds) {
        self.leds.store(leds.bits(), Ordering::SeqCst);
    }
}

impl InputSink for Recorder {
    fn key(&self, key: Key, pressed: bool) {
        let number = i32::from(key.0);
        self.keys.lock().unwrap().push(if pressed { number } else { -number });
    }

    fn pointer(&self, pointer: Pointer) {
        self.pointer.lock().unwrap().push(pointer);
    }

    fn leds(&self) -> Leds {
        Leds::from_bits_truncate(self.leds.load(Ordering::SeqCst))
    }
}

/// A machine called `pet` with this display.
pub fn desk(display: &Arc<Board>, input: &Arc<Recorder>) -> Desk {
    Desk {
        name: "pet".to_owned(),
        display: Some(display.clone()),
        terminal: None,
        input: Some(input.clone()),
    }
}

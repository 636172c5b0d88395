//! A guest whose screen is looked at: pictures of it, and what they show.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Berth, Glyphs, Picture, SmallGuest, VirtualMachine};

/// A running guest, and the way to its pictures.
pub struct Watched {
    /// Its files.
    pub directory: TempDir,
    /// It.
    pub machine: VirtualMachine,
}

impl Watched {
    /// Starts it.
    ///
    /// # Panics
    /// If something it is made of is missing.
    pub fn start(guest: SmallGuest) -> Self {
        let control = guest.directory().join("control");
        let (directory, machine) = guest.flag("--control", control.to_str().unwrap()).start();
        Self { directory, machine }
    }

    /// What `berth screenshot` takes.
    ///
    /// # Panics
    /// If it takes none.
    pub fn picture(&self) -> Picture {
        let file = self.directory.path().join("picture.png");
        let taken = Berth::command()
            .arg("screenshot")
            .flag("--control", self.directory.path().join("control"))
            .arg(&file)
            .outcome();
        assert_eq!(
            taken.exit_code,
            Some(0),
            "{}{}",
            taken.stderr,
            self.machine.describe("no picture")
        );
        self.keep("last");
        Picture::from_png(&fs::read(&file).expect("a picture"))
    }

    /// Keeps the last picture for people to look at, where `BERTH_TEST_PICTURES` says.
    pub fn keep(&self, name: &str) {
        if let Some(to) = std::env::var_os("BERTH_TEST_PICTURES") {
            let test = std::thread::current().name().unwrap_or("main").to_owned();
            let to = Path::new(&to).join(format!("{test}-{name}.png"));
            let _ = fs::copy(self.directory.path().join("picture.png"), to);
        }
    }

    /// Waits for the alphabet, and learns the characters.
    ///
    /// # Panics
    /// If it is not shown in time.
    pub fn learn(&self) -> Glyphs {
        let mut glyphs = None;
        self.until("every character", |picture| {
            glyphs = Glyphs::learn(picture);
            glyphs.is_some()
        });
        glyphs.expect("until it is some")
    }

    /// Waits until a line on the screen is `text`.
    ///
    /// # Panics
    /// If none ever is.
    pub fn shows(&self, glyphs: &Glyphs, text: &str) {
        self.until(&format!("the line {text:?}"), |picture| {
            picture.text(glyphs).iter().any(|line| line == text)
        });
    }

    /// Waits for a picture of which something is true.
    ///
    /// # Panics
    /// If it never is.
    pub fn until(&self, what: &str, mut is: impl FnMut(&Picture) -> bool) -> Picture {
        let start = Instant::now();
        loop {
            let picture = self.picture();
            if is(&picture) {
                return picture;
            }
            let in_time = start.elapsed() < self.machine.patience();
            assert!(in_time, "{}", self.machine.describe(&format!("never: {what}")));
            sleep(Duration::from_millis(500));
        }
    }
}

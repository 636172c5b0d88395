//! A guest whose screen is looked at: pictures of it, and what they show.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{ALPHABET, Berth, Glyphs, Picture, SmallGuest, VirtualMachine};

const PATIENCE: Duration = Duration::from_secs(300);

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
        keep(&file);
        Picture::from_png(&fs::read(&file).expect("a picture"))
    }

    /// Learns the characters that are shown from `row` on.
    ///
    /// # Panics
    /// If they are not shown in time.
    pub fn learn(&self, row: usize) -> Glyphs {
        let start = Instant::now();
        loop {
            let glyphs = Glyphs::learn(&self.picture(), row);
            // Whatever the font: no two characters look the same.
            if glyphs.len() == ALPHABET.concat().len() {
                return glyphs;
            }
            let found = glyphs.len();
            assert!(
                start.elapsed() < PATIENCE,
                "{}",
                self.machine.describe(&format!("{found} characters"))
            );
            sleep(Duration::from_millis(500));
        }
    }

    /// Waits until a line on the screen is `text`.
    ///
    /// # Panics
    /// If none ever is.
    pub fn shows(&self, glyphs: &Glyphs, text: &str) {
        let start = Instant::now();
        loop {
            let lines = self.picture().text(glyphs);
            if lines.iter().any(|line| line == text) {
                return;
            }
            let said = || format!("{text:?} is not on the screen:\n{}", lines.join("\n"));
            assert!(start.elapsed() < PATIENCE, "{}", self.machine.describe(&said()));
            sleep(Duration::from_millis(500));
        }
    }

    /// Waits for a picture of which something is true.
    ///
    /// # Panics
    /// If it never is.
    pub fn until(&self, what: &str, is: impl Fn(&Picture) -> bool) -> Picture {
        let start = Instant::now();
        loop {
            let picture = self.picture();
            if is(&picture) {
                return picture;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{}",
                self.machine.describe(&format!("never: {what}"))
            );
            sleep(Duration::from_millis(500));
        }
    }
}

/// Keeps a picture for people to look at, where `BERTH_TEST_PICTURES` says.
fn keep(file: &Path) {
    if let Some(to) = std::env::var_os("BERTH_TEST_PICTURES") {
        let name = std::thread::current().name().unwrap_or("main").to_owned();
        let _ = fs::copy(file, Path::new(&to).join(format!("{name}.png")));
    }
}

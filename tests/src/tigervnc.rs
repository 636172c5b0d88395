//! TigerVNC's viewer, on an X server whose pixels are in a file, and whoever sits at its keyboard.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::virtual_machine::PATIENCE;
use crate::{Picture, scratch};

/// A viewer that shows a screen in the upper left corner of its own.
pub struct TigerVnc {
    directory: TempDir,
    display: String,
    // In the order in which they end.
    _viewer: Process,
    _server: Process,
}

/// A process that ends with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl TigerVnc {
    /// Comes in at `address` (`HOST::PORT`), with the keyboard to itself, which has this layout.
    ///
    /// # Panics
    /// If a program is missing, or the viewer opens no window.
    pub fn connect(address: &str, layout: &str) -> Self {
        let directory = scratch();
        let mut server = Command::new("Xvfb")
            // Without repetition: on a slow machine every key is held for long.
            .args(["-displayfd", "1", "-nolisten", "tcp", "-r"])
            .args(["-screen", "0", "1100x800x24", "-fbdir"])
            .arg(directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb is installed");
        let mut number = String::new();
        let output = server.stdout.take().expect("a pipe");
        let server = Process(server);
        BufReader::new(output).read_line(&mut number).expect("Xvfb says its number");
        let display = format!(":{}", number.trim());
        run(Command::new("setxkbmap").args(["-layout", layout]).env("DISPLAY", &display));
        let viewer = Command::new("xtigervncviewer")
            .args(["-RemoteResize=0", "-ReconnectOnError=0", "-AlertOnFatalError=0"])
            .args(["-geometry=1024x768", address])
            .env("DISPLAY", &display)
            .env("HOME", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("TigerVNC's viewer is installed");
        let this = Self { directory, display, _viewer: Process(viewer), _server: server };
        // A window manager would give it the keyboard, and a frame, for which it leaves room.
        let window = ["search", "--sync", "--onlyvisible", "--name", "TigerVNC"];
        let place = ["windowmove", "0", "0", "windowfocus", "--sync"];
        this.xdotool(&[&window[..], &place].concat());
        this
    }

    /// Presses keys, and releases those that are negative: Linux's numbers (KEY_*).
    ///
    /// # Panics
    /// If the X server does not take them.
    pub fn strike(&self, keys: &[i32]) {
        // X counts from eight.
        let codes: Vec<String> = keys.iter().map(|key| (key.abs() + 8).to_string()).collect();
        let way = |key: &i32| if *key > 0 { "keydown" } else { "keyup" };
        let both = keys.iter().zip(&codes).flat_map(|(key, code)| [way(key), code.as_str()]);
        self.xdotool(&both.collect::<Vec<_>>());
    }

    /// Waits for something that it shows of a screen of this size.
    ///
    /// # Panics
    /// If it never does.
    pub fn until(&self, what: &str, is: impl Fn(&Picture) -> bool) {
        let start = Instant::now();
        loop {
            let file = self.directory.path().join("Xvfb_screen0");
            let bytes = fs::read(file).expect("the X server's pixels");
            if is(&Picture::from_xwd(&bytes)) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the viewer never shows {what}");
            sleep(Duration::from_millis(500));
        }
    }

    fn xdotool(&self, args: &[&str]) {
        let patience = PATIENCE.as_secs().to_string();
        let mut command = Command::new("timeout");
        run(command.args([&patience, "xdotool"]).args(args).env("DISPLAY", &self.display));
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("its package is installed");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{told}", output.status);
}

//! Viewers that nobody here has written, on a painted screen: TigerVNC under Xvfb, driven by xdotool,
//! and vncdotool. Skipped aloud where they are not installed; `BERTH_TEST_VNCDO` names vncdotool's
//! program where it is not on the PATH.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use devices::display::Rect;

use super::auth;
use super::client::{Door, Visit, serve};
use super::hub::Hub;
use super::testkit::process::{Process, program, soon};
use super::testkit::{Board, Recorder, desk};
use crate::server::gate::Gate;
use crate::server::guard::Guard;
use crate::server::passwords::{Passwords, Secret, Source};
use crate::server::tests::certificate;
use crate::server::tls::Certificate;
use crate::server::{Caller, Server, Services};

/// A colour that nothing else on a desktop has.
const COLOUR: u32 = 0x0012_ab56;

/// A server with a screen of 320 x 240 in that colour.
struct House {
    board: Arc<Board>,
    input: Arc<Recorder>,
    address: SocketAddr,
    hub: Arc<Hub>,
    guard: Arc<Guard>,
    _server: Server,
}

impl House {
    fn new(locked: bool, tls: Option<&(PathBuf, PathBuf)>) -> House {
        let (board, input) = (Board::new(320, 240, COLOUR), Arc::new(Recorder::default()));
        let given = |text: &str| Some(Source::Given(Secret::new(text.to_owned())));
        let passwords = match locked {
            true => Passwords { full: given("full"), view: given("view") },
            false => Passwords::default(),
        };
        let certificate = tls.map(|(cert, key)| Arc::new(Certificate::load(cert, key).unwrap()));
        let guard = Arc::new(Guard::new(passwords, Instant::now()));
        let door = Door { guard: Arc::clone(&guard), certificate: certificate.clone() };
        let hub = Arc::new(Hub::start(desk(&board, &input)).unwrap());
        let shown = Arc::clone(&hub);
        let rfb = Box::new(move |caller: Caller| {
            let Caller { stream, first, from, private, stop, ticket } = caller;
            serve(
                stream,
                first,
                Visit { from, private, access: None, stop, ticket },
                &shown,
                &door,
            );
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let services = Services { rfb, http: Box::new(drop), certificate };
        let server = Server::start(vec![listener], services, Gate::new(Instant::now())).unwrap();
        House { board, input, address, hub, guard, _server: server }
    }

    fn display(&self) -> String {
        format!("{}::{}", self.address.ip(), self.address.port())
    }
}

/// An X server without a screen to look at, whose pixels are in a file.
struct Desktop {
    dir: tempfile::TempDir,
    number: String,
    viewer: PathBuf,
    xdotool: PathBuf,
    setxkbmap: PathBuf,
    _server: Process,
}

impl Desktop {
    /// `None`, aloud, where it cannot be had.
    fn start() -> Option<Desktop> {
        let (xvfb, xdotool) = (program(&["Xvfb"]), program(&["xdotool"]));
        let (viewer, setxkbmap) = (program(&["xtigervncviewer"]), program(&["setxkbmap"]));
        let (Some(xvfb), Some(xdotool), Some(viewer), Some(setxkbmap)) =
            (xvfb, xdotool, viewer, setxkbmap)
        else {
            eprintln!("skipped: xvfb, xdotool, x11-xkb-utils or tigervnc-viewer is not installed");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut server = Command::new(xvfb)
            // Without repetition of keys, which here are held for as long as the machine is busy.
            .args(["-displayfd", "1", "-nolisten", "tcp", "-r"])
            .args(["-screen", "0", "800x600x24", "-fbdir"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let number = format!(":{}", number.trim());
        Some(Desktop { dir, number, viewer, xdotool, setxkbmap, _server: Process(server) })
    }

    /// Has a keyboard of this layout from now on.
    fn keyboard(&self, layout: &str) {
        let mut set = Command::new(&self.setxkbmap);
        let set = set.args(["-layout", layout]).env("DISPLAY", &self.number).status();
        assert!(set.unwrap().success());
    }

    fn view(&self, house: &House, args: &[&str]) -> Process {
        let viewer = Command::new(&self.viewer)
            .args(["-RemoteResize=0", "-ReconnectOnError=0", "-AlertOnFatalError=0"])
            .args(args)
            .arg(house.display())
            .env("DISPLAY", &self.number)
            .env("HOME", self.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Process(viewer.unwrap())
    }

    /// How many pixels have a colour. The file is X's window dump: the header's length first, then
    /// at 76 the number of colours of twelve bytes each, before the pixels (XWDFile.h).
    fn pixels(&self, colour: u32) -> usize {
        let bytes = fs::read(self.dir.path().join("Xvfb_screen0")).unwrap();
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let pixels = bytes[number(0) + number(76) * 12..].chunks_exact(4);
        let same = |p: &&[u8]| u32::from_le_bytes((*p).try_into().unwrap()) & 0xff_ffff == colour;
        pixels.filter(same).count()
    }

    fn xdotool(&self, args: &[&str]) -> String {
        let output =
            Command::new(&self.xdotool).args(args).env("DISPLAY", &self.number).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Gives the viewer's window the keyboard, which is a window manager's work.
    fn focus(&self) -> String {
        let mut window = String::new();
        soon("a window", || {
            let found = self.xdotool(&["search", "--onlyvisible", "--name", "TigerVNC"]);
            window = found.lines().next().unwrap_or_default().to_owned();
            !window.is_empty()
        });
        self.xdotool(&["windowfocus", "--sync", &window]);
        window
    }
}

/// A password as TigerVNC keeps it: enciphered with a key that everybody knows.
fn password_file(dir: &Path, password: &str) -> String {
    let path = dir.join(password);
    let mut padded = [0; 16];
    padded[..password.len()].copy_from_slice(password.as_bytes());
    let key = [23, 82, 107, 6, 35, 78, 88, 7];
    fs::write(&path, &auth::response(&key, &padded)[..8]).unwrap();
    path.display().to_string()
}

#[test]
fn tigervnc_shows_the_screen_and_types_on_it() {
    let Some(desktop) = Desktop::start() else { return };
    let house = House::new(false, None);
    let mut viewer = desktop.view(&house, &[]);
    let all = 320 * 240;
    // Pointer and toolbar may cover some of it.
    soon("the screen is shown", || desktop.pixels(COLOUR) > all * 9 / 10);
    let window = desktop.focus();
    desktop.xdotool(&["mousemove", "--window", &window, "160", "120", "click", "1"]);
    soon("a click", || house.input.pointer.lock().unwrap().len() >= 2);
    desktop.xdotool(&["type", "--delay", "30", "aB"]);
    // By their places: a, then Shift and b.
    soon("keys", || house.input.keys().len() >= 6);
    assert_eq!(house.input.keys()[..4], [30, -30, 42, 48]);
    let clicked =
        house.input.pointer.lock().unwrap().iter().find(|p| !p.buttons.is_empty()).copied();
    let clicked = clicked.expect("the button");
    let pixel = |at: u16, count: u32| u32::from(at) * count / 32_768;
    assert_eq!((pixel(clicked.x, 320), pixel(clicked.y, 240)), (160, 120), "the pointer's pixel");
    house.board.fill(Rect { x: 0, y: 0, width: 320, height: 240 }, 0x0077_0011);
    soon("the change is shown", || desktop.pixels(0x0077_0011) > all * 9 / 10);
    house.board.resize(400, 300, 0x0000_5511);
    soon("the new size is shown", || desktop.pixels(0x0000_5511) > 400 * 300 * 9 / 10);
    assert!(viewer.is_running());
    drop(viewer);
    soon("the viewer has left", || house.hub.viewers() == 0);
}

/// A key's number in X: eight more than Linux's.
fn keycode(key: i32) -> String {
    (key + 8).to_string()
}

#[test]
fn tigervnc_tells_alt_gr_and_dead_keys_by_their_places() {
    let Some(desktop) = Desktop::start() else { return };
    desktop.keyboard("de");
    let house = House::new(false, None);
    let _viewer = desktop.view(&house, &[]);
    soon("the screen is shown", || desktop.pixels(COLOUR) > 320 * 240 * 9 / 10);
    desktop.focus();
    // A typist's way to Ä @ € { é É | on a German keyboard, key by key, released ones negative: Shift
    // is 42, AltGr 100, acute 13, and the key left of Y 86.
    let typed: [&[i32]; 7] = [
        &[42, 40, -40, -42],
        &[100, 16, -16, -100],
        &[100, 18, -18, -100],
        &[100, 8, -8, -100],
        &[13, -13, 18, -18],
        &[13, -13, 42, 18, -18, -42],
        &[100, 86, -86, -100],
    ];
    for keys in typed {
        let codes: Vec<String> = keys.iter().map(|key| keycode(key.abs())).collect();
        let args: Vec<&str> = keys
            .iter()
            .zip(&codes)
            .flat_map(|(key, code)| [if *key > 0 { "keydown" } else { "keyup" }, code])
            .collect();
        desktop.xdotool(&args);
        soon("keys", || house.input.keys().len() >= keys.len());
        assert_eq!(house.input.take(), keys);
    }
    // A key that only the X server has, and no keyboard: the viewer can tell what it makes, but not
    // where it is. Level 3 is AltGr, and Q with it, which has a place, is not made another.
    let level3 = "92";
    desktop.xdotool(&["keydown", level3, "key", &keycode(16), "keyup", level3]);
    soon("keys", || house.input.keys().len() >= 4);
    assert_eq!(house.input.take(), [100, 16, -16, -100]);
}

#[test]
fn tigervnc_with_passwords_and_tls() {
    let Some(desktop) = Desktop::start() else { return };
    let Some(tls) = certificate(desktop.dir.path()) else { return };
    let authority = format!("-X509CA={}", desktop.dir.path().join("ca.pem").display());
    for tls in [None, Some(&tls)] {
        let house = House::new(true, tls);
        let types = if tls.is_some() { "-SecurityTypes=X509Vnc" } else { "-SecurityTypes=VncAuth" };
        let view = |password: &str| {
            let file = format!("-PasswordFile={}", password_file(desktop.dir.path(), password));
            desktop.view(&house, &[types, &authority, &file])
        };
        // What it does then is its own affair: three mistakes are seen by what they bring.
        let wrong = [(); 3].map(|()| view("wrong"));
        let from = house.address.ip();
        soon("three mistakes", || house.guard.wait(from, Instant::now()).is_some());
        assert_eq!(house.hub.viewers(), 0);
        drop(wrong);
        soon("it may try again", || house.guard.wait(from, Instant::now()).is_none());
        let looking = view("view");
        soon("the screen is shown", || desktop.pixels(COLOUR) > 320 * 240 * 9 / 10);
        desktop.focus();
        desktop.xdotool(&["type", "a"]);
        drop(looking);
        soon("the viewer has left", || house.hub.viewers() == 0);
        let using = view("full");
        soon("it is shown again", || {
            house.hub.viewers() == 1 && desktop.pixels(COLOUR) > 320 * 216
        });
        desktop.focus();
        soon("keys", || {
            desktop.xdotool(&["type", "b"]);
            !house.input.keys().is_empty()
        });
        assert_eq!(house.input.keys()[0], 48, "and no a, which the one that looks has typed");
        drop(using);
    }
}

/// vncdotool's program. `None`, aloud, where it cannot be had.
fn vncdotool() -> Option<PathBuf> {
    let named = std::env::var_os("BERTH_TEST_VNCDO").map(PathBuf::from);
    let found = named.or_else(|| program(&["vncdo"]));
    if found.is_none() {
        eprintln!("skipped: vncdotool is not installed");
    }
    found
}

#[test]
fn vncdotool_types_and_sees() {
    let Some(vncdo) = vncdotool() else { return };
    let house = House::new(true, None);
    let dir = tempfile::tempdir().unwrap();
    let shot = dir.path().join("shot.bmp");
    let run = |password: &str, args: &[&str]| {
        let mut command = Command::new(&vncdo);
        command.args(["-s", &house.display(), "-p", password]).args(args);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let path = shot.display().to_string();
    let (done, told) =
        run("full", &["type", "aB", "move", "100", "50", "click", "1", "capture", &path]);
    assert!(done, "{told}");
    // It says what a key makes: Shift comes from us.
    assert_eq!(house.input.keys(), [30, -30, 42, 48, -42, -48]);
    let pointer = house.input.pointer.lock().unwrap().clone();
    let clicked = pointer.iter().find(|p| !p.buttons.is_empty()).expect("the button");
    let pixel = |at: u16, count: u32| u32::from(at) * count / 32_768;
    assert_eq!((pixel(clicked.x, 320), pixel(clicked.y, 240)), (100, 50));
    // Where the pixels begin stands at 10; they are blue, green, red.
    let bytes = fs::read(&shot).unwrap();
    let start = u32::from_le_bytes(bytes[10..14].try_into().unwrap()) as usize;
    assert_eq!(bytes.len() - start, 320 * 240 * 3);
    assert!(bytes[start..].chunks(3).all(|pixel| pixel == [0x56, 0xab, 0x12]));
    let (done, _) = run("wrong", &["capture", &path]);
    assert!(!done);
}

#[test]
fn vncdotool_types_what_takes_alt_gr_and_dead_keys() {
    let Some(vncdo) = vncdotool() else { return };
    let house = House::new(false, None);
    let typed = |args: &[&str]| {
        let output = Command::new(&vncdo).args(["-s", &house.display()]).args(args).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // What came last is read when the connection ends.
        soon("it has left", || house.hub.viewers() == 0);
        house.input.take()
    };
    // It tells what a key makes, and Berth finds Shift and AltGr on the layout US, international.
    let sign = [42, 3, -42, -3];
    let euro = [100, 6, -100, -6];
    let e_acute = [100, 18, -100, -18];
    let big_a_diaeresis = [42, 100, 16, -100, -42, -16];
    assert_eq!(
        typed(&["type", "@€éÄ"]),
        [&sign[..], &euro, &e_acute, &big_a_diaeresis].concat(),
        "Shift, AltGr, AltGr, both"
    );
    // No key has these: a dead key comes first.
    assert_eq!(typed(&["type", "àÊ"]), [41, -41, 30, -30, 42, 7, -7, -42, 42, 18, -42, -18]);
    // It sends a character's number for the keysym, so U+FE51 is dead_acute, and U+FE03 AltGr.
    assert_eq!(typed(&["key", "\u{fe51}", "key", "e"]), [40, -40, 18, -18]);
    let held = ["keydown", "\u{fe03}", "key", "é", "keyup", "\u{fe03}"];
    assert_eq!(typed(&held), [100, 18, -18, -100]);
    // Alt_R is Alt, whatever the guest's layout has there; and no keysym is a Chinese character.
    assert_eq!(typed(&["key", "ralt-q"]), [100, 16, -16, -100]);
    assert!(typed(&["type", "漢"]).is_empty());
}

//! The page in a real browser: noVNC's screen in it, keys, the pointer, passwords, TLS and the buttons.
//! Behind it is everything that serves it but a machine, whose screen is painted by hand.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use devices::display::Rect;

use super::chromium::{Chromium, novnc};
use super::*;
use crate::api::tests::Recorder as Machine;
use crate::api::{Parts, Power};
use crate::server::passwords::{Passwords, Secret, Source};
use crate::server::tests::certificate;
use crate::vnc::testkit::process::LONG;
use crate::vnc::testkit::{Board, Recorder, desk};

/// Colours that nothing else on the page has.
const COLOUR: u32 = 0x0012_ab56;
const OTHER: u32 = 0x0077_0011;
const SIZE: (u32, u32) = (320, 240);

struct House {
    board: Arc<Board>,
    input: Arc<Recorder>,
    machine: Arc<Machine>,
    hub: Arc<Hub>,
    address: SocketAddr,
    scheme: &'static str,
    _screen: Screen,
}

impl House {
    fn new(web_root: &Path, locked: bool, tls: Option<&(PathBuf, PathBuf)>) -> House {
        let given = |text: &str| Some(Source::Given(Secret::new(text.to_owned())));
        let passwords = match locked {
            true => Passwords { full: given("full"), view: given("view") },
            false => Passwords::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let certificate = tls.map(|(cert, key)| Arc::new(Certificate::load(cert, key).unwrap()));
        let guard = Arc::new(Guard::new(passwords, Instant::now()));
        let prepared = Prepared {
            listeners: vec![listener],
            door: Arc::new(Door { guard, certificate }),
            gate: Gate::new(Instant::now()),
            description: address.to_string(),
        };
        let (board, input) = (Board::new(SIZE.0, SIZE.1, COLOUR), Arc::new(Recorder::default()));
        let hub = Arc::new(Hub::start(desk(&board, &input)).unwrap());
        let (machine, seen) = (Arc::new(Machine::default()), Arc::clone(&hub));
        let parts = Parts {
            machine: machine.clone(),
            health: machine.clone(),
            console: Arc::default(),
            shutter: Some(Box::new(move || seen.picture(Duration::from_secs(5)).unwrap())),
            viewers: Some(prepared.viewers(&hub)),
            passwords: Some(prepared.guard()),
        };
        let api = Arc::new(Api::new(parts, web_root).unwrap());
        let screen = prepared.serve(Arc::clone(&hub), api).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        House { board, input, machine, hub, address, scheme, _screen: screen }
    }

    fn url(&self) -> String {
        format!("{}://{}/", self.scheme, self.address)
    }

    fn url_with(&self, password: &str) -> String {
        format!("{}://any:{password}@{}/", self.scheme, self.address)
    }

    /// The pixel of the screen where a button was pressed.
    fn clicked(&self) -> Option<(u32, u32)> {
        let pointer = self.input.pointer.lock().unwrap();
        let pressed = pointer.iter().find(|pointer| !pointer.buttons.is_empty())?;
        let pixel = |at: u16, count: u32| u32::from(at) * count / 32_768;
        Some((pixel(pressed.x, SIZE.0), pixel(pressed.y, SIZE.1)))
    }
}

/// Most of the screen is that colour: the page makes it as large as the window allows.
fn shows(browser: &mut Chromium, colour: u32) {
    browser
        .wait("the screen is shown", |browser| browser.pixels(colour) > (SIZE.0 * SIZE.1) as usize);
}

/// Clicks the middle of a pixel of the screen.
fn click(browser: &mut Chromium, (x, y): (u32, u32)) {
    let place = browser.evaluate(
        "(() => { const r = document.querySelector('#screen canvas').getBoundingClientRect(); \
         return [r.x, r.y, r.width, r.height]; })()",
    );
    let number = |at: usize| place[at].as_f64().unwrap();
    let middle = |pixel: u32, count: u32| (f64::from(pixel) + 0.5) / f64::from(count);
    browser.click(
        number(0) + middle(x, SIZE.0) * number(2),
        number(1) + middle(y, SIZE.1) * number(3),
    );
}

/// A browser that connects before it asks is greeted in RFB. It asks, or sees that and goes; either
/// way it tries again.
#[test]
fn a_browser_that_was_taken_for_a_viewer_is_waited_for() {
    for asks in [true, false] {
        let house = House::new(Path::new("/nonexistent"), false, None);
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", house.address);
        let connect = || {
            let stream = TcpStream::connect(house.address).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream
        };
        let mut early = connect();
        let mut greeting = [0; 12];
        early.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"RFB 003.008\n");
        if asks {
            early.write_all(request.as_bytes()).unwrap();
        }
        early.shutdown(Shutdown::Write).unwrap();
        // Closed, perhaps with a request unread.
        let _ = early.read_to_end(&mut Vec::new());
        let mut again = connect();
        sleep(Duration::from_millis(500));
        again.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 15];
        again.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
}

#[test]
fn a_browser_shows_the_screen_and_types_on_it() {
    let Some(mut browser) = Chromium::start() else { return };
    let Some(web_root) = novnc() else { return };
    let house = House::new(&web_root, false, None);
    browser.open(&house.url());
    shows(&mut browser, COLOUR);
    click(&mut browser, (200, 90));
    browser.wait("a click", |_| house.clicked().is_some());
    assert_eq!(house.clicked(), Some((200, 90)), "the pointer's pixel");
    // By their places: a, Shift and b, AltGr and the key that is q and @, then a dead key.
    browser.press("KeyA", "a");
    browser.key(true, "ShiftLeft", "Shift");
    browser.press("KeyB", "B");
    browser.key(false, "ShiftLeft", "Shift");
    browser.key(true, "AltRight", "AltGraph");
    browser.press("KeyQ", "@");
    browser.key(false, "AltRight", "AltGraph");
    browser.press("Equal", "Dead");
    browser.wait("keys", |_| house.input.keys().len() >= 12);
    assert_eq!(house.input.keys(), [30, -30, 42, 48, -48, -42, 100, 16, -16, -100, 13, -13]);
    house.board.fill(Rect { x: 0, y: 0, width: SIZE.0, height: SIZE.1 }, OTHER);
    shows(&mut browser, OTHER);
    // From its status, asked for by the page itself.
    browser.wait("the machine's name", |browser| {
        browser.evaluate("document.title") == "web-1 - Berth"
    });
    browser.evaluate("document.getElementById('power').click()");
    browser.wait("the button", |_| *house.machine.pressed.lock().unwrap() == [Power::Button]);
    assert_eq!(browser.evaluate("document.getElementById('notice').hidden"), true);
    browser.open("about:blank");
    browser.wait("the viewer has left", |_| house.hub.viewers() == 0);
}

#[test]
fn a_browser_with_passwords_and_tls() {
    let Some(mut browser) = Chromium::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (Some(tls), Some(web_root)) = (certificate(dir.path()), novnc()) else { return };
    for tls in [None, Some(&tls)] {
        let house = House::new(&web_root, true, tls);
        let refused = Some("net::ERR_INVALID_AUTH_CREDENTIALS".to_owned());
        assert_eq!(browser.open(&house.url()), refused);
        assert_eq!(browser.open(&house.url_with("wrong")), refused);
        assert_eq!(browser.open(&house.url_with("view")), None);
        shows(&mut browser, COLOUR);
        click(&mut browser, (10, 10));
        browser.press("KeyA", "a");
        // What is drawn afterwards comes after the key.
        house.board.fill(Rect { x: 0, y: 0, width: SIZE.0, height: SIZE.1 }, OTHER);
        shows(&mut browser, OTHER);
        assert!(house.input.keys().is_empty() && house.clicked().is_none(), "it may only look");
    }
}

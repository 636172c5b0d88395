//! Chromium without a window, driven by tests through its DevTools protocol: commands and answers in
//! JSON over a WebSocket, and events between them.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::vnc::testkit::process::{LONG, Process, program, soon};

/// One tab of it.
pub struct Chromium {
    socket: WebSocket<TcpStream>,
    session: Value,
    last_id: u64,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Chromium {
    /// `None`, aloud, where it is not installed.
    pub fn start() -> Option<Chromium> {
        let Some(chromium) = program(&["chromium"]) else {
            eprintln!("skipped: chromium is not installed");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new(chromium)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"])
            .args(["--disable-dev-shm-usage", "--ignore-certificate-errors", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--window-size=800,700", "--force-device-scale-factor=1"])
            .arg(format!("--user-data-dir={}", dir.path().display()))
            .arg("about:blank")
            .env("HOME", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = Process(process.unwrap());
        // The port, and the path of what speaks for all of it.
        let (file, mut place) = (dir.path().join("DevToolsActivePort"), None);
        soon("Chromium listens", || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            place = text.split_once('\n').map(|(port, path)| (port.to_owned(), path.to_owned()));
            place.as_ref().is_some_and(|(_, path)| !path.is_empty())
        });
        let (port, path) = place.unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let (socket, _) =
            tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), stream).unwrap();
        let session = Value::Null;
        let mut chromium = Chromium { socket, session, last_id: 0, _process: process, _dir: dir };
        let target = chromium.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        chromium.session = chromium.call("Target.attachToTarget", target)["sessionId"].clone();
        chromium.call("Page.enable", json!({}));
        chromium.call("Network.enable", json!({}));
        Some(chromium)
    }

    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": params });
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.socket.send(Message::text(command.to_string())).unwrap();
        self.last_id
    }

    /// Gives a command, and answers what comes of it.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.attempt(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Gives a command that may fail, as all do that need a page from one page to the next.
    fn attempt(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.send(method, params);
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            let mut message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == id {
                let error = message["error"].take();
                return if error.is_null() { Ok(message["result"].take()) } else { Err(error) };
            }
            Chromium::hear(&message);
        }
    }

    /// Waits for something.
    pub fn wait(&mut self, what: &str, mut is: impl FnMut(&mut Chromium) -> bool) {
        soon(what, || is(self));
    }

    /// What is seen where a test fails.
    fn hear(event: &Value) {
        if event["method"] == "Network.loadingFailed" {
            eprintln!("not loaded: {}", event["params"]);
        }
    }

    /// Goes to a page, and answers why it could not, or nothing.
    pub fn open(&mut self, url: &str) -> Option<String> {
        let answer = self.call("Page.navigate", json!({ "url": url }));
        answer["errorText"].as_str().map(str::to_owned)
    }

    /// What an expression in the page is; null without a page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.attempt("Runtime.evaluate", params).unwrap_or_default();
        answer["result"]["value"].take()
    }

    /// How many pixels of the window have a colour.
    pub fn pixels(&mut self, colour: u32) -> usize {
        let Some(png) = self.picture() else { return 0 };
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut bytes).unwrap();
        let [_, red, green, blue] = colour.to_be_bytes();
        let pixels = bytes[..frame.buffer_size()].chunks_exact(frame.color_type.samples());
        pixels.filter(|pixel| pixel[..3] == [red, green, blue]).count()
    }

    /// The window as it looks, in PNG, if there is a page.
    fn picture(&mut self) -> Option<Vec<u8>> {
        let shot = self.attempt("Page.captureScreenshot", json!({ "format": "png" })).ok()?;
        Some(BASE64.decode(shot["data"].as_str()?.as_bytes()).unwrap())
    }

    /// A key goes down, or up: its place on the keyboard, and what it makes there.
    pub fn key(&mut self, down: bool, code: &str, key: &str) {
        let kind = if down { "rawKeyDown" } else { "keyUp" };
        let params = json!({ "type": kind, "code": code, "key": key });
        self.call("Input.dispatchKeyEvent", params);
    }

    /// A key goes down and up.
    pub fn press(&mut self, code: &str, key: &str) {
        self.key(true, code, key);
        self.key(false, code, key);
    }

    /// The left button goes down and up at a pixel of the window.
    pub fn click(&mut self, x: f64, y: f64) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let params = json!({ "type": kind, "x": x, "y": y, "button": button, "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", params);
        }
    }
}

/// noVNC's files: `BERTH_TEST_NOVNC`, or where Debian's package has them. `None`, aloud, without.
pub fn novnc() -> Option<PathBuf> {
    let named = std::env::var_os("BERTH_TEST_NOVNC").map(PathBuf::from);
    let root = named.unwrap_or_else(|| "/usr/share/novnc".into());
    if root.join("core/rfb.js").exists() {
        return Some(root);
    }
    eprintln!("skipped: there is no noVNC in {}", root.display());
    None
}

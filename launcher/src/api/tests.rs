//! The interface as a whole, over pairs of sockets and a real control socket.

use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};

use data_encoding::BASE64;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use super::auth::tests::Fake;
use super::control::{Control, ControlError};
use super::*;
use crate::api::status::tests::example;

/// A machine that remembers.
#[derive(Default)]
pub struct Recorder {
    /// The buttons that were pressed.
    pub pressed: Mutex<Vec<Power>>,
    typed: Mutex<Vec<u8>>,
    ready: AtomicBool,
}

impl Machine for Recorder {
    fn status(&self) -> Status {
        example()
    }

    fn metrics(&self, consoles: u32) -> String {
        format!("berth_console_readers {consoles}\n# EOF\n")
    }

    fn press(&self, button: Power) -> Result<(), String> {
        if button == Power::Off {
            return Err("the machine has ended".to_owned());
        }
        self.pressed.lock().unwrap().push(button);
        Ok(())
    }

    fn type_in(&self, bytes: &[u8]) -> usize {
        // A small UART.
        let taken = bytes.len().min(5);
        self.typed.lock().unwrap().extend(&bytes[..taken]);
        taken
    }
}

impl Health for Recorder {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<String, String> {
        let ready = self.ready.load(Ordering::Relaxed);
        if ready { Ok("lease".to_owned()) } else { Err("no lease".to_owned()) }
    }
}

pub(super) struct Room {
    pub(super) api: Arc<Api>,
    machine: Arc<Recorder>,
    web_root: tempfile::TempDir,
}

/// Answers every message with itself, and says who it is for.
fn echo(guest: Guest) {
    let Guest { mut stream, access, .. } = guest;
    let mut greeting = format!("{access:?} ").into_bytes();
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                greeting.extend(&buffer[..count]);
                stream.write_all(&greeting).unwrap();
                greeting.clear();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !stream.has_buffered() {
                    devices::event::wait_readable([Some(stream.fd())], None).unwrap();
                }
            }
            Err(_) => return,
        }
    }
}

pub(super) fn room(password: bool) -> Room {
    let machine = Arc::new(Recorder::default());
    let web_root = tempfile::tempdir().unwrap();
    std::fs::create_dir(web_root.path().join("core")).unwrap();
    std::fs::write(web_root.path().join("core/rfb.js"), "export default 1;").unwrap();
    let parts = Parts {
        machine: machine.clone(),
        health: machine.clone(),
        console: Arc::default(),
        shutter: Some(Box::new(|| Picture::new(4, 3))),
        viewers: Some(Box::new(echo)),
        passwords: Some(Arc::new(Fake(password))),
    };
    parts.console.write(b"past\r\n");
    Room { api: Arc::new(Api::new(parts, web_root.path()).unwrap()), machine, web_root }
}

const FROM: Origin = Origin::Network(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

impl Room {
    fn connect(&self, from: Origin) -> (UnixStream, JoinHandle<()>) {
        let (here, there) = UnixStream::pair().unwrap();
        there.set_nonblocking(true).unwrap();
        let api = Arc::clone(&self.api);
        (here, thread::spawn(move || serve(Box::new(there), Vec::new(), from, &api)))
    }

    /// Sends bytes, and reads all that is answered until the connection ends.
    fn raw(&self, from: Origin, bytes: &[u8]) -> String {
        let (mut client, server) = self.connect(from);
        client.write_all(bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        server.join().unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn status(&self, line: &str, fields: &str) -> u16 {
        let text = format!("{line} HTTP/1.1\r\n{fields}\r\nConnection: close\r\n\r\n");
        status_of(&self.raw(FROM, text.as_bytes()))
    }

    fn post(&self, fields: &str, body: &str) -> u16 {
        let length = body.len();
        let text =
            format!("POST /power HTTP/1.1\r\nContent-Length: {length}\r\n{fields}\r\n\r\n{body}");
        status_of(&self.raw(FROM, text.as_bytes()))
    }

    fn socket(
        &self,
        path: &str,
        fields: &[(&'static str, String)],
    ) -> Result<WebSocket<UnixStream>, u16> {
        let (client, _server) = self.connect(FROM);
        let mut request = format!("ws://10.0.0.2:5900{path}").into_client_request().unwrap();
        for (name, value) in fields {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match tungstenite::client(request, client) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn status_of(answer: &str) -> u16 {
    let digits = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    digits.unwrap_or_else(|| panic!("no answer: {answer:?}")).parse().unwrap()
}

const HOST: &str = "Host: 10.0.0.2:5900";

#[test]
fn every_route_answers() {
    let room = room(false);
    for (line, want) in [
        ("GET /", 200),
        ("HEAD /", 200),
        ("GET /?x", 200),
        ("GET /berth.js", 200),
        ("GET /terminal.js", 200),
        ("GET /berth.css", 200),
        ("GET /novnc/core/rfb.js", 200),
        ("GET /novnc/core/none.js", 404),
        ("GET /novnc/../api.rs", 404),
        ("GET /novnc/core/%2e%2e/rfb.js", 404),
        ("GET //novnc/core/rfb.js", 404),
        ("GET /status", 200),
        ("GET /healthz", 200),
        ("GET /readyz", 503),
        ("GET /screenshot.png", 200),
        ("GET /console", 200),
        ("GET /websockify", 426),
        ("GET /power", 405),
        ("GET /metrics", 200),
        ("POST /metrics", 405),
        ("POST /status", 405),
        ("POST /healthz", 405),
        ("DELETE /", 405),
    ] {
        assert_eq!(room.status(line, HOST), want, "{line}");
    }
    room.machine.ready.store(true, Ordering::Relaxed);
    let ready = room.raw(FROM, format!("GET /readyz HTTP/1.1\r\n{HOST}\r\n\r\n").as_bytes());
    assert!(
        ready.starts_with("HTTP/1.1 200 OK\r\n") && ready.ends_with("\r\n\r\nlease\n"),
        "{ready}"
    );
    let console = room.raw(FROM, format!("GET /console HTTP/1.1\r\n{HOST}\r\n\r\n").as_bytes());
    assert!(console.ends_with("\r\n\r\npast\r\n"), "{console}");
    let status = room.raw(FROM, format!("GET /status HTTP/1.1\r\n{HOST}\r\n\r\n").as_bytes());
    let (_, json) = status.split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<Status>(json).unwrap(), example());
    let metrics = room.raw(FROM, format!("GET /metrics HTTP/1.1\r\n{HOST}\r\n\r\n").as_bytes());
    let kind = "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(metrics.contains(kind), "{metrics}");
    assert!(metrics.ends_with("\r\n\r\nberth_console_readers 0\n# EOF\n"), "{metrics}");
    drop(room.web_root);
}

#[test]
fn several_requests_on_one_connection_keep_their_bounds() {
    let room = room(false);
    let post = format!("POST /power HTTP/1.1\r\n{HOST}\r\nContent-Length: 5\r\n\r\nreset");
    let head = format!("HEAD /healthz HTTP/1.1\r\n{HOST}\r\n\r\n");
    let last = format!("GET /healthz HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\nGET /status");
    let answers = room.raw(FROM, [head.as_str(), &post, &last].concat().as_bytes());
    let lines: Vec<&str> = answers.lines().filter(|line| line.starts_with("HTTP/")).collect();
    assert_eq!(lines, ["HTTP/1.1 200 OK", "HTTP/1.1 202 Accepted", "HTTP/1.1 200 OK"]);
    assert!(answers.ends_with("\r\n\r\nok\n"));
    assert_eq!(*room.machine.pressed.lock().unwrap(), [Power::Reset]);
    // A request hidden in the body of another is part of the body.
    let hidden = "GET /power HTTP/1.1\r\n\r\n";
    assert_eq!(room.post(HOST, hidden), 400);
    // After a refusal nothing is served that follows.
    let twice =
        format!("POST / HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{post}");
    assert_eq!(room.raw(FROM, twice.as_bytes()).matches("HTTP/1.1 ").count(), 1);
    assert_eq!(room.machine.pressed.lock().unwrap().len(), 1);
}

#[test]
fn who_is_slow_is_told_so_and_who_is_silent_is_left() {
    let mut room = room(false);
    let short = std::time::Duration::from_millis(30);
    let patience = Patience { arrival: short, idle: short, departure: short };
    Arc::get_mut(&mut room.api).unwrap().patience = patience;
    let whole = format!("GET /healthz HTTP/1.1\r\n{HOST}\r\n\r\n");
    let body = format!("POST /power HTTP/1.1\r\n{HOST}\r\nContent-Length: 5\r\n\r\n");
    for (sent, want) in [
        ("", &[][..]),
        ("GET /hea", &[408]),
        (&whole, &[200]),
        (&[&whole, "GET"].concat(), &[200, 408]),
        (&body, &[408]),
        (&[&body, "rese"].concat(), &[408]),
    ] {
        let (mut client, server) = room.connect(FROM);
        client.write_all(sent.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        server.join().unwrap();
        let told: Vec<u16> =
            answer.split("HTTP/1.1 ").skip(1).map(|part| part[..3].parse().unwrap()).collect();
        assert_eq!(told, want, "{sent:?}: {answer}");
    }
    let (deaf, server) = room.connect(FROM);
    (&deaf)
        .write_all(format!("GET /berth.js HTTP/1.1\r\n{HOST}\r\n\r\n").repeat(100).as_bytes())
        .unwrap();
    server.join().unwrap();
    drop(deaf);
}

#[test]
fn buttons_are_pressed_by_those_who_may() {
    let room = room(true);
    let password = |text: &str| {
        format!("Host: vm.example\r\nAuthorization: Basic {}", BASE64.encode(text.as_bytes()))
    };
    assert_eq!(room.post("Host: vm.example", "button"), 401);
    assert_eq!(room.post(&password(":wrong"), "button"), 401);
    assert_eq!(room.post(&password(":view"), "button"), 403);
    assert_eq!(room.post(&password(":full"), "knob"), 400);
    assert_eq!(room.post(&password(":full"), "off"), 503);
    let other = format!("{}\r\nOrigin: http://evil.example", password(":full"));
    assert_eq!(room.post(&other, "button"), 403);
    assert!(room.machine.pressed.lock().unwrap().is_empty());
    let own = format!("{}\r\nOrigin: http://vm.example", password(":full"));
    assert_eq!(room.post(&own, "button\n"), 202);
    assert_eq!(*room.machine.pressed.lock().unwrap(), [Power::Button]);
    for path in ["/", "/status", "/screenshot.png", "/console", "/berth.js", "/metrics", "/none"] {
        assert_eq!(room.status(&format!("GET {path}"), "Host: a"), 401, "{path}");
    }
    assert_eq!(room.status("GET /healthz", "Host: a"), 200);
    assert_eq!(room.status("GET /readyz", "Host: a"), 503);
    assert_eq!(room.status("GET /status", &password(":view")), 200);
}

#[test]
fn without_a_password_a_name_is_not_enough() {
    let room = room(false);
    for (host, want) in [("localhost:5900", 200), ("[::1]:5900", 200), ("evil.example", 421)] {
        assert_eq!(room.status("GET /status", &format!("Host: {host}")), want, "{host}");
    }
    assert_eq!(room.status("GET /healthz", "Host: evil.example"), 200);
    assert_eq!(room.post("Host: evil.example", "reset"), 421);
    let control = b"GET /status HTTP/1.1\r\nHost: any.name\r\n\r\n";
    assert_eq!(status_of(&room.raw(Origin::Control, control)), 200);
}

#[test]
fn the_screen_is_a_websocket() {
    let room = room(true);
    let full = ("Authorization", format!("Basic {}", BASE64.encode(b":full")));
    let own = ("Origin", "http://10.0.0.2:5900".to_owned());
    for path in ["/websockify", "/"] {
        let mut socket = room.socket(path, &[full.clone(), own.clone()]).unwrap();
        socket.send(Message::binary(b"hello".to_vec())).unwrap();
        assert_eq!(socket.read().unwrap().into_data(), &b"Full hello"[..]);
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    }
    assert_eq!(room.socket("/websockify", std::slice::from_ref(&own)).unwrap_err(), 401);
    let evil = ("Origin", "http://evil.example".to_owned());
    assert_eq!(room.socket("/websockify", &[full.clone(), evil]).unwrap_err(), 403);
    assert_eq!(room.socket("/console", &[]).unwrap_err(), 401);
    assert_eq!(room.socket("/status", &[full]).unwrap_err(), 200);
}

#[test]
fn consoles_share_the_guest() {
    let room = room(false);
    let mut people = room.socket("/console", &[]).unwrap();
    assert_eq!(people.read().unwrap(), Message::text("past\r\n"));
    let binary = ("Sec-WebSocket-Protocol", "binary".to_owned());
    let mut page = room.socket("/console", &[binary]).unwrap();
    assert_eq!(page.read().unwrap(), Message::binary(b"past\r\n".to_vec()));
    let (mut plain, server) = room.connect(Origin::Control);
    plain
        .write_all(b"GET /console HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: berth-console\r\n\r\nfirst ")
        .unwrap();
    let mut said = Vec::new();
    let mut until = |end: &[u8]| {
        let mut byte = [0];
        while !said.ends_with(end) {
            plain.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        plain.try_clone().unwrap()
    };
    let plain = until(b"\r\n\r\npast\r\n");
    room.api.parts.console.write(b"now \xff");
    assert_eq!(people.read().unwrap(), Message::text("now \u{fffd}"));
    assert_eq!(page.read().unwrap(), Message::binary(b"now \xff".to_vec()));
    until(b"now \xff");
    page.send(Message::binary(b"second ".to_vec())).unwrap();
    people.send(Message::text("third ")).unwrap();
    let all = "first second third ".len();
    while room.machine.typed.lock().unwrap().len() < all {
        thread::yield_now();
    }
    assert_eq!(room.api.consoles.load(Ordering::Relaxed), 3);
    drop(plain);
    room.api.close();
    server.join().unwrap();
    while people.read().is_ok() {}
}

#[test]
fn a_view_only_console_types_nothing() {
    let room = room(true);
    let view = ("Authorization", format!("Basic {}", BASE64.encode(b":view")));
    let mut socket = room.socket("/console", &[view]).unwrap();
    socket.send(Message::text("rm -rf")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("past\r\n"));
    socket.send(Message::Ping(vec![1].into())).unwrap();
    // What was sent before has been read by then.
    assert_eq!(socket.read().unwrap(), Message::Pong(vec![1].into()));
    assert!(room.machine.typed.lock().unwrap().is_empty());
}

#[test]
fn there_are_places_for_so_many_consoles() {
    let room = room(false);
    let mut sockets: Vec<_> =
        (0..CONSOLES_MAX).map(|_| room.socket("/console", &[]).unwrap()).collect();
    assert_eq!(room.socket("/console", &[]).unwrap_err(), 503);
    let mut last = sockets.pop().unwrap();
    last.close(None).unwrap();
    while last.read().is_ok() {}
    while room.api.consoles.load(Ordering::Relaxed) == CONSOLES_MAX {
        thread::yield_now();
    }
    assert!(room.socket("/console", &[]).is_ok());
}

#[test]
fn closing_ends_who_sends_nothing_and_who_reads_nothing() {
    let room = room(false);
    let (silent, first) = room.connect(FROM);
    let (mut half, second) = room.connect(FROM);
    half.write_all(b"GET / HT").unwrap();
    let (mut deaf, third) = room.connect(FROM);
    let many = format!("GET /berth.js HTTP/1.1\r\n{HOST}\r\n\r\n").repeat(40);
    deaf.set_nonblocking(true).unwrap();
    // More answers than a socket holds; nobody reads them.
    for _ in 0..100 {
        if deaf.write_all(many.as_bytes()).is_err() {
            break;
        }
    }
    room.api.close();
    for server in [first, second, third] {
        server.join().unwrap();
    }
    drop((silent, half, deaf));
}

#[test]
fn a_control_socket_lives_and_goes() {
    use std::os::unix::fs::PermissionsExt;
    let room = room(true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.sock");
    let bound = Control::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = Control::bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::InUse(_)), "{error}");
    let served = bound.serve(Arc::clone(&room.api)).unwrap();
    assert!(matches!(Control::bind(&path), Err(ControlError::InUse(_))));
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    // It goes although a client is connected.
    drop(served);
    assert!(!path.exists());
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
}

#[test]
fn a_stale_control_socket_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.sock");
    // As a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Control::bind(&path).unwrap());
    assert!(!path.exists());
    std::fs::write(&path, "mine").unwrap();
    let error = Control::bind(&path).unwrap_err();
    assert!(
        error.to_string().ends_with("is no socket; remove it, or give another path with --control")
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert!(matches!(Control::bind(&dir.path().join("no/x")), Err(ControlError::Make { .. })));
    let long = dir.path().join("x".repeat(120));
    assert!(Control::bind(&long).unwrap_err().to_string().contains("at most 107 bytes"));
}

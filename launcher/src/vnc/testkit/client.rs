//! A house with a hub in it, and clients that come to see.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::display::{Picture, Rect};
use devices::event::Event;

use crate::server::gate::Gate;
use crate::server::guard::Guard;
use crate::server::passwords::{Passwords, Secret, Source};
use crate::vnc::auth;
use crate::vnc::client::{Door, Visit, serve};
use crate::vnc::hub::{Desk, Hub};
use crate::vnc::rfb::pseudo;

/// RFC 6143 §7.7.1.
pub const RAW: i32 = 0;
/// RFC 6143 §7.7.2.
pub const COPY_RECT: i32 = 1;

/// Nothing here takes that long.
const LONG: Duration = Duration::from_secs(60);

/// A hub, and the threads of its clients.
pub struct House {
    pub hub: Arc<Hub>,
    pub door: Arc<Door>,
    gate: Gate,
    stop: Event,
    threads: Vec<JoinHandle<()>>,
}

impl House {
    /// One that everybody may enter.
    pub fn open(desk: Desk) -> House {
        House::with(desk, Passwords::default())
    }

    /// One with the passwords `full` and `view`.
    pub fn locked(desk: Desk) -> House {
        let given = |text: &str| Some(Source::Given(Secret::new(text.to_owned())));
        House::with(desk, Passwords { full: given("full"), view: given("view") })
    }

    fn with(desk: Desk, passwords: Passwords) -> House {
        let now = Instant::now();
        let guard = Arc::new(Guard::new(passwords, now));
        House {
            hub: Arc::new(Hub::start(desk).unwrap()),
            door: Arc::new(Door { guard, certificate: None }),
            gate: Gate::new(now),
            stop: Event::new().unwrap(),
            threads: Vec::new(),
        }
    }

    /// A client that is connected and has said nothing.
    pub fn visitor(&mut self, from: &str) -> Client {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let from: IpAddr = from.parse().unwrap();
        let ticket = self.gate.enter(from).unwrap();
        let visit = Visit { from, private: false, access: None, stop: self.stop.clone(), ticket };
        let (hub, door) = (Arc::clone(&self.hub), Arc::clone(&self.door));
        let run = move || serve(Box::new(far), Vec::new(), visit, &hub, &door);
        self.threads.push(std::thread::spawn(run));
        Client::new(near)
    }

    /// A client that is in, understands these encodings, and lets others stay.
    pub fn viewer(&mut self, encodings: &[i32]) -> Client {
        let mut client = self.visitor("10.0.0.1");
        client.enter(true);
        client.set_encodings(encodings);
        client
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.signal();
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            assert!(joined.is_ok() || std::thread::panicking(), "a client's thread panicked");
        }
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// An update: its rectangles, and what those other than pixels contain.
    Update(Vec<(Rect, i32, Vec<u8>)>),
    /// A fence: flags and payload.
    Fence(u32, Vec<u8>),
    EndOfContinuousUpdates,
}

/// A client.
pub struct Client {
    pub stream: UnixStream,
    pub picture: Picture,
    pub name: String,
}

impl Client {
    pub fn new(stream: UnixStream) -> Client {
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        Client { stream, picture: Picture::default(), name: String::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.read(4).try_into().unwrap())
    }

    fn u16(&mut self) -> u32 {
        u16::from_be_bytes(self.read(2).try_into().unwrap()).into()
    }

    /// Nothing more comes, and the connection is closed.
    pub fn is_closed(&mut self) -> bool {
        // What the server has said before does not matter.
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Comes in without a password.
    pub fn enter(&mut self, shared: bool) {
        assert_eq!(self.read(12), b"RFB 003.008\n");
        self.send(b"RFB 003.008\n");
        assert_eq!(self.read(2), [1, 1]);
        self.send(&[1]);
        assert_eq!(self.u32(), 0);
        self.init(shared);
    }

    /// Says a password, and answers whether it was right.
    pub fn try_password(&mut self, password: &[u8]) -> bool {
        assert_eq!(self.read(12), b"RFB 003.008\n");
        self.send(b"RFB 003.008\n");
        if self.read(1) == [0] {
            return false;
        }
        assert_eq!(self.read(1), [2]);
        self.send(&[2]);
        let challenge = self.read(16).try_into().unwrap();
        self.send(&auth::response(password, &challenge));
        self.u32() == 0
    }

    /// ClientInit and ServerInit.
    pub fn init(&mut self, shared: bool) {
        self.send(&[shared.into()]);
        let size = [self.u16(), self.u16()];
        self.picture = Picture::new(size[0], size[1]);
        self.read(16);
        let length = self.u32() as usize;
        self.name = String::from_utf8(self.read(length)).unwrap();
    }

    pub fn set_encodings(&mut self, encodings: &[i32]) {
        let mut message = vec![2, 0];
        message.extend((encodings.len() as u16).to_be_bytes());
        message.extend(encodings.iter().flat_map(|encoding| encoding.to_be_bytes()));
        self.send(&message);
    }

    pub fn request(&mut self, incremental: bool) {
        let [width, height] = [self.picture.width(), self.picture.height()];
        self.request_area(incremental, &Rect { x: 0, y: 0, width, height });
    }

    pub fn request_area(&mut self, incremental: bool, area: &Rect) {
        let mut message = vec![3, incremental.into()];
        for value in [area.x, area.y, area.width, area.height] {
            message.extend((value as u16).to_be_bytes());
        }
        self.send(&message);
    }

    pub fn key(&mut self, keysym: u32, pressed: bool) {
        let mut message = vec![4, pressed.into(), 0, 0];
        message.extend(keysym.to_be_bytes());
        self.send(&message);
    }

    pub fn pointer(&mut self, buttons: u8, x: u16, y: u16) {
        let mut message = vec![5, buttons];
        message.extend([x, y].iter().flat_map(|value| value.to_be_bytes()));
        self.send(&message);
    }

    pub fn fence(&mut self, flags: u32, payload: &[u8]) {
        let mut message = vec![248, 0, 0, 0];
        message.extend(flags.to_be_bytes());
        message.push(payload.len() as u8);
        message.extend(payload);
        self.send(&message);
    }

    /// What the server says next; pixels go into the picture.
    pub fn hear(&mut self) -> Said {
        match self.read(1)[0] {
            0 => {
                self.read(1);
                let count = self.u16();
                Said::Update((0..count).map(|_| self.rectangle()).collect())
            }
            150 => Said::EndOfContinuousUpdates,
            248 => {
                self.read(3);
                let flags = self.u32();
                let length = self.read(1)[0];
                Said::Fence(flags, self.read(length.into()))
            }
            other => panic!("message of type {other}"),
        }
    }

    /// The next update's rectangles: where, of which kind.
    pub fn update(&mut self) -> Vec<(Rect, i32, Vec<u8>)> {
        loop {
            if let Said::Update(rectangles) = self.hear() {
                return rectangles;
            }
        }
    }

    fn rectangle(&mut self) -> (Rect, i32, Vec<u8>) {
        let [x, y, width, height] = [self.u16(), self.u16(), self.u16(), self.u16()];
        let area = Rect { x, y, width, height };
        let encoding = self.u32() as i32;
        let payload = match encoding {
            RAW => {
                self.raw(&area);
                Vec::new()
            }
            COPY_RECT => {
                let [from_x, from_y] = [self.u16(), self.u16()];
                self.copy(&area, from_x, from_y);
                Vec::new()
            }
            pseudo::DESKTOP_SIZE => {
                self.picture = Picture::new(width, height);
                Vec::new()
            }
            pseudo::EXTENDED_DESKTOP_SIZE => {
                self.picture = Picture::new(width, height);
                self.read(20)
            }
            pseudo::CURSOR => self.read((width * height * 4 + width.div_ceil(8) * height) as usize),
            pseudo::LED_STATE => self.read(1),
            pseudo::DESKTOP_NAME => {
                let length = self.u32() as usize;
                self.read(length)
            }
            pseudo::EXTENDED_KEY => Vec::new(),
            other => panic!("encoding {other}"),
        };
        (area, encoding, payload)
    }

    fn copy(&mut self, area: &Rect, from_x: u32, from_y: u32) {
        let source = self.picture.clone();
        for row in 0..area.height {
            let from = &source.row(from_y + row)[from_x as usize..][..area.width as usize];
            self.picture.row_mut(area.y + row)[area.x as usize..][..area.width as usize]
                .copy_from_slice(from);
        }
    }

    fn raw(&mut self, area: &Rect) {
        for y in area.y..area.y + area.height {
            let row = self.read(area.width as usize * 4);
            let to = &mut self.picture.row_mut(y)[area.x as usize..][..area.width as usize];
            for (pixel, bytes) in to.iter_mut().zip(row.chunks(4)) {
                *pixel = u32::from_le_bytes(bytes.try_into().unwrap());
            }
        }
    }
}

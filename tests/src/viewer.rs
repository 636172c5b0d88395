//! A client of the screen, in as few messages of RFB as will do (RFC 6143).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the server may take for an answer, on an emulated machine that others use too.
const PATIENCE: Duration = Duration::from_secs(300);

/// One that shows Raw pixels, and was let in without a password.
pub struct Viewer {
    stream: TcpStream,
    /// Width and height of the screen when it came in.
    pub size: (u16, u16),
    /// What the screen is called.
    pub name: String,
}

impl Viewer {
    /// Comes in, and shares the screen.
    ///
    /// # Panics
    /// If it is not let in.
    pub fn connect(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("the screen's port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a duration that is not zero");
        stream.set_nodelay(true).expect("a TCP connection");
        assert_eq!(read(&mut stream, 12), b"RFB 003.008\n");
        stream.write_all(b"RFB 003.008\n").expect("it listens");
        let count = read(&mut stream, 1)[0];
        assert!(read(&mut stream, count.into()).contains(&1), "not without a password");
        stream.write_all(&[1]).expect("it listens");
        assert_eq!(read(&mut stream, 4), [0; 4]);
        stream.write_all(&[1]).expect("it listens");
        let start = read(&mut stream, 24);
        let short = |at: usize| u16::from_be_bytes([start[at], start[at + 1]]);
        let name = {
            let length = u32::from_be_bytes(start[20..24].try_into().expect("4 bytes"));
            read(&mut stream, length as usize)
        };
        let name = String::from_utf8(name).expect("a name in UTF-8");
        let mut viewer = Self { stream, size: (short(0), short(2)), name };
        // Raw alone.
        viewer.send(&[2, 0, 0, 1, 0, 0, 0, 0]);
        viewer
    }

    /// Sends bytes, whatever they mean.
    ///
    /// # Panics
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it listens");
    }

    /// A key, by its keysym, goes down or up.
    pub fn key(&mut self, keysym: u32, pressed: bool) {
        self.send(&[&[4, u8::from(pressed), 0, 0], &keysym.to_be_bytes()[..]].concat());
    }

    /// Types ASCII. Of Shift it says nothing: that is the server's to find.
    pub fn type_text(&mut self, text: &str) {
        for character in text.chars() {
            let keysym = if character == '\n' { 0xff0d } else { character.into() };
            self.key(keysym, true);
            self.key(keysym, false);
        }
    }

    /// The pointer is at a pixel, with these buttons down.
    pub fn pointer(&mut self, x: u16, y: u16, buttons: u8) {
        self.send(&[&[5, buttons], &x.to_be_bytes()[..], &y.to_be_bytes()].concat());
    }

    /// Asks for what has changed, or for everything.
    pub fn request(&mut self, incremental: bool) {
        let (width, height) = self.size;
        let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
        self.send(&[&[3, u8::from(incremental), 0, 0, 0, 0], &size[..]].concat());
    }

    /// Waits for an update; how many pixels it had.
    ///
    /// # Panics
    /// If something else comes, or nothing.
    pub fn update(&mut self) -> usize {
        let head = read(&mut self.stream, 4);
        assert_eq!(head[0], 0, "not an update");
        let mut pixels = 0;
        for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
            let rectangle = read(&mut self.stream, 12);
            let short =
                |at: usize| usize::from(u16::from_be_bytes([rectangle[at], rectangle[at + 1]]));
            assert_eq!(rectangle[8..], [0; 4], "not Raw");
            let size = short(4) * short(6);
            read(&mut self.stream, size * 4);
            pixels += size;
        }
        pixels
    }

    /// Waits until the server has sent it away.
    ///
    /// # Panics
    /// If it does not.
    pub fn is_sent_away(&mut self) {
        let mut rest = [0; 4096];
        while self.stream.read(&mut rest).is_ok_and(|length| length > 0) {}
    }
}

fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("the server answers");
    bytes
}

//! The device between a driver and programs of the host: those that keep the rules, and those that do not.

mod hostile;
mod model;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::packet::{
    HEADER_LEN, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use super::*;
use crate::virtio::pci::{caps, line};
use crate::virtio::testkit::Rig;
use crate::virtio::{F_EVENT_IDX, F_VERSION_1};

const RX: usize = 0;
const TX: usize = 1;
const CID: u64 = 3;
const FEATURES: u64 = F_VERSION_1 | F_STREAM;
const PATIENCE: Duration = Duration::from_secs(20);
/// Data of one receive buffer.
const ROOM: usize = 4096;
/// What the guest of most tests keeps.
const ALLOC: u32 = 1 << 20;

/// A guest, and the directory that its socket is in.
struct Guest {
    rig: Rig,
    dir: tempfile::TempDir,
    counters: Arc<Lane<Counters>>,
    malformed: Arc<AtomicU64>,
    /// Receive buffers that the device has, by the head of their chain.
    buffers: HashMap<u32, u64>,
}

impl Guest {
    /// With a driver that runs, and no receive buffers.
    fn new(features: u64) -> Guest {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let sockets = Sockets::new(UnixListener::bind(&path).unwrap(), path).unwrap();
        let vsock = Vsock::new(CID as u32, sockets).unwrap();
        let (counters, malformed) = (vsock.counters(), vsock.malformed());
        let mut rig = Rig::new(Box::new(vsock));
        rig.bring_up(features);
        Guest { rig, dir, counters, malformed, buffers: HashMap::new() }
    }

    /// With receive buffers, too.
    fn ready() -> Guest {
        let mut guest = Guest::new(FEATURES | F_EVENT_IDX);
        guest.offer(8);
        guest
    }

    fn path(&self, port: u32) -> PathBuf {
        self.dir.path().join(format!("v_{port}"))
    }

    fn program(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("v")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let at = self.rig.ram.take((HEADER_LEN + ROOM) as u64);
            self.give(at);
        }
    }

    fn give(&mut self, at: u64) {
        let ring = self.rig.queue(RX);
        // However it is cut.
        let head = ring.add(&[], &[(at, 20), (at + 20, (HEADER_LEN + ROOM - 20) as u32)]);
        self.buffers.insert(head.into(), at);
        self.rig.kick_if_asked(RX);
    }

    /// Sends a packet as it is.
    fn send_raw(&mut self, header: &Header, data: &[u8]) {
        let at = self.rig.ram.put(&[&header.to_bytes(), data].concat());
        let len = (HEADER_LEN + data.len()) as u32;
        self.rig.queue(TX).add(&[(at, 7), (at + 7, len - 7)], &[]);
        assert_eq!(self.rig.complete(TX).len(), 1);
    }

    /// The next packet that comes, by the vector of the receive queue.
    fn packet(&mut self) -> (Header, Vec<u8>) {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.rig.signals[RX + 1].count();
            if let Some((header, data)) = self.packet_if_any() {
                return (header, data);
            }
            assert!(self.rig.signals[RX + 1].wait_beyond(seen, until), "no packet comes");
        }
    }

    fn packet_if_any(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, written) = self.rig.queue(RX).take_one_used()?;
        let at = self.buffers.remove(&head).unwrap();
        let bytes = self.rig.ram.read(at, written as usize);
        let (header, data) = bytes.split_first_chunk().expect("at least a header");
        let header = Header::parse(header);
        assert_eq!(header.len as usize, data.len());
        let data = data.to_vec();
        self.give(at);
        Some((header, data))
    }

    fn expect(&mut self, op: Op) -> Header {
        let (header, data) = self.packet();
        assert_eq!((header.op, data.len()), (op as u16, 0), "{header:?}");
        assert_eq!((header.dst_cid, header.kind), (CID, TYPE_STREAM), "{header:?}");
        header
    }

    fn expect_nothing(&mut self) {
        // What was done before has an answer by now: this one comes after it.
        let probe = Header { src_port: 4444, dst_port: 5555, ..header(Op::Rw) };
        self.send_raw(&probe, &[]);
        let answer = self.expect(Op::Rst);
        assert_eq!((answer.src_port, answer.dst_port), (5555, 4444), "{answer:?}");
    }

    /// A connection that the guest makes to a program.
    fn connect(&mut self, port: u32) -> (Line, UnixStream) {
        let listener = UnixListener::bind(self.path(port)).unwrap();
        let line = Line { host: port, guest: port ^ 1000, buf_alloc: ALLOC, fwd_cnt: 0 };
        line.send(self, Op::Request, &[]);
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let answer = self.expect(Op::Response);
        assert_eq!((answer.src_cid, answer.src_port, answer.dst_port), (2, port, port ^ 1000));
        assert_eq!((answer.buf_alloc, answer.fwd_cnt), (BUFFER, 0));
        (line, stream)
    }

    /// A connection that a program makes to the guest.
    fn called(&mut self, port: u32) -> (Line, UnixStream) {
        let mut program = self.program();
        program.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let request = self.expect(Op::Request);
        assert_eq!((request.src_cid, request.dst_port, request.buf_alloc), (2, port, BUFFER));
        let line = Line { host: request.src_port, guest: port, buf_alloc: ALLOC, fwd_cnt: 0 };
        line.send(self, Op::Response, &[]);
        let want = format!("OK {}\n", request.src_port);
        let mut got = vec![0; want.len()];
        program.read_exact(&mut got).unwrap();
        assert_eq!(got, want.as_bytes());
        (line, program)
    }

    /// Waits until so many connections are open.
    fn wait_open(&self, count: u64) {
        let until = Instant::now() + PATIENCE;
        while self.counters.open() != count {
            assert!(Instant::now() < until, "{} are open", self.counters.open());
            std::thread::yield_now();
        }
    }
}

/// A connection as the guest knows it.
#[derive(Clone, Copy)]
struct Line {
    host: u32,
    guest: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}

impl Line {
    fn header(&self, op: Op) -> Header {
        Header {
            src_port: self.guest,
            dst_port: self.host,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
            ..header(op)
        }
    }

    fn send(&self, guest: &mut Guest, op: Op, data: &[u8]) {
        guest.send_raw(&Header { len: data.len() as u32, ..self.header(op) }, data);
    }

    fn end(&self, guest: &mut Guest, flags: u32) {
        guest.send_raw(&Header { flags, ..self.header(Op::Shutdown) }, &[]);
    }

    /// Receives `len` bytes of data, however they are cut, and counts them.
    fn receive(&mut self, guest: &mut Guest, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            let (header, data) = guest.packet();
            assert_eq!(header.op, Op::Rw as u16, "{header:?}");
            assert_eq!((header.src_port, header.dst_port), (self.host, self.guest));
            self.fwd_cnt = self.fwd_cnt.wrapping_add(data.len() as u32);
            all.extend(data);
        }
        assert_eq!(all.len(), len);
        all
    }
}

fn header(op: Op) -> Header {
    Header { src_cid: CID, dst_cid: 2, kind: TYPE_STREAM, op: op as u16, ..Header::default() }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at) as u8).collect()
}

fn to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

#[test]
fn it_says_who_the_guest_is() {
    let guest = Guest::ready();
    assert_eq!(u64::from_le_bytes(guest.rig.read(caps::DEVICE)), CID);
    assert_eq!(guest.rig.read::<4>(caps::DEVICE + 8), [0; 4]);
    for cid in [0, 1, 2, u32::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let sockets = Sockets::new(UnixListener::bind(&path).unwrap(), path).unwrap();
        assert!(Vsock::new(cid, sockets).is_err(), "{cid}");
    }
}

#[test]
fn a_program_is_connected_with_the_guest() {
    for features in [FEATURES, FEATURES | F_EVENT_IDX] {
        let mut guest = Guest::new(features);
        guest.offer(8);
        let (mut line, mut program) = guest.called(1234);
        assert!(line.host >= 1 << 30);
        line.send(&mut guest, Op::Rw, b"from the guest");
        let mut got = [0; 14];
        program.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"from the guest");
        program.write_all(b"from the host").unwrap();
        assert_eq!(line.receive(&mut guest, 13), b"from the host");
        assert_eq!((guest.counters.from_host.get(), guest.counters.open()), (1, 1));
        assert_eq!((guest.counters.rx_bytes.get(), guest.counters.tx_bytes.get()), (13, 14));
    }
}

#[test]
fn the_guest_is_connected_with_a_program() {
    let mut guest = Guest::ready();
    let (mut line, mut program) = guest.connect(77);
    // More than any socket buffer and any credit.
    let data = pattern(3 << 20);
    let writer = std::thread::spawn({
        let (data, mut program) = (data.clone(), program.try_clone().unwrap());
        move || program.write_all(&data).unwrap()
    });
    let mut got = Vec::new();
    while got.len() < data.len() {
        got.extend(line.receive_some(&mut guest));
        line.send(&mut guest, Op::CreditUpdate, &[]);
    }
    assert!(got == data);
    writer.join().unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 3 << 20];
        program.read_exact(&mut all).unwrap();
        (all, program)
    });
    line.send_all(&mut guest, &data);
    let (all, _program) = reader.join().unwrap();
    assert!(all == data);
    assert_eq!((guest.counters.from_guest.get(), guest.counters.open()), (1, 1));
    assert_eq!(guest.malformed.load(Ordering::Relaxed), 0);
}

impl Line {
    fn receive_some(&mut self, guest: &mut Guest) -> Vec<u8> {
        let (header, data) = guest.packet();
        self.fwd_cnt = self.fwd_cnt.wrapping_add(data.len() as u32);
        let op = Op::from_number(header.op);
        assert!(matches!(op, Some(Op::Rw | Op::CreditRequest)), "{header:?}");
        data
    }

    /// Sends as a driver does: as much as there is credit for, again and again.
    fn send_all(&mut self, guest: &mut Guest, data: &[u8]) {
        let at = guest.rig.ram.take((HEADER_LEN + ROOM) as u64);
        let (mut sent, mut read) = (0_u32, 0_u32);
        let mut left = data;
        while !left.is_empty() {
            let room = BUFFER - (sent - read);
            let count = left.len().min(room as usize).min(ROOM);
            if count == 0 {
                read = guest.expect(Op::CreditUpdate).fwd_cnt;
                continue;
            }
            let (piece, rest) = left.split_at(count);
            let header = Header { len: count as u32, ..self.header(Op::Rw) };
            guest.rig.ram.write(at, &header.to_bytes());
            guest.rig.ram.write(at + HEADER_LEN as u64, piece);
            guest.rig.queue(TX).add(&[(at, (HEADER_LEN + count) as u32)], &[]);
            guest.rig.complete(TX);
            (sent, left) = (sent + count as u32, rest);
        }
    }
}

#[test]
fn connections_that_nobody_wants_are_refused() {
    let mut guest = Guest::ready();
    // By the host: nobody listens, or not any more; a file is no socket.
    drop(UnixListener::bind(guest.path(5)).unwrap());
    std::fs::write(guest.path(6), "").unwrap();
    for port in [4, 5, 6, u32::MAX] {
        let line = Line { host: port, guest: 9, buf_alloc: ALLOC, fwd_cnt: 0 };
        line.send(&mut guest, Op::Request, &[]);
        let answer = guest.expect(Op::Rst);
        assert_eq!((answer.src_cid, answer.src_port, answer.dst_port), (2, port, 9));
    }
    // By the guest.
    let mut program = guest.program();
    program.write_all(b"CONNECT 8\n").unwrap();
    let request = guest.expect(Op::Request);
    guest.send_raw(&request.reset(), &[]);
    assert_eq!(to_end(&mut program), b"");
    // By whoever does not know how to ask.
    let mut program = guest.program();
    program.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(matches!(program.read(&mut [0; 9]), Ok(0) | Err(_)));
    assert_eq!((guest.counters.refused.get(), guest.counters.open()), (5, 0));
    guest.expect_nothing();
}

#[test]
fn a_program_that_gives_up_is_forgotten() {
    let mut guest = Guest::ready();
    let mut program = guest.program();
    program.write_all(b"CONNECT 8\n").unwrap();
    let request = guest.expect(Op::Request);
    drop(program);
    let reset = guest.expect(Op::Rst);
    assert_eq!((reset.src_port, reset.dst_port), (request.src_port, 8));
    // The guest's answer crosses it.
    let line = Line { host: request.src_port, guest: 8, buf_alloc: ALLOC, fwd_cnt: 0 };
    line.send(&mut guest, Op::Response, &[]);
    guest.expect(Op::Rst);
    guest.expect_nothing();
    assert_eq!(guest.counters.open(), 0);
}

#[test]
fn data_waits_for_the_guest_s_room() {
    let mut guest = Guest::ready();
    let (mut line, mut program) = guest.connect(7);
    line.buf_alloc = 10;
    line.send(&mut guest, Op::CreditUpdate, &[]);
    program.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(line.receive(&mut guest, 10), b"0123456789");
    guest.expect(Op::CreditRequest);
    // A guest that has read nothing says so; it is not asked again.
    line.fwd_cnt = 0;
    line.send(&mut guest, Op::CreditUpdate, &[]);
    guest.expect_nothing();
    line.fwd_cnt = 4;
    line.send(&mut guest, Op::CreditUpdate, &[]);
    assert_eq!(line.receive(&mut guest, 4), b"abcd");
    guest.expect(Op::CreditRequest);
    line.fwd_cnt = 14;
    line.send(&mut guest, Op::CreditUpdate, &[]);
    assert_eq!(line.receive(&mut guest, 2), b"ef");
}

#[test]
fn the_guest_is_told_of_room_when_it_asks_and_when_it_matters() {
    let mut guest = Guest::ready();
    let (line, mut program) = guest.connect(7);
    line.send(&mut guest, Op::CreditRequest, &[]);
    assert_eq!(guest.expect(Op::CreditUpdate).fwd_cnt, 0);
    let half = pattern(BUFFER as usize / 2);
    let mut got = half.clone();
    line.send(&mut guest, Op::Rw, &half[1..]);
    program.read_exact(&mut got[1..]).unwrap();
    guest.expect_nothing();
    line.send(&mut guest, Op::Rw, &half[..1]);
    program.read_exact(&mut got[..1]).unwrap();
    assert_eq!(guest.expect(Op::CreditUpdate).fwd_cnt, BUFFER / 2);
    assert!(got == half);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::ready();
    // The guest sends no more, then receives.
    let (mut line, mut program) = guest.connect(1);
    line.send(&mut guest, Op::Rw, b"question");
    line.end(&mut guest, SHUTDOWN_SEND);
    assert_eq!(to_end(&mut program), b"question");
    program.write_all(b"answer").unwrap();
    assert_eq!(line.receive(&mut guest, 6), b"answer");
    drop(program);
    assert_eq!(guest.expect(Op::Shutdown).flags, SHUTDOWN_BOTH);
    line.send(&mut guest, Op::Rst, &[]);
    // The program sends no more, then receives.
    let (mut line, mut program) = guest.called(2);
    program.write_all(b"question").unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(line.receive(&mut guest, 8), b"question");
    assert_eq!(guest.expect(Op::Shutdown).flags, SHUTDOWN_SEND);
    line.send(&mut guest, Op::Rw, b"answer");
    line.end(&mut guest, SHUTDOWN_SEND);
    assert_eq!(to_end(&mut program), b"answer");
    // Nothing is left to be said: it is over.
    assert_eq!(guest.expect(Op::Shutdown).flags, SHUTDOWN_BOTH);
    line.send(&mut guest, Op::Rst, &[]);
    guest.expect_nothing();
    assert_eq!(guest.counters.open(), 0);
}

#[test]
fn a_guest_that_receives_no_more_stops_the_program() {
    let mut guest = Guest::ready();
    let (line, mut program) = guest.connect(1);
    line.end(&mut guest, SHUTDOWN_RECEIVE);
    let error = std::iter::repeat_with(|| program.write_all(b"x")).find_map(Result::err);
    assert_eq!(error.unwrap().kind(), io::ErrorKind::BrokenPipe);
    line.send(&mut guest, Op::Rw, b"still");
    line.end(&mut guest, SHUTDOWN_SEND);
    guest.expect(Op::Rst);
    assert_eq!(to_end(&mut program), b"still");
}

#[test]
fn a_program_that_receives_no_more_is_told_of() {
    let mut guest = Guest::ready();
    let (mut line, mut program) = guest.connect(1);
    program.shutdown(Shutdown::Read).unwrap();
    line.send(&mut guest, Op::Rw, b"lost");
    assert_eq!(guest.expect(Op::Shutdown).flags, SHUTDOWN_RECEIVE);
    line.send(&mut guest, Op::Rw, b"lost, too");
    program.write_all(b"but it talks").unwrap();
    assert_eq!(line.receive(&mut guest, 12), b"but it talks");
}

#[test]
fn a_killed_program_is_a_reset_if_it_had_not_read_all() {
    let mut guest = Guest::ready();
    let (line, program) = guest.connect(1);
    line.send(&mut guest, Op::Rw, b"unread");
    drop(program);
    guest.expect(Op::Rst);
    let (_, program) = guest.connect(2);
    drop(program);
    assert_eq!(guest.expect(Op::Shutdown).flags, SHUTDOWN_BOTH);
    guest.wait_open(1);
}

#[test]
fn what_a_guest_sent_before_it_closed_arrives() {
    let mut guest = Guest::ready();
    let (line, mut program) = guest.called(1);
    let data = pattern(BUFFER as usize + 150_000);
    // Until neither the socket nor we take more.
    let mut sent = 0;
    for piece in data.chunks(10_000) {
        if sent >= 3 * BUFFER as usize / 2 {
            break;
        }
        line.send(&mut guest, Op::Rw, piece);
        sent += piece.len();
        while guest.packet_if_any().is_some() {}
    }
    line.end(&mut guest, SHUTDOWN_BOTH);
    loop {
        let (header, _) = guest.packet();
        if header.op == Op::Rst as u16 {
            break;
        }
        assert_eq!(header.op, Op::CreditUpdate as u16);
    }
    assert!(to_end(&mut program) == data[..sent]);
    guest.wait_open(0);
    // The ports are free at once.
    guest.connect(1);
}

#[test]
fn a_reset_of_the_device_closes_everything() {
    let mut guest = Guest::ready();
    for _ in 0..2 {
        let (_, mut one) = guest.connect(1);
        let (_, mut other) = guest.called(2);
        let mut greeting = guest.program();
        guest.rig.set_status(0);
        for program in [&mut one, &mut other] {
            assert_eq!(to_end(program), b"");
        }
        // Whoever comes now waits for the driver.
        let mut early = guest.program();
        early.write_all(b"CONNECT 3\n").unwrap();
        guest.rig.bring_up(FEATURES | F_EVENT_IDX);
        guest.buffers.clear();
        guest.offer(8);
        assert_eq!(guest.expect(Op::Request).dst_port, 3);
        // It may have been accepted before, or not.
        drop(early);
        guest.expect(Op::Rst);
        assert!(
            greeting.write_all(b"CONNECT 4\n").is_err() || {
                let (header, _) = guest.packet();
                header.dst_port == 4
            }
        );
        drop(greeting);
        std::fs::remove_file(guest.path(1)).unwrap();
        guest.rig.set_status(0);
        guest.rig.bring_up(FEATURES | F_EVENT_IDX);
        guest.buffers.clear();
        guest.offer(8);
    }
}

#[test]
fn many_at_once_are_served_in_turn() {
    let mut guest = Guest::ready();
    let mut lines: Vec<_> = (0..40).map(|port| guest.connect(port)).collect();
    for (line, program) in &mut lines {
        program.write_all(&line.host.to_le_bytes().repeat(5000)).unwrap();
    }
    let mut got: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut first = Vec::new();
    while got.values().map(Vec::len).sum::<usize>() < 40 * 20_000 {
        let (header, data) = guest.packet();
        if first.len() < 120 {
            first.push(header.src_port);
        }
        got.entry(header.src_port).or_default().extend(data);
    }
    for (port, data) in got {
        assert!(data == port.to_le_bytes().repeat(5000), "{port}");
    }
    first.sort_unstable();
    first.dedup();
    assert!(first.len() > 20, "only {first:?} had a turn");
}

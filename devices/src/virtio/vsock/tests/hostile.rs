//! Guests and programs that break the rules, and those that want too much.

use super::*;

#[test]
fn packets_of_nothing_known_are_reset() {
    let mut guest = Guest::ready();
    let known = Header { src_port: 1, dst_port: 2, ..header(Op::Rw) };
    for packet in [
        known,
        Header { op: 0, ..known },
        Header { op: 8, ..known },
        Header { op: u16::MAX, ..known },
        Header { kind: 2, op: 1, ..known },
        Header { kind: 0xffff, op: 1, ..known },
        Header { dst_cid: 0, op: 1, ..known },
        Header { dst_cid: u64::MAX, op: 1, ..known },
        Header { op: Op::Shutdown as u16, flags: u32::MAX, ..known },
        Header { op: Op::Response as u16, ..known },
        Header { op: Op::CreditRequest as u16, ..known },
        Header { len: u32::MAX, ..known },
    ] {
        guest.send_raw(&packet, b"data");
        let (answer, _) = guest.packet();
        assert_eq!(answer, packet.reset());
        // It is not answered itself.
        guest.send_raw(&Header { op: Op::Rst as u16, ..packet }, &[]);
    }
    guest.expect_nothing();
    assert_eq!(guest.malformed.load(Ordering::Relaxed), 0);
}

#[test]
fn packets_of_somebody_else_are_dropped() {
    let mut guest = Guest::ready();
    for src_cid in [0, 2, 4, CID | 1 << 32, u64::MAX] {
        guest.send_raw(&Header { src_cid, ..header(Op::Request) }, &[]);
    }
    guest.expect_nothing();
    assert_eq!(guest.malformed.load(Ordering::Relaxed), 5);
}

#[test]
fn packets_shorter_than_they_say_are_refused() {
    let mut guest = Guest::ready();
    // Not even a header; nothing; what the device should write.
    let at = guest.rig.ram.take(4096);
    guest.rig.queue(TX).add(&[(at, HEADER_LEN as u32 - 1)], &[]);
    guest.rig.queue(TX).add(&[(at, 0)], &[]);
    guest.rig.queue(TX).add(&[], &[(at, 100)]);
    assert_eq!(guest.rig.complete(TX).len(), 3);
    assert_eq!(guest.malformed.load(Ordering::Relaxed), 3);
    for len in [5, 4097, BUFFER, u32::MAX] {
        let (line, mut program) = guest.connect(len);
        guest.send_raw(&Header { len, ..line.header(Op::Rw) }, b"four");
        guest.expect(Op::Rst);
        assert_eq!(to_end(&mut program), b"");
    }
    assert_eq!((guest.malformed.load(Ordering::Relaxed), guest.counters.open()), (7, 0));
}

#[test]
fn packets_out_of_place_end_their_connection() {
    let mut guest = Guest::ready();
    for (port, op) in [(1, Op::Request as u16), (2, Op::Response as u16), (3, 0), (4, 99)] {
        let (line, mut program) = guest.connect(port);
        guest.send_raw(&Header { op, ..line.header(Op::Rw) }, &[]);
        guest.expect(Op::Rst);
        assert_eq!(to_end(&mut program), b"", "{op}");
    }
    // Data after its end; data before there is a connection.
    let (line, mut program) = guest.connect(5);
    line.end(&mut guest, SHUTDOWN_SEND);
    line.send(&mut guest, Op::Rw, b"late");
    guest.expect(Op::Rst);
    assert_eq!(to_end(&mut program), b"");
    let mut program = guest.program();
    program.write_all(b"CONNECT 6\n").unwrap();
    let request = guest.expect(Op::Request);
    let line = Line { host: request.src_port, guest: 6, buf_alloc: ALLOC, fwd_cnt: 0 };
    line.send(&mut guest, Op::Rw, b"early");
    guest.expect(Op::Rst);
    assert_eq!(to_end(&mut program), b"");
    guest.expect_nothing();
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_cut_off() {
    let mut guest = Guest::ready();
    let (line, mut program) = guest.connect(1);
    let piece = pattern(60_000);
    let mut sent = 0;
    let reset = loop {
        line.send(&mut guest, Op::Rw, &piece);
        sent += piece.len();
        assert!(sent < 4 << 20, "it is never too much");
        match guest.packet_if_any() {
            Some((header, _)) if header.op == Op::Rst as u16 => break header,
            Some((header, _)) => assert_eq!(header.op, Op::CreditUpdate as u16),
            None => {}
        }
    };
    assert_eq!(reset.dst_port, line.guest);
    // What the socket had taken is the program's.
    let got = to_end(&mut program);
    assert!(!got.is_empty() && got.len() < sent);
    assert_eq!(guest.counters.open(), 0);
}

#[test]
fn a_guest_without_room_is_sent_nothing_and_asked_once() {
    let mut guest = Guest::ready();
    let (mut line, mut program) = guest.connect(1);
    for (buf_alloc, fwd_cnt) in [(0, 0), (0, u32::MAX), (u32::MAX, 1), (1, 1 << 31)] {
        (line.buf_alloc, line.fwd_cnt) = (buf_alloc, fwd_cnt);
        line.send(&mut guest, Op::CreditUpdate, &[]);
        program.write_all(b"x").unwrap();
        guest.expect_nothing();
    }
    (line.buf_alloc, line.fwd_cnt) = (ALLOC, 0);
    line.send(&mut guest, Op::CreditUpdate, &[]);
    assert_eq!(line.receive(&mut guest, 4), b"xxxx");
}

#[test]
fn receive_buffers_without_room_are_given_back() {
    let mut guest = Guest::new(FEATURES);
    let at = guest.rig.ram.take(4096);
    for len in [0, 1, HEADER_LEN as u32] {
        guest.rig.queue(RX).add(&[], &[(at, len)]);
    }
    guest.rig.queue(RX).add(&[(at, 100)], &[]);
    guest.send_raw(&header(Op::Rw), &[]);
    assert_eq!(guest.rig.complete(RX).iter().map(|(_, len)| len).sum::<u32>(), 0);
    assert_eq!(guest.malformed.load(Ordering::Relaxed), 4);
    guest.offer(1);
    guest.expect(Op::Rst);
}

#[test]
fn a_flood_without_receive_buffers_stops_and_goes_on() {
    let mut guest = Guest::new(FEATURES | F_EVENT_IDX);
    let at = guest.rig.ram.put(&header(Op::Rw).to_bytes());
    let size = usize::from(QUEUE_SIZE);
    // As many answers as a ring has entries are kept.
    for _ in 0..2 {
        while guest.rig.queue(TX).free() > 0 {
            guest.rig.queue(TX).add(&[(at, HEADER_LEN as u32)], &[]);
        }
        guest.rig.kick(TX);
        let until = Instant::now() + PATIENCE;
        while guest.rig.queue(TX).used_index() < QUEUE_SIZE && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(guest.rig.queue(TX).used_index(), QUEUE_SIZE);
        guest.rig.queue(TX).take_used();
    }
    // Every one has its answer, in the end.
    guest.offer(8);
    for _ in 0..2 * size {
        guest.expect(Op::Rst);
    }
    assert_eq!(guest.rig.complete(TX).len(), size);
    guest.expect_nothing();
}

#[test]
fn no_more_than_so_many_connections() {
    let mut guest = Guest::ready();
    let listener = UnixListener::bind(guest.path(1)).unwrap();
    let mut programs = Vec::new();
    let line = |number: u32| Line { host: 1, guest: number, buf_alloc: ALLOC, fwd_cnt: 0 };
    for number in 0..CONNECTIONS_MAX as u32 {
        line(number).send(&mut guest, Op::Request, &[]);
        guest.expect(Op::Response);
        programs.push(listener.accept().unwrap().0);
    }
    line(9999).send(&mut guest, Op::Request, &[]);
    guest.expect(Op::Rst);
    let mut late = guest.program();
    assert_eq!(to_end(&mut late), b"");
    // A place is free again.
    drop(programs.pop());
    assert_eq!(guest.expect(Op::Shutdown).flags, SHUTDOWN_BOTH);
    line(CONNECTIONS_MAX as u32 - 1).send(&mut guest, Op::Rst, &[]);
    guest.called(7);
    assert_eq!(guest.counters.open(), CONNECTIONS_MAX as u64);
}

#[test]
fn an_impossible_ring_needs_a_reset() {
    let mut guest = Guest::ready();
    for queue in [TX, RX] {
        guest.rig.queue(queue).set_avail_index(1000);
        // So that the receive ring is looked at.
        if queue == RX {
            let at = guest.rig.ram.put(&header(Op::Rw).to_bytes());
            guest.rig.queue(TX).add(&[(at, HEADER_LEN as u32)], &[]);
            guest.rig.kick(TX);
        }
        guest.rig.kick(queue);
        guest.rig.wait_needs_reset();
        guest.rig.bring_up(FEATURES);
        assert_eq!(guest.rig.status() & line::NEEDS_RESET, 0);
    }
}

#[test]
fn a_driver_without_one_of_the_queues_is_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let sockets = Sockets::new(UnixListener::bind(&path).unwrap(), path).unwrap();
    let mut rig = Rig::new(Box::new(Vsock::new(9, sockets).unwrap()));
    assert!(rig.negotiate(FEATURES));
    rig.set_up_queue(0, 0, FEATURES);
    rig.set_status(1 | 2 | line::FEATURES_OK | line::DRIVER_OK);
    rig.set_status(0);
    rig.bring_up(FEATURES);
}

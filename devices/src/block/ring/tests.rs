//! Operations on real files, in a ring of this kernel; skipped aloud where there is none.

use std::io::Write;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;

/// `None`, said aloud, where the kernel does not allow io_uring.
fn ring<'m>(memory: &GuestMemory, ops: u16, events: Vec<Event>) -> Option<Ring<'m>> {
    match Idle::new(ops) {
        Ok(idle) => Some(idle.enter(memory.clone(), events).unwrap()),
        Err(error) => {
            eprintln!("skipped: no io_uring here: {error}");
            None
        }
    }
}

fn memory() -> GuestMemory {
    Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap())
}

fn next(ring: &mut Ring<'_>) -> Completion {
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        ring.wait().unwrap();
    }
}

#[test]
fn data_goes_there_and_back_in_pieces() {
    let memory = memory();
    let Some(mut ring) = ring(&memory, 4, vec![]) else { return };
    let file = Arc::new(tempfile::tempfile().unwrap());
    memory.write_slice(b"0123456789", GuestAddress(100)).unwrap();
    let piece = |at, len| memory.get_slice(GuestAddress(at), len).unwrap();
    let extent = |offset| Extent { file: file.clone(), offset, lease: None };
    let token = Token { slot: 7, at: 1, len: 10 };
    let out = [piece(100, 3), piece(103, 7)];
    assert!(ring.transfer(token, Direction::Write, extent(5), out.into_iter()));
    let done = next(&mut ring);
    assert!(matches!(done, Completion::Done { token: t, result: Ok(()) } if t == token));
    let back = [piece(200, 10)];
    assert!(ring.transfer(token, Direction::Read, extent(5), back.into_iter()));
    assert!(matches!(next(&mut ring), Completion::Done { result: Ok(()), .. }));
    let mut text = [0; 10];
    memory.read_slice(&mut text, GuestAddress(200)).unwrap();
    assert_eq!(&text, b"0123456789");
    assert!(ring.sync(token, file));
    assert!(matches!(next(&mut ring), Completion::Done { result: Ok(()), .. }));
}

#[test]
fn room_is_limited_and_comes_back() {
    let memory = memory();
    let Some(mut ring) = ring(&memory, 2, vec![]) else { return };
    let file = Arc::new(tempfile::tempfile().unwrap());
    for _ in 0..5 {
        assert!(ring.sync(Token::default(), file.clone()));
        assert!(ring.sync(Token::default(), file.clone()));
        assert!(!ring.has_room() && !ring.sync(Token::default(), file.clone()));
        next(&mut ring);
        next(&mut ring);
        assert_eq!(ring.in_flight(), 0);
    }
    assert_eq!(Arc::strong_count(&file), 1, "files are let go");
}

#[test]
fn a_short_file_is_an_error_and_not_an_endless_read() {
    let memory = memory();
    let Some(mut ring) = ring(&memory, 2, vec![]) else { return };
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[1; 700]).unwrap();
    let extent = Extent { file: Arc::new(file), offset: 0, lease: None };
    let piece = memory.get_slice(GuestAddress(0), 1024).unwrap();
    assert!(ring.transfer(Token::default(), Direction::Read, extent, std::iter::once(piece)));
    let Completion::Done { result: Err(error), .. } = next(&mut ring) else { panic!("it read") };
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn events_are_seen_each_time() {
    let memory = memory();
    let events = vec![Event::new().unwrap(), Event::new().unwrap()];
    let Some(mut ring) = ring(&memory, 1, events.clone()) else { return };
    for round in 0..10 {
        events[round % 2].signal();
        assert!(matches!(next(&mut ring), Completion::Event(event) if event == round % 2));
        assert!(ring.next_completion().is_none());
    }
}

#[test]
fn without_multishot_events_are_seen_too() {
    let memory = memory();
    let event = Event::new().unwrap();
    let Some(mut ring) = ring(&memory, 1, vec![]) else { return };
    ring.multishot = false;
    ring.events.push(event.clone());
    ring.watch(0);
    for _ in 0..10 {
        event.signal();
        assert!(matches!(next(&mut ring), Completion::Event(0)));
        assert!(ring.next_completion().is_none());
    }
}

#[test]
fn dropping_waits_for_what_is_in_flight() {
    let memory = memory();
    let Some(mut ring) = ring(&memory, 8, vec![]) else { return };
    let file = Arc::new(tempfile::tempfile().unwrap());
    let lease: Arc<u8> = Arc::new(1);
    for at in 0..8u64 {
        let piece = memory.get_slice(GuestAddress(at << 16), 1 << 16).unwrap();
        let extent = Extent { file: file.clone(), offset: at << 16, lease: Some(lease.clone()) };
        let token = Token::default();
        assert!(ring.transfer(token, Direction::Write, extent, std::iter::once(piece)));
    }
    assert_eq!(Arc::strong_count(&lease), 9);
    drop(ring);
    assert_eq!(Arc::strong_count(&lease), 1);
    assert_eq!(file.metadata().unwrap().len(), 8 << 16);
}

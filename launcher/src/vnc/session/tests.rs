//! Clients speak, as the protocol says and as it does not; their threads, the hub and the painter are
//! the real ones.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use devices::display::{Picture, Rect};
use devices::input::{Buttons, Leds};

use super::super::hub::Desk;
use super::super::rfb::{fence, pseudo};
use super::super::testkit::client::{COPY_RECT, House, RAW, Said};
use super::super::testkit::{Board, Recorder, desk};

const RED: u32 = 0x00ff_0000;
const BLUE: u32 = 0x0000_00ff;
const ALL: [i32; 9] = [
    RAW,
    pseudo::DESKTOP_SIZE,
    pseudo::EXTENDED_DESKTOP_SIZE,
    pseudo::CURSOR,
    pseudo::EXTENDED_KEY,
    pseudo::LED_STATE,
    pseudo::DESKTOP_NAME,
    pseudo::FENCE,
    pseudo::CONTINUOUS_UPDATES,
];

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

fn house(width: u32, height: u32) -> (House, Arc<Board>, Arc<Recorder>) {
    let (board, input) = (Board::new(width, height, RED), Arc::new(Recorder::default()));
    (House::open(desk(&board, &input)), board, input)
}

/// Waits for what another thread does soon.
fn soon(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

/// Rows that can be told apart.
fn stripes(board: &Board, shift: u32) {
    let mut picture = Picture::new(128, 128);
    for y in 0..128 {
        for (x, pixel) in (0..).zip(picture.row_mut(y)) {
            *pixel = (0x0001_0203 * (1 + y + shift)) ^ x;
        }
    }
    board.show(picture);
}

#[test]
fn what_scrolls_is_copied_by_those_who_can() {
    let (mut house, board, _) = house(128, 128);
    stripes(&board, 0);
    let mut copies = house.viewer(&[COPY_RECT, RAW]);
    let mut copies_not = house.viewer(&[RAW]);
    for client in [&mut copies, &mut copies_not] {
        client.request(false);
        client.update();
    }
    // A first look back is what the next is compared with.
    board.fill(rect(0, 0, 1, 1), BLUE);
    for client in [&mut copies, &mut copies_not] {
        client.request(true);
        client.update();
    }
    for client in [&mut copies, &mut copies_not] {
        client.request(true);
    }
    stripes(&board, 16);
    let update = copies.update();
    assert_eq!(update[0], (rect(0, 0, 128, 112), COPY_RECT, vec![]));
    assert_eq!(update[1..], [(rect(0, 112, 128, 16), RAW, vec![])]);
    assert_eq!(copies.picture, board.picture());
    let update = copies_not.update();
    assert_eq!(update, [(rect(0, 0, 128, 128), RAW, vec![])]);
    assert_eq!(copies_not.picture, board.picture());
    // Two steps at once, of which it has seen neither, are not copied twice.
    stripes(&board, 32);
    copies_not.request(true);
    copies_not.update();
    stripes(&board, 48);
    copies_not.request(true);
    copies_not.update();
    copies.request(true);
    copies.update();
    assert_eq!(copies.picture, board.picture());
}

#[test]
fn a_viewer_sees_the_screen_and_then_what_changes() {
    let (mut house, board, _) = house(100, 80);
    let mut client = house.viewer(&[RAW]);
    assert_eq!(client.name, "pet");
    client.request(false);
    assert_eq!(client.update().len(), 1);
    assert_eq!(client.picture, board.picture());
    client.request(true);
    board.fill(rect(20, 20, 1, 1), BLUE);
    let update = client.update();
    assert_eq!(update, [(rect(16, 16, 16, 16), RAW, vec![])], "the tile that has changed");
    assert_eq!(client.picture, board.picture());
    // What nobody has asked for is one update, with all that has changed since.
    board.fill(rect(0, 0, 1, 1), BLUE);
    board.fill(rect(99, 79, 1, 1), BLUE);
    client.request(true);
    client.request(true);
    client.update();
    assert_eq!(client.picture, board.picture());
}

#[test]
fn only_the_area_asked_for_is_sent_and_the_rest_is_kept() {
    let (mut house, board, _) = house(64, 64);
    let mut client = house.viewer(&[RAW]);
    client.request(false);
    client.update();
    board.fill(rect(0, 0, 64, 64), BLUE);
    client.request_area(true, &rect(0, 0, 16, 16));
    assert_eq!(client.update(), [(rect(0, 0, 16, 16), RAW, vec![])]);
    client.request(true);
    client.update();
    assert_eq!(client.picture, board.picture());
    // In full, though nothing has changed; and without anything in it, an update of nothing.
    client.request_area(false, &rect(60, 60, 9999, 9999));
    assert_eq!(client.update(), [(rect(48, 48, 16, 16), RAW, vec![])]);
    client.request_area(false, &rect(5000, 5000, 1, 1));
    assert_eq!(client.update(), []);
}

#[test]
fn nothing_is_painted_while_nobody_asks_and_the_screen_knows_who_watches() {
    let (mut house, board, _) = house(64, 64);
    assert!(!board.watched.load(Ordering::SeqCst));
    let mut client = house.viewer(&[pseudo::FENCE]);
    client.request(false);
    client.update();
    let painted = board.painted.load(Ordering::SeqCst);
    for n in 0..100 {
        board.fill(rect(n % 64, 0, 1, 1), n);
        client.fence(fence::REQUEST, b"x");
        while client.hear() != Said::Fence(0, b"x".to_vec()) {}
    }
    assert_eq!(board.painted.load(Ordering::SeqCst), painted);
    assert!(board.watched.load(Ordering::SeqCst));
    assert_eq!(house.hub.viewers(), 1);
    drop(client);
    soon("unwatched", || !board.watched.load(Ordering::SeqCst));
    assert_eq!(house.hub.viewers(), 0);
    let picture = house.hub.picture(Duration::from_secs(20)).unwrap();
    assert_eq!(picture, board.picture());
    soon("unwatched again", || !board.watched.load(Ordering::SeqCst));
}

#[test]
fn everything_understood_is_announced_once() {
    let (mut house, _board, input) = house(64, 48);
    input.set_leds(Leds::NUM_LOCK);
    let mut client = house.viewer(&ALL);
    assert_eq!(client.hear(), Said::Fence(fence::REQUEST, vec![]));
    assert_eq!(client.hear(), Said::EndOfContinuousUpdates);
    client.request(false);
    let kinds: Vec<i32> = client.update().iter().map(|(_, kind, _)| *kind).collect();
    let want = [
        pseudo::EXTENDED_KEY,
        pseudo::DESKTOP_NAME,
        pseudo::LED_STATE,
        pseudo::CURSOR,
        pseudo::EXTENDED_DESKTOP_SIZE,
        RAW,
    ];
    assert_eq!(kinds, want);
    client.request(false);
    assert_eq!(client.update().len(), 1);
    // Lights are news of their own.
    client.request(true);
    input.set_leds(Leds::CAPS_LOCK | Leds::NUM_LOCK);
    assert_eq!(client.update(), [(Rect::default(), pseudo::LED_STATE, vec![6])]);
}

#[test]
fn a_new_size_is_told_before_any_of_its_pixels() {
    let (mut house, board, _) = house(64, 48);
    for encodings in [&[pseudo::DESKTOP_SIZE][..], &ALL] {
        board.resize(64, 48, RED);
        let mut client = house.viewer(encodings);
        client.request(false);
        client.update();
        client.request(true);
        board.resize(100, 100, BLUE);
        let update = client.update();
        assert_eq!(update.len(), 1);
        assert_eq!((update[0].0.width, update[0].0.height), (100, 100));
        client.request(true);
        client.update();
        assert_eq!(client.picture, board.picture());
    }
}

#[test]
fn who_cannot_follow_sees_what_fits() {
    let (mut house, board, _) = house(64, 48);
    let mut client = house.viewer(&[RAW]);
    client.request(false);
    client.update();
    client.request(true);
    board.resize(32, 100, BLUE);
    client.update();
    let mut want = Picture::new(64, 48);
    (0..48).for_each(|y| want.row_mut(y)[..32].fill(BLUE));
    assert_eq!(client.picture, want);
}

#[test]
fn clients_do_not_decide_how_large_the_screen_is() {
    let (mut house, _board, _) = house(64, 48);
    let mut client = house.viewer(&[pseudo::EXTENDED_DESKTOP_SIZE]);
    client.request(false);
    client.update();
    client.send(&[251, 0, 4, 0, 3, 0, 1, 0]);
    client.send(&[0; 16]);
    client.request(true);
    let update = client.update();
    // The reason: this client; the status: prohibited.
    assert_eq!((update[0].0, update.len()), (rect(1, 1, 64, 48), 1));
}

#[test]
fn keys_and_pointer_reach_the_guest_and_are_let_go() {
    let (mut house, _board, input) = house(100, 100);
    let mut client = house.viewer(&[pseudo::EXTENDED_KEY]);
    client.key('a'.into(), true);
    client.key('a'.into(), false);
    client.key(0xffe3, true);
    client.send(&[255, 0, 0, 1, 0, 0, 0, b'y', 0, 0, 0, 0x2c]);
    client.pointer(1, 99, 0);
    client.pointer(0b1_0001, 99, 0);
    drop(client);
    soon("released", || input.keys().len() == 6);
    let mut keys = input.take();
    assert_eq!(keys[..4], [30, -30, 29, 44]);
    keys[4..].sort_unstable();
    assert_eq!(keys[4..], [-44, -29], "what it held was released");
    soon("let go", || input.pointer.lock().unwrap().len() == 3);
    let pointer = input.pointer.lock().unwrap().clone();
    let seen: Vec<(Buttons, i8)> = pointer.iter().map(|p| (p.buttons, p.wheel)).collect();
    let left = Buttons::LEFT;
    assert_eq!(seen, [(left, 0), (left, -1), (Buttons::empty(), 0)]);
    assert_eq!((pointer[0].x, pointer[0].y), (32_604, 163));
}

#[test]
fn passwords_let_in_and_who_may_look_does_no_more() {
    let (board, input) = (Board::new(64, 48, RED), Arc::new(Recorder::default()));
    let mut house = House::locked(desk(&board, &input));
    let mut full = house.visitor("10.0.0.1");
    assert!(full.try_password(b"full"));
    full.init(true);
    let mut view = house.visitor("10.0.0.1");
    assert!(view.try_password(b"view"));
    // It does not get the screen for itself either.
    view.init(false);
    view.key('x'.into(), true);
    view.pointer(1, 0, 0);
    view.request(false);
    view.update();
    assert_eq!(view.picture, board.picture());
    full.key('a'.into(), true);
    soon("typed", || !input.keys().is_empty());
    assert_eq!(input.take(), [30]);
    assert!(input.pointer.lock().unwrap().is_empty());
    for wrong in [&b"wrong"[..], b"", b"Full"] {
        let mut stranger = house.visitor("10.0.0.2");
        assert!(!stranger.try_password(wrong));
        assert!(stranger.is_closed());
    }
    let mut stranger = house.visitor("10.0.0.2");
    assert!(!stranger.try_password(b"full"), "not even the right one, after three wrong ones");
    let mut other = house.visitor("10.0.0.3");
    assert!(other.try_password(b"full"));
}

#[test]
fn who_wants_the_screen_alone_gets_it() {
    let (mut house, _board, _) = house(64, 48);
    let mut first = house.viewer(&[]);
    let mut second = house.viewer(&[]);
    let mut alone = house.visitor("10.0.0.2");
    alone.enter(false);
    assert!(first.is_closed() && second.is_closed());
    let mut third = house.viewer(&[]);
    third.request(false);
    third.update();
    alone.request(false);
    alone.update();
}

#[test]
fn a_dark_display_gives_way_to_the_console_until_it_shows_something() {
    let (display, terminal) = (Board::new(64, 48, 0), Board::new(80, 30, BLUE));
    let input = Arc::new(Recorder::default());
    let desk = Desk { terminal: Some(terminal.clone()), ..desk(&display, &input) };
    let mut house = House::open(desk);
    let mut client = house.viewer(&[pseudo::DESKTOP_SIZE, pseudo::DESKTOP_NAME]);
    assert_eq!((client.picture.width(), client.name.as_str()), (64, "pet"));
    client.request(false);
    client.update();
    terminal.printed.store(true, Ordering::SeqCst);
    client.request(true);
    let update = client.update();
    assert_eq!(update[0].2, b"pet (serial console)");
    assert_eq!((client.picture.width(), client.picture.height()), (80, 30));
    client.request(true);
    client.update();
    assert_eq!(client.picture, terminal.picture());
    // Keys go where the viewer looks.
    client.key(0xffe3, true);
    client.key('c'.into(), true);
    soon("typed", || terminal.typed.lock().unwrap().len() == 2);
    assert_eq!(terminal.typed.lock().unwrap()[1], ('c'.into(), true, false));
    client.key('c'.into(), false);
    client.key(0xffe3, false);
    display.fill(rect(0, 0, 1, 1), RED);
    client.request(true);
    client.update();
    client.request(true);
    client.update();
    assert_eq!(client.picture, display.picture());
    soon("the console is left alone", || !terminal.watched.load(Ordering::SeqCst));
    // By hand: Control, Alt and Shift with 2, and with 1.
    let modifiers = [0xffe3, 0xffe9, 0xffe1];
    for (key, want) in [('2', terminal.picture()), ('1', display.picture())] {
        modifiers.iter().for_each(|keysym| client.key(*keysym, true));
        client.key(key.into(), true);
        client.key(key.into(), false);
        modifiers.iter().for_each(|keysym| client.key(*keysym, false));
        client.request(true);
        client.update();
        client.request(true);
        client.update();
        assert_eq!(client.picture, want);
    }
    let keys = input.take();
    assert!(keys.iter().all(|key| [29, 56, 42].contains(&key.abs())), "{keys:?}");
    assert_eq!(keys.iter().sum::<i32>(), 0, "nothing is left pressed");
}

#[test]
fn continuous_updates_wait_for_a_client_that_falls_behind() {
    let (mut house, board, _) = house(64, 48);
    let mut client = house.viewer(&ALL);
    client.send(&[150, 1, 0, 0, 0, 0, 0, 64, 0, 48]);
    let mut fences = Vec::new();
    for colour in 0..3 {
        board.fill(rect(0, 0, 64, 48), colour);
        client.update();
        match client.hear() {
            Said::Fence(flags, payload) => fences.push((flags, payload)),
            other => panic!("{other:?}"),
        }
        assert_eq!(client.picture, board.picture());
    }
    // It answers none of them: nothing more comes, whatever is painted, but it is not deaf.
    board.fill(rect(0, 0, 64, 48), BLUE);
    client.fence(fence::REQUEST, b"mine");
    assert_eq!(client.hear(), Said::Fence(0, b"mine".to_vec()));
    client.fence(fences[0].0 & !fence::REQUEST, &fences[0].1);
    client.update();
    assert_eq!(client.picture, board.picture());
    client.send(&[150, 0, 0, 0, 0, 0, 0, 64, 0, 48]);
    while client.hear() != Said::EndOfContinuousUpdates {}
}

#[test]
fn questions_in_a_flood_are_not_kept() {
    use std::io::Write;
    let (mut house, board, _) = house(64, 48);
    let mut client = house.viewer(&[RAW]);
    let mut flood = vec![248, 0, 0, 0, 0x80, 0, 0, 0, 64];
    flood.extend([b'f'; 64]);
    flood.extend([3, 0, 0, 0, 0, 0, 0, 64, 0, 48]);
    // Until nothing more is taken: the server waits for its answers to be read.
    client.stream.set_nonblocking(true).unwrap();
    let mut sent = 0u64;
    let mut stalls = 0;
    while stalls < 200 {
        match client.stream.write(&flood[(sent % flood.len() as u64) as usize..]) {
            Ok(count) => (sent, stalls) = (sent + count as u64, 0),
            Err(_) => {
                stalls += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(sent < 64 << 20, "everything is swallowed");
    }
    // Another one notices nothing.
    let mut other = house.viewer(&[RAW]);
    other.request(false);
    other.update();
    assert_eq!(other.picture, board.picture());
    // And every question that came whole is answered.
    client.stream.set_nonblocking(false).unwrap();
    let mut answers = 0;
    while answers < sent / flood.len() as u64 {
        if let Said::Fence(flags, payload) = client.hear() {
            assert_eq!((flags, payload.len()), (0, 64));
            answers += 1;
        }
    }
}

#[test]
fn ten_viewers_one_stalled_and_one_talking_nonsense() {
    let (mut house, board, _) = house(320, 200);
    let mut viewers: Vec<_> = (0..8).map(|_| house.viewer(&ALL)).collect();
    let mut stalled = house.viewer(&ALL);
    stalled.send(&[150, 1, 0, 0, 0, 0, 1, 64, 0, 200]);
    (0..1000).for_each(|_| stalled.request(false));
    let mut rude = house.viewer(&[]);
    rude.send(b"\xff\xff nonsense");
    for colour in 0..20 {
        board.fill(rect(colour, colour, 150, 150), colour);
        for viewer in &mut viewers {
            viewer.request(colour > 0);
            viewer.update();
        }
    }
    for viewer in &mut viewers {
        viewer.request(false);
        viewer.update();
        assert_eq!(viewer.picture, board.picture());
    }
    assert!(rude.is_closed());
    assert!(house.hub.viewers() >= viewers.len());
}

#[test]
fn pixels_that_cannot_be_end_a_session() {
    let (mut house, _board, _) = house(64, 48);
    for format in [[0; 16], [0xff; 16], [24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]] {
        let mut client = house.viewer(&[]);
        client.send(&[0, 0, 0, 0]);
        client.send(&format);
        assert!(client.is_closed());
    }
}

#[test]
fn a_machine_without_screens_shows_black() {
    let mut house = House::open(Desk { name: "pet".to_owned(), ..Desk::default() });
    let mut client = house.viewer(&ALL);
    assert_eq!((client.picture.width(), client.picture.height()), (640, 480));
    client.key('a'.into(), true);
    client.pointer(1, 5, 5);
    client.request(false);
    client.update();
    assert_eq!(client.picture, Picture::new(640, 480));
}

//! The input devices, their driver's side played by the testkit.

use std::time::{Duration, Instant};

use super::*;
use crate::input::{Buttons, Key, Leds, POSITION_MAX, Pointer};
use crate::virtio::testkit::Rig;
use crate::virtio::{F_EVENT_IDX, F_VERSION_1};

const CONFIG: u64 = crate::virtio::pci::caps::DEVICE;

struct Driver {
    rig: Rig,
    reports: Arc<Reports>,
    buffers: Vec<u64>,
    heads: Vec<u16>,
}

impl Driver {
    fn new(kind: Kind, features: u64) -> Driver {
        let (input, reports) = Input::new(kind).unwrap();
        let mut rig = Rig::new(Box::new(input));
        assert!(!reports.is_open());
        rig.bring_up(F_VERSION_1 | features);
        assert!(reports.is_open());
        Driver { rig, reports, buffers: Vec::new(), heads: Vec::new() }
    }

    /// Gives the device a buffer for an event each.
    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let buffer = self.rig.ram.take(8);
            self.heads.push(self.rig.queue(0).add(&[], &[(buffer, 8)]));
            self.buffers.push(buffer);
        }
        self.rig.kick_if_asked(0);
    }

    /// The events in all buffers offered, as (type, code, value).
    fn events(&mut self) -> Vec<(u16, u16, i32)> {
        let used = self.rig.complete(0);
        assert_eq!(used.len(), self.buffers.len());
        let by_head: Vec<u64> = used
            .iter()
            .map(|(head, len)| {
                assert_eq!(*len, 8);
                let at = self.heads.iter().position(|h| u32::from(*h) == *head).unwrap();
                self.buffers[at]
            })
            .collect();
        self.buffers.clear();
        self.heads.clear();
        by_head
            .into_iter()
            .map(|at| {
                let bytes = self.rig.ram.read(at, 8).try_into().unwrap();
                let event = Event::parse(bytes);
                (event.kind, event.code, event.value as i32)
            })
            .collect()
    }

    fn config(&self, select: u8, subsel: u8) -> Vec<u8> {
        self.rig.write(CONFIG, &[select, subsel]);
        let [size] = self.rig.read::<1>(CONFIG + 2);
        (0..u64::from(size)).map(|at| self.rig.read::<1>(CONFIG + 8 + at)[0]).collect()
    }
}

const A: Key = Key(30);
const SYN: (u16, u16, i32) = (0, 0, 0);

#[test]
fn keys_arrive_in_order_each_ended_by_a_report() {
    for features in [0, F_EVENT_IDX] {
        let mut driver = Driver::new(Kind::Keyboard, features);
        driver.offer(6);
        for pressed in [true, true, false, false] {
            driver.reports.key(A, pressed);
        }
        let want = [(1, 30, 1), SYN, (1, 30, 2), SYN, (1, 30, 0), SYN];
        assert_eq!(driver.events(), want);
        // Buffers that come after the events are filled as well.
        driver.reports.key(A, true);
        driver.offer(2);
        assert_eq!(driver.events(), [(1, 30, 1), SYN]);
    }
}

#[test]
fn the_pointer_has_a_position_buttons_and_wheels() {
    let mut driver = Driver::new(Kind::Tablet, 0);
    driver.offer(4);
    let at = Pointer { x: 5, y: u16::MAX, buttons: Buttons::LEFT, ..Pointer::default() };
    driver.reports.pointer(at);
    let max = i32::from(POSITION_MAX);
    assert_eq!(driver.events(), [(3, 0, 5), (3, 1, max), (1, 0x110, 1), SYN]);
    driver.offer(6);
    let at = Pointer { x: 5, y: 7, wheel: -1, side_wheel: 2, ..Pointer::default() };
    driver.reports.pointer(at);
    let want = [(3, 0, 5), (3, 1, 7), (1, 0x110, 0), (2, 8, -1), (2, 6, 2), SYN];
    assert_eq!(driver.events(), want);
    driver.offer(3);
    driver.reports.pointer(Pointer { x: 5, y: 7, ..Pointer::default() });
    driver.reports.pointer(Pointer { x: 6, y: 7, ..Pointer::default() });
    assert_eq!(driver.events(), [(3, 0, 6), (3, 1, 7), SYN], "what has not changed is no report");
}

#[test]
fn movements_add_up_while_nobody_fetches_them() {
    let (_input, reports) = Input::new(Kind::Tablet).unwrap();
    reports.open();
    for x in 0..1000 {
        reports.pointer(Pointer { x, wheel: 1, ..Pointer::default() });
    }
    let events = reports.take();
    assert_eq!((events[0].value, events[2].value, events.len()), (999, 1000, 4));
    assert!(reports.take().is_empty());
    for held in [true, false].repeat(1000) {
        let buttons = if held { Buttons::RIGHT } else { Buttons::empty() };
        reports.pointer(Pointer { x: 999, buttons, ..Pointer::default() });
    }
    let all: Vec<Event> = std::iter::repeat_with(|| reports.take())
        .take_while(|events| !events.is_empty())
        .flatten()
        .collect();
    assert!(all.len() < 2000);
    let buttons: Vec<u32> = all.iter().filter(|e| e.kind == 1).map(|e| e.value).collect();
    assert_eq!(buttons.last(), Some(&0), "what was released is not held");
}

#[test]
fn no_key_stays_down_however_many_are_dropped() {
    let (_input, reports) = Input::new(Kind::Keyboard).unwrap();
    reports.key(A, true);
    assert!(!reports.is_waiting(), "without a driver nothing is taken");
    reports.open();
    for _ in 0..10 {
        (1..=300).for_each(|key| reports.key(Key(key), true));
    }
    (1..=300).for_each(|key| reports.key(Key(key), false));
    let mut down = std::collections::BTreeSet::new();
    let mut count = 0;
    while let [key, _] = reports.take()[..] {
        count += 1;
        match key.value {
            0 => assert!(down.remove(&key.code)),
            _ => drop(down.insert(key.code)),
        }
    }
    assert!(down.is_empty() && (100..=256).contains(&count), "{count} reports, {down:?} down");
}

#[test]
fn the_driver_switches_lights() {
    let mut driver = Driver::new(Kind::Keyboard, 0);
    let light = |driver: &mut Driver, kind: u16, code: u16, value: u32| {
        let buffer = driver.rig.ram.put(&Event { kind, code, value }.bytes());
        driver.rig.queue(1).add(&[(buffer, 8)], &[]);
        driver.rig.complete(1);
        driver.reports.leds()
    };
    assert_eq!(light(&mut driver, 0x11, 1, 1), Leds::CAPS_LOCK);
    assert_eq!(light(&mut driver, 0x11, 0, 1), Leds::CAPS_LOCK | Leds::NUM_LOCK);
    assert_eq!(light(&mut driver, 0x11, 1, 0), Leds::NUM_LOCK);
    for odd in [(0x11, 77, 1), (0, 0, 0), (1, 2, 1)] {
        assert_eq!(light(&mut driver, odd.0, odd.1, odd.2), Leds::NUM_LOCK);
    }
    // An event cut short is given back, and ignored.
    let buffer = driver.rig.ram.put(&[0x11, 0, 2]);
    driver.rig.queue(1).add(&[(buffer, 3)], &[]);
    assert_eq!(driver.rig.complete(1).len(), 1);
    driver.rig.set_status(0);
    assert_eq!(driver.reports.leds(), Leds::empty());
}

#[test]
fn a_reset_forgets_and_lets_go() {
    let mut driver = Driver::new(Kind::Keyboard, 0);
    driver.reports.key(A, true);
    driver.rig.set_status(0);
    assert!(!driver.reports.is_open());
    driver.rig.bring_up(F_VERSION_1);
    driver.reports.key(A, false);
    driver.reports.key(A, true);
    driver.offer(2);
    assert_eq!(driver.events(), [(1, 30, 1), SYN], "a press, not a repetition");
}

#[test]
fn buffers_too_small_are_given_back() {
    let mut driver = Driver::new(Kind::Keyboard, 0);
    let small = driver.rig.ram.take(7);
    driver.rig.queue(0).add(&[], &[(small, 7)]);
    driver.rig.queue(0).add(&[(small, 7)], &[]);
    let good = driver.rig.ram.take(16);
    driver.rig.queue(0).add(&[], &[(good, 16)]);
    driver.rig.kick(0);
    driver.reports.key(A, true);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut used = Vec::new();
    while used.len() < 3 {
        used.extend(driver.rig.queue(0).take_used());
        assert!(Instant::now() < deadline, "{used:?}");
        std::thread::yield_now();
    }
    assert_eq!(used.iter().map(|(_, len)| *len).collect::<Vec<_>>(), [0, 0, 8]);
}

#[test]
fn the_configuration_tells_what_each_is() {
    let keyboard = Driver::new(Kind::Keyboard, 0);
    assert_eq!(keyboard.config(1, 0), b"Berth keyboard");
    assert_eq!(keyboard.config(3, 0), [6, 0, 0xf4, 0x1a, 1, 0, 1, 0]);
    let keys = keyboard.config(0x11, 1);
    assert_eq!((keys.len(), keys[0], keys[3]), (32, 0xfe, 0xff));
    assert_eq!(keyboard.config(0x11, 0x11), [7]);
    let tablet = Driver::new(Kind::Tablet, 0);
    assert_eq!(tablet.config(0x11, 3), [3]);
    assert_eq!(tablet.config(0x11, 2), [0x40, 1]);
    assert_eq!(tablet.config(0x11, 1)[0x22], 0x1f);
    let mut range = vec![0; 20];
    range[4..6].copy_from_slice(&[0xff, 0x7f]);
    assert_eq!((tablet.config(0x12, 0), tablet.config(0x12, 1)), (range.clone(), range));
    for (select, subsel) in [(0, 0), (1, 1), (0x10, 0), (0x11, 0x14), (0x12, 2), (0xff, 0xff)] {
        assert!(
            keyboard.config(select, subsel).is_empty() && tablet.config(select, subsel).is_empty()
        );
    }
}

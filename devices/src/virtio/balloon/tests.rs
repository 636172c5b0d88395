//! The balloon under a driver that keeps the rules, and under one that does not.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::mem::VolatileSlice;
use crate::virtio::pci::{caps, line};
use crate::virtio::testkit::{DESC_WRITE, HIGH_RAM, HIGH_RAM_LEN, LOW_RAM, Rig};
use crate::virtio::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const ALL: u64 = F_VERSION_1 | F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_POISON | F_REPORTING;
const LONG: Duration = Duration::from_secs(20);
const RAM: u64 = LOW_RAM + HIGH_RAM_LEN;

/// A host that fills what is given back with zeroes, and knows how long each piece was.
#[derive(Default)]
struct Host {
    pieces: Mutex<Vec<usize>>,
    refuses: bool,
}

impl Host {
    fn pieces(&self) -> Vec<usize> {
        self.pieces.lock().unwrap().clone()
    }
}

impl Reclaim for Host {
    fn reclaim(&self, piece: &VolatileSlice<'_>) -> io::Result<()> {
        if self.refuses {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        piece.copy_from(&vec![0_u8; piece.len()]);
        self.pieces.lock().unwrap().push(piece.len());
        Ok(())
    }
}

fn rig_with(host: Arc<Host>) -> (Rig, Arc<Control>, Arc<AtomicU64>) {
    let balloon = Balloon::new(RAM, Some(host), true).unwrap();
    let (control, malformed) = (balloon.control(), balloon.malformed.clone());
    (Rig::new(Box::new(balloon)), control, malformed)
}

fn rig() -> (Rig, Arc<Host>, Arc<Control>, Arc<AtomicU64>) {
    let host = Arc::new(Host::default());
    let (rig, control, malformed) = rig_with(host.clone());
    (rig, host, control, malformed)
}

fn numbers(pages: &[u64]) -> Vec<u8> {
    pages.iter().flat_map(|page| ((page / PAGE) as u32).to_le_bytes()).collect()
}

fn statistic(tag: u16, value: u64) -> Vec<u8> {
    [tag.to_le_bytes().as_slice(), &value.to_le_bytes()].concat()
}

#[test]
fn pages_in_the_balloon_are_given_back() {
    for features in [ALL, ALL | F_EVENT_IDX] {
        let (mut rig, host, control, malformed) = rig();
        rig.bring_up(features);
        let page = rig.ram.put(&[0xaa; 4 * PAGE as usize]);
        // Scattered, twice, in any order; and one above 4 GiB.
        rig.ram.write(HIGH_RAM + PAGE, &[0xaa; 16]);
        let list = [page + 2 * PAGE, page, page + PAGE, page, HIGH_RAM + PAGE];
        let list = rig.ram.put(&numbers(&list));
        rig.queue(INFLATE).add(&[(list, 8), (list + 8, 12)], &[]);
        assert_eq!(rig.complete(INFLATE), [(0, 0)]);
        assert_eq!(host.pieces(), [3 * PAGE as usize, PAGE as usize]);
        assert_eq!(rig.ram.read(page, 3 * PAGE as usize), [0; 3 * PAGE as usize]);
        assert_eq!(rig.ram.read(page + 3 * PAGE, 16), [0xaa; 16]);
        assert_eq!(rig.ram.read(HIGH_RAM + PAGE, 16), [0; 16]);
        assert_eq!(control.counts().inflated, 4 * PAGE);
        rig.queue(DEFLATE).add(&[(list, 20)], &[]);
        assert_eq!(rig.complete(DEFLATE), [(0, 0)]);
        assert_eq!((host.pieces().len(), malformed.load(Ordering::Relaxed)), (2, 0));
    }
}

#[test]
fn its_size_is_negotiated() {
    let (mut rig, _, control, _) = rig();
    control.set_target(3 * PAGE);
    rig.bring_up(ALL);
    assert_eq!(u32::from_le_bytes(rig.read(caps::DEVICE)), 3);
    assert_eq!((control.actual(), rig.signals[0].count()), (0, 0));
    rig.write(0x10, &0u16.to_le_bytes());
    control.set_target(u64::MAX);
    control.set_target(u64::MAX);
    assert_eq!(rig.signals[0].count(), 1, "the same size is no change");
    assert_eq!(u64::from(u32::from_le_bytes(rig.read(caps::DEVICE))), RAM / PAGE);
    assert_eq!(control.target(), RAM);
    rig.write(caps::DEVICE + ACTUAL, &7u32.to_le_bytes());
    assert_eq!(control.actual(), 7 * PAGE);
    assert_eq!(u32::from_le_bytes(rig.read(caps::DEVICE + ACTUAL)), 7);
    // A driver may claim anything, and write anywhere.
    rig.write(caps::DEVICE + ACTUAL, &u32::MAX.to_le_bytes());
    assert_eq!(control.actual(), RAM);
    rig.write(caps::DEVICE, &1u32.to_le_bytes());
    rig.write(caps::DEVICE + ACTUAL, &[1]);
    assert_eq!((control.target(), control.actual()), (RAM, RAM));
    assert!(control.is_served());
    // A reset empties the balloon; what is wanted stays.
    rig.set_status(0);
    assert_eq!((control.target(), control.actual(), control.is_served()), (RAM, 0, false));
    control.set_target(0);
    assert_eq!(rig.signals[0].count(), 1, "nobody is there to be told");
}

#[test]
fn free_pages_are_given_back_by_whatever_number_their_queue_has() {
    for (features, queue) in
        [(ALL, 3), (ALL, 4), (F_VERSION_1 | F_REPORTING, 2), (F_VERSION_1 | F_REPORTING, 4)]
    {
        let (mut rig, host, control, _) = rig();
        rig.bring_up(features);
        let free = rig.ram.put(&[0xaa; 3 * PAGE as usize]);
        rig.queue(queue).add(&[], &[(free, PAGE as u32), (free + PAGE, PAGE as u32)]);
        assert_eq!(rig.complete(queue), [(0, 0)]);
        assert_eq!(rig.ram.read(free, 2 * PAGE as usize), [0; 2 * PAGE as usize]);
        assert_eq!(rig.ram.read(free + 2 * PAGE, 16), [0xaa; 16]);
        assert_eq!(host.pieces().len(), 2);
        assert_eq!(control.counts().reported, 2 * PAGE);
    }
}

#[test]
fn poisoned_pages_are_left_alone() {
    for (poison, kept) in [(0xaaaa_aaaa_u32, true), (0, false)] {
        let (mut rig, host, _, _) = rig();
        assert!(rig.negotiate(ALL));
        rig.write(caps::DEVICE + POISON, &poison.to_le_bytes());
        rig.start(ALL, 0);
        assert_eq!(u32::from_le_bytes(rig.read(caps::DEVICE + POISON)), poison);
        let free = rig.ram.put(&[0xaa; PAGE as usize]);
        rig.queue(3).add(&[], &[(free, PAGE as u32)]);
        assert_eq!(rig.complete(3), [(0, 0)]);
        assert_eq!(host.pieces().is_empty(), kept);
    }
}

#[test]
fn statistics_are_told_when_they_are_asked_for() {
    for features in [ALL, ALL | F_EVENT_IDX] {
        let (mut rig, _, control, _) = rig();
        assert_eq!(control.statistics(LONG), None, "there is no driver to ask");
        rig.bring_up(features);
        let first = [statistic(4, 1 << 20), statistic(5, 1 << 30), statistic(99, 5), vec![1, 2, 3]];
        let first = rig.ram.put(&first.concat());
        rig.queue(STATISTICS).add(&[(first, 33)], &[]);
        assert!(rig.kick_if_asked(STATISTICS));
        let told = std::thread::spawn({
            let control = control.clone();
            move || loop {
                if let Some(statistics) = control.statistics(LONG) {
                    break statistics;
                }
            }
        });
        let told = told.join().unwrap();
        assert_eq!(told.get(Statistic::Free), Some(1 << 20));
        assert_eq!(told.get(Statistic::Total), Some(1 << 30));
        assert_eq!(told.get(Statistic::Available), None);
    }
}

#[test]
fn old_statistics_are_asked_for_anew() {
    let (mut rig, _, control, _) = rig();
    rig.bring_up(ALL);
    let old = rig.ram.put(&statistic(7, 1));
    let new = rig.ram.put(&[statistic(7, 2), statistic(7, 3), statistic(6, u64::MAX)].concat());
    rig.queue(STATISTICS).add(&[(old, 10)], &[]);
    rig.kick_if_asked(STATISTICS);
    control.ask().signal();
    // The driver gets its buffer back, fills it again, and that is what is told then.
    assert_eq!(rig.complete(STATISTICS), [(0, 0)]);
    rig.queue(STATISTICS).add(&[(new, 30)], &[]);
    rig.kick_if_asked(STATISTICS);
    loop {
        let told = control.statistics(LONG).unwrap();
        if told.get(Statistic::Caches) == Some(3) {
            assert_eq!(told.get(Statistic::Available), None, "all ones are no value");
            break;
        }
    }
    // A driver that does not answer does not hold up who asks.
    assert!(control.statistics(Duration::ZERO).is_some());
    rig.set_status(0);
    assert_eq!(control.statistics(LONG), None);
}

#[test]
fn a_second_buffer_for_statistics_waits() {
    let (mut rig, _, control, _) = rig();
    rig.bring_up(ALL);
    let buffers = [rig.ram.put(&statistic(4, 1)), rig.ram.put(&statistic(4, 2))];
    for buffer in buffers {
        rig.queue(STATISTICS).add(&[(buffer, 10)], &[]);
    }
    rig.kick(STATISTICS);
    let until = std::time::Instant::now() + LONG;
    let told = || control.statistics(Duration::ZERO).and_then(|told| told.get(Statistic::Free));
    while told() != Some(2) {
        assert!(std::time::Instant::now() < until, "it does not come");
        control.ask().signal();
        std::thread::yield_now();
    }
    // The first was given back for it.
    assert!(rig.queue(STATISTICS).used_index() >= 1);
}

#[test]
fn what_is_not_ram_is_counted_and_nothing_else() {
    let (mut rig, host, _, malformed) = rig();
    rig.bring_up(ALL);
    // In the hole, past the end, and a run that leaves RAM in its middle.
    let list = [LOW_RAM, HIGH_RAM + HIGH_RAM_LEN, 0xffff_ffff * PAGE, LOW_RAM - PAGE];
    let list = rig.ram.put(&numbers(&list));
    rig.queue(INFLATE).add(&[(list, 16)], &[]);
    assert_eq!(rig.complete(INFLATE), [(0, 0)]);
    assert_eq!(host.pieces(), [PAGE as usize]);
    assert_eq!(malformed.load(Ordering::Relaxed), 3);
    // A chain that describes what is no RAM is refused whole.
    let id = rig.queue(3).take_free();
    rig.queue(3).describe(id, LOW_RAM, PAGE as u32, DESC_WRITE, 0);
    rig.queue(3).add_raw(id);
    assert_eq!(rig.complete(3), [(id.into(), 0)]);
    assert_eq!((host.pieces().len(), malformed.load(Ordering::Relaxed)), (1, 4));
}

#[test]
fn odd_requests_do_nothing() {
    let (mut rig, host, _, _) = rig();
    rig.bring_up(ALL);
    let at = rig.ram.take(PAGE);
    // Half a number; numbers where answers go; a report where numbers go; an empty buffer.
    rig.queue(INFLATE).add(&[(at, 3)], &[]);
    rig.queue(INFLATE).add(&[], &[(at, 4)]);
    rig.queue(INFLATE).add(&[(at, 0)], &[]);
    assert_eq!(rig.complete(INFLATE).len(), 3);
    rig.queue(3).add(&[(at, PAGE as u32)], &[]);
    assert_eq!(rig.complete(3).len(), 1);
    assert!(host.pieces().is_empty());
}

#[test]
fn of_a_long_list_the_beginning_is_looked_at() {
    let (mut rig, host, control, _) = rig();
    rig.bring_up(ALL | F_INDIRECT_DESC);
    let list = rig.ram.take(1 << 20);
    let mut ram = rig.ram.clone();
    // A gigabyte of page number 0, through one table: the same megabyte again and again.
    let pieces = vec![(list, 1 << 20); 1024];
    rig.queue(INFLATE).add_indirect(&mut ram, &pieces, &[]);
    assert_eq!(rig.complete(INFLATE).len(), 1);
    assert_eq!(host.pieces(), [PAGE as usize; 16]);
    assert_eq!(control.counts().inflated, 16 * PAGE);
}

#[test]
fn a_flood_ends_with_the_device() {
    let (mut rig, _, _, _) = rig();
    for _ in 0..10 {
        rig.bring_up(ALL);
        let list = rig.ram.put(&numbers(&[0x80_0000]));
        for queue in [INFLATE, DEFLATE, 3, 4] {
            while rig.queue(queue).free() > 0 {
                rig.queue(queue).add(&[(list, 4)], &[]);
            }
            rig.kick(queue);
        }
        rig.set_status(0);
    }
}

#[test]
fn a_host_that_refuses_is_no_harm() {
    let host = Arc::new(Host { refuses: true, ..Host::default() });
    let (mut rig, control, _) = rig_with(host);
    rig.bring_up(ALL);
    let page = rig.ram.take(PAGE);
    rig.queue(3).add(&[], &[(page, PAGE as u32)]);
    assert_eq!(rig.complete(3), [(0, 0)]);
    assert_eq!(control.counts(), Counts { failed: 1, ..Counts::default() });
}

#[test]
fn where_nothing_can_be_given_back_there_are_statistics() {
    let balloon = Balloon::new(RAM, None, true).unwrap();
    let control = balloon.control();
    assert_eq!(balloon.features() & (F_PAGE_POISON | F_REPORTING), 0);
    let mut rig = Rig::new(Box::new(balloon));
    assert!(!rig.negotiate(ALL), "free page reporting is offered");
    rig.set_status(0);
    let features = F_VERSION_1 | F_STATS_VQ | F_DEFLATE_ON_OOM;
    rig.bring_up(features);
    // A driver may put pages into it all the same: they keep what they hold.
    let page = rig.ram.put(&[0xaa; PAGE as usize]);
    let list = rig.ram.put(&numbers(&[page]));
    rig.queue(INFLATE).add(&[(list, 4)], &[]);
    assert_eq!(rig.complete(INFLATE), [(0, 0)]);
    assert_eq!(rig.ram.read(page, PAGE as usize), [0xaa; PAGE as usize]);
    assert_eq!(control.counts(), Counts::default());
    let told = rig.ram.put(&statistic(5, 7 * PAGE));
    rig.queue(STATISTICS).add(&[(told, 10)], &[]);
    rig.kick(STATISTICS);
    let deadline = std::time::Instant::now() + LONG;
    while control.statistics(Duration::ZERO).is_none() {
        assert!(std::time::Instant::now() < deadline, "nothing is told");
        std::thread::yield_now();
    }
    let told = control.statistics(Duration::ZERO).unwrap();
    assert_eq!(told.get(Statistic::Total), Some(7 * PAGE));
}

#[test]
fn an_impossible_ring_needs_a_reset() {
    let (mut rig, _, _, _) = rig();
    rig.bring_up(ALL);
    rig.queue(DEFLATE).set_avail_index(1000);
    rig.kick(DEFLATE);
    rig.wait_needs_reset();
    rig.bring_up(ALL);
    assert_eq!(rig.status() & line::NEEDS_RESET, 0);
}

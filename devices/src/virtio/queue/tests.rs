//! Rings and chains, as a driver should build them, and as one should not.

use super::*;
use crate::virtio::testkit::{
    DESC_INDIRECT, DESC_NEXT, DESC_WRITE, HIGH_RAM, HIGH_RAM_LEN, LOW_RAM, Ram, Ring,
};

/// Buffers: address and length.
type Buffers<'a> = &'a [(u64, u32)];
/// Descriptors: address, length, flags, next.
type Descriptors<'a> = &'a [(u64, u32, u16, u16)];

const FEATURES: u64 = F_EVENT_IDX | F_INDIRECT_DESC;

/// A ring of 16 entries, and the queue that serves it.
struct Bench {
    ram: Ram,
    ring: Ring,
    malformed: AtomicU64,
}

impl Bench {
    fn new(event_idx: bool) -> Bench {
        let mut ram = Ram::new();
        let ring = Ring::new(&mut ram, 16, event_idx);
        Bench { ram, ring, malformed: AtomicU64::new(0) }
    }

    fn serve<'m>(
        &self,
        memory: &'m GuestRam,
        malformed: &'m AtomicU64,
        features: u64,
    ) -> Virtqueue<'m> {
        Virtqueue::new(self.ring.live(0), memory, features, malformed).unwrap()
    }
}

/// Serves a chain made by `make`; returns the lengths of its two parts, or `None` when it was
/// refused (and completed with nothing).
fn walk(features: u64, make: impl FnOnce(&mut Bench)) -> Option<(usize, usize)> {
    let mut bench = Bench::new(false);
    make(&mut bench);
    let memory = bench.ram.memory.clone();
    let malformed = AtomicU64::new(0);
    let mut queue = bench.serve(&memory, &malformed, features);
    let chain = queue.pop().unwrap();
    let lengths = chain.as_ref().map(|chain| (chain.readable.len(), chain.writable.len()));
    if let Some(chain) = chain {
        queue.complete(chain, 7).unwrap();
    }
    assert!(queue.pop().unwrap().is_none(), "there was one chain only");
    queue.publish().unwrap();
    let used = bench.ring.take_used();
    let written = if lengths.is_some() { 7 } else { 0 };
    assert_eq!(used.iter().map(|used| used.1).collect::<Vec<_>>(), [written], "completed once");
    assert_eq!(malformed.into_inner(), u64::from(lengths.is_none()));
    lengths
}

fn raw(descriptors: Descriptors<'_>) -> impl FnOnce(&mut Bench) {
    move |bench| {
        for (index, &(at, len, flags, next)) in (0..).zip(descriptors) {
            bench.ring.describe(index, at, len, flags, next);
        }
        bench.ring.add_raw(0);
    }
}

#[test]
fn well_formed_chains_are_walked() {
    let cases: [(Buffers<'_>, Buffers<'_>, (usize, usize)); 6] = [
        (&[(0x10000, 16)], &[(0x20000, 512), (0x30000, 1)], (16, 513)),
        (&[(0, 1)], &[], (1, 0)),
        (&[], &[(LOW_RAM - 1, 1)], (0, 1)),
        (&[(0x10000, 0)], &[(0x10000, 0)], (0, 0)),
        (&[(HIGH_RAM, HIGH_RAM_LEN as u32)], &[], (HIGH_RAM_LEN as usize, 0)),
        // The same bytes twice, and both ways.
        (&[(0x1000, 8), (0x1004, 8)], &[(0x1000, 16)], (16, 16)),
    ];
    for (readable, writable, lengths) in cases {
        let direct = walk(FEATURES, |bench| {
            bench.ring.add(readable, writable);
        });
        assert_eq!(direct, Some(lengths), "{readable:x?} {writable:x?}");
        let indirect = walk(FEATURES, |bench| {
            bench.ring.add_indirect(&mut bench.ram, readable, writable);
        });
        assert_eq!(indirect, Some(lengths), "indirect {readable:x?} {writable:x?}");
    }
}

#[test]
fn a_chain_may_be_as_long_as_the_ring() {
    let all = vec![(0x10000, 1); 16];
    let direct = walk(0, |bench| {
        bench.ring.add(&all, &[]);
    });
    assert_eq!(direct, Some((16, 0)));
    let table = |len| {
        let buffers = vec![(0, len); usize::from(MAX_CHAIN)];
        walk(FEATURES, |bench| {
            bench.ring.add_indirect(&mut bench.ram, &buffers, &[]);
        })
    };
    assert_eq!(table(1), Some((1024, 0)));
    // In bytes it ends below 4 GiB, for used lengths have 32 bits.
    let quarter = 1 << 22;
    assert_eq!(table(quarter - 1), Some(((1 << 32) - 1024, 0)));
    assert_eq!(table(quarter), None);
}

#[test]
fn direct_descriptors_may_come_before_a_table() {
    let mixed = walk(FEATURES, |bench| {
        let table = bench.ram.take(16);
        let memory = bench.ram.memory.clone();
        crate::virtio::testkit::write_descriptor(&memory, table, 0, (0x3000, 5, DESC_WRITE, 9));
        raw(&[(0x2000, 4, DESC_NEXT, 1), (table, 16, DESC_INDIRECT, 0)])(bench);
    });
    assert_eq!(mixed, Some((4, 5)));
}

#[test]
fn malformed_chains_are_refused_and_completed_with_nothing() {
    let (next, write, table) = (DESC_NEXT, DESC_WRITE, DESC_INDIRECT);
    let cases: [(&str, Descriptors<'_>); 13] = [
        ("a loop of one", &[(0x1000, 1, next, 0)]),
        ("a loop of two", &[(0x1000, 1, next, 1), (0x1000, 1, next, 0)]),
        ("a loop of empty buffers", &[(0x1000, 0, next, 0)]),
        ("next outside the table", &[(0x1000, 1, next, 16)]),
        ("next far outside", &[(0x1000, 1, next, u16::MAX)]),
        ("readable after writable", &[(0x1000, 1, next | write, 1), (0x1000, 1, 0, 0)]),
        ("readable after an empty writable", &[(0, 0, next | write, 1), (0x1000, 1, 0, 0)]),
        ("out of ram", &[(LOW_RAM, 1, 0, 0)]),
        ("over the end of ram", &[(LOW_RAM - 1, 2, 0, 0)]),
        ("over the end of the upper ram", &[(HIGH_RAM + HIGH_RAM_LEN - 1, 2, 0, 0)]),
        ("over the end of addresses", &[(u64::MAX, 2, 0, 0)]),
        ("a table outside of ram", &[(LOW_RAM - 8, 16, table, 0)]),
        ("a table followed by more", &[(0x1000, 16, table | next, 1), (0x1000, 1, 0, 0)]),
    ];
    for (what, descriptors) in cases {
        assert_eq!(walk(FEATURES, raw(descriptors)), None, "{what}");
    }
    for len in [0, 1, 15, 17, (u32::from(MAX_CHAIN) + 1) * 16, u32::MAX, u32::MAX - 15] {
        assert_eq!(walk(FEATURES, raw(&[(0x1000, len, table, 0)])), None, "a table of {len}");
    }
}

#[test]
fn tables_are_refused_within_tables_and_when_not_negotiated() {
    let nested = walk(FEATURES, |bench| {
        let table = bench.ram.take(16);
        let memory = bench.ram.memory.clone();
        let itself = (table, 16, DESC_INDIRECT, 0);
        crate::virtio::testkit::write_descriptor(&memory, table, 0, itself);
        raw(&[itself])(bench);
    });
    assert_eq!(nested, None);
    let looped = walk(FEATURES, |bench| {
        let table = bench.ram.take(32);
        let memory = bench.ram.memory.clone();
        for (index, next) in [(0, 1), (1, 0)] {
            let entry = (0x1000, 1, DESC_NEXT, next);
            crate::virtio::testkit::write_descriptor(&memory, table, index, entry);
        }
        raw(&[(table, 32, DESC_INDIRECT, 0)])(bench);
    });
    assert_eq!(looped, None);
    let plain = walk(F_EVENT_IDX, |bench| {
        bench.ring.add_indirect(&mut bench.ram, &[(0x1000, 1)], &[]);
    });
    assert_eq!(plain, None);
}

#[test]
fn a_buffer_over_two_regions_is_two_pieces() {
    use vm_memory::GuestAddress;
    // Adjacent regions: what a machine with a hole for display memory has.
    let memory =
        GuestRam::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(0x10000), 0x10000)])
            .unwrap();
    let malformed = AtomicU64::new(0);
    let bench = Bench::new(false);
    let live = bench.ring.live(0);
    let entry = [&0xff00u64.to_le_bytes()[..], &0x200u32.to_le_bytes(), &[0; 4]].concat();
    memory.write_slice(&entry, GuestAddress(live.queue.desc_table())).unwrap();
    memory.write_slice(&[0, 0, 1, 0, 0, 0], GuestAddress(live.queue.avail_ring())).unwrap();
    let mut queue = Virtqueue::new(live, &memory, 0, &malformed).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    let lens: Vec<_> = chain.readable.pieces().iter().map(VolatileSlice::len).collect();
    assert_eq!(lens, [0x100, 0x100]);
}

#[test]
fn impossible_indices_are_errors() {
    for (index, fits) in [(16, true), (17, false), (u16::MAX, false), (0x8000, false)] {
        let bench = Bench::new(false);
        let memory = bench.ram.memory.clone();
        let mut queue = bench.serve(&memory, &bench.malformed, 0);
        bench.ring.set_avail_index(index);
        let jumped = matches!(queue.enable_kicks(), Err(QueueError::AvailIndex { .. }));
        assert_eq!(jumped, !fits, "index {index}");
        let jumped = matches!(queue.pop(), Err(QueueError::AvailIndex { .. }));
        assert_eq!(jumped, !fits, "index {index}");
    }
    for head in [16, 17, u16::MAX] {
        let mut bench = Bench::new(false);
        let memory = bench.ram.memory.clone();
        let mut queue = bench.serve(&memory, &bench.malformed, 0);
        bench.ring.offer(head);
        assert!(matches!(queue.pop(), Err(QueueError::Head { head: h, .. }) if h == head));
    }
}

#[test]
fn rings_outside_of_ram_are_refused_and_the_queue_comes_back() {
    let bench = Bench::new(false);
    let malformed = AtomicU64::new(0);
    use vm_memory::GuestAddress;
    let small = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let (live, error) = Virtqueue::new(bench.ring.live(3), &small, 0, &malformed).unwrap_err();
    assert_eq!(live.index, 3);
    assert!(matches!(error, QueueError::Ring { .. }));
}

#[test]
fn a_flood_of_malformed_chains_ends_after_a_ring_s_worth() {
    let mut bench = Bench::new(false);
    let memory = bench.ram.memory.clone();
    let malformed = AtomicU64::new(0);
    let mut queue = bench.serve(&memory, &malformed, 0);
    bench.ring.describe(0, 0x1000, 1, DESC_NEXT, 0);
    for round in 1..=5 {
        (0..16).for_each(|_| bench.ring.offer(0));
        assert!(queue.pop().unwrap().is_none());
        assert_eq!(malformed.load(Ordering::Relaxed), 16 * round);
    }
}

#[test]
fn completions_are_seen_together_and_only_when_published() {
    let mut bench = Bench::new(true);
    let memory = bench.ram.memory.clone();
    let malformed = AtomicU64::new(0);
    let mut queue = bench.serve(&memory, &malformed, FEATURES);
    let heads: Vec<u32> = (0..5).map(|_| u32::from(bench.ring.add(&[(0x1000, 1)], &[]))).collect();
    let mut chains: Vec<_> = (0..5).map(|_| queue.pop().unwrap().unwrap()).collect();
    chains.swap(0, 3);
    for (chain, written) in chains.into_iter().zip(0..) {
        queue.complete(chain, written).unwrap();
    }
    assert!(bench.ring.take_used().is_empty());
    assert!(queue.publish().unwrap());
    assert!(!queue.publish().unwrap(), "nothing new");
    let expected = [(heads[3], 0), (heads[1], 1), (heads[2], 2), (heads[0], 3), (heads[4], 4)];
    assert_eq!(bench.ring.take_used(), expected);
}

#[test]
fn interrupts_come_when_the_index_asked_for_is_passed() {
    let cases: [(u16, u16, bool); 8] = [
        (0, 1, true),
        (0, 3, true),
        (1, 1, false),
        (1, 2, true),
        (4, 5, true),
        (5, 5, false),
        (u16::MAX, 5, false),
        (0x8000, 5, false),
    ];
    for (event, count, wanted) in cases {
        let mut bench = Bench::new(true);
        let memory = bench.ram.memory.clone();
        let malformed = AtomicU64::new(0);
        let mut queue = bench.serve(&memory, &malformed, FEATURES);
        bench.ring.set_used_event(event);
        for _ in 0..count {
            bench.ring.add(&[(0x1000, 1)], &[]);
            let chain = queue.pop().unwrap().unwrap();
            queue.complete(chain, 0).unwrap();
        }
        assert_eq!(queue.publish().unwrap(), wanted, "event {event}, {count} used");
    }
}

#[test]
fn without_event_indices_flags_count() {
    let mut bench = Bench::new(false);
    let memory = bench.ram.memory.clone();
    let malformed = AtomicU64::new(0);
    let mut queue = bench.serve(&memory, &malformed, 0);
    for (silent, index) in [(true, 1), (false, 2), (true, 3)] {
        bench.ring.set_no_interrupt(silent);
        queue.disable_kicks().unwrap();
        bench.ring.add(&[(0x1000, 1)], &[]);
        assert!(!bench.ring.wants_kick());
        assert!(queue.enable_kicks().unwrap(), "a chain came while kicks were off");
        assert!(bench.ring.wants_kick());
        let chain = queue.pop().unwrap().unwrap();
        queue.complete(chain, 0).unwrap();
        assert_eq!(queue.publish().unwrap(), !silent);
        assert_eq!(bench.ring.used_index(), index);
        assert!(!queue.enable_kicks().unwrap());
    }
}

#[test]
fn with_event_indices_one_kick_is_asked_for() {
    let mut bench = Bench::new(true);
    let memory = bench.ram.memory.clone();
    let malformed = AtomicU64::new(0);
    let mut queue = bench.serve(&memory, &malformed, FEATURES);
    assert!(!queue.enable_kicks().unwrap());
    for _ in 0..4 {
        bench.ring.add(&[(0x1000, 1)], &[]);
        assert!(bench.ring.wants_kick(), "the first of a batch");
        bench.ring.add(&[(0x1000, 1)], &[]);
        assert!(!bench.ring.wants_kick(), "it is known already");
        for left in [true, false] {
            let chain = queue.pop().unwrap().unwrap();
            queue.complete(chain, 0).unwrap();
            assert_eq!(queue.enable_kicks().unwrap(), left);
        }
        queue.publish().unwrap();
        bench.ring.take_used();
    }
}

#[test]
fn indices_wrap_around() {
    let mut bench = Bench::new(true);
    let memory = bench.ram.memory.clone();
    let malformed = AtomicU64::new(0);
    let mut queue = bench.serve(&memory, &malformed, FEATURES);
    for round in 0..0x1_2000u32 {
        bench.ring.add(&[(0x1000, 1)], &[(0x1000, 4)]);
        let chain = queue.pop().unwrap().unwrap();
        queue.complete(chain, round).unwrap();
        assert!(queue.publish().unwrap(), "round {round}");
        assert_eq!(bench.ring.take_used()[0].1, round);
    }
}

#[test]
fn a_queue_goes_on_where_it_was() {
    let mut bench = Bench::new(false);
    let memory = bench.ram.memory.clone();
    let malformed = AtomicU64::new(0);
    let heads: Vec<u16> = (0..3).map(|_| bench.ring.add(&[(0x1000, 1)], &[])).collect();
    let mut queue = bench.serve(&memory, &malformed, 0);
    let first = queue.pop().unwrap().unwrap();
    let second = queue.pop().unwrap().unwrap();
    queue.complete(first, 0).unwrap();
    queue.unpop(second);
    queue.publish().unwrap();
    let mut queue = Virtqueue::new(queue.into_live(), &memory, 0, &malformed).unwrap();
    while let Some(chain) = queue.pop().unwrap() {
        queue.complete(chain, 0).unwrap();
    }
    queue.publish().unwrap();
    let used: Vec<u32> = bench.ring.take_used().iter().map(|used| used.0).collect();
    assert_eq!(used, heads.iter().map(|head| u32::from(*head)).collect::<Vec<_>>());
}

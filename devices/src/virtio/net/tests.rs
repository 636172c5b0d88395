//! The device between a driver and the other end of a cable.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::config::*;
use super::*;
use crate::event::wait_readable;
use crate::net::loopback::{Loopback, pair};
use crate::net::{HEADER_LEN, MAX_FRAME, Offloads};
use crate::pci::PciDevice;
use crate::pci::msix::Msix;
use crate::virtio::pci::line::Line;
use crate::virtio::testkit::{Ram, Rig, Ring, drive};
use crate::virtio::{F_EVENT_IDX, F_VERSION_1, RING_FEATURES};

mod kernel;
mod vhost;

const MAC: MacAddr = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PLAIN: u64 = F_VERSION_1 | F_EVENT_IDX;

struct Cable {
    rig: Rig,
    /// The far ends, one for each pair.
    far: Vec<Loopback>,
    /// The device's ends, to look at.
    near: Vec<Loopback>,
    counters: Arc<Counters>,
}

fn device(pairs: usize, mtu: Option<u16>) -> (Net, Vec<Loopback>, Vec<Loopback>) {
    let (near, far): (Vec<_>, Vec<_>) = (0..pairs).map(|_| pair().unwrap()).unzip();
    let backends = near.iter().map(|end| Box::new(end.clone()) as Box<dyn NetBackend>).collect();
    (Net::new(backends, MAC, mtu).unwrap(), near, far)
}

impl Cable {
    fn new(pairs: usize) -> Cable {
        let (net, near, far) = device(pairs, Some(1500));
        let counters = net.counters();
        Cable { rig: Rig::new(Box::new(net)), far, near, counters }
    }

    fn up(pairs: usize, features: u64) -> Cable {
        let mut cable = Cable::new(pairs);
        cable.rig.bring_up(features);
        cable
    }

    /// Gives the device receive buffers of these sizes; returns where they are.
    fn offer(&mut self, queue: usize, sizes: &[u32]) -> Vec<u64> {
        let places: Vec<u64> = sizes.iter().map(|size| self.rig.ram.take((*size).into())).collect();
        for (at, size) in places.iter().zip(sizes) {
            self.rig.queue(queue).add(&[], &[(*at, *size)]);
        }
        self.rig.kick_if_asked(queue);
        places
    }

    /// Waits until the device has used `count` buffers of a receive queue.
    fn used(&mut self, queue: usize, count: usize) -> Vec<(u32, u32)> {
        let until = Instant::now() + Duration::from_secs(20);
        let mut used = vec![];
        loop {
            let seen = self.rig.signals[queue + 1].count();
            used.extend(self.rig.queue(queue).take_used());
            if used.len() >= count {
                return used;
            }
            let told = self.rig.signals[queue + 1].wait_beyond(seen, until);
            assert!(told, "no interrupt after {} of {count}", used.len());
        }
    }

    /// Sends a command on the control queue; returns its ack.
    fn command(&mut self, queue: usize, class: u8, command: u8, data: &[u8]) -> u8 {
        let at = self.rig.ram.put(&[&[class, command], data].concat());
        let ack = self.rig.ram.put(&[0xee]);
        let data = (at + 2, data.len() as u32);
        self.rig.queue(queue).add(&[(at, 2), data], &[(ack, 1)]);
        assert_eq!(self.rig.complete(queue).len(), 1);
        self.rig.ram.read(ack, 1)[0]
    }

    fn wait(&self, what: &str, done: impl Fn(&Cable) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < until, "{what}");
            std::thread::yield_now();
        }
    }
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    let data = (0..len).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed));
    [0; HEADER_LEN].into_iter().chain(data).collect()
}

fn receive(end: &Loopback) -> Vec<u8> {
    let ready = wait_readable([Some(end.ready().as_fd())], Some(20_000)).unwrap();
    assert_eq!(ready, [true], "no frame came");
    end.get().unwrap()
}

#[test]
fn frames_are_sent_whole_whatever_the_cut() {
    let mut cable = Cable::up(1, PLAIN);
    let bytes = frame(1000, 1);
    let at = cable.rig.ram.put(&bytes);
    let cuts: [&[u32]; 4] = [&[1012], &[12, 1000], &[5, 7, 500, 500], &[0, 1, 1011]];
    for lens in cuts {
        let mut start = at;
        let pieces: Vec<_> = lens
            .iter()
            .map(|len| {
                start += u64::from(*len);
                (start - u64::from(*len), *len)
            })
            .collect();
        cable.rig.queue(1).add(&pieces, &[]);
        assert_eq!(cable.rig.complete(1).iter().map(|used| used.1).collect::<Vec<_>>(), [0]);
        assert!(receive(&cable.far[0]) == bytes, "{lens:?}");
    }
    assert_eq!(cable.counters.tx().frames, 4);
    assert_eq!(cable.counters.tx().bytes, 4000);
}

#[test]
fn frames_that_cannot_be_sent_are_dropped_and_counted() {
    let mut cable = Cable::up(1, PLAIN);
    let at = cable.rig.ram.take(MAX_FRAME as u64 + 1);
    for len in [1, 11, 12, MAX_FRAME as u32 + 1] {
        cable.rig.queue(1).add(&[(at, len)], &[]);
        cable.rig.complete(1);
    }
    // Only something to write.
    cable.rig.queue(1).add(&[], &[(at, 100)]);
    cable.rig.complete(1);
    assert_eq!(cable.counters.tx().dropped, 5);
    assert_eq!(cable.far[0].waiting(), 0);
    cable.rig.queue(1).add(&[(at, 100)], &[]);
    cable.rig.complete(1);
    assert_eq!(receive(&cable.far[0]).len(), 100);
}

#[test]
fn a_frame_is_received_into_one_chain() {
    for features in [PLAIN, F_VERSION_1, PLAIN | F_MRG_RXBUF] {
        let mut cable = Cable::up(1, features);
        let places = cable.offer(0, &[2000, 2000]);
        for (seed, at) in (1u8..).zip(places) {
            let bytes = frame(900, seed);
            cable.far[0].put(&bytes);
            assert_eq!(cable.used(0, 1)[0].1, 912);
            let got = cable.rig.ram.read(at, 912);
            assert_eq!(got[10..12], [1, 0], "num_buffers");
            assert!(got[12..] == bytes[12..]);
        }
        assert_eq!(cable.counters.rx().frames, 2);
        assert_eq!(cable.counters.rx().bytes, 1800);
    }
}

#[test]
fn a_large_frame_takes_several_mergeable_buffers() {
    let features = PLAIN | F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4;
    let mut cable = Cable::up(1, features);
    let places = cable.offer(0, &[1526; 60]);
    let bytes = frame(65000, 3);
    let small = frame(60, 4);
    cable.far[0].put(&bytes);
    cable.far[0].put(&small);
    let count = bytes.len().div_ceil(1526);
    let used = cable.used(0, count + 1);
    assert_eq!(used.len(), count + 1);
    let mut got = vec![];
    for ((_, len), at) in used.iter().zip(&places).take(count) {
        got.extend(cable.rig.ram.read(*at, *len as usize));
    }
    assert_eq!(usize::from(u16::from_le_bytes([got[10], got[11]])), count);
    assert!(got[12..] == bytes[12..]);
    assert_eq!(used[count].1, 72);
    assert!(cable.rig.ram.read(places[count] + 12, 60) == small[12..]);
}

#[test]
fn a_frame_too_large_for_its_buffer_is_dropped_and_counted() {
    let mut cable = Cable::up(1, PLAIN);
    let places = cable.offer(0, &[200, 8, 3000]);
    cable.far[0].put(&frame(500, 1));
    cable.wait("it is not dropped", |c| c.counters.rx().dropped == 1);
    cable.far[0].put(&frame(100, 2));
    cable.far[0].put(&frame(500, 3));
    // The second buffer has not even room for a header.
    let lens: Vec<u32> = cable.used(0, 3).iter().map(|used| used.1).collect();
    assert_eq!(lens, [112, 0, 512]);
    assert!(cable.rig.ram.read(places[2] + 12, 500) == frame(500, 3)[12..]);
}

#[test]
fn frames_wait_for_buffers() {
    for features in [PLAIN, F_VERSION_1] {
        let mut cable = Cable::up(1, features);
        for seed in 0..50 {
            cable.far[0].put(&frame(100, seed));
        }
        let mut seeds = vec![];
        for _ in 0..5 {
            let places = cable.offer(0, &[200; 10]);
            let used = cable.used(0, 10);
            assert_eq!(used.len(), 10);
            seeds.extend(places.iter().map(|at| cable.rig.ram.read(at + 12, 1)[0]));
        }
        assert_eq!(seeds, (0..50).collect::<Vec<u8>>());
    }
}

#[test]
fn both_directions_at_once_lose_nothing() {
    let mut cable = Cable::up(1, PLAIN | F_MRG_RXBUF);
    let out = cable.rig.ram.put(&frame(1000, 9));
    cable.offer(0, &[2048; 200]);
    let (mut sent, mut received, mut got) = (0, 0, 0);
    while sent < 2000 || received < 2000 || got < 2000 {
        if sent < 2000 && cable.far[0].put(&frame(1000, sent as u8)) {
            sent += 1;
        }
        while received + cable.rig.queue(1).outstanding() < 2000 && cable.rig.queue(1).free() > 0 {
            cable.rig.queue(1).add(&[(out, 1012)], &[]);
        }
        cable.rig.kick_if_asked(1);
        received += cable.rig.queue(1).take_used().len();
        got += cable.rig.queue(0).take_used().len();
        if cable.rig.queue(0).outstanding() < 100 {
            let at = out + 4096;
            for _ in 0..100 {
                cable.rig.queue(0).add(&[], &[(at, 2048)]);
            }
            cable.rig.kick_if_asked(0);
        }
        while cable.far[0].get().is_some() {}
        std::thread::yield_now();
    }
    assert_eq!(cable.counters.rx().frames, 2000);
    assert_eq!(cable.counters.tx().frames, 2000);
    assert_eq!(cable.counters.rx().dropped, 0);
}

#[test]
fn what_the_guest_takes_reaches_the_interface() {
    let mut cable = Cable::new(1);
    assert_eq!(cable.rig.offered() & F_MQ, 0);
    let bits = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_ECN | F_GUEST_USO4 | F_GUEST_USO6;
    cable.rig.bring_up(F_VERSION_1 | bits);
    let expected = Offloads { csum: true, tso4: true, tso6: false, ecn: true, uso: true };
    assert_eq!(cable.near[0].settings().offloads, expected);
    cable.rig.bring_up(F_VERSION_1);
    assert_eq!(cable.near[0].settings().offloads, Offloads::default());
}

#[test]
fn queue_pairs_join_and_leave_as_the_driver_wishes() {
    let features = PLAIN | F_MQ | F_CTRL_VQ;
    let mut cable = Cable::up(3, features);
    let enabled = |cable: &Cable| -> Vec<bool> {
        cable.near.iter().map(|end| end.settings().enabled).collect()
    };
    cable.wait("one pair is on", |c| enabled(c) == [true, false, false]);
    assert_eq!(cable.command(6, 4, 0, &3u16.to_le_bytes()), 0);
    cable.wait("three pairs are on", |c| enabled(c) == [true; 3]);
    let at = cable.offer(4, &[500])[0];
    cable.far[2].put(&frame(64, 7));
    cable.used(4, 1);
    assert_eq!(cable.rig.ram.read(at + 12, 1), [7]);
    for wrong in [0u16, 4, 0x8000] {
        assert_eq!(cable.command(6, 4, 0, &wrong.to_le_bytes()), 1, "{wrong} pairs");
    }
    assert_eq!(cable.command(6, 4, 0, &2u16.to_le_bytes()), 0);
    cable.wait("two pairs are on", |c| enabled(c) == [true, true, false]);
    // A reset leaves one.
    cable.rig.bring_up(features);
    cable.wait("one pair is on", |c| enabled(c) == [true, false, false]);
}

#[test]
fn the_control_queue_answers_every_command() {
    // Without MQ it is the third queue, however many pairs there are.
    let mut cable = Cable::up(2, PLAIN | F_CTRL_VQ | F_CTRL_RX | F_CTRL_MAC_ADDR);
    let table = [&2u32.to_le_bytes()[..], &[1; 12], &0u32.to_le_bytes()].concat();
    let cases: [(u8, u8, &[u8], u8); 12] = [
        (0, 0, &[1], 0),
        (0, 5, &[0], 0),
        (0, 6, &[0], 1),
        (0, 0, &[2], 1),
        (0, 0, &[], 1),
        (1, 0, &table, 0),
        (1, 0, &table[..9], 1),
        (1, 0, &[0xff; 8], 1),
        (1, 1, &[2, 0, 0, 0, 0, 9], 0),
        (1, 1, &[2, 0], 1),
        (2, 0, &[1, 0], 1),
        (4, 0, &[1, 0], 1),
    ];
    for (class, command, data, ack) in cases {
        assert_eq!(cable.command(2, class, command, data), ack, "{class} {command} {data:?}");
    }
    assert_eq!(cable.rig.read::<6>(0x2000), [2, 0, 0, 0, 0, 9]);
    // Nothing at all, and nowhere to answer.
    let at = cable.rig.ram.put(&[0; 4]);
    cable.rig.queue(2).add(&[], &[(at, 1)]);
    cable.rig.queue(2).add(&[(at, 4)], &[]);
    assert_eq!(cable.rig.complete(2).iter().map(|used| used.1).collect::<Vec<_>>(), [1, 0]);
    cable.rig.set_status(0);
    assert_eq!(cable.rig.read::<6>(0x2000), MAC, "a reset brings the address back");
}

#[test]
fn a_reset_with_frames_in_flight_comes_back() {
    let mut cable = Cable::new(1);
    for round in 0..10 {
        cable.rig.bring_up(PLAIN | F_MRG_RXBUF);
        cable.offer(0, &[300; 20]);
        let out = cable.rig.ram.put(&frame(500, round));
        (0..20).for_each(|_| {
            cable.rig.queue(1).add(&[(out, 512)], &[]);
        });
        (0..5).for_each(|_| {
            cable.far[0].put(&frame(200, round));
        });
        cable.rig.kick(1);
        cable.rig.pci.reset();
        while cable.far[0].get().is_some() {}
        while cable.near[0].get().is_some() {}
    }
    cable.rig.unmask_all();
    cable.rig.bring_up(PLAIN);
    let at = cable.offer(0, &[300])[0];
    cable.far[0].put(&frame(100, 0x42));
    cable.used(0, 1);
    assert_eq!(cable.rig.ram.read(at + 12, 1), [0x42]);
}

#[test]
fn buffers_held_for_frames_go_back_to_the_ring() {
    let (mut net, _near, far) = device(1, None);
    let mut ram = Ram::new();
    let msix = Msix::new(vec![Arc::new(crate::irq::RecordingRoute::default())]);
    let features = PLAIN | F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4;
    // The device is driven by hand: its queues are looked at between two activations.
    let mut rings = vec![];
    let mut lives = vec![];
    for index in 0..2u16 {
        let mut ring = Ring::new(&mut ram, 64, true);
        let at = ram.take(4096);
        if index == 0 {
            (0..40).for_each(|n| {
                ring.add(&[], &[(at + 100 * n, 100)]);
            });
        }
        lives.push(ring.live(index));
        rings.push(ring);
    }
    for round in 1..=3u16 {
        far[0].put(&frame(150, round as u8));
        let interrupt = Line::new(msix.clone(), 3);
        let memory = ram.memory.clone();
        let activation =
            Activation { memory, features, queues: std::mem::take(&mut lives), interrupt };
        net.start(activation).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while rings[0].used_index() != 2 * round {
            assert!(Instant::now() < until, "the frame is not received");
            std::thread::yield_now();
        }
        lives = net.stop();
        assert_eq!(lives.len(), 2);
        use virtio_queue::QueueT;
        let indices = (lives[0].queue.next_avail(), lives[0].queue.next_used());
        assert_eq!(indices, (2 * round, 2 * round), "what was not used is available again");
    }
}

#[test]
fn a_device_is_refused_what_makes_no_sense() {
    let end = || -> Vec<Box<dyn NetBackend>> { vec![Box::new(pair().unwrap().0)] };
    assert!(matches!(Net::new(vec![], MAC, None), Err(NetError::Pairs(0))));
    assert!(matches!(Net::new(end(), MAC, Some(67)), Err(NetError::Mtu(67))));
    assert!(matches!(Net::new(end(), [1, 0, 0, 0, 0, 0], None), Err(NetError::Mac(_))));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]
    #[test]
    fn arbitrary_drivers_are_survived(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000)
    ) {
        let (net, _near, far) = device(2, Some(1500));
        far.iter().for_each(|end| (0..20).for_each(|n| { end.put(&frame(100 * n, n as u8)); }));
        drive(&bytes, Box::new(net));
    }
}

//! The device whose pairs the kernel serves, with a stand-in for the kernel.

use proptest::collection::vec;
use proptest::prelude::*;
use virtio_queue::QueueT;

use super::kernel::{ALL, Kernel};
use super::*;
use crate::irq::RecordingRoute;
use crate::net::vhost::Ring as KernelRing;
use crate::pci::msix::ENTRY_LEN;
use crate::virtio::queue::Chain;

fn with_kernels(pairs: usize) -> (Cable, Vec<Kernel>) {
    let (net, near, far) = device(pairs, Some(1500));
    let kernels: Vec<_> = near.iter().map(Kernel::new).collect();
    let net = net.with_vhost(kernels.iter().map(|k| Box::new(k.clone()) as _).collect());
    let counters = net.counters();
    (Cable { rig: Rig::new(Box::new(net)), far, near, counters }, kernels)
}

/// Waits until the kernel serves these pairs, and no others.
fn wait_serving(cable: &Cable, kernels: &[Kernel], expected: &[bool]) {
    cable.wait(&format!("the kernel serves {expected:?}"), |_| {
        kernels.iter().zip(expected).all(|(kernel, on)| kernel.serves() == [*on; 2])
    });
}

#[test]
fn the_kernel_serves_what_the_driver_offers() {
    let (mut cable, kernels) = with_kernels(1);
    cable.rig.bring_up(PLAIN | F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4);
    wait_serving(&cable, &kernels, &[true]);
    let order = [
        "set_up",
        "set_ring Rx",
        "set_events Rx",
        "set_ring Tx",
        "set_events Tx",
        "set_backend Rx",
        "set_backend Tx",
    ];
    assert_eq!(kernels[0].lock().said, order);
    assert_eq!(kernels[0].lock().accepted, PLAIN | F_MRG_RXBUF, "what is the kernel's matter");
    let offloads = Offloads { csum: true, tso4: true, ..Offloads::default() };
    assert_eq!(cable.near[0].settings().offloads, offloads);
    // A kick reaches it without us, and its interrupt the driver.
    let kick = kernels[0].lock().rings[1].events.clone().unwrap().kick;
    assert!(!kick.take());
    let at = cable.rig.ram.put(&frame(100, 1));
    cable.rig.queue(1).add(&[(at, 112)], &[]);
    cable.rig.kick(1);
    assert!(kick.take());
    let seen = cable.rig.signals[2].count();
    assert_eq!(kernels[0].send(), 1);
    assert_eq!(cable.rig.signals[2].count(), seen + 1);
    assert_eq!(cable.rig.queue(1).take_used().len(), 1);
    let place = cable.offer(0, &[500])[0];
    let write = |chain: &mut Chain<'_>| {
        chain.writable.write(&frame(60, 9));
        72
    };
    assert_eq!(kernels[0].turn(KernelRing::Rx, write), 1);
    assert_eq!(cable.used(0, 1)[0].1, 72);
    assert!(cable.rig.ram.read(place, 72) == frame(60, 9));
    // Nobody else has touched a frame.
    assert_eq!(cable.far[0].waiting(), 0);
    assert_eq!(cable.counters.tx().frames, 0);
}

#[test]
fn a_reset_ends_the_kernels_service() {
    let (mut cable, kernels) = with_kernels(1);
    for _ in 0..3 {
        cable.rig.bring_up(PLAIN);
        wait_serving(&cable, &kernels, &[true]);
        let at = cable.rig.ram.put(&frame(100, 1));
        cable.rig.queue(1).add(&[(at, 112)], &[]);
        assert_eq!(kernels[0].send(), 1);
        cable.rig.set_status(0);
        assert_eq!(kernels[0].serves(), [false; 2]);
        assert!(kernels[0].lock().rings.iter().all(|ring| ring.events.is_none()));
    }
    // It may come before the kernel has begun, too.
    for _ in 0..50 {
        cable.rig.bring_up(PLAIN);
        cable.rig.pci.reset();
        assert_eq!(kernels[0].serves(), [false; 2]);
        cable.rig.unmask_all();
    }
}

#[test]
fn rings_go_on_where_the_last_one_left_them() {
    let mut ram = Ram::new();
    let mut rings: Vec<_> = (0..2).map(|_| Ring::new(&mut ram, 16, true)).collect();
    let mut lives: Vec<_> = (0..2u16).map(|index| rings[usize::from(index)].live(index)).collect();
    let at = ram.put(&frame(100, 1));
    let msix = Msix::new(vec![Arc::new(RecordingRoute::default())]);
    // More than the ring is long.
    for round in 1..=40u16 {
        let (net, near, far) = device(1, None);
        let kernel = Kernel::new(&near[0]);
        let by_kernel = round % 3 != 0;
        let mut net = if by_kernel { net.with_vhost(vec![Box::new(kernel.clone())]) } else { net };
        let activation = Activation {
            memory: ram.memory.clone(),
            features: PLAIN,
            queues: std::mem::take(&mut lives),
            interrupt: Line::new(msix.clone(), 3),
        };
        rings[1].add(&[(at, 112)], &[]);
        net.start(activation).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while rings[1].used_index() != round {
            kernel.send();
            assert!(Instant::now() < until, "nobody serves the ring");
            std::thread::yield_now();
        }
        assert_eq!(far[0].waiting(), usize::from(!by_kernel));
        lives = net.stop();
        assert_eq!(rings[1].take_used().len(), 1);
        let indices = (lives[1].queue.next_avail(), lives[1].queue.next_used());
        assert_eq!(indices, (round, round), "by kernel: {by_kernel}");
    }
}

#[test]
fn pairs_that_are_switched_off_are_ours() {
    let features = PLAIN | F_MQ | F_CTRL_VQ;
    let (mut cable, kernels) = with_kernels(3);
    cable.rig.bring_up(features);
    wait_serving(&cable, &kernels, &[true, false, false]);
    let at = cable.rig.ram.put(&frame(100, 1));
    for round in 0..20 {
        assert_eq!(cable.command(6, 4, 0, &3u16.to_le_bytes()), 0);
        wait_serving(&cable, &kernels, &[true; 3]);
        for _ in 0..10 {
            cable.rig.queue(5).add(&[(at, 112)], &[]);
        }
        assert_eq!(kernels[2].send(), 10);
        assert_eq!(cable.complete_all(5), 10);
        assert_eq!(cable.command(6, 4, 0, &1u16.to_le_bytes()), 0);
        wait_serving(&cable, &kernels, &[true, false, false]);
        cable.wait("the queue has left", |c| !c.near[2].settings().enabled);
        // Nobody waits for its frames in vain.
        cable.rig.queue(5).add(&[(at, 112)], &[]);
        assert_eq!(cable.rig.complete(5).len(), 1, "round {round}");
    }
    cable.rig.bring_up(features);
    wait_serving(&cable, &kernels, &[true, false, false]);
}

#[test]
fn what_the_kernel_refuses_we_do() {
    let (mut cable, kernels) = with_kernels(1);
    let steps = [
        "set_up",
        "set_ring Rx",
        "set_ring Tx",
        "set_events Tx",
        "set_backend Rx",
        "set_backend Tx",
    ];
    for step in steps {
        kernels[0].lock().refuses = step;
        cable.rig.bring_up(PLAIN);
        let bytes = frame(100, 1);
        let at = cable.rig.ram.put(&bytes);
        cable.rig.queue(1).add(&[(at, 112)], &[]);
        assert_eq!(cable.rig.complete(1).len(), 1, "{step}");
        assert!(receive(&cable.far[0]) == bytes);
        let place = cable.offer(0, &[500])[0];
        cable.far[0].put(&frame(100, 2));
        assert_eq!(cable.used(0, 1)[0].1, 112, "{step}");
        assert!(cable.rig.ram.read(place + 12, 100) == frame(100, 2)[12..]);
        assert_eq!(kernels[0].serves(), [false; 2]);
    }
    // The next driver may be luckier.
    kernels[0].lock().refuses = "";
    cable.rig.bring_up(PLAIN);
    wait_serving(&cable, &kernels, &[true]);
}

#[test]
fn rings_that_the_kernel_cannot_serve_need_a_reset() {
    let (mut cable, kernels) = with_kernels(2);
    let features = PLAIN | F_MQ | F_CTRL_VQ;
    cable.rig.bring_up(features);
    wait_serving(&cable, &kernels, &[true, false]);
    cable.rig.queue(1).set_avail_index(1000);
    assert_eq!(kernels[0].send(), 0);
    cable.rig.wait_needs_reset();
    wait_serving(&cable, &kernels, &[false, false]);
    // A kernel that does not say where it was leaves nobody to go on.
    cable.rig.bring_up(features);
    assert_eq!(cable.command(4, 4, 0, &2u16.to_le_bytes()), 0);
    wait_serving(&cable, &kernels, &[true, true]);
    kernels[1].lock().refuses = "next_avail Tx";
    cable.command(4, 4, 0, &1u16.to_le_bytes());
    cable.rig.wait_needs_reset();
    kernels[1].lock().refuses = "";
    cable.rig.bring_up(features);
    wait_serving(&cable, &kernels, &[true, false]);
}

#[test]
fn only_what_the_kernel_can_is_offered() {
    let (net, near, _far) = device(2, Some(1500));
    let offered = net.features();
    let kernels: Vec<_> = near.iter().map(Kernel::new).collect();
    kernels[1].lock().features = ALL & !F_EVENT_IDX & !F_MRG_RXBUF;
    let net = net.with_vhost(kernels.iter().map(|k| Box::new(k.clone()) as _).collect());
    assert_eq!(net.features(), offered & !F_EVENT_IDX & !F_MRG_RXBUF);
    let (net, near, _far) = device(2, Some(1500));
    assert_eq!(net.with_vhost(vec![Box::new(Kernel::new(&near[0]))]).features(), offered);
}

impl Cable {
    /// Takes all that is used of a queue that has been served.
    fn complete_all(&mut self, queue: usize) -> usize {
        let used = self.rig.queue(queue).take_used().len();
        assert_eq!(self.rig.queue(queue).outstanding(), 0);
        used
    }
}

/// What a guest may do that must not cost it an interrupt.
#[derive(Clone, Debug)]
enum Step {
    Mask(u16, bool),
    MaskAll(bool),
    /// A pair's transmit queue gets a vector; the last one does not exist.
    Vector(u16, u16),
    Pairs(u16),
    Send(u16),
}

const PAIRS: u16 = 2;
const VECTORS: u16 = 2 * PAIRS + 2;
const CTRL: usize = 2 * PAIRS as usize;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..VECTORS, any::<bool>()).prop_map(|(vector, on)| Step::Mask(vector, on)),
        1 => any::<bool>().prop_map(Step::MaskAll),
        2 => (0..PAIRS, 0..=VECTORS).prop_map(|(pair, vector)| Step::Vector(pair, vector)),
        2 => (1..=PAIRS).prop_map(Step::Pairs),
        4 => (0..PAIRS).prop_map(Step::Send),
    ]
}

struct Guest {
    cable: Cable,
    kernels: Vec<Kernel>,
    /// Of the pairs' transmit queues.
    vectors: [u16; PAIRS as usize],
    /// Vectors to be sent more often than this.
    owed: Vec<(usize, u64)>,
}

impl Guest {
    fn new() -> Guest {
        let (mut cable, kernels) = with_kernels(PAIRS.into());
        // Without event indices: a driver that has looked by itself is told all the same.
        cable.rig.bring_up(F_VERSION_1 | F_MQ | F_CTRL_VQ);
        Guest { cable, kernels, vectors: [2, 4], owed: vec![] }
    }

    fn take(&mut self, step: &Step) {
        let rig = &mut self.cable.rig;
        match *step {
            Step::Mask(vector, on) => {
                let at = u64::from(vector) * ENTRY_LEN + 12;
                rig.msix.write_table(at, &u32::from(on).to_le_bytes());
            }
            Step::MaskAll(on) => rig.msix.set_control(true, on),
            Step::Vector(pair, vector) => {
                rig.write(0x16, &(2 * pair + 1).to_le_bytes());
                rig.write(0x1a, &vector.to_le_bytes());
                self.vectors[usize::from(pair)] = vector;
            }
            Step::Pairs(count) => {
                let command = rig.ram.put(&[4, 0, count as u8, 0]);
                let ack = rig.ram.put(&[0xee]);
                rig.queue(CTRL).add(&[(command, 4)], &[(ack, 1)]);
                rig.kick(CTRL);
                let on: Vec<_> = (0..PAIRS).map(|pair| pair < count).collect();
                wait_serving(&self.cable, &self.kernels, &on);
                self.wait_used(CTRL);
            }
            Step::Send(pair) => {
                let at = rig.ram.put(&frame(60, 1));
                let queue = 2 * usize::from(pair) + 1;
                let vector = usize::from(self.vectors[usize::from(pair)]);
                let seen = rig.signals.get(vector).map(|signal| signal.count());
                rig.queue(queue).add(&[(at, 72)], &[]);
                rig.kick(queue);
                self.wait_used(queue);
                if let Some(seen) = seen {
                    self.owed.push((vector, seen));
                    self.cable.wait("neither sent nor pending", |cable| {
                        let mut pending = [0];
                        cable.rig.msix.read_pba(0, &mut pending);
                        pending[0] & 1 << vector != 0 || cable.rig.signals[vector].count() > seen
                    });
                }
            }
        }
    }

    /// Waits without interrupts, as a driver may.
    fn wait_used(&mut self, queue: usize) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.cable.rig.queue(queue).take_used().is_empty() {
            for kernel in &self.kernels {
                kernel.send();
            }
            assert!(Instant::now() < until, "queue {queue} is not served");
            std::thread::yield_now();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_interrupt_is_lost(steps in vec(step(), 1..40)) {
        let mut guest = Guest::new();
        steps.iter().for_each(|step| guest.take(step));
        guest.cable.rig.unmask_all();
        for (vector, seen) in guest.owed {
            assert!(guest.cable.rig.signals[vector].count() > seen, "vector {vector}");
        }
    }

    #[test]
    fn arbitrary_drivers_are_survived_with_a_kernel(bytes in vec(any::<u8>(), 0..3000)) {
        let (net, near, _far) = device(2, Some(1500));
        let kernels = near.iter().map(|near| Box::new(Kernel::new(near)) as _).collect();
        drive(&bytes, Box::new(net.with_vhost(kernels)));
    }
}

//! The transport, spoken to as a driver does, and as one should not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::line::NO_VECTOR;
use super::*;
use crate::virtio::rng::Rng;
use crate::virtio::testkit::{HIGH_RAM, HIGH_RAM_LEN, LOW_RAM, Rig, drive};
use crate::virtio::{F_EVENT_IDX, LiveQueue, RING_FEATURES};

/// Counts its starts and stops, and refuses to start on demand.
struct Probe {
    starts: Arc<AtomicUsize>,
    queues: usize,
    fails: bool,
    live: Vec<LiveQueue>,
    config: [u8; 8],
}

fn probe(queues: usize, fails: bool) -> (Box<Probe>, Arc<AtomicUsize>) {
    let starts = Arc::new(AtomicUsize::new(0));
    let config = *b"01234567";
    (Box::new(Probe { starts: starts.clone(), queues, fails, live: vec![], config }), starts)
}

impl VirtioDevice for Probe {
    fn id(&self) -> u16 {
        42
    }
    fn pci_class(&self) -> u32 {
        0x12_34_56
    }
    fn features(&self) -> u64 {
        RING_FEATURES | 1 << 3
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![256; self.queues]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::read_config_bytes(&self.config, offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (0, [value, ..]) = (offset, data) {
            self.config[0] = *value;
        }
    }
    fn start(&mut self, activation: Activation) -> Result<(), crate::virtio::DeviceError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        if self.fails {
            return Err(crate::virtio::DeviceError("on purpose".into()));
        }
        // From another thread, while the vCPU holds the transport's lock.
        let interrupt = activation.interrupt.clone();
        std::thread::spawn(move || interrupt.queue(0)).join().unwrap();
        self.live = activation.queues;
        Ok(())
    }
    fn stop(&mut self) -> Vec<LiveQueue> {
        std::mem::take(&mut self.live)
    }
}

#[test]
fn identity_is_that_of_a_modern_device() {
    let rig = Rig::new(probe(1, false).0);
    let identity = rig.pci.identity();
    assert_eq!((identity.vendor, identity.device, identity.revision), (0x1af4, 0x106a, 1));
    assert_eq!((identity.subsystem_vendor, identity.subsystem), (0x1af4, 0x1100));
    assert_eq!(identity.class, 0x12_34_56);
}

#[test]
fn features_are_agreed_only_when_offered_and_modern() {
    let rig = Rig::new(probe(1, false).0);
    assert_eq!(rig.offered(), RING_FEATURES | F_VERSION_1 | 1 << 3);
    assert!(!rig.negotiate(1 << 3), "without VERSION_1");
    assert!(!rig.negotiate(F_VERSION_1 | 1 << 4), "what was not offered");
    assert!(rig.negotiate(F_VERSION_1));
    // Features are settled now.
    rig.write(0x08, &0u32.to_le_bytes());
    rig.write(0x0c, &8u32.to_le_bytes());
    assert_eq!(rig.read::<4>(0x0c), [0; 4]);
}

#[test]
fn a_device_starts_once_and_again_after_reset() {
    let (device, starts) = probe(2, false);
    let mut rig = Rig::new(device);
    for round in 1..4 {
        rig.bring_up(F_VERSION_1);
        assert_eq!(starts.load(Ordering::SeqCst), round);
        assert_eq!(rig.signals[1].count(), round as u64);
        rig.set_status(15);
        assert_eq!(starts.load(Ordering::SeqCst), round, "a second DRIVER_OK starts nothing");
    }
    rig.pci.reset();
    assert_eq!(rig.status(), 0);
    assert_eq!(rig.read::<2>(0x1c), [0; 2], "queues are disabled");
}

#[test]
fn driver_ok_without_agreed_features_starts_nothing() {
    let (device, starts) = probe(1, false);
    let rig = Rig::new(device);
    rig.set_status(1 | 2 | 4);
    assert_eq!((rig.status(), starts.load(Ordering::SeqCst)), (3, 0));
    // And in one write with features that are refused.
    rig.set_status(15);
    assert_eq!((rig.status(), starts.load(Ordering::SeqCst)), (3, 0));
}

#[test]
fn a_failed_start_needs_a_reset_and_tells() {
    let (device, _) = probe(1, true);
    let rig = Rig::new(device);
    assert!(rig.negotiate(F_VERSION_1));
    rig.write(0x10, &0u16.to_le_bytes());
    rig.set_status(15);
    assert_eq!(rig.status(), 15 | NEEDS_RESET);
    assert_eq!(rig.signals[0].count(), 1);
    assert_eq!(rig.read::<1>(caps::ISR), [2]);
    assert_eq!(rig.read::<1>(caps::ISR), [0], "reading clears it");
    assert!(rig.negotiate(F_VERSION_1), "a reset clears it");
}

#[test]
fn queues_are_enabled_only_when_they_fit_into_ram() {
    let (device, _) = probe(1, false);
    let rig = Rig::new(device);
    let good = (256u16, 0x1000u64, 0x3000u64, 0x4000u64);
    let bad = [
        (0, 0x1000, 0x3000, 0x4000),
        (3, 0x1000, 0x3000, 0x4000),
        (512, 0x1000, 0x3000, 0x4000),
        (256, 0x1008, 0x3000, 0x4000),
        (256, 0x1000, 0x3001, 0x4000),
        (256, 0x1000, 0x3000, 0x4002),
        (256, LOW_RAM, 0x3000, 0x4000),
        (256, LOW_RAM - 0x800, 0x3000, 0x4000),
        (256, 0x1000, HIGH_RAM + HIGH_RAM_LEN - 2, 0x4000),
        (256, 0x1000, 0x3000, u64::MAX - 3),
    ];
    let enable = |(size, desc, driver, device): (u16, u64, u64, u64)| {
        assert!(rig.negotiate(F_VERSION_1));
        rig.write(0x18, &size.to_le_bytes());
        rig.write(0x20, &desc.to_le_bytes());
        rig.write(0x28, &driver.to_le_bytes());
        rig.write(0x30, &device.to_le_bytes());
        rig.write(0x1c, &1u16.to_le_bytes());
        (rig.read::<2>(0x1c) == [1, 0], rig.status() & NEEDS_RESET == 0)
    };
    for setup in bad {
        assert_eq!(enable(setup), (false, false), "{setup:x?}");
    }
    assert_eq!(enable(good), (true, true));
    assert_eq!(enable((256, HIGH_RAM, HIGH_RAM + 0x2000, LOW_RAM - 2054 - 2)), (true, true));
    // An enabled queue stays as it is.
    rig.write(0x18, &8u16.to_le_bytes());
    rig.write(0x20, &0u64.to_le_bytes());
    rig.write(0x1c, &0u16.to_le_bytes());
    assert_eq!(rig.read::<2>(0x18), 256u16.to_le_bytes());
    assert_eq!(rig.read::<8>(0x20), HIGH_RAM.to_le_bytes());
    assert_eq!(rig.read::<2>(0x1c), [1, 0]);
}

#[test]
fn addresses_can_be_written_by_halves_and_read_in_any_width() {
    let rig = Rig::new(probe(1, false).0);
    rig.write(0x20, &0x5566_7780u32.to_le_bytes());
    rig.write(0x24, &0x1122_3344u32.to_le_bytes());
    assert_eq!(rig.read::<8>(0x20), 0x1122_3344_5566_7780u64.to_le_bytes());
    assert_eq!(rig.read::<4>(0x24), 0x1122_3344u32.to_le_bytes());
    assert_eq!(rig.read::<2>(0x26), 0x1122u16.to_le_bytes());
    assert_eq!(rig.read::<1>(0x27), [0x11]);
    // Odd widths and places do nothing.
    for (offset, len) in [(0x20, 1), (0x20, 2), (0x21, 4), (0x22, 8), (0x3c, 8), (0x16, 1)] {
        rig.write(offset, &[0xff; 8][..len]);
    }
    assert_eq!(rig.read::<8>(0x20), 0x1122_3344_5566_7780u64.to_le_bytes());
    assert_eq!(rig.read::<8>(0x3c), [0; 8]);
}

#[test]
fn vectors_that_do_not_exist_read_back_as_none() {
    let rig = Rig::new(probe(2, false).0);
    for (offset, vector, seen) in
        [(0x10, 2u16, 2u16), (0x10, 3, NO_VECTOR), (0x1a, 1, 1), (0x1a, 0x1234, NO_VECTOR)]
    {
        rig.write(offset, &vector.to_le_bytes());
        assert_eq!(rig.read::<2>(offset), seen.to_le_bytes(), "{vector} at {offset:#x}");
    }
    rig.write(0x16, &9u16.to_le_bytes());
    rig.write(0x1a, &1u16.to_le_bytes());
    assert_eq!(rig.read::<2>(0x1a), NO_VECTOR.to_le_bytes(), "no such queue");
    assert_eq!(rig.read::<2>(0x18), [0; 2], "no such queue");
}

#[test]
fn kicks_signal_the_doorbell_however_they_come() {
    let rig = Rig::new(probe(3, false).0);
    let doorbells = rig.pci.doorbells(0);
    assert_eq!(doorbells.iter().map(|d| d.offset).collect::<Vec<_>>(), [0x3000, 0x3004, 0x3008]);
    assert!(rig.pci.doorbells(1).is_empty());
    let events: Vec<Event> = doorbells.iter().map(|d| d.eventfd.clone().into()).collect();
    rig.kick(1);
    assert_eq!(events.iter().map(Event::take).collect::<Vec<_>>(), [false, true, false]);
    rig.kick(3);
    rig.kick(900);
    assert!(!events.iter().any(Event::take));
}

#[test]
fn device_configuration_passes_through() {
    let rig = Rig::new(probe(1, false).0);
    assert_eq!(rig.read::<4>(caps::DEVICE + 6), *b"67\0\0");
    rig.write(caps::DEVICE, b"x");
    assert_eq!(rig.read::<2>(caps::DEVICE), *b"x1");
}

#[test]
fn the_window_reaches_every_structure() {
    let rig = Rig::new(probe(1, false).0);
    let window = |offset: u32, len: u32, data: [u8; 4]| {
        let mut body = rig.pci.capabilities()[caps::WINDOW].body.clone();
        body[6..10].copy_from_slice(&offset.to_le_bytes());
        body[10..14].copy_from_slice(&len.to_le_bytes());
        body[14..18].copy_from_slice(&data);
        body
    };
    let read = |offset: u32, len: u32| {
        let mut data = [0xee; 4];
        let done =
            rig.pci.read_capability(caps::WINDOW, &window(offset, len, [0; 4]), 14, &mut data);
        done.then_some(data)
    };
    let write = |offset: u32, len: u32, data: [u8; 4]| {
        let _ = rig.pci.capability_written(caps::WINDOW, &window(offset, len, data), 14, &data);
    };
    assert_eq!(read(0x12, 2), Some([1, 0, 0, 0]));
    assert_eq!(read(0x2000, 4), Some(*b"0123"));
    write(0x14, 1, [3, 9, 9, 9]);
    assert_eq!(rig.status(), 3);
    write(0x4000 + 8, 4, [7, 0, 0, 0]);
    assert_eq!(read(0x4000 + 8, 4), Some([7, 0, 0, 0]));
    assert_eq!(read(0x7000, 4), Some([0; 4]));
    assert_eq!(read(0x8000, 4), None);
    assert!(!rig.pci.read_capability(0, &window(0, 4, [0; 4]), 14, &mut [0; 4]));
}

#[test]
fn a_masked_vector_keeps_its_interrupt() {
    let mut rig = Rig::new(Box::new(Rng::new()));
    rig.bring_up(F_VERSION_1);
    rig.msix.write_table(16 + 12, &1u32.to_le_bytes());
    let buffer = rig.ram.take(16);
    rig.queue(0).add(&[], &[(buffer, 16)]);
    rig.kick(0);
    let until = Instant::now() + Duration::from_secs(20);
    let pending = || {
        let mut pba = [0; 8];
        rig.msix.read_pba(0, &mut pba);
        pba[0]
    };
    while pending() == 0 {
        assert!(Instant::now() < until, "no interrupt is pending");
        std::thread::yield_now();
    }
    assert_eq!((rig.signals[1].count(), pending()), (0, 2));
    rig.unmask_all();
    assert_eq!((rig.signals[1].count(), pending()), (1, 0));
}

#[test]
fn without_a_vector_there_is_no_interrupt_but_isr() {
    let mut rig = Rig::new(Box::new(Rng::new()));
    rig.bring_up(F_VERSION_1);
    rig.write(0x1a, &NO_VECTOR.to_le_bytes());
    let buffer = rig.ram.take(16);
    rig.queue(0).add(&[], &[(buffer, 16)]);
    rig.kick(0);
    let until = Instant::now() + Duration::from_secs(20);
    while rig.read::<1>(caps::ISR) != [1] {
        assert!(Instant::now() < until, "the queue bit is never set");
        std::thread::yield_now();
    }
    assert_eq!(rig.queue(0).take_used(), [(0, 16)]);
    assert!(rig.signals.iter().all(|signal| signal.count() == 0));
}

#[test]
fn too_many_queues_or_odd_sizes_are_refused() {
    let memory = Rig::new(probe(1, false).0).ram.memory;
    let msix = || Msix::new(vec![Arc::new(crate::irq::RecordingRoute::default())]);
    for queues in [0, caps::MAX_QUEUES + 1] {
        let result = VirtioPci::new(probe(queues, false).0, memory.clone(), msix());
        assert!(matches!(result, Err(TransportError::Queues(n)) if n == queues));
    }
    assert!(VirtioPci::new(probe(caps::MAX_QUEUES, false).0, memory, msix()).is_ok());
}

#[test]
fn random_register_traffic_is_harmless() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..40 {
        let mut rig = Rig::new(Box::new(Rng::new()));
        if round % 2 == 0 {
            rig.bring_up(F_VERSION_1 | F_EVENT_IDX);
        }
        for _ in 0..2000 {
            let (a, b) = (next(), next());
            // Half of the accesses at the structures' beginnings, the rest anywhere.
            let offset = if a & 1 == 0 { a >> 8 & 0x703f } else { a >> 8 };
            let width = 1 << (a >> 1 & 3);
            let mut data = b.to_le_bytes();
            if a & 8 == 0 {
                rig.pci.read_bar((a >> 4 & 1) as usize, offset, &mut data[..width]);
            } else {
                let _ = rig.pci.write_bar(0, offset, &data[..width]);
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    #[test]
    fn arbitrary_drivers_are_survived(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)
    ) {
        drive(&bytes, Box::new(Rng::new()));
    }
}

#[test]
fn a_queues_event_follows_its_vector() {
    let (device, _) = probe(2, false);
    let mut rig = Rig::new(device);
    rig.bring_up(F_VERSION_1);
    let line = rig.pci.line.clone();
    let event = line.queue_event(1).unwrap();
    let heard = |rig: &Rig| -> Vec<u64> { rig.signals.iter().map(|s| s.count()).collect() };
    let mut expected = heard(&rig);
    let mut signal = |rig: &Rig, vector: Option<usize>| {
        event.signal();
        if let Some(vector) = vector {
            expected[vector] += 1;
        }
        assert_eq!(heard(rig), expected, "vector {vector:?}");
    };
    let vector = |rig: &Rig, vector: u16| {
        rig.write(0x16, &1u16.to_le_bytes());
        rig.write(0x1a, &vector.to_le_bytes());
    };
    signal(&rig, Some(2));
    vector(&rig, 0);
    signal(&rig, Some(0));
    vector(&rig, 7);
    signal(&rig, None);
    vector(&rig, 1);
    signal(&rig, Some(1));
    // It stays the same event, and asking for it again changes nothing.
    assert!(Arc::ptr_eq(line.queue_event(1).unwrap().fd(), event.fd()));
    signal(&rig, Some(1));
    rig.set_status(0);
    signal(&rig, None);
    rig.bring_up(F_VERSION_1);
    // The next driver hears nothing of what came before it.
    assert!(Arc::ptr_eq(line.queue_event(1).unwrap().fd(), event.fd()));
    expected = heard(&rig);
    event.signal();
    expected[2] += 1;
    assert_eq!(heard(&rig), expected);
    assert!(line.queue_event(2).is_none());
}

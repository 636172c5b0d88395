//! What is counted of a guest: its vCPUs' exits, its disk's requests, its resets.

use std::sync::Arc;

use devices::block::{Raw, Window};
use devices::virtio::blk::Operation;
use vmm::config::{DiskConfig, DiskEngine, DiskLimits};
use vmm::{ExitKind, ExitReason};

use super::{Code, RESET_CONTROL, start, start_on};

/// Where the guest puts the registers of the first disk, 00:0a.0.
const BAR: u32 = 0xc000_0000;
const DESCRIPTORS: u32 = 0x20_0000;
const AVAILABLE: u32 = 0x20_1000;
const USED: u32 = 0x20_2000;
const REQUESTS: u32 = 0x20_3000;
const DATA: u32 = 0x20_4000;
const NEXT: u32 = 1;
const WRITE: u32 = 2;

impl Code {
    fn store16(self, address: u32, value: u16) -> Code {
        self.bytes(&[0x66, 0xc7, 0x05]).bytes(&address.to_le_bytes()).bytes(&value.to_le_bytes())
    }

    fn store8(self, address: u32, value: u8) -> Code {
        self.bytes(&[0xc6, 0x05]).bytes(&address.to_le_bytes()).bytes(&[value])
    }

    /// A descriptor (VIRTIO 1.3 §2.7.5).
    fn descriptor(self, number: u32, address: u32, len: u32, flags: u32) -> Code {
        let at = DESCRIPTORS + 16 * number;
        let next = if flags & NEXT != 0 { number + 1 } else { 0 };
        self.store(at, address)
            .store(at + 4, 0)
            .store(at + 8, len)
            .store(at + 12, flags | next << 16)
    }

    /// Brings queue 0 of the first disk up (VIRTIO 1.3 §3.1.1, §4.1.4.3).
    fn disk_up(self) -> Code {
        // BAR 0; then memory accesses, of the device as well.
        let code = self.out32(0xcf8, 0x8000_5010).out32(0xcfc, BAR);
        let code = code.out32(0xcf8, 0x8000_5004).out16(0xcfc, 6);
        // Acknowledged, driven; flushes and version 1; features fixed.
        let code = code.store8(BAR + 0x14, 1).store8(BAR + 0x14, 3);
        let code = code.store(BAR + 8, 0).store(BAR + 0x0c, 1 << 9);
        let code = code.store(BAR + 8, 1).store(BAR + 0x0c, 1).store8(BAR + 0x14, 0x0b);
        let code = code.store16(BAR + 0x16, 0).store16(BAR + 0x18, 8);
        let rings = [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)];
        let code = rings.into_iter().fold(code, |code, (register, address)| {
            code.store(BAR + register, address).store(BAR + register + 4, 0)
        });
        code.store16(BAR + 0x1c, 1).store8(BAR + 0x14, 0x0f)
    }

    /// Makes the chains that begin with these descriptors available, and waits for all of them.
    fn offer(self, heads: [u16; 3]) -> Code {
        let code = heads
            .into_iter()
            .zip(0..)
            .fold(self, |code, (head, index)| code.store16(AVAILABLE + 4 + 2 * index, head));
        // Three, and no interrupts; the doorbell; cmp word [used index], 3; jne back.
        let code = code.store(AVAILABLE, 1 | 3 << 16).store16(BAR + 0x3000, 0);
        let code = code.bytes(&[0x66, 0x83, 0x3d]).bytes(&(USED + 2).to_le_bytes());
        code.bytes(&[3, 0x75, 0xf6])
    }
}

#[test]
fn requests_of_a_guest_are_counted_and_so_are_its_exits() {
    let status = |number: u32| REQUESTS + 32 * number + 16;
    let header = |number: u32| REQUESTS + 32 * number;
    let code = Code::default().disk_up();
    // A write of 4 KiB, a read of 512 bytes beyond the end of the disk, a flush.
    let code = code.store(header(0), 1).descriptor(0, header(0), 16, NEXT);
    let code = code.descriptor(1, DATA, 4096, NEXT).descriptor(2, status(0), 1, WRITE);
    let code = code.store(header(1), 0).store(header(1) + 8, 2048);
    let code = code.descriptor(3, header(1), 16, NEXT).descriptor(4, DATA, 512, NEXT | WRITE);
    let code = code.descriptor(5, status(1), 1, WRITE);
    let code = code.store(header(2), 4).descriptor(6, header(2), 16, NEXT);
    let code = code.descriptor(7, status(2), 1, WRITE).offer([0, 3, 6]);
    // The three statuses: mov al, [status].
    let code = (0..3).fold(code, |code, number| {
        code.bytes(&[0xa0]).bytes(&status(number).to_le_bytes()).send_al()
    });
    let code = code.power_off();

    for engine in [DiskEngine::Sync, DiskEngine::Auto] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let backend = Raw::open(file, Window::default(), false).unwrap();
        let disk = DiskConfig {
            backend: Arc::new(backend),
            serial: "counted".into(),
            queues: 1,
            engine,
            name: "a file".into(),
            limits: DiskLimits::default(),
        };
        let Some((machine, paper)) = start_on(vec![disk], None, &code, 1, 32) else { return };
        let handle = machine.handle();
        assert_eq!(machine.wait(), ExitReason::PoweredOff);
        assert_eq!(*paper.0.lock().unwrap(), [0, 1, 0]);
        let counters = &handle.disks()[0].counters;
        let counted = Operation::ALL.map(|operation| {
            let totals = counters.totals(operation);
            assert_eq!(totals.classes.iter().sum::<u64>(), totals.requests);
            (totals.requests, totals.errors, totals.bytes)
        });
        assert_eq!(counted, [(1, 1, 0), (1, 0, 4096), (1, 0, 0), (0, 0, 0), (0, 0, 0)]);
        let exits = ExitKind::ALL.map(|kind| handle.exits()[0].of(kind));
        // Four for the configuration space, three characters, the power button's register; every
        // register of the device, but not the doorbell, which is KVM's.
        assert_eq!(&exits[..4], [0, 8, 0, 17], "{exits:?}");
        assert_eq!(handle.resets(), 0);
        assert!(handle.resident_bytes().unwrap() > 0);
    }
}

#[test]
fn resets_are_counted_and_each_vcpu_by_itself() {
    let first = Code::default().out8(0x70, 0x40).out8(0x71, 1).out8(RESET_CONTROL, 6).spin();
    let code = Code::default().out8(0x70, 0x40).in8(0x71).if_al_zero(first).power_off();
    let Some((machine, _)) = start(&code, 2, 32) else { return };
    let handle = machine.handle();
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!((handle.resets(), handle.exits().len()), (1, 2));
    let of = |vcpu: usize, kind| handle.exits()[vcpu].of(kind);
    assert_eq!((of(0, ExitKind::PortIn), of(0, ExitKind::PortOut)), (2, 6));
    // Nobody has started the other.
    assert_eq!((of(1, ExitKind::PortIn), of(1, ExitKind::PortOut)), (0, 0));
}

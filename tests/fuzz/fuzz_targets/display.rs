//! The display adapter under a guest that writes any of its registers in any width and order, and any
//! of the memory it paints from, while somebody watches.
//!
//! Each access is eight bytes: what, width, a place, a value. Pictures stay as small as the fuzzer's
//! time: modes of more than a mebipixel are painted rarely.
#![no_main]

use std::sync::Arc;

use devices::bus::{Bus, MemorySlot};
use devices::display::bochs::{Adapter, Resources};
use devices::display::dirty::DirtyLog;
use devices::display::dispi::MEMORY_LEN;
use devices::display::{Damage, Picture, Rect, SIDE_MAX, Screen};
use devices::mem::{Bytes, GuestAddress, GuestRam};
use devices::pci::PciDevice;
use libfuzzer_sys::fuzz_target;

/// Neither a slot nor a log: every page may have been written.
struct Nothing;

impl MemorySlot for Nothing {
    fn place(&self, _: Option<u64>) {}
}

impl DirtyLog for Nothing {
    fn watch(&self, _: bool) {}
    fn take(&self) -> Option<Vec<u64>> {
        None
    }
}

const ALL: Rect = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };
const PIXELS_MAX: u32 = 1 << 20;
const PAINTS_MAX: usize = 64;

fuzz_target!(|data: &[u8]| {
    let ram = |len| Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), len)]).unwrap());
    let (memory, ram) = (ram(MEMORY_LEN), ram(1 << 20));
    let (slot, log) = (Arc::new(Nothing), Arc::new(Nothing));
    let parts = Resources { memory: memory.clone(), slot, log, ram: ram.clone() };
    let adapter = Adapter::new(parts, 1024, 768);
    let ports = Bus::default();
    for (base, len, region) in adapter.ports() {
        ports.insert(base, len, region).unwrap();
    }
    adapter.watch(true);
    let (mut picture, mut damage) = (Picture::default(), Damage::default());
    let mut paints = 0;
    for access in data.chunks_exact(8).take(4096) {
        let [what, a, b, c, values @ ..] = access else { return };
        let mut bytes = [values[0], values[1], values[2], values[3], *c, *b, *a, *what];
        let width = 1 << (what >> 4 & 3);
        let offset = u64::from(u16::from_le_bytes([*a, *b]));
        match what & 0xf {
            0..=2 => drop(ports.write(0x3b0 + offset % 0x30, &bytes[..width])),
            3..=5 => drop(ports.write(0x1ce + offset % 4, &bytes[..width])),
            6 | 7 => drop(adapter.write_bar(2, offset % 0x1000, &bytes[..width])),
            8 => adapter.read_bar(2, offset % 0x1000, &mut bytes[..width]),
            9 => ports.read(0x3b0 + offset % 0x30, &mut bytes[..width]),
            10 => drop(adapter.write_bar(0, offset << (c & 31), &bytes[..width])),
            11 => drop(ram.write_slice(&bytes[..width], GuestAddress(0xa_0000 + 2 * offset))),
            12 if what & 0x40 != 0 => adapter.reset(),
            12 => adapter.preset(offset as u32, u32::from(*c)),
            13 => adapter.watch(what & 0x40 != 0),
            _ => {
                let (width, height) = adapter.size();
                assert!((1..=SIDE_MAX).contains(&width) && (1..=SIDE_MAX).contains(&height));
                if paints < PAINTS_MAX && width * height <= PIXELS_MAX {
                    paints += 1;
                    adapter.paint(&mut picture, &mut damage);
                    assert_eq!((picture.width(), picture.height()), (width, height));
                    damage.take(&ALL);
                }
            }
        }
    }
});

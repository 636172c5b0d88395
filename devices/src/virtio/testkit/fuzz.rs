//! Arbitrary bytes as a driver: register accesses, ring contents, kicks and resets.
//!
//! ```text
//! op  0 read BAR   1 write BAR   2 write RAM   3 describe a buffer   4 offer a chain
//!     5 kick   6 bring the device up   7 reset   8 read through, 9 write through, the window
//! ```
//! Numbers are little-endian, and cut off at the end of the input. Nothing may panic or hang.

use vm_memory::{Bytes, GuestAddress};

use super::{LOW_RAM, Rig};
use crate::pci::PciDevice;
use crate::virtio::pci::caps;
use crate::virtio::{F_VERSION_1, VirtioDevice};

/// Most operations of one run: a run is short, and a guest's RAM is small.
const MAX_OPS: usize = 512;
/// Buffers lie here, so that many of them are good, and overlap.
const BUFFERS: u64 = 8 << 20;

/// Drives `device` with `bytes`, through its registers and rings, then unplugs it.
pub fn drive(bytes: &[u8], device: Box<dyn VirtioDevice>) {
    let mut rig = Rig::new(device);
    let mut input = Input(bytes);
    for _ in 0..MAX_OPS {
        let Some(op) = input.byte() else { break };
        step(&mut rig, op, &mut input);
    }
}

fn step(rig: &mut Rig, op: u8, input: &mut Input<'_>) {
    match op % 10 {
        0 => {
            let (offset, width) = (input.number(2), input.width());
            rig.pci.read_bar(0, offset, &mut [0; 8][..width]);
        }
        1 => {
            let (offset, width) = (input.number(2), input.width());
            let data = input.number(8).to_le_bytes();
            let _ = rig.pci.write_bar(0, offset, &data[..width]);
        }
        2 => {
            let at = input.number(3) % LOW_RAM;
            let data = input.number(8).to_le_bytes();
            let _ = rig.ram.memory.write_slice(&data, GuestAddress(at));
        }
        3 => describe(rig, input),
        4 => {
            let (queue, head) = (input.number(1) as usize, input.number(1) as u16);
            if let Some(ring) = ring(rig, queue) {
                ring.offer(head);
            }
        }
        5 => rig.kick(input.number(1) as usize),
        6 => {
            // A device that refuses is none the worse for it; nor is one that finds in the rings'
            // memory what was written there before, and asks for a reset at once.
            let features = (input.number(5) & rig.offered()) | F_VERSION_1;
            if rig.ram.next < BUFFERS / 2 && rig.negotiate(features) {
                rig.start(features, 0);
            }
        }
        7 => rig.pci.reset(),
        _ => window(rig, op, input),
    }
}

fn describe(rig: &mut Rig, input: &mut Input<'_>) {
    let (queue, index) = (input.number(1) as usize, input.number(1) as u16);
    let (place, len) = (input.number(2), input.number(3) as u32);
    let (flags, next) = (input.number(1) as u16, input.number(1) as u16);
    let at = if place & 0x8000 == 0 { BUFFERS + place * 16 } else { LOW_RAM - 0x8000 + place };
    // Request headers are small numbers: put some there, now and then.
    if flags & 0x80 != 0 {
        let _ = rig.ram.memory.write_slice(&input.number(8).to_le_bytes(), GuestAddress(at));
    }
    if let Some(ring) = ring(rig, queue)
        && index < ring.size
    {
        ring.describe(index, at, len, flags & 7, next);
    }
}

fn window(rig: &mut Rig, op: u8, input: &mut Input<'_>) {
    let mut body = rig.pci.capabilities()[caps::WINDOW].body.clone();
    for byte in body.iter_mut().skip(2) {
        *byte = input.byte().unwrap_or_default();
    }
    let (offset, width) = (input.number(1) as usize % 24, input.width());
    let mut data = input.number(8).to_le_bytes();
    if op % 10 == 8 {
        rig.pci.read_capability(caps::WINDOW, &body, offset, &mut data[..width]);
    } else {
        let _ = rig.pci.capability_written(caps::WINDOW, &body, offset, &data[..width]);
    }
}

fn ring(rig: &mut Rig, queue: usize) -> Option<&mut super::Ring> {
    let count = rig.rings.len().max(1);
    rig.rings.get_mut(queue % count)
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes)
            .fold(0, |value, at| value | u64::from(self.byte().unwrap_or_default()) << (8 * at))
    }

    fn width(&mut self) -> usize {
        1 << (self.number(1) & 3)
    }
}

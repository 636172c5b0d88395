//! The adapter as a driver and a viewer see it.

use super::super::dirty::PAGE;
use super::super::{Rect, TILE, font};
use super::*;
use crate::bus::Bus;
use crate::mem::GuestRam;

/// A log that a test writes.
#[derive(Default)]
struct Log {
    watched: Mutex<Vec<bool>>,
    pages: Mutex<Option<Vec<u64>>>,
    taken: Mutex<usize>,
}

impl DirtyLog for Log {
    fn watch(&self, watched: bool) {
        self.watched.lock().unwrap().push(watched);
    }
    fn take(&self) -> Option<Vec<u64>> {
        *self.taken.lock().unwrap() += 1;
        self.pages.lock().unwrap().replace(vec![0; MEMORY_LEN / PAGE / 64])
    }
}

struct NoSlot;

impl MemorySlot for NoSlot {
    fn place(&self, _: Option<u64>) {}
}

struct Rig {
    adapter: Arc<Adapter>,
    memory: GuestMemory,
    ram: GuestMemory,
    log: Arc<Log>,
    ports: Bus,
    picture: Picture,
    damage: Damage,
}

const ALL: Rect = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };
const ENABLE: u16 = 4;

impl Rig {
    fn new() -> Rig {
        let ram = |len| Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), len)]).unwrap());
        let (memory, ram) = (ram(MEMORY_LEN), ram(1 << 20));
        let log = Arc::new(Log::default());
        let (slot, seam) = (Arc::new(NoSlot), log.clone());
        let resources = Resources { memory: memory.clone(), slot, log: seam, ram: ram.clone() };
        let adapter = Adapter::new(resources, 1024, 768);
        let ports = Bus::default();
        for (base, len, region) in adapter.ports() {
            ports.insert(base, len, region).unwrap();
        }
        let (picture, damage) = (Picture::default(), Damage::default());
        Rig { adapter, memory, ram, log, ports, picture, damage }
    }

    /// Sets a DISPI register through the ports.
    fn set(&self, index: u16, value: u16) {
        let _ = self.ports.write(0x1ce, &index.to_le_bytes());
        let _ = self.ports.write(0x1cf, &value.to_le_bytes());
    }

    fn mode(&self, width: u16, height: u16, bits: u16) {
        self.set(ENABLE, 0);
        for (index, value) in [(1, width), (2, height), (3, bits), (ENABLE, 0x41)] {
            self.set(index, value);
        }
    }

    /// The guest writes video memory, and the log tells.
    fn store(&self, at: usize, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at as u64)).unwrap();
        if let Some(pages) = self.log.pages.lock().unwrap().as_mut() {
            for page in at / PAGE..=(at + bytes.len() - 1) / PAGE {
                pages[page / 64] |= 1 << (page % 64);
            }
        }
    }

    fn paint(&mut self) -> Vec<Rect> {
        self.adapter.paint(&mut self.picture, &mut self.damage);
        self.damage.take(&ALL)
    }
}

#[test]
fn a_linear_frame_is_painted_and_then_only_what_changes() {
    let mut rig = Rig::new();
    rig.adapter.watch(true);
    rig.mode(1024, 768, 32);
    let whole = Rect { x: 0, y: 0, width: 1024, height: 768 };
    assert_eq!(rig.paint(), [whole]);
    assert!(rig.paint().is_empty());
    rig.store(4 * (1024 * 100 + 40), &[1, 2, 3, 0]);
    rig.store(4 * 1024 * 500, &[0; 64]);
    let tile = Rect { x: 32, y: 96, width: TILE, height: TILE };
    assert_eq!(rig.paint(), [tile], "what was written with what was there has not changed");
    assert_eq!(rig.picture.row(100)[40], 0x03_0201);
    // What the log does not tell is not looked for.
    rig.memory.write_slice(&[9; 4], GuestAddress(0)).unwrap();
    assert!(rig.paint().is_empty());
    rig.adapter.watch(true);
    assert_eq!(rig.paint().len(), 1, "a new viewer sees everything");
    assert_eq!(rig.picture.row(0)[0], 0x09_0909);
}

#[test]
fn nothing_is_tracked_while_nobody_watches() {
    let mut rig = Rig::new();
    rig.mode(640, 480, 32);
    assert!(rig.log.watched.lock().unwrap().is_empty() && *rig.log.taken.lock().unwrap() == 0);
    rig.adapter.watch(true);
    rig.paint();
    rig.adapter.watch(false);
    assert_eq!(*rig.log.watched.lock().unwrap(), [true, false]);
    assert_eq!(*rig.log.taken.lock().unwrap(), 1);
}

#[test]
fn modes_come_and_go_in_every_depth() {
    let mut rig = Rig::new();
    rig.adapter.watch(true);
    for (bits, white) in [(15, &[0xff, 0x7f][..]), (16, &[0xff; 2]), (24, &[0xff; 3]), (8, &[63])] {
        rig.mode(801, 601, bits);
        rig.store((801 * 600 + 800) * white.len(), white);
        rig.paint();
        assert_eq!((rig.picture.width(), rig.picture.height()), (801, 601));
        assert_eq!(rig.picture.row(600)[800], 0xff_ffff, "{bits} bits");
        assert_eq!(rig.picture.row(600)[799], 0);
    }
    // Another palette paints the same bytes anew.
    for (port, value) in [(0x3c8, 63), (0x3c9, 0x3f), (0x3c9, 0), (0x3c9, 0)] {
        let _ = rig.ports.write(port, &[value]);
    }
    assert_eq!(rig.paint().len(), 1);
    assert_eq!(rig.picture.row(600)[800], 0xff_0000);
    rig.set(ENABLE, 0);
    rig.paint();
    assert_eq!((rig.picture.width(), rig.picture.height()), (720, 400));
}

#[test]
fn enabling_a_mode_blanks_it_unless_asked_not_to() {
    let mut rig = Rig::new();
    rig.adapter.watch(true);
    rig.store(0, &[0xff; 8]);
    rig.mode(640, 480, 32);
    rig.paint();
    assert_eq!(rig.picture.row(0)[..2], [0; 2]);
    rig.set(ENABLE, 0);
    rig.store(0, &[0xff; 4]);
    rig.set(ENABLE, 0xc1);
    rig.paint();
    assert_eq!(rig.picture.row(0)[..2], [0xff_ffff, 0]);
}

#[test]
fn panning_shows_another_part() {
    let mut rig = Rig::new();
    rig.adapter.watch(true);
    rig.mode(640, 480, 32);
    rig.paint();
    rig.store(640 * 480 * 4, &[7; 4]);
    rig.set(9, 480);
    assert_eq!(rig.paint().len(), 1);
    assert_eq!(rig.picture.row(0)[0], 0x07_0707);
    rig.set(9, u16::MAX);
    rig.paint();
    assert_eq!(rig.picture.row(0)[0], 0, "an offset outside memory counts as none");
}

#[test]
fn a_mode_set_by_port_is_blank_and_one_set_by_a_driver_is_as_it_was_painted() {
    let mut rig = Rig::new();
    rig.adapter.watch(true);
    let last = 4 * (1920 * 1080 - 1);
    rig.store(last, &[7; 4]);
    let by_bar = |rig: &Rig, index: u64, value: u16| {
        let _ = rig.adapter.write_bar(2, 0x500 + 2 * index, &value.to_le_bytes());
    };
    // As bochs-drm does it.
    for (index, value) in [(4, 0), (3, 32), (1, 1920), (2, 1080), (8, 0), (9, 0), (4, 0x41)] {
        by_bar(&rig, index, value);
    }
    rig.paint();
    assert_eq!(rig.picture.row(1079)[1919], 0x07_0707);
    rig.mode(1920, 1080, 32);
    rig.paint();
    assert_eq!(rig.picture.row(1079)[1919], 0);
}

#[test]
fn text_is_shown_while_no_mode_is_on() {
    let mut rig = Rig::new();
    rig.adapter.watch(true);
    rig.ram.write_slice(b"B\x07", GuestAddress(0xb_8000 + 2)).unwrap();
    rig.paint();
    let shape = font::glyph('B').unwrap();
    for (y, bits) in (0..).zip(shape) {
        let pixels = &rig.picture.row(y)[9..17];
        let seen = pixels.iter().fold(0u8, |bits, pixel| bits << 1 | u8::from(*pixel != 0));
        assert_eq!(seen, *bits);
    }
    assert!(rig.paint().is_empty());
    rig.adapter.reset();
    rig.paint();
    assert!(rig.picture.row(4).iter().all(|pixel| *pixel == 0), "a reset clears the screen");
}

#[test]
fn the_machine_presets_a_mode_as_firmware_would() {
    let mut rig = Rig::new();
    rig.store(0, &[0xff; 4096]);
    rig.adapter.preset(1280, 800);
    assert_eq!(rig.adapter.size(), (1280, 800));
    rig.paint();
    assert_eq!((rig.picture.width(), rig.picture.row(0)[0]), (1280, 0));
    rig.adapter.reset();
    assert_eq!(rig.adapter.size(), (720, 400));
}

#[test]
fn bar_2_has_edid_vga_dispi_and_their_length() {
    let rig = Rig::new();
    let read = |offset, len| {
        let mut data = [0; 8];
        rig.adapter.read_bar(2, offset, &mut data[..len]);
        data
    };
    assert_eq!(read(0, 8), [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    assert_eq!(read(126, 4)[2..], [0; 6]);
    assert_eq!(read(0x500, 2)[..2], [0xc5, 0xb0]);
    assert_eq!(read(0x514, 2)[..2], [0, 1]);
    assert_eq!(read(0x600, 8), EXTENSION);
    assert_eq!(read(0x516, 2)[..2], [0xff; 2]);
    for (index, value) in [(1, 800u16), (2, 600), (3, 32), (4, 0x41)] {
        let _ = rig.adapter.write_bar(2, 0x500 + 2 * index, &value.to_le_bytes());
    }
    assert_eq!(rig.adapter.size(), (800, 600));
    // Index and data in one word, as the CRTC's start address is set.
    let _ = rig.adapter.write_bar(2, 0x414, &[0x0c, 0x12]);
    assert_eq!(read(0x414, 2)[..2], [0x0c, 0x12]);
    let mut data = [0];
    rig.ports.read(0x3d5, &mut data);
    assert_eq!(data, [0x12]);
}

#[test]
fn dispi_ports_are_words() {
    let rig = Rig::new();
    rig.set(1, 0x1234);
    let read = |port, len| {
        let mut data = [0; 4];
        rig.ports.read(port, &mut data[..len]);
        data
    };
    assert_eq!((read(0x1ce, 2)[..2].to_vec(), read(0x1d0, 2)), (vec![1, 0], [0x34, 0x12, 0, 0]));
    assert_eq!((read(0x1cf, 1)[0], read(0x1ce, 4)), (0xff, [0xff; 4]));
    let _ = rig.ports.write(0x1cf, &[5]);
    assert_eq!(read(0x1cf, 2)[..2], [0x34, 0x12]);
}

#[test]
fn memory_is_reached_without_its_slot_too() {
    let mut rig = Rig::new();
    rig.adapter.watch(true);
    rig.mode(640, 480, 32);
    rig.paint();
    let _ = rig.adapter.write_bar(0, 0, &[1, 2, 3, 4]);
    assert_eq!(rig.paint(), [Rect { x: 0, y: 0, width: TILE, height: TILE }]);
    let mut data = [0; 4];
    rig.adapter.read_bar(0, 0, &mut data);
    assert_eq!(data, [1, 2, 3, 4]);
    rig.adapter.read_bar(0, MEMORY_LEN as u64 - 2, &mut data);
    assert_eq!(data, [0xff; 4]);
    let _ = rig.adapter.write_bar(0, u64::MAX, &data);
}

#[test]
fn any_access_of_any_width_is_harmless() {
    let mut rig = Rig::new();
    rig.adapter.watch(true);
    for len in [1, 2, 4, 8] {
        let mut data = [0xff; 8];
        for offset in 0..0x1000 {
            let _ = rig.adapter.write_bar(2, offset, &data[..len]);
            rig.adapter.read_bar(2, offset, &mut data[..len]);
        }
        for port in (0x3b0..0x3e0).chain(0x1ce..0x1d2) {
            let _ = rig.ports.write(port, &data[..len]);
            rig.ports.read(port, &mut data[..len]);
        }
        rig.paint();
    }
}

#[test]
fn a_mode_that_the_guest_has_set_is_meant() {
    let rig = Rig::new();
    rig.adapter.preset(1024, 768);
    assert!(!rig.adapter.is_driven(), "that was us");
    rig.set(ENABLE, 0);
    assert!(!rig.adapter.is_driven());
    rig.mode(800, 600, 32);
    assert!(rig.adapter.is_driven());
    rig.adapter.reset();
    assert!(!rig.adapter.is_driven());
}

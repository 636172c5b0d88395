//! The display adapter, 1234:1111: VGA registers, DISPI registers, 16 MiB of video memory, EDID.
//! It is the one that every guest shows something on: text before any driver, a framebuffer that
//! firmware or the machine has set up, or the guest's own driver (bochs-drm).
//!
//! ```text
//! BAR 0  16 MiB of video memory: the guest's writes do not come here
//! BAR 2  000 EDID | 400 VGA ports 3c0 to 3df | 500 DISPI registers, 16 bits each
//!        600 length of what follows | 604 byte order: little-endian
//! ports  3b0 to 3df VGA | 1ce DISPI index, 1cf and 1d0 data, 16 bits each
//! ```
//! While DISPI has a mode on, video memory is shown, else the VGA mode. The attribute controller's
//! blanking is not obeyed: that hardware is black until a driver knows of it. Left out: the option
//! ROM, the big-endian byte order.
//!
//! Registers are used on vCPU threads, painting is done on a viewer's: it copies what it needs of
//! the registers and lets go of them, so that no vCPU waits for a picture. Lock order: painter,
//! registers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::dirty::{DirtyLog, Pages};
use super::dispi::{self, Dispi, MEMORY_LEN};
use super::linear::{Frame, LinearPainter};
use super::pixels::Palette;
use super::text::{TextPainter, WINDOW};
use super::vga::{self, Vga, VgaView};
use super::{Damage, Picture, Screen, edid};
use crate::bus::{Effect, MemorySlot, Region};
use crate::mem::{Bytes, GuestAddress, GuestMemory};
use crate::pci::{BarSpec, Identity, PciDevice};

/// The BAR that holds video memory.
pub const MEMORY_BAR: usize = 0;
const REGISTER_BAR: usize = 2;
const REGISTER_BAR_LEN: u32 = 4096;
const BAR_VGA: u64 = 0x400;
/// The port at the start of the VGA part of BAR 2.
const BAR_VGA_PORT: u64 = 0x3c0;
const BAR_VGA_LEN: u64 = 0x20;
const BAR_DISPI: u64 = 0x500;
const BAR_EXTENSION: u64 = 0x600;
/// Length of the registers there, and the byte order.
const EXTENSION: [u8; 8] = [8, 0, 0, 0, 0x1e, 0x1e, 0x1e, 0x1e];

/// First of the DISPI ports.
pub const DISPI_PORTS: u64 = 0x1ce;
/// How many there are: index at 0, data at 1 and at 2, two bytes wide.
pub const DISPI_PORTS_LEN: u64 = 4;
const DISPI_INDEX: u64 = 0;
const DISPI_DATA: [u64; 2] = [1, 2];

/// How a DISPI register is reached. A mode that is switched on by port clears what it shows, as the
/// interface has it. One that is switched on through BAR 2 does not: drivers that know it keep
/// pictures anywhere in video memory. Linux's (bochs-drm in 6.1) does not ask for them to be kept all
/// the same, and a part of what X had painted for a mode before setting it was black.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Ports,
    Bar,
}

/// What is shown where a mode is not modelled.
const UNKNOWN_MODE_SIZE: (u32, u32) = (640, 480);
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// What an adapter is made of.
pub struct Resources {
    /// [`MEMORY_LEN`] bytes from address 0 on: video memory.
    pub memory: GuestMemory,
    /// What lets the guest reach it.
    pub slot: Arc<dyn MemorySlot>,
    /// What knows which of it the guest has written.
    pub log: Arc<dyn DirtyLog>,
    /// The guest's RAM: it holds the legacy window.
    pub ram: GuestMemory,
}

/// The adapter.
pub struct Adapter {
    resources: Resources,
    edid: [u8; edid::LEN],
    registers: Mutex<Registers>,
    painter: Mutex<Painter>,
    /// Video memory was written by us, which no log tells.
    unlogged: AtomicBool,
}

#[derive(Default)]
struct Registers {
    vga: Vga,
    dispi: Dispi,
    dispi_index: u16,
    /// The guest itself has switched a mode on.
    driven: bool,
}

/// What is to be painted: a copy of what the registers said.
#[derive(Clone, PartialEq)]
enum View {
    /// Video memory.
    Linear(Frame, Box<Palette>),
    /// A VGA mode.
    Vga(VgaView, Box<Palette>),
}

#[derive(Default)]
struct Painter {
    /// What was painted last; `None`: everything is to be painted.
    last: Option<View>,
    linear: LinearPainter,
    text: TextPainter,
}

impl Registers {
    fn view(&self) -> View {
        let eight_bits = self.dispi.dac_is_8_bit();
        let palette = Box::new(self.vga.dac().palette(eight_bits));
        match self.dispi.frame() {
            Some(frame) => View::Linear(frame, palette),
            None => View::Vga(self.vga.view(eight_bits), palette),
        }
    }
}

impl View {
    fn size(&self) -> (u32, u32) {
        match self {
            View::Linear(frame, _) | View::Vga(VgaView::Bytes(frame), _) => {
                (frame.width, frame.height)
            }
            View::Vga(VgaView::Text(mode), _) => (mode.width(), mode.height()),
            View::Vga(VgaView::Unknown, _) => UNKNOWN_MODE_SIZE,
        }
    }
}

impl Adapter {
    /// An adapter whose monitor prefers `width` × `height` pixels.
    pub fn new(resources: Resources, width: u32, height: u32) -> Arc<Adapter> {
        Arc::new(Adapter {
            resources,
            edid: edid::block(width, height),
            registers: Mutex::default(),
            painter: Mutex::default(),
            unlogged: AtomicBool::new(true),
        })
    }

    /// Its I/O ports: first port, how many, registers.
    pub fn ports(self: &Arc<Self>) -> [(u64, u64, Arc<dyn Region>); 2] {
        [
            (vga::PORTS, vga::PORTS_LEN, Arc::new(VgaPorts(self.clone()))),
            (DISPI_PORTS, DISPI_PORTS_LEN, Arc::new(DispiPorts(self.clone()))),
        ]
    }

    /// Sets a mode of 32 bits a pixel up, as firmware would, and blanks it.
    pub fn preset(&self, width: u32, height: u32) {
        let mut registers = self.lock();
        registers.dispi.preset(width, height);
        self.clear(&registers);
    }

    /// The size of what is shown now, in pixels.
    pub fn size(&self) -> (u32, u32) {
        let registers = self.lock();
        registers.view().size()
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().expect("the registers' lock is never held in a panic")
    }

    fn write_dispi(&self, index: u16, value: u16, way: Way) {
        let mut registers = self.lock();
        registers.driven |= index == dispi::ENABLE && value & dispi::ENABLED != 0;
        if registers.dispi.write(index, value) && way == Way::Ports {
            self.clear(&registers);
        }
    }

    /// Blanks what the mode shows.
    fn clear(&self, registers: &Registers) {
        let len = registers.dispi.frame().map_or(0, |frame| frame.start + frame.span());
        self.fill_zero(&self.resources.memory, 0, len);
        self.unlogged.store(true, Ordering::Release);
    }

    fn fill_zero(&self, memory: &GuestMemory, base: u64, len: usize) {
        for at in (0..len).step_by(ZEROES.len()) {
            let piece = &ZEROES[..ZEROES.len().min(len - at)];
            if memory.write_slice(piece, GuestAddress(base + at as u64)).is_err() {
                return;
            }
        }
    }

    fn read_register(&self, offset: u64) -> u8 {
        match offset {
            0..BAR_VGA => self.edid.get(offset as usize).copied().unwrap_or(0),
            BAR_VGA..BAR_DISPI => match offset - BAR_VGA {
                port @ 0..BAR_VGA_LEN => self.lock().vga.read(BAR_VGA_PORT + port),
                _ => 0xff,
            },
            BAR_DISPI..BAR_EXTENSION => {
                let [low, high] = match (offset - BAR_DISPI) / 2 {
                    index if index < dispi::COUNT.into() => {
                        self.lock().dispi.read(index as u16).to_le_bytes()
                    }
                    _ => [0xff; 2],
                };
                if offset.is_multiple_of(2) { low } else { high }
            }
            _ => EXTENSION.get((offset - BAR_EXTENSION) as usize).copied().unwrap_or(0xff),
        }
    }

    fn write_register(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (BAR_VGA..BAR_DISPI, _) => {
                let mut registers = self.lock();
                for (port, value) in (offset - BAR_VGA..BAR_VGA_LEN).zip(data) {
                    registers.vga.write(BAR_VGA_PORT + port, *value);
                }
            }
            (BAR_DISPI..BAR_EXTENSION, &[low, high]) if offset.is_multiple_of(2) => {
                let index = ((offset - BAR_DISPI) / 2) as u16;
                self.write_dispi(index, u16::from_le_bytes([low, high]), Way::Bar);
            }
            _ => {}
        }
    }
}

impl PciDevice for Adapter {
    fn identity(&self) -> Identity {
        Identity {
            vendor: 0x1234,
            device: 0x1111,
            revision: 2,
            class: 0x03_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        }
    }

    fn bars(&self) -> Vec<BarSpec> {
        let size = MEMORY_LEN as u32;
        vec![
            BarSpec { index: MEMORY_BAR, size, prefetchable: true },
            BarSpec { index: REGISTER_BAR, size: REGISTER_BAR_LEN, prefetchable: false },
        ]
    }

    fn memory(&self, bar: usize) -> Option<Arc<dyn MemorySlot>> {
        (bar == MEMORY_BAR).then(|| self.resources.slot.clone())
    }

    fn read_bar(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if bar != REGISTER_BAR {
            // Only while the memory is on its way to another address.
            if self.resources.memory.read_slice(data, GuestAddress(offset)).is_err() {
                data.fill(0xff);
            }
            return;
        }
        for (at, byte) in (offset..).zip(data) {
            *byte = self.read_register(at);
        }
    }

    fn write_bar(&self, bar: usize, offset: u64, data: &[u8]) -> Effect {
        if bar == REGISTER_BAR {
            self.write_register(offset, data);
        } else {
            // As above; what lies outside is lost, as on any bus.
            let _ = self.resources.memory.write_slice(data, GuestAddress(offset));
            self.unlogged.store(true, Ordering::Release);
        }
        Effect::None
    }

    fn reset(&self) {
        *self.lock() = Registers::default();
        self.fill_zero(&self.resources.ram, WINDOW, super::text::WINDOW_LEN);
    }
}

impl Screen for Adapter {
    fn watch(&self, watched: bool) {
        let mut painter = self.painter.lock().expect("the painter's lock is never held in a panic");
        self.resources.log.watch(watched);
        painter.last = None;
    }

    fn paint(&self, picture: &mut Picture, damage: &mut Damage) {
        let mut painter = self.painter.lock().expect("the painter's lock is never held in a panic");
        let view = self.lock().view();
        let (width, height) = view.size();
        let is_new = (picture.width(), picture.height()) != (width, height);
        if is_new {
            *picture = Picture::new(width, height);
        }
        if is_new || !damage.fits(width, height) {
            *damage = Damage::new(width, height);
            damage.add_all();
        }
        painter.paint((self, view, is_new), (picture, damage));
    }

    fn is_driven(&self) -> bool {
        self.lock().driven
    }
}

impl Painter {
    fn paint(
        &mut self,
        (adapter, view, is_new): (&Adapter, View, bool),
        target: (&mut Picture, &mut Damage),
    ) {
        let resources = &adapter.resources;
        let is_same = !is_new && self.last.as_ref() == Some(&view);
        if is_new || self.last.is_none() {
            self.text.forget();
        }
        match &view {
            View::Linear(frame, palette) => {
                self.text.forget();
                // What is written from here on is in the next log.
                let unlogged = adapter.unlogged.swap(false, Ordering::AcqRel);
                let log = resources.log.take();
                let pages = if is_same && !unlogged { Pages::new(log) } else { Pages::ALL };
                self.linear.paint((&resources.memory, 0), (frame, palette), &pages, target);
            }
            View::Vga(VgaView::Bytes(frame), palette) => {
                self.text.forget();
                let memory = (&*resources.ram, WINDOW);
                self.linear.paint(memory, (frame, palette), &Pages::ALL, target);
            }
            View::Vga(VgaView::Text(mode), _) => self.text.paint(&resources.ram, mode, target),
            View::Vga(VgaView::Unknown, _) => {
                self.text.forget();
                let (picture, damage) = target;
                let black = vec![0; picture.width() as usize];
                for y in 0..picture.height() {
                    super::pixels::put(picture, damage, (0, y), &black);
                }
            }
        }
        self.last = Some(view);
    }
}

/// Ports 0x3B0 to 0x3DF. A wide access is one to each of its ports in turn.
struct VgaPorts(Arc<Adapter>);

impl Region for VgaPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut registers = self.0.lock();
        for (port, byte) in (vga::PORTS + offset..).zip(data) {
            *byte = registers.vga.read(port);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut registers = self.0.lock();
        for (port, value) in (vga::PORTS + offset..).zip(data) {
            registers.vga.write(port, *value);
        }
        Effect::None
    }
}

/// Ports 0x1CE to 0x1D1: 16-bit registers, one of them at an odd port.
struct DispiPorts(Arc<Adapter>);

impl Region for DispiPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = self.0.lock();
        let value = match offset {
            DISPI_INDEX => registers.dispi_index,
            _ if DISPI_DATA.contains(&offset) => registers.dispi.read(registers.dispi_index),
            _ => u16::MAX,
        };
        match <&mut [u8; 2]>::try_from(&mut *data) {
            Ok(word) => *word = value.to_le_bytes(),
            Err(_) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let Ok(word) = <[u8; 2]>::try_from(data) else { return Effect::None };
        let value = u16::from_le_bytes(word);
        if offset == DISPI_INDEX {
            self.0.lock().dispi_index = value;
        } else if DISPI_DATA.contains(&offset) {
            let index = self.0.lock().dispi_index;
            self.0.write_dispi(index, value, Way::Ports);
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests;

//! A function at its slot: a [`PciDevice`], its configuration space, and its BARs on the bus.
//!
//! A BAR is mapped while memory decoding is on and its address lies wholly in the window the
//! machine gives to PCI; sizing writes (all ones) and addresses over RAM leave it unmapped.
//! Runs on vCPU threads, under the function's lock; what moves is carried out by the caller after.

use std::sync::Arc;

use super::config::{ConfigSpace, FIRST_FREE};
use super::msix::{ENTRY_LEN, Msix};
use super::{MsixPlace, PciDevice};
use crate::bus::{Effect, Movable, Region, Space};

/// Capability ID of MSI-X (PCI 3.0 §6.8.2).
const CAPABILITY_MSIX: u8 = 0x11;
const MSIX_CONTROL_ENABLE: u16 = 1 << 15;
const MSIX_CONTROL_MASK: u16 = 1 << 14;

/// Guest-physical addresses below 4 GiB that BARs may be mapped at: first, and one past the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub start: u32,
    /// One past the last address.
    pub end: u32,
}

/// A device with its configuration space.
pub struct Function {
    device: Arc<dyn PciDevice>,
    space: ConfigSpace,
    window: Window,
    bars: Vec<Bar>,
    /// Body offset and length of each of the device's own capabilities.
    capabilities: Vec<(usize, usize)>,
    msix: Option<(Arc<Msix>, usize)>,
}

struct Bar {
    index: usize,
    block: Arc<Movable>,
}

impl Function {
    /// Lays out configuration space for `device`.
    pub fn new(device: Arc<dyn PciDevice>, window: Window) -> Function {
        let mut space = ConfigSpace::new(&device.identity(), device.multi_function());
        let place = device.msix();
        let mut bars = Vec::new();
        for spec in device.bars() {
            space.add_bar(&spec);
            let region = Arc::new(BarRegion {
                device: device.clone(),
                bar: spec.index,
                msix: place.clone().filter(|place| place.bar == spec.index),
            });
            let len = spec.size.into();
            let block = match device.memory(spec.index) {
                Some(memory) => Movable::of_memory(len, region, memory),
                None => Movable::new(Space::Memory, len, region, device.doorbells(spec.index)),
            };
            bars.push(Bar { index: spec.index, block });
        }
        let msix = place.map(|place| {
            let body = msix_capability(&place);
            let at = space.add_capability(CAPABILITY_MSIX, &body, &[0, 0xc0]);
            (place.table, at)
        });
        let capabilities = device
            .capabilities()
            .iter()
            .map(|c| (space.add_capability(c.id, &c.body, &c.writable), c.body.len()))
            .collect();
        for register in device.registers() {
            space.add_register(register.offset.into(), &register.value, &register.writable);
        }
        Function { device, space, window, bars, capabilities, msix }
    }

    /// Reads configuration space.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        if let Some((index, at, len)) = self.capability_at(offset, data.len()) {
            let body = self.space.bytes(at, len);
            if self.device.read_capability(index, body, offset - at, data) {
                return;
            }
        }
        self.space.read(offset, data);
    }

    /// Writes configuration space.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Effect {
        self.space.write(offset, data);
        let end = offset.saturating_add(data.len());
        if let Some((index, at, len)) = self.capability_at(offset, data.len()) {
            let body = self.space.bytes(at, len);
            return self.device.capability_written(index, body, offset - at, data);
        }
        if let Some((msix, at)) = &self.msix
            && offset < at + 2
            && end > *at
        {
            let control = self.space.word(*at);
            msix.set_control(control & MSIX_CONTROL_ENABLE != 0, control & MSIX_CONTROL_MASK != 0);
            return Effect::None;
        }
        if offset < FIRST_FREE {
            self.place_bars()
        } else {
            self.device.registers_written(&self.space)
        }
    }

    /// Back to the state after power-on, the device included.
    pub fn reset(&mut self) -> Effect {
        self.device.reset();
        if let Some((msix, _)) = &self.msix {
            msix.reset();
        }
        self.space.reset();
        self.place_bars().and(self.device.registers_written(&self.space))
    }

    /// The device's BARs, as (index, size in bytes).
    pub fn bars(&self) -> Vec<(usize, u32)> {
        self.bars.iter().map(|bar| (bar.index, bar.block.len as u32)).collect()
    }

    /// Where the guest (or [`preset_bar`](Self::preset_bar)) has put BAR `index`; `None` while
    /// memory decoding is off.
    pub fn bar_address(&self, index: usize) -> Option<u32> {
        self.space.bar_address(index)
    }

    /// Puts BAR `index` at `address` as firmware would, with memory decoding still off.
    pub fn preset_bar(&mut self, index: usize, address: u32) {
        self.space.preset_bar(index, address);
    }

    /// Sets a register as firmware would.
    pub fn preset(&mut self, offset: usize, value: &[u8]) -> Effect {
        self.space.preset(offset, value);
        self.place_bars().and(self.device.registers_written(&self.space))
    }

    /// Says where each BAR is wanted now.
    fn place_bars(&mut self) -> Effect {
        let mut moved = Vec::new();
        for bar in &self.bars {
            let wanted = self.space.bar_address(bar.index).filter(|address| {
                let end = u64::from(*address) + bar.block.len;
                *address >= self.window.start && end <= u64::from(self.window.end)
            });
            if bar.block.want(wanted.map(u64::from)) {
                moved.push(bar.block.clone());
            }
        }
        if moved.is_empty() { Effect::None } else { Effect::Move(moved) }
    }

    /// Index, body offset and body length of the device's own capability that an access touches.
    fn capability_at(&self, offset: usize, len: usize) -> Option<(usize, usize, usize)> {
        let (index, (at, body)) = self
            .capabilities
            .iter()
            .enumerate()
            .find(|(_, (at, body))| offset >= *at && offset.saturating_add(len) <= at + body)?;
        Some((index, *at, *body))
    }
}

/// Message control, table and pending-bit offsets with their BAR number (§6.8.2.3 on).
fn msix_capability(place: &MsixPlace) -> [u8; 10] {
    let mut body = [0; 10];
    let last = (place.table.len() - 1) as u16;
    body[..2].copy_from_slice(&last.to_le_bytes());
    body[2..6].copy_from_slice(&(place.table_offset | place.bar as u32).to_le_bytes());
    body[6..].copy_from_slice(&(place.pba_offset | place.bar as u32).to_le_bytes());
    body
}

/// A BAR on the bus: the MSI-X structures where they are, the device elsewhere.
struct BarRegion {
    device: Arc<dyn PciDevice>,
    bar: usize,
    msix: Option<MsixPlace>,
}

impl BarRegion {
    /// Which MSI-X structure an offset is in, and the offset in that.
    fn msix_at(&self, offset: u64) -> Option<(&Msix, bool, u64)> {
        let place = self.msix.as_ref()?;
        let vectors = place.table.len() as u64;
        let table =
            offset.checked_sub(place.table_offset.into()).filter(|o| *o < vectors * ENTRY_LEN);
        let pba =
            offset.checked_sub(place.pba_offset.into()).filter(|o| *o < vectors.div_ceil(64) * 8);
        match (table, pba) {
            (Some(at), _) => Some((&place.table, true, at)),
            (_, Some(at)) => Some((&place.table, false, at)),
            _ => None,
        }
    }
}

impl Region for BarRegion {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.msix_at(offset) {
            Some((msix, true, at)) => msix.read_table(at, data),
            Some((msix, false, at)) => msix.read_pba(at, data),
            None => self.device.read_bar(self.bar, offset, data),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match self.msix_at(offset) {
            Some((msix, true, at)) => {
                msix.write_table(at, data);
                Effect::None
            }
            // Pending bits are read-only (§6.8.2.10).
            Some((_, false, _)) => Effect::None,
            None => self.device.write_bar(self.bar, offset, data),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::bus::{Bus, Doorbell};
    use crate::irq::{MsiRoute, RecordingRoute};
    use crate::pci::{BarSpec, Capability, Identity};

    #[derive(Default)]
    struct Toy {
        writes: Mutex<Vec<(usize, u64, Vec<u8>)>>,
        msix: Option<Arc<Msix>>,
    }

    impl PciDevice for Toy {
        fn identity(&self) -> Identity {
            Identity {
                vendor: 0x1af4,
                device: 0x1044,
                revision: 1,
                class: 0x00ff00,
                subsystem_vendor: 0x1af4,
                subsystem: 0x1100,
            }
        }
        fn bars(&self) -> Vec<BarSpec> {
            vec![BarSpec { index: 0, size: 0x4000, prefetchable: false }]
        }
        fn capabilities(&self) -> Vec<Capability> {
            vec![Capability { id: 9, body: vec![0; 6], writable: vec![0, 0, 0xff, 0, 0, 0] }]
        }
        fn msix(&self) -> Option<MsixPlace> {
            let table = self.msix.clone()?;
            Some(MsixPlace { table, bar: 0, table_offset: 0x2000, pba_offset: 0x3000 })
        }
        fn doorbells(&self, _: usize) -> Vec<Doorbell> {
            Vec::new()
        }
        fn read_bar(&self, _: usize, _: u64, data: &mut [u8]) {
            data.fill(0x5a);
        }
        fn write_bar(&self, bar: usize, offset: u64, data: &[u8]) -> Effect {
            self.writes.lock().unwrap().push((bar, offset, data.to_vec()));
            Effect::None
        }
        fn read_capability(&self, _: usize, body: &[u8], offset: usize, data: &mut [u8]) -> bool {
            data.fill(body[2]);
            offset == 4
        }
        fn reset(&self) {}
    }

    const WINDOW: Window = Window { start: 0x8000_0000, end: 0xfec0_0000 };

    fn apply(bus: &Bus, effect: Effect) {
        if let Effect::Move(blocks) = effect {
            blocks.iter().for_each(|block| bus.settle(block, |_, _| ()));
        }
    }

    #[test]
    fn a_bar_is_mapped_only_inside_the_window_and_while_enabled() {
        let bus = Bus::default();
        let mut function = Function::new(Arc::new(Toy::default()), WINDOW);
        let mut put =
            |offset, value: u32| apply(&bus, function.write(offset, &value.to_le_bytes()));
        let answers = |address| {
            let mut data = [0];
            bus.read(address, &mut data);
            data[0] == 0x5a
        };
        put(0x10, 0x8000_0000);
        assert!(!answers(0x8000_0000));
        put(0x04, 2);
        assert!(answers(0x8000_0000) && answers(0x8000_3fff) && !answers(0x8000_4000));
        put(0x10, 0xffff_ffff);
        assert!(!answers(0x8000_0000), "sizing unmaps");
        for wrong in [0x0000_0000, 0x7fff_c000, 0xfec0_0000, 0xfebf_e000u32 + 0x2000] {
            put(0x10, wrong);
            assert!(!answers(wrong.into()), "{wrong:#x} is outside the window");
        }
        put(0x10, 0x9000_0000);
        assert!(answers(0x9000_0000));
        put(0x04, 0);
        assert!(!answers(0x9000_0000));
    }

    #[test]
    fn msix_is_reached_through_the_bar_and_its_capability() {
        let route = Arc::new(RecordingRoute::default());
        let msix = Msix::new(vec![route.clone() as Arc<dyn MsiRoute>]);
        let toy = Arc::new(Toy { msix: Some(msix.clone()), ..Toy::default() });
        let mut function = Function::new(toy.clone(), WINDOW);
        let region = function.bars[0].block.region.clone();
        region.write(0x2000, &0xfee0_0000u32.to_le_bytes());
        region.write(0x2008, &0x31u32.to_le_bytes());
        region.write(0x200c, &0u32.to_le_bytes());
        region.write(0x3000, &[0xff; 8]);
        region.write(0x2010, &[1, 0, 0, 0]);
        assert_eq!(toy.writes.lock().unwrap().len(), 1, "only past the table is the device's");
        let mut header = [0; 2];
        function.read(0x40, &mut header);
        assert_eq!(header[0], CAPABILITY_MSIX);
        use crate::irq::MsiSink;
        msix.send(0);
        assert!(route.sent.lock().unwrap().is_empty());
        function.write(0x42, &MSIX_CONTROL_ENABLE.to_le_bytes());
        msix.send(0);
        assert_eq!(route.sent.lock().unwrap()[0].data, 0x31);
    }

    #[test]
    fn a_device_may_answer_its_capability_itself() {
        let mut function = Function::new(Arc::new(Toy::default()), WINDOW);
        function.write(0x44, &[7]);
        let mut data = [0; 2];
        function.read(0x46, &mut data);
        assert_eq!(data, [7, 7]);
        function.read(0x44, &mut data[..1]);
        assert_eq!(data[0], 7);
    }

    #[test]
    fn any_access_of_any_width_is_harmless() {
        let mut function = Function::new(Arc::new(Toy::default()), WINDOW);
        for offset in 0..0x1008 {
            for len in [1, 2, 4, 8] {
                let mut data = [0xff; 8];
                function.write(offset, &data[..len]);
                function.read(offset, &mut data[..len]);
            }
        }
        function.reset();
    }
}

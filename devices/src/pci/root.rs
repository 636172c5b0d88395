//! The host bridge's two ways into configuration space: ports 0xCF8/0xCFC (PCI 3.0 §3.2.2.3.2)
//! and the memory-mapped ECAM window (PCI Express 5.0 §7.2.2). All functions are on bus 0.
//!
//! ```text
//! 0xcf8  bit 31 enable | 23:16 bus | 15:11 device | 10:8 function | 7:2 register
//! ECAM   27:20 bus     | 19:15 device | 14:12 function | 11:0 register
//! ```
//! Port 0xCF9 lies between the two configuration ports: the chipset's reset control register.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::Slot;
use super::function::Function;
use crate::bus::{Effect, GuestEvent, Region};

/// First of the eight configuration ports.
pub const PORTS: u64 = 0xcf8;
/// How many ports there are.
pub const PORTS_LEN: u64 = 8;
/// Length of the ECAM window: 256 buses of 1 MiB.
pub const ECAM_LEN: u64 = 256 << 20;

const ADDRESS_ENABLE: u32 = 1 << 31;
const RESET_CONTROL: u64 = 1;
const RESET_CPU: u8 = 1 << 2;
const DATA: u64 = 4;

/// Bus 0 and everything on it.
#[derive(Default)]
pub struct PciRoot {
    functions: Mutex<BTreeMap<Slot, Function>>,
}

impl PciRoot {
    /// Puts a function at `slot`, which must be free.
    pub fn attach(&self, slot: Slot, function: Function) {
        assert!(slot.device < 32 && slot.function < 8, "{slot:?}");
        let previous = self.lock().insert(slot, function);
        assert!(previous.is_none(), "{slot:?} is taken");
    }

    /// Lets `f` work on the function at `slot`, if there is one.
    pub fn with<T>(&self, slot: Slot, f: impl FnOnce(&mut Function) -> T) -> Option<T> {
        self.lock().get_mut(&slot).map(f)
    }

    /// The slots that are taken, ascending.
    pub fn slots(&self) -> Vec<Slot> {
        self.lock().keys().copied().collect()
    }

    /// Resets every function; the effect unmaps what was mapped.
    pub fn reset(&self) -> Effect {
        self.lock().values_mut().fold(Effect::None, |all, function| all.and(function.reset()))
    }

    /// The region for ports 0xCF8 to 0xCFF.
    pub fn ports(self: &Arc<Self>) -> Arc<ConfigPorts> {
        Arc::new(ConfigPorts {
            root: Arc::downgrade(self),
            address: Mutex::new(0),
            reset_control: Mutex::new(0),
        })
    }

    /// The region for the ECAM window.
    pub fn ecam(self: &Arc<Self>) -> Arc<dyn Region> {
        Arc::new(Ecam { root: Arc::downgrade(self) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Slot, Function>> {
        self.functions.lock().expect("configuration space's lock is never held in a panic")
    }
}

/// Ports 0xCF8 to 0xCFF.
pub struct ConfigPorts {
    root: Weak<PciRoot>,
    address: Mutex<u32>,
    reset_control: Mutex<u8>,
}

impl ConfigPorts {
    /// Back to the state after power-on.
    pub fn reset(&self) {
        *self.address.lock().expect("held for a copy only") = 0;
        *self.reset_control.lock().expect("held for a copy only") = 0;
    }

    /// Slot and register that the data ports reach at `offset`.
    fn target(&self, offset: u64) -> Option<(Slot, usize)> {
        let address = *self.address.lock().expect("held for a copy only");
        if address & ADDRESS_ENABLE == 0 || address >> 16 & 0xff != 0 {
            return None;
        }
        let slot =
            Slot { device: (address >> 11 & 0x1f) as u8, function: (address >> 8 & 7) as u8 };
        Some((slot, (address & 0xfc) as usize + (offset - DATA) as usize))
    }
}

impl Region for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        match (offset, data.len()) {
            (0, 4) => {
                let address = *self.address.lock().expect("held for a copy only");
                data.copy_from_slice(&address.to_le_bytes());
            }
            (RESET_CONTROL, 1) => {
                data[0] = *self.reset_control.lock().expect("held for a copy only");
            }
            (DATA.., _) => {
                if let (Some((slot, register)), Some(root)) =
                    (self.target(offset), self.root.upgrade())
                {
                    root.with(slot, |function| function.read(register, data));
                }
            }
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (0, &[a, b, c, d]) => {
                let address = u32::from_le_bytes([a, b, c, d]) & !0x7f00_0003;
                *self.address.lock().expect("held for a copy only") = address;
                Effect::None
            }
            (RESET_CONTROL, &[value]) => {
                // Reset happens when bit 2 rises; bit 1 says whether hard, which is all one to us.
                let mut control = self.reset_control.lock().expect("held for a copy only");
                let before = std::mem::replace(&mut *control, value & !RESET_CPU);
                if value & RESET_CPU != 0 && before & RESET_CPU == 0 {
                    return Effect::Guest(GuestEvent::Reset);
                }
                Effect::None
            }
            (DATA.., _) => match (self.target(offset), self.root.upgrade()) {
                (Some((slot, register)), Some(root)) => {
                    root.with(slot, |function| function.write(register, data)).unwrap_or_default()
                }
                _ => Effect::None,
            },
            _ => Effect::None,
        }
    }
}

struct Ecam {
    root: Weak<PciRoot>,
}

impl Ecam {
    fn target(offset: u64) -> Option<(Slot, usize)> {
        let slot = Slot { device: (offset >> 15 & 0x1f) as u8, function: (offset >> 12 & 7) as u8 };
        (offset >> 20 == 0).then_some((slot, (offset & 0xfff) as usize))
    }
}

impl Region for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (Some((slot, register)), Some(root)) = (Ecam::target(offset), self.root.upgrade()) {
            root.with(slot, |function| function.read(register, data));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match (Ecam::target(offset), self.root.upgrade()) {
            (Some((slot, register)), Some(root)) => {
                root.with(slot, |function| function.write(register, data)).unwrap_or_default()
            }
            _ => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Movable, Space};
    use crate::pci::chipset::{HostBridge, Lpc};
    use crate::pci::function::Window;

    fn machine() -> (Arc<PciRoot>, Arc<ConfigPorts>, Arc<Movable>) {
        let root = Arc::new(PciRoot::default());
        let ecam = Movable::new(Space::Memory, ECAM_LEN, root.ecam(), Vec::new());
        let pm = Movable::new(Space::Port, 0x80, root.ports(), Vec::new());
        let window = Window { start: 0x8000_0000, end: 0xfec0_0000 };
        let bridge = Function::new(Arc::new(HostBridge::new(ecam.clone())), window);
        let lpc = Function::new(Arc::new(Lpc::new(pm)), window);
        root.attach(Slot::device(0), bridge);
        root.attach(Slot { device: 31, function: 0 }, lpc);
        let ports = root.ports();
        (root, ports, ecam)
    }

    fn dword(ports: &ConfigPorts, address: u32) -> u32 {
        ports.write(0, &address.to_le_bytes());
        let mut data = [0; 4];
        ports.read(4, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn both_ways_lead_to_the_same_registers() {
        let (root, ports, _) = machine();
        assert_eq!(dword(&ports, 0x8000_0000), 0x29c0_8086);
        assert_eq!(dword(&ports, 0x8000_f800), 0x2918_8086);
        let ecam = root.ecam();
        let mut data = [0; 4];
        ecam.read(31 << 15, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x2918_8086);
        ecam.read(0x100, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn absent_functions_and_other_buses_read_ones() {
        let (root, ports, _) = machine();
        for address in [0x8000_0800, 0x8001_0000, 0x0000_0000, 0x8000_0100] {
            assert_eq!(dword(&ports, address), 0xffff_ffff, "{address:#x}");
        }
        let mut data = [0; 4];
        root.ecam().read(1 << 20, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn the_address_latch_takes_only_whole_writes() {
        let (_root, ports, _ecam) = machine();
        ports.write(0, &0x8000_0000u32.to_le_bytes());
        ports.write(3, &[1]);
        ports.write(0, &[0xff, 0xff]);
        let mut data = [0; 4];
        ports.read(0, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x8000_0000);
        ports.read(6, &mut data[..2]);
        assert_eq!(data[..2], [0xc0, 0x29]);
    }

    #[test]
    fn reset_control_resets_when_bit_2_rises() {
        let (_root, ports, _ecam) = machine();
        assert!(matches!(ports.write(1, &[2]), Effect::None));
        assert!(matches!(ports.write(1, &[6]), Effect::Guest(GuestEvent::Reset)));
        assert!(matches!(ports.write(1, &[0x0e]), Effect::Guest(GuestEvent::Reset)));
    }

    #[test]
    fn the_ecam_window_goes_where_pciexbar_says() {
        let (root, ports, ecam) = machine();
        let put = |register: u32, value: u32| {
            ports.write(0, &(0x8000_0000 | register).to_le_bytes());
            ports.write(4, &value.to_le_bytes())
        };
        assert!(matches!(put(0x60, 0xb000_0001), Effect::Move(_)));
        let settle = || ecam.settle(|_, to| to);
        settle();
        assert_eq!(ecam.actual(), Some(0xb000_0000));
        put(0x60, 0xb000_0000);
        settle();
        assert_eq!(ecam.actual(), None);
        put(0x60, 0xe000_0001);
        settle();
        assert_eq!(ecam.actual(), Some(0xe000_0000));
        put(0x64, 1);
        settle();
        assert_eq!(ecam.actual(), None, "above 4 GiB is not decoded");
        root.reset();
        settle();
        assert_eq!(ecam.actual(), None);
        assert_eq!(dword(&ports, 0x8000_0060), 0);
    }

    #[test]
    fn any_access_of_any_width_is_harmless() {
        let (root, ports, _) = machine();
        let ecam = root.ecam();
        for len in [1, 2, 4, 8] {
            let mut data = [0xff; 8];
            for offset in 0..PORTS_LEN {
                ports.write(offset, &data[..len]);
                ports.read(offset, &mut data[..len]);
                data.fill(0xff);
            }
            for offset in (0..0x2000).chain(ECAM_LEN - 8..ECAM_LEN) {
                ecam.write(offset, &data[..len]);
                ecam.read(offset, &mut data[..len]);
            }
        }
    }
}

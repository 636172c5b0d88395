//! The board under a guest that writes anything anywhere: configuration space by ports and ECAM, BARs
//! and the power-management block on the move, clock, serial port, resets.
//!
//! Each access is eight bytes: what (space, width, direction), a place, a value.
#![no_main]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::bus::{Bus, Effect, Movable, Region, Space};
use devices::irq::{MsiRoute, RecordingLine, RecordingRoute};
use devices::mem::{GuestAddress, GuestRam};
use devices::pci::Slot;
use devices::pci::chipset::{HostBridge, Lpc};
use devices::pci::function::{Function, Window};
use devices::pci::msix::Msix;
use devices::pci::root::{self, PciRoot};
use devices::platform::cmos::{self, Cmos};
use devices::platform::pm::{self, PowerManagement};
use devices::platform::pvpanic::{self, PvPanic};
use devices::platform::reset::{self, KeyboardReset, SystemControl};
use devices::serial::{self, Console, SerialPort};
use devices::virtio::VirtioDevice;
use devices::virtio::pci::VirtioPci;
use devices::virtio::rng::Rng;
use libfuzzer_sys::fuzz_target;

/// Counts what the guest prints, and keeps none of it.
struct Count(Mutex<usize>);

impl Console for Count {
    fn write(&self, bytes: &[u8]) {
        *self.0.lock().unwrap() += bytes.len();
    }
}

struct Machine {
    ports: Bus,
    memory: Bus,
    root: Arc<PciRoot>,
    serial: Arc<SerialPort>,
    pm: Arc<PowerManagement>,
}

impl Machine {
    fn new() -> Machine {
        let window = Window { start: 0x8000_0000, end: 0xfec0_0000 };
        let root = Arc::new(PciRoot::default());
        let line = Arc::new(RecordingLine::default());
        let pm = Arc::new(PowerManagement::new(line.clone(), Box::new(|| Duration::MAX)));
        let ecam = Movable::new(Space::Memory, root::ECAM_LEN, root.ecam(), Vec::new());
        let block = Movable::new(Space::Port, pm::LEN, pm.clone(), Vec::new());
        root.attach(Slot::device(0), Function::new(Arc::new(HostBridge::new(ecam)), window));
        root.attach(Slot::device(31), Function::new(Arc::new(Lpc::new(block)), window));
        let rng: Box<dyn VirtioDevice> = Box::new(Rng::new());
        let routes = (0..VirtioPci::vectors(&*rng))
            .map(|_| Arc::new(RecordingRoute::default()) as Arc<dyn MsiRoute>)
            .collect();
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let function = VirtioPci::new(rng, Arc::new(ram), Msix::new(routes)).unwrap();
        root.attach(Slot::device(2), Function::new(function, window));
        let serial = Arc::new(SerialPort::new(line, Arc::new(Count(Mutex::new(0)))));
        let (ports, memory) = (Bus::default(), Bus::default());
        let cmos = Cmos::new(Box::new(|| Duration::from_secs(1)), 1 << 30, 0, 4);
        let fixed: [(u64, u64, Arc<dyn Region>); 6] = [
            (root::PORTS, root::PORTS_LEN, root.ports()),
            (cmos::PORTS, cmos::PORTS_LEN, Arc::new(cmos)),
            (serial::COM1, serial::PORTS_LEN, serial.clone()),
            (reset::PORT_92, 1, Arc::new(SystemControl::default())),
            (reset::PORT_64, 1, Arc::new(KeyboardReset)),
            (pvpanic::PORT, 1, Arc::new(PvPanic)),
        ];
        for (base, len, region) in fixed {
            ports.insert(base, len, region).unwrap();
        }
        Machine { ports, memory, root, serial, pm }
    }

    fn carry_out(&self, effect: Effect) {
        let Effect::Move(blocks) = effect else { return };
        for block in blocks {
            let bus = if block.space == Space::Port { &self.ports } else { &self.memory };
            bus.settle(&block, |_, _| ());
        }
    }
}

/// Ports that something answers at, so that few accesses are wasted on holes.
const PORTS: [u16; 12] =
    [0x70, 0x71, 0x3f8, 0x92, 0x64, 0x505, 0xcf8, 0xcf9, 0xcfc, 0xcfe, 0x600, 0x3fc];

fuzz_target!(|data: &[u8]| {
    let machine = Machine::new();
    for access in data.chunks_exact(8).take(4096) {
        let [what, place, a, b, values @ ..] = access else { return };
        let width = 1 << (what & 3);
        let mut bytes = [values[0], values[1], values[2], values[3], *a, *b, *place, *what];
        let port = u64::from(PORTS[usize::from(*place) % PORTS.len()]) + u64::from(*a & 7);
        let address = u64::from(u32::from_le_bytes([*a, *b, *place, what & 0x7f | 0x80]));
        match what >> 2 & 7 {
            0 | 1 => machine.carry_out(machine.ports.write(port, &bytes[..width])),
            2 => machine.ports.read(port, &mut bytes[..width]),
            3 | 4 => machine.carry_out(machine.memory.write(address, &bytes[..width])),
            5 => machine.memory.read(address, &mut bytes[..width]),
            6 => drop(machine.serial.input(&bytes)),
            _ => match place & 3 {
                0 => machine.carry_out(machine.root.reset()),
                1 => machine.serial.reset(),
                2 => machine.pm.reset(),
                _ => drop(machine.pm.press_power_button()),
            },
        }
    }
});

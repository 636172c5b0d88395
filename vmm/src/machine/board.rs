//! What is soldered on: chipset, clock, power management, serial port, reset ports.
//!
//! Built once; [`Board::reset`] brings all of it back to power-on, [`Board::preset`] sets it up as
//! firmware would, which is what direct boot needs.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use devices::bus::{Effect, Movable, Region, Space};
use devices::pci::chipset::{ACPI_CNTL, ACPI_EN, HostBridge, Lpc, PCIEXBAR, PMBASE};
use devices::pci::function::Function;
use devices::pci::root::{self, ConfigPorts, PciRoot};
use devices::platform::cmos::{self, Cmos};
use devices::platform::pm::{self, PowerManagement};
use devices::platform::pvpanic::{self, PvPanic};
use devices::platform::reset::{self, SystemControl};
use devices::serial::{self, Console, SerialPort};

use super::devices::WINDOW;
use super::resources::{self, BarAddresses};
use super::{StartError, layout};
use crate::kvm::exit::Buses;
use crate::kvm::vm::Vm;

/// The board's parts that anything refers to later.
pub struct Board {
    /// Configuration space and what is in it.
    pub root: Arc<PciRoot>,
    /// COM1.
    pub serial: Arc<SerialPort>,
    /// Power button and the rest of PM1.
    pub pm: Arc<PowerManagement>,
    ports: Arc<ConfigPorts>,
    port_92: Arc<SystemControl>,
}

impl Board {
    /// Puts the board's registers on the buses.
    ///
    /// # Errors
    /// [`StartError`] when KVM refuses an interrupt line.
    pub fn new(
        vm: &Vm,
        buses: &Buses,
        ram: &[(u64, u64)],
        cpus: u32,
        console: Arc<dyn Console>,
    ) -> Result<Board, StartError> {
        let root = Arc::new(PciRoot::default());
        let started = Instant::now();
        let pm =
            PowerManagement::new(vm.level_line(layout::SCI), Box::new(move || started.elapsed()));
        let board = Board {
            ports: root.ports(),
            serial: Arc::new(SerialPort::new(vm.edge_line(serial::COM1_IRQ)?, console)),
            pm: Arc::new(pm),
            port_92: Arc::default(),
            root,
        };
        let ecam = Movable::new(Space::Memory, root::ECAM_LEN, board.root.ecam(), Vec::new());
        let pm_block = Movable::new(Space::Port, pm::LEN, board.pm.clone(), Vec::new());
        let bridge = Function::new(Arc::new(HostBridge::new(ecam)), WINDOW);
        board.root.attach(resources::HOST_BRIDGE, bridge);
        board.root.attach(resources::LPC, Function::new(Arc::new(Lpc::new(pm_block)), WINDOW));

        let high: u64 = ram.iter().filter(|r| r.0 >= layout::HIGH_RAM_START).map(|r| r.1).sum();
        let low = ram.first().map_or(0, |r| r.1);
        let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let cmos = Cmos::new(Box::new(now), low, high, cpus);
        let fixed: [(u64, u64, Arc<dyn Region>); 5] = [
            (root::PORTS, root::PORTS_LEN, board.ports.clone()),
            (cmos::PORTS, cmos::PORTS_LEN, Arc::new(cmos)),
            (serial::COM1, serial::PORTS_LEN, board.serial.clone()),
            (reset::PORT_92, 1, board.port_92.clone()),
            (pvpanic::PORT, 1, Arc::new(PvPanic)),
        ];
        for (base, len, region) in fixed {
            buses.ports.insert(base, len, region).expect("the board's ports do not overlap");
        }
        Ok(board)
    }

    /// Everything back to power-on. No vCPU may run.
    pub fn reset(&self, buses: &Buses) {
        buses.carry_out(self.root.reset());
        self.ports.reset();
        self.serial.reset();
        self.pm.reset();
        self.port_92.reset();
    }

    /// Sets chipset and BARs as firmware would.
    ///
    /// # Errors
    /// [`StartError::Device`] when the BARs do not fit.
    pub fn preset(&self, buses: &Buses) -> Result<(), StartError> {
        let preset = |slot, offset, value: &[u8]| {
            self.root.with(slot, |f| f.preset(offset, value)).unwrap_or_default()
        };
        let effects = [
            preset(resources::HOST_BRIDGE, PCIEXBAR, &(layout::ECAM | 1).to_le_bytes()),
            preset(resources::LPC, PMBASE, &(layout::PM_BASE | 1).to_le_bytes()),
            preset(resources::LPC, ACPI_CNTL, &[ACPI_EN]),
        ];
        buses.carry_out(effects.into_iter().fold(Effect::None, Effect::and));
        let mut addresses = BarAddresses::default();
        for slot in self.root.slots() {
            self.root
                .with(slot, |function| {
                    for (index, size) in function.bars() {
                        let address = addresses.place(size).ok_or_else(|| {
                            StartError::Device("the devices' BARs exceed the PCI window".into())
                        })?;
                        function.preset_bar(index, address);
                    }
                    Ok::<(), StartError>(())
                })
                .unwrap_or(Ok(()))?;
        }
        Ok(())
    }
}

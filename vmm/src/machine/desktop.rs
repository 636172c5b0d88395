//! What somebody sits before: display adapter, keyboards, pointers. A machine may have none of it;
//! then only the keyboard controller's reset command is left, which kernels know as a way to reset.

use std::sync::Arc;

use devices::bus::{Effect, Region};
use devices::display::bochs::{self, Adapter};
use devices::display::dispi;
use devices::input::desk::Desk;
use devices::input::i8042::{self, I8042};
use devices::mem::GuestMemory;
use devices::pci::config::COMMAND;
use devices::pci::function::Function;
use devices::pci::root::PciRoot;
use devices::platform::reset::{KeyboardReset, PORT_64};

use super::devices::WINDOW;
use super::{StartError, resources};
use crate::boot::linux::Framebuffer;
use crate::config::DisplayConfig;
use crate::kvm::exit::Buses;
use crate::kvm::vm::Vm;
use crate::memory;

/// I/O, memory and bus mastering, as firmware leaves a display adapter.
const COMMAND_ALL: [u8; 2] = [7, 0];

/// The desktop's parts that anything refers to later.
pub struct Desktop {
    /// The display adapter.
    pub adapter: Arc<Adapter>,
    /// Keyboards and pointers.
    pub desk: Arc<Desk>,
    ps2: Arc<I8042>,
    config: DisplayConfig,
}

/// Puts what stands for port 0x64 where there is no desktop on the bus.
pub fn without(buses: &Buses) {
    insert(buses, [(PORT_64, 1, Arc::new(KeyboardReset) as Arc<dyn Region>)]);
}

fn insert<const N: usize>(buses: &Buses, ports: [(u64, u64, Arc<dyn Region>); N]) {
    for (base, len, region) in ports {
        buses.ports.insert(base, len, region).expect("the desktop's ports are free");
    }
}

impl Desktop {
    /// Puts the display adapter and the PS/2 controller on the buses; the virtio devices, which
    /// `reports` feed, are on theirs already.
    ///
    /// # Errors
    /// [`StartError`] when the host has no memory or no interrupt line left.
    pub fn new(
        config: DisplayConfig,
        (vm, buses): (&Vm, &Buses),
        root: &PciRoot,
        ram: &GuestMemory,
        reports: super::devices::Reports,
    ) -> Result<Desktop, StartError> {
        let memory = memory::allocate_device(dispi::MEMORY_LEN)?;
        let slot = vm.bar_memory(memory.clone());
        let parts = bochs::Resources { memory, slot: slot.clone(), log: slot, ram: ram.clone() };
        let adapter = Adapter::new(parts, config.width, config.height);
        root.attach(resources::DISPLAY, Function::new(adapter.clone(), WINDOW));
        let lines = (vm.edge_line(i8042::KEYBOARD_IRQ)?, vm.edge_line(i8042::MOUSE_IRQ)?);
        let ps2 = I8042::new(lines.0, lines.1);
        insert(buses, adapter.ports());
        insert(buses, ps2.ports());
        let screen = adapter.clone();
        let size = Box::new(move || screen.size());
        let desk = Desk::new(ps2.clone(), reports.keyboard, reports.tablet, size);
        Ok(Desktop { adapter, desk, ps2, config })
    }

    /// What is not on the PCI bus back to power-on.
    pub fn reset(&self) {
        self.ps2.reset();
        self.desk.reset();
    }

    /// Sets the display up as firmware would, its BARs having been placed; answers what a kernel is to
    /// be told of it.
    pub fn preset(&self, root: &PciRoot, buses: &Buses) -> Option<Framebuffer> {
        let (effect, address) = root.with(resources::DISPLAY, |function| {
            let effect = function.preset(COMMAND, &COMMAND_ALL);
            (effect, function.bar_address(bochs::MEMORY_BAR))
        })?;
        if let Effect::Move(_) = effect {
            buses.carry_out(effect);
        }
        let DisplayConfig { width, height } = self.config;
        self.adapter.preset(width, height);
        // Both are checked when the machine is made.
        Some(Framebuffer { address: address?, width: width as u16, height: height as u16 })
    }
}

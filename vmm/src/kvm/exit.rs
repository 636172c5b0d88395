//! What a vCPU asks of the machine: its register accesses, and where they lead.
//!
//! Runs on vCPU threads, several at once. Effects are carried out here, after every device lock is
//! released: moves at once, guest events by whoever called.

use std::sync::Arc;

use devices::bus::{Bus, Effect, GuestEvent, Movable, Space};

use super::vm::Vm;

/// The machine's two address spaces.
pub struct Buses {
    /// I/O ports.
    pub ports: Bus,
    /// Memory-mapped registers.
    pub memory: Bus,
    /// Where doorbells are placed.
    pub vm: Arc<Vm>,
}

impl Buses {
    /// A machine without devices.
    pub fn new(vm: Arc<Vm>) -> Buses {
        Buses { ports: Bus::default(), memory: Bus::default(), vm }
    }

    /// Port input of `size` bytes at a time; `data` holds one or more such pieces (`rep ins`).
    pub fn port_in(&self, port: u16, size: usize, data: &mut [u8]) {
        for piece in data.chunks_mut(size.max(1)) {
            self.ports.read(port.into(), piece);
        }
    }

    /// Port output, likewise; the first guest event ends it.
    pub fn port_out(&self, port: u16, size: usize, data: &[u8]) -> Option<GuestEvent> {
        data.chunks(size.max(1))
            .find_map(|piece| self.carry_out(self.ports.write(port.into(), piece)))
    }

    /// A read from an address that is not RAM.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        self.memory.read(address, data);
    }

    /// A write to an address that is not RAM.
    pub fn mmio_write(&self, address: u64, data: &[u8]) -> Option<GuestEvent> {
        self.carry_out(self.memory.write(address, data))
    }

    /// Does what an effect asks for, and answers the guest event if it is one.
    pub fn carry_out(&self, effect: Effect) -> Option<GuestEvent> {
        match effect {
            Effect::None => None,
            Effect::Guest(event) => Some(event),
            Effect::Move(blocks) => {
                blocks.iter().for_each(|block| self.settle(block));
                None
            }
        }
    }

    fn settle(&self, block: &Movable) {
        let bus = match block.space {
            Space::Port => &self.ports,
            Space::Memory => &self.memory,
        };
        bus.settle(block, |base, came| {
            for doorbell in &block.doorbells {
                // Without its eventfd a doorbell is an ordinary write, only slower.
                if let Err(error) = self.vm.doorbell(block.space, base, doorbell, came) {
                    log::debug!("{error}");
                }
            }
        });
    }
}

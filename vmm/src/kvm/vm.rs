//! The virtual machine: memory slots, interrupt controllers, doorbells.

#![allow(unsafe_code)] // memory slots hand host addresses to the kernel

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use devices::bus::{Doorbell, Space};
use devices::irq::IrqLine;
use devices::mem::GuestMemory;
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY,
    kvm_irqchip, kvm_pit_config, kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::routes::Routes;
use super::slot::BarMemory;
use super::{During, KvmError};
use crate::machine::layout;
use crate::memory;

/// A KVM virtual machine. Shared: every operation is an ioctl, safe from any thread.
pub struct Vm {
    fd: Arc<VmFd>,
    /// Held so that the mapping outlives the memory slots.
    _memory: GuestMemory,
    /// Interrupt routes.
    pub routes: Arc<Routes>,
    /// The first memory slot that is not used.
    next_slot: AtomicU32,
    power_on: PowerOn,
}

/// The state of in-kernel chips right after their creation, to go back to at reset.
struct PowerOn {
    irqchips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
}

impl Vm {
    /// A machine with this RAM, interrupt controllers and timer, and no CPU yet.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn new(kvm: &Kvm, memory: GuestMemory) -> Result<Vm, KvmError> {
        let fd = Arc::new(kvm.create_vm().during("creating the machine")?);
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP).during("placing the identity map")?;
        fd.set_tss_address(layout::KVM_TSS as usize).during("placing the TSS")?;
        let ranges = split(memory::host_ranges(&memory));
        let next_slot = AtomicU32::new(ranges.len() as u32);
        for (slot, (guest, len, host)) in (0..).zip(ranges) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: guest,
                memory_size: len,
                userspace_addr: host,
            };
            // SAFETY: the range is guest RAM, mapped by `memory`, which this object keeps alive,
            // and slots do not overlap since the regions of a guest memory do not, nor the pieces
            // that one is split into.
            unsafe { fd.set_user_memory_region(region) }.during("mapping guest memory")?;
        }
        fd.create_irq_chip().during("creating the interrupt controllers")?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).during("creating the interval timer")?;
        let routes = Routes::new(fd.clone())?;
        let power_on = PowerOn::read(&fd)?;
        Ok(Vm { fd, _memory: memory, routes, next_slot, power_on })
    }

    /// Creates vCPU `id`, whose APIC id it is too.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn create_vcpu(&self, id: u32) -> Result<VcpuFd, KvmError> {
        self.fd.create_vcpu(id.into()).during("creating a vCPU")
    }

    /// A slot for memory behind a BAR.
    pub fn bar_memory(&self, memory: GuestMemory) -> Arc<BarMemory> {
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed);
        BarMemory::new(self.fd.clone(), slot, memory)
    }

    /// Puts interrupt controllers and timer back to the state after power-on.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn reset_chips(&self) -> Result<(), KvmError> {
        for chip in &self.power_on.irqchips {
            self.fd.set_irqchip(chip).during("resetting an interrupt controller")?;
        }
        self.fd.set_pit2(&self.power_on.pit).during("resetting the interval timer")
    }

    /// Makes writes at `base + doorbell.offset` signal its eventfd, or no longer.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn doorbell(
        &self,
        space: Space,
        base: u64,
        doorbell: &Doorbell,
        ring: bool,
    ) -> Result<(), KvmError> {
        let at = base + doorbell.offset;
        let address = match space {
            Space::Memory => IoEventAddress::Mmio(at),
            Space::Port => IoEventAddress::Pio(at),
        };
        let eventfd = borrow(&doorbell.eventfd);
        let result = if ring {
            self.fd.register_ioevent(&eventfd, &address, NoDatamatch)
        } else {
            self.fd.unregister_ioevent(&eventfd, &address, NoDatamatch)
        };
        result.during("placing a queue's doorbell")
    }

    /// An edge-triggered interrupt line.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn edge_line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, KvmError> {
        let eventfd = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .map_err(|e| KvmError::Ioctl { what: "creating an eventfd", source: e.into() })?;
        self.fd.register_irqfd(&eventfd, gsi).during("connecting an interrupt line")?;
        Ok(Arc::new(EdgeLine(eventfd)))
    }

    /// A level-triggered interrupt line.
    pub fn level_line(&self, gsi: u32) -> Arc<dyn IrqLine> {
        Arc::new(LevelLine { fd: self.fd.clone(), gsi })
    }
}

/// Gives the legacy VGA window a slot of its own: it is a device's memory, only kept in RAM.
fn split(ranges: Vec<(u64, u64, u64)>) -> Vec<(u64, u64, u64)> {
    const CUTS: [u64; 2] = [layout::VGA_WINDOW, layout::VGA_WINDOW + layout::VGA_WINDOW_LEN];
    let mut pieces = Vec::new();
    for (mut guest, mut len, mut host) in ranges {
        for cut in CUTS {
            let head = cut.saturating_sub(guest);
            if (1..len).contains(&head) {
                pieces.push((guest, head, host));
                (guest, len, host) = (guest + head, len - head, host + head);
            }
        }
        pieces.push((guest, len, host));
    }
    pieces
}

/// A descriptor in the type that kvm-ioctls takes, for one call: whoever lends it keeps it open.
pub(super) fn borrow(fd: &OwnedFd) -> ManuallyDrop<EventFd> {
    // SAFETY: the descriptor is open, since `fd` holds it. It is closed once only, by `fd`: the
    // wrapper is never dropped, and nobody takes it out to do so.
    ManuallyDrop::new(unsafe { EventFd::from_raw_fd(fd.as_raw_fd()) })
}

impl PowerOn {
    fn read(fd: &VmFd) -> Result<PowerOn, KvmError> {
        let mut irqchips = Vec::new();
        for chip_id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC] {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            fd.get_irqchip(&mut chip).during("reading an interrupt controller")?;
            irqchips.push(chip);
        }
        let pit = fd.get_pit2().during("reading the interval timer")?;
        Ok(PowerOn { irqchips, pit })
    }
}

struct EdgeLine(EventFd);

impl IrqLine for EdgeLine {
    fn set(&self, level: bool) {
        // An irqfd injects a whole edge. A counter that is full means that one is on its way.
        if level {
            let _ = self.0.write(1);
        }
    }
}

struct LevelLine {
    fd: Arc<VmFd>,
    gsi: u32,
}

impl IrqLine for LevelLine {
    fn set(&self, level: bool) {
        if let Err(error) = self.fd.set_irq_line(self.gsi, level) {
            log::error!("interrupt line {}: {error}", self.gsi);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vga_window_is_a_piece_of_its_own() {
        let gib = 1 << 30;
        let pieces = split(vec![(0, gib, 0x7000_0000), (4 * gib, gib, 0x1_0000_0000)]);
        let low = [
            (0, 0xa_0000, 0x7000_0000),
            (0xa_0000, 0x2_0000, 0x700a_0000),
            (0xc_0000, gib - 0xc_0000, 0x700c_0000),
        ];
        assert_eq!(pieces[..3], low);
        assert_eq!(pieces[3..], [(4 * gib, gib, 0x1_0000_0000)]);
    }
}

//! Interrupt routes: which line leads to which controller's pin, and which to which message
//! (KVM_SET_GSI_ROUTING). The whole table is set at each change.

use std::io;
use std::sync::{Arc, Mutex};

use devices::event::Event;
use devices::irq::{MsiMessage, MsiRoute};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::vm::borrow;
use super::{During, KvmError};
use crate::machine::layout;

/// I/O APIC pins.
const PINS: u32 = 24;

/// The machine's routing table.
pub struct Routes {
    fd: Arc<VmFd>,
    table: Mutex<Table>,
}

struct Table {
    entries: Vec<kvm_irq_routing_entry>,
    next_gsi: u32,
}

impl Routes {
    /// The board's wired interrupts: lines 0 to 15 to the PICs, and each line n to I/O APIC pin n,
    /// but for line 0, the timer's, which is on pin 2.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn new(fd: Arc<VmFd>) -> Result<Arc<Routes>, KvmError> {
        let mut entries = Vec::new();
        for gsi in 0..16 {
            let (chip, pin) = if gsi < 8 {
                (KVM_IRQCHIP_PIC_MASTER, gsi)
            } else {
                (KVM_IRQCHIP_PIC_SLAVE, gsi - 8)
            };
            entries.push(wired(gsi, chip, pin));
        }
        entries.push(wired(0, KVM_IRQCHIP_IOAPIC, 2));
        entries.extend((1..PINS).filter(|gsi| *gsi != 2).map(|n| wired(n, KVM_IRQCHIP_IOAPIC, n)));
        let table = Table { entries, next_gsi: layout::FIRST_MSI_GSI };
        table.apply(&fd)?;
        Ok(Arc::new(Routes { fd, table: Mutex::new(table) }))
    }

    /// A new line that leads nowhere until it is pointed at a message.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn message(self: &Arc<Self>) -> Result<Arc<dyn MsiRoute>, KvmError> {
        let eventfd = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .map_err(|e| KvmError::Ioctl { what: "creating an eventfd", source: e.into() })?;
        let gsi = {
            let mut table = self.table.lock().expect("the table's lock is never held in a panic");
            table.next_gsi += 1;
            table.next_gsi - 1
        };
        self.fd.register_irqfd(&eventfd, gsi).during("connecting an interrupt message")?;
        Ok(Arc::new(Route { routes: self.clone(), gsi, eventfd }))
    }
}

impl Table {
    fn apply(&self, fd: &VmFd) -> Result<(), KvmError> {
        let routing = KvmIrqRouting::from_entries(&self.entries)
            .expect("a machine has far fewer lines than KVM's table");
        fd.set_gsi_routing(&routing).during("routing interrupts")
    }
}

struct Route {
    routes: Arc<Routes>,
    gsi: u32,
    eventfd: EventFd,
}

impl MsiRoute for Route {
    fn set(&self, message: MsiMessage) {
        let mut entry = kvm_irq_routing_entry {
            gsi: self.gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            ..Default::default()
        };
        entry.u.msi.address_lo = message.address as u32;
        entry.u.msi.address_hi = (message.address >> 32) as u32;
        entry.u.msi.data = message.data;
        let mut table =
            self.routes.table.lock().expect("the table's lock is never held in a panic");
        let at = table.entries.iter().position(|e| e.gsi == self.gsi);
        let old = match at {
            Some(at) => Some(std::mem::replace(&mut table.entries[at], entry)),
            None => {
                table.entries.push(entry);
                None
            }
        };
        if let Err(error) = table.apply(&self.routes.fd) {
            // KVM refuses messages that no APIC could take, and with them the whole table: without
            // this one the others still work.
            log::debug!("interrupt message {message:x?}: {error}");
            match (at, old) {
                (Some(at), Some(old)) => table.entries[at] = old,
                _ => drop(table.entries.pop()),
            }
        }
    }

    fn fire(&self) {
        // A counter that is full means that an interrupt is on its way.
        let _ = self.eventfd.write(1);
    }

    fn connect(&self, event: &Event) -> io::Result<()> {
        // KVM looks at the counter after it has joined those whom a signal wakes.
        Ok(self.routes.fd.register_irqfd(&borrow(event.fd()), self.gsi)?)
    }

    fn disconnect(&self, event: &Event) {
        // KVM leaves those whom a signal wakes and empties the counter in one step, and returns
        // when what it has begun to send is sent.
        if let Err(error) = self.routes.fd.unregister_irqfd(&borrow(event.fd()), self.gsi) {
            log::error!("interrupt line {} cannot be disconnected: {error}", self.gsi);
        }
    }
}

fn wired(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry =
        kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = irqchip;
    entry.u.irqchip.pin = pin;
    entry
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use devices::pci::msix::Msix;
    use kvm_bindings::kvm_lapic_state;
    use kvm_ioctls::VcpuFd;

    use super::*;
    use crate::kvm::vm::Vm;
    use crate::{kvm, memory};

    const VECTOR: u32 = 0x41;
    /// Spurious-interrupt vector register, with the bit that enables the APIC.
    const SVR: (usize, u8) = (0xf1, 1);
    /// The byte and bit of [`VECTOR`] among the requested interrupts.
    const IRR: (usize, u8) = (0x200 + 0x10 * (VECTOR as usize / 32), 1 << (VECTOR % 8));

    /// A machine whose only vCPU never runs: its local APIC shows what reached it.
    struct Target {
        vm: Vm,
        cpu: VcpuFd,
        idle: kvm_lapic_state,
    }

    impl Target {
        fn new() -> Option<Target> {
            let kvm = match kvm::open() {
                Ok(kvm) => kvm,
                Err(error) => {
                    eprintln!("SKIPPED: {error}");
                    return None;
                }
            };
            let vm = Vm::new(&kvm, memory::allocate(32 << 20).unwrap()).unwrap();
            let cpu = vm.create_vcpu(0).unwrap();
            let mut idle = cpu.get_lapic().unwrap();
            idle.regs[SVR.0] |= SVR.1 as libc::c_char;
            cpu.set_lapic(&idle).unwrap();
            Some(Target { vm, cpu, idle })
        }

        fn route(&self) -> Arc<dyn MsiRoute> {
            let route = self.vm.routes.message().unwrap();
            route.set(MsiMessage { address: 0xfee0_0000, data: VECTOR });
            route
        }

        /// Takes the interrupt, if it came.
        fn take(&self) -> bool {
            let came = self.cpu.get_lapic().unwrap().regs[IRR.0] as u8 & IRR.1 != 0;
            if came {
                self.cpu.set_lapic(&self.idle).unwrap();
            }
            came
        }

        fn wait(&self) {
            let until = Instant::now() + Duration::from_secs(20);
            while !self.take() {
                assert!(Instant::now() < until, "no interrupt");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn signals_are_sent_while_connected_and_kept_while_not() {
        let Some(target) = Target::new() else { return };
        let (route, event) = (target.route(), Event::new().unwrap());
        for _ in 0..20 {
            // What is in the counter counts.
            event.signal();
            route.connect(&event).unwrap();
            target.wait();
            event.signal();
            target.wait();
            event.signal();
            route.disconnect(&event);
            assert!(target.take(), "it was signalled before");
            assert!(!event.take(), "what is sent is off the counter");
            event.signal();
            assert!(!target.take());
            assert!(event.take());
        }
        route.fire();
        target.wait();
    }

    #[test]
    fn masks_that_race_with_signals_lose_none() {
        const SIGNALS: usize = 500;
        let Some(target) = Target::new() else { return };
        let msix = Msix::new(vec![target.route()]);
        let event = Event::new().unwrap();
        msix.set_control(true, false);
        msix.connect(&event, 0);
        let mask = |masked: u32| msix.write_table(12, &masked.to_le_bytes());
        msix.write_table(0, &0xfee0_0000u64.to_le_bytes());
        msix.write_table(8, &VECTOR.to_le_bytes());
        let (tell, told) = std::sync::mpsc::channel();
        let worker = std::thread::spawn(move || {
            // Each signal waits for the interrupt of the one before, so that none makes up for
            // another that was lost.
            (0..SIGNALS).for_each(|_| {
                event.signal();
                told.recv_timeout(Duration::from_secs(20)).expect("an interrupt was lost");
            });
        });
        while !worker.is_finished() {
            mask(0);
            if target.take() {
                let _ = tell.send(());
            }
            mask(1);
            if target.take() {
                let _ = tell.send(());
            }
        }
        worker.join().unwrap();
    }
}

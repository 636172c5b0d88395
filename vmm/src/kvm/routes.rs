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

//! The one place that knows every kind of device: config → backend → device → slot.

use std::sync::Arc;

use devices::block::BlockBackend;
use devices::irq::MsiRoute;
use devices::mem::GuestMemory;
use devices::pci::Slot;
use devices::pci::function::{Function, Window};
use devices::pci::msix::Msix;
use devices::pci::root::PciRoot;
use devices::virtio::VirtioDevice;
use devices::virtio::pci::VirtioPci;
use devices::virtio::rng::Rng;

use super::{StartError, layout, resources};
use crate::config::MachineConfig;
use crate::kvm::vm::Vm;

/// Where BARs may be mapped.
pub const WINDOW: Window =
    Window { start: layout::PCI_WINDOW as u32, end: layout::PCI_WINDOW_END as u32 };

/// Puts every device that `config` asks for on the bus; answers the disks' backends, which the
/// machine flushes and boots from.
pub fn attach(
    config: MachineConfig,
    root: &PciRoot,
    vm: &Vm,
    memory: &GuestMemory,
) -> Result<Vec<Arc<dyn BlockBackend>>, StartError> {
    let place = |slot: Slot, device: Box<dyn VirtioDevice>| {
        let routes = (0..VirtioPci::vectors(&*device))
            .map(|_| vm.routes.message())
            .collect::<Result<Vec<Arc<dyn MsiRoute>>, _>>()?;
        let device = VirtioPci::new(device, memory.clone(), Msix::new(routes))
            .map_err(|error| StartError::Device(error.to_string()))?;
        root.attach(slot, Function::new(device, WINDOW));
        Ok::<(), StartError>(())
    };
    place(resources::RNG, Box::new(Rng::new()))?;
    Ok(config.disks.into_iter().map(|disk| disk.backend).collect())
}

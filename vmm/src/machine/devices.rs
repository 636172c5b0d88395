//! The one place that knows every kind of device: config → backend → device → slot.

use std::error::Error;
use std::fs::File;
use std::sync::Arc;

use devices::block::BlockBackend;
use devices::block::shortage::Shortages;
use devices::irq::MsiRoute;
use devices::mem::{GuestMemory, Reclaim};
use devices::net::NetBackend;
use devices::net::tap::Tap;
use devices::net::vhost::{Vhost, VhostFile};
use devices::pci::Slot;
use devices::pci::function::{Function, Window};
use devices::pci::msix::Msix;
use devices::pci::root::PciRoot;
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{self, Balloon};
use devices::virtio::blk::Blk;
use devices::virtio::input::reports::Reports as InputReports;
use devices::virtio::input::{Input, Kind};
use devices::virtio::net::Net;
use devices::virtio::pci::VirtioPci;
use devices::virtio::rng::Rng;
use devices::virtio::vsock::{Sockets, Vsock};

use super::handle::{DiskStatus, VsockStatus};
use super::{StartError, layout, resources};
use crate::config::MachineConfig;
use crate::kvm::vm::Vm;
use crate::memory::Returns;

/// Where BARs may be mapped.
pub const WINDOW: Window =
    Window { start: layout::PCI_WINDOW as u32, end: layout::PCI_WINDOW_END as u32 };

/// Disks get a queue for each vCPU up to this many, unless told otherwise.
const QUEUES_MAX: u32 = 4;

/// The disks of a machine, in the order of their slots.
pub struct Disks {
    /// What the machine flushes and boots from.
    pub backends: Vec<Arc<dyn BlockBackend>>,
    /// What is known of them outside.
    pub statuses: Arc<[DiskStatus]>,
}

/// What feeds the virtio input devices.
pub struct Reports {
    /// Keys.
    pub keyboard: Arc<InputReports>,
    /// Positions and buttons.
    pub tablet: Arc<InputReports>,
}

/// What the machine keeps of its devices.
pub struct Attached {
    /// Its disks.
    pub disks: Disks,
    /// With a display only.
    pub reports: Option<Reports>,
    /// Where there is a balloon.
    pub balloon: Option<Arc<balloon::Control>>,
    /// Where there are sockets between host and guest.
    pub vsock: Option<VsockStatus>,
}

/// Puts every virtio device that `config` asks for on the bus. Disks tell `shortages` when their
/// host is full.
pub fn attach(
    config: MachineConfig,
    root: &PciRoot,
    vm: &Vm,
    memory: &GuestMemory,
    shortages: &Arc<Shortages>,
) -> Result<Attached, StartError> {
    let place = |slot: Slot, device: Box<dyn VirtioDevice>| {
        let routes = (0..VirtioPci::vectors(&*device))
            .map(|_| vm.routes.message())
            .collect::<Result<Vec<Arc<dyn MsiRoute>>, _>>()?;
        let device = VirtioPci::new(device, memory.clone(), Msix::new(routes))
            .map_err(|error| StartError::Device(error.to_string()))?;
        root.attach(slot, Function::new(device, WINDOW));
        Ok::<(), StartError>(())
    };
    let failed = |what: String| {
        move |error: &dyn std::fmt::Display| StartError::Device(format!("{what}: {error}"))
    };
    place(resources::RNG, Box::new(Rng::new()))?;
    let input = |slot, kind| {
        let (input, reports) = Input::new(kind).map_err(|e| failed("input device".into())(&e))?;
        place(slot, Box::new(input))?;
        Ok::<_, StartError>(reports)
    };
    let reports = match config.display {
        None => None,
        Some(_) => Some(Reports {
            keyboard: input(resources::KEYBOARD, Kind::Keyboard)?,
            tablet: input(resources::TABLET, Kind::Tablet)?,
        }),
    };
    let mut balloon = None;
    if let Some(how) = config.balloon {
        // Of a huge page that was set aside, no part can be given back.
        let returns = match config.hugepages {
            None => Some(Arc::new(Returns(memory.clone())) as Arc<dyn Reclaim>),
            Some(_) => None,
        };
        let device = Balloon::new(config.memory_bytes, returns, how.deflate_on_oom)
            .map_err(|e| failed("balloon".into())(&e))?;
        balloon = Some(device.control());
        place(resources::BALLOON, Box::new(device))?;
    }
    let mut vsock = None;
    if let Some(asked) = config.vsock {
        let failed = failed("vsock".into());
        let sockets = Sockets::new(asked.listener, asked.path).map_err(|e| failed(&e))?;
        let device = Vsock::new(asked.cid, sockets).map_err(|e| failed(&e))?;
        vsock = Some(VsockStatus { counters: device.counters(), malformed: device.malformed() });
        place(resources::VSOCK, Box::new(device))?;
    }
    for (index, nic) in config.nics.into_iter().enumerate() {
        let failed = failed(format!("network interface {index}"));
        let mut backends: Vec<Box<dyn NetBackend>> = Vec::new();
        for tap in nic.taps {
            backends.push(Box::new(Tap::new(tap).map_err(|e| failed(&e))?));
        }
        let net = Net::new(backends, nic.mac, nic.mtu).map_err(|e| failed(&e))?;
        let net = net.with_vhost(vhosts(index, nic.vhost)).with_counters(nic.counters);
        place(resources::nic(index), Box::new(net))?;
    }
    let (mut backends, mut statuses) = (Vec::new(), Vec::new());
    for (index, disk) in config.disks.into_iter().enumerate() {
        let failed = failed(format!("disk {index}"));
        let queues = match disk.queues {
            0 => config.cpus.min(QUEUES_MAX) as u16,
            queues => queues,
        };
        let blk = Blk::new(disk.backend.clone(), &disk.serial, queues, disk.engine)
            .map_err(|e| failed(&e))?;
        let name: Arc<str> = disk.name.into();
        statuses.push(DiskStatus {
            name: name.clone(),
            counters: blk.counters(),
            malformed: blk.malformed(),
        });
        let blk = blk.named(name).limited(disk.limits).with_shortages(shortages.clone());
        place(resources::disk(index), Box::new(blk))?;
        backends.push(disk.backend);
    }
    let disks = Disks { backends, statuses: statuses.into() };
    Ok(Attached { disks, reports, balloon, vsock })
}

/// The kernel's side of interface `index`. Without it the interface works too, so a kernel that
/// refuses is no error.
fn vhosts(index: usize, files: Vec<File>) -> Vec<Box<dyn Vhost>> {
    let opened: Result<Vec<Box<dyn Vhost>>, _> = files
        .into_iter()
        .map(|file| VhostFile::new(file).map(|vhost| Box::new(vhost) as Box<dyn Vhost>))
        .collect();
    opened.unwrap_or_else(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        log::warn!(
            "network interface {index}: {error}{cause}; frames go through this process, which is \
             slower"
        );
        Vec::new()
    })
}

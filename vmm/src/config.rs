//! What a machine is asked to be: plain data, with the open files and backends it is made of.

use std::fmt;
use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use devices::block::BlockBackend;
use devices::serial::Console;

/// A machine to be built.
pub struct MachineConfig {
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Guest RAM in bytes; a multiple of 2 MiB, at least 32 MiB.
    pub memory_bytes: u64,
    /// The huge pages that guest RAM is on, of which it is a multiple; `None`: pages as the host's
    /// kernel finds them.
    pub hugepages: Option<HugePage>,
    /// Where the kernel comes from.
    pub boot: BootConfig,
    /// Disks, in the order of their PCI slots.
    pub disks: Vec<DiskConfig>,
    /// Network interfaces, in the order of their PCI slots.
    pub nics: Vec<NicConfig>,
    /// Display adapter, keyboards and pointers; `None`: a machine without any.
    pub display: Option<DisplayConfig>,
    /// A balloon, by which the guest gives memory back; `None`: a machine without.
    pub balloon: Option<BalloonConfig>,
    /// Sockets between host and guest; `None`: a machine without.
    pub vsock: Option<VsockConfig>,
    /// Where COM1's output goes.
    pub console: Arc<dyn Console>,
    /// The machine's identity, shown in SMBIOS.
    pub identity: Identity,
    /// Refuse a KVM that runs guest kernels in software. Only guests written for it can do without.
    pub require_native_kvm: bool,
}

/// A display adapter, and what stands before it: keyboards and pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisplayConfig {
    /// Pixels a row of the mode that is set up at first, and that the monitor prefers: from
    /// [`DisplayConfig::SIDE_MIN`] to [`DisplayConfig::SIDE_MAX`].
    pub width: u32,
    /// Rows, likewise; all of it, at four bytes a pixel, must fit into 16 MiB.
    pub height: u32,
}

impl DisplayConfig {
    /// The least width and height.
    pub const SIDE_MIN: u32 = 200;
    /// The most: what a monitor can say that it prefers.
    pub const SIDE_MAX: u32 = devices::display::edid::SIDE_MAX;

    /// True when the mode is possible.
    pub fn is_possible(&self) -> bool {
        let sides = DisplayConfig::SIDE_MIN..=DisplayConfig::SIDE_MAX;
        let bytes = u64::from(self.width) * u64::from(self.height) * 4;
        sides.contains(&self.width)
            && sides.contains(&self.height)
            && bytes <= devices::display::dispi::MEMORY_LEN as u64
    }
}

/// A huge page that the host has set aside (hugetlbfs), by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePage {
    /// 2 MiB.
    TwoMib,
    /// 1 GiB.
    OneGib,
}

impl HugePage {
    /// All of them.
    pub const ALL: [HugePage; 2] = [HugePage::TwoMib, HugePage::OneGib];

    /// Its size.
    pub const fn bytes(self) -> u64 {
        match self {
            HugePage::TwoMib => 2 << 20,
            HugePage::OneGib => 1 << 30,
        }
    }
}

impl fmt::Display for HugePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HugePage::TwoMib => "2 MiB",
            HugePage::OneGib => "1 GiB",
        })
    }
}

/// A memory balloon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalloonConfig {
    /// A guest that is out of memory may take back what it gave, rather than kill its processes.
    pub deflate_on_oom: bool,
}

/// A vsock device, whose host's side is a Unix socket.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context id: from [`CID_MIN`](devices::virtio::vsock::CID_MIN) to
    /// [`CID_MAX`](devices::virtio::vsock::CID_MAX).
    pub cid: u32,
    /// The socket that programs of the host connect to.
    pub listener: UnixListener,
    /// Its path. Connections of the guest to port N lead to the socket whose path is this and `_N`.
    pub path: PathBuf,
}

/// What a vsock device has done.
pub use devices::virtio::vsock::Counters as VsockCounters;

/// The most vCPUs a machine may have.
pub const MAX_CPUS: u32 = 64;

/// Where the kernel comes from.
#[derive(Clone, Debug)]
pub enum BootConfig {
    /// What the boot loader on disk `disk` would boot; read again at every reset.
    Disk {
        /// Index in [`MachineConfig::disks`].
        disk: usize,
        /// Added to the command line found there.
        cmdline_extra: String,
    },
    /// These files; opened again at every reset.
    Kernel {
        /// A bzImage, or an ELF kernel with a PVH note.
        kernel: PathBuf,
        /// The initial ramdisk.
        initrd: Option<PathBuf>,
        /// The command line, whole.
        cmdline: String,
    },
}

/// A virtio-blk device.
pub struct DiskConfig {
    /// The data.
    pub backend: Arc<dyn BlockBackend>,
    /// Serial number, at most 20 bytes of ASCII.
    pub serial: String,
    /// Number of queues; 0: as many as vCPUs, at most 4.
    pub queues: u16,
    /// Which engine moves the data.
    pub engine: DiskEngine,
    /// How it is called in logs and in the machine's status: its file, for most.
    pub name: String,
    /// How much the guest may ask of it.
    pub limits: DiskLimits,
}

/// How data is moved between guest memory and files.
pub use devices::virtio::blk::Engine as DiskEngine;
/// What a disk may do in a second.
pub use devices::virtio::blk::Limits as DiskLimits;

/// What the threads of a network interface have done.
pub use devices::virtio::net::Counters as NicCounters;

/// A virtio-net device.
pub struct NicConfig {
    /// One open tap queue file (IFF_VNET_HDR | IFF_NO_PI) for each queue pair.
    pub taps: Vec<File>,
    /// Open files of `/dev/vhost-net`, one for each of `taps`, with which the kernel serves the
    /// queue pairs; empty: threads of this process do.
    pub vhost: Vec<File>,
    /// Hardware address.
    pub mac: [u8; 6],
    /// MTU offered to the driver, 68 to 65535.
    pub mtu: Option<u16>,
    /// Counts what threads of this process do; what the kernel carries, only the tap counts.
    pub counters: Arc<NicCounters>,
}

/// What the machine says of itself: in SMBIOS, and by its generation.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// System UUID.
    pub uuid: [u8; 16],
    /// Serial number; cloud-init reads instance data from it on some platforms.
    pub serial: String,
    /// Generation of its disk, in the order of bytes of a GUID in memory: another one when the disk was
    /// copied or restored.
    pub generation: [u8; 16],
}

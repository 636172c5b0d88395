//! What `/metrics` tells: a [`Sample`] of the machine, taken when somebody asks and never else, and its
//! [`exposition`] as OpenMetrics text. `docs/metrics.md` lists all of it.
//!
//! Counting is done where things happen, each thread on cache lines of its own; here numbers are only
//! read and added up, on the asking connection's thread.

pub mod exposition;
pub mod procfs;

#[cfg(test)]
pub mod tests;

use std::time::Duration;

use devices::virtio::balloon::{self, Statistics};
use vmm::ExitKind;

use crate::machine::{DiskCounts, VsockCounts};
use crate::nic::NicCounters;
use crate::ready::Stage;
use procfs::Times;

/// A machine at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Of Berth.
    pub version: String,
    /// What it does.
    pub state: State,
    /// Whether it is ready, as far as that is known without asking the guest.
    pub ready: bool,
    /// When it was started: since the beginning of 1970.
    pub started_at: Duration,
    /// How long ago that is.
    pub uptime: Duration,
    /// What it has reached, and how long after its start.
    pub stages: Vec<(Stage, Duration)>,
    /// How often it was reset.
    pub resets: u64,
    /// Who watches the screen; `None`: there is no VNC server.
    pub vnc_viewers: Option<u32>,
    /// Consoles attached through this interface.
    pub consoles: u32,
    /// Its vCPUs, in the order of their numbers.
    pub cpus: Vec<Cpu>,
    /// Its memory, and Berth's.
    pub memory: Memory,
    /// What the guest gives back; `None`: it has no balloon.
    pub balloon: Option<Balloon>,
    /// Processor time of all threads of this process.
    pub times: Option<Times>,
    /// In the order in which the guest finds them.
    pub disks: Vec<Disk>,
    /// Likewise.
    pub nics: Vec<Nic>,
    /// The sockets between host and guest; `None`: there are none.
    pub vsock: Option<VsockCounts>,
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It waits for room on the host.
    Paused,
    /// Its end was asked for.
    Stopping,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Running, Self::Paused, Self::Stopping];

    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
        }
    }
}

/// A vCPU.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// What it has come out of guest mode for.
    pub exits: Vec<(ExitKind, u64)>,
    /// Processor time of its thread, if that can be told.
    pub times: Option<Times>,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// The guest's RAM.
    pub guest: u64,
    /// What of it is in the host's memory, if that can be told.
    pub guest_resident: Option<u64>,
    /// What of this process is, the guest's RAM included.
    pub process_resident: Option<u64>,
}

/// How long the guest may take to say how it does; what it said last is told if it takes longer.
const GUEST_PATIENCE: Duration = Duration::from_millis(100);

/// The balloon, and what the guest says of its memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Balloon {
    /// The size that was asked for, in bytes.
    pub target: u64,
    /// The size that the guest says it has.
    pub size: u64,
    /// What was given back so far.
    pub counts: balloon::Counts,
    /// What the guest says; nothing, before its driver runs.
    pub statistics: Statistics,
}

impl Balloon {
    /// Of a machine that runs; its guest is asked.
    pub fn sample(control: &balloon::Control) -> Self {
        Self {
            target: control.target(),
            size: control.actual(),
            counts: control.counts(),
            statistics: control.statistics(GUEST_PATIENCE).unwrap_or_default(),
        }
    }
}

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The serial number that the guest reads.
    pub serial: String,
    /// How it is called in logs.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether the guest cannot write it.
    pub read_only: bool,
    /// What it has done.
    pub counts: DiskCounts,
}

/// A network interface.
#[derive(Clone, Debug, Default)]
pub struct Nic {
    /// Its hardware address.
    pub mac: String,
    /// What has gone through it; `None`: the kernel does not say.
    pub counters: Option<NicCounters>,
    /// What the guest is told of its network; `None`: that is not ours to say.
    pub told: Option<Told>,
}

/// What the guest is told of its network.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Frames by what they are.
    pub frames: Vec<(&'static str, u64)>,
    /// When its IPv4 address was acknowledged last, after the start of the machine; `None`: it has none.
    pub lease_v4: Option<Duration>,
    /// Likewise its IPv6 address.
    pub lease_v6: Option<Duration>,
}

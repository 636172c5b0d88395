//! A machine that runs, as its interface for the outside sees it: what [`crate::api`] asks, answered
//! from the plan, the network and the machine's handle. Runs on whichever connection's thread asks.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::api::status::{StageStatus, Status};
use crate::api::{Health, Machine, Power};
use crate::machine::Control;
use crate::metrics::procfs::Procfs;
use crate::metrics::{Balloon, Cpu, Disk, Memory, Nic, Sample, State, Told, exposition};
use crate::net::dhcp::counters::Counters;
use crate::nic;
use crate::ready::Readiness;
use crate::vnc::hub::Hub;

/// When a machine was started, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// For what is measured from then on.
    pub at: Instant,
    /// For people; steps of the clock afterwards do not change it.
    pub since_1970: Duration,
}

impl Start {
    /// Now.
    pub fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: Instant::now(), since_1970 }
    }
}

/// A machine that runs.
pub struct Running {
    /// When it was started.
    pub start: Start,
    /// What does not change of it.
    pub status: Status,
    /// Whether it is ready.
    pub readiness: Readiness,
    /// Its handle.
    pub control: Arc<dyn Control>,
    /// Asks for its end, at once.
    pub off: Box<dyn Fn() + Send + Sync>,
    /// Whether its end was asked for.
    pub stopping: Arc<AtomicBool>,
    /// Who counts the viewers, where the screen is served.
    pub viewers: Option<Arc<Hub>>,
    /// What is counted of its interface, if it has one.
    pub nic: Option<Arc<nic::Meter>>,
    /// What the kernel counts.
    pub procfs: Procfs,
}

impl Running {
    /// What it does, and if it is paused, why.
    fn state(&self) -> (State, Option<String>) {
        let paused = self.control.paused();
        let state = match paused {
            _ if self.stopping.load(Ordering::Relaxed) => State::Stopping,
            Some(_) => State::Paused,
            None => State::Running,
        };
        (state, paused)
    }

    fn viewers(&self) -> Option<u32> {
        let count = |hub: &Arc<Hub>| u32::try_from(hub.viewers()).unwrap_or(u32::MAX);
        self.viewers.as_ref().map(count)
    }

    /// All that is counted of it.
    fn sample(&self, consoles: u32) -> Sample {
        let counts = self.control.counts();
        let process = self.procfs.process();
        // The kernel counts huge pages for themselves, not as what is resident of a process.
        let apart = counts.resident_bytes.filter(|_| self.status.hugepage_bytes.is_some());
        let apart = apart.unwrap_or(0);
        let cpus = counts.exits.into_iter().enumerate();
        let cpus = cpus.map(|(number, exits)| Cpu { exits, times: self.procfs.cpu(number) });
        let disks = self.status.disks.iter().zip(self.control.disks());
        let disks = disks.map(|(disk, counts)| Disk {
            serial: disk.serial.clone(),
            name: disk.name.clone(),
            size_bytes: disk.size_bytes,
            read_only: disk.read_only,
            counts,
        });
        Sample {
            version: self.status.version.clone(),
            state: self.state().0,
            ready: self.readiness.seen(),
            started_at: self.start.since_1970,
            uptime: self.start.at.elapsed(),
            stages: self.readiness.stages(self.start.at),
            resets: counts.resets,
            vnc_viewers: self.viewers(),
            consoles,
            cpus: cpus.collect(),
            memory: Memory {
                guest: self.status.memory_bytes,
                guest_resident: counts.resident_bytes,
                process_resident: process
                    .map(|process| process.resident_bytes.saturating_add(apart)),
            },
            balloon: self.control.balloon().map(|balloon| Balloon::sample(&balloon)),
            times: process.map(|process| process.times),
            disks: disks.collect(),
            nics: self.nics(),
            vsock: self.control.vsock(),
        }
    }

    fn nics(&self) -> Vec<Nic> {
        let Some(meter) = &self.nic else { return Vec::new() };
        // There is one, or none.
        let nic = self.status.nics.iter().take(1).map(|nic| Nic {
            mac: nic.mac.clone(),
            counters: meter.counters().ok(),
            told: meter.dhcp().map(|counters| self.told(counters)),
        });
        nic.collect()
    }

    fn told(&self, counters: &Counters) -> Told {
        let after = |acknowledged: Instant| acknowledged.saturating_duration_since(self.start.at);
        Told {
            frames: counters.all().to_vec(),
            lease_v4: counters.lease_v4().map(|lease| after(lease.acknowledged)),
            lease_v6: counters.lease_v6().map(|lease| after(lease.acknowledged)),
        }
    }
}

impl Machine for Running {
    fn status(&self) -> Status {
        let mut status = self.status.clone();
        let (state, paused) = self.state();
        (status.state, status.paused) = (state.word().to_owned(), paused);
        status.vnc_viewers = self.viewers();
        if let Some(balloon) = self.control.balloon() {
            status.balloon_target_bytes = Some(balloon.target());
            status.balloon_bytes = Some(balloon.actual());
        }
        if let Some((vsock, counts)) = status.vsock.as_mut().zip(self.control.vsock()) {
            vsock.connections = counts.open;
        }
        status.uptime_s = self.start.at.elapsed().as_secs();
        for (disk, counts) in status.disks.iter_mut().zip(self.control.disks()) {
            (disk.errors, disk.waits_for_room) = (counts.errors(), counts.waits);
        }
        let leased: Vec<String> = self.readiness.leased().iter().map(IpAddr::to_string).collect();
        for nic in &mut status.nics {
            nic.leased.clone_from(&leased);
        }
        (status.ready, status.readiness) = match self.ready() {
            Ok(line) => (true, line),
            Err(line) => (false, line),
        };
        let stages = self.readiness.stages(self.start.at).into_iter();
        let stages = stages.map(|(stage, after)| StageStatus {
            stage: stage.word().to_owned(),
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        });
        status.stages = stages.collect();
        status
    }

    fn metrics(&self, consoles: u32) -> String {
        exposition::write(self.sample(consoles))
    }

    fn press(&self, button: Power) -> Result<(), String> {
        let outcome = match button {
            Power::Button => self.control.power_button(),
            Power::Reset => self.control.reset(),
            Power::Off => {
                (self.off)();
                Ok(())
            }
        };
        outcome.map_err(|refused| refused.to_string())
    }

    fn type_in(&self, bytes: &[u8]) -> usize {
        self.control.console_input(bytes)
    }
}

impl Health for Running {
    fn healthy(&self) -> Result<(), String> {
        // This is not served before the machine runs, nor after it has ended.
        Ok(())
    }

    fn ready(&self) -> Result<String, String> {
        self.readiness.look()
    }
}

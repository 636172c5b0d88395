//! A machine: memory, vCPUs, buses, devices, and the thread that owns their state.
//!
//! [`Machine::start`] builds everything on the caller's thread, so that what is wrong is an error
//! there, and then hands it to the `machine` thread, which waits for happenings (the mailbox) and
//! acts by [`lifecycle::decide`]. Ends in the reverse order: vCPUs, device threads, disks flushed.

pub mod board;
pub mod desktop;
pub mod devices;
pub mod handle;
pub mod layout;
pub mod lifecycle;
pub mod mailbox;
pub mod pause;
pub mod resources;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ::devices::block::shortage::Shortages;
use ::devices::display::Screen;
use ::devices::input::InputSink;
use ::devices::mem::{Bytes, GuestAddress, GuestMemory};
use ::devices::thread::{self, Thread};
use ::devices::virtio::balloon;

use self::board::Board;
use self::desktop::Desktop;
use self::devices::{Attached, Disks};
use self::handle::{MachineHandle, VsockStatus};
use self::lifecycle::{Action, ExitReason, Happening, decide};
use self::mailbox::Mailbox;
use self::pause::{Change, Pause};
use crate::acpi;
use crate::boot::{self, BootError, Entry};
use crate::config::{BootConfig, DisplayConfig, Identity, MAX_CPUS, MachineConfig};
use crate::kvm::cpuid::Template;
use crate::kvm::exit::Buses;
use crate::kvm::exits::Exits;
use crate::kvm::vcpu::{EventSink, Vcpu, Vcpus};
use crate::kvm::vm::Vm;
use crate::kvm::{self, KvmError, probe, registers};
use crate::memory::{self, MemoryError};
use crate::smbios;

/// The machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something asked for is out of range.
    #[error("{0}")]
    Config(String),
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A device cannot be made.
    #[error("{0}")]
    Device(String),
    /// There is nothing to boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// No thread could be had.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// A running machine. Dropping it stops it.
pub struct Machine {
    handle: MachineHandle,
    thread: Option<Thread<ExitReason>>,
}

impl Machine {
    /// Builds the machine, loads what it boots, and lets it run.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then, and no disk was written to.
    pub fn start(config: MachineConfig) -> Result<Machine, StartError> {
        let parts = Parts::build(config)?;
        let desktop = parts.desktop.as_ref();
        let handle = MachineHandle {
            mailbox: parts.mailbox.clone(),
            serial: parts.board.serial.clone(),
            shortages: parts.shortages.clone(),
            disks: parts.disks.statuses.clone(),
            exits: parts.exits.clone(),
            resets: parts.resets.clone(),
            memory: parts.memory.clone(),
            balloon: parts.balloon.clone(),
            vsock: parts.vsock.clone(),
            screen: desktop.map(|desktop| desktop.adapter.clone() as Arc<dyn Screen>),
            input: desktop.map(|desktop| desktop.desk.clone() as Arc<dyn InputSink>),
        };
        let thread = thread::start("machine", move || parts.serve());
        let thread = thread.map_err(StartError::Thread)?;
        Ok(Machine { handle, thread: Some(thread) })
    }

    /// The way in from outside.
    pub fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    /// Waits for the machine's end.
    pub fn wait(mut self) -> ExitReason {
        self.join()
    }

    fn join(&mut self) -> ExitReason {
        match self.thread.take().map(Thread::join) {
            Some(Some(reason)) => reason,
            Some(None) => ExitReason::Failed("the machine's thread panicked".into()),
            None => ExitReason::Stopped,
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // It refuses when it has ended already.
            let _ = self.handle.stop();
            self.join();
        }
    }
}

/// Everything a machine is made of; dropped from top to bottom.
struct Parts {
    vcpus: Vcpus,
    exits: Arc<[Arc<Exits>]>,
    resets: Arc<AtomicU64>,
    buses: Arc<Buses>,
    vm: Arc<Vm>,
    board: Board,
    desktop: Option<Desktop>,
    disks: Disks,
    balloon: Option<Arc<balloon::Control>>,
    vsock: Option<VsockStatus>,
    shortages: Arc<Shortages>,
    pause: pause::Known,
    memory: GuestMemory,
    ram: Vec<(u64, u64)>,
    boot: BootConfig,
    identity: Identity,
    cpus: u32,
    mailbox: Arc<Mailbox>,
}

impl Parts {
    fn build(config: MachineConfig) -> Result<Parts, StartError> {
        check(&config)?;
        let (cpus, console) = (config.cpus, config.console.clone());
        let (boot, identity) = (config.boot.clone(), config.identity.clone());
        let (require_native, display) = (config.require_native_kvm, config.display);
        let kvm = kvm::open()?;
        if cpus as usize > kvm.get_max_vcpus() {
            let max = kvm.get_max_vcpus();
            return Err(StartError::Config(format!(
                "{cpus} vCPUs, but this KVM has at most {max}"
            )));
        }
        let memory = match config.hugepages {
            None => memory::allocate(config.memory_bytes)?,
            Some(page) => memory::allocate_huge(config.memory_bytes, page)?,
        };
        let ram = memory::ranges(config.memory_bytes);
        let vm = Arc::new(Vm::new(&kvm, memory.clone())?);
        let buses = Arc::new(Buses::new(vm.clone()));
        let board = Board::new(&vm, &buses, &ram, cpus, console)?;
        let mailbox = Arc::new(Mailbox::default());
        let reports = mailbox.clone();
        let shortages = Shortages::new(move || reports.report(Happening::Shortage));
        let Attached { disks, reports, balloon, vsock } =
            devices::attach(config, &board.root, &vm, &memory, &shortages)?;
        let desktop = match display.zip(reports) {
            Some((display, reports)) => {
                Some(Desktop::new(display, (&vm, &buses), &board.root, &memory, reports)?)
            }
            None => {
                desktop::without(&buses);
                None
            }
        };

        let template = Template::read(&kvm)?;
        let mut vcpus = (0..cpus)
            .map(|id| Vcpu::new(&kvm, &template, (id, cpus), vm.create_vcpu(id)?))
            .collect::<Result<Vec<Vcpu>, KvmError>>()?;
        if require_native {
            probe::run(&mut vcpus[0], &memory)?;
        }
        let exits = vcpus.iter().map(Vcpu::exits).collect();
        let reports = mailbox.clone();
        let sink: EventSink = Arc::new(move |event| reports.report(Happening::Vcpu(event)));
        let vcpus = Vcpus::start(vcpus, &buses, &sink).map_err(StartError::Thread)?;
        let mut parts = Parts {
            vcpus,
            exits,
            resets: Arc::default(),
            buses,
            vm,
            board,
            desktop,
            disks,
            balloon,
            vsock,
            shortages,
            pause: pause::Known::default(),
            memory,
            ram,
            boot,
            identity,
            cpus,
            mailbox,
        };
        let entry = parts.load()?;
        parts.vcpus.prepare(entry).map_err(StartError::Device)?;
        parts.vcpus.run();
        Ok(parts)
    }

    /// Sets the board up, loads what is booted, and tells the guest what it is in.
    fn load(&self) -> Result<Entry, StartError> {
        self.board.preset(&self.buses)?;
        let screen = self.desktop.as_ref().and_then(|d| d.preset(&self.board.root, &self.buses));
        let disks = &self.disks.backends;
        let loaded = boot::load(&self.boot, disks, &self.memory, &self.ram, screen.as_ref())?;
        log::info!("booting {}", loaded.reason);
        let described = acpi::Board {
            cpus: self.cpus,
            ecam: layout::ECAM,
            pm_base: layout::PM_BASE,
            desktop: self.desktop.is_some(),
        };
        let smbios = smbios::build(
            &smbios::Description { identity: &self.identity, cpus: self.cpus, ram: &self.ram },
            layout::SMBIOS,
        );
        self.memory
            .write_slice(&acpi::build(&described, layout::ACPI), GuestAddress(layout::ACPI))
            .and_then(|()| self.memory.write_slice(&smbios, GuestAddress(layout::SMBIOS)))
            .and_then(|()| {
                let generation = &self.identity.generation;
                self.memory.write_slice(generation, GuestAddress(layout::GENERATION))
            })
            .and_then(|()| registers::write_tables(&self.memory, loaded.entry))
            .map_err(BootError::from)?;
        Ok(loaded.entry)
    }

    /// The machine's thread.
    fn serve(mut self) -> ExitReason {
        let reason = loop {
            match decide(self.mailbox.next()) {
                Action::Note(text) => log::warn!("{text}"),
                Action::PressPowerButton => {
                    let heard = self.board.pm.press_power_button();
                    let unheard = match self.pause.is_paused() {
                        true => "; the guest hears of it when the machine goes on",
                        false if heard => "",
                        false => "; the guest does not listen for it yet",
                    };
                    log::info!("power button pressed{unheard}");
                }
                Action::Settle => self.settle(),
                Action::Reset => {
                    log::info!("the machine resets");
                    self.resets.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = self.reset() {
                        break ExitReason::Failed(format!("reset: {error}"));
                    }
                }
                Action::End(reason) => break reason,
            }
        };
        self.mailbox.close();
        self.end(reason)
    }

    /// Pauses the guest while a disk waits for room on the host, and lets it go on after.
    fn settle(&mut self) {
        let now = Pause::new(self.shortages.list());
        let (change, line) = self.pause.update(now, Instant::now());
        match change {
            Change::None => {}
            Change::Pause => self.vcpus.pause(),
            Change::GoOn => self.vcpus.run(),
        }
        if let Some(line) = line {
            log::warn!("{line}");
        }
    }

    /// Resets in place and boots anew.
    fn reset(&mut self) -> Result<(), StartError> {
        self.vcpus.pause();
        self.mailbox.forget_guest();
        // Ends every queue's thread, and with it whatever it waited for.
        self.board.reset(&self.buses);
        self.pause = pause::Known::default();
        self.desktop.iter().for_each(Desktop::reset);
        self.vm.reset_chips()?;
        let entry = self.load()?;
        self.vcpus.prepare(entry).map_err(StartError::Device)?;
        self.vcpus.run();
        Ok(())
    }

    /// Stops everything and flushes the disks; a disk that cannot be flushed is a failure, whatever
    /// else was the reason to end.
    fn end(self, reason: ExitReason) -> ExitReason {
        self.vcpus.pause();
        self.board.reset(&self.buses);
        let mut result = reason;
        for (disk, status) in self.disks.backends.iter().zip(self.disks.statuses.iter()) {
            if let Err(error) = disk.flush() {
                let name = &status.name;
                log::error!("{name} could not be flushed: {error}");
                result = ExitReason::Failed(format!("{name} could not be flushed: {error}"));
            }
        }
        result
    }
}

/// What the types cannot rule out.
fn check(config: &MachineConfig) -> Result<(), StartError> {
    let refuse = |why: String| Err(StartError::Config(why));
    const ALIGN: u64 = 2 << 20;
    const LEAST: u64 = 32 << 20;
    let memory = config.memory_bytes;
    if !(1..=MAX_CPUS).contains(&config.cpus) {
        return refuse(format!("{} vCPUs: 1 to {MAX_CPUS} are possible", config.cpus));
    }
    if memory < LEAST || !memory.is_multiple_of(ALIGN) {
        return refuse(format!(
            "{memory} bytes of memory: at least {LEAST}, in multiples of {ALIGN}, are possible"
        ));
    }
    if let Some(page) = config.hugepages.filter(|page| !memory.is_multiple_of(page.bytes())) {
        return refuse(format!(
            "{memory} bytes of memory are not a multiple of huge pages of {page}"
        ));
    }
    if let Some(display) = config.display.filter(|display| !display.is_possible()) {
        let (least, most) = (DisplayConfig::SIDE_MIN, DisplayConfig::SIDE_MAX);
        return refuse(format!(
            "a screen of {} × {} pixels: {least} to {most} a side are possible, and at most 4194304 in \
             all",
            display.width, display.height
        ));
    }
    if config.disks.len() > resources::DISKS_MAX {
        let count = config.disks.len();
        return refuse(format!("{count} disks: at most {} are possible", resources::DISKS_MAX));
    }
    if config.nics.len() > resources::NICS_MAX {
        let count = config.nics.len();
        return refuse(format!("{count} network interfaces: at most {}", resources::NICS_MAX));
    }
    if let BootConfig::Disk { disk, .. } = config.boot
        && disk >= config.disks.len()
    {
        return refuse(format!("boot disk {disk}, but there are {} disks", config.disks.len()));
    }
    Ok(())
}

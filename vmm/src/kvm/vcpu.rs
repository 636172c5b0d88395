//! vCPU threads: run, stop when told, prepare for a boot, leave.
//!
//! All threads obey one gate. The machine's thread sets the command there, and kicks the threads out
//! of KVM_RUN; a thread at the gate is idle. A reset prepares every vCPU before any runs, so that the
//! boot processor's first interprocessor interrupts find the others waiting for them.
//!
//! ```text
//!           Prepare            Run
//!   Hold ──────────▶ prepared ─────▶ running ──▶ (kick, or a guest event) ──▶ Hold
//!                                       └──────────▶ Leave
//! ```

#![allow(unsafe_code)] // fields of the shared kvm_run page

use std::os::raw::c_int;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use devices::bus::GuestEvent;
use devices::thread;
use kvm_bindings::kvm_run;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::cpuid::Template;
use super::exit::Buses;
use super::exits::{ExitKind, Exits};
use super::registers::{self, PowerOn};
use super::{During, KvmError};
use crate::boot::Entry;

/// What a vCPU thread tells the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuEvent {
    /// The guest asks for something; but for [`GuestEvent::CrashLoaded`] the vCPU waits.
    Guest(GuestEvent),
    /// A triple fault.
    TripleFault,
    /// KVM cannot go on; the text says why.
    Failed(String),
}

/// Receives events, on vCPU threads; must not block.
pub type EventSink = Arc<dyn Fn(VcpuEvent) + Send + Sync>;

/// One vCPU.
pub struct Vcpu {
    id: u32,
    fd: VcpuFd,
    page: RunPage,
    power_on: PowerOn,
    exits: Arc<Exits>,
    /// It has run since it was last reset.
    used: bool,
    physical_bits: u32,
}

/// The page that KVM shares with user space: where exits are described.
struct RunPage(*mut kvm_run);

// SAFETY: the page belongs to the VcpuFd beside it, which is moved together with it and outlives
// every use; its fields are plain memory, and the one used from another thread is used atomically.
unsafe impl Send for RunPage {}

impl RunPage {
    /// Width of the port accesses of the last exit, in bytes.
    fn io_size(&self) -> usize {
        // SAFETY: the page is mapped as long as the vCPU is; after a port exit `io` is the live member.
        unsafe { usize::from((*self.0).__bindgen_anon_1.io.size) }
    }

    /// KVM's number for an internal error.
    fn internal_error(&self) -> u32 {
        // SAFETY: as above; after an internal error `internal` is the live member.
        unsafe { (*self.0).__bindgen_anon_1.internal.suberror }
    }

    fn immediate_exit(&self) -> ImmediateExit {
        // SAFETY: only the address of a field of the mapped page is taken.
        ImmediateExit(unsafe { &raw mut (*self.0).immediate_exit })
    }
}

/// The flag that makes KVM_RUN return at once.
#[derive(Clone, Copy)]
struct ImmediateExit(*mut u8);

// SAFETY: the flag is only accessed atomically, and only while the vCPU it belongs to exists.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn set(self, value: u8) {
        // SAFETY: the byte is mapped (see the type), aligned as any byte, and shared with the kernel
        // only, which reads it as a whole.
        unsafe { AtomicU8::from_ptr(self.0) }.store(value, Ordering::SeqCst);
    }
}

impl Vcpu {
    /// Takes a new vCPU of `cpus`, and gives it its CPUID.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn new(
        kvm: &Kvm,
        template: &Template,
        (id, cpus): (u32, u32),
        mut fd: VcpuFd,
    ) -> Result<Vcpu, KvmError> {
        fd.set_cpuid2(&template.of(id, cpus)).during("setting CPUID")?;
        let page = RunPage(fd.get_kvm_run());
        let power_on = PowerOn::read(kvm, &fd)?;
        let physical_bits = template.physical_bits();
        Ok(Vcpu { id, fd, page, power_on, exits: Arc::default(), used: false, physical_bits })
    }

    /// KVM's handle.
    pub fn fd(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// What its thread counts.
    pub fn exits(&self) -> Arc<Exits> {
        self.exits.clone()
    }

    /// KVM's number for the internal error that was the last exit.
    pub fn internal_error(&self) -> u32 {
        self.page.internal_error()
    }

    /// Back to power-on, and on the boot processor to the kernel's entry point.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn prepare(&mut self, entry: Entry) -> Result<(), KvmError> {
        if std::mem::replace(&mut self.used, true) {
            self.power_on.restore(&self.fd)?;
        }
        registers::as_firmware_leaves_them(&self.fd, self.physical_bits)?;
        if self.id == 0 {
            registers::enter(&self.fd, entry)?;
        }
        Ok(())
    }

    /// Tells a guest that has its clock from KVM that it stood still: its watchdogs then do not take
    /// that for a hang.
    fn note_pause(&self) {
        // Refused until the guest has set up such a clock, and by kernels without.
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Runs guest code until a kick (`None`) or something the machine must know of.
    fn run(&mut self, buses: &Buses, sink: &EventSink) -> Option<VcpuEvent> {
        loop {
            let outcome = self.fd.run();
            self.exits.count(ExitKind::of(&outcome));
            let event = match outcome {
                Ok(VcpuExit::IoIn(port, data)) => {
                    buses.port_in(port, self.page.io_size(), data);
                    None
                }
                Ok(VcpuExit::IoOut(port, data)) => {
                    buses.port_out(port, self.page.io_size(), data).map(VcpuEvent::Guest)
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    buses.mmio_read(address, data);
                    None
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    buses.mmio_write(address, data).map(VcpuEvent::Guest)
                }
                Ok(VcpuExit::Shutdown) => Some(VcpuEvent::TripleFault),
                Ok(VcpuExit::Intr) => return None,
                Ok(VcpuExit::InternalError) => Some(self.stuck("internal error")),
                Ok(other) => {
                    let exit = format!("{other:?}");
                    Some(self.stuck(&exit))
                }
                Err(error) if error.errno() == libc::EINTR => return None,
                Err(error) if error.errno() == libc::EAGAIN => None,
                Err(error) => {
                    Some(VcpuEvent::Failed(format!("vCPU {}: KVM_RUN: {error}", self.id)))
                }
            };
            match event {
                None => {}
                Some(VcpuEvent::Guest(GuestEvent::CrashLoaded)) => {
                    sink(VcpuEvent::Guest(GuestEvent::CrashLoaded));
                }
                Some(event) => return Some(event),
            }
        }
    }

    /// What is known of an exit that nothing can be done about.
    fn stuck(&self, exit: &str) -> VcpuEvent {
        let at = self.fd.get_regs().map_or(0, |regs| regs.rip);
        let number = self.page.internal_error();
        VcpuEvent::Failed(format!("vCPU {}: {exit} (suberror {number}) at rip {at:#x}", self.id))
    }
}

/// What the threads are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Hold,
    Prepare { generation: u64, entry: Entry },
    Run,
    Leave,
}

struct GateState {
    command: Command,
    /// Threads that wait here.
    idle: usize,
    /// Threads that have answered the current Prepare.
    prepared: usize,
    /// Threads that have not ended.
    alive: usize,
    failure: Option<String>,
}

struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().expect("the gate's lock is never held in a panic")
    }

    /// Waits for something to do. `prepared` is the generation this thread last prepared for.
    fn next(&self, prepared: &mut u64, immediate_exit: ImmediateExit) -> Command {
        let mut state = self.lock();
        state.idle += 1;
        self.changed.notify_all();
        let command = loop {
            // Whoever changes the command kicks after it: a kick is never cleared unseen.
            immediate_exit.set(0);
            match state.command {
                Command::Prepare { generation, .. } if generation == *prepared => {}
                Command::Hold => {}
                command => break command,
            }
            state = self.changed.wait(state).expect("the gate's lock is never held in a panic");
        };
        if let Command::Prepare { generation, .. } = command {
            *prepared = generation;
        }
        state.idle -= 1;
        command
    }

    /// Waits, as idle, until the command is no longer Run: what was asked for has been taken up.
    fn hold(&self) {
        let mut state = self.lock();
        state.idle += 1;
        self.changed.notify_all();
        while state.command == Command::Run {
            state = self.changed.wait(state).expect("the gate's lock is never held in a panic");
        }
        state.idle -= 1;
    }

    fn wait_until(&self, mut done: impl FnMut(&GateState) -> bool) -> MutexGuard<'_, GateState> {
        let mut state = self.lock();
        while !done(&state) {
            state = self.changed.wait(state).expect("the gate's lock is never held in a panic");
        }
        state
    }
}

/// All vCPUs of a machine, each on its thread.
pub struct Vcpus {
    gate: Arc<Gate>,
    threads: Vec<Thread>,
    generation: u64,
}

struct Thread {
    handle: Option<thread::Thread<()>>,
    immediate_exit: ImmediateExit,
    /// Held so that the flag above stays mapped, whatever became of the thread.
    _vcpu: Arc<Mutex<Vcpu>>,
}

impl Vcpus {
    /// Starts a thread for each vCPU; they wait to be prepared.
    ///
    /// # Errors
    /// When a thread or the kick's signal handler cannot be had.
    pub fn start(
        vcpus: Vec<Vcpu>,
        buses: &Arc<Buses>,
        sink: &EventSink,
    ) -> Result<Vcpus, std::io::Error> {
        register_signal_handler(kick_signal(), kicked)?;
        let alive = vcpus.len();
        let state =
            GateState { command: Command::Hold, idle: 0, prepared: 0, alive, failure: None };
        let gate = Arc::new(Gate { state: Mutex::new(state), changed: Condvar::new() });
        let mut all = Vcpus { gate, threads: Vec::new(), generation: 0 };
        for vcpu in vcpus {
            let name = format!("vcpu{}", vcpu.id);
            let immediate_exit = vcpu.page.immediate_exit();
            let vcpu = Arc::new(Mutex::new(vcpu));
            let body = Body {
                gate: all.gate.clone(),
                vcpu: vcpu.clone(),
                buses: buses.clone(),
                sink: sink.clone(),
                immediate_exit,
            };
            let handle = thread::start(&name, move || body.obey());
            match handle {
                Ok(handle) => {
                    all.threads.push(Thread { handle: Some(handle), immediate_exit, _vcpu: vcpu });
                }
                Err(error) => {
                    all.gate.lock().alive = all.threads.len();
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// Stops guest code: every vCPU is idle when this returns.
    pub fn pause(&self) {
        self.command(Command::Hold);
        drop(self.gate.wait_until(|state| state.idle >= state.alive));
    }

    /// Resets every vCPU, and points the first at `entry`. They must be paused.
    ///
    /// # Errors
    /// What KVM refused, in words.
    pub fn prepare(&mut self, entry: Entry) -> Result<(), String> {
        self.generation += 1;
        {
            let mut state = self.gate.lock();
            state.prepared = 0;
            state.command = Command::Prepare { generation: self.generation, entry };
        }
        self.gate.changed.notify_all();
        let mut state = self.gate.wait_until(|state| state.prepared >= state.alive);
        state.command = Command::Hold;
        state.failure.take().map_or(Ok(()), Err)
    }

    /// Lets guest code run.
    pub fn run(&self) {
        self.command(Command::Run);
    }

    fn command(&self, command: Command) {
        self.gate.lock().command = command;
        self.gate.changed.notify_all();
        if command != Command::Run {
            for thread in &self.threads {
                thread.immediate_exit.set(1);
                let handle = thread.handle.as_ref().map(thread::Thread::handle);
                if let Some(handle) = handle
                    && !handle.is_finished()
                {
                    // It fails only for a thread that has just ended.
                    let _ = handle.kill(kick_signal());
                }
            }
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.command(Command::Leave);
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                // A panic there was reported when it happened.
                let _ = handle.join();
            }
        }
    }
}

/// The signal that interrupts KVM_RUN.
fn kick_signal() -> c_int {
    SIGRTMIN()
}

/// Nothing to do: that the signal is handled is what ends KVM_RUN.
extern "C" fn kicked(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// What a vCPU's thread works with.
struct Body {
    gate: Arc<Gate>,
    vcpu: Arc<Mutex<Vcpu>>,
    buses: Arc<Buses>,
    sink: EventSink,
    immediate_exit: ImmediateExit,
}

impl Body {
    fn obey(self) {
        let _end = EndReport(&self);
        let mut vcpu = self.vcpu.lock().expect("only this thread ever takes the lock");
        let mut prepared = 0;
        loop {
            match self.gate.next(&mut prepared, self.immediate_exit) {
                Command::Hold => {}
                Command::Prepare { entry, .. } => {
                    let result = vcpu.prepare(entry);
                    let mut state = self.gate.lock();
                    state.prepared += 1;
                    if let Err(error) = result {
                        state.failure.get_or_insert(format!("{error}"));
                    }
                    drop(state);
                    self.gate.changed.notify_all();
                }
                Command::Run => {
                    vcpu.note_pause();
                    if let Some(event) = vcpu.run(&self.buses, &self.sink) {
                        (self.sink)(event);
                        self.gate.hold();
                    }
                }
                Command::Leave => return,
            }
        }
    }
}

/// Tells the machine when a vCPU's thread ends by a panic, so that nobody waits for it.
struct EndReport<'a>(&'a Body);

impl Drop for EndReport<'_> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.gate.state.lock() {
            state.alive -= 1;
        }
        self.0.gate.changed.notify_all();
        if std::thread::panicking() {
            let name = std::thread::current().name().unwrap_or("a vCPU").to_owned();
            (self.0.sink)(VcpuEvent::Failed(format!("{name}: its thread panicked")));
        }
    }
}

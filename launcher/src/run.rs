//! `berth run`: the story in order: prepare, boot, serve, shut down.
//!
//! Until the machine has started nothing lasts: what was made on the way is removed again. Runs on
//! the main thread.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use devices::thread;
use vmm::config::{
    BootConfig, DiskConfig, DiskEngine, DiskLimits, DisplayConfig, Identity as BoardIdentity,
    MachineConfig,
};

use crate::api::control::Control as ControlSocket;
use crate::args::RunArgs;
use crate::balloon::Pressure;
use crate::config::{self, Boot, ConsoleMode, Layers, Plan, Root, show_mac};
use crate::config_drive;
use crate::config_drive::disk::MemoryDisk;
use crate::config_drive::documents::GuestFacts;
use crate::console::SerialConsole;
use crate::exit::{self, Ending};
use crate::failure::{Failure, sentence};
use crate::host::Host;
use crate::hugepages;
use crate::image::base::Cancelled;
use crate::image::generation::{Generation, Seen};
use crate::image::identity::Identity;
use crate::image::{Created, Store, fetch, overlay};
use crate::interface::{self, Facts, Outside};
use crate::machine::{Control, MachineEnd, start_machine};
use crate::nic::{self, Network};
use crate::program;
use crate::sandbox::files::Files;
use crate::sandbox::{self, Sandbox};
use crate::screen;
use crate::shutdown::{Action, Shutdown};
use crate::signals::Signals;
use crate::terminal::{GREETING, HELP, Input, InputTo, RawMode, Wish};
use crate::vsock;

/// Serial number of the config drive's disk.
const DRIVE_SERIAL: &str = "config-2";
/// Lines of the serial console in the report.
const REPORT_LINES: usize = 64;
/// How long whoever reads the console may take for the rest of it.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(2);

/// Runs a machine from beginning to end; answers the exit status.
pub fn run(args: &RunArgs) -> u8 {
    let layers = || {
        let layers = Layers::gather(args.config.as_deref(), &args.settings)?;
        let (form, _) = config::log_settings(&layers)?;
        // Before there is any thread, the log's included.
        let begun = sandbox::begin(config::sandbox(&layers)?, form);
        begun.map_err(|error| Failure::new(&error, exit::ERROR))?;
        Ok(layers)
    };
    program::with_log(layers, logged)
}

/// The story, with a log to tell it to.
fn logged(layers: &Layers, signals: Signals) -> Result<u8, Failure> {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    for warning in config::ignored_variables(is_set) {
        log::warn!("{warning}");
    }
    let host = Host::gather(|name| std::env::var_os(name));
    let plan = config::plan(layers, &host)?;
    for warning in &plan.warnings {
        log::warn!("{warning}");
    }
    let console = match plan.console {
        ConsoleMode::None => Ok(SerialConsole::silent()),
        ConsoleMode::Auto | ConsoleMode::Stdio => SerialConsole::on_stdout(),
    };
    let console = Arc::new(console.map_err(|error| Failure::new(&error, exit::ERROR))?);
    let enough = hugepages::check(&plan, &host);
    let outcome = enough.and_then(|()| live(&plan, &console, signals));
    console.finish(CONSOLE_PATIENCE);
    if console.dropped() > 0 {
        log::warn!("{} bytes of console were dropped: nobody read them", console.dropped());
    }
    let (status, reason) = match &outcome {
        Ok(ending) if ending.is_unhappy() => {
            log::error!("{ending}");
            (ending.status(), ending.to_string())
        }
        Ok(ending) => {
            log::info!("{ending}");
            return Ok(ending.status());
        }
        Err(failure) => (failure.status, failure.sentence.clone()),
    };
    if let Some(path) = &plan.termination_log
        && let Err(error) = exit::report(path, &reason, &console.last_lines(REPORT_LINES))
    {
        log::warn!("the report cannot be written to {}: {error}", path.display());
    }
    outcome.map(|_| status)
}

/// From nothing to the machine's end. Whatever may fail on our side is done before it starts: from
/// then on there is a disk to be flushed.
fn live(plan: &Plan, console: &Arc<SerialConsole>, signals: Signals) -> Result<Ending, Failure> {
    let error = |error: &(dyn Error + 'static)| Failure::new(error, exit::ERROR);
    let socket = interface::bind(plan)?;
    let vsock = plan.vsock.as_ref().map(vsock::bind).transpose().map_err(|e| error(&e))?;
    let (vsock, device) = vsock.unzip();
    let Ready { mut config, created, mut network, screen } = prepare(plan, console, &signals)?;
    config.vsock = device;
    // Its files are written to, so they are opened before there is a sandbox.
    let asks = plan.balloon.is_some() && plan.hugepages.is_none();
    let pressure = asks.then(|| Pressure::open(Path::new("/")));
    let sandbox = confine(plan, socket.as_ref(), network.as_mut(), &created)?;
    if let Some(network) = &mut network {
        network.serve()?;
    }
    let facts = Facts::gather(&config, network.as_ref());
    let (tell, events) = sync_channel(16);
    let watch = {
        let tell = tell.clone();
        signals.watch(move |signal| offer(&tell, signal.to_string())).map_err(|e| error(&e))?
    };
    let waiter = start_waiter(tell.clone()).map_err(|e| error(&e))?;
    let started = start_machine(config).map_err(|e| error(&e))?;
    created.keep();
    log::info!("{} is running", plan.name);
    // The waiter is there: it does nothing but receive this.
    drop(waiter.send(started.wait));
    let balloon = started.control.balloon().zip(pressure);
    let balloon = balloon.map(|(balloon, pressure)| pressure.drive(balloon));
    let stopping = Arc::new(AtomicBool::new(false));
    let outside = Outside {
        plan,
        facts,
        console,
        control: Arc::clone(&started.control),
        off: stop_at_once(&tell),
        stopping: Arc::clone(&stopping),
    };
    let shown = interface::show(outside, &started.face, (socket, screen));
    if let Err(error) = sandbox.map_or(Ok(()), Sandbox::settle) {
        // The machine runs, and this thread is confined as far as the process is.
        log::error!("{}", sentence(&error));
    }
    let ending = serve(&started.control, plan, tell, (&events, &stopping));
    drop((shown, balloon));
    drop(watch);
    // As it was found, now that nobody uses it any more.
    drop((network, vsock));
    Ok(ending)
}

/// Gives up what the machine does not need: everything is open.
fn confine(
    plan: &Plan,
    socket: Option<&ControlSocket>,
    network: Option<&mut Network>,
    created: &Created,
) -> Result<Option<Sandbox>, Failure> {
    if !sandbox::is_begun() {
        return Ok(None);
    }
    let mut resolvers: &[&str] = &[];
    if let Some(network) = network {
        network.entrust()?;
        resolvers = network.files();
    }
    let files = Files::of(plan, socket.map(ControlSocket::path), resolvers, created);
    let entered = Sandbox::enter(&files, plan.termination_log.as_deref());
    entered.map_err(|error| Failure::new(&error, exit::ERROR))
}

/// What is there before the machine starts.
struct Ready {
    config: MachineConfig,
    created: Created,
    /// Stays while the machine runs.
    network: Option<Network>,
    screen: Option<screen::Prepared>,
}

/// Everything the machine is made of.
fn prepare(plan: &Plan, console: &Arc<SerialConsole>, signals: &Signals) -> Result<Ready, Failure> {
    // Read first: a mistake in them must be found before anything is made.
    let sources = config_drive::read(&plan.cloud)?;
    let screen = screen::prepare(plan)?;
    if let Some(wanted) = &plan.fetch {
        // Before the machine has a place: fetching takes time, and others may want theirs.
        let fetched = fetch::fetch(&plan.image_dir, wanted, &|| signals.asked());
        fetched.map_err(|error| Failure::new(&error, exit::ERROR))?;
    }
    let place = Place::open(plan)?;
    let nic = nic::attach(plan, plan.network.mac.unwrap_or(place.identity.mac))?;
    let facts = GuestFacts {
        uuid: place.identity.uuid.to_string(),
        name: plan.name.clone(),
        mac: nic.as_ref().map(|nic| show_mac(nic.config.mac)),
    };
    let drive = config_drive::build(&sources, &facts)?;
    let disks = place.disks(plan, drive, &|| signals.asked())?;
    let generation = disks.identity.generation.as_ref();
    let (nic, network) = nic.map_or((None, None), |nic| (Some(nic.config), Some(nic.network)));
    let config = MachineConfig {
        cpus: plan.cpus,
        memory_bytes: plan.memory_bytes,
        hugepages: plan.hugepages,
        boot: boot(&plan.boot),
        disks: disks.disks,
        nics: nic.into_iter().collect(),
        // Nobody would see it without: a guest draws faster on none.
        display: plan.vnc.as_ref().map(|_| DisplayConfig {
            width: plan.display.width.into(),
            height: plan.display.height.into(),
        }),
        balloon: plan.balloon,
        vsock: None,
        console: console.clone(),
        identity: BoardIdentity {
            uuid: disks.identity.uuid.into_bytes(),
            serial: disks.identity.uuid.to_string(),
            generation: generation.map(|it| it.id.to_bytes_le()).unwrap_or_default(),
        },
        require_native_kvm: true,
    };
    Ok(Ready { config, created: disks.created, network, screen })
}

/// The machine's place in the image directory, and who it is.
struct Place {
    /// `None`: a machine without a root disk keeps nothing, and is a new one at each start.
    store: Option<Store>,
    identity: Identity,
}

struct Disks {
    disks: Vec<DiskConfig>,
    identity: Identity,
    created: Created,
}

impl Place {
    fn open(plan: &Plan) -> Result<Self, Failure> {
        if plan.root == Root::None {
            return Ok(Self { store: None, identity: Identity::new() });
        }
        let error = |error: crate::image::ImageError| Failure::new(&error, exit::ERROR);
        let store = Store::open(&plan.image_dir, &plan.name).map_err(error)?;
        let identity = store.identity().map_err(error)?;
        Ok(Self { store: Some(store), identity })
    }

    /// Opens the root disk, the further disks, and last the config drive, so that the root disk is
    /// the first a guest finds.
    fn disks(
        mut self,
        plan: &Plan,
        drive: Vec<u8>,
        cancelled: Cancelled<'_>,
    ) -> Result<Disks, Failure> {
        let error = |error: crate::image::ImageError| Failure::new(&error, exit::ERROR);
        let (mut disks, cache) = (Vec::new(), plan.table_cache);
        match (&plan.root, &mut self.store) {
            (Root::Image(image), Some(store)) => {
                let identity = &mut self.identity;
                let root = overlay::open_root(store, image, cache, identity, cancelled);
                disks.push(root.map_err(error)?);
            }
            (Root::Device(disk), Some(store)) => {
                disks.push(overlay::open_disk(disk, cache).map_err(error)?);
                store.keep_identity(&self.identity).map_err(error)?;
            }
            _ => {}
        }
        for disk in &plan.disks {
            disks.push(overlay::open_disk(disk, cache).map_err(error)?);
        }
        disks.push(DiskConfig {
            backend: Arc::new(MemoryDisk::new(drive)),
            serial: DRIVE_SERIAL.to_owned(),
            queues: 1,
            engine: DiskEngine::Sync,
            name: "the config drive".to_owned(),
            limits: DiskLimits::default(),
        });
        self.set_generation(plan);
        // The directory's lock ends here; the overlay has its own.
        let created = self.store.map(|mut store| std::mem::take(&mut store.created));
        Ok(Disks { disks, identity: self.identity, created: created.unwrap_or_default() })
    }
}

impl Place {
    /// Finds out of which generation the disk is. It is no reason not to start if that cannot be kept:
    /// the next start then takes it for another one.
    fn set_generation(&mut self, plan: &Plan) {
        let disk = match (&plan.root, &self.store) {
            (Root::Image(_), Some(store)) => Seen::of(&store.overlay_path()).ok(),
            _ => None,
        };
        let before = self.identity.generation.as_ref();
        self.identity.generation = Some(Generation::next(before, plan.generation, disk));
        let kept = self.store.as_mut().map(|store| store.keep_identity(&self.identity));
        if let Some(Err(error)) = kept {
            log::warn!("the generation of the disk is not kept: {error}");
        }
    }
}

fn boot(boot: &Boot) -> BootConfig {
    match boot {
        Boot::Disk { cmdline_extra } => {
            BootConfig::Disk { disk: 0, cmdline_extra: cmdline_extra.clone() }
        }
        Boot::Kernel { kernel, initrd, cmdline } => BootConfig::Kernel {
            // Opened again at every reset, wherever this process is by then.
            kernel: absolute(kernel),
            initrd: initrd.as_deref().map(absolute),
            cmdline: cmdline.clone(),
        },
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What the main thread waits for.
enum Event {
    /// Somebody asks for the end: who.
    Shutdown(String),
    /// Somebody asks for the end now, whatever the guest does.
    Stop,
    /// The machine has ended.
    Ended(MachineEnd),
}

/// Waits for the machine's end.
type Wait = Box<dyn FnOnce() -> MachineEnd + Send>;

/// Starts the thread that waits for a machine and tells of its end.
fn start_waiter(tell: SyncSender<Event>) -> io::Result<SyncSender<Wait>> {
    let (give, given) = sync_channel::<Wait>(1);
    let run = move || {
        // Without a machine, the sender is dropped.
        if let Ok(wait) = given.recv() {
            // Were a bug to end this thread silently, nobody would ever hear of the end.
            let end = catch_unwind(AssertUnwindSafe(wait));
            let end = end.unwrap_or_else(|_| MachineEnd::Failed("a bug in berth".to_owned()));
            send(&tell, Event::Ended(end));
        }
    };
    thread::start("wait", run)?;
    Ok(give)
}

/// From the start of the machine to its end: joins it to the terminal, and waits.
fn serve(
    control: &Arc<dyn Control>,
    plan: &Plan,
    tell: SyncSender<Event>,
    (events, stopping): (&Receiver<Event>, &AtomicBool),
) -> Ending {
    let raw = match plan.console {
        ConsoleMode::None => None,
        ConsoleMode::Auto | ConsoleMode::Stdio => RawMode::enter(io::stdin()).unwrap_or_else(|e| {
            log::warn!("the terminal cannot be put in raw mode: {e}");
            None
        }),
    };
    let wanted = raw.is_some() || plan.console == ConsoleMode::Stdio;
    let carrier = wanted.then(|| input(raw.is_some(), Arc::clone(control), tell));
    match &carrier {
        Some(Ok(_)) if raw.is_some() => log::info!("{GREETING}"),
        Some(Err(error)) => log::warn!("there is no console input: {error}"),
        _ => {}
    }
    let ending = supervise(&**control, (events, stopping), Shutdown::new(plan.stop_timeout));
    drop(carrier);
    drop(raw);
    ending
}

/// Passes a request on, but never waits: the sending thread is joined while nobody receives, and of
/// sixteen requests the last adds nothing.
fn offer(tell: &SyncSender<Event>, who: String) {
    drop(tell.try_send(Event::Shutdown(who)));
}

/// What asks for the end now.
fn stop_at_once(tell: &SyncSender<Event>) -> Box<dyn Fn() + Send + Sync> {
    let tell = tell.clone();
    Box::new(move || drop(tell.try_send(Event::Stop)))
}

/// The receiver is gone when the end is known, and then nothing matters any more.
fn send(tell: &SyncSender<Event>, event: Event) {
    drop(tell.send(event));
}

/// Carries standard input to the guest.
fn input(escape: bool, control: Arc<dyn Control>, tell: SyncSender<Event>) -> io::Result<Input> {
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let wish = move |wish| match wish {
        Wish::Help => log::info!("{HELP}"),
        Wish::Quit => offer(&tell, "the user at the terminal".to_owned()),
    };
    let guest = move |bytes: &[u8]| control.console_input(bytes);
    Input::start(stdin, InputTo { guest: Box::new(guest), wish: Box::new(wish), escape })
}

/// Waits for the end, and sees to it when it is asked for; `stopping` says that it was.
fn supervise(
    control: &dyn Control,
    (events, stopping): (&Receiver<Event>, &AtomicBool),
    mut shutdown: Shutdown,
) -> Ending {
    let asked = |what: &str, outcome: Result<(), vmm::Refused>| {
        if let Err(refused) = outcome {
            log::debug!("{what}: {refused}");
        }
    };
    loop {
        let event = match shutdown.deadline() {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => {
                events.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
        };
        let action = match event {
            Ok(Event::Ended(end)) => return shutdown.on_end(end),
            Ok(Event::Shutdown(who)) => {
                log::info!("{who} asks for the end");
                stopping.store(true, Ordering::Relaxed);
                shutdown.on_request(Instant::now())
            }
            Ok(Event::Stop) => {
                log::info!("the end is asked for, at once");
                stopping.store(true, Ordering::Relaxed);
                shutdown.on_stop(Instant::now())
            }
            Err(RecvTimeoutError::Timeout) => shutdown.on_time(Instant::now()),
            // The waiting thread always sends before it ends.
            Err(RecvTimeoutError::Disconnected) => {
                return Ending::Failed("nobody waits for it any more".to_owned());
            }
        };
        match action {
            Action::Wait => {}
            Action::PowerButton => {
                log::info!("pressing the power button");
                asked("power button", control.power_button());
            }
            Action::Stop => {
                log::warn!("stopping the machine");
                asked("stop", control.stop());
            }
            Action::Leave(ending) => return ending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Remembers what it was asked.
    #[derive(Default)]
    struct Fake {
        asked: Mutex<Vec<&'static str>>,
        /// Told when it is stopped, and, if it obeys, when its button is pressed.
        end: Mutex<Option<SyncSender<Event>>>,
        obeys: bool,
    }

    impl Control for Fake {
        fn power_button(&self) -> Result<(), vmm::Refused> {
            self.asked.lock().unwrap().push("button");
            if self.obeys {
                send(
                    self.end.lock().unwrap().as_ref().unwrap(),
                    Event::Ended(MachineEnd::PoweredOff),
                );
            }
            Ok(())
        }

        fn reset(&self) -> Result<(), vmm::Refused> {
            Err(vmm::Refused::Busy)
        }

        fn stop(&self) -> Result<(), vmm::Refused> {
            self.asked.lock().unwrap().push("stop");
            send(self.end.lock().unwrap().as_ref().unwrap(), Event::Ended(MachineEnd::Stopped));
            Ok(())
        }

        fn console_input(&self, bytes: &[u8]) -> usize {
            bytes.len()
        }

        fn paused(&self) -> Option<String> {
            None
        }

        fn disks(&self) -> Vec<crate::machine::DiskCounts> {
            Vec::new()
        }

        fn counts(&self) -> crate::machine::Counts {
            Default::default()
        }
    }

    fn supervised(obeys: bool, timeout: Duration, requests: usize) -> (Ending, Vec<&'static str>) {
        let (tell, events) = sync_channel(16);
        let fake = Fake { obeys, end: Mutex::new(Some(tell.clone())), ..Fake::default() };
        for _ in 0..requests {
            send(&tell, Event::Shutdown("a test".into()));
        }
        let stopping = AtomicBool::new(false);
        let ending = supervise(&fake, (&events, &stopping), Shutdown::new(timeout));
        assert!(stopping.into_inner());
        (ending, fake.asked.into_inner().unwrap())
    }

    #[test]
    fn a_guest_that_obeys_powers_off() {
        let long = Duration::from_secs(600);
        assert_eq!(supervised(true, long, 1), (Ending::PoweredOff, vec!["button"]));
    }

    #[test]
    fn a_guest_that_does_not_is_stopped_in_time() {
        let short = Duration::from_millis(20);
        let (ending, asked) = supervised(false, short, 1);
        assert_eq!((ending, asked), (Ending::TimedOut(short), vec!["button", "stop"]));
    }

    #[test]
    fn two_requests_stop_at_once() {
        let long = Duration::from_secs(600);
        let (ending, asked) = supervised(false, long, 2);
        assert_eq!((ending, asked), (Ending::StoppedAtOnce, vec!["button", "stop"]));
    }

    #[test]
    fn a_waiter_that_died_is_noticed() {
        let (tell, events) = sync_channel::<Event>(1);
        drop(tell);
        let ending = supervise(
            &Fake::default(),
            (&events, &AtomicBool::new(false)),
            Shutdown::new(Duration::ZERO),
        );
        assert!(matches!(ending, Ending::Failed(_)));
    }

    #[test]
    fn the_waiter_tells_of_every_end() {
        let waits: [Wait; 2] =
            [Box::new(|| MachineEnd::PoweredOff), Box::new(|| panic!("on purpose"))];
        for (wait, want) in waits.into_iter().zip([0, 5]) {
            let (tell, events) = sync_channel(1);
            start_waiter(tell).unwrap().send(wait).unwrap();
            let ending = supervise(
                &Fake::default(),
                (&events, &AtomicBool::new(false)),
                Shutdown::new(Duration::ZERO),
            );
            assert_eq!(ending.status(), want, "{ending}");
        }
        // No machine: the thread ends, and with it its way to tell.
        let (tell, events) = sync_channel(1);
        drop(start_waiter(tell).unwrap());
        assert!(events.recv().is_err());
    }
}

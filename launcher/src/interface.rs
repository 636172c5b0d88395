//! Joins a running machine to its interface for the outside: the control socket, the screen's port, and
//! what [`crate::api`] asks of it, which [`crate::running`] answers.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use devices::display::Picture;
use vmm::config::{HugePage, MachineConfig};

use crate::api::auth::{self, Passwords};
use crate::api::control::{Control as ControlSocket, Served};
use crate::api::status::{DiskStatus, NicStatus, Status, VsockStatus};
use crate::api::{Api, Parts, Shutter, place};
use crate::config::{Plan, show_mac};
use crate::console::SerialConsole;
use crate::exit;
use crate::failure::{Failure, sentence};
use crate::machine::{Control, Face};
use crate::metrics::procfs::Procfs;
use crate::nic::{self, Network};
use crate::ready::{self, Readiness};
use crate::running::{Running, Start};
use crate::screen::{self, Prepared, Screen};
use crate::serial_screen::line::SerialLine;
use crate::server::guard::{self, Guard};
use crate::vnc::hub::Hub;

/// How long a picture may take to be painted.
const PAINTER_PATIENCE: Duration = Duration::from_secs(10);

/// What does not change while the machine runs.
pub struct Facts {
    start: Start,
    disks: Vec<DiskStatus>,
    nics: Vec<NicStatus>,
    network: ready::Network,
    nic: Option<Arc<nic::Meter>>,
}

impl Facts {
    /// Of a machine that is about to be started.
    pub fn gather(config: &MachineConfig, network: Option<&Network>) -> Self {
        let disk = |disk: &vmm::config::DiskConfig| {
            let info = disk.backend.info();
            let serial = disk.serial.clone();
            DiskStatus {
                serial,
                size_bytes: info.capacity,
                read_only: info.read_only,
                name: disk.name.clone(),
                errors: 0,
                waits_for_room: false,
            }
        };
        let guest = network.and_then(Network::guest);
        let v4 = guest.and_then(|guest| guest.v4.as_ref()).map(|v4| IpAddr::from(v4.address));
        let v6 = guest.and_then(|guest| guest.v6.as_ref()).map(|v6| IpAddr::from(v6.address));
        let addresses: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
        let nic = |nic: &vmm::config::NicConfig| NicStatus {
            mac: show_mac(nic.mac),
            mtu: nic.mtu,
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            leased: Vec::new(),
        };
        let nic_meter = network.map(Network::meter);
        let leases = nic_meter.as_ref().and_then(|meter| meter.dhcp().cloned());
        Self {
            start: Start::now(),
            disks: config.disks.iter().map(disk).collect(),
            nics: config.nics.iter().map(nic).collect(),
            network: ready::Network { leases, addresses },
            nic: nic_meter,
        }
    }
}

/// Binds the control socket: where it was asked for, or else in the first place that will do. Unless
/// it was asked for, a machine runs without one rather than not at all: another of its name may have
/// its place, with disks of its own.
///
/// # Errors
/// It cannot be had where it was asked for.
pub fn bind(plan: &Plan) -> Result<Option<ControlSocket>, Failure> {
    if let Some(path) = &plan.control {
        let bound = ControlSocket::bind(path);
        return bound.map(Some).map_err(|error| Failure::new(&error, exit::ERROR));
    }
    let mut why = String::new();
    for directory in place::directories(|name| std::env::var_os(name)) {
        if let Err(error) = place::prepare(&directory) {
            why = format!("{}: {error}", directory.display());
            continue;
        }
        match ControlSocket::bind(&directory.join(place::file_name(&plan.name))) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) => why = sentence(&error),
        }
        break;
    }
    log::warn!("berth status and its like will not find this machine: {why}");
    Ok(None)
}

/// What the interface is made of.
pub struct Outside<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The machine's facts.
    pub facts: Facts,
    /// Its serial console.
    pub console: &'a SerialConsole,
    /// Its handle.
    pub control: Arc<dyn Control>,
    /// Asks for its end, at once.
    pub off: Box<dyn Fn() + Send + Sync>,
    /// Whether its end was asked for.
    pub stopping: Arc<AtomicBool>,
}

/// What is served of a machine. Dropping it ends that.
pub struct Shown {
    _screen: Option<Screen>,
    _socket: Option<Served>,
}

/// Serves what can be of a machine with this face: through the control socket, and on the screen's
/// port. Nothing is in the way of the machine if something cannot.
pub fn show(
    outside: Outside<'_>,
    face: &Face,
    (socket, port): (Option<ControlSocket>, Option<Prepared>),
) -> Shown {
    let hub = SerialLine::new(outside.console.history(), Arc::clone(&outside.control))
        .and_then(|line| screen::hub(&outside.plan.name, face, line))
        .inspect_err(|error| log::error!("nobody can see the screen: {error}"));
    let hub = hub.ok().map(Arc::new);
    let api = match api(outside, hub.clone(), port.as_ref()) {
        Ok(api) => api,
        Err(error) => {
            log::error!("nobody can ask for this machine's state: {error}");
            return Shown { _screen: None, _socket: None };
        }
    };
    Shown {
        _socket: socket.and_then(|socket| open(socket, Arc::clone(&api))),
        _screen: port.zip(hub).and_then(|(port, hub)| port.serve(hub, api)),
    }
}

/// The interface, for the control socket and the network.
fn api(
    outside: Outside<'_>,
    hub: Option<Arc<Hub>>,
    screen: Option<&Prepared>,
) -> io::Result<Arc<Api>> {
    let Outside { plan, facts, console, control, off, stopping } = outside;
    let Facts { start, disks, nics, network, nic } = facts;
    let running = Arc::new(Running {
        start,
        status: Status {
            name: plan.name.clone(),
            state: String::new(),
            paused: None,
            stages: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: 0,
            cpus: plan.cpus,
            memory_bytes: plan.memory_bytes,
            hugepage_bytes: plan.hugepages.map(HugePage::bytes),
            balloon_target_bytes: None,
            balloon_bytes: None,
            disks,
            nics,
            vsock: plan.vsock.as_ref().map(|vsock| VsockStatus {
                path: vsock.path.display().to_string(),
                cid: vsock.cid,
                connections: 0,
            }),
            ready: false,
            readiness: String::new(),
            vnc_viewers: None,
            consoles: 0,
        },
        readiness: Readiness::new(plan.ready, network, console.history())?,
        control,
        off,
        stopping,
        viewers: hub.clone().filter(|_| screen.is_some()),
        nic,
        // The vCPUs have their threads by now.
        procfs: Procfs::open(Path::new("/proc/self")),
    });
    let viewers = screen.zip(hub.as_ref()).map(|(screen, hub)| screen.viewers(hub));
    let parts = Parts {
        machine: running.clone(),
        health: running,
        console: Arc::clone(console.history()),
        shutter: hub.map(shutter),
        viewers,
        passwords: screen.map(|screen| screen.guard() as Arc<dyn Passwords>),
    };
    Ok(Arc::new(Api::new(parts, &plan.web_root)?))
}

/// Takes pictures of what `hub` shows.
fn shutter(hub: Arc<Hub>) -> Shutter {
    Box::new(move || {
        hub.picture(PAINTER_PATIENCE).unwrap_or_else(|error| {
            log::warn!("no picture of the screen was taken: {error}");
            Picture::default()
        })
    })
}

impl Passwords for Guard {
    fn needed(&self) -> bool {
        self.asks()
    }

    fn judge(&self, from: IpAddr, guess: &[u8]) -> auth::Verdict {
        match Guard::judge(self, from, Instant::now(), guess, <[u8]>::to_vec) {
            guard::Verdict::Admitted(access) => auth::Verdict::Right(access),
            guard::Verdict::Wrong => auth::Verdict::Wrong,
            guard::Verdict::TooMany(wait) => auth::Verdict::Later(wait),
        }
    }
}

/// Serves the control socket.
fn open(socket: ControlSocket, api: Arc<Api>) -> Option<Served> {
    let path: PathBuf = socket.path().to_owned();
    match socket.serve(api) {
        Ok(served) => {
            log::info!("control socket {}", path.display());
            Some(served)
        }
        Err(error) => {
            log::error!("the control socket is not served: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::config::{self, Layers};
    use crate::host::Host;
    use crate::machine::{Counts, DiskCounts};
    use clap::Parser;
    use devices::serial::Console;
    use devices::virtio::blk::{Operation, Totals};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;
    use vmm::{ExitKind, Refused};

    #[derive(Default)]
    struct Buttons(Mutex<Vec<&'static str>>);

    impl Buttons {
        fn press(&self, name: &'static str) {
            self.0.lock().unwrap().push(name);
        }
    }

    impl Control for Buttons {
        fn power_button(&self) -> Result<(), Refused> {
            self.press("button");
            Ok(())
        }

        fn reset(&self) -> Result<(), Refused> {
            Err(Refused::Busy)
        }

        fn stop(&self) -> Result<(), Refused> {
            panic!("not by itself: the end has to be told")
        }

        fn console_input(&self, bytes: &[u8]) -> usize {
            bytes.len()
        }

        fn paused(&self) -> Option<String> {
            None
        }

        fn disks(&self) -> Vec<DiskCounts> {
            let read = Totals { requests: 7, errors: 2, ..Totals::default() };
            vec![DiskCounts { operations: vec![(Operation::Read, read)], ..DiskCounts::default() }]
        }

        fn counts(&self) -> Counts {
            let exits = vec![vec![(ExitKind::PortOut, 5)]];
            Counts { exits, resets: 3, resident_bytes: Some(4096) }
        }
    }

    fn plan(dir: &Path) -> Plan {
        std::fs::write(dir.join("kernel"), "").unwrap();
        let text = |name: &str| dir.join(name).display().to_string();
        let args = ["berth", "run", "--net", "none", "--name", "web-1", "--ready", "cloud-init"];
        let args = args.iter().map(|arg| (*arg).to_owned());
        let more = ["--kernel".to_owned(), text("kernel"), "--control".to_owned(), text("c.sock")];
        let Command::Run(run) = Cli::try_parse_from(args.chain(more)).unwrap().command else {
            panic!("not for run")
        };
        let host = Host {
            root: dir.to_owned(),
            in_container: false,
            hostname: None,
            data_dir: Some(dir.to_owned()),
            memory: None,
            proxies: Default::default(),
            trust: Default::default(),
        };
        config::plan(&Layers { flags: run.settings, ..Layers::default() }, &host).unwrap()
    }

    /// The status and the body of an answer.
    fn ask(path: &Path, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(path).unwrap();
        let request = format!("{request}Host: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    #[test]
    fn a_machine_is_reached_through_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let path = dir.path().join("c.sock");
        let socket = bind(&plan).unwrap_or_else(|failure| panic!("{}", failure.sentence));
        let buttons = Arc::new(Buttons::default());
        let off = Arc::clone(&buttons);
        let console = SerialConsole::silent();
        let stopping = Arc::new(AtomicBool::new(false));
        let disk = crate::api::status::tests::disk("root", 1 << 30);
        let outside = Outside {
            plan: &plan,
            facts: Facts {
                start: Start::now(),
                disks: vec![disk],
                nics: vec![],
                network: Default::default(),
                nic: None,
            },
            console: &console,
            control: buttons.clone(),
            off: Box::new(move || off.press("off")),
            stopping: Arc::clone(&stopping),
        };
        let served = show(outside, &Face::default(), (socket, None));

        assert_eq!(ask(&path, "GET /healthz HTTP/1.1\r\n"), (200, "ok\n".to_owned()));
        let line = "cloud-init: cloud-init has not finished\n".to_owned();
        assert_eq!(ask(&path, "GET /readyz HTTP/1.1\r\n"), (503, line));
        let (code, json) = ask(&path, "GET /status HTTP/1.1\r\n");
        let status: Status = serde_json::from_str(&json).unwrap();
        assert_eq!((code, status.name.as_str(), status.state.as_str()), (200, "web-1", "running"));
        assert_eq!((status.disks[0].size_bytes, status.ready), (1 << 30, false));
        assert_eq!((status.disks[0].errors, status.stages.as_slice()), (2, &[][..]));
        let (code, metrics) = ask(&path, "GET /metrics HTTP/1.1\r\n");
        assert_eq!(code, 200);
        crate::metrics::tests::lint(&metrics);
        for line in [
            "berth_disk_operation_errors_total{disk=\"root\",operation=\"read\"} 2\n",
            "berth_vcpu_exits_total{vcpu=\"0\",kind=\"io_out\"} 5\n",
            "berth_guest_resets_total 3\n",
            "berth_guest_memory_resident_bytes 4096\n",
            "berth_state{state=\"running\"} 1\n",
            "berth_ready 0\n",
        ] {
            assert!(metrics.contains(line), "{line} is not in {metrics}");
        }
        stopping.store(true, Ordering::Relaxed);
        assert!(ask(&path, "GET /status HTTP/1.1\r\n").1.contains(r#""state":"stopping""#));
        console.write(b"Cloud-init v. 1 finished at noon\r\n");
        while ask(&path, "GET /readyz HTTP/1.1\r\n").0 != 200 {
            std::thread::yield_now();
        }
        let (_, json) = ask(&path, "GET /status HTTP/1.1\r\n");
        let status: Status = serde_json::from_str(&json).unwrap();
        let stages: Vec<&str> = status.stages.iter().map(|stage| stage.stage.as_str()).collect();
        assert_eq!(stages, ["console", "cloud-init", "ready"]);
        // Without a display, the console.
        assert_eq!(ask(&path, "GET /screenshot.png HTTP/1.1\r\n").0, 200);

        let press = |word: &str| {
            let length = word.len();
            let mut stream = UnixStream::connect(&path).unwrap();
            write!(stream, "POST /power HTTP/1.1\r\nHost: x\r\nConnection: close\r\n").unwrap();
            write!(stream, "Content-Length: {length}\r\n\r\n{word}").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer[9..12].parse::<u16>().unwrap()
        };
        assert_eq!([press("button"), press("off"), press("reset")], [202, 202, 503]);
        assert_eq!(*buttons.0.lock().unwrap(), ["button", "off"]);
        drop(served);
        assert!(!path.exists());
    }
}

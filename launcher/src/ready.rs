//! Whether a machine is ready, by the rule it was given: what can be known of a guest without an
//! agent in it.
//!
//! Called from whichever thread asks. For `cloud-init` a thread of that name reads the serial console
//! until it has seen the last line; a guest that says so without meaning it deceives nobody but those
//! who wait for it. Once seen, it stays: a reboot of the guest is not looked for.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use devices::event::{Event, wait_readable};
use devices::worker::Worker;

use crate::config::Ready;
use crate::history::{Follower, History};
use crate::net::dhcp::counters::Counters;

/// How long the guest may take for a connection: less than a probe usually waits, a second.
const CONNECT: Duration = Duration::from_millis(500);
/// How long its answer counts, so that many who ask do not make many connections.
const FRESH: Duration = Duration::from_secs(1);
/// What is looked at of a line.
const LINE_MAX: usize = 1024;

/// What is known of the guest's network.
#[derive(Default)]
pub struct Network {
    /// The leases.
    pub leases: Option<Arc<Counters>>,
    /// Where it should be.
    pub addresses: Vec<IpAddr>,
}

/// What a guest reaches on its way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has said something on its serial console: its kernel runs, for most.
    Console,
    /// It has asked for an address and got it.
    Lease,
    /// It takes connections: looked for with `--ready tcp:PORT`, by whoever asks whether it is ready.
    Tcp,
    /// cloud-init has finished: looked for with `--ready cloud-init`.
    CloudInit,
    /// It is ready, by its rule.
    Ready,
}

impl Stage {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Lease => "lease",
            Self::Tcp => "tcp",
            Self::CloudInit => "cloud-init",
            Self::Ready => "ready",
        }
    }
}

/// The rule, and what it looks at.
pub struct Readiness {
    rule: Ready,
    network: Network,
    /// When the guest was last connected to, and what came of it.
    tried: Mutex<Option<(Instant, Result<String, String>)>>,
    /// When it was first connected to.
    answered: OnceLock<Instant>,
    /// When cloud-init had finished.
    finished: Arc<OnceLock<Instant>>,
    console: Arc<History>,
    _watch: Option<Worker<()>>,
}

impl Readiness {
    /// Begins to look.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn new(rule: Ready, network: Network, console: &Arc<History>) -> io::Result<Self> {
        let finished = Arc::<OnceLock<Instant>>::default();
        let watch = match rule {
            Ready::CloudInit => {
                let follower = console.follow()?;
                let found = Arc::clone(&finished);
                let body = move |stop: &Event| {
                    if watch(follower, stop) {
                        found.get_or_init(Instant::now);
                    }
                };
                Some(Worker::spawn("cloud-init", || (), body)?)
            }
            _ => None,
        };
        Ok(Self {
            rule,
            network,
            tried: Mutex::default(),
            answered: OnceLock::new(),
            finished,
            console: Arc::clone(console),
            _watch: watch,
        })
    }

    /// Whether it is ready, and why, or what is missing.
    ///
    /// # Errors
    /// It is not ready.
    pub fn look(&self) -> Result<String, String> {
        let outcome = match self.rule {
            Ready::Running => Ok("the machine runs".to_owned()),
            Ready::Lease => self.lease(),
            Ready::Tcp(port) => self.connect(port),
            Ready::CloudInit if self.finished.get().is_some() => {
                Ok("cloud-init has finished".to_owned())
            }
            Ready::CloudInit => Err("cloud-init has not finished".to_owned()),
        };
        let told = |line: String| format!("{}: {line}", self.rule);
        outcome.map(told).map_err(told)
    }

    /// The addresses that the guest has asked for and got.
    pub fn leased(&self) -> Vec<IpAddr> {
        let Some(leases) = &self.network.leases else { return Vec::new() };
        let v4 = leases.lease_v4().map(|lease| lease.address.into());
        v4.into_iter().chain(leases.lease_v6().map(|lease| lease.address.into())).collect()
    }

    /// What has been reached, and when for the first time; `started` is when the machine was. A stage
    /// that has not been reached, or that nothing looks for, is not among them.
    pub fn stages(&self, started: Instant) -> Vec<(Stage, Duration)> {
        let lease = self.network.leases.as_ref().and_then(|leases| leases.first_lease());
        let answer = self.answered.get().copied();
        let finished = self.finished.get().copied();
        let ready = match self.rule {
            Ready::Running => Some(started),
            Ready::Lease => lease,
            Ready::Tcp(_) => answer,
            Ready::CloudInit => finished,
        };
        let stages = [
            (Stage::Console, self.console.began()),
            (Stage::Lease, lease),
            (Stage::Tcp, answer),
            (Stage::CloudInit, finished),
            (Stage::Ready, ready),
        ];
        let reached = stages.into_iter().filter_map(|(stage, at)| Some((stage, at?)));
        reached.map(|(stage, at)| (stage, at.saturating_duration_since(started))).collect()
    }

    /// Whether it is ready as far as that is known: a guest that has to be connected to is not.
    pub fn seen(&self) -> bool {
        match self.rule {
            Ready::Tcp(_) => {
                let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
                tried.as_ref().is_some_and(|(_, outcome)| outcome.is_ok())
            }
            _ => self.look().is_ok(),
        }
    }

    fn lease(&self) -> Result<String, String> {
        match self.leased().as_slice() {
            [] => Err("the guest has not asked for an address".to_owned()),
            leased => {
                let leased: Vec<String> = leased.iter().map(IpAddr::to_string).collect();
                Ok(format!("the guest has {}", leased.join(", ")))
            }
        }
    }

    /// Connects to the guest, unless that was done a moment ago. Whoever asks meanwhile waits for
    /// the same answer.
    fn connect(&self, port: u16) -> Result<String, String> {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, outcome)) = &*tried
            && when.elapsed() < FRESH
        {
            return outcome.clone();
        }
        let mut outcome = Err("the guest has no address here".to_owned());
        for address in &self.network.addresses {
            let guest = SocketAddr::new(*address, port);
            outcome = match TcpStream::connect_timeout(&guest, CONNECT) {
                Ok(_) => Ok(format!("the guest answers at {guest}")),
                Err(error) => Err(format!("the guest does not answer at {guest}: {error}")),
            };
            if outcome.is_ok() {
                break;
            }
        }
        let now = Instant::now();
        if outcome.is_ok() {
            self.answered.get_or_init(|| now);
        }
        *tried = Some((now, outcome.clone()));
        outcome
    }
}

/// Reads the console until cloud-init has finished, true, or until told to stop.
fn watch(mut follower: Follower, stop: &Event) -> bool {
    let mut lines = Lines::default();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if !follower.read(&mut bytes, 4096) {
            match wait_readable([Some(stop.as_fd()), Some(follower.fd())], None) {
                Ok([false, _]) => continue,
                _ => return false,
            }
        }
        if bytes.iter().any(|byte| lines.take(*byte)) {
            return true;
        }
    }
}

/// Finds cloud-init's last line, which its final stage prints: "Cloud-init v. 22.4.2 finished at Mon,
/// 01 Jan 2024 00:00:00 +0000. Datasource DataSourceConfigDrive [net,ver=2].  Up 12.34 seconds".
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Takes a byte; true at the end of that line.
    fn take(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            if self.0.len() < LINE_MAX {
                self.0.push(byte);
            }
            return false;
        }
        let line = String::from_utf8_lossy(&self.0).into_owned();
        self.0.clear();
        line.split_once("Cloud-init v. ").is_some_and(|(_, rest)| rest.contains(" finished at "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn readiness(rule: Ready, addresses: Vec<IpAddr>, console: &Arc<History>) -> Readiness {
        let network = Network { leases: Some(Arc::default()), addresses };
        Readiness::new(rule, network, console).unwrap()
    }

    #[test]
    fn a_machine_that_runs_or_has_no_lease() {
        let console = Arc::default();
        assert_eq!(
            readiness(Ready::Running, vec![], &console).look(),
            Ok("running: the machine runs".to_owned())
        );
        let leased = readiness(Ready::Lease, vec![], &console);
        assert_eq!(leased.look(), Err("lease: the guest has not asked for an address".to_owned()));
        let started = Instant::now();
        assert!(leased.stages(started).is_empty() && !leased.seen());
        let running = readiness(Ready::Running, vec![], &console);
        assert_eq!(running.stages(started), [(Stage::Ready, Duration::ZERO)]);
    }

    #[test]
    fn a_port_is_connected_to_and_its_answer_kept_a_while() {
        let console = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let local = vec![IpAddr::from([127, 0, 0, 1])];
        let ready = readiness(Ready::Tcp(port), local.clone(), &console);
        let started = Instant::now();
        assert!(!ready.seen() && ready.stages(started).is_empty(), "nobody has asked");
        assert_eq!(ready.look(), Ok(format!("tcp:{port}: the guest answers at 127.0.0.1:{port}")));
        let stages: Vec<Stage> = ready.stages(started).iter().map(|(stage, _)| *stage).collect();
        assert!(ready.seen() && stages == [Stage::Tcp, Stage::Ready], "{stages:?}");
        drop(listener);
        // Unless a second has passed meanwhile, this is the answer of before.
        let _ = ready.look();
        let late = readiness(Ready::Tcp(port), local, &console);
        assert!(late.look().unwrap_err().contains("does not answer at 127.0.0.1:"));
        let nowhere = readiness(Ready::Tcp(port), vec![], &console);
        assert!(nowhere.look().unwrap_err().contains("has no address here"));
    }

    #[test]
    fn the_last_line_of_cloud_init_is_found() {
        let said = |text: &str| {
            let mut lines = Lines::default();
            text.bytes().any(|byte| lines.take(byte))
        };
        assert!(said(
            "boot\n[   25.1] cloud-init[601]: Cloud-init v. 22.4.2 finished at Sat, 01 Jan 2024 \
             00:00:00 +0000. Datasource DataSourceConfigDrive.  Up 12.3 seconds\r\n"
        ));
        assert!(!said("Cloud-init v. 22.4.2 running 'modules:final' at Sat\r\n"));
        assert!(!said("Cloud-init v. 22.4.2\r\n finished at\r\n"));
        assert!(!said("Cloud-init v. 1 finished at "));
        assert!(!said(&"x".repeat(100_000)));
    }

    #[test]
    fn the_watch_sees_it_now_or_in_the_past_and_can_be_stopped() {
        let console: Arc<History> = Arc::default();
        drop(readiness(Ready::CloudInit, vec![], &console));
        let watching = console.follow().unwrap();
        let stop = Event::new().unwrap();
        let thread = std::thread::spawn(move || watch(watching, &stop));
        console.write(b"Cloud-init v. 1 fin");
        console.write(b"ished at noon\r\n");
        assert!(thread.join().unwrap());
        assert!(watch(console.follow().unwrap(), &Event::new().unwrap()));
        let ready = readiness(Ready::CloudInit, vec![], &console);
        assert!(
            ready.look().is_ok_and(|line| line == "cloud-init: cloud-init has finished")
                || ready.look().is_err()
        );
    }
}

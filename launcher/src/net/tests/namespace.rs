//! Network namespaces for tests: made without a name, gone with the value. Needs root, iproute2 and
//! nftables; [`Namespace::new`] says so and answers nothing where they are missing.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, scope};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};

const PATIENCE: Duration = Duration::from_secs(2);

pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    pub fn new() -> Option<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            File::open("/proc/thread-self/ns/net").ok()
        });
        let Some(file) = made.join().unwrap() else {
            eprintln!("SKIPPED: no right to make a network namespace here");
            return None;
        };
        for program in ["ip", "nft", "tc"] {
            if Command::new(program).arg("-V").output().is_err() {
                eprintln!("SKIPPED: there is no program {program} here");
                return None;
            }
        }
        let made = Self { file: Arc::new(file) };
        made.ip("link set lo up");
        Some(made)
    }

    /// As `ip link ... netns` wants it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Does something in it.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&*self.file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// Runs a program; answers what it said, and whether it was content.
    pub fn try_run(&self, command: &str) -> (bool, String) {
        let words: Vec<&str> = command.split(' ').collect();
        let output = self.inside(|| Command::new(words[0]).args(&words[1..]).output().unwrap());
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    pub fn run(&self, command: &str) -> String {
        let (content, said) = self.try_run(command);
        assert!(content, "{command}: {said}");
        said
    }

    pub fn ip(&self, arguments: &str) {
        self.run(&format!("ip {arguments}"));
    }

    pub fn read(&self, path: &str) -> String {
        self.inside(|| std::fs::read_to_string(path).unwrap().trim().to_owned())
    }

    pub fn write(&self, path: &str, value: &str) {
        self.inside(|| std::fs::write(path, value).unwrap());
    }

    /// A pair of interfaces, up, that make no addresses by themselves.
    pub fn join(&self, here: &str, there: &Namespace, name: &str) {
        let path = there.path();
        self.ip(&format!("link add {here} type veth peer name {name} netns {path}"));
        for (namespace, name) in [(self, here), (there, name)] {
            namespace.ip(&format!("link set {name} addrgenmode none"));
            namespace.ip(&format!("link set {name} up"));
        }
    }

    /// Everything that must be as it was before.
    pub fn state(&self) -> String {
        [
            "ip -d link show",
            "ip address show",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule show",
            "nft list ruleset",
            "tc qdisc show",
        ]
        .map(|command| format!("{command}\n{}", self.run(command)))
        .concat()
            + &self.read("/proc/sys/net/ipv4/ip_forward")
            + &self.read("/proc/sys/net/ipv6/conf/all/forwarding")
            + &self.try_run("grep -rs --include=forwarding --include=accept_ra . /proc/sys/net").1
    }

    /// Waits until the kernel has done what it does by and by, such as routes to new addresses.
    pub fn settle(&self) {
        for _ in 0..50 {
            let before = self.state();
            thread::sleep(Duration::from_millis(100));
            if self.state() == before {
                return;
            }
        }
    }

    /// Answers TCP and UDP on a port with a word and the peer's address.
    pub fn serve(&self, word: &'static str, port: u16) {
        let (tcp, udp) = self.inside(|| {
            let any = SocketAddr::new("::".parse().unwrap(), port);
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        let told = move |peer: SocketAddr| format!("{word} {}", peer.ip().to_canonical());
        thread::spawn(move || {
            while let Ok((mut stream, peer)) = tcp.accept() {
                drop(stream.write_all(told(peer).as_bytes()));
            }
        });
        thread::spawn(move || {
            while let Ok((_, peer)) = udp.recv_from(&mut [0; 64]) {
                drop(udp.send_to(told(peer).as_bytes(), peer));
            }
        });
    }

    /// What whoever listens there says, or why not.
    pub fn tcp(&self, address: &str, port: u16) -> String {
        let place = SocketAddr::new(address.parse().unwrap(), port);
        self.inside(|| match TcpStream::connect_timeout(&place, PATIENCE) {
            Ok(mut stream) => {
                let mut text = String::new();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.read_to_string(&mut text).map_or_else(|e| e.to_string(), |_| text)
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => "nobody".to_owned(),
            Err(error) => error.to_string(),
        })
    }

    pub fn udp(&self, address: &str, port: u16) -> String {
        let place = SocketAddr::new(address.parse().unwrap(), port);
        self.inside(|| {
            let any: IpAddr = if place.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"?", place).unwrap();
            let mut bytes = [0; 64];
            match socket.recv_from(&mut bytes) {
                Ok((length, _)) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
                Err(_) => "nobody".to_owned(),
            }
        })
    }
}

/// Carries frames between two taps until it is dropped.
pub struct Cable {
    stop: Arc<AtomicBool>,
    ways: Vec<JoinHandle<()>>,
}

impl Cable {
    pub fn new(a: &File, b: &File) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let way = |from: &File, to: &File| {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let stop = Arc::clone(&stop);
            thread::spawn(move || carry(&from, &to, &stop))
        };
        let ways = vec![way(a, b), way(b, a)];
        Self { stop, ways }
    }
}

fn carry(mut from: &File, mut to: &File, stop: &AtomicBool) {
    let mut frame = vec![0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(20_u8)).is_ok_and(|count| count > 0)
            && let Ok(length) = from.read(&mut frame)
        {
            drop(to.write(&frame[..length]));
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for way in self.ways.drain(..) {
            way.join().unwrap();
        }
    }
}

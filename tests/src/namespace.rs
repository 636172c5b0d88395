//! Network namespaces with names, so that `ip netns exec` gives what runs in one a resolv.conf of
//! its own. Nothing outside of them changes, but for the names below /run/netns and /etc/netns,
//! which go with the value.
//!
//! Code of a test runs inside by [`Namespace::inside`], on a thread of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// What [`Namespace::state`] asks.
const STATE: [&str; 8] = [
    "ip -d link show",
    "ip address show",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip rule show",
    "ip -6 rule show",
    "ip neighbour show nud permanent",
    "nft list ruleset",
];

/// A network namespace with its loopback up. Needs root and iproute2.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; `role` is a part of its name.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let made = Self { name: format!("berth-{}-{count}-{role}", std::process::id()) };
        expect_success(Command::new("ip").args(["netns", "add", &made.name]));
        // Tests do not wait for duplicates to answer.
        made.sysctl("net/ipv6/conf/default/accept_dad", "0");
        made.ip("link set lo up");
        made
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lines for `ip -batch`.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn ip(&self, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip is installed");
        let mut input = child.stdin.take().expect("the input is a pipe");
        input.write_all(lines.as_bytes()).expect("ip reads");
        drop(input);
        let output = child.wait_with_output().expect("ip ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip in {}:\n{lines}\n{said}", self.name);
    }

    /// Writes the setting `path` below /proc/sys. Answers nothing where there is no such setting.
    ///
    /// # Panics
    /// If it is there and cannot be written.
    pub fn sysctl(&self, path: &str, value: &str) {
        let path = Path::new("/proc/sys").join(path);
        self.inside(|| {
            if path.exists() {
                fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
        });
    }

    /// Does something in it.
    ///
    /// # Panics
    /// If that panics.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let place = Path::new("/run/netns").join(&self.name);
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let file = File::open(place).expect("the namespace is there");
                setns(file, CloneFlags::CLONE_NEWNET).expect("this is root");
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A program that is to run in it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program, words split at spaces; whether it was content, and all that it said.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn try_run(&self, command: &str) -> (bool, String) {
        let mut words = command.split(' ');
        let program = words.next().unwrap_or_default();
        let output = self.command(program).args(words).output().expect("ip is installed");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Runs a program, words split at spaces; all that it said.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, command: &str) -> String {
        let (content, said) = self.try_run(command);
        assert!(content, "{command} in {}: {said}", self.name);
        said
    }

    /// What whoever runs in it by `ip netns exec` has as /etc/resolv.conf.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn set_resolv_conf(&self, text: &str) {
        let directory = self.etc();
        fs::create_dir_all(&directory).expect("/etc is writable");
        fs::write(directory.join("resolv.conf"), text).expect("/etc is writable");
    }

    /// Everything of it that must be after a machine as it was before: one text to compare.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn state(&self) -> String {
        let mut text: String = STATE.iter().map(|c| format!("# {c}\n{}", self.run(c))).collect();
        for link in self.links() {
            text.push_str(&self.filters(&link));
        }
        let forwarding = "grep -rs --include=forwarding --include=accept_ra --include=rp_filter \
                          --include=route_localnet --include=ip_forward . /proc/sys/net";
        let words: Vec<&str> = forwarding.split_whitespace().collect();
        let mut settings: Vec<String> =
            self.try_run(&words.join(" ")).1.lines().map(str::to_owned).collect();
        settings.sort();
        text + &settings.join("\n")
    }

    /// The interfaces.
    pub fn links(&self) -> Vec<String> {
        let said = self.run("ip -brief link show");
        let first = said.lines().filter_map(|line| line.split_whitespace().next());
        first.map(|name| name.split('@').next().unwrap_or(name).to_owned()).collect()
    }

    /// What `tc` knows of an interface, without counters.
    pub fn filters(&self, link: &str) -> String {
        ["qdisc show dev", "filter show dev", "filter show ingress dev", "filter show egress dev"]
            .iter()
            .map(|what| {
                // "ingress" stands behind the interface.
                let (verb, side) = match what.split_once(" show ") {
                    Some((verb, "dev")) => (verb, ""),
                    Some((verb, side)) => (verb, side.trim_end_matches(" dev")),
                    None => (*what, ""),
                };
                let command = format!("tc {verb} show dev {link} {side}");
                format!("# {command}\n{}", self.try_run(command.trim_end()).1)
            })
            .collect()
    }

    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
        let _ = fs::remove_dir_all(self.etc());
    }
}

fn expect_success(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

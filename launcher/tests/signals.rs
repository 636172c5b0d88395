//! Signals in a child process: a program without a test harness, since a harness has threads before
//! the signals are blocked. Without arguments it tests; with `child` it is what is tested.

#[path = "../src/signals.rs"]
mod signals;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signals::Signals;

fn main() {
    if std::env::args().any(|arg| arg == "child") {
        return child();
    }
    println!();
    run("signals_arrive_as_events", signals_arrive_as_events);
    run("nohup_is_respected", nohup_is_respected);
    run("an_early_signal_is_seen", an_early_signal_is_seen);
    println!();
}

fn run(name: &str, test: fn()) {
    test();
    println!("test {name} ... ok");
}

fn child() {
    let signals = Signals::block().unwrap();
    if std::env::var_os("EARLY").is_some() {
        assert!(!signals.asked());
        println!("ready");
        while !signals.asked() {
            std::thread::yield_now();
        }
        return println!("asked");
    }
    let (tell, told) = channel();
    let watch = signals.watch(move |signal| tell.send(signal).unwrap()).unwrap();
    println!("ready");
    // A write to a closed pipe is an error, not a death.
    let (read, write) = nix::unistd::pipe().unwrap();
    drop(read);
    assert_eq!(nix::unistd::write(&write, b"x"), Err(Errno::EPIPE));
    for _ in 0..2 {
        let signal: Signal = told.recv_timeout(Duration::from_secs(30)).unwrap();
        println!("got {signal}");
    }
    drop(watch);
    assert!(told.try_recv().is_err(), "the watch has ended");
}

fn start(before: &str) -> (Child, impl Iterator<Item = String>) {
    let exe = std::env::current_exe().unwrap();
    let script = format!("{before} '{}' child", exe.display());
    let mut command = Command::new("/bin/sh");
    let mut child = command.args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    (child, lines)
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

fn signals_arrive_as_events() {
    // Whoever runs the tests may ignore SIGHUP: a shell cannot undo that, env can.
    let (mut child, mut lines) = start("exec env --default-signal=HUP");
    assert_eq!(lines.next().as_deref(), Some("ready"));
    send(&child, Signal::SIGTERM);
    assert_eq!(lines.next().as_deref(), Some("got SIGTERM"));
    send(&child, Signal::SIGHUP);
    assert_eq!(lines.next().as_deref(), Some("got SIGHUP"));
    assert_eq!(lines.next(), None);
    assert!(child.wait().unwrap().success());
}

fn nohup_is_respected() {
    let (mut child, mut lines) = start("trap '' HUP; exec");
    assert_eq!(lines.next().as_deref(), Some("ready"));
    send(&child, Signal::SIGHUP);
    send(&child, Signal::SIGINT);
    assert_eq!(lines.next().as_deref(), Some("got SIGINT"));
    send(&child, Signal::SIGTERM);
    assert_eq!(lines.next().as_deref(), Some("got SIGTERM"));
    assert_eq!(lines.next(), None);
    assert!(child.wait().unwrap().success());
}

fn an_early_signal_is_seen() {
    let (mut child, mut lines) = start("EARLY=1; export EARLY; exec");
    assert_eq!(lines.next().as_deref(), Some("ready"));
    send(&child, Signal::SIGTERM);
    assert_eq!(lines.next().as_deref(), Some("asked"));
    assert!(child.wait().unwrap().success());
}

//! Sockets between programs of the host and of the guest: socat is both, as a stock kernel has it.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use berth_tests::{Berth, SmallGuest, VirtualMachine, confined_threads};

/// How long a connection may take, on an emulated machine that others use too.
const PATIENCE: Duration = Duration::from_secs(120);
/// Data of one transfer.
const LONG: usize = 4 << 20;

/// What the jobs begin with: a driver, programs, and an echo on port 7.
const BEGIN: &str = r#"
modprobe vmw_vsock_virtio_transport || exit 1
tools || exit 1
mount -o remount,size=50% /tmp
socat -t 600 VSOCK-LISTEN:7,fork EXEC:cat &
"#;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at) as u8).collect()
}

/// A program's connection to `port` of the guest; `None`: it is refused.
fn try_connect(path: &Path, port: u32) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(path).expect("the socket is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).expect("the socket takes a line");
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.last() != Some(&b'\n') {
        match stream.read(&mut byte) {
            Ok(1) => line.extend(byte),
            _ => return None,
        }
    }
    let line = String::from_utf8(line).expect("text");
    let host_port: u32 = line.strip_prefix("OK ").expect("OK").trim().parse().expect("a port");
    assert!(host_port >= 1 << 30, "{line}");
    Some(stream)
}

/// The same, as soon as somebody listens.
fn connect(path: &Path, port: u32) -> UnixStream {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(stream) = try_connect(path, port) {
            return stream;
        }
        assert!(Instant::now() < until, "nobody listens on port {port}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Sends `data` and then the end, and requires that the same comes back.
fn echoes(mut stream: UnixStream, data: &[u8]) {
    let mut writer = stream.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(data).expect("the guest takes it");
            writer.shutdown(Shutdown::Write).expect("it is open");
        });
        let mut back = Vec::new();
        let end = stream.read_to_end(&mut back);
        let (came, sent) = (back.len(), data.len());
        assert!(
            end.is_ok() && back == data,
            "{came} of {sent} bytes came back, or others: {end:?}"
        );
    });
}

/// An echo of the host's on `port`, for one connection; the bytes that passed.
fn echo_once(path: &Path, port: u32) -> thread::JoinHandle<usize> {
    let listener = UnixListener::bind(beside(path, port)).expect("a socket");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the guest connects");
        let mut writer = stream.try_clone().expect("a descriptor");
        std::io::copy(&mut stream, &mut writer).expect("it is carried") as usize
    })
}

fn beside(path: &Path, port: u32) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!("_{port}"));
    beside.into()
}

/// How often the thread `vsock` has gone to sleep.
fn sleeps(machine: &VirtualMachine) -> u64 {
    let tasks =
        fs::read_dir(format!("/proc/{}/task", machine.pid())).expect("the process is there");
    let status = tasks.map(|task| {
        fs::read_to_string(task.expect("a thread").path().join("status")).unwrap_or_default()
    });
    let status = status.into_iter().find(|status| status.starts_with("Name:\tvsock\n"));
    let status = status.expect("the thread is there");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).expect("a number")
}

/// Starts a guest with sockets; the path of the host's.
fn start(job: &str, cid: u32) -> (tempfile::TempDir, VirtualMachine, PathBuf) {
    let guest = SmallGuest::running(&format!("{BEGIN}{job}")).memory("384M").with_tools();
    let (path, control) = (guest.directory().join("v"), guest.directory().join("control"));
    let (directory, machine) = guest
        .flag("--vsock", format!("{},cid={cid}", path.display()))
        .flag("--control", control.to_str().expect("text"))
        .flag("--sandbox", "on")
        .start();
    (directory, machine, path)
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn programs_of_host_and_guest_talk() {
    let job = r#"
echo "@@ ready 1"
read go </dev/ttyS0
head -c 4194304 /dev/urandom >/tmp/sent
socat -t 600 - VSOCK-CONNECT:2:6000 </tmp/sent >/tmp/back
cmp /tmp/sent /tmp/back && echo "@@ echoed $(wc -c </tmp/back)"
socat -u /dev/null VSOCK-CONNECT:2:6001 2>/dev/null; echo "@@ refused $?"
socat -u /dev/null VSOCK-CONNECT:99:6000 2>/dev/null; echo "@@ foreign $?"
( socat -u VSOCK-LISTEN:8 - | wc -c >/tmp/count; echo "@@ ended $(cat /tmp/count)" ) &
read go </dev/ttyS0
"#;
    let (directory, mut machine, path) = start(job, 42);
    machine.wait_for_value("ready");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    // To the guest and back, one and many at once.
    let began = Instant::now();
    echoes(connect(&path, 7), &pattern(LONG));
    eprintln!("{LONG} bytes to the guest and back in {:.1} s", began.elapsed().as_secs_f64());
    let many: Vec<UnixStream> = (0..32).map(|_| connect(&path, 7)).collect();
    // All of them are silent: nothing wakes.
    thread::sleep(Duration::from_secs(2));
    let before = sleeps(&machine);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(sleeps(&machine), before, "it is woken for nothing");
    let status = Berth::command()
        .arg("status")
        .flag("--control", directory.path().join("control"))
        .outcome();
    let line = format!("{}, context id 42, 32 connections", path.display());
    assert!(status.stdout.contains(&line), "{}{}", status.stdout, status.stderr);
    thread::scope(|scope| {
        for (number, stream) in many.into_iter().enumerate() {
            scope.spawn(move || echoes(stream, &pattern(100_000 + number)));
        }
    });
    // Nobody listens there.
    assert!(try_connect(&path, 9).is_none());
    // To the host and back.
    let echo = echo_once(&path, 6000);
    machine.send("go\n");
    assert_eq!(echo.join().expect("the echo ends"), LONG);
    assert_eq!(machine.wait_for_value("echoed"), LONG.to_string());
    assert_eq!(machine.wait_for_value("refused"), "1");
    assert_eq!(machine.wait_for_value("foreign"), "1");
    // A program that is killed.
    drop(connect_by_socat(&path, 8, b"twelve bytes"));
    assert_eq!(machine.wait_for_value("ended"), "12");
    let threads = confined_threads(machine.pid());
    assert!(threads.iter().any(|thread| thread == "vsock"), "{threads:?}");
    machine.send("go\n");
    machine.wait_for_exit().expect_success();
    assert!(!path.exists(), "it is removed at the end");
}

/// Another process that sends `data` to `port` of the guest; killed when it is dropped.
struct Killed(Child, ChildStdin);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it has ended");
    }
}

fn connect_by_socat(path: &Path, port: u32, data: &[u8]) -> Killed {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut child = Command::new("socat")
            .arg("-")
            .arg(format!("UNIX-CONNECT:{}", path.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("socat is installed");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(format!("CONNECT {port}\n").as_bytes()).expect("it reads");
        let mut ok = [0; 3];
        let agreed = child.stdout.as_mut().expect("a pipe").read_exact(&mut ok);
        let mut killed = Killed(child, input);
        if agreed.is_ok() {
            killed.1.write_all(data).expect("it reads");
            // Long enough for it to be carried; it does not end before it is killed.
            thread::sleep(Duration::from_secs(5));
            return killed;
        }
        assert!(Instant::now() < until, "nobody listens on port {port}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn connections_end_with_the_driver_and_with_the_guest() {
    let job = r#"
driver=/sys/bus/virtio/drivers/vmw_vsock_virtio_transport
device=$(basename $(ls -d $driver/virtio*))
echo "@@ life $device"
while read word </dev/ttyS0; do
    case $word in
        unbind) echo $device >$driver/unbind; echo "@@ done unbind" ;;
        bind) echo $device >$driver/bind; echo "@@ done bind" ;;
        reboot) reboot -f ;;
        off) exit 0 ;;
    esac
done
"#;
    let (_directory, mut machine, path) = start(job, 3);
    machine.wait_for_value("life");
    let mut held = connect(&path, 7);
    machine.send("unbind\n");
    machine.wait_for_value("done");
    assert_eq!(held.read(&mut [0]).expect("it ends"), 0);
    machine.send("bind\n");
    machine.wait_for_value("done");
    let mut held = connect(&path, 7);
    machine.send("reboot\n");
    assert_eq!(held.read(&mut [0]).expect("it ends"), 0);
    machine.wait_for_value("life");
    echoes(connect(&path, 7), &pattern(300_000));
    let mut held = connect(&path, 7);
    machine.send("off\n");
    machine.wait_for_exit().expect_success();
    assert_eq!(held.read(&mut [0]).expect("it ends"), 0);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_machine_without_sockets_has_none() {
    let job = "grep -l 0x1053 /sys/bus/pci/devices/*/device && exit 1\ntrue";
    SmallGuest::running(job).report().expect_success();
}

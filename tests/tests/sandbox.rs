//! The sandbox around machines that do everything: none of their threads has anything left, and
//! nothing that they need is missing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use berth_tests::{
    Berth, Families, Kernel, Namespace, Pod, Shape, SmallGuest, Viewer, confined_threads,
};
use nix::sys::signal::Signal;

/// Starts twice, by a reboot, and has used its disk, its screen and its keyboard each time.
const LIVES_TWICE: &str = r#"
modprobe virtio_input
d=$(disk pet) || exit 1
dd if=/dev/urandom of=$d bs=1M count=8 seek=1 conv=fsync 2>/dev/null || exit 2
blkdiscard -o 1048576 -l 1048576 $d 2>/dev/null
dd if=/dev/hwrng of=/dev/null bs=64 count=1 2>/dev/null || exit 3
seq 1 200 >/dev/tty1
if [ "$(dd if=$d bs=5 count=1 2>/dev/null)" = again ]; then
    echo "@@ life second"
    read go </dev/ttyS0
    exit 0
fi
printf again | dd of=$d conv=fsync,notrunc 2>/dev/null
echo "@@ life first"
read go </dev/ttyS0
reboot -f
"#;

fn curl(path: &str) -> String {
    let url = format!("http://127.0.0.1:5900{path}");
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "120", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code}", &url])
        .output()
        .expect("curl is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_machine_lives_with_every_thread_confined() {
    let guest = SmallGuest::running(LIVES_TWICE).kernel(Kernel::BzImage).cpus(2);
    let disk = guest.directory().join("pet.raw");
    fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    let report = guest.directory().join("report");
    let (directory, mut machine) = guest
        .disk(&disk, "format=raw,serial=pet")
        .flag("--sandbox", "on")
        .flag("--termination-log", report.to_str().expect("text"))
        .start();
    for life in ["first", "second"] {
        assert_eq!(machine.wait_for_value("life"), life);
        let mut viewer = Viewer::connect("127.0.0.1:5900");
        viewer.request(false);
        assert!(viewer.update() > 0);
        viewer.type_text("x");
        for path in ["/healthz", "/readyz", "/metrics", "/status", "/screenshot.png", "/"] {
            assert_eq!(curl(path), "200", "{path}");
        }
        let threads = confined_threads(machine.pid());
        for name in [
            "starter",
            "log",
            "console-out",
            "console-in",
            "signals",
            "wait",
            "machine",
            "vcpu0",
            "vcpu1",
            "blk0",
            "rng",
            "screen",
            "listen",
            "control",
            "keyboard",
            "tablet",
        ] {
            assert!(threads.iter().any(|thread| thread == name), "no {name} in {threads:?}");
        }
        // As a container runtime that pauses it does: calls that were waiting are made again.
        machine.signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(300));
        machine.signal(Signal::SIGCONT);
        machine.send("go\n");
    }
    machine.wait_for_exit().expect_success();
    assert_eq!(fs::read_to_string(report).expect("it was made at the start"), "");
    drop(directory);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_confined_machine_is_stopped_and_reports() {
    let guest = SmallGuest::running("echo '@@ deaf'; sleep 600");
    let report = guest.directory().join("report");
    let (_directory, mut machine) = guest
        .flag("--stop-timeout", "2")
        .flag("--sandbox", "on")
        .flag("--termination-log", report.to_str().expect("text"))
        .start();
    machine.wait_for("@@ deaf");
    confined_threads(machine.pid());
    machine.terminate();
    let end = machine.wait_for_exit();
    assert_eq!(end.exit_code, Some(6), "{end}");
    assert!(end.log.contains("sandbox: no capabilities"), "{end}");
    let text = fs::read_to_string(report).expect("the report");
    assert!(text.starts_with("the guest did not power off within 2 s"), "{text}");
    assert!(text.contains("@@ deaf"), "{text}");
}

/// Gets an address, and then opens a port.
const ANSWERS: &str = r#"
for n in /sys/class/net/*; do n=${n##*/}; [ $n = lo ] || nic=$n; done
ip link set $nic up
cat >/tmp/configure <<'SCRIPT'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add $ip/$mask dev $interface
ip route add default via $router
SCRIPT
chmod 755 /tmp/configure
udhcpc -i $nic -s /tmp/configure -q -n -t 20 -T 3 || exit 1
echo "@@ leased"
read go </dev/ttyS0
httpd -p 7000 -h /tmp
echo "@@ open"
read go </dev/ttyS0
"#;

/// A certificate of the pod's address that signs itself, and its key.
fn make_certificate(directory: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "30", "-subj", "/CN=small", "-addext"])
        .arg(format!("subjectAltName=IP:{}", Pod::V4))
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Asks for a path of the screen's port by TLS, whose server has to be `certificate`; the status.
fn https(from: &Namespace, certificate: &Path, path: &str) -> String {
    from.run(&format!(
        "curl -sS -m 120 -o /dev/null -w %{{http_code}} --cacert {} https://{}:5900{path}",
        certificate.display(),
        Pod::V4
    ))
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_confined_machine_has_tls_a_page_and_a_probe_of_a_port() {
    let network = Pod::new(Shape::Bridge, Families::V4, 1500);
    let guest = SmallGuest::running(ANSWERS);
    let own = guest.directory().to_owned();
    make_certificate(&own);
    fs::create_dir_all(own.join("web/core")).expect("the directory is writable");
    fs::write(own.join("web/core/rfb.js"), "export {}").expect("the directory is writable");
    let (certificate, key, web) = (own.join("cert.pem"), own.join("key.pem"), own.join("web"));
    let (_directory, mut machine) = guest
        .flag("--sandbox", "on")
        .flag("--net", "pod")
        .flag("--ready", "tcp:7000")
        .switch("--vnc-open")
        .flag("--vnc-tls-cert", certificate.to_str().expect("text"))
        .flag("--vnc-tls-key", key.to_str().expect("text"))
        .flag("--web-root", web.to_str().expect("text"))
        .start_inside(&network.pod);
    machine.wait_for("@@ leased");
    let ask = |path: &str| https(&network.client, &certificate, path);
    assert_eq!(ask("/readyz"), "503");
    for path in ["/", "/novnc/core/rfb.js", "/metrics", "/screenshot.png"] {
        assert_eq!(ask(path), "200", "{path}");
    }
    assert_eq!(ask("/novnc/core/other.js"), "404");
    machine.send("go\n");
    machine.wait_for("@@ open");
    // An answer is kept for a second.
    let patience = Instant::now() + Duration::from_secs(120);
    while ask("/readyz") != "200" {
        assert!(Instant::now() < patience, "{}", machine.describe("it is never ready"));
        sleep(Duration::from_millis(500));
    }
    machine.send("go\n");
    machine.wait_for_exit().expect_success();
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn process_1_collects_children_that_are_not_its_own() {
    let guest = SmallGuest::running("echo '@@ waiting'; read go </dev/ttyS0");
    let (_directory, mut machine) =
        guest.flag("--sandbox", "on").start_by(Berth::run_as_process_1());
    machine.wait_for("@@ waiting");
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let child_of = |parent: &str, name: &str| {
        let children = read(format!("/proc/{parent}/task/{parent}/children"));
        let mut children = children.split_whitespace();
        children.find(|child| read(format!("/proc/{child}/comm")).trim() == name).map(str::to_owned)
    };
    let berth = child_of(&machine.pid().to_string(), "berth").expect("process 1");
    // The shell's, which has ended, or is about to. One that is not collected keeps its name.
    let patience = Instant::now() + Duration::from_secs(60);
    while child_of(&berth, "sleep").is_some() {
        assert!(Instant::now() < patience, "{}", machine.describe("a child is not collected"));
        sleep(Duration::from_millis(200));
    }
    machine.send("go\n");
    machine.wait_for_exit().expect_success();
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_terminal_is_the_guests_and_is_given_back() {
    let job = "echo '@@ asking'; read answer </dev/ttyS0; echo \"@@ answer $answer\"; sleep 600";
    let guest = SmallGuest::running(job).flag("--sandbox", "on").flag("--stop-timeout", "900");
    let (_directory, mut machine) = guest.start_by(Berth::run().on_terminal());
    machine.wait_for("serial console of the guest; Ctrl-] then q");
    machine.wait_for("@@ asking");
    // Every key is the guest's, Ctrl-C too, but for the escape, which sends itself when doubled.
    machine.send("forty \x1d\x1dtwo\r");
    assert_eq!(machine.wait_for_value("answer"), "forty \x1dtwo");
    machine.send("\x03\x1d?");
    machine.wait_for("one Ctrl-] for the guest");
    machine.send("\x1dq");
    machine.wait_for("pressing the power button");
    machine.send("\x1dq");
    let report = machine.wait_for_exit();
    let modes = |line: &str| line.strip_prefix("modes: ").map(str::to_owned);
    let modes: Vec<String> = report.console.lines().filter_map(modes).collect();
    let [before, after] = modes.as_slice() else { panic!("{report}") };
    assert_eq!(before, after, "the terminal is not as it was:\n{report}");
    assert_eq!(report.exit_code, Some(7), "{report}");
}

//! The sandbox around machines that do everything: none of their threads has anything left, and
//! nothing that they need is missing.

use std::fs;
use std::process::Command;

use berth_tests::{Kernel, SmallGuest, Viewer, confined_threads};

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

//! Every way a machine can end, and what the caller learns of it.

use std::fs;
use std::time::{Duration, Instant};

use berth_tests::SmallGuest;
use nix::sys::signal::Signal;

/// Waits for the ACPI power button, as a desktop or logind would.
const LISTEN: &str = r#"
node=
for e in /sys/class/input/event*; do
    [ "$(cat $e/device/name)" = "Power Button" ] && node=/dev/input/${e##*/}
done
[ "$node" ] || exit 1
# Open before anyone is told: an event that nobody listens for is gone.
exec 3<$node
echo "@@ listening"
dd bs=24 count=1 <&3 2>/dev/null | hexdump -v -e '24/1 "%02x"' >/tmp/event
echo "@@ pressed $(cat /tmp/event)"
"#;

const DEAF: &str = "echo '@@ deaf'; sleep 600";
/// The same, and never leaves the processor by itself.
const LOOPING: &str = "echo '@@ deaf'; while :; do :; done";

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn poweroff_ends_with_zero() {
    let report = SmallGuest::running("true").cpus(2).report();
    report.expect_success();
    assert!(!report.console.contains("still here after poweroff"));
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn sigterm_presses_the_power_button() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (_directory, mut machine) =
            SmallGuest::running(LISTEN).flag("--stop-timeout", "100").start();
        machine.wait_for("@@ listening");
        machine.signal(signal);
        // struct input_event: two 8-byte times, type EV_KEY, code KEY_POWER (116), value 1.
        let event = machine.wait_for_value("pressed");
        assert_eq!(&event[32..], "0100740001000000", "{signal}: {event}");
        machine.wait_for_exit().expect_success();
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_deaf_guest_is_stopped_after_the_timeout() {
    for job in [DEAF, LOOPING] {
        let (_directory, mut machine) =
            SmallGuest::running(job).flag("--stop-timeout", "3").start();
        machine.wait_for("@@ deaf");
        let asked = Instant::now();
        machine.terminate();
        let report = machine.wait_for_exit();
        assert!(asked.elapsed() >= Duration::from_secs(3), "it waited {:?}", asked.elapsed());
        assert_eq!(report.exit_code, Some(6), "{job}: {report}");
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_reader_that_stopped_holds_up_nothing() {
    // More than a pipe holds, and the reader's own buffer.
    let job = "echo '@@ ready'; read -r _ </dev/ttyS0; tr '\\0' . </dev/zero | head -c 120000; poweroff -f";
    let (_directory, mut machine) = SmallGuest::running(job).start();
    machine.wait_for("@@ ready");
    machine.console.pause(true);
    machine.send("go\n");
    let asked = Instant::now();
    while machine.is_running() {
        assert!(asked.elapsed() < machine.patience(), "{}", machine.describe("it does not end"));
        std::thread::sleep(Duration::from_millis(100));
    }
    machine.console.pause(false);
    let report = machine.wait_for_exit();
    assert_eq!(report.exit_code, Some(0), "{report}");
    let passed = report.console.matches('.').count();
    assert!((20_000..120_000).contains(&passed), "{passed} bytes came through");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_second_signal_stops_at_once() {
    let (_directory, mut machine) = SmallGuest::running(DEAF).flag("--stop-timeout", "600").start();
    machine.wait_for("@@ deaf");
    machine.terminate();
    std::thread::sleep(Duration::from_millis(500));
    assert!(machine.is_running(), "one signal only presses the button");
    let asked = Instant::now();
    machine.terminate();
    let report = machine.wait_for_exit();
    assert!(asked.elapsed() < Duration::from_secs(60), "it took {:?}", asked.elapsed());
    assert_eq!(report.exit_code, Some(7), "{report}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_panic_has_an_exit_code_and_a_report() {
    let guest = SmallGuest::running(
        "modprobe pvpanic_pci; modprobe pvpanic_mmio; echo c >/proc/sysrq-trigger",
    );
    let log = guest.directory().join("termination-log");
    fs::write(&log, "").expect("the directory is writable");
    let (_directory, machine) = guest.flag("--termination-log", log.display().to_string()).start();
    let report = machine.wait_for_exit();
    assert_eq!(report.exit_code, Some(3), "{report}");
    let written = fs::read_to_string(&log).expect("the report is there");
    assert!(written.contains("panic"), "{written}");
    assert!(written.contains("Kernel panic - not syncing: sysrq triggered crash"), "{written}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_triple_fault_has_an_exit_code() {
    // reboot=t: the kernel loads an empty IDT and raises an interrupt.
    let report = SmallGuest::running("reboot -f; sleep 60").cmdline("reboot=t").report();
    assert_eq!(report.exit_code, Some(4), "{report}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn nothing_is_left_behind() {
    let (directory, machine) = SmallGuest::running("true").start();
    machine.wait_for_exit().expect_success();
    let mut left: Vec<String> = fs::read_dir(directory.path())
        .expect("the directory is there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    // The initrd is the test's own; the identity is kept for the next start.
    left.retain(|name| name != "initrd" && !name.starts_with("small."));
    assert_eq!(left, Vec::<String>::new());
}

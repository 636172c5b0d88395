//! Memory that goes back to the host: what the guest frees, and what it is asked for when the cgroup
//! that its machine runs in has too little.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use berth_tests::{Berth, SmallGuest, VirtualMachine};

const MIB: u64 = 1 << 20;
/// How long memory may take to come back: the guest reports it some seconds after it was freed.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the jobs begin with.
const FUNCTIONS: &str = r#"
mount -o remount,size=95% /tmp
fill() { dd if=/dev/zero of=/tmp/$1 bs=1M count=$2 2>/dev/null; }
available() { awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo; }
"#;

/// A cgroup for one machine, removed when it is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str, limit: u64) -> Cgroup {
        let top = Path::new("/sys/fs/cgroup");
        fs::write(top.join("cgroup.subtree_control"), "+memory")
            .expect("a memory cgroup, version 2");
        let dir = top.join(name);
        fs::create_dir(&dir).expect("a cgroup can be made");
        let cgroup = Cgroup(dir);
        cgroup.write("memory.max", &limit.to_string());
        cgroup
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap_or_else(|e| panic!("{file}: {e}"));
    }

    fn event(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.events")).expect("the file is there");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Joins it with the process that is to become berth.
    fn enter(&self, guest: SmallGuest) -> (tempfile::TempDir, VirtualMachine) {
        let procs = self.0.join("cgroup.procs");
        guest.start_by(Berth::run_after(&format!("echo $$ >{}", procs.display())))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just reaped may still be counted for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Where another process of the pod keeps what the kernel cannot take back.
const OTHER: &str = "/dev/shm/other";

/// Such a process; what it keeps goes with it.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_file(OTHER);
    }
}

/// Resident memory of the machine's process, in MiB.
fn resident(machine: &VirtualMachine) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", machine.pid()))
        .unwrap_or_else(|e| panic!("{}", machine.describe(&format!("the process is gone: {e}"))));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse().ok())
        .expect("VmRSS is a number of KiB");
    kib / 1024
}

/// Waits until `is` holds of a value that is looked at again and again; the value.
fn wait_until(machine: &VirtualMachine, what: &str, is: impl Fn() -> (bool, u64)) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (done, value) = is();
        if done {
            return value;
        }
        assert!(Instant::now() < deadline, "{}", machine.describe(&format!("{what}: {value}")));
        thread::sleep(Duration::from_millis(250));
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn what_the_guest_frees_comes_back() {
    let job = format!(
        "{FUNCTIONS}
read x; fill a 256; echo \"@@ filled 256\"
read x; rm /tmp/a; echo \"@@ freed 256\"
read x"
    );
    let (_directory, mut machine) = SmallGuest::running(&job).memory("512M").start();
    machine.wait_for("@@ begin");
    let before = resident(&machine);
    machine.send("\n");
    machine.wait_for("@@ filled");
    let during = resident(&machine);
    machine.send("\n");
    machine.wait_for("@@ freed");
    let after = wait_until(&machine, "what was freed stays resident (MiB)", || {
        let now = resident(&machine);
        (now + 200 < during, now)
    });
    eprintln!("resident: {before} MiB before, {during} MiB with 256 MiB in use, {after} MiB after");
    assert!(during >= before + 230, "{before} MiB before, {during} MiB during");
    machine.send("\n");
    machine.wait_for_exit().expect_success();
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_machine_may_have_no_balloon() {
    let job =
        format!("{FUNCTIONS}\nls /sys/bus/virtio/drivers/virtio_balloon/virtio* && exit 1\ntrue");
    let guest = SmallGuest::running(&job).flag("--balloon", "off");
    guest.report().expect_success();
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_guest_gives_its_cache_up_for_others() {
    let cgroup = Cgroup::new("others", 800 * MIB);
    // What is above this has to wait, rather than to be killed at once.
    cgroup.write("memory.high", &((512 + 64) * MIB).to_string());
    let job = format!(
        "{FUNCTIONS}
# A cache that nobody needs; it is there as long as the disk is open.
exec 3<$(disk data); dd bs=1M of=/dev/null <&3 2>/dev/null
echo \"@@ cached $(awk '/^Cached|^Buffers/ {{ n += $2 }} END {{ print int(n / 1024) }}' /proc/meminfo)\"
read x
echo \"@@ alive $(available)\""
    );
    let guest = SmallGuest::running(&job).memory("512M").flag("--log-level", "debug");
    let disk = guest.directory().join("data");
    berth_tests::DiskImage::raw(&disk, 400 * MIB);
    let guest = guest.disk(&disk, "format=raw,serial=data");
    let (_directory, mut machine) = cgroup.enter(guest);
    let cached: u64 = machine.wait_for_value("cached").parse().expect("a number");
    assert!(cached > 250, "{cached} MiB are cached");
    let before = resident(&machine);
    // Somebody else in the pod: 250 MiB in memory that the kernel cannot take back.
    let script = format!(
        "echo $$ >{}/cgroup.procs; exec head -c 250M /dev/zero >{OTHER}",
        cgroup.0.display()
    );
    let other = Command::new("sh").args(["-c", &script]).spawn();
    let mut other = Other(other.expect("sh can be run"));
    let after = wait_until(&machine, "the guest gives nothing up (MiB resident)", || {
        let now = resident(&machine);
        (now + 100 < before, now)
    });
    eprintln!("resident: {before} MiB alone, {after} MiB beside others");
    wait_until(&machine, "the other does not get its memory", || {
        (fs::metadata(OTHER).is_ok_and(|file| file.len() == 250 * MIB), 0)
    });
    assert!(other.0.wait().expect("it can be waited for").success());
    drop(other);
    assert!(machine.log.text().contains("the guest is asked to do without"));
    // When they are gone, it may have it again.
    wait_until(&machine, "it is not given back", || {
        (machine.log.text().contains("the guest may have all of its memory again"), 0)
    });
    machine.send("\n");
    machine.wait_for_exit().expect_success();
    assert_eq!(cgroup.event("oom_kill"), 0);
}

/// What the chart's pods have beside a guest of 1 GiB with one vCPU (docs/helm.md).
const OVERHEAD: u64 = (64 + 4 + 8) * MIB;

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_hog_in_the_guest_is_the_guests_own_matter() {
    let cgroup = Cgroup::new("hog", 1024 * MIB + OVERHEAD);
    let job = format!(
        "{FUNCTIONS}
echo 1 >/proc/sys/vm/overcommit_memory
# All that there is, beside a host's page cache that is full, too: the kernel ends who wants more.
exec 3<$(disk data); dd bs=1M of=/dev/null <&3 2>/dev/null
dd if=/dev/zero of=/dev/null bs=2000M count=1 2>/dev/null
echo \"@@ hog $?\"
dmesg | grep -c 'Out of memory: Killed process' | sed 's/^/@@ killed /'"
    );
    let guest = SmallGuest::running(&job).memory("1G");
    let disk = guest.directory().join("data");
    berth_tests::DiskImage::raw(&disk, 200 * MIB);
    let guest = guest.disk(&disk, "format=raw,serial=data");
    let (_directory, mut machine) = cgroup.enter(guest);
    // Killed, says the shell.
    assert_eq!(machine.wait_for_value("hog"), "137");
    let peak = resident(&machine);
    assert_ne!(machine.wait_for_value("killed"), "0");
    machine.wait_for_exit().expect_success();
    eprintln!("resident: {peak} MiB; {} times at the limit", cgroup.event("max"));
    assert!(peak > 700, "the hog had next to nothing: {peak} MiB");
    assert_eq!(cgroup.event("oom_kill"), 0);
}

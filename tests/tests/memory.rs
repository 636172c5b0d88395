//! Memory that goes back to the host: what the guest frees, and what it is asked for when the cgroup
//! that its machine runs in has too little. And memory that does not: on huge pages.

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

/// The host's pool of pages of 2 MiB, as large as a test wants it; it is as it was when this is dropped.
struct Pool(u64);

impl Pool {
    const DIR: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

    fn of(pages: u64) -> Pool {
        let pool = Pool(Pool::read("nr_hugepages"));
        Pool::set(pages);
        assert_eq!(
            Pool::read("nr_hugepages"),
            pages,
            "the host has no {pages} huge pages to set aside"
        );
        pool
    }

    fn set(pages: u64) {
        // What was loaded from files is in the way of large pieces.
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        fs::write(format!("{}/nr_hugepages", Pool::DIR), pages.to_string())
            .unwrap_or_else(|e| panic!("huge pages cannot be set aside: {e}"));
    }

    fn read(name: &str) -> u64 {
        let text = fs::read_to_string(format!("{}/{name}", Pool::DIR));
        text.ok().and_then(|text| text.trim().parse().ok()).expect("the kernel has huge pages")
    }

    /// What nobody has, nor has a promise of.
    fn free() -> u64 {
        Pool::read("free_hugepages") - Pool::read("resv_hugepages")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        Pool::set(self.0);
    }
}

/// What the machine's process has mapped on pages of 2 MiB, in MiB.
fn on_huge_pages(machine: &VirtualMachine) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", machine.pid())).expect("it runs");
    let (mut size, mut sum) = (0, 0);
    for line in maps.lines() {
        let number = |rest: &str| rest.trim().trim_end_matches(" kB").parse::<u64>().expect("KiB");
        if let Some(rest) = line.strip_prefix("Size:") {
            size = number(rest);
        } else if let Some(rest) = line.strip_prefix("KernelPageSize:") {
            sum += if number(rest) == 2048 { size } else { 0 };
        }
    }
    sum / 1024
}

/// The value of a metric, by what its line begins with, once it is there.
fn metric(machine: &VirtualMachine, name: &str) -> u64 {
    let read = || {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "120",
                "http://127.0.0.1:5900/metrics",
            ])
            .output()
            .expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse::<f64>().ok())
    };
    wait_until(machine, name, || read().map_or((false, 0), |value| (true, value as u64)))
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn memory_on_huge_pages_is_there_from_the_first_to_the_last() {
    let _pool = Pool::of(200);
    let job = format!(
        "{FUNCTIONS}
d=$(disk state)
boots=$(($(dd if=$d bs=1 count=1 2>/dev/null | tr '\\000' 0) + 1))
printf $boots | dd of=$d conv=notrunc,fsync 2>/dev/null
fill a 200; echo \"@@ boot $boots\"
read x; rm /tmp/a; echo \"@@ freed $boots\"
read x; [ $boots = 2 ] && exit 0
reboot -f
sleep 600"
    );
    let guest = SmallGuest::running(&job).memory("320M").flag("--hugepages", "2M");
    let disk = guest.directory().join("state");
    berth_tests::DiskImage::raw(&disk, MIB);
    let (_directory, mut machine) = guest.disk(&disk, "format=raw,serial=state").start();
    for boot in ["1", "2"] {
        assert_eq!(machine.wait_for_value("boot"), boot);
        assert_eq!((on_huge_pages(&machine), Pool::free()), (320, 40), "boot {boot}");
        // The kernel counts them apart; Berth does not.
        let counted = resident(&machine);
        assert!(counted < 100, "{counted} MiB are resident");
        assert_eq!(metric(&machine, "berth_guest_memory_resident_bytes"), 320 * MIB);
        let all = metric(&machine, "berth_process_resident_memory_bytes");
        assert!((320 * MIB..420 * MIB).contains(&all), "{all}");
        // Nothing comes back, and nobody complains.
        machine.send("\n");
        assert_eq!(machine.wait_for_value("freed"), boot);
        let told = metric(&machine, "berth_guest_memory_reported_bytes{kind=\"total\"}");
        assert!((200 * MIB..=320 * MIB).contains(&told), "the guest tells of {told} bytes");
        // Longer than it takes for what is free to be reported.
        thread::sleep(Duration::from_secs(10));
        assert_eq!((on_huge_pages(&machine), Pool::free()), (320, 40), "boot {boot}");
        assert_eq!(metric(&machine, "berth_balloon_returned_bytes_total{how=\"reported\"}"), 0);
        assert_eq!(metric(&machine, "berth_balloon_failures_total"), 0);
        machine.send("\n");
    }
    let end = machine.wait_for_exit();
    end.expect_success();
    assert!(end.log.contains("160 huge pages of 2 MiB; nothing"), "{end}");
    assert_eq!(Pool::free(), 200);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn too_few_huge_pages_are_told_before_anything_is_made() {
    let _pool = Pool::of(20);
    let guest = || SmallGuest::running("true").memory("128M").flag("--hugepages", "2M");
    // What helps is something else in a container, and this may be one.
    let refused = |end: berth_tests::Report, what: &str, remedy: &str| {
        assert_eq!(end.exit_code, Some(1), "{end}");
        let errors: Vec<&str> = end.log.lines().filter(|line| line.contains("error")).collect();
        let start = format!("128 MiB of guest memory need 64 huge pages of 2 MiB, and {what}");
        assert!(errors.len() == 1 && errors[0].contains(&start), "{end}");
        assert!(errors[0].contains(remedy), "{end}");
        assert_eq!(Pool::free(), Pool::read("nr_hugepages"));
    };
    refused(
        guest().report(),
        "20 are free on this ",
        ": echo 64 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
    );
    // A cgroup may have fewer than there are.
    Pool::set(80);
    let cgroup = Cgroup::new("hugepages", 512 * MIB);
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+hugetlb").expect("a hugetlb cgroup");
    cgroup.write("hugetlb.2MB.max", &(124 * MIB).to_string());
    let (_directory, machine) = cgroup.enter(guest());
    refused(machine.wait_for_exit(), "this cgroup may have 62 more; ", "");
    // Where it cannot see that, the kernel says so when the memory is mapped, and not later.
    let procs = cgroup.0.join("cgroup.procs");
    let unseen = format!("echo $$ >{}; set -- unshare --cgroup \"$@\"", procs.display());
    let (_directory, machine) = guest().start_by(Berth::run_after(&unseen));
    refused(
        machine.wait_for_exit(),
        "only 62 can be had here; ",
        "raise this cgroup's (or pod's) limit on them, or do without --hugepages",
    );
    // With as many as it needs, it runs, however little else it may have.
    cgroup.write("hugetlb.2MB.max", &(128 * MIB).to_string());
    cgroup.write("memory.max", &(100 * MIB).to_string());
    let (_directory, machine) = cgroup.enter(guest());
    machine.wait_for_exit().expect_success();
}

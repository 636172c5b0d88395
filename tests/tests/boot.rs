//! From the start of the process to a job in user space, and back through a reboot: processors,
//! memory, clocks, the kernel's opinion of the platform.

use std::time::Duration;

use berth_tests::{DiskImage, Kernel, SmallGuest};

/// What every job says of its machine.
const INSPECT: &str = r#"
echo "@@ cpus $(nproc)"
echo "@@ memory-kib $(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
echo "@@ clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "@@ year $(date +%Y)"
# What a kernel says of a platform that is not as its tables claim. Not its surprise
# at the size of the XSAVE area: TCG does not intercept XSETBV, so in a nested
# machine KVM never learns which state components the guest switched on.
dmesg | awk '/cut here/ { held = 1 } { block = block $0 "\n" }
    !held || /end trace/ { if (block !~ /XSAVE consistency/) printf "%s", block; block = ""; held = 0 }
    END { printf "%s", block }' | grep -iE 'firmware bug|acpi (bios )?error|BUG:|WARNING:|nobody cared|spurious|can.t claim|call trace|mce:.*error' |
    sed 's/^/@@ complaint /'
true
"#;

fn boots(kernel: Kernel, cpus: u32, memory: &str) {
    let guest = SmallGuest::running(INSPECT).kernel(kernel).cpus(cpus).memory(memory);
    // Where the host has one processor, each that the guest brings up waits its turn; and if one
    // does not come, the log says which.
    let guest = if cpus > 8 {
        guest.cmdline("loglevel=7").patience(Duration::from_secs(900))
    } else {
        guest
    };
    let report = guest.report();
    report.expect_success();
    assert_eq!(report.value("cpus"), cpus.to_string());
    assert!(
        ["kvm-clock", "tsc"].contains(&report.value("clock")),
        "clock source {}",
        report.value("clock")
    );
    let year: u32 = report.value("year").parse().expect("a year");
    assert!(year >= 2025, "the real-time clock says {year}");
    assert_eq!(report.values("complaint"), Vec::<&str>::new());
    assert_eq!(report.values("missing"), Vec::<&str>::new());
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_bzimage_boots_with_one_cpu() {
    boots(Kernel::BzImage, 1, "256M");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_bzimage_boots_with_two_cpus() {
    boots(Kernel::BzImage, 2, "256M");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn an_elf_kernel_boots_with_one_cpu() {
    boots(Kernel::Elf, 1, "256M");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn an_elf_kernel_boots_with_four_cpus() {
    boots(Kernel::Elf, 4, "256M");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn twelve_cpus_come_up() {
    boots(Kernel::Elf, 12, "512M");
}

#[test]
#[ignore = "needs KVM, and minutes where it is emulated: tests/run life"]
fn thirty_two_cpus_come_up() {
    boots(Kernel::Elf, 32, "1G");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn little_memory_is_enough() {
    boots(Kernel::Elf, 1, "96M");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn memory_above_four_gib_is_there_and_holds() {
    let job = format!(
        "{INSPECT}{}",
        r#"
grep -q '^0*100000000-.*System RAM' /proc/iomem && echo "@@ high yes"
# The kernel hands out the highest memory first.
dd if=/dev/urandom of=/tmp/one bs=1M count=8 2>/dev/null
for i in 1 2 3 4 5 6 7 8; do cat /tmp/one; done >/tmp/eight
split() { dd if=/tmp/eight bs=8M skip=$1 count=1 2>/dev/null; }
for i in 0 3 7; do split $i | cmp - /tmp/one || exit 1; done
"#
    );
    let report = SmallGuest::running(&job).memory("3G").report();
    report.expect_success();
    assert_eq!(report.value("high"), "yes");
    let kib: u64 = report.value("memory-kib").parse().expect("a number");
    assert!(kib > 2_800_000, "{kib} KiB of 3 GiB");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn processors_are_where_the_topology_says() {
    let report = SmallGuest::running(
        r#"
for c in /sys/devices/system/cpu/cpu[0-9]*; do
    echo "@@ place $(cat $c/topology/physical_package_id):$(cat $c/topology/core_id):$(cat $c/topology/thread_siblings_list)"
done
echo "@@ online $(cat /sys/devices/system/cpu/online)"
# Each processor runs what is bound to it, and its timer ticks.
for c in 0 1 2 3; do
    taskset $(printf %x $((1 << c))) sh -c 'sleep 0.2; echo "@@ ran $(cut -d " " -f 39 /proc/self/stat)"'
done
"#,
    )
    .cpus(4)
    .report();
    report.expect_success();
    assert_eq!(report.value("online"), "0-3");
    let mut places = report.values("place");
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 4, "places {places:?}");
    assert_eq!(report.values("ran"), ["0", "1", "2", "3"]);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn time_passes_as_on_the_host() {
    let (_directory, mut machine) = SmallGuest::running(
        r#"
read before rest </proc/uptime
echo "@@ before $before"
sleep 5
read after rest </proc/uptime
echo "@@ after $after"
"#,
    )
    .start();
    let parse = |text: String| text.parse::<f64>().expect("seconds");
    let host_before = machine.started.elapsed().as_secs_f64();
    let before = parse(machine.wait_for_value("before"));
    let seen_before = machine.started.elapsed().as_secs_f64();
    let after = parse(machine.wait_for_value("after"));
    let seen_after = machine.started.elapsed().as_secs_f64();
    let guest = after - before;
    assert!(guest >= 5.0, "the guest slept {guest} s");
    // The console delays both readings a little; a clock at the wrong rate is far off.
    assert!(guest <= seen_after - host_before + 0.5, "the guest's clock is fast: {guest} s");
    assert!(
        guest >= (seen_after - seen_before) * 0.7 - 0.5,
        "the guest's clock is slow: {guest} s"
    );
    machine.wait_for_exit().expect_success();
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn reboot_comes_back_in_the_same_process() {
    let guest = SmallGuest::running(
        r#"
d=$(disk state)
boots=$(($(dd if=$d bs=1 count=1 2>/dev/null | tr '\000' 0) + 1))
printf $boots | dd of=$d conv=notrunc,fsync 2>/dev/null
echo "@@ boot $boots"
[ $boots -ge 3 ] && exit 0
reboot -f
sleep 60
"#,
    )
    .cpus(2);
    let state = guest.directory().join("state");
    DiskImage::raw(&state, 1 << 20);
    let (_directory, mut machine) = guest.disk(&state, "format=raw,serial=state").start();
    for boot in ["1", "2", "3"] {
        assert_eq!(machine.wait_for_value("boot"), boot);
        assert!(machine.is_running());
    }
    machine.wait_for_exit().expect_success();
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_console_takes_input() {
    let (_directory, mut machine) = SmallGuest::running(
        r#"
echo "@@ asking"
read answer </dev/ttyS0
echo "@@ answer $answer"
"#,
    )
    .start();
    machine.wait_for("@@ asking");
    machine.send("forty two\n");
    assert_eq!(machine.wait_for_value("answer"), "forty two");
    machine.wait_for_exit().expect_success();
}

//! Hosts that are full or broken: the guest waits, or is told; it is never told wrongly.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use berth_tests::{Checked, DiskImage, LoopDevice, SmallGuest, VirtualMachine, Volume, scratch};

const PATIENCE: Duration = Duration::from_secs(900);

/// Writes 16 MiB at random, and reads them back.
const VERIFY: &str = r#"
verify() {
    fio --name=w --filename=$(disk $1) --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
        --bsrange=4k-64k --size=16m --fsync=64 --verify=crc32c --verify_fatal=1 --randseed=3 \
        --minimal >/tmp/fio 2>&1 || { cat /tmp/fio; return 3; }
    grep -iE 'verify|error' /tmp/fio && return 4
    echo "@@ verified $1"
}
tools || exit 1
"#;

struct Log(usize);

impl Log {
    /// Waits until the log says `text`, after what earlier calls waited for; the line.
    fn wait_for(&mut self, machine: &VirtualMachine, text: &str) -> String {
        let Some(end) = machine.log.find(text, self.0, PATIENCE) else {
            panic!("{}", machine.describe(&format!("the log never said {text:?}")));
        };
        self.0 = end;
        let log = machine.log.text();
        let start = log[..end].rfind('\n').map_or(0, |newline| newline + 1);
        log[start..].lines().next().unwrap_or_default().to_owned()
    }
}

fn full_volume(engine: &str) {
    let volume = Volume::new(80);
    let job = format!(
        "{VERIFY}verify raw || exit\nverify overlay || exit\n{}",
        r#"
dmesg | grep -iE 'i/o error|blk_update|hung|lockup' && exit 6
true"#
    );
    let guest = SmallGuest::running(&job).with_tools();
    let base = volume.path("base");
    DiskImage::raw(&base, 64 << 20);
    let (raw, top) = (volume.path("raw.img"), volume.path("top.qcow2"));
    DiskImage::raw(&raw, 64 << 20);
    let top = DiskImage::overlay(&top, &DiskImage::at(&base));
    volume.fill_up_to("second", 20);
    volume.fill_up_to("first", 6);
    let (_directory, mut machine) = guest
        .disk(&raw, &format!("format=raw,serial=raw,engine={engine}"))
        .disk(top.path(), &format!("format=qcow2,serial=overlay,engine={engine}"))
        .start();
    let mut log = Log(0);
    for (disk, in_the_way) in [(raw.as_path(), "first"), (top.path(), "second")] {
        let line = log.wait_for(&machine, "the machine is paused");
        assert!(line.contains(&disk.display().to_string()), "{line}");
        assert!(line.contains(" KiB are free"), "{line}");
        fs::remove_file(volume.path(in_the_way)).expect("it is there");
        log.wait_for(&machine, "the machine goes on");
    }
    machine.wait_for("@@ verified overlay");
    let report = machine.wait_for_exit();
    report.expect_success();
    assert_eq!(report.values("verified"), ["raw", "overlay"]);
    assert_eq!(top.check(), Checked::Clean);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_full_volume_pauses_the_machine_with_io_uring() {
    full_volume("io_uring");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_full_volume_pauses_the_machine_with_plain_calls() {
    full_volume("sync");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_paused_machine_ends_when_asked() {
    let volume = Volume::new(64);
    let job = format!("{VERIFY}verify overlay");
    let guest = SmallGuest::running(&job).with_tools().flag("--stop-timeout", "2");
    let base = volume.path("base");
    DiskImage::raw(&base, 64 << 20);
    let top = DiskImage::overlay(&volume.path("top.qcow2"), &DiskImage::at(&base));
    volume.fill_up_to("in-the-way", 4);
    let (_directory, machine) = guest.disk(top.path(), "format=qcow2,serial=overlay").start();
    Log(0).wait_for(&machine, "the machine is paused");
    machine.terminate();
    let report = machine.wait_for_exit();
    // Stopped by the timeout, or, where the last flush found no room, failed.
    assert!([Some(6), Some(5)].contains(&report.exit_code), "{report}");
    assert!(report.log.contains("found no room to the end, and were not done"), "{report}");
    top.check(); // leaks at most, or it panics
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_broken_device_is_told_to_the_guest() {
    let guest = SmallGuest::running(
        r#"
d=$(disk bad)
read go </dev/ttyS0
dd if=$d of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null || exit 1
dd if=$d of=/dev/null bs=4k count=1 skip=1024 iflag=direct 2>/dev/null && exit 2
echo "@@ read refused"
# It is taken by the host's cache, but cannot be made durable: no flush succeeds from then on.
dd if=/dev/urandom of=$d bs=64k count=48 seek=32 oflag=direct 2>/dev/null
for try in 1 2 3; do
    dd if=/dev/null of=$d conv=notrunc,fsync 2>/dev/null && exit 3
done
echo "@@ flush refused"
dmesg | grep -q 'I/O error' || exit 4
"#,
    );
    // A device whose file has lost its end, on a filesystem that has no room for another.
    let volume = Volume::new(16);
    let file = volume.path("device");
    File::create(&file).and_then(|file| file.set_len(8 << 20)).expect("the volume is writable");
    let device = LoopDevice::on(&file);
    let (_directory, mut machine) = guest.disk(device.path(), "format=raw,serial=bad").start();
    machine.wait_for("@@ begin");
    File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_len(1 << 20))
        .expect("the volume is writable");
    volume.fill_up_to("in-the-way", 0);
    machine.send("go\n");
    machine.wait_for("@@ read refused");
    machine.wait_for("@@ flush refused");
    let report = machine.wait_for_exit();
    assert_eq!(report.job_status(), 0, "{report}");
    // A disk that was not made durable is no good end.
    assert_eq!(report.exit_code, Some(5), "{report}");
    assert!(report.log.contains("could not be flushed"), "{report}");
    assert!(report.log.contains("a request failed"), "{report}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn devices_keep_their_sectors_and_read_only_means_it() {
    let directory = scratch();
    let file = directory.path().join("large-sectors");
    DiskImage::raw(&file, 8 << 20);
    let device = LoopDevice::with_large_blocks(&file);
    let report = SmallGuest::running(
        r#"
sys() { cat /sys/block/$(basename $(disk $1))/$2; }
echo "@@ sectors $(sys large queue/logical_block_size) $(sys plain queue/logical_block_size)"
echo "@@ ro $(sys large ro) $(sys plain ro)"
dd if=/dev/zero of=$(disk plain) bs=4k count=1 oflag=direct 2>/dev/null && exit 1
dd if=/dev/zero of=$(disk large) bs=4k count=1 oflag=direct 2>/dev/null || exit 2
dd if=/dev/urandom of=$(disk large) bs=1M count=6 conv=fsync 2>/dev/null || exit 3
blkdiscard -o 0 -l $((6 << 20)) $(disk large) || exit 4
cmp -n $((6 << 20)) $(disk large) /dev/zero || exit 5
"#,
    )
    .disk(device.path(), "format=raw,serial=large")
    .disk(&berth_tests::guest_file("small/tools.raw"), "format=raw,ro,serial=plain")
    .report();
    report.expect_success();
    assert_eq!((report.value("sectors"), report.value("ro")), ("4096 512", "0 1"));
    // What the guest does not need the device gives back.
    let used = fs::metadata(&file).expect("the file is there").blocks() * 512;
    assert!(used < 1 << 20, "{used} bytes are still used");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn limits_are_kept() {
    // 40 requests beyond the first second's 20 take two seconds more, whatever the machine.
    let guest = SmallGuest::running(
        r#"
from=$(cut -d ' ' -f 1 /proc/uptime)
dd if=$(disk slow) of=/dev/null bs=4k count=60 iflag=direct 2>/dev/null || exit 1
to=$(cut -d ' ' -f 1 /proc/uptime)
echo "@@ took $(awk "BEGIN { print int(($to - $from) * 10) }")"
"#,
    );
    let disk = guest.directory().join("slow");
    DiskImage::raw(&disk, 8 << 20);
    let report = guest.disk(&disk, "format=raw,serial=slow,iops=20").report();
    report.expect_success();
    let tenths: u32 = report.value("took").parse().expect("a number");
    assert!(tenths >= 15, "60 requests at 20 a second took {tenths} tenths of a second");
}

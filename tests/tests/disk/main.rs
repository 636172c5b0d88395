//! Data on disks: every byte that was written is read, and every byte that was flushed outlives
//! the process.

mod host;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use berth_tests::{Berth, Checked, DiskImage, SmallGuest, scratch};

const MIB: u64 = 1 << 20;

/// Fills `path` with `mib` MiB that are not zeroes and do not repeat: pages of noise with their
/// number in front.
fn fill(path: &Path, mib: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut page = Vec::new();
    while page.len() < 4096 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        page.extend(state.to_le_bytes());
    }
    let mut bytes = Vec::new();
    for number in 1..=mib * MIB / 4096 {
        page[..8].copy_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&page);
    }
    fs::write(path, bytes).expect("the directory is writable");
}

/// fio writes, reads, trims and flushes at random on a raw disk and on an overlay, and checks
/// every block that it reads; what it did not touch is still what the base holds.
fn verifies(queues: u32, engine: &str) {
    let job = r#"
tools || exit 1
[ $(ls -d /sys/block/$(basename $(disk raw))/mq/* | wc -l) = QUEUES ] || exit 2
for name in raw overlay; do
    before=$(dd if=$(disk $name) bs=1M skip=16 2>/dev/null | sha256sum)
    for depth in 1 32; do
        # Each process has a region of its own, so that each knows what it must find. Reads, writes
        # and flushes in the first 12 MiB; in the next 4, trims of what is then written anew.
        # (fio's trim_percentage would mix them in one job, but fails an assertion of fio 3.33.)
        fio --name=global --filename=$(disk $name) --direct=1 --ioengine=libaio --iodepth=$depth \
            --bsrange=4k-64k --fsync=32 --verify=crc32c --verify_fatal=1 --verify_backlog=128 \
            --randseed=$depth --group_reporting --minimal \
            --name=mix --rw=randrw --numjobs=QUEUES --size=$((12 / QUEUES))m \
            --offset_increment=$((12 / QUEUES))m \
            --name=trim --rw=randtrimwrite --numjobs=QUEUES --offset=12m --size=$((4 / QUEUES))m \
            --offset_increment=$((4 / QUEUES))m >/tmp/fio 2>&1 ||
            { cat /tmp/fio; exit 3; }
        grep -iE 'verify|error' /tmp/fio && exit 4
        echo "@@ verified $name $depth"
    done
    [ "$before" = "$(dd if=$(disk $name) bs=1M skip=16 2>/dev/null | sha256sum)" ] || exit 5
done
dmesg | grep -iE 'i/o error|blk_update' && exit 6
true
"#
    .replace("QUEUES", &queues.to_string());
    let guest = SmallGuest::running(&job).cpus(queues.max(2)).memory("384M").with_tools();
    let (raw, base, top) = (
        guest.directory().join("raw"),
        guest.directory().join("base"),
        guest.directory().join("top.qcow2"),
    );
    fill(&raw, 20);
    fill(&base, 20);
    let base = DiskImage::at(&base);
    let base_sum = base.sha256();
    let top = DiskImage::overlay(&top, &base);
    let (_directory, machine) = guest
        .disk(&raw, &format!("format=raw,serial=raw,queues={queues},engine={engine}"))
        .disk(top.path(), &format!("format=qcow2,serial=overlay,queues={queues},engine={engine}"))
        .start();
    let report = machine.wait_for_exit();
    report.expect_success();
    assert_eq!(report.values("verified"), ["raw 1", "raw 32", "overlay 1", "overlay 32"]);
    assert_eq!(top.check(), Checked::Clean);
    assert_eq!(base.sha256(), base_sum, "the base was written to");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn fio_verifies_with_one_queue_and_io_uring() {
    verifies(1, "io_uring");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn fio_verifies_with_four_queues_and_io_uring() {
    verifies(4, "io_uring");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn fio_verifies_with_one_queue_and_plain_calls() {
    verifies(1, "sync");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn fio_verifies_with_four_queues_and_plain_calls() {
    verifies(4, "sync");
}

/// Writes files and says of each, after fsync, that it is safe. Beside it, noise that keeps
/// allocations, frees and unflushed data coming.
const WRITE_UNTIL_KILLED: &str = r#"
mount -t ext4 $(disk pet) /mnt || exit 1
round=$(ls /mnt | grep -c '^round'); mkdir /mnt/round$round
( while :; do
    dd if=/dev/urandom of=/mnt/noise bs=64k count=24 2>/dev/null
    sync; rm /mnt/noise; fstrim /mnt
  done ) &
i=0
while :; do
    name=round$round/$i
    yes "$name" | head -c $((4096 + i * 3001 % 150000)) >/tmp/record
    dd if=/tmp/record of=/mnt/$name bs=64k conv=fsync 2>/dev/null || exit 2
    # The name, too, is only safe when the directory is.
    busybox sync
    echo "@@ safe $name"
    i=$((i + 1))
done
"#;

const READ_BACK: &str = r#"
mount -t ext4 $(disk pet) /mnt || exit 1
dmesg | grep -q 'recovery complete' && echo "@@ journal recovered"
for name in $(cat /expected 2>/dev/null) SAFE; do
    i=${name##*/}
    yes "$name" | head -c $((4096 + i * 3001 % 150000)) | cmp - /mnt/$name || echo "@@ lost $name"
done
umount /mnt
dmesg | grep -iE 'ext4-fs error|i/o error' && exit 2
true
"#;

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn what_was_flushed_survives_kill() {
    let directory = scratch();
    let base = directory.path().join("base");
    DiskImage::raw(&base, 256 * MIB);
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
        .arg(&base)
        .status()
        .expect("mkfs.ext4 is installed");
    assert!(made.success());
    let pet = DiskImage::overlay(&directory.path().join("pet.qcow2"), &DiskImage::at(&base));
    let mut safe: Vec<String> = Vec::new();
    for round in 0..3_u32 {
        let (_own, mut machine) = SmallGuest::running(WRITE_UNTIL_KILLED)
            .disk(pet.path(), "format=qcow2,serial=pet")
            .start();
        for _ in 0..(6 + 5 * round) {
            machine.wait_for("@@ safe ");
        }
        // Not always at the same place in the loop.
        thread::sleep(Duration::from_millis(u64::from(37 * round)));
        let console = machine.kill();
        // A line that was cut by the end may name a record that is not there.
        let whole = &console[..console.rfind('\n').unwrap_or(0)];
        safe.extend(
            whole
                .lines()
                .filter_map(|line| line.split_once("@@ safe "))
                .map(|(_, name)| name.to_owned()),
        );
        pet.check(); // leaks at most, or it panics
        let report = SmallGuest::running(&READ_BACK.replace("SAFE", &safe.join(" ")))
            .disk(pet.path(), "format=qcow2,serial=pet")
            .report();
        report.expect_success();
        assert_eq!(report.values("lost"), Vec::<&str>::new(), "round {round}:\n{report}");
        assert_eq!(report.value("journal"), "recovered", "round {round}:\n{report}");
    }
    // 6, 11 and 16, but for the line in each round that its end may have cut.
    assert!(safe.len() >= 30, "only {} records", safe.len());
    let raw = directory.path().join("whole");
    let status = Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([pet.path(), &raw])
        .status()
        .expect("qemu-img is installed");
    assert!(status.success());
    let status = Command::new("e2fsck").arg("-fn").arg(&raw).status().expect("e2fsck is installed");
    assert!(status.success(), "e2fsck finds faults");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn discard_gives_space_back() {
    let guest = SmallGuest::running(
        r#"
for name in raw overlay; do
    d=$(disk $name)
    dd if=/dev/urandom of=$d bs=1M count=24 conv=fsync 2>/dev/null || exit 1
    echo "@@ written $name"
    read go </dev/ttyS0
    blkdiscard -o 0 -l $((24 << 20)) $d || exit 2
    # A flush, after which nothing may still refer to what was freed.
    dd if=/dev/null of=$d conv=notrunc,fsync 2>/dev/null
    echo "@@ discarded $name"
    read go </dev/ttyS0
    cmp -n $((1 << 20)) $d /dev/zero || exit 3
done
"#,
    );
    let (raw, base, top) = (
        guest.directory().join("raw"),
        guest.directory().join("base"),
        guest.directory().join("top.qcow2"),
    );
    DiskImage::raw(&raw, 64 * MIB);
    DiskImage::raw(&base, 64 * MIB);
    let top = DiskImage::overlay(&top, &DiskImage::at(&base));
    let (_directory, mut machine) = guest
        .disk(&raw, "format=raw,serial=raw")
        .disk(top.path(), "format=qcow2,serial=overlay")
        .start();
    for (name, path) in [("raw", raw.as_path()), ("overlay", top.path())] {
        let used = || fs::metadata(path).expect("the image is there").blocks() * 512;
        machine.wait_for(&format!("@@ written {name}"));
        let full = used();
        assert!(full >= 24 * MIB, "{name} takes {full} bytes");
        machine.send("go\n");
        machine.wait_for(&format!("@@ discarded {name}"));
        let empty = used();
        assert!(empty < 4 * MIB, "{name} still takes {empty} bytes of {full}");
        machine.send("go\n");
    }
    machine.wait_for_exit().expect_success();
    assert_eq!(top.check(), Checked::Clean);
}

/// The last flush is the machine's own: a guest that just stops makes none.
#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn what_was_discarded_at_the_end_is_free() {
    let guest = SmallGuest::running(
        r#"
d=$(disk pet)
dd if=/dev/urandom of=$d bs=1M count=48 conv=fsync 2>/dev/null || exit 1
blkdiscard -o 0 -l $((48 << 20)) $d || exit 2
echo "@@ end 0"
poweroff -f
"#,
    )
    .flag("--disk-cache", "64K");
    // Small clusters have many counts, of which a small cache holds few.
    let path = guest.directory().join("pet.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=4096"])
        .args([path.as_os_str(), "64M".as_ref()])
        .status()
        .expect("qemu-img is installed");
    assert!(made.success());
    let (_directory, machine) = guest.disk(&path, "format=qcow2,serial=pet").start();
    machine.wait_for_exit().expect_success();
    let pet = DiskImage::at(&path);
    assert_eq!(pet.check(), Checked::Clean);
    let used = fs::metadata(pet.path()).expect("it is there").blocks() * 512;
    assert!(used < 4 * MIB, "{used} bytes are still used");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_second_writer_is_refused() {
    let guest = SmallGuest::running("echo '@@ up'; sleep 600");
    let (base, top) = (guest.directory().join("base"), guest.directory().join("top.qcow2"));
    DiskImage::raw(&base, 8 * MIB);
    let top = DiskImage::overlay(&top, &DiskImage::at(&base));
    let kernel = berth_tests::guest_file("small/vmlinux");
    let (directory, mut machine) = guest.disk(top.path(), "format=qcow2,serial=top").start();
    machine.wait_for("@@ up");

    let second = Berth::run()
        .flag("--name", "second")
        .arg("--no-vnc")
        .flag("--net", "none")
        .flag("--image-dir", directory.path())
        .flag("--kernel", &kernel)
        .flag("--disk", format!("{},format=qcow2", top.path().display()))
        .outcome();
    assert_eq!(second.exit_code, Some(1), "{second:?}");
    assert!(second.stderr.contains("top.qcow2"), "{second:?}");
    assert!(second.stderr.contains(&machine.pid().to_string()), "the holder is named: {second:?}");

    // qemu-img sees the lock, too.
    let foreign = Command::new("qemu-img")
        .args(["resize", "-f", "qcow2"])
        .arg(top.path())
        .arg("16M")
        .output()
        .expect("qemu-img is installed");
    assert!(!foreign.status.success());
    assert!(String::from_utf8_lossy(&foreign.stderr).contains("lock"), "{foreign:?}");
    assert!(machine.is_running());
}

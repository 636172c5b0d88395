//! What the guest's own tools say of the devices, and what happens when drivers leave and return.

use std::fs;
use std::path::Path;

use berth_tests::{DiskImage, Report, SmallGuest, scratch};

const DISK_BYTES: u64 = 16 << 20;

fn report(cpus: u32, job: &str) -> Report {
    let guest = SmallGuest::running(job).cpus(cpus).with_tools();
    let path = guest.directory().join("data");
    DiskImage::raw(&path, DISK_BYTES);
    let report = guest.disk(&path, "format=raw,serial=data,queues=2").report();
    report.expect_success();
    report
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn lspci_finds_nothing_odd() {
    let report = report(
        1,
        r#"
tools || exit 1
modprobe virtio_input || exit 2
lspci -vv -nn >/tmp/devices 2>/tmp/errors || exit 1
cat /tmp/devices
# That the guest's modules have no index of libkmod's (busybox's depmod makes none) is nothing odd.
sed '/libkmod/d; s/^/@@ lspci-error /' /tmp/errors
for d in /sys/bus/pci/devices/*; do
    echo "@@ device ${d##*/} $(cat $d/vendor) $(cat $d/device) $(cat $d/class)"
done
echo "@@ virtio $(grep -c 'Virtio' /tmp/devices)"
echo "@@ msix $(grep -c 'MSI-X: Enable+' /tmp/devices)"
echo "@@ drivers $(ls -d /sys/bus/virtio/devices/*/driver | wc -l)"
"#,
    );
    assert_eq!(report.values("lspci-error"), Vec::<&str>::new());
    // lspci's own marks for what it cannot make sense of. (It knows no VIRTIO_PCI_CAP_PCI_CFG and
    // says "<unknown>" of one.)
    for mark in ["!!!", "<chain broken>", "Unknown header", "<access denied>"] {
        assert!(!report.console.contains(mark), "lspci says {mark}:\n{report}");
    }
    let devices = report.values("device");
    assert!(devices.contains(&"0000:00:00.0 0x8086 0x29c0 0x060000"), "{devices:?}");
    assert!(devices.contains(&"0000:00:1f.0 0x8086 0x2918 0x060100"), "{devices:?}");
    assert!(devices.iter().any(|d| d.ends_with("0x1234 0x1111 0x030000")), "{devices:?}");
    // Modern virtio only: block 1042 (at least tools and data), entropy 1044, keyboard and tablet 1052.
    let of_kind = |id: &str| devices.iter().filter(|d| d.contains(&format!("0x1af4 {id}"))).count();
    assert!(of_kind("0x1042") >= 2, "{devices:?}");
    assert_eq!((of_kind("0x1044"), of_kind("0x1052")), (1, 2), "{devices:?}");
    let virtio: usize = report.value("virtio").parse().expect("a number");
    assert_eq!(report.value("drivers"), virtio.to_string(), "each has its driver");
    assert_eq!(report.value("msix"), virtio.to_string(), "each uses MSI-X");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_disk_says_what_it_is() {
    let report = report(
        2,
        r#"
d=$(disk data); s=/sys/block/${d##*/}
echo "@@ sectors $(cat $s/size)"
echo "@@ logical $(cat $s/queue/logical_block_size)"
echo "@@ queues $(ls -d $s/mq/* | wc -l)"
echo "@@ discard $(cat $s/queue/discard_max_bytes)"
echo "@@ zeroes $(cat $s/queue/write_zeroes_max_bytes)"
echo "@@ cache $(cat $s/queue/write_cache)"
r=$(disk tools)
echo "@@ read-only $(cat /sys/block/${r##*/}/ro)"
dd if=/dev/zero of=$r bs=4k count=1 2>/dev/null && echo "@@ wrote to it"
true
"#,
    );
    assert_eq!(report.value("sectors"), (DISK_BYTES / 512).to_string());
    assert_eq!(report.value("logical"), "512");
    assert_eq!(report.value("queues"), "2");
    assert_ne!(report.value("discard"), "0");
    assert_ne!(report.value("zeroes"), "0");
    assert_eq!(report.value("cache"), "write back");
    assert_eq!(report.value("read-only"), "1");
    assert_eq!(report.values("wrote"), Vec::<&str>::new());
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn entropy_comes_from_the_host() {
    let report = report(
        1,
        r#"
echo "@@ source $(cat /sys/class/misc/hw_random/rng_current)"
dd if=/dev/hwrng of=/tmp/a bs=512 count=1 2>/dev/null
dd if=/dev/hwrng of=/tmp/b bs=512 count=1 2>/dev/null
echo "@@ length $(cat /tmp/a /tmp/b | wc -c)"
# Random bytes do not compress, and do not repeat.
echo "@@ packed $(cat /tmp/a /tmp/b | gzip | wc -c)"
"#,
    );
    assert!(report.value("source").starts_with("virtio_rng"), "{}", report.value("source"));
    assert_eq!(report.value("length"), "1024");
    let packed: u32 = report.value("packed").parse().expect("a number");
    assert!(packed >= 1024, "1024 random bytes became {packed}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn drivers_can_leave_and_return() {
    let report = report(
        1,
        r#"
d=$(disk data)
dd if=/dev/urandom of=/tmp/data bs=1M count=2 2>/dev/null
dd if=/tmp/data of=$d conv=fsync 2>/dev/null
same() { dd if=$(disk data) bs=1M count=2 iflag=direct 2>/dev/null | cmp - /tmp/data; }
same || exit 1
# One device, by unbind and bind, several times.
v=$(readlink -f /sys/block/${d##*/}/device); v=${v##*/}
for i in 1 2 3 4 5; do
    echo $v >/sys/bus/virtio/drivers/virtio_blk/unbind || exit 2
    disk data && exit 3
    echo $v >/sys/bus/virtio/drivers/virtio_blk/bind || exit 4
    same || exit 5
done
# The PCI function itself, by removal and rescan.
p=$(readlink -f /sys/bus/virtio/devices/$v/..); a=${p##*/}
echo 1 >$p/remove
disk data && exit 6
echo 1 >/sys/bus/pci/rescan
same || exit 7
# All drivers, by unloading the modules.
for i in 1 2 3; do
    rmmod virtio_blk virtio_rng && rmmod virtio_pci || exit 8
    ls /sys/block/vd* 2>/dev/null && exit 9
    modprobe virtio_pci && modprobe virtio_blk && modprobe virtio_rng || exit 10
    same || exit 11
done
echo "@@ cycles done"
"#,
    );
    assert_eq!(report.value("cycles"), "done");
}

/// What the guest finds as the generation of its disk, in the pet's directory `dir`.
fn generation(dir: &Path, flags: &[(&str, &str)]) -> String {
    let job = r#"
d=/sys/bus/acpi/devices/BRTH0001:00
grep -q VM_GEN_COUNTER $d/modalias || exit 1
[ "$(cat $d/status)" = 15 ] || exit 2
# Where the kernel has the driver, it has taken the device.
if [ -e /sys/bus/acpi/drivers/vmgenid ]; then
    [ -e /sys/bus/acpi/drivers/vmgenid/BRTH0001:00 ] || exit 3
    echo "@@ driver vmgenid"
fi
id=$(dd if=/dev/mem bs=16 skip=$((0xef000 / 16)) count=1 2>/dev/null | hexdump -v -e '16/1 "%02x"')
echo "@@ id $id"
"#;
    let path = |name: &str| dir.join(name).display().to_string();
    let mut guest =
        SmallGuest::running(job).flag("--image-dir", path("")).switch(&path("base.raw"));
    for (name, value) in flags {
        guest = guest.flag(name, *value);
    }
    let report = guest.report();
    report.expect_success();
    if let [driver] = report.values("driver")[..] {
        eprintln!("driver: {driver}");
    }
    report.value("id").to_owned()
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_generation_is_that_of_the_disk() {
    let dir = scratch();
    DiskImage::raw(&dir.path().join("base.raw"), 1 << 20);
    let (pet, copy) = (dir.path().join("small.qcow2"), dir.path().join("copy"));
    let first = generation(dir.path(), &[]);
    assert!(first.len() == 32 && first != "0".repeat(32), "{first}");
    assert_eq!(generation(dir.path(), &[]), first, "the same disk");
    fs::copy(&pet, &copy).and_then(|_| fs::rename(&copy, &pet)).expect("the disk can be copied");
    let second = generation(dir.path(), &[]);
    assert_ne!(second, first, "the disk was copied");
    let said = "01020304-0506-4708-890a-0b0c0d0e0f10";
    // As GUIDs lie in memory: the first three parts little-endian.
    let want = "0403020106050847890a0b0c0d0e0f10";
    assert_eq!(generation(dir.path(), &[("--generation-id", said)]), want);
    assert_eq!(generation(dir.path(), &[]), want, "it is kept");
}

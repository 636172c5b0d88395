//! A disk's own kernel, taken from its file system as its loader would: compressed in a base image, with
//! an overlay on it, and again after a reboot.

use std::fs;
use std::path::Path;
use std::process::Command;

use berth_tests::{Berth, Checked, DiskImage, SmallGuest, guest_file, scratch};

/// Boots twice; the second time by a command line that it has written itself.
const REWRITES_ITS_MENU: &str = r#"
mount -t ext4 $(ls /dev/vd* | head -n 1) /mnt || exit 1
echo "@@ cmdline $(cat /proc/cmdline)"
grep -q second /proc/cmdline && { umount /mnt; exit 0; }
sed -i 's/ first$/ second/' /mnt/boot/grub/grub.cfg || exit 2
umount /mnt
reboot -f
sleep 60
"#;

const MENU: &str = "set default=0
menuentry 'Small' {
    linux /boot/vmlinuz console=ttyS0 quiet panic=-1 first
    initrd /boot/initrd
}
";

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A disk with an ext4 file system and nothing beside it, compressed.
fn make_disk(directory: &Path, initrd: &Path) -> DiskImage {
    let (tree, raw, disk) =
        (directory.join("tree"), directory.join("raw"), directory.join("disk.qcow2"));
    fs::create_dir_all(tree.join("boot/grub")).expect("the directory is writable");
    fs::copy(guest_file("small/bzImage"), tree.join("boot/vmlinuz")).expect("there is room");
    fs::copy(initrd, tree.join("boot/initrd")).expect("there is room");
    fs::write(tree.join("boot/grub/grub.cfg"), MENU).expect("there is room");
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).args([&tree, &raw]).arg("96M"));
    run(Command::new("qemu-img").args(["convert", "-c", "-O", "qcow2"]).args([&raw, &disk]));
    DiskImage::at(&disk)
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_disk_boots_by_its_own_menu_read_again_at_each_boot() {
    let directory = scratch();
    let guest = SmallGuest::running(REWRITES_ITS_MENU);
    let base = make_disk(directory.path(), &guest.initrd());
    let sum = base.sha256();
    let report = Berth::run()
        .flag("--name", "small")
        .flag("--image-dir", directory.path())
        .flag("--memory", "256M")
        .flag("--disk-cache", "64K")
        .flag("--sandbox", "on")
        .arg(base.path())
        .start()
        .wait_for_exit();
    report.expect_success();
    let lines = report.values("cmdline");
    let ends: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next_back()).collect();
    assert_eq!(ends, ["first", "second"], "{report}");
    assert_eq!(base.sha256(), sum, "the base was written to");
    let overlay = DiskImage::at(&directory.path().join("small.qcow2"));
    assert_eq!(overlay.check(), Checked::Clean);
}

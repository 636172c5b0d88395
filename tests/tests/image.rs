//! Whole Debian cloud images, untouched, from first boot to a second life after a crash.
//!
//! A boot takes minutes on an emulated machine, so each story boots as few times as it can.

use std::time::Duration;

use berth_tests::{Checked, CloudImage, VirtualMachine};

/// 5 GiB, as `lsblk -b` prints it.
const FIVE_GIB: u64 = 5 << 30;

fn note(what: &str, after: Duration) {
    eprintln!("  {:>8.1} s  {what}", after.as_secs_f64());
}

fn boots_to_login(machine: &mut VirtualMachine) {
    machine.wait_for("Linux version");
    machine.wait_for(" login:");
    note("login prompt", machine.started.elapsed());
}

/// cloud-init is done, with our config drive, and did what it was told.
fn is_configured(image: &CloudImage, machine: &VirtualMachine, name: &str) {
    let status = image.ssh(machine, "cloud-init status --wait");
    note("cloud-init finished", machine.started.elapsed());
    assert!(status.contains("status: done"), "{}", machine.describe(&status));
    let result = image.ssh(machine, "cat /run/cloud-init/result.json");
    let result: serde_json::Value = serde_json::from_str(&result).expect("cloud-init writes JSON");
    let source = result["v1"]["datasource"].as_str().unwrap_or_default();
    assert!(source.contains("ConfigDrive"), "datasource {source:?}");
    assert_eq!(result["v1"]["errors"], serde_json::json!([]), "{result}");
    assert_eq!(image.ssh(machine, "hostname").trim(), name);
    assert_eq!(image.ssh(machine, "id -un").trim(), "tester");
    assert_eq!(image.ssh(machine, "sudo id -un").trim(), "root");
}

/// The disk has the size asked for, and the root file system has grown into it.
fn has_grown(image: &CloudImage, machine: &VirtualMachine) {
    let disk =
        image.ssh(machine, "lsblk -bdno SIZE /dev/$(lsblk -no PKNAME $(findmnt -nvo SOURCE /))");
    assert_eq!(disk.trim(), FIVE_GIB.to_string());
    let root = image.ssh(machine, "df -B1 --output=size / | tail -n 1");
    let root: u64 = root.trim().parse().expect("df prints a number");
    assert!(root > FIVE_GIB * 4 / 5, "the root file system has {root} bytes");
}

fn boot_id(image: &CloudImage, machine: &VirtualMachine) -> String {
    image.ssh(machine, "cat /proc/sys/kernel/random/boot_id")
}

fn is_not_first_boot_again(image: &CloudImage, machine: &VirtualMachine) {
    // ssh refuses a changed host key, so that this runs at all shows that they are the same.
    image.ssh(machine, "cloud-init status --wait");
    assert_eq!(image.ssh(machine, "cat /var/lib/first-boots"), "first\n");
}

fn powers_off(machine: VirtualMachine) {
    let asked = machine.started.elapsed();
    machine.terminate();
    let started = machine.started;
    let report = machine.wait_for_exit();
    note("powered off", started.elapsed() - asked);
    assert_eq!(report.exit_code, Some(0), "{report}");
    assert!(report.console.contains("Power down"), "{report}");
}

#[test]
#[ignore = "needs KVM and the image debian-12: tests/run e2e"]
fn debian_12_lives_through_reboot_shutdown_and_crash() {
    let image = CloudImage::new("debian-12", "pet", 12);
    let base_sum = image.base().sha256();

    eprintln!("first run, 1 vCPU");
    let mut machine = image.start(1, "5G");
    boots_to_login(&mut machine);
    is_configured(&image, &machine, "pet");
    has_grown(&image, &machine);
    assert_eq!(image.ssh(&machine, "nproc").trim(), "1");
    let keys = image.ssh(&machine, "cat /etc/ssh/ssh_host_*_key.pub");
    let first_boot = boot_id(&image, &machine);

    eprintln!("reboot in place");
    let pid = machine.pid();
    let _ = image.try_ssh("sudo systemctl reboot");
    machine.wait_for("Restarting system");
    boots_to_login(&mut machine);
    assert!(machine.is_running());
    assert_eq!(machine.pid(), pid);
    assert_ne!(boot_id(&image, &machine), first_boot);
    is_not_first_boot_again(&image, &machine);
    powers_off(machine);
    assert_eq!(image.overlay().check(), Checked::Clean);
    assert_eq!(image.base().sha256(), base_sum, "the base was written to");

    eprintln!("second run, 2 vCPUs");
    let mut machine = image.start(2, "5G");
    boots_to_login(&mut machine);
    assert_eq!(image.ssh(&machine, "nproc").trim(), "2");
    assert_eq!(image.ssh(&machine, "cat /etc/ssh/ssh_host_*_key.pub"), keys);
    is_not_first_boot_again(&image, &machine);
    let journal = image.ssh(&machine, "sudo journalctl -b -1 --no-pager");
    assert!(journal.contains("Power key pressed"), "the last boot's journal:\n{journal}");
    assert!(journal.contains("Journal stopped"), "the last boot's journal:\n{journal}");

    eprintln!("crash in the middle of writes");
    let safe = image.ssh(
        &machine,
        "sudo sh -c '(while :; do dd if=/dev/urandom of=/noise bs=1M count=8; rm /noise; done) \
         >/dev/null 2>&1 & mkdir /safe; for i in $(seq 40); do \
         seq $i 1000 >/safe/$i; sync /safe/$i /safe; done; ls /safe | wc -l'",
    );
    assert_eq!(safe.trim(), "40");
    machine.kill();
    image.overlay().check(); // leaks at most, or it panics
    assert_eq!(image.base().sha256(), base_sum, "the base was written to");

    eprintln!("third run, after the crash");
    let mut machine = image.start(2, "5G");
    boots_to_login(&mut machine);
    let lost = image.ssh(
        &machine,
        "for i in $(seq 40); do seq $i 1000 | cmp - /safe/$i || echo lost $i; done; echo all read",
    );
    assert_eq!(lost, "all read\n");
    is_not_first_boot_again(&image, &machine);
    let _ = image.try_ssh("sudo poweroff");
    let report = machine.wait_for_exit();
    assert_eq!(report.exit_code, Some(0), "{report}");
    // What the crash leaked is allowed to be still there; damage is not.
    image.overlay().check();
    assert_eq!(image.base().sha256(), base_sum, "the base was written to");
}

#[test]
#[ignore = "needs KVM and images named in BERTH_TEST_IMAGES: tests/run images"]
fn every_image_boots_with_one_and_two_cpus() {
    let names = std::env::var("BERTH_TEST_IMAGES").expect("BERTH_TEST_IMAGES names images");
    for (name, number) in names.split_whitespace().zip(30..) {
        let image = CloudImage::new(name, name, number);
        let base_sum = image.base().sha256();
        eprintln!("{name}, 1 vCPU, first boot");
        let mut machine = image.start(1, "5G");
        boots_to_login(&mut machine);
        is_configured(&image, &machine, name);
        has_grown(&image, &machine);
        powers_off(machine);
        assert_eq!(image.overlay().check(), Checked::Clean);

        eprintln!("{name}, 2 vCPUs, second boot");
        let mut machine = image.start(2, "5G");
        boots_to_login(&mut machine);
        assert_eq!(image.ssh(&machine, "nproc").trim(), "2");
        is_not_first_boot_again(&image, &machine);
        powers_off(machine);
        assert_eq!(image.overlay().check(), Checked::Clean);
        assert_eq!(image.base().sha256(), base_sum, "the base was written to");
        println!("{name}: boots with 1 and 2 vCPUs");
    }
}

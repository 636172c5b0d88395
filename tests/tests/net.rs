//! Frames between the guest and a tap on the host, carried by Berth's threads and by the kernel's
//! vhost. The cases of the latter end in `with_vhost`: `tests/run e2e:vhost` runs only them.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use berth_tests::{DiskImage, Queues, Report, SmallGuest, Tap, VirtualMachine};
use tempfile::TempDir;

const MAC: &str = "52:54:00:be:78:02";

/// The guest's interface, up, with an address.
const UP: &str = r#"
nic=
for n in /sys/class/net/*; do
    [ "$(cat $n/address)" = 52:54:00:be:78:02 ] && nic=${n##*/}
done
[ "$nic" ] || exit 1
ifconfig $nic 10.78.SUBNET.2 netmask 255.255.255.0 up || exit 2
echo "@@ up $nic"
"#;

/// Who carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Berth,
    Kernel,
}

/// A guest on a tap, both in a subnet of their own.
struct Lan {
    tap: Tap,
    subnet: u8,
    guest: SmallGuest,
}

impl Lan {
    /// Puts a guest that runs `job` on a tap. `case` is below 100, another one in each test.
    fn new(case: u8, carrier: Carrier, queues: Queues, job: &str) -> Self {
        let (subnet, vhost) = match carrier {
            Carrier::Berth => (case, "off"),
            Carrier::Kernel => (100 + case, "on"),
        };
        let tap = Tap::new(&format!("berthn{subnet}"), &format!("10.78.{subnet}.1/24"), queues);
        let job = format!("{UP}{job}").replace("SUBNET", &subnet.to_string());
        let guest = SmallGuest::running(&job)
            .flag("--net", tap.net())
            .flag("--mac", MAC)
            .flag("--vhost", vhost);
        Self { tap, subnet, guest }
    }

    fn change(mut self, change: impl FnOnce(SmallGuest) -> SmallGuest) -> Self {
        self.guest = change(self.guest);
        self
    }

    /// Starts the guest. The tap and the directory live as long as the values.
    fn start(self) -> (Tap, TempDir, VirtualMachine) {
        let (directory, machine) = self.guest.start();
        (self.tap, directory, machine)
    }

    /// The host's address.
    fn host(&self) -> String {
        format!("10.78.{}.1", self.subnet)
    }

    /// The guest's address.
    fn address(&self) -> String {
        format!("10.78.{}.2", self.subnet)
    }
}

/// Requires that the machine did as it was told, the carrier among it.
fn expect_success(report: &Report, carrier: Carrier) {
    report.expect_success();
    let said = match carrier {
        Carrier::Berth => "frames are carried by this process",
        Carrier::Kernel => "frames are carried by the kernel",
    };
    assert!(report.log.contains(said), "the wrong carrier:\n{report}");
    // Nor did the kernel hand them back.
    assert!(!report.log.contains("vhost refuses"), "the wrong carrier:\n{report}");
}

fn ping(machine: &VirtualMachine, address: &str, size: &str) {
    ping_times(machine, address, size, 5);
}

/// Sends one echo request after the other, each with 20 s: of several, ping would grant the last no more than
/// the interval or twice the longest answer before it, and a slow machine needs more now and then.
fn ping_times(machine: &VirtualMachine, address: &str, size: &str, times: u32) {
    for _ in 0..times {
        let output = Command::new("ping")
            .args(["-c", "1", "-W", "20", "-s", size, address])
            .output()
            .expect("ping is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", machine.describe(&said));
        thread::sleep(Duration::from_millis(300));
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn both_sides_answer_ping() {
    answer_ping(Carrier::Berth);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn both_sides_answer_ping_with_vhost() {
    answer_ping(Carrier::Kernel);
}

fn answer_ping(carrier: Carrier) {
    let lan = Lan::new(
        1,
        carrier,
        Queues::One,
        r#"
ping -c 3 -W 20 10.78.SUBNET.1 || exit 3
echo "@@ pinged host"
read go </dev/ttyS0
"#,
    );
    let address = lan.address();
    let (_tap, _directory, mut machine) = lan.start();
    machine.wait_for("@@ pinged host");
    ping(&machine, &address, "56");
    // Several fragments.
    ping(&machine, &address, "9000");
    machine.send("go\n");
    expect_success(&machine.wait_for_exit(), carrier);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_mtu_is_the_one_asked_for() {
    offer_the_mtu(Carrier::Berth);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_mtu_is_the_one_asked_for_with_vhost() {
    offer_the_mtu(Carrier::Kernel);
}

fn offer_the_mtu(carrier: Carrier) {
    let lan = Lan::new(
        2,
        carrier,
        Queues::One,
        r#"
echo "@@ mtu $(cat /sys/class/net/$nic/mtu)"
echo "@@ carrier $(cat /sys/class/net/$nic/carrier)"
read go </dev/ttyS0
"#,
    );
    lan.tap.set_mtu(1400);
    let address = lan.address();
    let lan = lan.change(|guest| guest.flag("--mtu", "1400"));
    let (_tap, _directory, mut machine) = lan.start();
    assert_eq!(machine.wait_for_value("mtu"), "1400");
    assert_eq!(machine.wait_for_value("carrier"), "1");
    ping(&machine, &address, "1372");
    machine.send("go\n");
    expect_success(&machine.wait_for_exit(), carrier);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn large_transfers_arrive_whole_with_offloads() {
    transfer(Carrier::Berth);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn large_transfers_arrive_whole_with_offloads_with_vhost() {
    transfer(Carrier::Kernel);
}

fn transfer(carrier: Carrier) {
    let lan = Lan::new(
        3,
        carrier,
        Queues::One,
        r#"
tools || exit 3
for f in tx-checksumming rx-checksumming tcp-segmentation-offload; do
    ethtool -k $nic | grep "^$f: on" || { echo "@@ off $f"; exit 4; }
done
dd if=/dev/urandom of=/tmp/sent bs=1M count=24 2>/dev/null
echo "@@ sum $(sha256sum </tmp/sent | cut -d ' ' -f 1)"
nc 10.78.SUBNET.1 7801 </tmp/sent || exit 5
echo "@@ sent all"
before=$(cat /sys/class/net/$nic/statistics/rx_packets)
nc 10.78.SUBNET.1 7802 </dev/null >/tmp/received || exit 6
after=$(cat /sys/class/net/$nic/statistics/rx_packets)
echo "@@ received $(sha256sum </tmp/received | cut -d ' ' -f 1)"
echo "@@ frames $((after - before))"
echo "@@ errors $(cat /sys/class/net/$nic/statistics/rx_errors) $(cat /sys/class/net/$nic/statistics/tx_errors)"
"#,
    );
    let (_tap, directory, mut machine) = {
        let listen = |port| TcpListener::bind((lan.host(), port)).expect("the tap has its address");
        let (incoming, outgoing) = (listen(7801), listen(7802));
        let lan = lan.change(|guest| guest.memory("384M").with_tools());
        let received = lan.guest.directory().join("received");
        let started = lan.start();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            incoming.accept().expect("a connection").0.read_to_end(&mut bytes).expect("the data");
            fs::write(&received, &bytes).expect("the directory is writable");
            let mut back = outgoing.accept().expect("a connection").0;
            std::io::copy(&mut bytes.as_slice(), &mut back).expect("the guest reads it");
        });
        started
    };
    let sum = machine.wait_for_value("sum");
    machine.wait_for("@@ sent all");
    assert_eq!(machine.wait_for_value("received"), sum);
    let report = machine.wait_for_exit();
    expect_success(&report, carrier);
    assert_eq!(report.value("errors"), "0 0");
    let host = berth_tests::DiskImage::at(&directory.path().join("received")).sha256();
    assert_eq!(host, sum, "what the host received");
    // 24 MiB in frames of 1500 bytes would be 17,000 of them. (Acknowledgements of what the guest
    // sent are not among those counted: how many there are is up to the host's TCP.)
    let frames: u32 = report.value("frames").parse().expect("a number");
    assert!(frames < 12_000, "{frames} frames: segmentation offload is not used");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn iperf_runs_both_ways() {
    run_iperf(Carrier::Berth);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn iperf_runs_both_ways_with_vhost() {
    run_iperf(Carrier::Kernel);
}

fn run_iperf(carrier: Carrier) {
    let lan = Lan::new(
        4,
        carrier,
        Queues::One,
        r#"
tools || exit 3
for way in "" -R; do
    iperf3 -c 10.78.SUBNET.1 -p 7803 -t 4 -O 1 $way >/tmp/iperf 2>&1 || { cat /tmp/iperf; exit 4; }
    echo "@@ rate $(grep receiver /tmp/iperf)"
done
"#,
    );
    let mut server = Command::new("iperf3")
        .args(["-s", "-B", &lan.host(), "-p", "7803"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("iperf3 is installed");
    let (_tap, _directory, machine) = lan.change(SmallGuest::with_tools).start();
    let report = machine.wait_for_exit();
    let _ = server.kill();
    let _ = server.wait();
    expect_success(&report, carrier);
    assert_eq!(report.values("rate").len(), 2);
    for rate in report.values("rate") {
        assert!(!rate.contains(" 0.00 bits/sec"), "{rate}");
        println!("iperf3: {rate}");
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_driver_can_leave_and_return() {
    reload_the_driver(Carrier::Berth);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_driver_can_leave_and_return_with_vhost() {
    reload_the_driver(Carrier::Kernel);
}

fn reload_the_driver(carrier: Carrier) {
    let lan = Lan::new(
        5,
        carrier,
        Queues::One,
        r#"
for i in 1 2 3; do
    ping -c 2 -W 20 10.78.SUBNET.1 || exit 3
    rmmod virtio_net || exit 4
    modprobe virtio_net || exit 5
    ifconfig $nic 10.78.SUBNET.2 netmask 255.255.255.0 up || exit 6
done
ping -c 2 -W 20 10.78.SUBNET.1 || exit 7
"#,
    );
    let (_tap, _directory, machine) = lan.start();
    expect_success(&machine.wait_for_exit(), carrier);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_reboot_finds_the_network_again() {
    reboot(Carrier::Berth);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_reboot_finds_the_network_again_with_vhost() {
    reboot(Carrier::Kernel);
}

fn reboot(carrier: Carrier) {
    let lan = Lan::new(
        8,
        carrier,
        Queues::Several,
        r#"
d=$(disk state)
boots=$(($(dd if=$d bs=1 count=1 2>/dev/null | tr '\000' 0) + 1))
printf $boots | dd of=$d conv=notrunc,fsync 2>/dev/null
ping -c 3 -W 20 10.78.SUBNET.1 || exit 3
echo "@@ boot $boots"
[ $boots -ge 3 ] && exit 0
reboot -f
sleep 60
"#,
    )
    .change(|guest| {
        let state = guest.directory().join("state");
        DiskImage::raw(&state, 1 << 20);
        guest.cpus(2).disk(&state, "format=raw,serial=state")
    });
    let (_tap, _directory, mut machine) = lan.start();
    for boot in ["1", "2", "3"] {
        assert_eq!(machine.wait_for_value("boot"), boot);
    }
    expect_success(&machine.wait_for_exit(), carrier);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn queue_pairs_come_and_go() {
    switch_pairs(Carrier::Berth);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn queue_pairs_come_and_go_with_vhost() {
    switch_pairs(Carrier::Kernel);
}

fn switch_pairs(carrier: Carrier) {
    let lan = Lan::new(
        6,
        carrier,
        Queues::Several,
        r#"
tools || exit 3
for pairs in 1 2 1 2; do
    ethtool -L $nic combined $pairs || exit 4
    # From each CPU, since each sends on a pair of its own.
    for cpu in 1 2; do
        taskset $cpu ping -c 3 -W 20 10.78.SUBNET.1 || exit 5
    done
    echo "@@ pairs $(ethtool -l $nic | grep Combined | tail -n 1)"
done
"#,
    );
    let lan = lan.change(|guest| guest.cpus(2).with_tools());
    let (_tap, _directory, machine) = lan.start();
    let report = machine.wait_for_exit();
    expect_success(&report, carrier);
    let pairs: Vec<_> = report.values("pairs").iter().filter_map(|v| v.chars().last()).collect();
    assert_eq!(pairs, ['1', '2', '1', '2'], "{report}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn no_interrupt_is_lost_while_they_move() {
    move_interrupts(Carrier::Berth);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn no_interrupt_is_lost_while_they_move_with_vhost() {
    move_interrupts(Carrier::Kernel);
}

/// Linux masks a vector while it gives it to another CPU.
fn move_interrupts(carrier: Carrier) {
    let lan = Lan::new(
        7,
        carrier,
        Queues::One,
        r#"
(
    cpu=1
    while [ ! -e /tmp/enough ]; do
        for irq in $(grep -E 'virtio[0-9]+-(in|out)put' /proc/interrupts | cut -d : -f 1); do
            echo $cpu >/proc/irq/$irq/smp_affinity || touch /tmp/refused
        done
        echo >>/tmp/moves
        cpu=$((3 - cpu))
    done
) &
ping -c 3 -W 20 10.78.SUBNET.1 || exit 3
echo "@@ moving"
read go </dev/ttyS0
touch /tmp/enough
wait
[ -e /tmp/refused ] && exit 4
echo "@@ moves $(wc -l </tmp/moves)"
"#,
    );
    let address = lan.address();
    let (_tap, _directory, mut machine) = lan.change(|guest| guest.cpus(2)).start();
    machine.wait_for("@@ moving");
    ping_times(&machine, &address, "1000", 60);
    machine.send("go\n");
    let report = machine.wait_for_exit();
    expect_success(&report, carrier);
    let moves: u32 = report.value("moves").parse().expect("a number");
    assert!(moves > 10, "only {moves} moves");
}

//! Frames between the guest and a tap on the host.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

use berth_tests::{Queues, SmallGuest, Tap, VirtualMachine};

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

fn guest(subnet: u8, job: &str) -> (Tap, SmallGuest) {
    let tap = Tap::new(&format!("berthn{subnet}"), &format!("10.78.{subnet}.1/24"), Queues::One);
    let job = format!("{UP}{job}").replace("SUBNET", &subnet.to_string());
    let guest = SmallGuest::running(&job).flag("--net", tap.net()).flag("--mac", MAC);
    (tap, guest)
}

fn ping(machine: &VirtualMachine, address: &str, size: &str) {
    let output = Command::new("ping")
        .args(["-c", "5", "-i", "0.3", "-W", "20", "-s", size, address])
        .output()
        .expect("ping is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", machine.describe(&said));
    assert!(said.contains(" 0% packet loss"), "{}", machine.describe(&said));
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn both_sides_answer_ping() {
    let (_tap, guest) = guest(
        1,
        r#"
ping -c 3 -W 20 10.78.SUBNET.1 || exit 3
echo "@@ pinged host"
read go </dev/ttyS0
"#,
    );
    let (_directory, mut machine) = guest.start();
    machine.wait_for("@@ pinged host");
    ping(&machine, "10.78.1.2", "56");
    // Several fragments.
    ping(&machine, "10.78.1.2", "9000");
    machine.send("go\n");
    machine.wait_for_exit().expect_success();
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_mtu_is_the_one_asked_for() {
    let (tap, guest) = guest(
        2,
        r#"
echo "@@ mtu $(cat /sys/class/net/$nic/mtu)"
echo "@@ carrier $(cat /sys/class/net/$nic/carrier)"
read go </dev/ttyS0
"#,
    );
    tap.set_mtu(1400);
    let (_directory, mut machine) = guest.flag("--mtu", "1400").start();
    assert_eq!(machine.wait_for_value("mtu"), "1400");
    assert_eq!(machine.wait_for_value("carrier"), "1");
    ping(&machine, "10.78.2.2", "1372");
    machine.send("go\n");
    machine.wait_for_exit().expect_success();
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn large_transfers_arrive_whole_with_offloads() {
    let (_tap, guest) = guest(
        3,
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
    let (directory, mut machine) = {
        let incoming = TcpListener::bind("10.78.3.1:7801").expect("the tap has its address");
        let outgoing = TcpListener::bind("10.78.3.1:7802").expect("the tap has its address");
        let guest = guest.memory("384M").with_tools();
        let received = guest.directory().join("received");
        let started = guest.start();
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
    report.expect_success();
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
    let (_tap, guest) = guest(
        4,
        r#"
tools || exit 3
for way in "" -R; do
    iperf3 -c 10.78.SUBNET.1 -p 7803 -t 4 -O 1 $way >/tmp/iperf 2>&1 || { cat /tmp/iperf; exit 4; }
    echo "@@ rate $(grep receiver /tmp/iperf)"
done
"#,
    );
    let mut server = Command::new("iperf3")
        .args(["-s", "-B", "10.78.4.1", "-p", "7803"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("iperf3 is installed");
    let report = guest.with_tools().report();
    let _ = server.kill();
    let _ = server.wait();
    report.expect_success();
    assert_eq!(report.values("rate").len(), 2);
    for rate in report.values("rate") {
        assert!(!rate.contains(" 0.00 bits/sec"), "{rate}");
        println!("iperf3: {rate}");
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_driver_can_leave_and_return() {
    let (_tap, guest) = guest(
        5,
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
    guest.report().expect_success();
}

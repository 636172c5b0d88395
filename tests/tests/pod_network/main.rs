//! A guest in a pod, spoken to from outside and speaking itself: every protocol, both families, in
//! pods as network plug-ins make them; and what is left of it afterwards.
//!
//! `guest.sh` is the guest's half. Each boot does as much as it can, since it is what takes time.

mod host;
mod hostile;
mod life;
mod programs;
mod refusals;
mod talk;

use std::net::IpAddr;

use berth_tests::{Families, Pod, Report, Shape, SmallGuest, VirtualMachine, scratch};
use tempfile::TempDir;

/// The guest's IPv6 address where the pod's is translated.
const INSIDE_V6: &str = "fd62:6572:7468::2";

/// A pod with a guest in it that is ready to be spoken to.
struct Inhabited {
    pod: Pod,
    mode: &'static str,
    machine: VirtualMachine,
    /// As the pod was before.
    before: String,
    /// With the key that opens the guest.
    keys: TempDir,
    _directory: TempDir,
}

/// Starts a guest in a pod and waits until it serves. `change` adds flags.
fn inhabit(
    pod: Pod,
    mode: &'static str,
    prefix6: u8,
    change: impl FnOnce(SmallGuest) -> SmallGuest,
) -> Inhabited {
    pod.client.tell_peers(9000);
    pod.client.serve_name("backend.svc.cluster.test", (Pod::CLIENT_V4, Pod::CLIENT_V6));
    let list = |addresses: Vec<IpAddr>| {
        addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
    };
    let yes = |whether: bool| if whether { "1" } else { "" };
    let address6 = match mode {
        "pod" => format!("{INSIDE_V6}/64"),
        _ => format!("{}/{prefix6}", Pod::V6),
    };
    let keys = scratch();
    let key = programs::make_key(keys.path());
    let job = format!(
        "net={mode} v4={} v6={} clients='{}' selves='{}' address6={address6} key='{key}' page={}\n{}",
        yes(pod.families.v4()),
        yes(pod.families.v6()),
        list(pod.clients()),
        list(pod.addresses()),
        programs::PAGE,
        include_str!("guest.sh"),
    );
    let before = pod.pod.state();
    let mut guest = change(SmallGuest::running(&job).with_tools().flag("--net", mode));
    if !guest.has("--no-vnc") {
        guest = guest.switch("--vnc-open");
    }
    let (directory, mut machine) = guest.start_inside(&pod.pod);
    talk::timed("until the guest is ready", || machine.wait_for("@@ ready"));
    Inhabited { pod, mode, machine, before, keys, _directory: directory }
}

impl Inhabited {
    /// Lets the guest speak and end, and looks at what is left.
    fn end(mut self) -> Report {
        self.machine.send("go\n");
        let report = talk::timed("the guest's own part", || self.machine.wait_for_exit());
        report.expect_success();
        assert_eq!(report.value("errors"), "0 0");
        let counted = report.log.lines().find(|line| line.contains("the guest's interface: "));
        println!("{}", counted.unwrap_or_else(|| panic!("nobody counted: {report}")));
        assert_same(&self.before, &self.pod.pod.state());
        report
    }
}

/// Compares two long texts; shows the lines that differ.
fn assert_same(before: &str, after: &str) {
    let only = |a: &str, b: &str| {
        let lines: Vec<&str> = b.lines().collect();
        a.lines().filter(|line| !lines.contains(line)).collect::<Vec<_>>().join("\n")
    };
    assert!(
        before == after,
        "not as it was.\n---- gone\n{}\n---- new\n{}",
        only(before, after),
        only(after, before)
    );
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_calico_pod_of_both_families_is_the_guests() {
    let pod = Pod::new(Shape::Calico, Families::Dual, 1450);
    let inhabited = inhabit(pod, "pod", 128, |guest| guest.flag("--vhost", "on"));
    talk::everything(&inhabited, false);
    let report = inhabited.end();
    talk::spoke(&report, "pod", Families::Dual);
    assert_eq!(report.value("mtu"), "1450");
    assert!(report.log.contains("carried by the kernel"), "{report}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_bridged_pod_of_both_families_is_the_guests_directly() {
    let pod = Pod::new(Shape::Bridge, Families::Dual, 1500);
    let inhabited = inhabit(pod, "direct", 64, |guest| guest.flag("--vhost", "on").cpus(2));
    talk::everything(&inhabited, false);
    let report = inhabited.end();
    talk::spoke(&report, "direct", Families::Dual);
    assert!(report.log.contains("carried by the kernel"), "{report}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_pod_without_ipv4_is_the_guests() {
    let pod = Pod::new(Shape::Calico, Families::V6, 1500);
    let inhabited = inhabit(pod, "pod", 128, |guest| guest);
    talk::everything(&inhabited, false);
    talk::spoke(&inhabited.end(), "pod", Families::V6);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_pod_without_ipv4_is_the_guests_directly() {
    let pod = Pod::new(Shape::BridgeLinkLocal, Families::V6, 1500);
    let inhabited = inhabit(pod, "direct", 64, |guest| guest.switch("--no-vnc"));
    talk::everything(&inhabited, true);
    talk::spoke(&inhabited.end(), "direct", Families::V6);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn frames_of_nine_thousand_bytes_arrive_and_port_5900_without_vnc() {
    let pod = Pod::new(Shape::Bridge, Families::V4, 9000);
    let inhabited =
        inhabit(pod, "pod", 64, |guest| guest.switch("--no-vnc").flag("--vhost", "off"));
    inhabited.pod.client.run(&format!("ping -c 3 -i 0.3 -W 30 -M do -s 8972 {}", Pod::V4));
    talk::everything(&inhabited, true);
    let report = inhabited.end();
    talk::spoke(&report, "pod", Families::V4);
    assert_eq!(report.value("mtu"), "9000");
    assert!(report.log.contains("carried by this process"), "{report}");
}

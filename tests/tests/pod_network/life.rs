//! What a machine makes of a network namespace, and leaves of it: after it was killed, started
//! again, asked to end. These guests are not waited for.

use std::time::Duration;

use berth_tests::{Families, Namespace, Pod, Shape, SmallGuest, VirtualMachine};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::assert_same;

/// How long an emulated machine may take to set a network up.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts a machine in a namespace and waits until it runs, no longer.
pub fn start(namespace: &Namespace, flags: &[(&str, &str)]) -> (TempDir, VirtualMachine) {
    let mut guest = SmallGuest::running("sleep 600").memory("128M").flag("--stop-timeout", "1");
    for (name, value) in flags {
        guest = guest.flag(name, *value);
    }
    let (directory, machine) = guest.start_inside(namespace);
    let running = machine.log.find("is running", 0, PATIENCE);
    assert!(running.is_some(), "{}", machine.describe("it does not run"));
    (directory, machine)
}

/// Everything that a machine adds: rules, filters, interfaces, without what counts.
fn made(namespace: &Namespace) -> String {
    let mut links = namespace.links();
    links.sort();
    let filters: String = links.iter().map(|link| namespace.filters(link)).collect();
    // The kernel counts actions up.
    let counted = |line: &&str| line.split_whitespace().any(|word| word == "index");
    let filters: Vec<&str> = filters.lines().filter(|line| !counted(line)).collect();
    let rules = namespace.run("nft -s list ruleset");
    format!("{links:?}\n{rules}\n{}", filters.join("\n"))
}

/// Asks it to end; nobody in there does, so it is stopped.
pub fn stop(machine: VirtualMachine) {
    machine.signal(Signal::SIGTERM);
    let report = machine.wait_for_exit();
    assert_eq!(report.exit_code, Some(6), "{report}");
    assert!(!report.log.contains("cannot be taken back"), "{report}");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_killed_run_is_replaced_and_an_ended_one_leaves_nothing() {
    // Filters name it; in direct mode it is the pod's.
    let mac = ("--mac", "52:54:00:be:79:02");
    for (mode, shape, flags) in [
        ("pod", Shape::Calico, vec![mac]),
        ("direct", Shape::Bridge, vec![]),
        ("nat", Shape::Bridge, vec![mac, ("--publish", "2222:22")]),
    ] {
        let pod = Pod::new(shape, Families::Dual, 1500);
        let namespace = &pod.pod;
        let flags = [flags, vec![("--net", mode)]].concat();
        let before = namespace.state();

        let (_directory, machine) = start(namespace, &flags);
        let first = made(namespace);
        assert!(first.contains("berth"), "{mode}: {first}");
        machine.kill();
        let (_directory, machine) = start(namespace, &flags);
        assert_same(&first, &made(namespace));
        stop(machine);
        assert_same(&before, &namespace.state());
        println!("{mode}: killed, started again, ended");
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn filters_of_others_stay() {
    let pod = Pod::new(Shape::Bridge, Families::V4, 1500);
    let namespace = &pod.pod;
    namespace.run("tc qdisc add dev eth0 clsact");
    namespace.run(
        "tc filter add dev eth0 ingress prio 1 protocol ip u32 match ip src 192.0.2.7 action drop",
    );
    let before = namespace.state();
    let (_directory, machine) = start(namespace, &[("--net", "direct")]);
    stop(machine);
    assert_same(&before, &namespace.state());
}

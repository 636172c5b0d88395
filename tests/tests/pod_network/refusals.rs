//! Namespaces that are no pod, or in which the right interface must be chosen.

use std::net::TcpListener;

use berth_tests::{Berth, Families, Namespace, Outcome, Pod, Shape, guest_file, scratch};

use crate::life;

/// Runs it in a namespace where it must refuse; what it says.
fn refusal(namespace: &Namespace, flags: &[(&str, &str)]) -> Outcome {
    let images = scratch();
    let mut berth = Berth::run_inside(namespace)
        .flag("--name", "refused")
        .flag("--image-dir", images.path())
        .flag("--memory", "64M")
        .flag("--kernel", guest_file("small/vmlinux"));
    for (name, value) in flags {
        berth = berth.flag(name, value);
    }
    let before = namespace.state();
    let outcome = berth.outcome();
    assert_eq!(outcome.exit_code, Some(1), "{outcome:#?}");
    crate::assert_same(&before, &namespace.state());
    println!("{}", outcome.stderr.trim_end());
    outcome
}

fn three_interfaces(namespace: &Namespace) {
    for (number, name) in [(1, "net1"), (2, "net2")] {
        namespace.ip(&format!(
            "link add {name} type veth peer name {name}peer
             address add 198.51.100.{number}/30 dev {name}
             link set {name}peer up
             link set {name} up"
        ));
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_pod_without_an_address_is_refused() {
    let empty = Namespace::new("empty");
    for mode in ["pod", "direct"] {
        let outcome = refusal(&empty, &[("--net", mode)]);
        assert!(outcome.stderr.contains("no network interface here has an address"), "{outcome:?}");
    }
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn the_only_interface_will_do_but_not_one_of_three() {
    let pod = Pod::new(Shape::Bridge, Families::V4, 1500);
    pod.pod.ip("route delete default");
    let (_directory, machine) = life::start(&pod.pod, &[("--net", "pod")]);
    let rules = pod.pod.run("nft list ruleset");
    assert!(rules.contains(&format!("ip daddr {} dnat", Pod::V4)), "{rules}");
    life::stop(machine);

    three_interfaces(&pod.pod);
    let outcome = refusal(&pod.pod, &[("--net", "pod")]);
    for name in ["eth0", "net1", "net2", "add a default route"] {
        assert!(outcome.stderr.contains(name), "{outcome:?}");
    }

    pod.pod.ip("route add default via 10.244.7.1");
    let (_directory, machine) = life::start(&pod.pod, &[("--net", "direct")]);
    let filters = pod.pod.filters("eth0");
    assert!(filters.contains("berth0"), "{filters}");
    assert!(!pod.pod.filters("net1").contains("berth0"));
    life::stop(machine);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_published_port_that_is_busy_is_refused() {
    let host = Pod::new(Shape::Bridge, Families::V4, 1500);
    let _busy = host.pod.inside(|| TcpListener::bind("0.0.0.0:2222")).expect("a free port");
    let outcome = refusal(&host.pod, &[("--net", "nat"), ("--publish", "2222:22")]);
    assert!(outcome.stderr.contains("port 2222 is in use"), "{outcome:?}");
}

//! A guest on a host, which here is a namespace too: masqueraded outward, with published ports.

use std::net::{IpAddr, Ipv4Addr};

use berth_tests::{Families, Namespace, Pod, Shape};

use crate::{inhabit, programs, talk};

/// What a host has of its own, line by line.
fn own(host: &Namespace) -> Vec<String> {
    let commands =
        ["nft -s list ruleset", "ip address show", "ip route show table all", "ip rule show"];
    let lines = commands.map(|command| host.run(command));
    lines.iter().flat_map(|text| text.lines().map(str::to_owned)).collect()
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_host_publishes_ports_and_masquerades() {
    let network = Pod::new(Shape::Bridge, Families::V4, 1500);
    network.pod.run("nft add table inet own");
    network.pod.run("nft add chain inet own in { type filter hook input priority 0 ; }");
    network.pod.run("nft add rule inet own in tcp dport 4 drop");
    let host = IpAddr::from(Pod::V4);
    let before = own(&network.pod);
    let inhabited = inhabit(network, "nat", 64, |guest| {
        guest
            .flag("--publish", "2222:22")
            .flag("--publish", "2207:7")
            .flag("--publish", "2280:80/udp")
    });
    let (outside, inside) = (&inhabited.pod.client, &inhabited.pod.pod);
    let during = own(inside);
    for line in &before {
        assert!(during.contains(line), "the host has lost {line:?}");
    }
    for line in during.iter().filter(|line| line.starts_with("table ")) {
        assert!(line.contains(" own ") || line.contains("inet berth"), "{line}");
    }

    let keys = inhabited.keys.path();
    assert_eq!(programs::ssh(outside, keys, host, 2222), IpAddr::from(Pod::CLIENT_V4));
    assert!(outside.tcp_echo(host, 2207, 1 << 20).expect("the port is published"));
    let seen = outside.udp(host, 2280, 1).expect("the port is published");
    assert_eq!(talk::peer(&String::from_utf8_lossy(&seen)), IpAddr::from(Pod::CLIENT_V4));
    // Others are the host's.
    assert!(outside.tcp(host, 22).is_err());
    // From the host itself.
    assert_eq!(programs::ssh(inside, keys, host, 2222), host);
    let seen = programs::ssh(inside, keys, Ipv4Addr::LOCALHOST.into(), 2222);
    assert_eq!(seen, IpAddr::from([192, 168, 254, 1]));

    let report = inhabited.end();
    talk::spoke(&report, "nat", Families::V4);
    println!("{}", report.value("mtu"));
}

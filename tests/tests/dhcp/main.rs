//! The DHCP clients that guests have, as Debian 12 has them, on a guest's interface: each gets
//! everything that the pod has, from an address to search domains. The guest's half is
//! `clients.sh`; the clients come on a disk from `tests/guest/clients`.

use std::collections::BTreeSet;

use berth_tests::{Families, Pod, Report, Shape, SmallGuest, guest_file};

const CLIENTS: &str = include_str!("clients.sh");

/// As kubelet writes it for a pod with a `dnsConfig`, and with remarks.
const RESOLV_CONF: &str = "\
# The cluster's own.
search team.svc.cluster.test svc.cluster.test cluster.test corp.example.test
nameserver 10.96.0.10
; The next two are the node's.
nameserver 10.96.0.11
nameserver fd96::a
nameserver 10.96.0.12
nameserver fd96::b
options ndots:5
";
const SEARCH: &str = "team.svc.cluster.test svc.cluster.test cluster.test corp.example.test";
const DOMAIN: &str = "team.svc.cluster.test";
const SERVERS4: &str = "10.96.0.10 10.96.0.11 10.96.0.12";
const SERVERS6: &str = "fd96::a fd96::b";
const HOST_NAME: &str = "small";
const MTU: u32 = 1450;

/// What every client has to end up with.
struct Expected {
    address4: &'static str,
    gateway4: &'static str,
    /// The on-link route that comes with the address.
    on_link4: Option<&'static str>,
    /// Whether the gateway is on-link by a route of its own.
    gateway_apart: bool,
    address6: &'static str,
    routes6: &'static [&'static str],
}

const POD: Expected = Expected {
    address4: "192.168.254.2/30",
    gateway4: "192.168.254.1",
    on_link4: Some("192.168.254.0/30"),
    gateway_apart: false,
    address6: "fd62:6572:7468::2/128",
    routes6: &["default via fe80::1", "fd62:6572:7468::/64"],
};

const DIRECT: Expected = Expected {
    address4: "10.244.7.9/32",
    gateway4: "169.254.1.1",
    on_link4: None,
    gateway_apart: true,
    address6: "fd24:4:7::9/128",
    routes6: &["default via fe80::ecff:feee:eeee"],
};

/// A guest in a pod as Calico makes them that runs `job`, to its end.
fn report(mode: &str, job: &str, change: impl FnOnce(SmallGuest) -> SmallGuest) -> Report {
    let pod = Pod::new(Shape::Calico, Families::Dual, MTU);
    pod.pod.set_resolv_conf(RESOLV_CONF);
    let guest = SmallGuest::running(job).memory("512M").flag("--net", mode);
    let (_directory, machine) = change(guest).start_inside(&pod.pod);
    let report = machine.wait_for_exit();
    report.expect_success();
    report
}

/// A report of clients that have all come to their end.
fn clients(mode: &str) -> Report {
    let job = CLIENTS.replace("CLIENTS", "networkd manager ifupdown udhcpc");
    let disk = guest_file("small/clients.raw");
    let report = report(mode, &job, |g| g.disk(&disk, "format=raw,ro,serial=clients"));
    for line in report.console.lines().filter(|line| line.contains(" done at ")) {
        println!("{}", line.trim());
    }
    report
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn every_client_is_configured_in_pod_mode() {
    check(&clients("pod"), &POD);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn every_client_is_configured_in_direct_mode() {
    check(&clients("direct"), &DIRECT);
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_guest_that_is_told_nothing_hears_nothing() {
    // The kernel asks for routers three times in twelve seconds: RFC 4861 §6.3.7.
    let report = report(
        "pod",
        r#"
ip link set eth0 up
udhcpc -i eth0 -f -q -n -t 5 -T 3 -s /bin/true
echo "@@ status $?"
echo "@@ solicitations $(sed -n 's/^Icmp6OutRouterSolicits[^0-9]*//p' /proc/net/dev_snmp6/eth0)"
echo "@@ advertisements $(sed -n 's/^Icmp6InRouterAdvertisements[^0-9]*//p' /proc/net/dev_snmp6/eth0)"
echo "@@ routes $(ip -6 route show | grep -c default)"
"#,
        |guest| guest.switch("--no-dhcp"),
    );
    assert_eq!(report.value("status"), "1", "{report}");
    assert_ne!(report.value("solicitations"), "0", "{report}");
    assert_eq!(report.value("advertisements"), "0", "{report}");
    assert_eq!(report.value("routes"), "0", "{report}");
}

fn check(report: &Report, expected: &Expected) {
    for client in ["networkd", "manager", "ifupdown", "udhcpc"] {
        let late = report.console.contains(&format!("@@ {client} late"));
        assert!(!late, "{client} did not get everything in time:\n{report}");
        let values = |what: &str| report.values(&format!("{client} {what}"));
        assert_eq!(values("address4"), [expected.address4], "{client}");
        assert_eq!(values("mtu"), [MTU.to_string()], "{client}");
        assert_eq!(routes(&values("route4")), routes4(client, expected), "{client}");
        // Debian's udhcpc has no DHCPv6.
        if client != "udhcpc" {
            assert_eq!(values("address6"), [expected.address6], "{client}");
            let own = expected.address6.trim_end_matches("/128");
            let mut routes = routes(&values("route6"));
            routes.retain(|route| route != own && route != "fe80::/64");
            assert_eq!(routes, set(expected.routes6), "{client}");
        }
    }
    check_networkd(report);
    check_manager(report);
    check_ifupdown(report);
    check_udhcpc(report, expected);
}

fn check_networkd(report: &Report) {
    let lease = report.values("networkd lease");
    for wanted in [
        format!("DNS={SERVERS4}"),
        format!("DOMAINNAME={DOMAIN}"),
        format!("DOMAIN_SEARCH_LIST={SEARCH}"),
        format!("HOSTNAME={HOST_NAME}"),
        format!("MTU={MTU}"),
    ] {
        assert!(lease.contains(&wanted.as_str()), "{wanted}: {lease:#?}");
    }
    // Of both versions of DHCP, and of router advertisements, in this order.
    let link = report.values("networkd link");
    let told = |key: &str| {
        let words = link.iter().filter_map(|line| line.strip_prefix(key));
        let mut seen = Vec::new();
        for word in words.flat_map(str::split_whitespace) {
            if !seen.contains(&word) {
                seen.push(word);
            }
        }
        seen.join(" ")
    };
    assert_eq!(told("DNS="), format!("{SERVERS4} {SERVERS6}"));
    assert_eq!(told("DOMAINS="), SEARCH);
}

fn check_manager(report: &Report) {
    assert_eq!(report.value("manager host"), HOST_NAME);
    let resolv = [vec![format!("search {SEARCH}")], name_servers(&[SERVERS4, SERVERS6])].concat();
    assert_eq!(without_remarks(report.values("manager resolv")), resolv);
    let lease = report.values("manager lease");
    for wanted in [
        format!("dhcp6_name_servers = {SERVERS6}"),
        format!("dhcp6_domain_search = {SEARCH}"),
        format!("domain_name_servers = {SERVERS4}"),
        format!("domain_search = {SEARCH}"),
        format!("host_name = {HOST_NAME}"),
        format!("interface_mtu = {MTU}"),
    ] {
        let there = lease.iter().any(|line| line.split_once(' ').is_some_and(|l| l.1 == wanted));
        assert!(there, "{wanted}: {lease:#?}");
    }
}

fn check_ifupdown(report: &Report) {
    assert_eq!(report.value("ifupdown host"), HOST_NAME);
    // dhclient writes names with their last dot.
    let search: String = SEARCH.split(' ').map(|name| format!(" {name}.")).collect();
    let search = vec![format!("search{search}")];
    let resolv4 =
        [vec![format!("domain {DOMAIN}")], search.clone(), name_servers(&[SERVERS4])].concat();
    assert_eq!(report.values("ifupdown resolv4"), resolv4);
    let resolv6 = [search, name_servers(&[SERVERS6])].concat();
    assert_eq!(report.values("ifupdown resolv6"), resolv6);
}

fn check_udhcpc(report: &Report, expected: &Expected) {
    assert_eq!(report.value("udhcpc status"), "0");
    let told = |key: &str| report.value(&format!("udhcpc lease {key}")).to_owned();
    assert_eq!(told("dns"), SERVERS4);
    assert_eq!(told("search"), SEARCH);
    assert_eq!(told("domain"), DOMAIN);
    assert_eq!(told("hostname"), HOST_NAME);
    assert_eq!(told("mtu"), MTU.to_string());
    assert_eq!(told("router"), expected.gateway4);
    let gateway = expected.gateway4;
    let routes = format!("{gateway}/32 0.0.0.0 0.0.0.0/0 {gateway}");
    let apart: &[&str] = if expected.gateway_apart { &[&routes] } else { &[] };
    assert_eq!(report.values("udhcpc lease staticroutes"), apart);
    let resolv = [vec![format!("domain {DOMAIN}")], name_servers(&[SERVERS4])].concat();
    assert_eq!(without_remarks(report.values("udhcpc resolv")), resolv);
}

/// The IPv4 routes that `client` makes of what it is told.
fn routes4(client: &str, expected: &Expected) -> BTreeSet<String> {
    let gateway = expected.gateway4;
    let mut routes = vec![format!("default via {gateway}")];
    routes.extend(expected.on_link4.map(str::to_owned));
    match client {
        // It leads name servers through the gateway, whatever other routes there may be.
        "networkd" => {
            routes.push(gateway.to_owned());
            routes.extend(SERVERS4.split(' ').map(|server| format!("{server} via {gateway}")));
        }
        // Debian's script takes the router to be on-link where the address is alone in its prefix.
        "udhcpc" => {}
        _ => routes.extend(expected.gateway_apart.then(|| gateway.to_owned())),
    }
    routes.into_iter().collect()
}

/// Routes as iproute2 says them, without what is beside the destination and the gateway.
fn routes(lines: &[&str]) -> BTreeSet<String> {
    let route = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let destination = words.first().copied().unwrap_or_default();
        match words.iter().position(|word| *word == "via").and_then(|at| words.get(at + 1)) {
            Some(gateway) => format!("{destination} via {gateway}"),
            None => destination.to_owned(),
        }
    };
    lines.iter().map(route).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn name_servers(lists: &[&str]) -> Vec<String> {
    lists.iter().flat_map(|l| l.split(' ')).map(|server| format!("nameserver {server}")).collect()
}

fn without_remarks(lines: Vec<&str>) -> Vec<&str> {
    lines.into_iter().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

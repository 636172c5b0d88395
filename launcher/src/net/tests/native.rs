//! Plans done: a pod, or a host, of network namespaces, with a Linux network stack as the guest.
//!
//! Where the kernel has no `flower`, the filters are left out, loudly: what the rules and routes do
//! is seen all the same.

use std::fs::File;
use std::time::{Duration, Instant};

use super::super::apply::{Applied, apply};
use super::super::inspect::Facts;
use super::super::link;
use super::super::lock;
use super::super::netlink::Netlink;
use super::super::plan::{Mode, Plan, Request, Step, plan};
use super::namespace::{Cable, Namespace};

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0xbe, 0, 1];

pub fn request(mode: Mode) -> Request {
    Request {
        name: "vm".into(),
        mode,
        mac: MAC,
        mtu: None,
        cpus: 1,
        subnet: None,
        publish: vec![],
        dhcp: true,
        vnc: true,
    }
}

/// Whether the kernel has what the filters need; tried with a real one.
pub fn has_flower() -> bool {
    let Some(try_out) = Namespace::new() else { return false };
    try_out.ip("link add d0 type veth peer name d1");
    try_out.run("tc qdisc add dev d0 clsact");
    let filter = "tc filter add dev d0 ingress flower action drop";
    let has = try_out.try_run(filter).0;
    if !has {
        eprintln!("SKIPPED: filters, since this kernel has no flower or no gact");
    }
    has
}

/// What [`super::super::prepare`] does, in a namespace; without filters where there are none.
pub fn prepare(
    namespace: &Namespace,
    request: &Request,
    flower: bool,
) -> Result<(Plan, Applied), String> {
    namespace.inside(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut facts = Facts::gather(&mut netlink).unwrap();
        facts.find_gateway(&mut netlink).unwrap();
        let mut plan = plan(request, &facts).map_err(|error| error.to_string())?;
        if !flower {
            let filters = |step: &Step| matches!(step, Step::Filter { .. });
            plan.steps.retain(|step| !filters(step));
        }
        let lock = lock::take().unwrap();
        let applied = apply(netlink, lock, &plan).map_err(|error| format!("{error:?}"))?;
        Ok((plan, applied))
    })
}

/// A guest: a namespace with an interface at the other end of the tap.
pub struct Guest {
    pub stack: Namespace,
    _tap: File,
    _cable: Cable,
}

impl Guest {
    pub fn new(plan: &Plan, applied: &Applied) -> Self {
        let stack = Namespace::new().unwrap();
        let tap = stack.inside(|| link::create("eth0", Some(1)).unwrap()).remove(0);
        let mac = crate::config::show_mac(plan.guest.mac);
        stack.ip(&format!("link set eth0 address {mac} mtu {}", plan.guest.mtu));
        stack.write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0");
        stack.ip("link set eth0 up");
        if let Some(v4) = &plan.guest.v4 {
            stack.ip(&format!("address add {}/{} dev eth0", v4.address, v4.prefix));
            if let Some(gateway) = v4.gateway {
                stack.ip(&format!("route add default via {gateway} dev eth0 onlink"));
            }
        }
        if let Some(v6) = &plan.guest.v6 {
            stack.ip(&format!("address add {}/{} dev eth0 nodad", v6.address, v6.prefix));
            stack.ip(&format!("route add default via {} dev eth0", v6.router));
        }
        let cable = Cable::new(&applied.taps[0], &tap);
        Self { stack, _tap: tap, _cable: cable }
    }
}

/// A pod as Calico makes it, with IPv6 beside; behind its router a client.
pub struct Pod {
    pub pod: Namespace,
    pub client: Namespace,
}

const POD4: &str = "10.244.1.7";
const POD6: &str = "fd00:10:244::7";
const CLIENT4: &str = "10.9.9.9";
const CLIENT6: &str = "fd00:9::9";

impl Pod {
    pub fn new() -> Option<Self> {
        let (pod, client) = (Namespace::new()?, Namespace::new()?);
        pod.join("eth0", &client, "cali0");
        client.ip(&format!("address add {CLIENT4}/32 dev lo"));
        client.ip(&format!("address add {CLIENT6}/128 dev lo nodad"));
        client.ip("address add fe80::ee/64 dev cali0 nodad");
        client.write("/proc/sys/net/ipv4/conf/cali0/proxy_arp", "1");
        client.write("/proc/sys/net/ipv4/ip_forward", "1");
        client.write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        client.ip("route add default dev lo");
        client.ip(&format!("route add {POD4}/32 dev cali0 src {CLIENT4}"));
        client.ip(&format!("route add {POD6}/128 dev cali0 src {CLIENT6}"));
        pod.ip(&format!("address add {POD4}/32 dev eth0"));
        pod.ip("address add fe80::7/64 dev eth0 nodad");
        pod.ip(&format!("address add {POD6}/128 dev eth0 nodad"));
        pod.ip("route add 169.254.1.1 dev eth0");
        pod.ip("route add default via 169.254.1.1 dev eth0");
        pod.ip("route add default via fe80::ee dev eth0");
        client.serve("client", 53);
        pod.serve("pod", 5900);
        pod.serve("pod", 8080);
        pod.settle();
        Some(Self { pod, client })
    }
}

#[test]
fn the_pods_addresses_lead_to_the_guest() {
    let Some(Pod { pod, client }) = Pod::new() else { return };
    let flower = has_flower();
    let before = pod.state();
    let (plan, applied) = prepare(&pod, &request(Mode::Pod), flower).unwrap();
    let guest = Guest::new(&plan, &applied);
    guest.stack.serve("guest", 80);
    guest.stack.serve("guest", 5900);
    guest.stack.serve("guest", 8080);
    for (own, other) in [(POD4, CLIENT4), (POD6, CLIENT6)] {
        assert_eq!(client.tcp(own, 80), format!("guest {other}"));
        assert_eq!(client.udp(own, 80), format!("guest {other}"));
        assert_eq!(client.tcp(own, 8080), format!("guest {other}"));
        assert_eq!(client.tcp(own, 5900), format!("pod {other}"));
        assert_eq!(client.udp(own, 5900), format!("guest {other}"));
        client.run(&format!("ping -n -c 1 -W 3 -s 4000 {own}"));
        guest.stack.run(&format!("ping -n -c 1 -W 3 -s 4000 {other}"));
        assert_eq!(guest.stack.tcp(other, 53), format!("client {own}"));
        assert_eq!(guest.stack.udp(other, 53), format!("client {own}"));
        // Itself, and Berth.
        let router = if own == POD4 { "192.168.254.1" } else { "fd62:6572:7468::1" };
        assert_eq!(guest.stack.tcp(own, 80), format!("guest {router}"));
        assert!(guest.stack.tcp(own, 5900).starts_with("pod "));
        // The pod's own stack says nothing but this.
        guest.stack.run(&format!("ping -n -c 1 -W 3 {router}"));
        assert_eq!(guest.stack.tcp(router, 8080), "nobody");
        assert_eq!(guest.stack.tcp(router, 5900), "nobody");
    }
    drop(guest);
    undo(&pod, applied);
    assert_restored(&pod, &before);
}

#[test]
fn a_plan_that_fails_at_its_last_step_leaves_nothing() {
    let Some(Pod { pod, client: _client }) = Pod::new() else { return };
    let before = pod.state();
    let start = Instant::now();
    let error = pod.inside(|| {
        let mut netlink = Netlink::open().unwrap();
        let facts = Facts::gather(&mut netlink).unwrap();
        let mut plan = plan(&request(Mode::Pod), &facts).unwrap();
        plan.steps.retain(|step| !matches!(step, Step::Filter { .. }));
        plan.steps.push(Step::Up("nothing".to_owned()));
        apply(netlink, lock::take().unwrap(), &plan).err().unwrap().to_string()
    });
    assert_eq!(error, "the network cannot be set up, at `bring nothing up`");
    assert_restored(&pod, &before);
    assert!(start.elapsed() < Duration::from_secs(5), "it waits for its own lock");
}

#[test]
fn what_there_is_is_read_from_the_kernel() {
    let Some(Pod { pod, client: _client }) = Pod::new() else { return };
    pod.ip("route change default via 169.254.1.1 dev eth0 mtu 1400");
    pod.ip("address add 10.244.1.8/32 dev eth0");
    pod.ip("link set eth0 mtu 1450");
    let facts = pod.inside(|| Facts::gather(&mut Netlink::open().unwrap()).unwrap());
    let uplink = facts.uplink().unwrap();
    assert_eq!((uplink.link.name.as_str(), uplink.link.kind.as_str()), ("eth0", "veth"));
    assert_eq!((uplink.link.mtu, uplink.mtu, uplink.link.up), (1450, 1400, true));
    assert_eq!(uplink.v4, Some((POD4.parse().unwrap(), 32)));
    assert_eq!(uplink.v6, Some((POD6.parse().unwrap(), 128)));
    assert_eq!(uplink.gateway4, Some([169, 254, 1, 1].into()));
    assert_eq!(uplink.gateway6, Some("fe80::ee".parse().unwrap()));
    assert_eq!((uplink.link.forwarding, uplink.link.accept_ra), (false, Some(1)));
    assert!(facts.links.iter().any(|link| link.loopback && link.name == "lo"));
}

/// What dropping [`super::super::Prepared`] does, in the namespace that it is about.
pub fn undo(namespace: &Namespace, applied: Applied) {
    let Applied { taps, service, undo } = applied;
    namespace.inside(move || drop(undo));
    drop((taps, service));
}

/// As a killed process leaves it: its files are closed, nothing is undone.
pub fn kill(namespace: &Namespace, applied: Applied) {
    let Applied { taps, service, undo } = applied;
    std::mem::forget(undo);
    drop((taps, service));
    wait_until(|| !namespace.run("ip link show").contains("berth"));
}

/// A program that another test is just starting has our files too, for a moment.
fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..100 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn assert_restored(namespace: &Namespace, before: &str) {
    wait_until(|| namespace.state() == before);
    assert_same(&namespace.state(), before);
}

pub fn assert_same(after: &str, before: &str) {
    for (a, b) in after.lines().zip(before.lines()) {
        assert_eq!(a, b);
    }
    assert_eq!(after.lines().count(), before.lines().count());
}

/// The rules as nft shows them, without counts, in the form a plan has them.
pub fn ruleset(namespace: &Namespace) -> Vec<String> {
    let mut shown = namespace.run("nft -n -y -s list ruleset");
    for (nft, plan) in [
        (" {\n\t\ttype", ": type"),
        ("meta nfproto 2 ", "meta nfproto ipv4 "),
        ("meta nfproto 10 ", "meta nfproto ipv6 "),
        ("fib daddr type 2 ", "fib daddr type local "),
        ("tcp flags 0x2 ", "tcp flags syn "),
        ("ct status 0x20 ", "ct status dnat "),
        ("ct state 0x2,0x4 ", "ct state established,related "),
    ] {
        shown = shown.replace(nft, plan);
    }
    let lines = shown.lines().map(|line| line.trim().trim_end_matches("; policy accept;"));
    let lines = lines.map(|line| line.trim_end_matches(" {"));
    lines.filter(|line| !["", "}"].contains(line)).map(str::to_owned).collect()
}

pub fn planned(plan: &Plan) -> Vec<String> {
    let tables = plan.steps.iter().filter(|step| matches!(step, Step::Rules(_)));
    let text: String = tables.map(ToString::to_string).collect();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn what_a_killed_run_left_behind_is_replaced_and_undone() {
    let Some(Pod { pod, .. }) = Pod::new() else { return };
    let flower = has_flower();
    let before = pod.state();
    let (plan, applied) = prepare(&pod, &request(Mode::Pod), flower).unwrap();
    let rules = ruleset(&pod);
    assert_same(&rules.join("\n"), &planned(&plan).join("\n"));
    // While it runs there is no room for another.
    let error = prepare(&pod, &request(Mode::Pod), flower).err().unwrap();
    assert!(error.contains("berth0 is in use already"), "{error}");
    kill(&pod, applied);
    let (_, again) = prepare(&pod, &request(Mode::Pod), flower).unwrap();
    assert_eq!(ruleset(&pod), rules);
    undo(&pod, again);
    assert_restored(&pod, &before);
}

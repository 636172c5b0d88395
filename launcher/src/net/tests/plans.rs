//! Plans compared whole, for the shapes that pods and hosts have.

use std::net::{IpAddr, Ipv4Addr};

use super::super::guest::{GuestV4, GuestV6};
use super::super::inspect::{Facts, Ipv6Forwarding};
use super::super::netlink::link::{Address, Link, Neighbour, Route};
use super::super::plan::{Mode, Names, Plan, Request, Step, plan};
use super::native::{MAC, request};
use crate::config::{Publish, Subnet};

const POD_MAC: [u8; 6] = [0x0a, 0x58, 0x0a, 0xf4, 0x02, 0x07];
const GATEWAY_MAC: [u8; 6] = [0xee; 6];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What there is, put together.
struct Shape(Facts);

impl Shape {
    fn new() -> Self {
        let lo =
            Link { index: 1, name: "lo".into(), loopback: true, mtu: 65_536, ..Link::default() };
        let forwarding = Ipv6Forwarding::Off;
        let mut shape =
            Self(Facts { links: vec![lo], ipv6_forwarding: forwarding, ..Facts::default() });
        shape.0.addresses.push(Address {
            link: 1,
            address: ip("127.0.0.1"),
            prefix: 8,
            primary: false,
        });
        shape
    }

    fn link(mut self, index: u32, name: &str, mtu: u32) -> Self {
        let mac = Some(POD_MAC);
        let accept_ra = Some(1);
        let name = name.to_owned();
        self.0.links.push(Link { index, name, mac, mtu, up: true, accept_ra, ..Link::default() });
        self
    }

    fn address(mut self, link: u32, address: &str, prefix: u8) -> Self {
        self.0.addresses.push(Address { link, address: ip(address), prefix, primary: true });
        self
    }

    fn default_route(self, link: u32, gateway: &str) -> Self {
        let gateway = ip(gateway);
        let ipv6 = gateway.is_ipv6();
        self.route(Route { gateway: Some(gateway), ipv6, link, ..via_nobody() })
    }

    fn route(mut self, route: Route) -> Self {
        self.0.routes.push(route);
        self
    }
}

fn via_nobody() -> Route {
    Route {
        destination: None,
        ipv6: false,
        gateway: None,
        link: 0,
        metric: 0,
        mtu: None,
        advertised: false,
    }
}

fn calico() -> Shape {
    let gateway = Route { destination: Some((ip("169.254.1.1"), 32)), link: 3, ..via_nobody() };
    Shape::new()
        .link(3, "eth0", 1450)
        .address(3, "10.244.1.7", 32)
        .route(gateway)
        .default_route(3, "169.254.1.1")
}

fn bridge() -> Shape {
    Shape::new().link(3, "eth0", 1500).address(3, "10.244.2.7", 24).default_route(3, "10.244.2.1")
}

fn dual_stack() -> Shape {
    let mut shape = bridge().address(3, "fd00:244:2::7", 64).default_route(3, "fd00:244:2::1");
    let address = ip("fd00:244:2::1");
    shape.0.neighbours.push(Neighbour { link: 3, address, mac: GATEWAY_MAC });
    shape
}

fn ipv6_only() -> Shape {
    Shape::new().link(3, "eth0", 9000).address(3, "fd00:244:2::7", 64).default_route(3, "fe80::1")
}

fn planned(mode: Mode, shape: &Shape) -> Plan {
    plan(&request(mode), &shape.0).unwrap()
}

fn refused(request: &Request, shape: &Shape) -> String {
    plan(request, &shape.0).unwrap_err().to_string()
}

#[test]
fn a_pod_of_both_families() {
    let plan = planned(Mode::Pod, &dual_stack());
    assert_eq!(plan.warnings, [""; 0]);
    assert_eq!(plan.to_string(), include_str!("pod.txt").trim_end());
}

#[test]
fn a_pod_whose_guest_takes_its_place() {
    let plan = planned(Mode::Direct, &dual_stack());
    assert_eq!(plan.warnings, [""; 0]);
    assert_eq!(plan.to_string(), include_str!("direct.txt").trim_end());
}

#[test]
fn a_host() {
    let publish = vec![
        Publish { address: None, host: 2222, guest: 22, protocol: 6 },
        Publish { address: Some([10, 244, 2, 7].into()), host: 53, guest: 53, protocol: 17 },
    ];
    let request = Request { publish, ..request(Mode::Nat) };
    let plan = plan(&request, &bridge().0).unwrap();
    assert_eq!(plan.warnings, [""; 0]);
    assert_eq!(plan.to_string(), include_str!("nat.txt").trim_end());
}

#[test]
fn what_a_pods_guest_is_told() {
    let inner4 = Some(GuestV4 {
        address: [192, 168, 254, 2].into(),
        prefix: 30,
        gateway: Some([192, 168, 254, 1].into()),
        server: [192, 168, 254, 1].into(),
    });
    let inner6 = Some(GuestV6 {
        address: "fd62:6572:7468::2".parse().unwrap(),
        prefix: 64,
        router: "fe80::1".parse().unwrap(),
        router_mac: None,
    });
    for (shape, v4, v6, mtu) in [
        (calico(), true, false, 1450),
        (bridge(), true, false, 1500),
        (dual_stack(), true, true, 1500),
        (ipv6_only(), false, true, 9000),
    ] {
        let guest = planned(Mode::Pod, &shape).guest;
        assert_eq!(guest.v4, inner4.clone().filter(|_| v4));
        assert_eq!(guest.v6, inner6.clone().filter(|_| v6));
        assert_eq!((guest.mac, guest.mtu, guest.host_name.as_str()), (MAC, mtu, "vm"));
        assert_ne!(guest.server_mac, guest.mac);
        assert_eq!(guest.server_mac[0] & 3, 2, "unicast, locally administered");
    }
}

#[test]
fn what_a_guest_with_the_pods_addresses_is_told() {
    let v4 = |address: [u8; 4], prefix, gateway: [u8; 4]| {
        let gateway = Ipv4Addr::from(gateway);
        Some(GuestV4 { address: address.into(), prefix, gateway: Some(gateway), server: gateway })
    };
    let v6 = |router: &str, router_mac| {
        let address = "fd00:244:2::7".parse().unwrap();
        Some(GuestV6 { address, prefix: 64, router: router.parse().unwrap(), router_mac })
    };
    let same_net = v4([10, 244, 2, 7], 24, [10, 244, 2, 1]);
    for (shape, v4, v6) in [
        (calico(), v4([10, 244, 1, 7], 32, [169, 254, 1, 1]), None),
        (bridge(), same_net.clone(), None),
        (dual_stack(), same_net, v6("fe80::be47:1", Some(GATEWAY_MAC))),
        (ipv6_only(), None, v6("fe80::1", None)),
    ] {
        let guest = planned(Mode::Direct, &shape).guest;
        assert_eq!((guest.mac, guest.v4, guest.v6), (POD_MAC, v4, v6));
    }
    // As Cilium has it.
    let mut narrow = bridge();
    narrow.0.routes[0].mtu = Some(1450);
    assert_eq!(planned(Mode::Direct, &narrow).guest.mtu, 1450);
    // Without a gateway it still has its address.
    let lonely = Shape::new().link(3, "eth0", 1500).address(3, "10.0.0.7", 24);
    let guest = planned(Mode::Direct, &lonely).guest.v4.unwrap();
    assert_eq!((guest.gateway, guest.server), (None, [169, 254, 0, 1].into()));
}

#[test]
fn pods_that_cannot_be_planned_for() {
    let pod = request(Mode::Pod);
    let direct = request(Mode::Direct);
    let none = "no network interface here has an address the guest could be reached at; see to the \
                pod's network, or give --net none";
    assert_eq!(refused(&pod, &Shape::new()), none);
    assert_eq!(refused(&direct, &Shape::new().link(3, "eth0", 1500)), none);
    let bare = Shape::new().link(3, "eth0", 1500).default_route(3, "169.254.1.1");
    assert!(refused(&pod, &bare).contains("out of eth0, but that interface has no address"));
    let three = || {
        let links = Shape::new().link(3, "eth0", 1500).link(4, "net1", 1500).link(5, "net2", 1500);
        links.address(3, "10.0.0.7", 24).address(4, "10.0.1.7", 24).address(5, "10.0.2.7", 24)
    };
    assert!(refused(&pod, &three()).contains("the interfaces eth0, net1, net2 all have addresses"));
    let chosen = planned(Mode::Direct, &three().default_route(4, "10.0.1.1"));
    assert_eq!(chosen.guest.v4.unwrap().address, Ipv4Addr::new(10, 0, 1, 7));
    let mut silent = dual_stack();
    silent.0.neighbours.clear();
    assert!(refused(&direct, &silent).contains("gateway fd00:244:2::1 does not answer on eth0"));
    let subnet = Some(Subnet { guest: [10, 244, 2, 2].into(), gateway: [10, 244, 2, 1].into() });
    let overlap = refused(&Request { subnet, ..pod.clone() }, &bridge());
    assert!(overlap.contains("in use by the pod's own network (10.244.2.1)"), "{overlap}");
    let other = bridge().link(9, "berth0", 1500);
    assert!(refused(&pod, &other).contains("berth0 is in use already"));
}

#[test]
fn ipv6_that_cannot_be_forwarded() {
    let mut both = dual_stack();
    both.0.ipv6_forwarding = Ipv6Forwarding::Fixed;
    let plan = planned(Mode::Pod, &both);
    assert_eq!(plan.guest.v6, None);
    let warning = &plan.warnings[0];
    for part in ["net.ipv6.conf.all.forwarding", "--allowed-unsafe-sysctls", "--net direct"] {
        assert!(warning.contains(part), "{warning}");
    }
    let mut alone = ipv6_only();
    alone.0.ipv6_forwarding = Ipv6Forwarding::Fixed;
    assert!(refused(&request(Mode::Pod), &alone).contains("securityContext.sysctls"));
    assert!(planned(Mode::Direct, &alone).guest.v6.is_some());
    // Where it is forwarded already nothing is switched on, and others' packets go on passing.
    let mut on = dual_stack();
    on.0.ipv6_forwarding = Ipv6Forwarding::On;
    on.0.links[1].forwarding = true;
    let text = planned(Mode::Pod, &on).to_string();
    assert!(!text.contains("meta nfproto") && !text.contains("forward IPv6"), "{text}");
}

#[test]
fn a_route_that_was_advertised_goes_on_being_heard() {
    let step = Step::AcceptRa("eth0".into());
    assert!(!planned(Mode::Pod, &ipv6_only()).steps.contains(&step));
    let mut advertised = ipv6_only();
    advertised.0.routes[0].advertised = true;
    let plan = planned(Mode::Pod, &advertised);
    let place = |step: &Step| plan.steps.iter().position(|found| found == step).unwrap();
    assert!(place(&step) < place(&Step::Ipv6Forwarding));
}

#[test]
fn servers_that_are_switched_off() {
    let off = |mode| {
        let request = Request { dhcp: false, vnc: false, cpus: 64, ..request(mode) };
        plan(&request, &dual_stack().0).unwrap().to_string()
    };
    for mode in [Mode::Pod, Mode::Direct] {
        let text = off(mode);
        for part in ["5900", "berth0-svc", "dport 67", "icmpv6 type 133, redirect"] {
            assert!(!text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("udp sport 67") && text.contains("queues 8"), "{text}");
    }
}

#[test]
fn links_that_are_too_small_for_ipv6() {
    let request = Request { mtu: Some(1279), ..request(Mode::Pod) };
    let plan = plan(&request, &dual_stack().0).unwrap();
    assert_eq!((plan.guest.mtu, plan.guest.v6), (1279, None));
    assert_eq!(plan.warnings.len(), 1);
    let own = |step: &Step| matches!(step, Step::Tap { settings, .. } if settings.ipv6);
    assert!(!plan.steps.iter().any(own));
}

#[test]
fn a_hosts_free_addresses() {
    let guest = |shape: &Shape| {
        let found = plan(&request(Mode::Nat), &shape.0);
        found.map(|plan| plan.guest.v4.unwrap().address.to_string()).map_err(|e| e.to_string())
    };
    let to = |text: &str, prefix| Route {
        destination: Some((ip(text), prefix)),
        link: 3,
        ..via_nobody()
    };
    assert_eq!(guest(&Shape::new()).unwrap(), "192.168.254.2");
    let taken = bridge().address(3, "192.168.254.1", 30).route(to("192.168.254.4", 30));
    assert_eq!(guest(&taken).unwrap(), "192.168.254.10");
    // The halves of a default route, as a VPN has them, are nobody's network.
    let halves = bridge().route(to("0.0.0.0", 1)).route(to("128.0.0.0", 1));
    assert_eq!(guest(&halves).unwrap(), "192.168.254.2");
    assert_eq!(guest(&bridge().route(to("192.168.254.0", 24))).unwrap(), "192.168.0.2");
    assert_eq!(guest(&bridge().route(to("192.168.0.0", 16))).unwrap(), "172.30.0.2");
    let full = ["192.168.0.0", "172.30.0.0", "10.213.0.0"];
    let full = full.iter().fold(bridge(), |shape, net| shape.route(to(net, 16)));
    assert!(guest(&full).unwrap_err().contains("give VM_IP and VM_GW"));
    let subnet = Some(Subnet { guest: [10, 244, 2, 5].into(), gateway: [10, 244, 2, 6].into() });
    let given = Request { subnet, ..request(Mode::Nat) };
    assert!(refused(&given, &bridge()).contains("overlap with 10.244.2.7/24 of this host"));
    let fine = plan(&given, &Shape::new().0).unwrap().guest.v4.unwrap();
    assert_eq!(fine.address, Ipv4Addr::new(10, 244, 2, 5));
}

#[test]
fn names_fit() {
    let (a, b) = (Names::new(Mode::Nat, "a"), Names::new(Mode::Nat, "b"));
    assert_ne!(a, b);
    assert_eq!(Names::new(Mode::Pod, "a"), Names::new(Mode::Direct, "b"));
    for names in [a, b, Names::new(Mode::Pod, "a")] {
        for name in [&names.tap, &names.service, &names.table] {
            assert!(name.len() <= 15, "{name}");
        }
    }
}

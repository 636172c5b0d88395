//! `--net pod`: the guest stands behind a tap with its router's addresses, and the pod's addresses
//! are translated to the guest's, one to one.
//!
//! The guest has VM_IP, and where the pod has IPv6 also [`GUEST6`]; its router, the pod's own
//! network stack, has VM_GW on the tap itself. There is no bridge: it would have this one port, and
//! where the node's `br_netfilter` has bridges translate addresses too, a guest could not reach
//! itself by the pod's address.
//!
//! Whatever comes for the pod's address, of any protocol, goes to the guest, except TCP 5900 while
//! that is Berth's; whatever the guest sends leaves with the pod's address. A guest that speaks to
//! the pod's address speaks to itself: the source then becomes the router's, so that the answer
//! takes the same way back. The pod's own sockets, and loopback, are left alone.

use std::net::{IpAddr, Ipv6Addr};

use crate::config::Subnet;
use crate::net::before;
use crate::net::filter::{
    Action, ICMP, ICMPV6, NEIGHBOUR_SOLICITATION, REDIRECT, ROUTER_SOLICITATION, TCP,
};
use crate::net::guest::{GuestNetwork, GuestV4, GuestV6};
use crate::net::inspect::{Facts, Ipv6Forwarding, Uplink};
use crate::net::plan::{Draft, Names, Plan, PlanError, Request, Step, base_of_30, server_mac};
use crate::net::ruleset::Match::{
    Destination, Established, Icmp, In, Ipv4, Ipv6, NotIn, NotOut, Out, Port, Source, TcpSyn,
    Translated,
};
use crate::net::ruleset::{
    Chain, Hook, Match, Rule, Table, Verdict, filter_chain, nat_chain, rule,
};

/// The guest's and the router's addresses on the tap, in a prefix of unique local addresses
/// (RFC 4193) that never leaves it: the letters of "berth".
pub const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x6572, 0x7468, 0, 0, 0, 0, 2);
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x6572, 0x7468, 0, 0, 0, 0, 1);
const PREFIX6: u8 = 64;
/// The router's link-local address, the same everywhere, so that a guest's router stays the same.
pub const ROUTER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL_PREFIX: u8 = 64;
/// RFB's port (RFC 6143 §8.1).
pub const VNC: u16 = 5900;

/// Plans it.
///
/// # Errors
/// No interface, no address, an overlap, or IPv6 alone that cannot be forwarded.
pub fn plan(request: &Request, facts: &Facts, names: &Names) -> Result<Plan, PlanError> {
    let mut draft = Draft::new(request, facts, names);
    let uplink = facts.uplink()?;
    let subnet = request.subnet.unwrap_or_default();
    no_overlap(subnet, facts)?;
    let mtu = draft.mtu(Some(&uplink));
    let v6 = uplink.v6.filter(|_| draft.carries_ipv6(mtu)).is_some();
    let v6 = v6 && forwards_ipv6(&mut draft, &uplink)?;
    let guest = GuestNetwork {
        mac: request.mac,
        server_mac: server_mac(request.mac),
        mtu,
        host_name: request.name.clone(),
        v4: uplink.v4.map(|_| GuestV4 {
            address: subnet.guest,
            prefix: Subnet::PREFIX,
            gateway: Some(subnet.gateway),
            server: subnet.gateway,
        }),
        v6: v6.then_some(GuestV6 {
            address: GUEST6,
            prefix: PREFIX6,
            router: ROUTER_LINK_LOCAL,
            router_mac: None,
        }),
    };
    draft.taps(&guest, true, &Action::Accept);
    let mut addresses: Vec<(IpAddr, u8)> = Vec::new();
    if guest.v4.is_some() {
        addresses.push((subnet.gateway.into(), Subnet::PREFIX));
    }
    if guest.v6.is_some() {
        addresses.push((ROUTER6.into(), PREFIX6));
        addresses.push((ROUTER_LINK_LOCAL.into(), LINK_LOCAL_PREFIX));
    }
    draft.router(&addresses);
    let mut families = Vec::new();
    if let (Some(_), Some((pod, _))) = (&guest.v4, uplink.v4) {
        families.push(Family::new(subnet.guest.into(), subnet.gateway.into(), pod.into()));
    }
    if let (Some(_), Some((pod, _))) = (&guest.v6, uplink.v6) {
        families.push(Family::new(GUEST6.into(), ROUTER6.into(), pod.into()));
    }
    // The rules come before the forwarding: at no time is the pod a router for others.
    let forward = forward(&draft, &uplink, &guest);
    let comment = before::note(&forward, &names.tap);
    draft.steps.push(Step::Rules(rules(&draft, &uplink, &families, comment)));
    draft.steps.extend(forward);
    draft.up();
    Ok(draft.finish(guest))
}

/// The guest's addresses must not hide the pod's own, or its gateway.
fn no_overlap(subnet: Subnet, facts: &Facts) -> Result<(), PlanError> {
    let within = |address: IpAddr| match address {
        IpAddr::V4(address) => base_of_30(address) == base_of_30(subnet.guest),
        IpAddr::V6(_) => false,
    };
    let addresses = facts.addresses.iter().map(|a| a.address);
    let gateways = facts.routes.iter().filter_map(|route| route.gateway);
    match addresses.chain(gateways).find(|address| within(*address)) {
        None => Ok(()),
        Some(taken) => Err(PlanError(format!(
            "VM_IP {} and VM_GW {} are in use by the pod's own network ({taken}); give two others \
             of one /30",
            subnet.guest, subnet.gateway
        ))),
    }
}

/// Whether IPv6 is, or can be, forwarded.
fn forwards_ipv6(draft: &mut Draft<'_>, uplink: &Uplink<'_>) -> Result<bool, PlanError> {
    if draft.facts.ipv6_forwarding != Ipv6Forwarding::Fixed {
        return Ok(true);
    }
    let remedy = "set `net.ipv6.conf.all.forwarding` to \"1\" in the pod's \
                  securityContext.sysctls, which the kubelet has to allow with \
                  --allowed-unsafe-sysctls, or give --net direct, which needs no forwarding";
    let problem = "IPv6 is not forwarded in this pod, and /proc/sys cannot be written";
    if uplink.v4.is_none() {
        return Err(PlanError(format!("{problem}: {remedy}")));
    }
    draft.warnings.push(format!("the guest has no IPv6: {problem}; {remedy}"));
    Ok(false)
}

/// The steps that let packets through.
fn forward(draft: &Draft<'_>, uplink: &Uplink<'_>, guest: &GuestNetwork) -> Vec<Step> {
    let mut steps = Vec::new();
    if guest.v4.is_some() {
        steps.push(Step::Forwarding(draft.names.tap.clone()));
        if !uplink.link.forwarding {
            steps.push(Step::Forwarding(uplink.link.name.clone()));
        }
    }
    if guest.v6.is_some() && draft.facts.ipv6_forwarding == Ipv6Forwarding::Off {
        // A router does not listen to router advertisements unless told to (accept_ra 2), and
        // forgets the routes it has from them.
        if uplink.link.accept_ra == Some(1) && uplink.advertised {
            steps.push(Step::AcceptRa(uplink.link.name.clone()));
        }
        steps.push(Step::Ipv6Forwarding);
    }
    steps
}

/// What the rules of one address family are about.
struct Family {
    guest: IpAddr,
    router: IpAddr,
    pod: IpAddr,
    /// The guest's address as a source.
    from_guest: Match,
}

impl Family {
    fn new(guest: IpAddr, router: IpAddr, pod: IpAddr) -> Self {
        Self { guest, router, pod, from_guest: whole(guest) }
    }
}

/// One address as a source.
pub(super) fn whole(address: IpAddr) -> Match {
    Source(address, if address.is_ipv4() { 32 } else { 128 })
}

fn rules(draft: &Draft<'_>, uplink: &Uplink<'_>, families: &[Family], comment: String) -> Table {
    let tap = &draft.names.tap;
    let guests: Vec<IpAddr> = families.iter().map(|family| family.guest).collect();
    let mut alone = Vec::new();
    if !uplink.link.forwarding {
        alone.push(Ipv4);
    }
    if draft.facts.ipv6_forwarding == Ipv6Forwarding::Off {
        alone.push(Ipv6);
    }
    Table {
        name: draft.names.table.clone(),
        comment,
        chains: vec![
            guard(tap, &guests),
            nat_chain("prerouting", Hook::Prerouting, inward(draft.request, families)),
            nat_chain("postrouting", Hook::Postrouting, outward(tap, uplink, families)),
            filter_chain("forward", Hook::Forward, 0, through(tap, &guests, &alone)),
            filter_chain("input", Hook::Input, 0, input(draft.request, tap, families)),
            filter_chain("output", Hook::Output, 0, output(tap)),
        ],
    }
}

/// The guest speaks with its own addresses only. Its tap's filters see to that already.
pub(super) fn guard(tap: &str, guests: &[IpAddr]) -> Chain {
    let mut rules = vec![rule([NotIn(tap.to_owned())], Verdict::Accept)];
    rules.extend(guests.iter().map(|guest| rule([whole(*guest)], Verdict::Accept)));
    if guests.iter().any(IpAddr::is_ipv6) {
        let link_local = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0));
        rules.push(rule([Source(link_local, 10)], Verdict::Accept));
        rules.push(rule([whole(Ipv6Addr::UNSPECIFIED.into())], Verdict::Accept));
    }
    rules.push(rule([], Verdict::Drop));
    filter_chain("guard", Hook::Prerouting, -300, rules)
}

fn inward(request: &Request, families: &[Family]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in families {
        let to_pod = || Destination(family.pod);
        if request.vnc {
            rules.push(rule([to_pod(), Port(TCP, VNC)], Verdict::Accept));
        }
        if family.pod.is_ipv6() {
            // Neighbour discovery is between the pod and its neighbours.
            let discovery = Icmp(ICMPV6, ROUTER_SOLICITATION, REDIRECT);
            rules.push(rule([discovery], Verdict::Accept));
        }
        rules.push(rule([to_pod()], Verdict::Dnat(family.guest, None)));
    }
    rules
}

fn outward(tap: &str, uplink: &Uplink<'_>, families: &[Family]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in families {
        let from = || family.from_guest.clone();
        let out = |name: &str| Out(name.to_owned());
        rules.push(rule([from(), out(&uplink.link.name)], Verdict::Snat(family.pod)));
        rules.push(rule([from(), out(tap)], Verdict::Snat(family.router)));
        rules.push(rule([from()], Verdict::Masquerade));
    }
    rules
}

/// What goes through: the guest's packets and those for it. `alone`: of these families nothing was
/// forwarded before, and nothing else is to be now.
pub(super) fn through(tap: &str, guests: &[IpAddr], alone: &[Match]) -> Vec<Rule> {
    let from = || In(tap.to_owned());
    let to = || Out(tap.to_owned());
    let mut rules = Vec::new();
    for way in [from(), to()] {
        rules.push(rule([way, TcpSyn], Verdict::ClampMss));
    }
    rules.extend(guests.iter().map(|guest| rule([from(), whole(*guest)], Verdict::Accept)));
    rules.push(rule([from()], Verdict::Drop));
    rules.push(rule([to(), Translated], Verdict::Accept));
    rules.push(rule([to(), Established], Verdict::Accept));
    rules.push(rule([to()], Verdict::Drop));
    for family in alone {
        let others = [NotIn(tap.to_owned()), NotOut(tap.to_owned()), family.clone()];
        rules.push(rule(others, Verdict::Drop));
    }
    rules
}

/// What the guest may say to the pod's own stack: ICMP to its router, VNC.
fn input(request: &Request, tap: &str, families: &[Family]) -> Vec<Rule> {
    let from = || In(tap.to_owned());
    let mut rules = vec![rule([from(), Established], Verdict::Accept)];
    for family in families {
        // Destination unreachable (with what is too big), time exceeded, parameter problem; echo;
        // and neighbours.
        let kinds: &[(u8, u8, u8)] = match family.router {
            IpAddr::V4(_) => &[(ICMP, 3, 3), (ICMP, 8, 8), (ICMP, 11, 12)],
            IpAddr::V6(_) => &[
                (ICMPV6, 1, 4),
                (ICMPV6, 128, 128),
                (ICMPV6, NEIGHBOUR_SOLICITATION, NEIGHBOUR_SOLICITATION + 1),
            ],
        };
        for (protocol, first, last) in kinds {
            rules.push(rule([from(), Icmp(*protocol, *first, *last)], Verdict::Accept));
        }
        if request.vnc {
            let to_pod = Destination(family.pod);
            rules.push(rule([from(), to_pod, Port(TCP, VNC)], Verdict::Accept));
        }
    }
    rules.push(rule([from()], Verdict::Drop));
    rules
}

/// A guest that speaks to itself through the pod's address is not told of a shorter way.
pub(super) fn output(tap: &str) -> Vec<Rule> {
    let to = || Out(tap.to_owned());
    vec![
        rule([to(), Icmp(ICMP, 5, 5)], Verdict::Drop),
        rule([to(), Icmp(ICMPV6, REDIRECT, REDIRECT)], Verdict::Drop),
    ]
}

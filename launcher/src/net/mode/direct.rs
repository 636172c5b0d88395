//! `--net direct`: the guest has the pod's own addresses and hardware address; traffic control
//! carries its frames between its tap and the pod's interface.
//!
//! ARP, neighbour discovery and ICMP's errors go both to the guest and to the pod's own stack,
//! which keeps its addresses and answers TCP 5900 while that is Berth's; everything else goes to
//! the guest alone. The pod's interface keeps a `clsact` that others gave it, with their filters,
//! which come first.
//!
//! A router advertisement names its router by a link-local source address. Where the pod's gateway
//! is such an address, the guest is told of it and finds it by itself. Where it is a global one
//! (as with the bridge plug-in), the guest is told of [`ROUTER`], and Berth answers for it with the
//! gateway's hardware address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::filter::{
    Action, ETH_ALL, ETH_ARP, ETH_IPV4, ETH_IPV6, Filter, ICMP, ICMPV6, Key, REDIRECT,
    ROUTER_SOLICITATION, TCP, UDP, filter, in_order,
};
use crate::net::guest::{GuestNetwork, GuestV4, GuestV6};
use crate::net::inspect::{Facts, Uplink};
use crate::net::mode::pod::VNC;
use crate::net::plan::{Draft, Names, Plan, PlanError, Request, server_mac};

/// The router that the guest is told of where the gateway has a global address.
pub const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xbe47, 1);
/// Who answers DHCP where there is no gateway: of the addresses of RFC 3927 §2.1 that no interface
/// gives itself.
const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// Destination unreachable, time exceeded, parameter problem (RFC 792).
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 §2.1).
const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];

/// Plans it.
///
/// # Errors
/// No interface, no address, no hardware address, or a gateway that cannot be told to the guest.
pub fn plan(request: &Request, facts: &Facts, names: &Names) -> Result<Plan, PlanError> {
    let mut draft = Draft::new(request, facts, names);
    let uplink = facts.uplink()?;
    let Some(mac) = uplink.link.mac else {
        return Err(PlanError(format!(
            "{} is no Ethernet interface, whose frames the guest could take over; give --net pod",
            uplink.link.name
        )));
    };
    if request.subnet.is_some() {
        let told =
            "VM_IP and VM_GW mean nothing to --net direct: the guest has the pod's addresses";
        draft.warnings.push(told.to_owned());
    }
    let mtu = draft.mtu(Some(&uplink));
    let v6 = uplink.v6.filter(|_| draft.carries_ipv6(mtu));
    let guest = GuestNetwork {
        mac,
        server_mac: server_mac(mac),
        mtu,
        host_name: request.name.clone(),
        v4: uplink.v4.map(|(address, prefix)| v4(&uplink, address, prefix)).transpose()?,
        v6: v6.map(|(address, prefix)| v6_of(&uplink, facts, address, prefix)).transpose()?,
    };
    draft.taps(&guest, false, &Action::Redirect(uplink.link.name.clone()));
    draft.up();
    // The pod's interface last: until then the pod's own stack answers.
    let inward = inward(request, &guest, &names.tap);
    draft.filters(&uplink.link.name, inward);
    Ok(draft.finish(guest))
}

fn v4(uplink: &Uplink<'_>, address: Ipv4Addr, prefix: u8) -> Result<GuestV4, PlanError> {
    let gateway = match uplink.gateway4 {
        None => None,
        Some(IpAddr::V4(gateway)) => Some(gateway),
        Some(IpAddr::V6(gateway)) => {
            return Err(PlanError(format!(
                "the pod's IPv4 gateway has the IPv6 address {gateway}, which DHCP cannot tell; \
                 give --net pod"
            )));
        }
    };
    Ok(GuestV4 { address, prefix, gateway, server: gateway.unwrap_or(SERVER) })
}

fn v6_of(
    uplink: &Uplink<'_>,
    facts: &Facts,
    address: Ipv6Addr,
    prefix: u8,
) -> Result<GuestV6, PlanError> {
    let Some(gateway) = uplink.gateway6 else {
        return Ok(GuestV6 { address, prefix, router: ROUTER, router_mac: None });
    };
    if gateway.is_unicast_link_local() {
        return Ok(GuestV6 { address, prefix, router: gateway, router_mac: None });
    }
    let Some(neighbour) = facts.neighbour(uplink.link.index, gateway.into()) else {
        return Err(PlanError(format!(
            "the pod's IPv6 gateway {gateway} does not answer on {}, so its hardware address is \
             not known; see to the pod's network, or give --net pod",
            uplink.link.name
        )));
    };
    Ok(GuestV6 { address, prefix, router: ROUTER, router_mac: Some(neighbour.mac) })
}

/// What becomes of what comes in by the pod's interface.
fn inward(request: &Request, guest: &GuestNetwork, tap: &str) -> Vec<Filter> {
    let to_both = || vec![Action::Mirror(tap.to_owned()), Action::Accept];
    // UDP first, which has the most packets for its bytes; TCP's are large, and wait for the screen's.
    let whole = |protocol| {
        let to_guest = || vec![Action::Redirect(tap.to_owned())];
        [ETH_IPV4, ETH_IPV6].map(|of| filter(of, vec![Key::Protocol(protocol)], to_guest()))
    };
    let mut filters = whole(UDP).to_vec();
    if request.vnc {
        let v4 = guest.v4.iter().map(|v4| (ETH_IPV4, IpAddr::V4(v4.address)));
        let v6 = guest.v6.iter().map(|v6| (ETH_IPV6, IpAddr::V6(v6.address)));
        for (ether_type, address) in v4.chain(v6) {
            let keys =
                vec![Key::Protocol(TCP), Key::Destination(address), Key::TcpDestination(VNC)];
            filters.push(filter(ether_type, keys, vec![Action::Accept]));
        }
    }
    filters.extend(whole(TCP));
    filters.push(filter(ETH_ARP, vec![], to_both()));
    let icmp = |protocol, kind| vec![Key::Protocol(protocol), Key::IcmpType(kind)];
    for kind in (ROUTER_SOLICITATION..=REDIRECT).chain(ICMPV6_ERRORS) {
        filters.push(filter(ETH_IPV6, icmp(ICMPV6, kind), to_both()));
    }
    for kind in ICMP_ERRORS {
        filters.push(filter(ETH_IPV4, icmp(ICMP, kind), to_both()));
    }
    filters.push(filter(ETH_ALL, vec![], vec![Action::Redirect(tap.to_owned())]));
    in_order(filters)
}

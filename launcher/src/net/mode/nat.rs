//! `--net nat`: on a host; what the guest sends is masqueraded,
//! and the ports asked for lead to it.
//!
//! The host's own tables, routes and addresses stay as they are. The guest's /30 is the first that
//! nothing on the host overlaps, unless it was given. A published port is one of any address of
//! the host, or of the one named, as `docker run -p` has it: from outside, from the host itself,
//! and from 127.0.0.1, whose packets then come from the router's address. IPv6 is not offered.

use std::net::{IpAddr, Ipv4Addr};

use super::pod::{guard, output, through, whole};
use crate::config::{Publish, Subnet};
use crate::net::before;
use crate::net::filter::Action;
use crate::net::guest::{GuestNetwork, GuestV4};
use crate::net::inspect::Facts;
use crate::net::plan::{Draft, Names, Plan, PlanError, Request, Step, server_mac};
use crate::net::ruleset::Match::{self, Destination, Out, Port, Source, ToLocal};
use crate::net::ruleset::{Hook, Rule, Table, Verdict, filter_chain, nat_chain, rule};

/// Where a /30 is looked for, in this order: network and length of its prefix.
const SPACES: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(192, 168, 254, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(172, 30, 0, 0), 16),
    (Ipv4Addr::new(10, 213, 0, 0), 16),
];
/// Routes of shorter prefixes are halves of a default route, not somebody's network.
const LEAST_PREFIX: u8 = 8;

/// Plans it.
///
/// # Errors
/// No free address space.
pub fn plan(request: &Request, facts: &Facts, names: &Names) -> Result<Plan, PlanError> {
    let mut draft = Draft::new(request, facts, names);
    let subnet = match request.subnet {
        Some(subnet) => given(subnet, facts)?,
        None => free(facts)?,
    };
    // A host may lead nowhere, and still speak with its guest.
    let uplink = facts.uplink().ok();
    let guest = GuestNetwork {
        mac: request.mac,
        server_mac: server_mac(request.mac),
        mtu: draft.mtu(uplink.as_ref()),
        host_name: request.name.clone(),
        v4: Some(GuestV4 {
            address: subnet.guest,
            prefix: Subnet::PREFIX,
            gateway: Some(subnet.gateway),
            server: subnet.gateway,
        }),
        v6: None,
    };
    draft.taps(&guest, true, &Action::Accept);
    draft.router(&[(subnet.gateway.into(), Subnet::PREFIX)]);
    let mut forward = vec![Step::Forwarding(names.tap.clone())];
    if !request.publish.is_empty() {
        forward.push(Step::RouteLocalnet(names.tap.clone()));
    }
    forward.extend(entrances(request, facts).into_iter().map(Step::Forwarding));
    let comment = before::note(&forward, &names.tap);
    draft.steps.push(Step::Rules(Table { comment, ..rules(request, names, subnet) }));
    draft.steps.extend(forward);
    draft.up();
    Ok(draft.finish(guest))
}

/// The interfaces by which packets for the guest come in, and which do not forward yet: that of
/// the default route, and those of addresses named with a published port.
fn entrances(request: &Request, facts: &Facts) -> Vec<String> {
    let default = facts.default_route(false).map(|route| route.link);
    let named = request.publish.iter().filter_map(|publish| publish.address);
    let of = |address: Ipv4Addr| {
        let found = facts.addresses.iter().find(|a| a.address == IpAddr::V4(address));
        found.map(|found| found.link)
    };
    let mut links: Vec<u32> = default.into_iter().chain(named.filter_map(of)).collect();
    links.sort_unstable();
    links.dedup();
    let closed = |index: u32| {
        let link = facts.links.iter().find(|link| link.index == index)?;
        (!link.forwarding && !link.loopback).then(|| link.name.clone())
    };
    links.into_iter().filter_map(closed).collect()
}

/// Networks of the host: of its addresses, and of its routes but the default ones.
fn taken(facts: &Facts) -> Vec<(Ipv4Addr, u8)> {
    let addresses = facts.addresses.iter().map(|a| (a.address, a.prefix));
    let routes = facts.routes.iter().filter_map(|route| route.destination);
    let v4 = |(address, prefix)| match address {
        IpAddr::V4(address) => Some((address, prefix)),
        IpAddr::V6(_) => None,
    };
    let networks = addresses.chain(routes).filter_map(v4);
    networks.filter(|(_, prefix)| *prefix >= LEAST_PREFIX).collect()
}

fn overlap(a: (Ipv4Addr, u8), b: (Ipv4Addr, u8)) -> bool {
    let shorter = u32::from(a.1.min(b.1));
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(shorter)).unwrap_or(0);
    u32::from(a.0) & mask == u32::from(b.0) & mask
}

fn given(subnet: Subnet, facts: &Facts) -> Result<Subnet, PlanError> {
    let network = (subnet.guest, Subnet::PREFIX);
    match taken(facts).into_iter().find(|other| overlap(network, *other)) {
        None => Ok(subnet),
        Some((address, prefix)) => Err(PlanError(format!(
            "VM_IP {} and VM_GW {} overlap with {address}/{prefix} of this host; give others, or \
             none: then a free /30 is found",
            subnet.guest, subnet.gateway
        ))),
    }
}

fn free(facts: &Facts) -> Result<Subnet, PlanError> {
    let taken = taken(facts);
    for (network, prefix) in SPACES {
        let size = 1_u32.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
        for offset in (0..size).step_by(4) {
            let base = u32::from(network).wrapping_add(offset);
            let candidate = (Ipv4Addr::from(base), Subnet::PREFIX);
            if !taken.iter().any(|other| overlap(candidate, *other)) {
                return Ok(Subnet {
                    gateway: Ipv4Addr::from(base.wrapping_add(1)),
                    guest: Ipv4Addr::from(base.wrapping_add(2)),
                });
            }
        }
    }
    Err(PlanError(
        "no /30 of private addresses is free on this host; give VM_IP and VM_GW".to_owned(),
    ))
}

fn rules(request: &Request, names: &Names, subnet: Subnet) -> Table {
    let tap = &names.tap;
    let guest = IpAddr::V4(subnet.guest);
    let published =
        || -> Vec<Rule> { request.publish.iter().map(|publish| lead(publish, guest)).collect() };
    let to_guest = || Out(tap.clone());
    let mut outward = vec![rule([whole(guest)], Verdict::Masquerade)];
    let mut chains = vec![guard(tap, &[guest])];
    if !request.publish.is_empty() {
        let loopback = Source(Ipv4Addr::new(127, 0, 0, 0).into(), 8);
        outward.push(rule([loopback, to_guest()], Verdict::Masquerade));
        chains.push(nat_chain("prerouting", Hook::Prerouting, published()));
        chains.push(nat_chain("publish", Hook::Output, published()));
    }
    chains.push(nat_chain("postrouting", Hook::Postrouting, outward));
    chains.push(filter_chain("forward", Hook::Forward, 0, through(tap, &[guest], &[])));
    chains.push(filter_chain("output", Hook::Output, 0, output(tap)));
    Table { name: names.table.clone(), comment: String::new(), chains }
}

fn lead(publish: &Publish, guest: IpAddr) -> Rule {
    let to: Match = match publish.address {
        Some(address) => Destination(address.into()),
        None => ToLocal,
    };
    let port = Port(publish.protocol, publish.host);
    rule([to, port], Verdict::Dnat(guest, Some(publish.guest)))
}

//! Traffic control: a `clsact` queueing discipline, and `flower` filters on what comes in.
//!
//! `linux/pkt_sched.h`, `linux/pkt_cls.h`, `linux/tc_act`. No I/O.

use std::net::IpAddr;

use super::link::octets;
use super::wire::{self, Attributes, Message};
use crate::net::filter::{Action, ETH_ALL, Filter, ICMPV6, Key};

const NEWQDISC: u16 = 36;
const DELQDISC: u16 = 37;
const NEWTFILTER: u16 = 44;
const DELTFILTER: u16 = 45;
const GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// The place of ingress and clsact, and within it of what comes in and what goes out.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
pub const INGRESS: u32 = 0xffff_fff2;
pub const EGRESS: u32 = 0xffff_fff3;

const FLOWER: &str = "flower";
/// Every filter's handle: each has a preference of its own.
const HANDLE: u32 = 1;

const FLOWER_ACT: u16 = 3;
const KEY_ETH_SRC: u16 = 6;
const KEY_ETH_SRC_MASK: u16 = 7;
const KEY_ETH_TYPE: u16 = 8;
const KEY_IP_PROTO: u16 = 9;
const KEY_IPV4_SRC: u16 = 10;
const KEY_IPV6_SRC: u16 = 14;
const KEY_TCP_DST: u16 = 19;
const KEY_UDP_SRC: u16 = 20;
const KEY_UDP_DST: u16 = 21;
const FLOWER_FLAGS: u16 = 22;
const KEY_TCP_DST_MASK: u16 = 36;
const KEY_UDP_SRC_MASK: u16 = 37;
const KEY_UDP_DST_MASK: u16 = 38;
const KEY_ICMPV4_TYPE: u16 = 51;
const KEY_ICMPV6_TYPE: u16 = 55;
const KEY_ARP_SIP: u16 = 57;
const KEY_ARP_SHA: u16 = 63;
/// Never in hardware, which does not know our taps.
const SKIP_HARDWARE: u32 = 1;

const ACT_KIND: u16 = 1;
const ACT_OPTIONS: u16 = 2;
/// `TCA_GACT_PARMS` and `TCA_MIRRED_PARMS`.
const ACT_PARAMETERS: u16 = 2;
/// `TC_ACT_UNSPEC` (on to the next filter), `OK`, `SHOT`, `PIPE` (on to the next action), `STOLEN`.
const UNSPEC: i32 = -1;
const OK: i32 = 0;
const SHOT: i32 = 2;
const PIPE: i32 = 3;
const STOLEN: i32 = 4;
const EGRESS_REDIRECT: i32 = 1;
const EGRESS_MIRROR: i32 = 2;

/// `struct tcmsg`.
fn tc(kind: u16, flags: u16, link: u32, handle: u32, parent: u32, info: u32) -> Message {
    let mut header = vec![0; 4];
    for field in [link, handle, parent, info] {
        header.extend(field.to_ne_bytes());
    }
    Message::new(kind, flags, &header)
}

/// Gives an interface a `clsact`.
pub fn new_clsact(link: u32) -> Message {
    let flags = wire::CREATE | wire::EXCLUSIVE;
    tc(NEWQDISC, flags, link, CLSACT_HANDLE, CLSACT, 0)
        .with(Attributes::new().text(TCA_KIND, "clsact"))
}

/// Takes an interface's `clsact` away, with its filters.
pub fn delete_clsact(link: u32) -> Message {
    tc(DELQDISC, 0, link, CLSACT_HANDLE, CLSACT, 0).with(Attributes::new().text(TCA_KIND, "clsact"))
}

/// The preference and the EtherType in network byte order, as `tcm_info` has them.
fn info(preference: u16, ether_type: u16) -> u32 {
    u32::from(preference) << 16 | u32::from(ether_type.to_be())
}

/// Adds a filter to what comes into an interface. `index` answers an interface's number.
pub fn new_filter(link: u32, filter: &Filter, mut index: impl FnMut(&str) -> u32) -> Message {
    let mut options = Attributes::new();
    if filter.ether_type != ETH_ALL {
        options = options.be16(KEY_ETH_TYPE, filter.ether_type);
    }
    let icmpv6 = filter.keys.contains(&Key::Protocol(ICMPV6));
    for key in &filter.keys {
        options = with_key(options, *key, icmpv6);
    }
    let mut actions = Attributes::new();
    for (number, action) in (1..).zip(&filter.actions) {
        let last = number == filter.actions.len();
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        actions = actions.nest(number, encode_action(action, last, &mut index));
    }
    options = options.nest(FLOWER_ACT, actions).u32(FLOWER_FLAGS, SKIP_HARDWARE);
    let attributes = Attributes::new().text(TCA_KIND, FLOWER).nest(TCA_OPTIONS, options);
    let info = info(filter.preference, filter.ether_type);
    let flags = wire::CREATE | wire::EXCLUSIVE;
    tc(NEWTFILTER, flags, link, HANDLE, INGRESS, info).with(attributes)
}

fn with_key(options: Attributes, key: Key, icmpv6: bool) -> Attributes {
    const ALL: u16 = 0xffff;
    match key {
        Key::SourceMac(mac) => options.bytes(KEY_ETH_SRC, &mac).bytes(KEY_ETH_SRC_MASK, &[0xff; 6]),
        Key::Source(address, prefix) => with_address(options, address, prefix, 0),
        // Destination follows source, each with its mask.
        Key::Destination(address) => with_address(options, address, 128, 2),
        Key::Protocol(protocol) => options.u8(KEY_IP_PROTO, protocol),
        Key::UdpSource(port) => options.be16(KEY_UDP_SRC, port).be16(KEY_UDP_SRC_MASK, ALL),
        Key::UdpDestination(port) => options.be16(KEY_UDP_DST, port).be16(KEY_UDP_DST_MASK, ALL),
        Key::TcpDestination(port) => options.be16(KEY_TCP_DST, port).be16(KEY_TCP_DST_MASK, ALL),
        Key::IcmpType(kind) => {
            let key = if icmpv6 { KEY_ICMPV6_TYPE } else { KEY_ICMPV4_TYPE };
            options.u8(key, kind).u8(key + 1, 0xff)
        }
        Key::ArpSender(mac, address) => options
            .bytes(KEY_ARP_SIP, &address.octets())
            .bytes(KEY_ARP_SIP + 1, &[0xff; 4])
            .bytes(KEY_ARP_SHA, &mac)
            .bytes(KEY_ARP_SHA + 1, &[0xff; 6]),
    }
}

fn with_address(options: Attributes, address: IpAddr, prefix: u8, place: u16) -> Attributes {
    let first = if address.is_ipv4() { KEY_IPV4_SRC } else { KEY_IPV6_SRC };
    let (_, bytes) = octets(address);
    let mask: Vec<u8> = mask(prefix).into_iter().take(bytes.len()).collect();
    options.bytes(first + place, &bytes).bytes(first + place + 1, &mask)
}

/// A prefix of so many ones.
pub fn mask(prefix: u8) -> [u8; 16] {
    let ones = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0);
    ones.to_be_bytes()
}

/// One action: `struct tc_gact`, or `struct tc_mirred`.
fn encode_action(action: &Action, last: bool, mut index: impl FnMut(&str) -> u32) -> Attributes {
    let (kind, verdict, mirred) = match action {
        Action::Accept => ("gact", OK, None),
        Action::Drop => ("gact", SHOT, None),
        Action::Redirect(link) => ("mirred", STOLEN, Some((EGRESS_REDIRECT, index(link)))),
        Action::Mirror(link) => {
            ("mirred", if last { UNSPEC } else { PIPE }, Some((EGRESS_MIRROR, index(link))))
        }
    };
    // Index, capabilities, verdict, two counts of references.
    let mut parameters = Vec::new();
    for field in [0, 0, verdict, 0, 0] {
        parameters.extend(field.to_ne_bytes());
    }
    if let Some((how, link)) = mirred {
        parameters.extend(how.to_ne_bytes());
        parameters.extend(link.to_ne_bytes());
    }
    let options = Attributes::new().bytes(ACT_PARAMETERS, &parameters);
    Attributes::new().text(ACT_KIND, kind).nest(ACT_OPTIONS, options)
}

/// Removes all filters of a preference from what comes into an interface.
pub fn delete_filters(link: u32, preference: u16) -> Message {
    tc(DELTFILTER, 0, link, 0, INGRESS, info(preference, 0))
}

/// All filters on one side of an interface.
pub fn get_filters(link: u32, side: u32) -> Message {
    tc(GETTFILTER, 0, link, 0, side, 0)
}

/// The preference of a filter in an answer to [`get_filters`].
pub fn read_preference(body: &[u8]) -> Option<u16> {
    u16::try_from(wire::u32_at(body, 16)? >> 16).ok()
}

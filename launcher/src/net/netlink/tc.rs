//! Traffic control: a `clsact` queueing discipline, and `flower` filters on what comes in.
//!
//! `linux/pkt_sched.h`, `linux/pkt_cls.h`, `linux/tc_act`. No I/O.

use std::net::IpAddr;

use super::link::octets;
use super::wire::{self, Attributes, Message};
use crate::net::filter::{Action, ETH_ALL, Filter, ICMPV6, Key};

const NEWQDISC: u16 = 36;
const DELQDISC: u16 = 37;
const GETQDISC: u16 = 38;
const NEWTFILTER: u16 = 44;
const DELTFILTER: u16 = 45;
const GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;

/// The place of ingress and clsact, and within it of what comes in and what goes out.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
pub const INGRESS: u32 = 0xffff_fff2;
pub const EGRESS: u32 = 0xffff_fff3;

const FLOWER: &str = "flower";
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

/// All queueing disciplines of an interface, ingress ones too.
pub fn get_qdiscs(link: u32) -> Message {
    tc(GETQDISC, 0, link, 0, 0, 0)
}

/// Reads, of one answer to [`get_qdiscs`], how many packets the ingress filters of interface `link`
/// have dropped; `None` for other disciplines and interfaces.
pub fn read_ingress_drops(body: &[u8], link: u32) -> Option<u64> {
    let (of, parent) = (wire::u32_at(body, 4)?, wire::u32_at(body, 12)?);
    if of != link || parent != CLSACT {
        return None;
    }
    let statistics = wire::attribute(body.get(20..)?, TCA_STATS2)?;
    // struct gnet_stats_queue: length, backlog, drops.
    let queue = wire::attribute(statistics, TCA_STATS_QUEUE)?;
    wire::u32_at(queue, 8).map(u64::from)
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
    tc(NEWTFILTER, flags, link, filter.handle, INGRESS, info).with(attributes)
}

/// Without a mask of its own, every bit of a key counts.
fn with_key(options: Attributes, key: Key, icmpv6: bool) -> Attributes {
    match key {
        Key::SourceMac(mac) => options.bytes(KEY_ETH_SRC, &mac).bytes(KEY_ETH_SRC_MASK, &[0xff; 6]),
        Key::Source(address, prefix) => with_address(options, address, prefix, 0),
        // Destination follows source, each with its mask.
        Key::Destination(address) => with_address(options, address, 128, 2),
        Key::Protocol(protocol) => options.u8(KEY_IP_PROTO, protocol),
        Key::UdpSource(port) => options.be16(KEY_UDP_SRC, port),
        Key::UdpDestination(port) => options.be16(KEY_UDP_DST, port),
        Key::TcpDestination(port) => options.be16(KEY_TCP_DST, port),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::filter::{ETH_ARP, ETH_IPV4, ETH_IPV6, ICMP, TCP, UDP, filter};

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0xbe, 0, 1];

    /// What iproute2's tc sends for `tc filter add dev d0 ingress pref N protocol P flower skip_hw`
    /// and the words in the comment, from `tcm_info` on; d0 is interface 3, d1 is 2.
    const GOLDEN: [&str; 9] = [
        // src_mac 52:54:00:be:00:01 ip_proto udp dst_port 67 action mirred egress redirect dev d1
        "080000c10b000100666c6f7765720000740002000a000600525400be000100000a000700ffffffffffff000005\
         00090011000000060015000043000038000300340001000b0001006d6972726564000024000280200002000000\
         0000000000000400000000000000000000000100000002000000080016000100000006000800\
         08000000",
        // src_mac 52:54:00:be:00:01 ip_proto icmpv6 type 135 action mirred egress mirror dev d1
        // continue
        "86dd01c10b000100666c6f77657200007c0002000a000600525400be000100000a000700ffffffffffff000005\
         0009003a000000050037008700000005003800ff00000038000300340001000b0001006d697272656400002400\
         0280200002000000000000000000ffffffff000000000000000002000000020000000800160001000000060008\
         0086dd0000",
        // ip_proto udp src_port 547 action drop
        "86dd02c10b000100666c6f77657200005400020005000900110000000600140002230000300003002c00010009\
         00010067616374000000001c000280180002000000000000000000020000000000000000000000080016000100\
         00000600080086dd0000",
        // src_mac 52:54:00:be:00:01 arp_sip 192.168.254.2 arp_sha 52:54:00:be:00:01 action ok
        "080603c10b000100666c6f7765720000840002000a000600525400be000100000a000700ffffffffffff000008\
         003900c0a8fe0208003a00ffffffff0a003f00525400be000100000a004000ffffffffffff0000300003002c00\
         01000900010067616374000000001c000280180002000000000000000000000000000000000000000000080016\
         00010000000600080008060000",
        // src_mac 52:54:00:be:00:01 src_ip 192.168.254.2/32 action ok
        "080004c10b000100666c6f77657200006c0002000a000600525400be000100000a000700ffffffffffff000008\
         000a00c0a8fe0208000b00ffffffff300003002c0001000900010067616374000000001c000280180002000000\
         00000000000000000000000000000000000008001600010000000600080008000000",
        // src_mac 52:54:00:be:00:01 src_ip fe80::/10 action ok
        "86dd05c10b000100666c6f7765720000840002000a000600525400be000100000a000700ffffffffffff000014\
         000e00fe80000000000000000000000000000014000f00ffc00000000000000000000000000000300003002c00\
         01000900010067616374000000001c000280180002000000000000000000000000000000000000000000080016\
         00010000000600080086dd0000",
        // ip_proto tcp dst_ip fd00::7 dst_port 5900 action ok
        "86dd06c10b000100666c6f77657200007c000200050009000600000014001000fd000000000000000000000000\
         00000714001100ffffffffffffffffffffffffffffffff06001300170c0000300003002c000100090001006761\
         6374000000001c0002801800020000000000000000000000000000000000000000000800160001000000060008\
         0086dd0000",
        // ip_proto icmp type 3 action mirred egress mirror dev d1 action ok
        "080007c10b000100666c6f7765720000900002000500090001000000050033000300000005003400ff00000064\
         000300340001000b0001006d697272656400002400028020000200000000000000000003000000000000000000\
         0000020000000200 00002c0002000900010067616374000000001c000280180002000000000000000000000000\
         00000000000000000008001600010000000600080008000000",
        // action drop
        "000308c10b000100666c6f77657200003c000200300003002c0001000900010067616374000000001c00028018\
         00020000000000000000000200000000000000000000000800160001000000",
    ];

    fn ours() -> Vec<Filter> {
        let own = Key::SourceMac(MAC);
        let to = || "d1".to_owned();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let guest = [192, 168, 254, 2].into();
        let accept = || vec![Action::Accept];
        let udp = Key::Protocol(UDP);
        let solicitation = vec![own, Key::Protocol(ICMPV6), Key::IcmpType(135)];
        let vnc =
            vec![Key::Protocol(TCP), Key::Destination(ip("fd00::7")), Key::TcpDestination(5900)];
        let filters = [
            filter(ETH_IPV4, vec![own, udp, Key::UdpDestination(67)], vec![Action::Redirect(to())]),
            filter(ETH_IPV6, solicitation, vec![Action::Mirror(to())]),
            filter(ETH_IPV6, vec![udp, Key::UdpSource(547)], vec![Action::Drop]),
            filter(ETH_ARP, vec![own, Key::ArpSender(MAC, guest)], accept()),
            filter(ETH_IPV4, vec![own, Key::Source(guest.into(), 32)], accept()),
            filter(ETH_IPV6, vec![own, Key::Source(ip("fe80::"), 10)], accept()),
            filter(ETH_IPV6, vnc, accept()),
            filter(
                ETH_IPV4,
                vec![Key::Protocol(ICMP), Key::IcmpType(3)],
                vec![Action::Mirror(to()), Action::Accept],
            ),
            filter(ETH_ALL, vec![], vec![Action::Drop]),
        ];
        crate::net::filter::in_order(filters)
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let byte =
            |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// Attributes as (path, payload), in the order of their types.
    fn leaves(path: &[u16], bytes: &[u8]) -> Vec<(Vec<u16>, Vec<u8>)> {
        let mut found = Vec::new();
        for (kind, payload) in wire::attributes(bytes) {
            let path = [path, &[kind]].concat();
            match path.as_slice() {
                [TCA_OPTIONS]
                | [TCA_OPTIONS, FLOWER_ACT]
                | [TCA_OPTIONS, FLOWER_ACT, _]
                | [TCA_OPTIONS, FLOWER_ACT, _, ACT_OPTIONS] => found.extend(leaves(&path, payload)),
                _ => found.push((path, payload.to_vec())),
            }
        }
        found.sort();
        found
    }

    #[test]
    fn filters_are_what_iproute2_says() {
        for (filter, golden) in ours().iter().zip(GOLDEN) {
            let golden = unhex(golden);
            let message = new_filter(3, filter, |name| if name == "d1" { 2 } else { 0 });
            let body = &message.body;
            assert_eq!((message.kind, message.flags), (NEWTFILTER, 0x600), "{filter}");
            let header = [4, 8, 12].map(|at| wire::u32_at(body, at));
            assert_eq!(header, [Some(3), Some(1), Some(INGRESS)], "{filter}");
            assert_eq!(body[16..20], golden[..4], "{filter}");
            assert_eq!(leaves(&[], &body[20..]), leaves(&[], &golden[4..]), "{filter}");
        }
    }

    #[test]
    fn preferences_are_read_back() {
        for filter in ours() {
            let message = new_filter(3, &filter, |_| 1);
            assert_eq!(read_preference(&message.body), Some(filter.preference));
        }
        assert_eq!(read_preference(&[0; 19]), None);
    }
}

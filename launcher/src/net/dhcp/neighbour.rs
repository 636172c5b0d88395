//! The router's side of neighbour discovery: advertisements of the router (RFC 4861 §6.2) with
//! name servers and domains (RFC 8106), and of its hardware address (§7.2.4). No I/O.
//!
//! The address comes from DHCPv6: advertisements say so (M and O), and no prefix in them may be
//! used to make one (A is clear). Solicitations are answered at once, by multicast too: §6.2.6
//! spaces those out for the sake of other hosts on the link, and there are none. Left out:
//! redirects, and advertisements that say farewell.

use std::net::Ipv6Addr;

use devices::net::MacAddr;

use super::bytes::Bytes;
use crate::net::guest::{GuestNetwork, GuestV6};
use crate::net::names::{self, DomainName};
use crate::net::resolv::ResolvConf;

/// RFC 4861 §4.1 to §4.4: ICMPv6 types.
pub const ROUTER_SOLICITATION: u8 = 133;
/// See above.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// See above.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// See above.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// §4.2: the hop limit that the host should use.
const HOP_LIMIT: u8 = 64;
/// §4.2: addresses, and other things, by DHCPv6.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
/// Seconds that the router, and the name servers it tells of, are good for: nine advertisements.
const LIFETIME_S: u16 = 1800;
/// Seconds that a prefix is on-link: §6.2.1, 30 days.
const PREFIX_S: u32 = 2_592_000;
/// §4.6.2.
const ON_LINK: u8 = 0x80;
/// §4.4: router, solicited, override.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Option types: RFC 4861 §4.6.1 to §4.6.4, RFC 8106 §5.
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;

/// RFC 8200 §5: what every link carries. The headers of IPv6 and ICMPv6 count in it.
const MIN_MTU: u16 = 1280;
const HEADERS: usize = 44;
/// An option's length is one byte, and counts units of eight.
const UNIT: usize = 8;
const MAX_UNITS: usize = 255;

/// Whether `body` (after the checksum) from `source` is a solicitation: §6.1.1.
pub fn is_router_solicitation(source: Ipv6Addr, body: &[u8]) -> bool {
    let mut bytes = Bytes(body);
    let Some(_reserved) = bytes.array::<4>() else { return false };
    source_option(bytes).is_some_and(|given| !(given && source.is_unspecified()))
}

/// The address that a neighbour solicitation asks for: §7.1.1. `None`: it is none.
pub fn solicited(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Option<Ipv6Addr> {
    let mut bytes = Bytes(body);
    let _reserved: [u8; 4] = bytes.array()?;
    let target = Ipv6Addr::from(bytes.array::<16>()?);
    let given = source_option(bytes)?;
    let probe = source.is_unspecified();
    let whole = !probe || (destination == solicited_node(target) && !given);
    (whole && !target.is_multicast()).then_some(target)
}

/// Whether the options hold a source link-layer address. `None`: they are broken.
fn source_option(mut bytes: Bytes<'_>) -> Option<bool> {
    let mut found = false;
    while !bytes.is_empty() {
        let (kind, units) = (bytes.u8()?, usize::from(bytes.u8()?));
        // §4.6: an option of no length would never end.
        bytes.take(units.checked_mul(UNIT)?.checked_sub(2)?)?;
        found |= kind == SOURCE_LINK_LAYER;
    }
    Some(found)
}

/// RFC 4291 §2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits() | low)
}

/// The body of a neighbour advertisement for `target` at `mac`, in answer to a solicitation from
/// an address or, `probe`, from a host that looks whether one is free.
pub fn neighbour_advertisement(target: Ipv6Addr, mac: MacAddr, probe: bool) -> Vec<u8> {
    let flags = ROUTER | OVERRIDE | if probe { 0 } else { SOLICITED };
    let mut body = vec![flags, 0, 0, 0];
    body.extend(target.octets());
    push_link_layer(&mut body, TARGET_LINK_LAYER, mac);
    body
}

/// The body of a router advertisement. What `gone` had and `resolver` has not is taken back.
pub fn router_advertisement(
    network: &GuestNetwork,
    v6: &GuestV6,
    resolver: &ResolvConf,
    gone: &ResolvConf,
) -> Vec<u8> {
    let mut body = vec![HOP_LIMIT, MANAGED | OTHER];
    body.extend(LIFETIME_S.to_be_bytes());
    // Reachable time and retransmission timer: not ours to say.
    body.extend([0; 8]);
    if let Some(mac) = v6.router_mac {
        push_link_layer(&mut body, SOURCE_LINK_LAYER, mac);
    }
    // RFC 4861 §6.3.4: a host ignores less than every link carries.
    if network.mtu >= MIN_MTU {
        body.extend([MTU, 1, 0, 0]);
        body.extend(u32::from(network.mtu).to_be_bytes());
    }
    if v6.prefix < 128 {
        let host = u128::MAX.checked_shr(u32::from(v6.prefix)).unwrap_or(0);
        body.extend([PREFIX_INFORMATION, 4, v6.prefix, ON_LINK]);
        body.extend(PREFIX_S.to_be_bytes());
        body.extend(PREFIX_S.to_be_bytes());
        body.extend([0; 4]);
        body.extend((v6.address.to_bits() & !host).to_be_bytes());
    }
    let limit = usize::from(network.mtu.max(MIN_MTU)).saturating_sub(HEADERS);
    push_servers(&mut body, resolver.servers_v6(), LIFETIME_S, limit);
    push_search(&mut body, &resolver.search, LIFETIME_S, limit);
    let gone_servers =
        gone.servers_v6().filter(|old| !resolver.servers_v6().any(|new| new == *old));
    push_servers(&mut body, gone_servers, 0, limit);
    let gone_search = gone.search.iter().filter(|old| !resolver.search.contains(old));
    push_search(&mut body, gone_search, 0, limit);
    body
}

fn push_link_layer(body: &mut Vec<u8>, kind: u8, mac: MacAddr) {
    body.extend([kind, 1]);
    body.extend(mac);
}

/// RFC 8106 §5.1: as many as fit.
fn push_servers(
    body: &mut Vec<u8>,
    servers: impl Iterator<Item = Ipv6Addr>,
    lifetime: u16,
    limit: usize,
) {
    let room = limit.saturating_sub(body.len()).min(MAX_UNITS * UNIT).saturating_sub(UNIT);
    let list: Vec<u8> = servers.take(room / 16).flat_map(|server| server.octets()).collect();
    push_resolver_option(body, RDNSS, lifetime, &list);
}

/// RFC 8106 §5.2: as many as fit, filled up with zeros.
fn push_search<'a>(
    body: &mut Vec<u8>,
    search: impl IntoIterator<Item = &'a DomainName>,
    lifetime: u16,
    limit: usize,
) {
    let room = limit.saturating_sub(body.len()).min(MAX_UNITS * UNIT).saturating_sub(UNIT);
    let mut list = names::uncompressed(search, room / UNIT * UNIT);
    list.resize(list.len().next_multiple_of(UNIT), 0);
    push_resolver_option(body, DNSSL, lifetime, &list);
}

/// `list` is whole units, and at most 254 of them.
fn push_resolver_option(body: &mut Vec<u8>, kind: u8, lifetime: u16, list: &[u8]) {
    if list.is_empty() {
        return;
    }
    let units = u8::try_from(list.len() / UNIT).unwrap_or(u8::MAX).saturating_add(1);
    body.extend([kind, units, 0, 0]);
    body.extend(u32::from(lifetime).to_be_bytes());
    body.extend(list);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::dhcp::frame::ALL_NODES;
    use crate::net::names::tests::read_names;
    use proptest::prelude::*;

    fn network(mtu: u16) -> (GuestNetwork, GuestV6) {
        let v6 = GuestV6 {
            address: "2001:db8::2".parse().unwrap(),
            prefix: 126,
            router: "fe80::1".parse().unwrap(),
            router_mac: Some([2, 0, 0, 0, 0, 1]),
        };
        let network = GuestNetwork {
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            server_mac: [2, 0, 0, 0, 0, 1],
            mtu,
            host_name: "vm".to_owned(),
            v4: None,
            v6: Some(v6.clone()),
        };
        (network, v6)
    }

    /// Type and value of each option.
    fn options(body: &[u8]) -> Vec<(u8, &[u8])> {
        let mut rest = &body[12..];
        let mut found = Vec::new();
        while let [kind, units, ..] = *rest {
            let (option, after) = rest.split_at(usize::from(units) * 8);
            found.push((kind, &option[2..]));
            rest = after;
        }
        found
    }

    #[test]
    fn a_router_advertisement_to_the_byte() {
        let (network, v6) = network(1450);
        let resolver =
            ResolvConf::parse(b"nameserver 10.0.0.1\nnameserver fd00::53\nsearch a.bc\n");
        let body = router_advertisement(&network, &v6, &resolver, &resolver);
        let expected: &[&[u8]] = &[
            &[64, 0xc0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 2, 0, 0, 0, 0, 1],
            &[5, 1, 0, 0, 0, 0, 0x05, 0xaa],
            &[3, 4, 126, 0x80, 0, 0x27, 0x8d, 0, 0, 0x27, 0x8d, 0, 0, 0, 0, 0],
            &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[25, 3, 0, 0, 0, 0, 0x07, 0x08],
            &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53],
            &[31, 2, 0, 0, 0, 0, 0x07, 0x08, 1, b'a', 2, b'b', b'c', 0, 0, 0],
        ];
        assert_eq!(body, expected.concat());
    }

    #[test]
    fn what_is_not_there_is_not_said() {
        let (network, v6) = network(1000);
        let v6 = GuestV6 { prefix: 128, router_mac: None, ..v6 };
        let none = ResolvConf::default();
        assert_eq!(router_advertisement(&network, &v6, &none, &none).len(), 12);
    }

    #[test]
    fn what_is_gone_is_taken_back() {
        let (network, v6) = network(1500);
        let old = ResolvConf::parse(b"nameserver fd00::1\nnameserver fd00::2\nsearch a.b c.d\n");
        let new = ResolvConf::parse(b"nameserver fd00::2\nsearch c.d\n");
        let body = router_advertisement(&network, &v6, &new, &old);
        let lists: Vec<_> = options(&body)
            .into_iter()
            .filter(|(kind, _)| [RDNSS, DNSSL].contains(kind))
            .map(|(kind, value)| (kind, value[5], value.last().copied()))
            .collect();
        assert_eq!(
            lists,
            [(RDNSS, 8, Some(2)), (DNSSL, 8, Some(0)), (RDNSS, 0, Some(1)), (DNSSL, 0, Some(0))]
        );
    }

    #[test]
    fn long_lists_are_cut_to_the_packet() {
        let mut text = "search".to_owned();
        (0..64).for_each(|n| text += &format!(" {}.example", "x".repeat(n + 1)));
        (0..32).for_each(|n| text += &format!("\nnameserver fd00::{n}"));
        let resolver = ResolvConf::parse(text.as_bytes());
        for mtu in [1280, 1500, 9000, 65535] {
            let (network, v6) = network(mtu);
            let body = router_advertisement(&network, &v6, &resolver, &resolver);
            assert!(body.len() + HEADERS <= usize::from(mtu), "{mtu}");
            let options = options(&body);
            let (_, servers) = options.iter().find(|(kind, _)| *kind == RDNSS).unwrap();
            assert_eq!(servers.len(), 6 + 32 * 16);
            let (_, domains) = options.iter().find(|(kind, _)| *kind == DNSSL).unwrap();
            let names = read_names(&domains[6..]);
            let names: Vec<_> = names.iter().filter(|name| !name.is_empty()).collect();
            assert!(names.len() > 20, "{mtu}: {}", names.len());
            assert_eq!(names[..2], ["x.example", "xx.example"]);
        }
    }

    #[test]
    fn solicitations_are_checked() {
        let (host, none): (Ipv6Addr, _) = ("fe80::2".parse().unwrap(), Ipv6Addr::UNSPECIFIED);
        let plain = [0; 4];
        let with = [0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
        assert!(is_router_solicitation(host, &plain) && is_router_solicitation(none, &plain));
        assert!(is_router_solicitation(host, &with) && !is_router_solicitation(none, &with));
        for end in (0..with.len()).filter(|end| *end != 4) {
            assert!(!is_router_solicitation(host, &with[..end]), "{end}");
        }
        assert!(!is_router_solicitation(host, &[0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0]));

        let router: Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap();
        let group = solicited_node(router);
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        let ask =
            |target: Ipv6Addr, option: &[u8]| [&[0; 4][..], &target.octets(), option].concat();
        let option = [1, 1, 1, 2, 3, 4, 5, 6];
        assert_eq!(solicited(host, group, &ask(router, &option)), Some(router));
        assert_eq!(solicited(host, router, &ask(router, &[])), Some(router));
        assert_eq!(solicited(none, group, &ask(router, &[])), Some(router));
        assert_eq!(solicited(none, ALL_NODES, &ask(router, &[])), None);
        assert_eq!(solicited(none, group, &ask(router, &option)), None);
        assert_eq!(solicited(host, group, &ask(ALL_NODES, &[])), None);
        assert_eq!(solicited(host, group, &ask(router, &[1, 0])), None);
        for end in (0..28).filter(|end| *end != 20) {
            assert_eq!(solicited(host, group, &ask(router, &option)[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_neighbour_advertisement_to_the_byte() {
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let body = neighbour_advertisement(router, [2, 0, 0, 0, 0, 9], false);
        let mut expected = vec![0xe0, 0, 0, 0, 0xfe, 0x80];
        expected.extend([0; 13]);
        expected.extend([1, 2, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(body, expected);
        assert_eq!(neighbour_advertisement(router, [2, 0, 0, 0, 0, 9], true)[0], 0xa0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(source: u128, body in prop::collection::vec(any::<u8>(), 0..120)) {
            is_router_solicitation(source.into(), &body);
            solicited(source.into(), ALL_NODES, &body);
        }
    }
}

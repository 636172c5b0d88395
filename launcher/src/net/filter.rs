//! Filters of traffic control, as data: what a frame must be like, and what becomes of it.
//!
//! [`guard`] is the fence around the guest that every mode has on the guest's tap: it may speak
//! with its own hardware and network addresses only, may not play DHCP server or router, and what
//! it asks of DHCP and of routers goes to the service tap. tc-flower(8), tc-mirred(8).
//!
//! Filters have preferences in a range of Berth's own, so that what a killed run left behind is
//! recognised. They are behind those that others give (which count up from 1, or down from 0xC000
//! when the kernel chooses): what others filter on a pod's interface stays in force.
//!
//! For each preference the kernel takes a frame's headers apart once more, which is most of what a
//! filter costs. Neighbours that look at the same fields therefore share one, in which they are a
//! table; and what most packets are stands in front.
//!
//! Left out: later fragments carry no ports or ICMP types, so a guest can get an answer of a DHCP
//! server past the fence in fragments; with its own source address, which gives it away.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use devices::net::MacAddr;

use super::guest::GuestNetwork;
use crate::config::show_mac;

/// The first preference of ours, and how many there may be.
pub const FIRST_PREFERENCE: u16 = 0xc100;
pub const PREFERENCES: u16 = 64;

/// EtherTypes (`linux/if_ether.h`).
pub const ETH_IPV4: u16 = 0x0800;
pub const ETH_ARP: u16 = 0x0806;
pub const ETH_IPV6: u16 = 0x86dd;
pub const ETH_ALL: u16 = 0x0003;

/// Protocols (IANA).
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// RFC 2131 §4.1, RFC 8415 §7.2.
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;
/// RFC 4861 §4.
pub const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const REDIRECT: u8 = 137;

/// One filter on what comes into an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Lower is asked first.
    pub preference: u16,
    /// Its number among those of its preference, from 1: of these one applies, or none.
    pub handle: u32,
    /// EtherType.
    pub ether_type: u16,
    /// All of them must hold.
    pub keys: Vec<Key>,
    /// In order.
    pub actions: Vec<Action>,
}

/// What a frame must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Its source hardware address.
    SourceMac(MacAddr),
    /// Its source address, with the length of the prefix that counts.
    Source(IpAddr, u8),
    /// Its destination address.
    Destination(IpAddr),
    /// Its protocol.
    Protocol(u8),
    /// UDP's source port.
    UdpSource(u16),
    /// UDP's destination port.
    UdpDestination(u16),
    /// TCP's destination port.
    TcpDestination(u16),
    /// ICMP's or ICMPv6's type.
    IcmpType(u8),
    /// ARP's sender.
    ArpSender(MacAddr, Ipv4Addr),
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes where it was going.
    Accept,
    /// It is gone.
    Drop,
    /// It leaves by this interface instead.
    Redirect(String),
    /// A copy leaves by this interface; then the next action, and after the last the next filter.
    Mirror(String),
}

impl Filter {
    /// Whether it looks at the same fields of a frame.
    fn looks_like(&self, other: &Self) -> bool {
        let fields = |(a, b): (&Key, &Key)| match (a, b) {
            (Key::Source(a, length), Key::Source(b, other)) => {
                length == other && a.is_ipv4() == b.is_ipv4()
            }
            _ => std::mem::discriminant(a) == std::mem::discriminant(b),
        };
        self.ether_type == other.ether_type
            && self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(fields)
    }
}

/// Gives filters their preferences, in order.
pub fn in_order(filters: impl IntoIterator<Item = Filter>) -> Vec<Filter> {
    let mut ordered: Vec<Filter> = Vec::new();
    for filter in filters {
        let (preference, handle) = match ordered.last() {
            None => (FIRST_PREFERENCE, 1),
            Some(last) if last.looks_like(&filter) => (last.preference, last.handle + 1),
            Some(last) => (last.preference + 1, 1),
        };
        ordered.push(Filter { preference, handle, ..filter });
    }
    ordered
}

/// A filter that has no preference yet.
pub fn filter(ether_type: u16, keys: Vec<Key>, actions: Vec<Action>) -> Filter {
    Filter { preference: 0, handle: 0, ether_type, keys, actions }
}

/// The filters on what the guest sends; `onward` is what becomes of what it may send. Without a
/// `service`, DHCP and router solicitations are packets like any other.
pub fn guard(guest: &GuestNetwork, service: Option<&str>, onward: &Action) -> Vec<Filter> {
    use Key::{IcmpType, Protocol, UdpDestination, UdpSource};
    let own = Key::SourceMac(guest.mac);
    let mut filters = Vec::new();
    // Most packets, of which nothing more needs to be known.
    let mut plain = |ether_type, source: IpAddr, length, protocol| {
        let keys = vec![own, Key::Source(source, length), Protocol(protocol)];
        filters.push(filter(ether_type, keys, vec![onward.clone()]));
    };
    if let Some(v4) = &guest.v4 {
        plain(ETH_IPV4, v4.address.into(), 32, TCP);
        plain(ETH_IPV4, v4.address.into(), 32, ICMP);
    }
    if let Some(v6) = &guest.v6 {
        plain(ETH_IPV6, v6.address.into(), 128, TCP);
    }
    if let Some(service) = service {
        let serve = || vec![Action::Redirect(service.to_owned())];
        if guest.v4.is_some() {
            let keys = vec![own, Protocol(UDP), UdpDestination(DHCP_SERVER)];
            filters.push(filter(ETH_IPV4, keys, serve()));
        }
        if let Some(v6) = &guest.v6 {
            let keys = vec![own, Protocol(UDP), UdpDestination(DHCPV6_SERVER)];
            filters.push(filter(ETH_IPV6, keys, serve()));
            let icmp = |kind| vec![own, Protocol(ICMPV6), IcmpType(kind)];
            filters.push(filter(ETH_IPV6, icmp(ROUTER_SOLICITATION), serve()));
            if v6.router_mac.is_some() {
                let copy = vec![Action::Mirror(service.to_owned())];
                filters.push(filter(ETH_IPV6, icmp(NEIGHBOUR_SOLICITATION), copy));
            }
        }
    }
    if guest.v4.is_some() {
        let keys = vec![Protocol(UDP), UdpSource(DHCP_SERVER)];
        filters.push(filter(ETH_IPV4, keys, vec![Action::Drop]));
    }
    if guest.v6.is_some() {
        let keys = vec![Protocol(UDP), UdpSource(DHCPV6_SERVER)];
        filters.push(filter(ETH_IPV6, keys, vec![Action::Drop]));
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            let keys = vec![Protocol(ICMPV6), IcmpType(kind)];
            filters.push(filter(ETH_IPV6, keys, vec![Action::Drop]));
        }
    }
    let mut allow =
        |ether_type, key| filters.push(filter(ether_type, vec![own, key], vec![onward.clone()]));
    if let Some(v4) = &guest.v4 {
        for sender in [v4.address, Ipv4Addr::UNSPECIFIED] {
            allow(ETH_ARP, Key::ArpSender(guest.mac, sender));
        }
        allow(ETH_IPV4, Key::Source(v4.address.into(), 32));
    }
    if let Some(v6) = &guest.v6 {
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
        for (source, prefix) in [(v6.address, 128), (Ipv6Addr::UNSPECIFIED, 128), (link_local, 10)]
        {
            allow(ETH_IPV6, Key::Source(source.into(), prefix));
        }
    }
    filters.push(filter(ETH_ALL, vec![], vec![Action::Drop]));
    in_order(filters)
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.ether_type {
            ETH_IPV4 => "ipv4",
            ETH_IPV6 => "ipv6",
            ETH_ARP => "arp",
            _ => "everything",
        };
        write!(f, "{} {protocol}", self.preference)?;
        self.keys.iter().try_for_each(|key| write!(f, " {key}"))?;
        self.actions.iter().try_for_each(|action| write!(f, ", {action}"))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceMac(mac) => write!(f, "from {}", show_mac(*mac)),
            Self::Source(address, prefix) => write!(f, "from {address}/{prefix}"),
            Self::Destination(address) => write!(f, "to {address}"),
            Self::Protocol(TCP) => f.write_str("tcp"),
            Self::Protocol(UDP) => f.write_str("udp"),
            Self::Protocol(ICMP) => f.write_str("icmp"),
            Self::Protocol(ICMPV6) => f.write_str("icmpv6"),
            Self::Protocol(number) => write!(f, "protocol {number}"),
            Self::UdpSource(port) => write!(f, "sport {port}"),
            Self::UdpDestination(port) | Self::TcpDestination(port) => write!(f, "dport {port}"),
            Self::IcmpType(kind) => write!(f, "type {kind}"),
            Self::ArpSender(mac, address) => {
                write!(f, "sender {} {address}", show_mac(*mac))
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Redirect(link) => write!(f, "redirect to {link}"),
            Self::Mirror(link) => write!(f, "copy to {link}"),
        }
    }
}

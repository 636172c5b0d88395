//! Interfaces, addresses, routes and neighbours: what there is, and requests to change it.
//!
//! rtnetlink(7), `linux/if_link.h`, `linux/if_addr.h`, `linux/rtnetlink.h`, `linux/neighbour.h`. Of
//! a multipath route only the first next hop is read. No I/O.

use std::net::IpAddr;

use devices::net::MacAddr;

use super::wire::{self, Attributes, Message};

const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const GETROUTE: u16 = 26;
const GETNEIGH: u16 = 30;

const AF_UNSPEC: u8 = 0;
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_NOARP: u32 = 0x80;

/// Per-interface settings of IPv4 (`linux/ip.h`), counted from one.
pub const DEVCONF_FORWARDING: u16 = 1;
pub const DEVCONF_ROUTE_LOCALNET: u16 = 26;
/// Of IPv6 (`linux/ipv6.h`), counted from zero.
const DEVCONF6_ACCEPT_RA: usize = 3;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// Secondary (IPv4), temporary (IPv6); failed, deprecated, tentative.
const IFA_F_SECOND_RATE: u32 = 0x01 | 0x08 | 0x20 | 0x40;
const IFA_F_NODAD: u32 = 0x02;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTAX_MTU: u16 = 2;
const RTA_TABLE: u16 = 15;
const RTN_UNICAST: u8 = 1;
const TABLE_MAIN: u32 = 254;
const PROTOCOL_RA: u8 = 9;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Reachable, stale, delay, probe, permanent: the hardware address counts.
const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `tun`, `veth`, …; empty for hardware.
    pub kind: String,
    /// Hardware address, where it is of Ethernet's length.
    pub mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// `net.ipv4.conf.NAME.forwarding`.
    pub forwarding: bool,
    /// `net.ipv6.conf.NAME.accept_ra`; `None`: no IPv6 in this kernel.
    pub accept_ra: Option<u32>,
}

/// What an interface has counted: `struct rtnl_link_stats64`, as far as it is of use. Of a tap, rx
/// is what is written to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames.
    pub rx_packets: u64,
    /// Frames.
    pub tx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that were malformed.
    pub rx_errors: u64,
    /// Frames that nobody wanted, or for which there was no memory.
    pub rx_dropped: u64,
    /// Frames for which there was no room.
    pub tx_dropped: u64,
}

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Of global scope, and first rate: not secondary, temporary, tentative or deprecated.
    pub primary: bool,
}

/// A unicast route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; `None`: everywhere.
    pub destination: Option<(IpAddr, u8)>,
    /// Whether it is of IPv6.
    pub ipv6: bool,
    /// Through whom, if not on the link.
    pub gateway: Option<IpAddr>,
    /// The interface's number.
    pub link: u32,
    /// Lower is preferred.
    pub metric: u32,
    /// The most that fits through, if less than what the interface takes; in bytes.
    pub mtu: Option<u32>,
    /// Whether a router advertisement made it.
    pub advertised: bool,
}

/// A neighbour whose hardware address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface's number.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: MacAddr,
}

fn interface(kind: u16, flags: u16, index: u32, state: (u32, u32)) -> Message {
    let mut header = vec![AF_UNSPEC, 0, 0, 0];
    header.extend(index.to_ne_bytes());
    header.extend(state.0.to_ne_bytes());
    header.extend(state.1.to_ne_bytes());
    Message::new(kind, flags, &header)
}

/// All interfaces.
pub fn get_links() -> Message {
    interface(GETLINK, 0, 0, (0, 0))
}

fn no_own_addresses() -> Attributes {
    let mode = Attributes::new().u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE);
    Attributes::new().nest(u16::from(AF_INET6), mode)
}

/// Brings an interface up.
pub fn up(index: u32) -> Message {
    interface(SETLINK, 0, index, (IFF_UP, IFF_UP))
}

/// What a tap is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapSettings {
    /// Its own hardware address, if it matters.
    pub mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: u16,
    /// Whether the kernel looks for neighbours, and answers them, on it.
    pub arp: bool,
    /// Whether it has IPv6, which then makes no address by itself.
    pub ipv6: bool,
}

/// Prepares a tap that is down.
pub fn set_tap(index: u32, tap: TapSettings) -> Message {
    let mut attributes = Attributes::new().u32(IFLA_MTU, u32::from(tap.mtu));
    if let Some(mac) = tap.mac {
        attributes = attributes.bytes(IFLA_ADDRESS, &mac);
    }
    if tap.ipv6 {
        attributes = attributes.nest(IFLA_AF_SPEC, no_own_addresses());
    }
    let flags = if tap.arp { 0 } else { IFF_NOARP };
    interface(SETLINK, 0, index, (flags, IFF_NOARP)).with(attributes)
}

/// Sets one of the IPv4 settings that are below `net.ipv4.conf.NAME`: as an attribute of the
/// interface, which needs no writable `/proc/sys`.
pub fn set_ipv4_conf(index: u32, setting: u16, value: u32) -> Message {
    let conf = Attributes::new().u32(setting, value);
    let family = Attributes::new().nest(IFLA_INET_CONF, conf);
    let spec = Attributes::new().nest(u16::from(AF_INET), family);
    interface(SETLINK, 0, index, (0, 0)).with(Attributes::new().nest(IFLA_AF_SPEC, spec))
}

/// The address family's number, and the address in bytes.
pub fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

/// Adds an address, without the duplicate address detection that would delay it: nobody else is on
/// our links.
pub fn new_address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let (family, bytes) = octets(address);
    let scope = match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => SCOPE_LINK,
        _ => SCOPE_UNIVERSE,
    };
    let mut header = vec![family, prefix, 0, scope];
    header.extend(index.to_ne_bytes());
    let mut attributes = Attributes::new().bytes(IFA_LOCAL, &bytes).bytes(IFA_ADDRESS, &bytes);
    if family == AF_INET6 {
        attributes = attributes.u32(IFA_FLAGS, IFA_F_NODAD);
    }
    Message::new(NEWADDR, wire::CREATE | wire::EXCLUSIVE, &header).with(attributes)
}

/// All addresses.
pub fn get_addresses() -> Message {
    Message::new(GETADDR, 0, &[0; 8])
}

/// All routes of a family.
pub fn get_routes(family: u8) -> Message {
    let mut header = [0; 12];
    header[0] = family;
    Message::new(GETROUTE, 0, &header)
}

/// All neighbours of a family.
pub fn get_neighbours(family: u8) -> Message {
    let mut header = [0; 12];
    header[0] = family;
    Message::new(GETNEIGH, 0, &header)
}

/// Reads one answer to [`get_links`].
pub fn read_link(body: &[u8]) -> Option<Link> {
    let attributes = body.get(16..)?;
    let flags = wire::u32_at(body, 8)?;
    let info = wire::attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
    let spec = wire::attribute(attributes, IFLA_AF_SPEC).unwrap_or_default();
    let conf = |family: u8, kind: u16| {
        let settings = wire::attribute(spec, u16::from(family))?;
        wire::attribute(settings, kind)
    };
    let mac = wire::attribute(attributes, IFLA_ADDRESS);
    Some(Link {
        index: wire::u32_at(body, 4)?,
        name: wire::text(wire::attribute(attributes, IFLA_IFNAME)?),
        kind: wire::attribute(info, IFLA_INFO_KIND).map(wire::text).unwrap_or_default(),
        mac: mac.and_then(|bytes| bytes.try_into().ok()),
        mtu: wire::u32_at(wire::attribute(attributes, IFLA_MTU)?, 0)?,
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        // The settings as an array of numbers.
        forwarding: conf(AF_INET, IFLA_INET_CONF).and_then(|conf| wire::u32_at(conf, 0)) == Some(1),
        accept_ra: conf(AF_INET6, IFLA_INET6_CONF)
            .and_then(|conf| wire::u32_at(conf, DEVCONF6_ACCEPT_RA.saturating_mul(4))),
    })
}

/// Reads what the interface of one answer to [`get_links`] has counted.
pub fn read_counters(body: &[u8]) -> Option<LinkCounters> {
    let counters = wire::attribute(body.get(16..)?, IFLA_STATS64)?;
    let at = |number: usize| wire::u64_at(counters, number.checked_mul(8)?);
    Some(LinkCounters {
        rx_packets: at(0)?,
        tx_packets: at(1)?,
        rx_bytes: at(2)?,
        tx_bytes: at(3)?,
        rx_errors: at(4)?,
        rx_dropped: at(6)?,
        tx_dropped: at(7)?,
    })
}

/// An address out of the bytes of an attribute.
pub fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// Reads one answer to [`get_addresses`].
pub fn read_address(body: &[u8]) -> Option<Address> {
    let attributes = body.get(8..)?;
    let of = |kind| wire::attribute(attributes, kind);
    let flags = of(IFA_FLAGS).and_then(|flags| wire::u32_at(flags, 0));
    let flags = flags.unwrap_or(u32::from(*body.get(2)?));
    // On a point-to-point interface the other attribute is the peer's address.
    let address = of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS)).and_then(read_ip)?;
    Some(Address {
        link: wire::u32_at(body, 4)?,
        address,
        prefix: *body.get(1)?,
        primary: *body.get(3)? == SCOPE_UNIVERSE && flags & IFA_F_SECOND_RATE == 0,
    })
}

/// Reads one answer to [`get_routes`]; `None` for routes of other tables or kinds too.
pub fn read_route(body: &[u8]) -> Option<Route> {
    let attributes = body.get(12..)?;
    let of = |kind| wire::attribute(attributes, kind);
    let number = |kind| of(kind).and_then(|bytes| wire::u32_at(bytes, 0));
    let table = number(RTA_TABLE).unwrap_or(u32::from(*body.get(4)?));
    if table != TABLE_MAIN || *body.get(7)? != RTN_UNICAST {
        return None;
    }
    // struct rtnexthop: length, flags and weight, interface; then attributes.
    let hop = of(RTA_MULTIPATH);
    let hop_length = hop.and_then(|hop| wire::u16_at(hop, 0)).map(usize::from);
    let hop_attributes = hop.and_then(|hop| hop.get(8..hop_length?)).unwrap_or_default();
    let length = *body.get(1)?;
    let destination = of(RTA_DST).and_then(read_ip).map(|address| (address, length));
    let gateway = of(RTA_GATEWAY).or_else(|| wire::attribute(hop_attributes, RTA_GATEWAY));
    Some(Route {
        destination: destination.filter(|_| length != 0),
        ipv6: *body.first()? == AF_INET6,
        gateway: gateway.and_then(read_ip),
        link: number(RTA_OIF).or_else(|| hop.and_then(|hop| wire::u32_at(hop, 4)))?,
        metric: number(RTA_PRIORITY).unwrap_or(0),
        mtu: of(RTA_METRICS)
            .and_then(|metrics| wire::attribute(metrics, RTAX_MTU))
            .and_then(|bytes| wire::u32_at(bytes, 0)),
        advertised: *body.get(5)? == PROTOCOL_RA,
    })
}

/// Reads one answer to [`get_neighbours`]; `None` while the hardware address is not known.
pub fn read_neighbour(body: &[u8]) -> Option<Neighbour> {
    let attributes = body.get(12..)?;
    let state = wire::u16_at(body, 8)?;
    (state & NUD_VALID != 0).then_some(())?;
    Some(Neighbour {
        link: wire::u32_at(body, 4)?,
        address: wire::attribute(attributes, NDA_DST).and_then(read_ip)?,
        mac: wire::attribute(attributes, NDA_LLADDR)?.try_into().ok()?,
    })
}

//! What the guest's network is to be, as whoever configures the guest must know it: plain data.

use std::net::{Ipv4Addr, Ipv6Addr};

use devices::net::MacAddr;

/// The guest's interface, and what it is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNetwork {
    /// Hardware address of the guest's interface.
    pub mac: MacAddr,
    /// Hardware address that Berth's servers speak with.
    pub server_mac: MacAddr,
    /// In bytes.
    pub mtu: u16,
    /// The guest's host name.
    pub host_name: String,
    /// IPv4, if there is any.
    pub v4: Option<GuestV4>,
    /// IPv6, if there is any.
    pub v6: Option<GuestV6>,
}

/// The guest's IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestV4 {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Length of its prefix, 1 to 32 bits.
    pub prefix: u8,
    /// The router; need not be within the prefix.
    pub gateway: Option<Ipv4Addr>,
    /// The DHCP server's identifier and source address.
    pub server: Ipv4Addr,
}

/// The guest's IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestV6 {
    /// The guest's address.
    pub address: Ipv6Addr,
    /// Length of its prefix, 1 to 128 bits.
    pub prefix: u8,
    /// The router: the link-local source of router advertisements.
    pub router: Ipv6Addr,
    /// The router's hardware address, where Berth has to answer neighbour solicitations for it.
    pub router_mac: Option<MacAddr>,
}

//! What a VM is told about its network: plain data, made by whoever plans the network and handed
//! to [`crate::net::dhcp`], which says it in DHCPv4, router advertisements and DHCPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use devices::net::MacAddr;

/// One interface of the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNetwork {
    /// The VM's hardware address: nobody else is answered.
    pub mac: MacAddr,
    /// The hardware address that our frames come from.
    pub server_mac: MacAddr,
    /// In bytes, of the IP packet.
    pub mtu: u16,
    /// The VM's name; one that is no host name (RFC 1123 §2.1) is not told.
    pub host_name: String,
    /// Its IPv4 address, if it has one.
    pub v4: Option<GuestV4>,
    /// Its IPv6 address, if it has one.
    pub v6: Option<GuestV6>,
}

/// The VM's place in an IPv4 network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestV4 {
    /// The VM's address.
    pub address: Ipv4Addr,
    /// Length of the on-link prefix, 0 to 32 bits; more counts as 32.
    pub prefix: u8,
    /// The default router. It may lie outside of the prefix: then it is told as on-link.
    pub gateway: Option<Ipv4Addr>,
    /// The DHCP server's identifier, and the source address of what it sends.
    pub server: Ipv4Addr,
}

/// The VM's place in an IPv6 network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestV6 {
    /// The VM's address.
    pub address: Ipv6Addr,
    /// Length of the on-link prefix, 0 to 128 bits; with 128 and more, nothing is on-link.
    pub prefix: u8,
    /// The default router's link-local address: the source of router advertisements and DHCPv6.
    pub router: Ipv6Addr,
    /// Given when nobody else answers for `router`: neighbour solicitations for it get this.
    pub router_mac: Option<MacAddr>,
}

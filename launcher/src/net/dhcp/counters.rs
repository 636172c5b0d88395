//! What the service has done, and the leases it knows of: written by its thread, read by any.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An address that the VM has asked for and got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease<A> {
    /// The address.
    pub address: A,
    /// When it was acknowledged last.
    pub acknowledged: Instant,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Counters {
    /// DHCPDISCOVER received.
    pub discovers: Counter,
    /// DHCPOFFER sent.
    pub offers: Counter,
    /// DHCPREQUEST received.
    pub requests: Counter,
    /// DHCPACK sent.
    pub acks: Counter,
    /// DHCPNAK sent.
    pub naks: Counter,
    /// DHCPINFORM received.
    pub informs: Counter,
    /// DHCPDECLINE received.
    pub declines: Counter,
    /// DHCPRELEASE received.
    pub releases: Counter,
    /// DHCPv6 messages received, of any kind that is understood.
    pub v6_messages: Counter,
    /// DHCPv6 Advertise sent.
    pub v6_advertises: Counter,
    /// DHCPv6 Reply sent.
    pub v6_replies: Counter,
    /// DHCPv6 Decline received.
    pub v6_declines: Counter,
    /// Router solicitations received.
    pub router_solicitations: Counter,
    /// Router advertisements sent, asked for or not.
    pub router_advertisements: Counter,
    /// Neighbour solicitations for the router's address received.
    pub neighbour_solicitations: Counter,
    /// Neighbour advertisements sent.
    pub neighbour_advertisements: Counter,
    /// Frames dropped: broken, or not understood.
    pub malformed: Counter,
    /// Frames dropped: not from the VM, or for another server.
    pub foreign: Counter,
    /// Frames dropped: nothing that is answered.
    pub unanswered: Counter,
    /// Frames that were made and could not be written.
    pub unsent: Counter,
    leases: Mutex<Leases>,
}

#[derive(Debug, Default)]
struct Leases {
    /// When the guest took its first one.
    first: Option<Instant>,
    v4: Option<Lease<Ipv4Addr>>,
    v6: Option<Lease<Ipv6Addr>>,
}

impl Counters {
    /// The IPv4 lease, until it is released or declined.
    pub fn lease_v4(&self) -> Option<Lease<Ipv4Addr>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).v4
    }

    /// The IPv6 lease, until it is released or declined.
    pub fn lease_v6(&self) -> Option<Lease<Ipv6Addr>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).v6
    }

    /// When the guest took an address for the first time.
    pub fn first_lease(&self) -> Option<Instant> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).first
    }

    /// What it is, and how often, in an order that stays.
    pub fn all(&self) -> [(&'static str, u64); 20] {
        [
            ("discovers", &self.discovers),
            ("offers", &self.offers),
            ("requests", &self.requests),
            ("acks", &self.acks),
            ("naks", &self.naks),
            ("informs", &self.informs),
            ("declines", &self.declines),
            ("releases", &self.releases),
            ("DHCPv6 messages", &self.v6_messages),
            ("DHCPv6 advertises", &self.v6_advertises),
            ("DHCPv6 replies", &self.v6_replies),
            ("DHCPv6 declines", &self.v6_declines),
            ("router solicitations", &self.router_solicitations),
            ("router advertisements", &self.router_advertisements),
            ("neighbour solicitations", &self.neighbour_solicitations),
            ("neighbour advertisements", &self.neighbour_advertisements),
            ("malformed", &self.malformed),
            ("foreign", &self.foreign),
            ("unanswered", &self.unanswered),
            ("unsent", &self.unsent),
        ]
        .map(|(name, counter)| (name, counter.get()))
    }

    /// Notes a lease; true when there was none for this family.
    pub(super) fn acknowledge(&self, address: IpAddr, acknowledged: Instant) -> bool {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.first.get_or_insert(acknowledged);
        match address {
            IpAddr::V4(address) => leases.v4.replace(Lease { address, acknowledged }).is_none(),
            IpAddr::V6(address) => leases.v6.replace(Lease { address, acknowledged }).is_none(),
        }
    }

    /// Forgets the lease of this address's family; true when there was one.
    pub(super) fn forget(&self, address: IpAddr) -> bool {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        match address {
            IpAddr::V4(_) => leases.v4.take().is_some(),
            IpAddr::V6(_) => leases.v6.take().is_some(),
        }
    }
}

/// One line for a log: leases, then what is not zero.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = |acknowledged: Instant| acknowledged.elapsed().as_secs();
        match (self.lease_v4(), self.lease_v6()) {
            (None, None) => f.write_str("no lease")?,
            (v4, v6) => {
                let v4 = v4.map(|lease| (IpAddr::from(lease.address), age(lease.acknowledged)));
                let v6 = v6.map(|lease| (IpAddr::from(lease.address), age(lease.acknowledged)));
                for (n, (address, age)) in v4.into_iter().chain(v6).enumerate() {
                    let comma = if n == 0 { "" } else { ", " };
                    write!(f, "{comma}lease of {address} acknowledged {age} s ago")?;
                }
            }
        }
        let mut counted = self.all().into_iter().filter(|(_, count)| *count != 0);
        counted.try_for_each(|(name, count)| write!(f, ", {count} {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_what_there_was() {
        let counters = Counters::default();
        assert_eq!(counters.to_string(), "no lease");
        counters.acks.count();
        counters.foreign.count();
        counters.foreign.count();
        let first = Instant::now();
        counters.acknowledge(Ipv4Addr::LOCALHOST.into(), first);
        counters.acknowledge(Ipv6Addr::LOCALHOST.into(), Instant::now());
        counters.forget(Ipv4Addr::LOCALHOST.into());
        counters.acknowledge(Ipv4Addr::LOCALHOST.into(), Instant::now());
        assert_eq!(counters.first_lease(), Some(first));
        assert_eq!(
            counters.to_string(),
            "lease of 127.0.0.1 acknowledged 0 s ago, lease of ::1 acknowledged 0 s ago, \
             1 acks, 2 foreign"
        );
    }
}

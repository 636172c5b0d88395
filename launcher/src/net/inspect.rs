//! What there is in this network namespace: interfaces, addresses, routes, neighbours, forwarding.
//!
//! Read through netlink, since `/sys` may show another namespace; only whether IPv6 is forwarded is
//! read, and may be set, in `/proc/sys` alone.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::before;
use super::netlink::link::{self, Address, Link, Neighbour, Route};
use super::netlink::{Netlink, Refused, nft};
use super::plan::{HOST_PREFIX, POD_TABLE, PlanError};

/// How long the hardware address of a gateway may take.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(2);
const NEIGHBOUR_PAUSE: Duration = Duration::from_millis(20);
/// Discard (RFC 863): what is sent there is to make the kernel look for the neighbour, no more.
const DISCARD: u16 = 9;
/// What has to be 1 for IPv6 to be forwarded, below `/proc/sys`.
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// The facts.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// All interfaces.
    pub links: Vec<Link>,
    /// All addresses.
    pub addresses: Vec<Address>,
    /// The unicast routes of the main table.
    pub routes: Vec<Route>,
    /// Neighbours whose hardware address is known.
    pub neighbours: Vec<Neighbour>,
    /// Whether IPv6 is forwarded.
    pub ipv6_forwarding: Ipv6Forwarding,
}

/// Whether IPv6 is forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6Forwarding {
    /// It is.
    On,
    /// It is not, but can be.
    Off,
    /// It is not, and cannot be set from here.
    #[default]
    Fixed,
}

/// The interface that leads out, with the addresses on it that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink<'a> {
    /// The interface.
    pub link: &'a Link,
    /// What fits through it, and through its default routes; in bytes.
    pub mtu: u32,
    /// Its first global IPv4 address, with the length of its prefix.
    pub v4: Option<(Ipv4Addr, u8)>,
    /// Its first global IPv6 address, with the length of its prefix.
    pub v6: Option<(Ipv6Addr, u8)>,
    /// Gateway of IPv4's default route.
    pub gateway4: Option<IpAddr>,
    /// Gateway of IPv6's default route.
    pub gateway6: Option<Ipv6Addr>,
    /// Whether a router advertisement made IPv6's default route.
    pub advertised: bool,
}

impl Facts {
    /// Looks around.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn gather(netlink: &mut Netlink) -> Result<Self, Refused> {
        let mut of = |message, read: &mut dyn FnMut(&[u8])| -> Result<(), Refused> {
            netlink.dump(&message)?.iter().for_each(|body| read(body));
            Ok(())
        };
        let mut facts = Self { ipv6_forwarding: ipv6_forwarding(), ..Self::default() };
        of(link::get_links(), &mut |body| facts.links.extend(link::read_link(body)))?;
        of(link::get_addresses(), &mut |body| facts.addresses.extend(link::read_address(body)))?;
        for family in [link::AF_INET, link::AF_INET6] {
            of(link::get_routes(family), &mut |body| facts.routes.extend(link::read_route(body)))?;
            of(link::get_neighbours(family), &mut |body| {
                facts.neighbours.extend(link::read_neighbour(body));
            })?;
        }
        // Without nf_tables there is no table, and nothing to recall.
        let tables = netlink.tables().unwrap_or_default();
        for (name, comment) in tables.iter().filter_map(|body| nft::read_table(body)) {
            if name == POD_TABLE || name.starts_with(HOST_PREFIX) {
                before::recall(&mut facts, &comment);
            }
        }
        Ok(facts)
    }

    /// The interface of this name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Whether the kernel has IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.links.iter().any(|link| link.accept_ra.is_some())
    }

    /// The default route of a family: of the lowest metric.
    pub fn default_route(&self, ipv6: bool) -> Option<&Route> {
        let defaults = self.routes.iter().filter(|r| r.ipv6 == ipv6 && r.destination.is_none());
        defaults.min_by_key(|route| route.metric)
    }

    /// The hardware address of a neighbour.
    pub fn neighbour(&self, link: u32, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.iter().find(|found| found.link == link && found.address == address)
    }

    /// The interface of the default route; without one, the only interface with a global address.
    ///
    /// # Errors
    /// A sentence: there is none, it has no address, or there are several.
    pub fn uplink(&self) -> Result<Uplink<'_>, PlanError> {
        let default = self.default_route(false).or_else(|| self.default_route(true));
        if let Some(link) = default.and_then(|d| self.links.iter().find(|l| l.index == d.link)) {
            let uplink = self.uplink_of(link);
            if uplink.v4.is_none() && uplink.v6.is_none() {
                return Err(PlanError(format!(
                    "the default route leads out of {}, but that interface has no address the \
                     guest could be reached at; see to the pod's network, or give --net none",
                    link.name
                )));
            }
            return Ok(uplink);
        }
        let addressed = |link: &&Link| {
            let with_address = |a: &Address| a.link == link.index && a.primary;
            !link.loopback && self.addresses.iter().any(with_address)
        };
        let candidates: Vec<&Link> = self.links.iter().filter(addressed).collect();
        match candidates.as_slice() {
            [only] => Ok(self.uplink_of(only)),
            [] => Err(PlanError(
                "no network interface here has an address the guest could be reached at; see to \
                 the pod's network, or give --net none"
                    .to_owned(),
            )),
            several => {
                let names: Vec<&str> = several.iter().map(|link| link.name.as_str()).collect();
                Err(PlanError(format!(
                    "there is no default route, and the interfaces {} all have addresses: which \
                     of them is the guest's cannot be told; add a default route",
                    names.join(", ")
                )))
            }
        }
    }

    /// Finds out the hardware address of an IPv6 gateway that has a global address.
    ///
    /// # Errors
    /// What the kernel says. A gateway that does not answer is no error here.
    pub fn find_gateway(&mut self, netlink: &mut Netlink) -> Result<(), Refused> {
        let Ok(uplink) = self.uplink() else { return Ok(()) };
        let index = uplink.link.index;
        let Some(gateway) = uplink.gateway6.filter(|gateway| !gateway.is_unicast_link_local())
        else {
            return Ok(());
        };
        if self.neighbour(index, gateway.into()).is_none() {
            self.neighbours.extend(resolve(netlink, index, gateway)?);
        }
        Ok(())
    }

    fn uplink_of<'a>(&'a self, link: &'a Link) -> Uplink<'a> {
        let own = || self.addresses.iter().filter(|a| a.link == link.index && a.primary);
        let on_link = |route: &&Route| route.link == link.index;
        let default6 = self.default_route(true).filter(on_link);
        let default4 = self.default_route(false).filter(on_link);
        // Cilium has the MTU in the routes.
        let routes = default4.into_iter().chain(default6).filter_map(|route| route.mtu);
        Uplink {
            link,
            mtu: routes.fold(link.mtu, u32::min),
            v4: own().find_map(|a| match a.address {
                IpAddr::V4(address) => Some((address, a.prefix)),
                IpAddr::V6(_) => None,
            }),
            v6: own().find_map(|a| match a.address {
                IpAddr::V6(address) => Some((address, a.prefix)),
                IpAddr::V4(_) => None,
            }),
            gateway4: default4.and_then(|route| route.gateway),
            gateway6: default6.and_then(|route| match route.gateway {
                Some(IpAddr::V6(gateway)) => Some(gateway),
                _ => None,
            }),
            advertised: default6.is_some_and(|route| route.advertised),
        }
    }
}

fn ipv6_forwarding() -> Ipv6Forwarding {
    let path = Path::new("/proc/sys").join(IPV6_FORWARDING);
    if fs::read_to_string(&path).is_ok_and(|text| text.trim() != "0") {
        return Ipv6Forwarding::On;
    }
    // Opening it changes nothing, and fails where it is mounted read-only.
    match File::options().write(true).open(&path) {
        Ok(_) => Ipv6Forwarding::Off,
        Err(_) => Ipv6Forwarding::Fixed,
    }
}

/// Makes the kernel find out the hardware address of a neighbour, if it does not know it.
fn resolve(
    netlink: &mut Netlink,
    link: u32,
    address: Ipv6Addr,
) -> Result<Option<Neighbour>, Refused> {
    let deadline = Instant::now() + NEIGHBOUR_PATIENCE;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    loop {
        let known = netlink.dump(&link::get_neighbours(link::AF_INET6))?;
        let mut known = known.iter().filter_map(|body| link::read_neighbour(body));
        let found = known.find(|n| n.link == link && n.address == IpAddr::V6(address));
        if found.is_some() || Instant::now() >= deadline {
            return Ok(found);
        }
        // Whether it arrives does not matter.
        drop(socket.send_to(&[], SocketAddr::new(address.into(), DISCARD)));
        std::thread::sleep(NEIGHBOUR_PAUSE);
    }
}

//! What is to be done to the network, as data: no privilege, no I/O.
//!
//! [`plan`] goes from what there is ([`Facts`]) and what is asked for ([`Request`]) to [`Step`]s in
//! the order in which they are done, and to what the guest must be told. [`super::apply`] does
//! them. `{plan}` shows one step a line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use devices::net::MacAddr;
use sha2::{Digest, Sha256};

use super::filter::{Action, ETH_ALL, Filter, filter, guard, in_order};
use super::guest::GuestNetwork;
use super::inspect::{Facts, Uplink};
use super::mode;
use super::netlink::link::TapSettings;
use super::ruleset::Table;
use crate::config::{Publish, Subnet, show_mac};

/// The most queue pairs of the guest's interface.
const MAX_QUEUES: u32 = 8;
/// The largest MTU of a tap: an IP packet's length less an Ethernet header.
const MAX_TAP_MTU: u32 = 65_521;
/// RFC 8200 §5: IPv6 needs links of this MTU at least.
const MIN_IPV6_MTU: u16 = 1280;

/// How the guest's network is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In a pod: the pod's addresses are translated to the guest's.
    Pod,
    /// In a pod: the guest has the pod's own addresses.
    Direct,
    /// On a host: what the guest sends is masqueraded.
    Nat,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Direct => "direct",
            Self::Nat => "nat",
        })
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The machine's name.
    pub name: String,
    /// How.
    pub mode: Mode,
    /// Hardware address of the guest's interface; in direct mode the pod's is used.
    pub mac: MacAddr,
    /// In bytes; else that of the interface the guest's packets leave by.
    pub mtu: Option<u16>,
    /// Number of vCPUs.
    pub cpus: u32,
    /// The guest's and the gateway's addresses.
    pub subnet: Option<Subnet>,
    /// Ports of the host that lead to the guest.
    pub publish: Vec<Publish>,
    /// Whether the guest is told of its network.
    pub dhcp: bool,
    /// Whether TCP 5900 is Berth's.
    pub vnc: bool,
}

/// Names of what is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The guest's tap.
    pub tap: String,
    /// The tap behind which DHCP is answered.
    pub service: String,
    /// The table of nftables.
    pub table: String,
}

impl Names {
    /// A pod has one machine, and fixed names. On a host each machine's are its own.
    pub fn new(mode: Mode, machine: &str) -> Self {
        if mode != Mode::Nat {
            let [tap, service, table] = ["berth0", "berth0-svc", POD_TABLE].map(str::to_owned);
            return Self { tap, service, table };
        }
        let digest = Sha256::digest(machine.as_bytes());
        let hash: String = digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
        let tap = format!("{HOST_PREFIX}{hash}");
        Self { service: format!("{tap}-s"), table: tap.clone(), tap }
    }
}

/// The table of a pod's machine.
pub const POD_TABLE: &str = "berth";
/// What the names begin with where several machines share a host.
pub const HOST_PREFIX: &str = "berth-";

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a tap, down, and opens its queues; it vanishes with them.
    Tap {
        /// Its name.
        name: String,
        /// How many queues; `None`: the one of the service, whose frames have no header.
        queues: Option<u32>,
        /// What it is like.
        settings: TapSettings,
    },
    /// Adds an address.
    Address {
        /// The interface.
        link: String,
        /// The address.
        address: IpAddr,
        /// Length of its prefix in bits.
        prefix: u8,
    },
    /// Lets IPv4 packets that come in by an interface be forwarded.
    Forwarding(String),
    /// Lets packets to and from 127.0.0.0/8 pass an interface.
    RouteLocalnet(String),
    /// Lets an interface go on hearing router advertisements when IPv6 is forwarded.
    AcceptRa(String),
    /// Lets IPv6 packets be forwarded.
    Ipv6Forwarding,
    /// Lets filters be added to an interface; those that a killed run left behind go.
    Filtering(String),
    /// Adds a filter to what comes in.
    Filter {
        /// The interface.
        link: String,
        /// The filter.
        filter: Filter,
    },
    /// Puts a table in place of what has its name.
    Rules(Table),
    /// Brings an interface up.
    Up(String),
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// What the guest must be told.
    pub guest: GuestNetwork,
    /// What the user should hear.
    pub warnings: Vec<String>,
}

/// Why there is no plan: whole sentences.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

/// Decides what to do.
///
/// # Errors
/// A sentence on what is missing.
pub fn plan(request: &Request, facts: &Facts) -> Result<Plan, PlanError> {
    let names = Names::new(request.mode, &request.name);
    for name in [&names.tap, &names.service] {
        if facts.link_named(name).is_some() {
            return Err(PlanError(format!(
                "the network interface {name} is in use already: another machine {}runs here; \
                 stop it first",
                if request.mode == Mode::Nat { "of this name " } else { "" }
            )));
        }
    }
    match request.mode {
        Mode::Pod => mode::pod::plan(request, facts, &names),
        Mode::Direct => mode::direct::plan(request, facts, &names),
        Mode::Nat => mode::nat::plan(request, facts, &names),
    }
}

/// What the modes have in common.
pub(super) struct Draft<'a> {
    pub(super) request: &'a Request,
    pub(super) facts: &'a Facts,
    pub(super) names: &'a Names,
    pub(super) steps: Vec<Step>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(request: &'a Request, facts: &'a Facts, names: &'a Names) -> Self {
        Self { request, facts, names, steps: Vec::new(), warnings: Vec::new() }
    }

    /// The MTU of everything that is made.
    pub(super) fn mtu(&self, uplink: Option<&Uplink>) -> u16 {
        let own = uplink.map_or(1500, |uplink| uplink.mtu);
        let mtu = self.request.mtu.map_or(own, u32::from).clamp(68, MAX_TAP_MTU);
        u16::try_from(mtu).unwrap_or(u16::MAX)
    }

    /// Whether links of this MTU can carry IPv6; says so if not.
    pub(super) fn carries_ipv6(&mut self, mtu: u16) -> bool {
        if mtu < MIN_IPV6_MTU {
            self.warnings.push(format!(
                "the guest has no IPv6: an MTU of {mtu} is less than its {MIN_IPV6_MTU}"
            ));
        }
        mtu >= MIN_IPV6_MTU
    }

    /// The taps, down, with the guest's fence on them. `onward` is what becomes of what the guest
    /// may send. With a `router`, this network namespace itself is the guest's next hop.
    pub(super) fn taps(&mut self, guest: &GuestNetwork, router: bool, onward: &Action) {
        let Names { tap, service, .. } = self.names;
        let mtu = guest.mtu;
        // Below, an interface loses its IPv6.
        let ipv6 = self.facts.has_ipv6() && mtu >= MIN_IPV6_MTU;
        let mac = router.then_some(guest.server_mac);
        self.steps.push(Step::Tap {
            name: tap.clone(),
            queues: Some(self.request.cpus.clamp(1, MAX_QUEUES)),
            settings: TapSettings { mac, mtu, arp: router, ipv6 },
        });
        if self.request.dhcp {
            let settings = TapSettings { mac: None, mtu, arp: false, ipv6 };
            self.steps.push(Step::Tap { name: service.clone(), queues: None, settings });
            let all = filter(ETH_ALL, vec![], vec![Action::Redirect(tap.clone())]);
            self.filters(service, in_order([all]));
        }
        let service = self.request.dhcp.then_some(service.as_str());
        self.filters(tap, guard(guest, service, onward));
    }

    pub(super) fn filters(&mut self, link: &str, filters: Vec<Filter>) {
        self.steps.push(Step::Filtering(link.to_owned()));
        for filter in filters {
            self.steps.push(Step::Filter { link: link.to_owned(), filter });
        }
    }

    /// Makes this namespace the guest's next hop.
    pub(super) fn router(&mut self, addresses: &[(IpAddr, u8)]) {
        for (address, prefix) in addresses {
            let (link, address, prefix) = (self.names.tap.clone(), *address, *prefix);
            self.steps.push(Step::Address { link, address, prefix });
        }
    }

    /// What was made comes up, the guest's tap last.
    pub(super) fn up(&mut self) {
        if self.request.dhcp {
            self.steps.push(Step::Up(self.names.service.clone()));
        }
        self.steps.push(Step::Up(self.names.tap.clone()));
    }

    pub(super) fn finish(self, guest: GuestNetwork) -> Plan {
        Plan { steps: self.steps, guest, warnings: self.warnings }
    }
}

/// The hardware address of whoever serves the guest `mac`: locally administered, and another. Only
/// the first byte differs: pods that are neighbours often differ in the last.
pub(super) fn server_mac(mac: MacAddr) -> MacAddr {
    let [first, rest @ ..] = mac;
    let mut other = [if first == 0xbe { 0xba } else { 0xbe }, 0, 0, 0, 0, 0];
    for (to, from) in other.iter_mut().skip(1).zip(rest) {
        *to = from;
    }
    other
}

/// The base address of the /30 that `address` is in.
pub(super) fn base_of_30(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) & !3)
}

impl fmt::Display for GuestNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest {} mtu {}", show_mac(self.mac), self.mtu)?;
        if let Some(v4) = &self.v4 {
            write!(f, ", {}/{}", v4.address, v4.prefix)?;
            v4.gateway.iter().try_for_each(|gateway| write!(f, " via {gateway}"))?;
        }
        match &self.v6 {
            Some(v6) => write!(f, ", {}/{} via {}", v6.address, v6.prefix, v6.router),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.guest)?;
        self.steps.iter().try_for_each(|step| write!(f, "\n{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap { name, queues, settings } => {
                match queues {
                    Some(queues) => write!(f, "tap {name} queues {queues}")?,
                    None => write!(f, "service tap {name}")?,
                }
                settings.mac.iter().try_for_each(|mac| write!(f, " {}", show_mac(*mac)))?;
                write!(f, " mtu {}", settings.mtu)
            }
            Self::Address { link, address, prefix } => {
                write!(f, "address {address}/{prefix} on {link}")
            }
            Self::Forwarding(link) => write!(f, "forward IPv4 that comes in by {link}"),
            Self::RouteLocalnet(link) => write!(f, "let 127.0.0.0/8 pass {link}"),
            Self::AcceptRa(link) => write!(f, "go on hearing router advertisements on {link}"),
            Self::Ipv6Forwarding => f.write_str("forward IPv6"),
            Self::Filtering(link) => write!(f, "filter what comes in by {link}"),
            Self::Filter { link, filter } => write!(f, "  {link}: {filter}"),
            Self::Rules(table) => write!(f, "{table}"),
            Self::Up(link) => write!(f, "bring {link} up"),
        }
    }
}

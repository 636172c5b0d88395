//! The guest's network as the launcher prepares it: what there is, what is to be done about it, and
//! doing it.
//!
//! [`inspect`] looks around, [`plan`] decides (one way of [`mode`] each, with [`filter`]s and a
//! [`ruleset`]), [`apply`] does it through [`netlink`], [`undo`] takes it back, at the end by way of a
//! [`caretaker`]. [`guest`] is what
//! the guest must be told: [`dhcp`] tells it, with the name servers that [`resolv`] finds, on a thread
//! of its own. [`statistics`] is what has gone through. The rest runs on the main thread, before the
//! machine and after it.

pub mod apply;
pub mod before;
pub mod caretaker;
pub mod dhcp;
pub mod filter;
pub mod guest;
pub mod inspect;
pub mod link;
pub mod lock;
pub mod mode;
pub mod names;
pub mod netlink;
pub mod plan;
pub mod resolv;
pub mod ruleset;
pub mod statistics;
pub mod undo;

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use apply::{Applied, ApplyError};
use guest::GuestNetwork;
use inspect::Facts;
use netlink::{Netlink, Refused};
use plan::{Mode, PlanError, Request};
use undo::Undo;

use crate::config::Publish;

/// Capability 12 of capabilities(7).
const CAP_NET_ADMIN: u32 = 12;
/// The device that taps are made with.
pub const TUN: &str = "/dev/net/tun";

/// Why there is no network for the guest.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// This process may not set up networks.
    #[error("--net {mode} needs {what}: {remedy}")]
    Privilege {
        /// The way asked for, or the default one.
        mode: Mode,
        /// What is missing.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A published port is not free.
    #[error("--publish {publish}: {problem} on this host; give another")]
    Publish {
        /// As it was asked for.
        publish: Publish,
        /// What is wrong.
        problem: String,
        /// What the system says.
        source: io::Error,
    },
    /// Another holds the lock, or there is none.
    #[error("the network of this host or pod is being changed by another")]
    Lock(#[source] io::Error),
    /// Netlink cannot be used.
    #[error("the network cannot be looked at")]
    Look(#[source] Refused),
    /// There is nothing that could be done.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It could not be done.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// The guest's network, ready.
pub struct Prepared {
    /// The guest's tap.
    pub tap: String,
    /// Its queues.
    pub taps: Vec<File>,
    /// The queue of the service tap: what the guest asks of DHCP and of routers, as frames. `None`:
    /// the guest is told nothing.
    pub service: Option<File>,
    /// What the guest is to be told.
    pub guest: GuestNetwork,
    /// Files with name servers for the guest; the first that names one it can reach counts.
    pub resolvers: &'static [&'static str],
    /// Keeps the network as it is while the machine runs.
    keep: Keep,
}

/// In the order in which they go.
struct Keep {
    undo: Undo,
    _ports: Vec<Port>,
}

/// A published port, taken: nobody else on this host gets it, another machine neither. What comes
/// for it goes to the guest before it reaches this socket.
enum Port {
    Tcp { _socket: TcpListener },
    Udp { _socket: UdpSocket },
}

impl Prepared {
    /// Leaves it to a process of its own to take the network back at the end, so that this one may
    /// give up the right to.
    ///
    /// # Errors
    /// That process does not start.
    pub fn entrust(&mut self) -> io::Result<()> {
        self.keep.undo.entrust()
    }
}

/// Prepares the guest's network in this network namespace.
///
/// # Errors
/// [`NetError`]; nothing has been changed then.
pub fn prepare(request: &Request) -> Result<Prepared, NetError> {
    privileged(request.mode)?;
    let ports = request.publish.iter().map(|publish| take(*publish)).collect::<Result<_, _>>()?;
    let lock = lock::take().map_err(NetError::Lock)?;
    let (facts, netlink) = look(request.mode == Mode::Direct)?;
    let plan = plan::plan(request, &facts)?;
    for warning in &plan.warnings {
        log::warn!("{warning}");
    }
    for line in plan.to_string().lines() {
        log::debug!("network: {line}");
    }
    let Applied { taps, service, undo } = apply::apply(netlink, lock, &plan)?;
    log::info!("network {}: {}", request.mode, plan.guest);
    Ok(Prepared {
        tap: plan::Names::new(request.mode, &request.name).tap,
        taps,
        service,
        guest: plan.guest,
        resolvers: match request.mode {
            Mode::Pod | Mode::Direct => &["/etc/resolv.conf"],
            // The first may name a server on the host's loopback, which then asks those of the
            // second (systemd-resolved(8)).
            Mode::Nat => &["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"],
        },
        keep: Keep { undo, _ports: ports },
    })
}

/// Looks around in this network namespace, and changes nothing: what a plan is made of, and whether
/// the kernel has rules to translate addresses by. `gateway`: also looks for the hardware address of
/// IPv6's gateway, as `--net direct` needs it.
///
/// # Errors
/// [`NetError::Look`].
pub fn examine(gateway: bool) -> Result<(Facts, Result<(), Refused>), NetError> {
    let (facts, mut netlink) = look(gateway)?;
    Ok((facts, netlink.tables().map(drop)))
}

fn look(gateway: bool) -> Result<(Facts, Netlink), NetError> {
    let mut netlink = Netlink::open().map_err(|error| NetError::Look(error.into()))?;
    let mut facts = Facts::gather(&mut netlink).map_err(NetError::Look)?;
    if gateway {
        facts.find_gateway(&mut netlink).map_err(NetError::Look)?;
    }
    Ok((facts, netlink))
}

/// The ports of `publish` that cannot be had, why for each. They are given back at once.
pub fn busy_ports(publish: &[Publish]) -> Vec<NetError> {
    let taken: Vec<_> = publish.iter().map(|publish| take(*publish)).collect();
    taken.into_iter().filter_map(Result::err).collect()
}

/// Whether this process has the capability to set up networks; `None`: it cannot tell.
pub fn is_privileged() -> Option<bool> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    Some(effective & (1 << CAP_NET_ADMIN) != 0)
}

fn privileged(mode: Mode) -> Result<(), NetError> {
    let what = if is_privileged() == Some(false) {
        "the capability CAP_NET_ADMIN"
    } else if !Path::new(TUN).exists() {
        "the device /dev/net/tun"
    } else {
        return Ok(());
    };
    let remedy = match mode {
        Mode::Pod | Mode::Direct => {
            "add NET_ADMIN to the container's securityContext.capabilities and the device \
             /dev/net/tun to the container, or give --net none"
        }
        Mode::Nat => {
            "run as root where there is /dev/net/tun, or give --net none, or --net tap:NAME with a \
             tap device made for this user"
        }
    };
    Err(NetError::Privilege { mode, what, remedy })
}

/// Takes a port of this host.
fn take(publish: Publish) -> Result<Port, NetError> {
    let place = (publish.address.unwrap_or(Ipv4Addr::UNSPECIFIED), publish.host);
    let taken = match publish.protocol {
        filter::UDP => UdpSocket::bind(place).map(|_socket| Port::Udp { _socket }),
        _ => TcpListener::bind(place).map(|_socket| Port::Tcp { _socket }),
    };
    taken.map_err(|source| {
        let problem = match source.kind() {
            io::ErrorKind::AddrInUse => format!("port {} is in use", publish.host),
            io::ErrorKind::AddrNotAvailable => format!("there is no address {}", place.0),
            _ => format!("port {} cannot be had", publish.host),
        };
        NetError::Publish { publish, problem, source }
    })
}

#[cfg(test)]
mod tests;

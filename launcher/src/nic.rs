//! The guest's network interface: what it leads to, who carries its frames, and who tells the guest
//! of its network.
//!
//! [`attach`] runs on the main thread before the machine. What it returns stays for as long as the
//! machine runs: the thread that answers DHCP and router solicitations, and then the network, which
//! is taken back when it goes.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devices::net::MacAddr;
use devices::virtio::net::Counters as DeviceCounters;
use vmm::config::NicConfig;

use crate::config::{Net, Plan, Vhost};
use crate::exit;
use crate::failure::Failure;
use crate::net::dhcp::counters::Lease;
use crate::net::dhcp::{self, Service};
use crate::net::guest::GuestNetwork;
use crate::net::netlink::Refused;
use crate::net::plan::{Mode, Request};
use crate::net::resolv::ResolverSource;
use crate::net::statistics::{Statistics, TapStatistics};
use crate::net::{self, Prepared, link};

/// The kernel's way of carrying frames.
pub const VHOST_NET: &str = "/dev/vhost-net";

/// The guest's interface.
pub struct Nic {
    /// For the machine.
    pub config: NicConfig,
    /// For as long as the machine runs.
    pub network: Network,
}

/// What is behind the guest's interface, in the order in which it goes.
pub struct Network {
    dhcp: Option<Service>,
    /// What the service is made of, until it begins.
    service: Option<File>,
    meter: Arc<Meter>,
    prepared: Option<Prepared>,
    /// Keeps a tap of ours, and what it has counted, until the end was told.
    _tap: Option<File>,
}

/// Reads what is counted of the guest's interface, on any thread.
pub struct Meter {
    statistics: Statistics,
    device: Arc<DeviceCounters>,
    dhcp: Option<Arc<dhcp::counters::Counters>>,
    /// The most frames to the guest that were told of.
    rx_frames: AtomicU64,
}

/// What has gone through the guest's interface, whoever carried it; rx and tx are seen from the
/// guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// To the guest.
    pub rx: Traffic,
    /// From the guest.
    pub tx: Traffic,
    /// Of what the guest sent, frames that the fence refused: not its addresses, or not for a guest
    /// to say. They are in `tx` too.
    pub tx_refused: u64,
    /// The IPv4 address that the guest has taken by DHCP.
    pub lease_v4: Option<Lease<Ipv4Addr>>,
    /// The IPv6 address that the guest has taken by DHCPv6.
    pub lease_v6: Option<Lease<Ipv6Addr>>,
}

/// One direction of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Ethernet frames; one that is left unsegmented counts once.
    pub frames: u64,
    /// Their bytes, with Ethernet headers.
    pub bytes: u64,
    /// Frames lost for want of room, or malformed; they are not in `frames`.
    pub dropped: u64,
}

impl Meter {
    fn new(
        statistics: Statistics,
        device: Arc<DeviceCounters>,
        dhcp: Option<Arc<dhcp::counters::Counters>>,
    ) -> Self {
        Self { statistics, device, dhcp, rx_frames: AtomicU64::new(0) }
    }

    /// What has gone through so far.
    ///
    /// # Errors
    /// What the kernel says: the interface may be gone.
    pub fn counters(&self) -> Result<NicCounters, Refused> {
        let mut counters = counted(self.statistics.read()?, &self.device, self.dhcp.as_deref());
        // A difference of two numbers that are not read at once: it might seem to shrink.
        let frames = &mut counters.rx.frames;
        *frames = self.rx_frames.fetch_max(*frames, Ordering::Relaxed).max(*frames);
        Ok(counters)
    }

    /// What the guest was told of its network; `None`: that is not ours to say.
    pub fn dhcp(&self) -> Option<&Arc<dhcp::counters::Counters>> {
        self.dhcp.as_ref()
    }
}

impl Network {
    /// Leaves it to a process of its own to take the network back at the end.
    ///
    /// # Errors
    /// That process does not start.
    pub fn entrust(&mut self) -> Result<(), Failure> {
        let Some(prepared) = &mut self.prepared else { return Ok(()) };
        let failed = |source| Failure::new(&NoCaretaker(source), exit::ERROR);
        prepared.entrust().map_err(failed)
    }

    /// Begins to tell the guest of its network, if that is asked for.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn serve(&mut self) -> Result<(), Failure> {
        let (Some(frames), Some(prepared), Some(counters)) =
            (self.service.take(), &self.prepared, &self.meter.dhcp)
        else {
            return Ok(());
        };
        let resolver = ResolverSource::new(prepared.resolvers.iter().map(PathBuf::from));
        let guest = prepared.guest.clone();
        let service = Service::start(frames, guest, resolver, Arc::clone(counters));
        let failed = |source| Failure::new(&NoService(source), exit::ERROR);
        self.dhcp = Some(service.map_err(failed)?);
        Ok(())
    }

    /// The files that it reads while the machine runs.
    pub fn files(&self) -> &'static [&'static str] {
        match (&self.service, &self.prepared) {
            (Some(_), Some(prepared)) => prepared.resolvers,
            _ => &[],
        }
    }

    /// What is counted of it.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// What the guest is meant to have; `None`: that is not ours to say.
    pub fn guest(&self) -> Option<&GuestNetwork> {
        self.prepared.as_ref().map(|prepared| &prepared.guest)
    }
}

/// Joins what the tap, the device and the DHCP server have counted. The tap's rx is the guest's tx.
fn counted(
    tap: TapStatistics,
    device: &DeviceCounters,
    dhcp: Option<&dhcp::counters::Counters>,
) -> NicCounters {
    let TapStatistics { link, refused } = tap;
    let rx_dropped = device.rx().dropped;
    let tx_dropped = device.tx().dropped;
    NicCounters {
        rx: Traffic {
            frames: link.tx_packets.saturating_sub(rx_dropped),
            bytes: link.tx_bytes,
            dropped: link.tx_dropped.saturating_add(rx_dropped),
        },
        tx: Traffic {
            frames: link.rx_packets,
            bytes: link.rx_bytes,
            // What the tap does not take, the device has counted too.
            dropped: link.rx_dropped.saturating_add(link.rx_errors).max(tx_dropped),
        },
        tx_refused: refused,
        lease_v4: dhcp.and_then(dhcp::counters::Counters::lease_v4),
        lease_v6: dhcp.and_then(dhcp::counters::Counters::lease_v6),
    }
}

impl fmt::Display for NicCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rx, tx, .. } = self;
        write!(f, "{rx} received, {tx} sent")?;
        if self.tx_refused != 0 {
            write!(f, ", {} of them refused by the fence", self.tx_refused)?;
        }
        Ok(())
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames ({} bytes, {} more dropped)", self.frames, self.bytes, self.dropped)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        match self.meter.counters() {
            Ok(counters) => log::info!("the guest's interface: {counters}"),
            Err(error) => log::debug!("the guest's interface counts no more: {error}"),
        }
        drop(self.dhcp.take());
        if let Some(counters) = self.meter.dhcp() {
            log::info!("the guest's configuration: {counters}");
        }
    }
}

/// What is asked of [`net`], if it is to make a network for the interface.
pub fn request(plan: &Plan, mac: MacAddr) -> Option<Request> {
    let network = &plan.network;
    let mode = match network.net {
        Net::None | Net::Tap(_) => return None,
        Net::Pod => Mode::Pod,
        Net::Direct => Mode::Direct,
        Net::Nat => Mode::Nat,
    };
    Some(Request {
        name: plan.name.clone(),
        mode,
        mac,
        mtu: network.mtu,
        cpus: plan.cpus,
        subnet: network.subnet,
        publish: network.publish.clone(),
        dhcp: network.dhcp,
        vnc: plan.vnc.is_some(),
    })
}

/// Makes the interface that `plan` asks for; `mac` is its hardware address, unless it takes the
/// pod's. `None`: none is asked for.
///
/// # Errors
/// The network cannot be made, or a tap or vhost cannot be had; nothing is left of it then.
pub fn attach(plan: &Plan, mac: MacAddr) -> Result<Option<Nic>, Failure> {
    let failed = |error: &(dyn Error + 'static)| Failure::new(error, exit::ERROR);
    let nic = if let Net::Tap(name) = &plan.network.net {
        existing(plan, name, mac)
    } else if let Some(request) = request(plan, mac) {
        made(plan, &request)
    } else {
        return Ok(None);
    };
    nic.map(Some).map_err(|error| failed(&*error))
}

/// An interface on a tap that exists.
fn existing(plan: &Plan, name: &str, mac: MacAddr) -> Result<Nic, Box<dyn Error>> {
    let tap = link::open(name, plan.cpus)?;
    let vhost = open_vhost(Path::new(VHOST_NET), plan.network.vhost, tap.queues.len())?;
    let mtu = plan.network.mtu.or(tap.mtu).filter(|mtu| *mtu >= 68);
    let device = Arc::<DeviceCounters>::default();
    let counters = Arc::clone(&device);
    let config = NicConfig { taps: tap.queues, vhost, mac, mtu, counters };
    let statistics = Statistics::open(name)?;
    let meter = Arc::new(Meter::new(statistics, device, None));
    let network = Network { dhcp: None, service: None, meter, prepared: None, _tap: None };
    Ok(Nic { config, network })
}

/// An interface on a tap of ours.
fn made(plan: &Plan, request: &Request) -> Result<Nic, Box<dyn Error>> {
    let mut prepared = net::prepare(request)?;
    let taps = std::mem::take(&mut prepared.taps);
    let vhost = open_vhost(Path::new(VHOST_NET), plan.network.vhost, taps.len())?;
    let guest = &prepared.guest;
    let (mac, mtu) = (guest.mac, Some(guest.mtu));
    let statistics = Statistics::open(&prepared.tap)?;
    let tap = taps.first().map(File::try_clone).transpose()?;
    let device = Arc::<DeviceCounters>::default();
    let counters = Arc::clone(&device);
    let config = NicConfig { taps, vhost, mac, mtu, counters };
    let service = prepared.service.take();
    let told = service.as_ref().map(|_| Arc::default());
    let meter = Arc::new(Meter::new(statistics, device, told));
    let network = Network { dhcp: None, service, meter, prepared: Some(prepared), _tap: tap };
    Ok(Nic { config, network })
}

/// Nobody would tell the guest of its network.
#[derive(Debug, thiserror::Error)]
#[error("the guest cannot be told of its network: the thread for DHCP does not start")]
struct NoService(#[source] io::Error);

/// Nobody would take the network back.
#[derive(Debug, thiserror::Error)]
#[error(
    "the network could not be taken back at the end: the process for that does not start; give \
     --sandbox off"
)]
struct NoCaretaker(#[source] io::Error);

/// vhost is asked for, and cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "--vhost on: {VHOST_NET} cannot be opened; load the kernel module vhost_net and give this \
     process access to it, or write --vhost auto"
)]
struct NoVhost(#[source] io::Error);

/// Opens `device` once for each of `pairs`; none if this process is to carry the frames.
fn open_vhost(device: &Path, wish: Vhost, pairs: usize) -> Result<Vec<File>, NoVhost> {
    let open = || File::options().read(true).write(true).open(device);
    let why = if wish == Vhost::Off {
        "as asked for".to_owned()
    } else {
        match (0..pairs).map(|_| open()).collect::<io::Result<Vec<File>>>() {
            Ok(files) => {
                log::info!("network frames are carried by the kernel, through vhost");
                return Ok(files);
            }
            Err(error) if wish == Vhost::On => return Err(NoVhost(error)),
            Err(error) => format!("{} cannot be opened: {error}", device.display()),
        }
    };
    log::info!("network frames are carried by this process: {why}");
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::sentence;
    use crate::net::netlink::link::LinkCounters;

    #[test]
    fn what_each_has_counted_is_joined() {
        let tap = TapStatistics {
            link: LinkCounters {
                rx_packets: 10,
                tx_packets: 20,
                rx_bytes: 1000,
                tx_bytes: 2000,
                rx_errors: 1,
                rx_dropped: 2,
                tx_dropped: 4,
            },
            refused: 5,
        };
        let device = DeviceCounters::default();
        device.pair(0).rx.dropped.add(3);
        device.pair(1).tx.dropped.add(2);
        let dhcp = dhcp::counters::Counters::default();
        let counters = counted(tap, &device, Some(&dhcp));
        let want = NicCounters {
            rx: Traffic { frames: 17, bytes: 2000, dropped: 7 },
            tx: Traffic { frames: 10, bytes: 1000, dropped: 3 },
            tx_refused: 5,
            lease_v4: None,
            lease_v6: None,
        };
        assert_eq!(counters, want);
        assert_eq!(
            counters.to_string(),
            "17 frames (2000 bytes, 7 more dropped) received, 10 frames (1000 bytes, 3 more \
             dropped) sent, 5 of them refused by the fence"
        );
        device.pair(1).tx.dropped.add(7);
        assert_eq!(counted(tap, &device, None).tx.dropped, 9);
    }

    #[test]
    fn frames_to_the_guest_never_seem_to_shrink() {
        let device = Arc::<DeviceCounters>::default();
        let meter = Meter::new(Statistics::open("lo").unwrap(), Arc::clone(&device), None);
        meter.rx_frames.store(1 << 60, Ordering::Relaxed);
        device.pair(0).rx.dropped.add(1);
        assert_eq!(meter.counters().unwrap().rx.frames, 1 << 60);
    }

    #[test]
    fn vhost_is_opened_for_each_pair_where_it_is() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let count = |device: &Path, wish| open_vhost(device, wish, 3).map(|files| files.len());
        for (wish, want) in [(Vhost::Auto, 3), (Vhost::On, 3), (Vhost::Off, 0)] {
            assert_eq!(count(device.path(), wish).unwrap(), want);
        }
        let none = device.path().join("none");
        assert_eq!(count(&none, Vhost::Auto).unwrap(), 0);
        assert_eq!(count(&none, Vhost::Off).unwrap(), 0);
        let told = sentence(&count(&none, Vhost::On).unwrap_err());
        assert!(told.starts_with("--vhost on: /dev/vhost-net cannot be opened; load"), "{told}");
        assert!(told.ends_with("or write --vhost auto: Not a directory (os error 20)"), "{told}");
    }
}

//! The guest's network interface: what it leads to, who carries its frames, and who tells the guest
//! of its network.
//!
//! [`attach`] runs on the main thread before the machine. What it returns stays for as long as the
//! machine runs: the thread that answers DHCP and router solicitations, and then the network, which
//! is taken back when it goes.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmm::config::NicConfig;

use crate::config::{Net, Plan, Vhost};
use crate::exit;
use crate::failure::Failure;
use crate::net::dhcp::Service;
use crate::net::dhcp::counters::Counters;
use crate::net::plan::{Mode, Request};
use crate::net::resolv::ResolverSource;
use crate::net::{self, Prepared, link};

const VHOST_NET: &str = "/dev/vhost-net";

/// The guest's interface.
pub struct Nic {
    /// For the machine.
    pub config: NicConfig,
    /// For as long as the machine runs.
    pub network: Option<Network>,
}

/// A network that was made for the guest, in the order in which it goes.
pub struct Network {
    service: Option<(Service, Arc<Counters>)>,
    _prepared: Prepared,
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some((service, counters)) = self.service.take() {
            drop(service);
            log::info!("the guest's configuration: {counters}");
        }
    }
}

/// Makes the interface that `plan` asks for; `mac` is its hardware address, unless it takes the
/// pod's. `None`: none is asked for.
///
/// # Errors
/// The network cannot be made, or a tap or vhost cannot be had; nothing is left of it then.
pub fn attach(plan: &Plan, mac: [u8; 6]) -> Result<Option<Nic>, Failure> {
    let failed = |error: &(dyn Error + 'static)| Failure::new(error, exit::ERROR);
    let vhost =
        |pairs| open_vhost(Path::new(VHOST_NET), plan.vhost, pairs).map_err(|error| failed(&error));
    let mode = match &plan.net {
        Net::None => return Ok(None),
        Net::Tap(name) => {
            let tap = link::open(name, plan.cpus).map_err(|error| failed(&error))?;
            let vhost = vhost(tap.queues.len())?;
            let mtu = plan.mtu.or(tap.mtu).filter(|mtu| *mtu >= 68);
            let config = NicConfig { taps: tap.queues, vhost, mac, mtu };
            return Ok(Some(Nic { config, network: None }));
        }
        Net::Pod => Mode::Pod,
        Net::Direct => Mode::Direct,
        Net::Nat => Mode::Nat,
    };
    let request = Request {
        name: plan.name.clone(),
        mode,
        mac,
        mtu: plan.mtu,
        cpus: plan.cpus,
        subnet: plan.subnet,
        publish: plan.publish.clone(),
        dhcp: plan.dhcp,
        vnc: plan.vnc.is_some(),
    };
    let mut prepared = net::prepare(&request).map_err(|error| failed(&error))?;
    let taps = std::mem::take(&mut prepared.taps);
    let vhost = vhost(taps.len())?;
    let guest = &prepared.guest;
    let config = NicConfig { taps, vhost, mac: guest.mac, mtu: Some(guest.mtu) };
    let service = serve(&mut prepared).map_err(|error| failed(&NoService(error)))?;
    Ok(Some(Nic { config, network: Some(Network { service, _prepared: prepared }) }))
}

/// Starts to tell the guest of its network, if that is asked for.
fn serve(prepared: &mut Prepared) -> io::Result<Option<(Service, Arc<Counters>)>> {
    let Some(frames) = prepared.service.take() else { return Ok(None) };
    let resolver = ResolverSource::new(prepared.resolvers.iter().map(PathBuf::from));
    let counters = Arc::new(Counters::default());
    let service = Service::start(frames, prepared.guest.clone(), resolver, Arc::clone(&counters))?;
    Ok(Some((service, counters)))
}

/// Nobody would tell the guest of its network.
#[derive(Debug, thiserror::Error)]
#[error("the guest cannot be told of its network: the thread for DHCP does not start")]
struct NoService(#[source] io::Error);

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

//! The network's settings: where the guest's interface leads, its addresses, and published ports.

use std::fmt;
use std::net::Ipv4Addr;

use super::value::{Wrong, wrong};
use super::{ConfigError, choice, parse};
use crate::args;
use crate::config::Layers;
use crate::host::Host;

/// Where the guest's interface leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// No interface.
    None,
    /// A tap device that exists.
    Tap(String),
    /// The pod's addresses are translated to the guest's.
    Pod,
    /// The guest has the pod's own addresses.
    Direct,
    /// A host masquerades the guest.
    Nat,
}

/// `none`, `pod`, `direct`, `nat` or `tap:NAME`.
///
/// # Errors
/// Anything else.
pub fn net(text: &str) -> Result<Net, Wrong> {
    match text.split_once(':') {
        None if text == "none" => Ok(Net::None),
        None if text == "pod" => Ok(Net::Pod),
        None if text == "direct" => Ok(Net::Direct),
        None if text == "nat" => Ok(Net::Nat),
        Some(("tap", name)) => {
            // IFNAMSIZ is 16 with the ending zero; the kernel refuses the rest (dev_valid_name).
            let fits = (1..=15).contains(&name.len())
                && ![".", ".."].contains(&name)
                && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
            if fits {
                return Ok(Net::Tap(name.to_owned()));
            }
            wrong("does not name a network interface", "write tap:NAME, NAME of 1 to 15 characters")
        }
        _ => wrong(
            "is not a network",
            "write pod, direct, nat, none, or tap:NAME for a tap device that exists",
        ),
    }
}

/// The two addresses of the guest's /30.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The guest's.
    pub guest: Ipv4Addr,
    /// The router's.
    pub gateway: Ipv4Addr,
}

impl Subnet {
    /// Length of its prefix in bits.
    pub const PREFIX: u8 = 30;
}

impl Default for Subnet {
    fn default() -> Self {
        let [guest, gateway] = [2, 1].map(|last| Ipv4Addr::new(192, 168, 254, last));
        Self { guest, gateway }
    }
}

/// A port of the host that leads to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The host's address; `None`: any of them.
    pub address: Option<Ipv4Addr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
    /// IANA's number: TCP (6) or UDP (17).
    pub protocol: u8,
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.iter().try_for_each(|address| write!(f, "{address}:"))?;
        write!(f, "{}:{}{}", self.host, self.guest, if self.protocol == UDP { "/udp" } else { "" })
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// `[ADDRESS:]HOST:GUEST[/tcp|/udp]`.
///
/// # Errors
/// Anything else.
pub fn publish(text: &str) -> Result<Publish, Wrong> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Some(TCP),
        "udp" => Some(UDP),
        _ => None,
    };
    let port = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port != 0)
    };
    let parts: Vec<&str> = rest.split(':').collect();
    let parsed = match parts.as_slice() {
        [host, guest] => port(host).zip(port(guest)).map(|ports| (None, ports)),
        [address, host, guest] => {
            let ports = port(host).zip(port(guest));
            address.parse().ok().zip(ports).map(|(address, ports)| (Some(address), ports))
        }
        _ => None,
    };
    match (parsed, protocol) {
        (Some((address, (host, guest))), Some(protocol)) => {
            Ok(Publish { address, host, guest, protocol })
        }
        _ => wrong(
            "does not publish a port",
            "write HOST:GUEST or ADDRESS:HOST:GUEST, numbers from 1 to 65535 and an IPv4 address \
             of the host, with /udp behind for UDP",
        ),
    }
}

/// Whether the kernel carries frames between guest and tap, by `/dev/vhost-net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vhost {
    /// Where that can be opened.
    Auto,
    /// Or there is no machine.
    On,
    /// This process carries them.
    Off,
}

/// Everything asked for of the network.
#[derive(Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// How it is made.
    pub net: Net,
    /// MAC address, if asked for.
    pub mac: Option<[u8; 6]>,
    /// MTU, if asked for.
    pub mtu: Option<u16>,
    /// Whether the kernel carries frames.
    pub vhost: Vhost,
    /// The guest's and its router's addresses, if asked for.
    pub subnet: Option<Subnet>,
    /// Ports of the host that lead to the guest.
    pub publish: Vec<Publish>,
    /// Whether the guest is told of its network.
    pub dhcp: bool,
}

/// Reads the network's settings.
///
/// # Errors
/// A wrong value, or one that means nothing to this network.
pub fn config(layers: &Layers, host: &Host) -> Result<NetworkConfig, ConfigError> {
    let default = if host.in_container { Net::Pod } else { Net::Nat };
    let net = parse(layers, args::NET, net)?.unwrap_or(default);
    let mac = parse(layers, args::MAC, super::value::mac)?;
    let mtu = parse(layers, args::MTU, |text| super::value::number(text, 68, 65_535))?;
    let vhost = choice(layers, args::VHOST, Vhost::Auto, "auto, on or off", |text| {
        Some(match text {
            "auto" => Vhost::Auto,
            "on" => Vhost::On,
            "off" => Vhost::Off,
            _ => return None,
        })
    })?;
    let mut published = Vec::new();
    for given in layers.publish() {
        let read = publish(&given.value);
        let wish = read.map_err(|(problem, fix)| given.error(problem, fix))?;
        if net != Net::Nat {
            let problem = "means something to --net nat only";
            return Err(given.error(problem, "add --net nat, or take it away"));
        }
        published.push(wish);
    }
    // Any other wish of --vhost is met without an interface.
    let vhost_needed = layers.get(args::VHOST).filter(|_| vhost == Vhost::On);
    if net == Net::None
        && let Some(given) = layers.get(args::MAC).or(layers.get(args::MTU)).or(vhost_needed)
    {
        let fix = "add another --net, or take it away";
        return Err(given.error("has no interface to apply to, since the network is none", fix));
    }
    if net == Net::Direct
        && let Some(given) = layers.get(args::MAC)
    {
        let problem = "cannot be, since with --net direct the guest has the pod's hardware address";
        return Err(given.error(problem, "take it away, or give --net pod"));
    }
    Ok(NetworkConfig {
        subnet: subnet(layers)?,
        publish: published,
        dhcp: !super::switch(layers, args::NO_DHCP),
        net,
        mac,
        mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()),
        vhost,
    })
}

/// VM_IP and VM_GW; one alone stands beside the other's default.
fn subnet(layers: &Layers) -> Result<Option<Subnet>, ConfigError> {
    let address = |text: &str| {
        text.parse::<Ipv4Addr>().or_else(|_| {
            wrong("is not an IPv4 address", "write four numbers such as 192.168.254.2")
        })
    };
    let guest = parse(layers, args::VM_IP, address)?;
    let gateway = parse(layers, args::VM_GW, address)?;
    let Some(given) = layers.get(args::VM_IP).or_else(|| layers.get(args::VM_GW)) else {
        return Ok(None);
    };
    let default = Subnet::default();
    let guest = guest.unwrap_or(default.guest);
    let gateway = gateway.unwrap_or(default.gateway);
    let base = u32::from(guest) & !3;
    let inside = |address: Ipv4Addr| [base | 1, base | 2].contains(&u32::from(address));
    let usable = !guest.is_loopback() && !guest.is_multicast() && guest.octets()[0] != 0;
    if guest == gateway || !inside(guest) || !inside(gateway) || !usable {
        return Err(given.error(
            format_args!(
                "does not fit: VM_IP {guest} and VM_GW {gateway} are not the two of a /30"
            ),
            "give both, the two middle addresses of four, such as 192.168.254.2 and 192.168.254.1",
        ));
    }
    Ok(Some(Subnet { guest, gateway }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let words = [
            ("none", Net::None),
            ("pod", Net::Pod),
            ("direct", Net::Direct),
            ("nat", Net::Nat),
            ("tap:vm0", Net::Tap("vm0".into())),
        ];
        for (text, want) in words {
            assert_eq!(net(text), Ok(want));
        }
        for bad in ["", "tap", "tap:", "tap:a/b", "tap:a b", "tap:1234567890123456", "None", "x:y"]
        {
            assert!(net(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn published_ports() {
        let tcp = Publish { address: None, host: 2222, guest: 22, protocol: 6 };
        let local = Some(Ipv4Addr::LOCALHOST);
        for (text, want) in [
            ("2222:22", tcp),
            ("2222:22/tcp", tcp),
            ("2222:22/udp", Publish { protocol: 17, ..tcp }),
            ("127.0.0.1:2222:22", Publish { address: local, ..tcp }),
        ] {
            assert_eq!(publish(text), Ok(want), "{text}");
            assert_eq!(publish(&want.to_string()), Ok(want), "{text}");
        }
        for bad in [
            "",
            "22",
            "0:22",
            "22:0",
            "+1:22",
            "1:2:3",
            "1-2:3-4",
            "65536:1",
            "1:2/sctp",
            "[::1]:1:2",
            "1.2.3.4:5",
            ":1:2",
            "1:",
            ":1",
        ] {
            assert!(publish(bad).is_err(), "{bad:?}");
        }
    }
}

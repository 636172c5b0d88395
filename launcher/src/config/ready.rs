//! What counts as ready, and whether it can be known with the network that is asked for.

use std::fmt;

use super::value::{Wrong, wrong};
use super::{ConfigError, Layers, Net, parse};
use crate::args;

/// What counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// The machine runs.
    Running,
    /// The guest has got an address.
    Lease,
    /// The guest takes connections on this port.
    Tcp(u16),
    /// cloud-init has said that it has finished.
    CloudInit,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Lease => f.write_str("lease"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::CloudInit => f.write_str("cloud-init"),
        }
    }
}

/// `running`, `lease`, `tcp:PORT` or `cloud-init`.
fn ready(text: &str) -> Result<Ready, Wrong> {
    let port = |port: &str| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        port.parse().ok().filter(|port| digits && *port != 0)
    };
    let parsed = match text {
        "running" => Some(Ready::Running),
        "lease" => Some(Ready::Lease),
        "cloud-init" => Some(Ready::CloudInit),
        _ => text.strip_prefix("tcp:").and_then(port).map(Ready::Tcp),
    };
    match parsed {
        Some(ready) => Ok(ready),
        None => wrong(
            "says nothing of when a machine is ready",
            "write running, lease, tcp:PORT or cloud-init",
        ),
    }
}

/// The rule that is asked for, or the best one there can be.
pub(super) fn wanted(layers: &Layers, net: &Net, dhcp: bool) -> Result<Ready, ConfigError> {
    let leases = dhcp && matches!(net, Net::Pod | Net::Direct | Net::Nat);
    let asked = parse(layers, args::READY, ready)?;
    let cannot = |why: &str, fix: &str| match layers.get(args::READY) {
        Some(given) => Err(given.error(why, fix)),
        None => Ok(Ready::Running),
    };
    match asked {
        None if leases => Ok(Ready::Lease),
        None => Ok(Ready::Running),
        Some(Ready::Lease) if !leases => cannot(
            "cannot be known: Berth gives this guest no address",
            "use --net pod, direct or nat without --no-dhcp, or write running or cloud-init",
        ),
        Some(Ready::Tcp(_)) if !matches!(net, Net::Pod | Net::Nat) => cannot(
            "cannot be known: the guest cannot be reached from here with this network",
            "use --net pod or nat, or write running, lease or cloud-init",
        ),
        Some(ready) => Ok(ready),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Settings;

    fn with(text: Option<&str>, net: &Net, dhcp: bool) -> Result<Ready, String> {
        let flags = Settings { ready: text.map(str::to_owned), ..Settings::default() };
        let layers = Layers { flags, ..Layers::default() };
        wanted(&layers, net, dhcp).map_err(|error| error.to_string())
    }

    #[test]
    fn the_words() {
        for text in ["running", "lease", "tcp:22", "cloud-init"] {
            assert_eq!(ready(text).unwrap().to_string(), text);
        }
        for text in ["", "Lease", "tcp", "tcp:", "tcp:0", "tcp:+1", "tcp:65536", "udp:53", "22"] {
            assert!(ready(text).unwrap_err().1.contains("tcp:PORT"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_known_is_refused_and_is_no_default() {
        let tap = Net::Tap("t".to_owned());
        assert_eq!(with(None, &Net::Pod, true), Ok(Ready::Lease));
        assert_eq!(with(None, &Net::Pod, false), Ok(Ready::Running));
        assert_eq!(with(None, &tap, true), Ok(Ready::Running));
        assert_eq!(with(None, &Net::None, true), Ok(Ready::Running));
        assert_eq!(with(Some("cloud-init"), &Net::None, true), Ok(Ready::CloudInit));
        assert_eq!(with(Some("tcp:22"), &Net::Nat, false), Ok(Ready::Tcp(22)));
        let refused = with(Some("lease"), &Net::None, true).unwrap_err();
        assert!(refused.starts_with("--ready: `lease` cannot be known: Berth gives"), "{refused}");
        for net in [Net::None, Net::Direct, tap] {
            let refused = with(Some("tcp:22"), &net, true).unwrap_err();
            assert!(refused.contains("`tcp:22` cannot be known: the guest cannot"), "{refused}");
        }
    }
}

//! A tap device on this machine, with an address, made with iproute2.

use std::process::Command;

/// A tap that exists while this value does. Needs root, and a kernel with tun.
pub struct Tap {
    name: String,
}

impl Tap {
    /// Makes the tap `name` with the host's `address` (with prefix length), up.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(name: &str, address: &str, queues: Queues) -> Self {
        let _ = ip(&format!("link delete {name}"));
        let multi = if queues == Queues::Several { " multi_queue" } else { "" };
        expect_ip(&format!("tuntap add dev {name} mode tap vnet_hdr{multi}"));
        let tap = Self { name: name.into() };
        expect_ip(&format!("address add {address} dev {name}"));
        expect_ip(&format!("link set {name} up"));
        tap
    }

    /// Sets the MTU.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn set_mtu(&self, mtu: u16) {
        expect_ip(&format!("link set {} mtu {mtu}", self.name));
    }

    /// The argument for `--net`.
    pub fn net(&self) -> String {
        format!("tap:{}", self.name)
    }
}

/// Whether a tap takes one or several queue pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// One.
    One,
    /// As many as are opened.
    Several,
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = ip(&format!("link delete {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("cannot run ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn expect_ip(arguments: &str) {
    if let Err(error) = ip(arguments) {
        panic!("ip {arguments}: {error}");
    }
}

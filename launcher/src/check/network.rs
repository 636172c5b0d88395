//! The guest's network: privilege, what would be done, and what stands in its way.
//!
//! The plan is made of the facts of this network namespace, as `berth run` makes it, and only shown.

use super::Place;
use super::device;
use super::finding::Finding;
use crate::config::{Net, NetworkConfig, Plan, Vhost};
use crate::failure::sentence;
use crate::net::inspect::{Facts, Ipv6Forwarding};
use crate::net::netlink::Refused;
use crate::net::plan::{self, Mode, Request, Step};
use crate::net::{self, NetError, TUN};
use crate::nic::{self, VHOST_NET};

const SUBJECT: &str = "network";

/// What the addresses of a machine that has never run are planned with.
const UNKNOWN_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0];

/// What there is.
pub struct Network {
    /// Whether this process may set networks up; `None`: it cannot tell.
    pub privileged: Option<bool>,
    /// Whether taps can be made.
    pub tun: std::io::Result<()>,
    /// Whether the kernel can carry frames.
    pub vhost: std::io::Result<()>,
    /// Interfaces, addresses, routes; and whether there are rules for addresses to be translated by.
    pub facts: Result<(Facts, Result<(), Refused>), NetError>,
    /// Published ports that are not free.
    pub ports: Vec<NetError>,
}

/// What is found, and what would be done.
pub struct Outlook {
    /// One for each thing.
    pub findings: Vec<Finding>,
    /// One step a line.
    pub plan: Vec<String>,
}

impl Network {
    /// Looks at what `wanted` is made of.
    pub fn gather(wanted: &NetworkConfig) -> Self {
        let direct = wanted.net == Net::Direct;
        Self {
            privileged: net::is_privileged(),
            tun: device::open(TUN),
            vhost: device::open(VHOST_NET),
            facts: net::examine(direct),
            ports: net::busy_ports(&wanted.publish),
        }
    }

    /// What becomes of the network that `plan` asks for. `mac`: as the identity file has it.
    pub fn judge(&self, plan: &Plan, mac: Option<[u8; 6]>, place: Place) -> Outlook {
        let mac = plan.network.mac.or(mac).unwrap_or(UNKNOWN_MAC);
        let vhost = |vhost: Vhost| device::judge_vhost(&self.vhost, vhost, place);
        let wish = plan.network.vhost;
        let (request, findings) = match (&plan.network.net, nic::request(plan, mac)) {
            (Net::Tap(name), _) => {
                let text = format!("the tap device {name} is opened as it is");
                let tun = device::judge_tun(&self.tun, place);
                (None, vec![tun, vhost(wish), Finding::fine(SUBJECT, text)])
            }
            (_, None) => (None, vec![Finding::fine(SUBJECT, "none: --net none")]),
            (_, request) => {
                let mut findings = vec![device::judge_tun(&self.tun, place), vhost(wish)];
                findings.push(self.capability(place));
                (request, findings)
            }
        };
        let mut outlook = Outlook { findings, plan: Vec::new() };
        if let Some(request) = request {
            self.plan(&request, place, &mut outlook);
        }
        outlook
    }

    fn capability(&self, place: Place) -> Finding {
        let subject = "capabilities";
        if self.privileged != Some(false) {
            return Finding::fine(subject, "NET_ADMIN is there");
        }
        let text = "NET_ADMIN is missing: no tap, address or rule can be made";
        Finding::error(subject, text).remedy(place.pick(
            "securityContext: {capabilities: {add: [NET_ADMIN]}}",
            "run as root, or --net tap:NAME with a tap device made for this user",
        ))
    }

    fn plan(&self, request: &Request, place: Place, outlook: &mut Outlook) {
        let findings = &mut outlook.findings;
        findings.extend(self.ports.iter().map(|busy| Finding::error(SUBJECT, sentence(busy))));
        let (facts, tables) = match &self.facts {
            Ok(facts) => facts,
            Err(error) => return findings.push(Finding::error(SUBJECT, sentence(error))),
        };
        let planned = match plan::plan(request, facts) {
            Ok(planned) => planned,
            Err(error) => {
                let finding = Finding::error(SUBJECT, sentence(&error));
                return findings.push(with_yaml(finding, facts, place));
            }
        };
        let text = format!("--net {}: {}", request.mode, planned.guest);
        findings.push(Finding::fine(SUBJECT, text));
        findings.push(mtu(request, facts, planned.guest.mtu));
        if request.mode != Mode::Direct {
            findings.push(rules(tables, self.privileged));
            findings.push(forwarding(&planned.steps));
        }
        for warning in &planned.warnings {
            findings.push(with_yaml(Finding::warning(SUBJECT, warning), facts, place));
        }
        outlook.plan = planned.to_string().lines().map(str::to_owned).collect();
    }
}

/// What a pod has to say for IPv6 to be forwarded in it, if that is what is wrong.
fn with_yaml(finding: Finding, facts: &Facts, place: Place) -> Finding {
    let fixed = facts.ipv6_forwarding == Ipv6Forwarding::Fixed;
    if !fixed || !finding.text.contains("IPv6 is not forwarded") {
        return finding;
    }
    finding.remedy(place.pick(
        "securityContext: {sysctls: [{name: net.ipv6.conf.all.forwarding, value: \"1\"}]}",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    ))
}

fn mtu(request: &Request, facts: &Facts, mtu: u16) -> Finding {
    let Ok(uplink) = facts.uplink() else {
        return Finding::fine("mtu", format!("{mtu}"));
    };
    let (name, most) = (&uplink.link.name, uplink.mtu);
    if request.mtu.is_some_and(|asked| u32::from(asked) > most) {
        let text = format!("{mtu} is more than the {most} that fit through {name}");
        return Finding::warning("mtu", text).remedy(format!("--mtu {most}, or leave it out"));
    }
    Finding::fine("mtu", format!("{mtu}; {most} fit through {name}"))
}

fn rules(tables: &Result<(), Refused>, privileged: Option<bool>) -> Finding {
    let subject = "nftables";
    match tables {
        Ok(()) => Finding::fine(subject, "the kernel has it"),
        // Who may not ask has been told why.
        Err(_) if privileged == Some(false) => {
            Finding::fine(subject, "not asked for, without NET_ADMIN")
        }
        Err(error) => Finding::error(subject, format!("rules cannot be read: {error}"))
            .remedy("on the node: modprobe -a nf_tables nft_chain_nat nft_nat nft_masq nft_ct"),
    }
}

fn forwarding(steps: &[Step]) -> Finding {
    let switched: Vec<String> = steps
        .iter()
        .filter(|step| matches!(step, Step::Forwarding(_) | Step::Ipv6Forwarding))
        .map(ToString::to_string)
        .collect();
    let text = match switched.as_slice() {
        [] => "on already".to_owned(),
        steps => format!("would be switched on, as NET_ADMIN may: {}", steps.join(", ")),
    };
    Finding::fine("forwarding", text)
}

#[cfg(test)]
mod tests;

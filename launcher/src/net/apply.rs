//! Does what a plan says, step by step, and notes how each step is undone.
//!
//! A step that fails undoes those before it. What a killed run left behind is replaced on the way:
//! a table of the same name, and filters of our preferences; its taps went with it. Runs on the
//! main thread.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::filter::{FIRST_PREFERENCE, PREFERENCES};
use super::inspect::IPV6_FORWARDING;
use super::link::{self, TapError};
use super::lock::Lock;
use super::netlink::link::{DEVCONF_FORWARDING, DEVCONF_ROUTE_LOCALNET};
use super::netlink::{Netlink, Refused, link as rtnl, nft, tc};
use super::plan::{Plan, Step};
use super::undo::{Undo, Undoing};

/// What switches IPv4's forwarding on as a whole.
const IPV4_FORWARDING: &str = "net/ipv4/ip_forward";

/// Who has to agree, and how.
const KUBELET: &str = "the kubelet has to allow with --allowed-unsafe-sysctls";

/// Why a plan could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A tap cannot be made.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The kernel refuses a step.
    #[error("the network cannot be set up, at `{step}`{advice}")]
    Step {
        /// The step, as a plan shows it.
        step: String,
        /// What to do, if anything is known; begins with its punctuation.
        advice: String,
        /// What the kernel says.
        source: Refused,
    },
}

/// A plan that has been done.
pub struct Applied {
    /// The queues of the guest's tap.
    pub taps: Vec<File>,
    /// The service's.
    pub service: Option<File>,
    /// Takes it all back when dropped.
    pub undo: Undo,
}

/// Does it, under the lock.
///
/// # Errors
/// [`ApplyError`]; everything has been undone then.
pub fn apply(netlink: Netlink, lock: Lock, plan: &Plan) -> Result<Applied, ApplyError> {
    let mut work = Work {
        undo: Undo::new(netlink, lock),
        indices: HashMap::new(),
        taps: Vec::new(),
        service: None,
    };
    for step in &plan.steps {
        work.step(step)?;
    }
    let Work { mut undo, taps, service, .. } = work;
    undo.lock = None;
    Ok(Applied { taps, service, undo })
}

struct Work {
    // Undone before the taps are closed: nothing refers to an interface that is gone.
    undo: Undo,
    /// Numbers of interfaces.
    indices: HashMap<String, u32>,
    taps: Vec<File>,
    service: Option<File>,
}

impl Work {
    fn step(&mut self, step: &Step) -> Result<(), ApplyError> {
        if let Step::Tap { name, queues, .. } = step {
            self.undo.own.push(name.clone());
            let files = link::create(name, *queues)?;
            match queues {
                Some(_) => self.taps = files,
                None => self.service = files.into_iter().next(),
            }
        }
        self.ask(step).map_err(|source| {
            let text = step.to_string();
            let advice = advice(step, &source);
            // A table is one step of many lines.
            let step = text.lines().next().unwrap_or_default().trim().to_owned();
            ApplyError::Step { step, advice, source }
        })
    }

    fn ask(&mut self, step: &Step) -> Result<(), Refused> {
        match step {
            Step::Tap { name, settings, .. } => {
                let index = self.index(name)?;
                self.undo.netlink.request(&rtnl::set_tap(index, *settings))
            }
            Step::Address { link, address, prefix } => {
                let index = self.index(link)?;
                self.undo.netlink.request(&rtnl::new_address(index, *address, *prefix))
            }
            Step::Forwarding(link) => self.forwarding(link),
            Step::RouteLocalnet(link) => {
                // Of a tap of ours, with which it goes.
                let index = self.index(link)?;
                let message = rtnl::set_ipv4_conf(index, DEVCONF_ROUTE_LOCALNET, 1);
                self.undo.netlink.request(&message)
            }
            Step::AcceptRa(link) => {
                Ok(self.sysctl(&format!("net/ipv6/conf/{link}/accept_ra"), ("1", "2"))?)
            }
            Step::Ipv6Forwarding => Ok(self.sysctl(IPV6_FORWARDING, ("0", "1"))?),
            Step::Filtering(link) => self.filtering(link),
            Step::Filter { link, filter } => {
                let index = self.index(link)?;
                let mut missing = None;
                let message = tc::new_filter(index, filter, |name| {
                    self.index(name).unwrap_or_else(|error| {
                        missing = Some(error);
                        0
                    })
                });
                missing.map_or(Ok(()), Err)?;
                self.undo.netlink.request(&message)
            }
            Step::Rules(table) => {
                self.undo.netlink.transaction(&nft::replace(table))?;
                self.undo.push(Undoing::Table(table.name.clone()));
                Ok(())
            }
            Step::Up(link) => {
                let index = self.index(link)?;
                self.undo.netlink.request(&rtnl::up(index))
            }
        }
    }

    /// The number of an interface.
    fn index(&mut self, name: &str) -> Result<u32, Refused> {
        if let Some(index) = self.indices.get(name) {
            return Ok(*index);
        }
        let links = self.undo.netlink.dump(&rtnl::get_links())?;
        for link in links.iter().filter_map(|body| rtnl::read_link(body)) {
            self.indices.insert(link.name, link.index);
        }
        self.indices.get(name).copied().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}")).into()
        })
    }

    /// By netlink, which needs no writable `/proc/sys`; else for all interfaces at once.
    fn forwarding(&mut self, link: &str) -> Result<(), Refused> {
        let index = self.index(link)?;
        let message = rtnl::set_ipv4_conf(index, DEVCONF_FORWARDING, 1);
        match self.undo.netlink.request(&message) {
            Ok(()) => {
                self.undo.push(Undoing::Forwarding(link.to_owned()));
                Ok(())
            }
            Err(refused) => self.sysctl(IPV4_FORWARDING, ("0", "1")).map_err(|error| {
                log::debug!("/proc/sys/{IPV4_FORWARDING} cannot be written: {error}");
                refused
            }),
        }
    }

    /// Writes a setting below `/proc/sys`. What it was before, the plan knows better than the file:
    /// a killed run may have written it.
    fn sysctl(&mut self, path: &str, (before, now): (&str, &str)) -> io::Result<()> {
        let path: PathBuf = Path::new("/proc/sys").join(path);
        fs::write(&path, now)?;
        self.undo.push(Undoing::Sysctl { path, value: before.to_owned() });
        Ok(())
    }

    /// A `clsact` that others gave the interface is kept, with their filters.
    fn filtering(&mut self, link: &str) -> Result<(), Refused> {
        let index = self.index(link)?;
        let netlink = &mut self.undo.netlink;
        let made = match netlink.request(&tc::new_clsact(index)) {
            Ok(()) => true,
            Err(refused) if refused.is(libc::EEXIST) => {
                // With filters of ours, and of nobody else, it is what a killed run left behind.
                let (ours, others) = filters(netlink, index)?;
                for preference in &ours {
                    netlink.request(&tc::delete_filters(index, *preference))?;
                }
                !ours.is_empty() && others == 0
            }
            Err(refused) => return Err(refused),
        };
        self.undo.push(Undoing::Filters { link: link.to_owned(), made });
        Ok(())
    }
}

/// The preferences of our filters on what comes into an interface, and how many filters on either
/// side of it are of others.
pub(super) fn filters(netlink: &mut Netlink, index: u32) -> Result<(Vec<u16>, usize), Refused> {
    let mut ours = Vec::new();
    let mut others: usize = 0;
    for side in [tc::INGRESS, tc::EGRESS] {
        for body in netlink.dump(&tc::get_filters(index, side))? {
            let Some(preference) = tc::read_preference(&body) else { continue };
            let own = (FIRST_PREFERENCE..FIRST_PREFERENCE + PREFERENCES).contains(&preference);
            if own && side == tc::INGRESS {
                ours.push(preference);
            } else {
                others = others.saturating_add(1);
            }
        }
    }
    ours.sort_unstable();
    ours.dedup();
    Ok((ours, others))
}

/// What to do about a refusal, where it is known.
fn advice(step: &Step, refused: &Refused) -> String {
    let missing = [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT];
    let absent = missing.iter().any(|errno| refused.is(*errno));
    match step {
        Step::Filter { .. } if absent => {
            "; this needs the kernel modules cls_flower, act_gact and act_mirred, of which one is \
             missing: load them on the node"
        }
        Step::Filtering(_) if absent => {
            "; this needs the kernel module sch_ingress: load it on the node"
        }
        Step::Rules(_) if absent || refused.is(libc::EINVAL) => {
            "; this needs the kernel modules nf_tables, nft_chain_nat, nft_ct, nft_masq and \
             nft_fib_inet: load them on the node, or give --net direct in a pod"
        }
        Step::Address { address, .. } if address.is_ipv6() && refused.is(libc::EACCES) => {
            "; IPv6 is switched off for new interfaces here: set net.ipv6.conf.default.disable_ipv6 \
             to 0"
        }
        Step::Forwarding(_) => return sysctl_advice("net.ipv4.ip_forward"),
        Step::AcceptRa(_) | Step::Ipv6Forwarding => {
            return sysctl_advice("net.ipv6.conf.all.forwarding");
        }
        _ => "",
    }
    .to_owned()
}

fn sysctl_advice(name: &str) -> String {
    format!(
        "; set {name} to 1, in a pod in its securityContext.sysctls, which {KUBELET}; or give \
         --net direct there, which needs no forwarding"
    )
}

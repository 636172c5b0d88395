//! The way back: what was changed is as it was before, in reverse order, when [`Undo`] is dropped.
//!
//! An error on the way is logged, and the rest goes on. Taps need no undoing, nor what is set on
//! them: they vanish with their files. Runs on the main thread.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::apply::filters;
use super::caretaker::{Caretaker, Charge};
use super::lock::{self, Lock};
use super::netlink::link::{self as rtnl, DEVCONF_FORWARDING, Link};
use super::netlink::{Netlink, Refused, nft, tc};
use super::plan::HOST_PREFIX;

/// One change to be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undoing {
    /// Removes a table.
    Table(String),
    /// IPv4 packets that come in by this interface are not forwarded any more.
    Forwarding(String),
    /// Writes a kernel setting back.
    Sysctl {
        /// The file.
        path: PathBuf,
        /// What it held.
        value: String,
    },
    /// Removes our filters from an interface.
    Filters {
        /// Its name.
        link: String,
        /// Whether its `clsact` is ours, and goes too.
        made: bool,
    },
}

impl fmt::Display for Undoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => write!(f, "the table {name}"),
            Self::Forwarding(link) => write!(f, "the forwarding of what comes in by {link}"),
            Self::Sysctl { path, .. } => write!(f, "the setting {}", path.display()),
            Self::Filters { link, .. } => write!(f, "the filters on {link}"),
        }
    }
}

impl Undoing {
    /// The interface that is changed.
    fn link(&self) -> Option<&str> {
        match self {
            Self::Forwarding(link) | Self::Filters { link, .. } => Some(link),
            Self::Table(_) | Self::Sysctl { .. } => None,
        }
    }
}

/// What is to be taken back, and the way to say so.
pub struct Undo {
    pub(super) netlink: Netlink,
    /// Our own taps.
    pub(super) own: Vec<String>,
    /// Held while the changes are made.
    pub(super) lock: Option<Lock>,
    changes: Vec<Undoing>,
    /// Whom it was left to.
    caretaker: Option<Caretaker>,
}

impl Undo {
    pub(super) fn new(netlink: Netlink, lock: Lock) -> Self {
        Self { netlink, own: Vec::new(), lock: Some(lock), changes: Vec::new(), caretaker: None }
    }

    /// What another has changed.
    pub(super) fn inherit(netlink: Netlink, own: Vec<String>, changes: Vec<Undoing>) -> Self {
        Self { netlink, own, lock: None, changes, caretaker: None }
    }

    /// Leaves it to a caretaker, who does it when this is dropped.
    ///
    /// # Errors
    /// There is none; then it is still ours to do.
    pub(super) fn entrust(&mut self) -> io::Result<()> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let charge = Charge { own: self.own.clone(), changes: std::mem::take(&mut self.changes) };
        match Caretaker::start(&charge) {
            Ok(caretaker) => self.caretaker = Some(caretaker),
            Err(error) => {
                self.changes = charge.changes;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Leaves everything as it is.
    pub(super) fn forget(&mut self) {
        self.changes.clear();
    }

    pub(super) fn push(&mut self, change: Undoing) {
        if change.link().is_none_or(|link| self.own.iter().all(|own| own != link)) {
            self.changes.push(change);
        }
    }

    fn take_back(&mut self, change: &Undoing) -> Result<(), Refused> {
        let links = self.netlink.dump(&rtnl::get_links())?;
        let links: Vec<Link> = links.iter().filter_map(|body| rtnl::read_link(body)).collect();
        let index = links.iter().find(|link| Some(link.name.as_str()) == change.link());
        match (change, index.map(|link| link.index)) {
            (Undoing::Table(name), _) => self.netlink.transaction(&nft::remove(name)),
            (Undoing::Sysctl { path, value }, _) => Ok(fs::write(path, value)?),
            (Undoing::Forwarding(link), Some(index)) => {
                let others = |there: &Link| {
                    there.name.starts_with(HOST_PREFIX) && !self.own.contains(&there.name)
                };
                if links.iter().any(others) {
                    log::info!("{link} goes on forwarding IPv4: another machine needs it");
                    return Ok(());
                }
                self.netlink.request(&rtnl::set_ipv4_conf(index, DEVCONF_FORWARDING, 0))
            }
            (Undoing::Filters { made, .. }, Some(index)) => {
                let (ours, others) = filters(&mut self.netlink, index)?;
                if *made && others == 0 {
                    return self.netlink.request(&tc::delete_clsact(index));
                }
                ours.iter().try_for_each(|preference| {
                    self.netlink.request(&tc::delete_filters(index, *preference))
                })
            }
            // The interface is gone, and everything on it.
            (Undoing::Forwarding(_) | Undoing::Filters { .. }, None) => Ok(()),
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        // Without the lock, whoever holds it may find what is just going away: worth no more than
        // a wait.
        let lock = self.lock.take().map_or_else(lock::take, Ok);
        while let Some(change) = self.changes.pop() {
            if let Err(refused) = self.take_back(&change) {
                log::warn!("{change} cannot be taken back: {refused}");
            }
        }
        drop(lock);
    }
}

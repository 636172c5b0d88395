//! What a tap and the fence on it have counted.
//!
//! The kernel's own numbers, which are right whoever carries the frames: this process, or the
//! kernel through vhost. Read through netlink, since `/sys` may show another namespace; the socket
//! is opened once, before the process gives up its rights. Any thread may read.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::netlink::link::{self, LinkCounters};
use super::netlink::{Netlink, Refused, tc};

/// The numbers of one tap.
pub struct Statistics {
    name: String,
    netlink: Mutex<Netlink>,
}

/// What they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapStatistics {
    /// The tap's; rx is what the guest sends.
    pub link: LinkCounters,
    /// Frames that filters on what the guest sends have dropped.
    pub refused: u64,
}

impl Statistics {
    /// Of the interface `name` in this thread's network namespace.
    ///
    /// # Errors
    /// What the system says of a netlink socket.
    pub fn open(name: &str) -> io::Result<Self> {
        Ok(Self { name: name.to_owned(), netlink: Mutex::new(Netlink::open()?) })
    }

    /// The numbers now.
    ///
    /// # Errors
    /// What the kernel says; there being no such interface is one.
    pub fn read(&self) -> Result<TapStatistics, Refused> {
        // Whoever panicked under it left nothing half done: an answer of theirs is not taken for ours.
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let links = netlink.dump(&link::get_links())?;
        let found = links.iter().find_map(|body| {
            let link = link::read_link(body)?;
            (link.name == self.name).then_some((link.index, link::read_counters(body)?))
        });
        let Some((index, link)) = found else {
            let gone = format!("there is no interface {}", self.name);
            return Err(io::Error::new(io::ErrorKind::NotFound, gone).into());
        };
        let disciplines = netlink.dump(&tc::get_qdiscs(index))?;
        let drops = |body: &Vec<u8>| tc::read_ingress_drops(body, index);
        let refused = disciplines.iter().find_map(drops).unwrap_or(0);
        Ok(TapStatistics { link, refused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_counts_and_one_that_is_gone_is_named() {
        let lo = Statistics::open("lo").unwrap();
        let (first, second) = (lo.read().unwrap(), lo.read().unwrap());
        assert!(second.link.rx_bytes >= first.link.rx_bytes);
        assert_eq!(first.refused, 0);
        let none = Statistics::open("berth-none").unwrap().read().unwrap_err();
        assert_eq!(none.to_string(), "there is no interface berth-none");
    }
}

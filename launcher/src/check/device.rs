//! Device nodes of the network: there, and ours to open.

use std::fs::File;
use std::io;
use std::path::Path;

use super::Place;
use super::finding::Finding;
use crate::config::Vhost;
use crate::net::TUN;
use crate::nic::VHOST_NET;

/// Whether `device` can be opened; it is closed again.
pub fn open(device: &str) -> io::Result<()> {
    File::options().read(true).write(true).open(Path::new(device)).map(drop)
}

/// Whether taps can be made with `/dev/net/tun`.
pub fn judge_tun(opened: &io::Result<()>, place: Place) -> Finding {
    match opened {
        Ok(()) => Finding::fine("tun", format!("{TUN} can be opened")),
        Err(error) => {
            Finding::error("tun", format!("{TUN} cannot be opened: {error}")).remedy(place.pick(
                "give the container resources: {limits: {berth.dev/tun: \"1\"}}",
                "modprobe tun, and run as root",
            ))
        }
    }
}

/// Whether the kernel carries frames.
pub fn judge_vhost(opened: &io::Result<()>, wish: Vhost, place: Place) -> Finding {
    let subject = "vhost-net";
    let error = match opened {
        Ok(()) if wish == Vhost::Off => {
            return Finding::fine(
                subject,
                format!("{VHOST_NET} is there, and not used: --vhost off"),
            );
        }
        Ok(()) => return Finding::fine(subject, format!("{VHOST_NET} can be opened")),
        Err(_) if wish == Vhost::Off => return Finding::fine(subject, "not used: --vhost off"),
        Err(error) => error,
    };
    let remedy = place.pick(
        "give the container resources: {limits: {berth.dev/vhost-net: \"1\"}}",
        "modprobe vhost_net, and run as root or with the group of that device",
    );
    let text = format!("{VHOST_NET} cannot be opened: {error}");
    let finding = match wish {
        Vhost::On => Finding::error(subject, text),
        _ => Finding::warning(subject, format!("{text}; frames go through this process, slower")),
    };
    finding.remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level::{Error, Fine, Warning};
    use super::*;

    #[test]
    fn a_wish_decides_how_bad_it_is() {
        let no = || Err(io::ErrorKind::NotFound.into());
        let vhost = |opened, wish| judge_vhost(&opened, wish, Place::Host).level;
        assert_eq!(vhost(Ok(()), Vhost::Auto), Fine);
        assert_eq!(vhost(no(), Vhost::Auto), Warning);
        assert_eq!(vhost(no(), Vhost::On), Error);
        assert_eq!(vhost(no(), Vhost::Off), Fine);
        let tun = judge_tun(&no(), Place::Container);
        assert_eq!((tun.level, judge_tun(&Ok(()), Place::Host).level), (Error, Fine));
        assert!(tun.remedy.unwrap().contains("berth.dev/tun"));
        assert!(open("/dev/berth-none").is_err());
    }
}

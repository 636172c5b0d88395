//! `resolv.conf`, read as the C library reads it (resolv.conf(5)), for the VM instead of ourselves.
//!
//! Keywords stand at the start of a line; the last `search` or `domain` counts; a line that begins
//! with `#` or `;` is a comment, and so is the rest of any line from a word that begins so. Unlike
//! the C library this takes more than three name servers and more than six domains, and addresses
//! in their usual form only. Servers that only the host itself can reach (loopback, link-local)
//! and names that are none are left out, with one warning. [`ResolverSource`] finds the file. No I/O.

mod source;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::net::names::DomainName;
pub use source::ResolverSource;

/// Name servers taken; the C library takes 3.
const MAX_SERVERS: usize = 32;
/// Search domains taken; Kubernetes allows 32 for a pod.
const MAX_SEARCH: usize = 64;
/// The largest `ndots`, as in the C library.
const MAX_NDOTS: u8 = 15;

/// What a resolver is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers that a VM can reach, in order; at most 32, each once.
    pub servers: Vec<IpAddr>,
    /// Search domains, in order; at most 64.
    pub search: Vec<DomainName>,
    /// `options ndots`. No protocol carries it to the VM.
    ndots: Option<u8>,
    /// Servers that a VM cannot reach, as many as servers are taken.
    unreachable: Vec<IpAddr>,
    /// Words that are no address or no name, or more than are taken.
    skipped: usize,
}

impl ResolvConf {
    /// Reads the text of a file.
    pub fn parse(text: &[u8]) -> Self {
        let mut conf = Self::default();
        for line in text.split(|&byte| byte == b'\n') {
            if line.starts_with(b"#") || line.starts_with(b";") {
                continue;
            }
            let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
            let Some(end) = line.iter().position(blank) else { continue };
            let Some((keyword, rest)) = line.split_at_checked(end) else { continue };
            let words = rest
                .split(blank)
                .filter(|word| !word.is_empty())
                .take_while(|word| !word.starts_with(b"#") && !word.starts_with(b";"));
            match keyword {
                b"nameserver" => words.take(1).for_each(|word| conf.add_server(word)),
                b"domain" => conf.set_search(words.take(1)),
                b"search" => conf.set_search(words),
                b"options" => words.for_each(|word| conf.add_option(word)),
                _ => {}
            }
        }
        conf
    }

    /// The IPv4 name servers.
    pub fn servers_v4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.servers.iter().filter_map(|server| match server {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// The IPv6 name servers.
    pub fn servers_v6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.servers.iter().filter_map(|server| match server {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
    }

    fn add_server(&mut self, word: &[u8]) {
        // A scope names an interface of the host: the VM has others.
        let text = str::from_utf8(word).unwrap_or_default();
        let text = text.split(['%', '#', ';']).next().unwrap_or_default();
        let Ok(address) = text.parse::<IpAddr>() else {
            self.skipped = self.skipped.saturating_add(1);
            return;
        };
        let list = match is_reachable(address) {
            true => &mut self.servers,
            false => &mut self.unreachable,
        };
        if list.contains(&address) {
            return;
        }
        if list.len() < MAX_SERVERS {
            list.push(address);
        } else {
            self.skipped = self.skipped.saturating_add(1);
        }
    }

    fn set_search<'a>(&mut self, words: impl Iterator<Item = &'a [u8]>) {
        let mut words = words.peekable();
        if words.peek().is_none() {
            return;
        }
        self.search.clear();
        // The root asks for no search at all: nothing that could be told, and no mistake.
        for word in words.filter(|word| *word != b".") {
            match str::from_utf8(word).ok().and_then(DomainName::new) {
                Some(name) if self.search.len() < MAX_SEARCH => self.search.push(name),
                _ => self.skipped = self.skipped.saturating_add(1),
            }
        }
    }

    fn add_option(&mut self, word: &[u8]) {
        let count = str::from_utf8(word).ok().and_then(|word| word.strip_prefix("ndots:"));
        if let Some(count) = count.and_then(|count| count.parse::<u32>().ok()) {
            self.ndots = Some(u8::try_from(count).unwrap_or(MAX_NDOTS).min(MAX_NDOTS));
        }
    }

    fn report(&self, path: &Path) {
        let path = path.display();
        log::info!("{path} has {self}");
        if !self.unreachable.is_empty() {
            let list = join(&self.unreachable);
            log::warn!(
                "{path} names name servers that only the host itself reaches, and they are not \
                 told to the VM: {list}"
            );
        }
        if self.skipped > 0 {
            let count = self.skipped;
            log::warn!("{path}: {count} name servers or domains left out: wrong, or too many");
        }
    }
}

impl fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name servers: {}; search: {}", join(&self.servers), join(&self.search))?;
        match self.ndots {
            Some(count) => write!(f, "; ndots: {count}, which the VM is not told"),
            None => Ok(()),
        }
    }
}

fn join(list: &[impl fmt::Display]) -> String {
    match list {
        [] => "none".to_owned(),
        list => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Whether an address can be that of a name server for somebody other than the host.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        // 169.254.0.0/16 is reachable: node-local caches of a cluster live there.
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            let mapped = v6.to_ipv4_mapped().is_some();
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || mapped)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> ResolvConf {
        ResolvConf::parse(text.as_bytes())
    }

    fn search(conf: &ResolvConf) -> Vec<&str> {
        conf.search.iter().map(DomainName::as_str).collect()
    }

    #[test]
    fn the_file_of_a_pod() {
        let conf = parse(
            "search default.svc.cluster.local svc.cluster.local cluster.local\n\
             nameserver 10.96.0.10\nnameserver 2001:db8::53\noptions ndots:5 timeout:2\n",
        );
        assert_eq!(
            search(&conf),
            ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
        );
        assert_eq!(conf.servers_v4().collect::<Vec<_>>(), [Ipv4Addr::new(10, 96, 0, 10)]);
        assert_eq!(conf.servers_v6().count(), 1);
        assert_eq!(
            conf.to_string(),
            "name servers: 10.96.0.10 2001:db8::53; search: default.svc.cluster.local \
             svc.cluster.local cluster.local; ndots: 5, which the VM is not told"
        );
    }

    #[test]
    fn lines_as_the_c_library_reads_them() {
        let conf = parse(
            "# nameserver 1.1.1.1\n; nameserver 1.1.1.2\n nameserver 1.1.1.3\nnameserver\n\
             nameserver\t1.1.1.4 # mine\r\nnameserver 1.1.1.5#x\nnameserverx 1.1.1.6\n\
             nameserver 1.1.1.4\nnameserver one\nnameserver 1.1.1.7 1.1.1.8\n\
             search a.example. b.example # c.example\noptions ndots:77",
        );
        assert_eq!(join(&conf.servers), "1.1.1.4 1.1.1.5 1.1.1.7");
        assert_eq!(search(&conf), ["a.example", "b.example"]);
        assert_eq!((conf.ndots, conf.skipped), (Some(15), 1));
    }

    #[test]
    fn the_last_search_or_domain_counts() {
        assert_eq!(search(&parse("search a.b c\ndomain d.e f\n")), ["d.e"]);
        assert_eq!(search(&parse("domain d.e\nsearch a.b c\nsearch \n")), ["a.b", "c"]);
        let none = parse("search a.b\nsearch .\n");
        assert_eq!((search(&none).len(), none.skipped), (0, 0));
    }

    #[test]
    fn servers_that_only_the_host_reaches_are_left_out() {
        let conf = parse(
            "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 0.0.0.0\n\
             nameserver 169.254.20.10\nnameserver fd00::1%eth0\nnameserver 224.0.0.1\n",
        );
        assert_eq!(join(&conf.servers), "169.254.20.10 fd00::1");
        assert_eq!(join(&conf.unreachable), "127.0.0.53 ::1 fe80::1 0.0.0.0 224.0.0.1");
    }

    #[test]
    fn hostile_names_and_amounts() {
        let conf = parse("search ok.example $(reboot) a..b \u{e4}.org -x .\n");
        assert_eq!((search(&conf), conf.skipped), (vec!["ok.example"], 4));
        let mut text: String =
            (0..1000).map(|n| format!("nameserver 10.0.{}.1\n", n % 200)).collect();
        text += "search";
        (0..100_000).for_each(|n| text += &format!(" d{n}.example"));
        let conf = parse(&text);
        assert_eq!((conf.servers.len(), conf.search.len()), (MAX_SERVERS, MAX_SEARCH));
        assert_eq!(parse(""), ResolvConf::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(text in prop::collection::vec(any::<u8>(), 0..600)) {
            ResolvConf::parse(&text);
        }

        #[test]
        fn any_words_are_read(text in "(nameserver|search|domain|options|#)?[ a-z0-9.:%\n\t-]{0,200}") {
            let conf = parse(&text);
            prop_assert!(conf.servers.iter().all(|server| is_reachable(*server)));
        }
    }
}

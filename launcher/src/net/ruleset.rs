//! A table of nftables, as data: chains of rules, each of matches and a verdict.
//!
//! Shown in nft's own words (nft(8)), so that a plan can be compared with `nft list ruleset`.
//! Only what the modes need is here: `netlink/nft.rs` says it to the kernel.

use std::fmt;
use std::net::IpAddr;

/// A table of the `inet` family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name: what else has it is replaced.
    pub name: String,
    /// What a later run must know, at most [`MAX_COMMENT`] bytes; see [`super::before`].
    pub comment: String,
    /// Its base chains.
    pub chains: Vec<Chain>,
}

/// The longest comment, in bytes: its length and its ending zero are in one byte.
pub const MAX_COMMENT: usize = 254;

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Where in a packet's way.
    pub hook: Hook,
    /// Lower is asked first.
    pub priority: i32,
    /// In order; what no rule decides is accepted.
    pub rules: Vec<Rule>,
}

/// Places in a packet's way (`linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// It came in.
    Prerouting = 0,
    /// It is for this machine.
    Input = 1,
    /// It goes through.
    Forward = 2,
    /// This machine sends it.
    Output = 3,
    /// It leaves.
    Postrouting = 4,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of them must hold.
    pub matches: Vec<Match>,
    /// What then happens.
    pub verdict: Verdict,
}

/// What a packet must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It came in by this interface.
    In(String),
    /// It did not.
    NotIn(String),
    /// It leaves by this interface.
    Out(String),
    /// It does not.
    NotOut(String),
    /// Its source is within the prefix.
    Source(IpAddr, u8),
    /// Its destination is this.
    Destination(IpAddr),
    /// Its destination is an address of this machine.
    ToLocal,
    /// It is of IPv4.
    Ipv4,
    /// It is of IPv6.
    Ipv6,
    /// It is of TCP (6) or UDP (17), to this port.
    Port(u8, u16),
    /// It is of ICMP (1) or ICMPv6 (58), of a type from the first to the last.
    Icmp(u8, u8, u8),
    /// It belongs to a connection there is, or to one's errors.
    Established,
    /// Its connection's destination was translated.
    Translated,
    /// It asks for a TCP connection.
    TcpSyn,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It is gone, and counted.
    Drop,
    /// Its connection's destination becomes this.
    Dnat(IpAddr, Option<u16>),
    /// Its connection's source becomes this.
    Snat(IpAddr),
    /// Its connection's source becomes the address of the interface it leaves by.
    Masquerade,
    /// Its maximum segment size becomes what the route can carry; then the next rule.
    ClampMss,
}

/// A rule of these.
pub fn rule(matches: impl IntoIterator<Item = Match>, verdict: Verdict) -> Rule {
    Rule { matches: matches.into_iter().collect(), verdict }
}

/// A chain at nft's usual priority for what it does there.
pub fn filter_chain(name: &'static str, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name, kind: "filter", hook, priority, rules }
}

/// A chain of address translation: destinations before the routing decision, sources after it.
pub fn nat_chain(name: &'static str, hook: Hook, rules: Vec<Rule>) -> Chain {
    let priority = if hook == Hook::Postrouting { 100 } else { -100 };
    Chain { name, kind: "nat", hook, priority, rules }
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table inet {}", self.name)?;
        if !self.comment.is_empty() {
            write!(f, "\n  comment \"{}\"", self.comment)?;
        }
        for chain in &self.chains {
            let Chain { name, kind, hook, priority, rules } = chain;
            let hook = format!("{hook:?}").to_lowercase();
            write!(f, "\n  chain {name}: type {kind} hook {hook} priority {priority}")?;
            rules.iter().try_for_each(|rule| write!(f, "\n    {rule}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matches.iter().try_for_each(|found| write!(f, "{found} "))?;
        match self.verdict {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("counter drop"),
            Verdict::Dnat(to, None) => write!(f, "dnat {} to {to}", family(&to)),
            Verdict::Dnat(to, Some(port)) => write!(f, "dnat {} to {to}:{port}", family(&to)),
            Verdict::Snat(to) => write!(f, "snat {} to {to}", family(&to)),
            Verdict::Masquerade => f.write_str("masquerade"),
            Verdict::ClampMss => f.write_str("tcp option maxseg size set rt mtu"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(link) => write!(f, "iifname \"{link}\""),
            Self::NotIn(link) => write!(f, "iifname != \"{link}\""),
            Self::Out(link) => write!(f, "oifname \"{link}\""),
            Self::NotOut(link) => write!(f, "oifname != \"{link}\""),
            Self::Source(address, prefix) => {
                write!(f, "{} saddr {address}", family(address))?;
                let whole = if address.is_ipv4() { 32 } else { 128 };
                if *prefix == whole { Ok(()) } else { write!(f, "/{prefix}") }
            }
            Self::Destination(address) => write!(f, "{} daddr {address}", family(address)),
            Self::ToLocal => f.write_str("fib daddr type local"),
            Self::Ipv4 => f.write_str("meta nfproto ipv4"),
            Self::Ipv6 => f.write_str("meta nfproto ipv6"),
            Self::Port(6, port) => write!(f, "tcp dport {port}"),
            Self::Port(_, port) => write!(f, "udp dport {port}"),
            Self::Icmp(protocol, first, last) => {
                let name = if *protocol == 1 { "icmp" } else { "icmpv6" };
                write!(f, "{name} type {first}")?;
                if first == last { Ok(()) } else { write!(f, "-{last}") }
            }
            Self::Established => f.write_str("ct state established,related"),
            Self::Translated => f.write_str("ct status dnat"),
            Self::TcpSyn => f.write_str("tcp flags syn"),
        }
    }
}

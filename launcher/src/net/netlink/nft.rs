//! A [`Table`] in the words of nf_tables: tables, chains, rules, and the expressions rules are of.
//!
//! `linux/netfilter/nf_tables.h`. Every number there is in network byte order; what is compared
//! is in the byte order that the compared thing has in the kernel. Each match loads register 1 and
//! compares it, as nft(8) itself compiles them. No I/O.

use std::net::IpAddr;

use super::link::octets;
use super::tc::mask;
use super::wire::{self, Attributes, Message};
use crate::net::ruleset::{Chain, Match, Rule, Table, Verdict};

/// `NFNL_SUBSYS_NFTABLES`, and its messages.
const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `NFTA_TABLE_USERDATA`, and what nft(8) has in it.
const TABLE_USERDATA: u16 = 6;
const USER_COMMENT: u8 = 0;

/// The first attribute of every kind of expression that loads or writes something.
const REGISTER: u16 = 1;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const REGISTER_VERDICT: u32 = 0;

const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// Established, related.
const STATE_BITS: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 1 << 5;
/// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`, `RTN_LOCAL`.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DADDR: u32 = 2;
const ADDRESS_LOCAL: u32 = 2;
const RT_TCPMSS: u32 = 3;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;
const NAT_PORTS: u32 = 2;
/// `NFT_EXTHDR_OP_TCPOPT`, `TCPOPT_MAXSEG`.
const TCP_OPTION: u32 = 1;
const MAXSEG: u8 = 2;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const SYN: u8 = 0x02;

/// The transaction that puts a table in place of whatever has its name.
pub fn replace(table: &Table) -> Vec<Message> {
    // Deleting what is not there would fail; making what is there does not.
    let mut messages = remove(&table.name);
    messages.push(commented(table));
    for chain in &table.chains {
        messages.push(new_chain(&table.name, chain));
        messages.extend(chain.rules.iter().map(|rule| new_rule(&table.name, chain.name, rule)));
    }
    messages
}

/// The transaction that removes a table, whether it is there or not.
pub fn remove(name: &str) -> Vec<Message> {
    vec![new_table(name), delete(name)]
}

/// All tables.
pub fn get_tables() -> Message {
    message(GETTABLE, 0)
}

/// The name and the comment of a table in an answer to [`get_tables`].
pub fn read_table(body: &[u8]) -> Option<(String, String)> {
    let attributes = body.get(4..)?;
    let name = wire::text(wire::attribute(attributes, 1)?);
    let user = wire::attribute(attributes, TABLE_USERDATA).unwrap_or_default();
    let comment = match user {
        [USER_COMMENT, _, text @ ..] => wire::text(text),
        _ => String::new(),
    };
    Some((name, comment))
}

/// `struct nfgenmsg`.
fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags, &[INET, 0, 0, 0])
}

fn new_table(name: &str) -> Message {
    message(NEWTABLE, wire::CREATE).with(Attributes::new().text(1, name))
}

/// A table with its comment, as nft keeps it: type, length, text and zero.
fn commented(table: &Table) -> Message {
    let message = new_table(&table.name);
    let text = table.comment.as_bytes();
    match u8::try_from(text.len().saturating_add(1)) {
        Ok(length) if length > 1 => {
            let user = [&[USER_COMMENT, length], text, &[0]].concat();
            message.with(Attributes::new().bytes(TABLE_USERDATA, &user))
        }
        _ => message,
    }
}

fn delete(name: &str) -> Message {
    message(DELTABLE, 0).with(Attributes::new().text(1, name))
}

fn new_chain(table: &str, chain: &Chain) -> Message {
    let hook = Attributes::new().be32(1, chain.hook as u32).be32(2, chain.priority.cast_unsigned());
    let attributes = Attributes::new()
        .text(1, table)
        .text(3, chain.name)
        .nest(4, hook)
        .be32(5, NF_ACCEPT)
        .text(7, chain.kind);
    message(NEWCHAIN, wire::CREATE).with(attributes)
}

fn new_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let mut expressions = Expressions::default();
    for found in &rule.matches {
        expressions.matching(found);
    }
    expressions.verdict(rule.verdict);
    let attributes =
        Attributes::new().text(1, table).text(2, chain).nest(4, expressions.attributes);
    message(NEWRULE, wire::CREATE | wire::APPEND).with(attributes)
}

/// The expressions of a rule.
#[derive(Default)]
struct Expressions {
    attributes: Attributes,
}

impl Expressions {
    /// Adds one: `NFTA_LIST_ELEM` of name and data.
    fn add(&mut self, name: &str, data: Attributes) {
        let expression = Attributes::new().text(1, name).nest(2, data);
        self.attributes = std::mem::take(&mut self.attributes).nest(1, expression);
    }

    /// Loads something that has a key.
    fn load(&mut self, name: &str, key: u32) {
        self.add(name, Attributes::new().be32(REGISTER, REGISTER_1).be32(2, key));
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) {
        let data = Attributes::new().be32(REGISTER, REGISTER_1);
        self.add("payload", data.be32(2, base).be32(3, offset).be32(4, length));
    }

    fn compare(&mut self, how: u32, value: &[u8]) {
        let data = Attributes::new().be32(REGISTER, REGISTER_1).be32(2, how);
        self.add("cmp", data.nest(3, Attributes::new().bytes(1, value)));
    }

    fn and(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        let data = Attributes::new().be32(1, REGISTER_1).be32(2, REGISTER_1).be32(3, length);
        let value = |bytes: &[u8]| Attributes::new().bytes(1, bytes);
        self.add("bitwise", data.nest(4, value(mask)).nest(5, value(&vec![0; mask.len()])));
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        let data = Attributes::new().be32(REGISTER, register);
        self.add("immediate", data.nest(2, Attributes::new().bytes(1, value)));
    }

    fn interface(&mut self, key: u32, how: u32, name: &str) {
        self.load("meta", key);
        let mut padded = [0; 16];
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        self.compare(how, &padded);
    }

    fn family(&mut self, family: u8) {
        self.load("meta", META_NFPROTO);
        self.compare(EQUAL, &[family]);
    }

    fn protocol(&mut self, protocol: u8) {
        self.load("meta", META_L4PROTO);
        self.compare(EQUAL, &[protocol]);
    }

    /// An address at one of two offsets, after the family.
    fn address(&mut self, address: IpAddr, prefix: u8, offsets: (u32, u32)) {
        let (family, bytes) = octets(address);
        self.family(family);
        let offset = if family == AF_INET { offsets.0 } else { offsets.1 };
        self.payload(NETWORK_HEADER, offset, if family == AF_INET { 4 } else { 16 });
        let mask: Vec<u8> = mask(prefix).into_iter().take(bytes.len()).collect();
        if mask.iter().any(|byte| *byte != 0xff) {
            self.and(&mask);
        }
        self.compare(EQUAL, &bytes);
    }

    fn matching(&mut self, found: &Match) {
        match found {
            Match::In(link) => self.interface(META_IIFNAME, EQUAL, link),
            Match::NotIn(link) => self.interface(META_IIFNAME, NOT_EQUAL, link),
            Match::Out(link) => self.interface(META_OIFNAME, EQUAL, link),
            Match::NotOut(link) => self.interface(META_OIFNAME, NOT_EQUAL, link),
            Match::Source(address, prefix) => self.address(*address, *prefix, (12, 8)),
            Match::Destination(address) => self.address(*address, 128, (16, 24)),
            Match::ToLocal => {
                let data = Attributes::new().be32(REGISTER, REGISTER_1);
                self.add("fib", data.be32(2, FIB_ADDRESS_TYPE).be32(3, FIB_DADDR));
                self.compare(EQUAL, &ADDRESS_LOCAL.to_ne_bytes());
            }
            Match::Ipv4 => self.family(AF_INET),
            Match::Ipv6 => self.family(AF_INET6),
            Match::Port(protocol, port) => {
                self.protocol(*protocol);
                self.payload(TRANSPORT_HEADER, 2, 2);
                self.compare(EQUAL, &port.to_be_bytes());
            }
            Match::Icmp(protocol, first, last) => {
                self.family(if *protocol == 1 { AF_INET } else { AF_INET6 });
                self.protocol(*protocol);
                self.payload(TRANSPORT_HEADER, 0, 1);
                if first == last {
                    self.compare(EQUAL, &[*first]);
                } else {
                    self.compare(AT_LEAST, &[*first]);
                    self.compare(AT_MOST, &[*last]);
                }
            }
            Match::Established => self.any_bit("ct", CT_STATE, STATE_BITS),
            Match::Translated => self.any_bit("ct", CT_STATUS, STATUS_DNAT),
            Match::TcpSyn => {
                self.protocol(6);
                self.payload(TRANSPORT_HEADER, 13, 1);
                self.and(&[SYN]);
                self.compare(NOT_EQUAL, &[0]);
            }
        }
    }

    fn any_bit(&mut self, name: &str, key: u32, bits: u32) {
        self.load(name, key);
        self.and(&bits.to_ne_bytes());
        self.compare(NOT_EQUAL, &[0; 4]);
    }

    fn decide(&mut self, code: u32) {
        let verdict = Attributes::new().nest(2, Attributes::new().be32(1, code));
        let data = Attributes::new().be32(REGISTER, REGISTER_VERDICT).nest(2, verdict);
        self.add("immediate", data);
    }

    fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Accept => self.decide(NF_ACCEPT),
            Verdict::Drop => {
                self.add("counter", Attributes::new());
                self.decide(NF_DROP);
            }
            Verdict::Dnat(to, port) => self.nat(NAT_DESTINATION, to, port),
            Verdict::Snat(to) => self.nat(NAT_SOURCE, to, None),
            Verdict::Masquerade => self.add("masq", Attributes::new()),
            Verdict::ClampMss => {
                self.load("rt", RT_TCPMSS);
                // To network byte order, two bytes of two.
                let swap = Attributes::new().be32(1, REGISTER_1).be32(2, REGISTER_1);
                self.add("byteorder", swap.be32(3, 1).be32(4, 2).be32(5, 2));
                let write = Attributes::new().u8(2, MAXSEG).be32(3, 2).be32(4, 2);
                self.add("exthdr", write.be32(6, TCP_OPTION).be32(7, REGISTER_1));
            }
        }
    }

    fn nat(&mut self, kind: u32, to: IpAddr, port: Option<u16>) {
        let (family, bytes) = octets(to);
        self.immediate(REGISTER_1, &bytes);
        let mut data = Attributes::new().be32(1, kind).be32(2, u32::from(family));
        data = data.be32(3, REGISTER_1);
        if let Some(port) = port {
            self.immediate(REGISTER_2, &port.to_be_bytes());
            data = data.be32(5, REGISTER_2).be32(7, NAT_PORTS);
        }
        self.add("nat", data);
    }
}

//! The DHCPv4 server's answers: RFC 2131 §4.3, rapid commit RFC 4039, client identifier RFC 6842,
//! classless routes RFC 3442, search list RFC 3397. Pure: a message in, a message out.
//!
//! There is one client and one address, which is its own whether it asks or not: nothing is kept
//! from one message to the next, so that a restarted server goes on where the last one was. Left
//! out: relay agents, boot files, leases that end, FORCERENEW.

pub mod packet;

use std::net::Ipv4Addr;

use super::answer::{Answer, LeaseEvent};
use super::frame::Refused;
use crate::net::guest::{GuestNetwork, GuestV4};
use crate::net::names::{self, DomainName};
use crate::net::resolv::ResolvConf;
use packet::{FIXED_LEN, Message, MessageType, code, emitted_len, longest_within};

/// A year, in seconds: the address is the VM's for the pod's life. Not the infinity of RFC 2131
/// §3.3, nor near it: clients reckon with it, some in milliseconds, and have got that wrong.
const LEASE_S: u32 = 86_400 * 365;
/// Seconds to renewal: not half the lease, since it is at renewal that a changed list of name
/// servers reaches the VM. A renewal is two packets.
const RENEWAL_S: u32 = 3600;
/// RFC 2131 §4.4.5: 7/8 of the lease.
const REBINDING_S: u32 = LEASE_S / 8 * 7;
/// RFC 2131 §2: the datagram that every client takes; the headers of UDP and IPv4 count in it.
const MIN_DATAGRAM: u16 = 576;
const HEADERS: u16 = 28;
/// RFC 2132 §9.14 gives a client identifier's length one byte: no longer one is sent back.
const MAX_CLIENT_ID: usize = 255;

/// What may be told beyond the lease, most important first: it is in this order that options find
/// room in a message, and, when the client has asked for none, are written.
const BY_IMPORTANCE: [u8; 7] = [
    code::CLASSLESS_ROUTES,
    code::ROUTER,
    code::NAME_SERVERS,
    code::INTERFACE_MTU,
    code::HOST_NAME,
    code::DOMAIN_NAME,
    code::DOMAIN_SEARCH,
];

/// What the server knows.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// Of the VM.
    pub network: &'a GuestNetwork,
    /// Of its IPv4 address.
    pub v4: &'a GuestV4,
    /// Of name servers.
    pub resolver: &'a ResolvConf,
}

/// The answer to `asked`.
///
/// # Errors
/// `Malformed` and `Foreign`, as [`Refused`] says; `Other` for messages of servers.
pub fn answer(asked: &Message, known: Knowledge<'_>) -> Result<Answer<Message>, Refused> {
    use MessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
    if asked.is_reply || matches!(asked.kind, Offer | Ack | Nak) {
        return Err(Refused::Other);
    }
    if asked.chaddr != known.network.mac || !asked.giaddr.is_unspecified() {
        return Err(Refused::Foreign);
    }
    if asked.get(code::CLIENT_IDENTIFIER).is_some_and(|id| id.len() > MAX_CLIENT_ID) {
        return Err(Refused::Malformed);
    }
    if let Some(server) = asked.get(code::SERVER_IDENTIFIER)
        && server != known.v4.server.octets()
    {
        return Err(Refused::Foreign);
    }
    let address = known.v4.address;
    let requested = asked.address(code::REQUESTED_ADDRESS);
    match asked.kind {
        // RFC 4039 §3.1.
        Discover if asked.get(code::RAPID_COMMIT).is_some() => Ok(Answer {
            reply: Some(known.lease(asked, Ack)),
            event: Some(LeaseEvent::Acknowledged(address.into())),
        }),
        Discover => Ok(Answer { reply: Some(known.lease(asked, Offer)), event: None }),
        Request => {
            // §4.3.2: selecting and rebooting clients name the address in an option, renewing and
            // rebinding ones already have it.
            let wanted = match requested {
                Some(address) => address,
                None if asked.ciaddr.is_unspecified() => return Err(Refused::Malformed),
                None => asked.ciaddr,
            };
            if wanted == address {
                let event = Some(LeaseEvent::Acknowledged(address.into()));
                Ok(Answer { reply: Some(known.lease(asked, Ack)), event })
            } else {
                let event = Some(LeaseEvent::Refused(wanted.into()));
                Ok(Answer { reply: Some(known.refusal(asked)), event })
            }
        }
        Inform => Ok(Answer { reply: Some(known.information(asked)), event: None }),
        Decline if requested == Some(address) => {
            Ok(Answer::silent(LeaseEvent::Declined(address.into())))
        }
        Release if asked.ciaddr == address => {
            Ok(Answer::silent(LeaseEvent::Released(address.into())))
        }
        Decline | Release => Ok(Answer { reply: None, event: None }),
        Offer | Ack | Nak => Err(Refused::Other),
    }
}

/// RFC 2131 §4.1: the IPv4 address that `reply` is sent to.
pub fn destination(reply: &Message) -> Ipv4Addr {
    if reply.kind == MessageType::Nak {
        Ipv4Addr::BROADCAST
    } else if !reply.ciaddr.is_unspecified() {
        reply.ciaddr
    } else if reply.broadcast || reply.yiaddr.is_unspecified() {
        Ipv4Addr::BROADCAST
    } else {
        reply.yiaddr
    }
}

impl Knowledge<'_> {
    /// An offer or acknowledgement with the lease.
    fn lease(self, asked: &Message, kind: MessageType) -> Message {
        let mut reply = blank(asked, kind);
        // RFC 2131 §4.3.1, table 3: an offer has none.
        if kind == MessageType::Ack {
            reply.ciaddr = asked.ciaddr;
        }
        reply.yiaddr = self.v4.address;
        self.identify(&mut reply, asked);
        if kind == MessageType::Ack && asked.kind == MessageType::Discover {
            reply.options.push((code::RAPID_COMMIT, Vec::new()));
        }
        for (code, seconds) in [
            (code::LEASE_TIME, LEASE_S),
            (code::RENEWAL_TIME, RENEWAL_S),
            (code::REBINDING_TIME, REBINDING_S),
        ] {
            reply.options.push((code, seconds.to_be_bytes().to_vec()));
        }
        self.add_parameters(&mut reply, asked);
        reply
    }

    /// The answer to DHCPINFORM: §4.3.5, no lease.
    fn information(self, asked: &Message) -> Message {
        let mut reply = blank(asked, MessageType::Ack);
        reply.ciaddr = asked.ciaddr;
        self.identify(&mut reply, asked);
        self.add_parameters(&mut reply, asked);
        reply
    }

    fn refusal(self, asked: &Message) -> Message {
        let mut reply = blank(asked, MessageType::Nak);
        self.identify(&mut reply, asked);
        let text = format!("the address here is {}", self.v4.address);
        reply.options.push((code::MESSAGE, text.into_bytes()));
        reply
    }

    fn identify(self, reply: &mut Message, asked: &Message) {
        reply.options.push((code::SERVER_IDENTIFIER, self.v4.server.octets().to_vec()));
        if let Some(id) = asked.get(code::CLIENT_IDENTIFIER) {
            reply.options.push((code::CLIENT_IDENTIFIER, id.to_vec()));
        }
    }

    /// Adds what was asked for, as far as it is known and there is room.
    fn add_parameters(self, reply: &mut Message, asked: &Message) {
        // RFC 2132 §3.3: before the router.
        reply.options.push((code::SUBNET_MASK, mask(self.v4.prefix).octets().to_vec()));
        let used = reply.options.iter().map(|(_, value)| emitted_len(value.len()));
        // Message type, and the end.
        let used: usize = used.sum::<usize>() + FIXED_LEN + 3 + 1;
        let mut room = self.limit(asked).saturating_sub(used);

        let list = asked.get(code::PARAMETER_REQUEST_LIST).filter(|list| !list.is_empty());
        let mut chosen = Vec::new();
        for code in BY_IMPORTANCE {
            if list.is_some_and(|list| !list.contains(&code)) {
                continue;
            }
            let value = self.value(code, longest_within(room));
            if let Some(value) = value.filter(|value| emitted_len(value.len()) <= room) {
                room = room.saturating_sub(emitted_len(value.len()));
                chosen.push((code, value));
            }
        }
        // §9.8 of RFC 2132: in the order in which they were asked for.
        if let Some(list) = list {
            chosen.sort_by_key(|(code, _)| list.iter().position(|asked| asked == code));
        }
        reply.options.append(&mut chosen);
    }

    /// The longest message for the client, in bytes.
    fn limit(self, asked: &Message) -> usize {
        let size = asked.get(code::MAX_MESSAGE_SIZE).and_then(|size| size.try_into().ok());
        let datagram = size.map_or(MIN_DATAGRAM, u16::from_be_bytes).min(self.network.mtu);
        usize::from(datagram.max(MIN_DATAGRAM).saturating_sub(HEADERS))
    }

    /// An option; lists are cut to `limit` bytes.
    fn value(self, code: u8, limit: usize) -> Option<Vec<u8>> {
        let value = match code {
            code::CLASSLESS_ROUTES => routes(self.v4)?,
            code::ROUTER => self.v4.gateway?.octets().to_vec(),
            code::NAME_SERVERS => {
                let servers = self.resolver.servers_v4().take(limit / 4);
                servers.flat_map(|server| server.octets()).collect()
            }
            code::INTERFACE_MTU => self.network.mtu.to_be_bytes().to_vec(),
            code::HOST_NAME if names::is_host_name(&self.network.host_name) => {
                self.network.host_name.clone().into_bytes()
            }
            code::DOMAIN_NAME => {
                self.resolver.search.first().map(DomainName::as_str)?.as_bytes().to_vec()
            }
            code::DOMAIN_SEARCH => names::compressed(&self.resolver.search, limit),
            _ => return None,
        };
        (!value.is_empty()).then_some(value)
    }
}

/// A reply with what table 3 of RFC 2131 takes from the request.
fn blank(asked: &Message, kind: MessageType) -> Message {
    Message {
        is_reply: true,
        xid: asked.xid,
        secs: 0,
        broadcast: asked.broadcast,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        giaddr: Ipv4Addr::UNSPECIFIED,
        chaddr: asked.chaddr,
        kind,
        options: Vec::new(),
    }
}

fn mask(prefix: u8) -> Ipv4Addr {
    let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from(!host)
}

/// RFC 3442: prefix length, the significant octets of the destination, the router; needed when the
/// router is not on-link by the address's own prefix. A router of 0.0.0.0 means on-link. Clients
/// that know this option ignore the router option, so that the default route is in here, too.
fn routes(v4: &GuestV4) -> Option<Vec<u8>> {
    let gateway = v4.gateway?;
    let network = |address: Ipv4Addr| address & mask(v4.prefix);
    if network(gateway) == network(v4.address) {
        return None;
    }
    let mut routes = vec![32];
    routes.extend(gateway.octets());
    routes.extend([0; 4]);
    routes.push(0);
    routes.extend(gateway.octets());
    Some(routes)
}

#[cfg(test)]
mod tests;

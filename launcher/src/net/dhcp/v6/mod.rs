//! The DHCPv6 server's answers: RFC 8415 §16 (what is heard) and §18.3 (what is said), name servers
//! RFC 3646. Pure: a message in, a message out.
//!
//! As with IPv4 there is one client and one address, and nothing is kept between messages: the
//! first IA_NA of a message has the address, another gets NoAddrsAvail. A new system in the VM, with
//! another DUID and IAID, thereby gets what the old one had. Left out: relay agents, Reconfigure,
//! authentication, prefix delegation, temporary addresses.

pub mod packet;

use std::net::Ipv6Addr;

use devices::net::MacAddr;

use super::answer::{Answer, LeaseEvent};
use super::frame::Refused;
use crate::net::guest::{GuestNetwork, GuestV6};
use crate::net::names;
use crate::net::resolv::ResolvConf;
use packet::{Association, Message, Status, address_option, code, kind, status, status_option};

/// A year, in seconds, as over IPv4: preferred and valid.
const LIFETIME_S: u32 = 86_400 * 365;
/// T1, in seconds: the client comes back for changed name servers.
const RENEWAL_S: u32 = 3600;
/// T2: RFC 8415 §21.4, 4/5 of the preferred lifetime.
const REBINDING_S: u32 = LIFETIME_S / 5 * 4;
/// RFC 8415 §18.2.1: 255 makes the client wait for no other server.
const PREFERENCE: u8 = 255;
/// §11.1: a DUID has a type of two bytes, and at most 128 after it.
const DUID_LEN: std::ops::RangeInclusive<usize> = 3..=130;
/// Associations of one message that are answered, and addresses of one that are looked at.
const MAX_ASSOCIATIONS: usize = 16;
const MAX_ADDRESSES: usize = 8;
/// RFC 8200 §5: what every link carries. The headers of IPv6 and UDP count in it.
const MIN_MTU: u16 = 1280;
const HEADERS: u16 = 48;

/// What the server knows.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// Of the VM.
    pub network: &'a GuestNetwork,
    /// Of its IPv6 address.
    pub v6: &'a GuestV6,
    /// Of name servers.
    pub resolver: &'a ResolvConf,
}

/// The answer to `asked`, which was sent to a `multicast` address or not.
///
/// # Errors
/// `Malformed` and `Foreign`, as [`Refused`] says; `Other` for messages that a server leaves alone.
pub fn answer(
    asked: &Message,
    multicast: bool,
    known: Knowledge<'_>,
) -> Result<Answer<Message>, Refused> {
    check(asked, known.network.server_mac)?;
    if !multicast {
        // §18.4: nobody was told that unicast is welcome.
        return match asked.kind {
            kind::REQUEST | kind::RENEW | kind::RELEASE | kind::DECLINE => {
                Ok(answered(known.with_status(asked, Status::UseMulticast), None))
            }
            _ => Err(Refused::Other),
        };
    }
    let associations = associations(asked).ok_or(Refused::Malformed)?;
    let address = known.v6.address;
    match asked.kind {
        kind::SOLICIT if asked.get(code::RAPID_COMMIT).is_none() => {
            let mut reply = known.blank(asked, kind::ADVERTISE);
            reply.options.push((code::PREFERENCE, vec![PREFERENCE]));
            known.grant(&mut reply, asked, &associations);
            Ok(answered(reply, None))
        }
        kind::SOLICIT | kind::REQUEST | kind::RENEW | kind::REBIND => {
            let mut reply = known.blank(asked, kind::REPLY);
            if asked.kind == kind::SOLICIT {
                reply.options.push((code::RAPID_COMMIT, Vec::new()));
            }
            let granted = known.grant(&mut reply, asked, &associations);
            Ok(answered(reply, granted.then_some(LeaseEvent::Acknowledged(address.into()))))
        }
        kind::CONFIRM => {
            // §18.3.3: nothing to confirm, nothing said.
            let mut addresses = associations.iter().flat_map(|ia| &ia.addresses).peekable();
            addresses.peek().ok_or(Refused::Other)?;
            let status = match addresses.all(|known| *known == address) {
                true => Status::Success,
                false => Status::NotOnLink,
            };
            Ok(answered(known.with_status(asked, status), None))
        }
        kind::RELEASE | kind::DECLINE => {
            let mut reply = known.with_status(asked, Status::Success);
            let (ours, others): (Vec<_>, Vec<_>) = associations
                .iter()
                .partition(|ia| ia.code == code::IA_NA && ia.addresses.contains(&address));
            for other in others {
                reply.options.push(other.answer([0; 2], &status_option(Status::NoBinding)));
            }
            let event = match asked.kind {
                kind::RELEASE => LeaseEvent::Released(address.into()),
                _ => LeaseEvent::Declined(address.into()),
            };
            Ok(answered(reply, (!ours.is_empty()).then_some(event)))
        }
        kind::INFORMATION_REQUEST => {
            let mut reply = known.blank(asked, kind::REPLY);
            known.add_parameters(&mut reply, asked);
            Ok(answered(reply, None))
        }
        _ => Err(Refused::Other),
    }
}

/// Sent in any case; the lease's event if there is one.
fn answered(reply: Message, event: Option<LeaseEvent>) -> Answer<Message> {
    Answer { reply: Some(reply), event }
}

/// §16: which messages are heard at all.
fn check(asked: &Message, server: MacAddr) -> Result<(), Refused> {
    let client = asked.get(code::CLIENT_ID);
    if client.is_some_and(|duid| !DUID_LEN.contains(&duid.len())) {
        return Err(Refused::Malformed);
    }
    let named = asked.get(code::SERVER_ID);
    let whole = match asked.kind {
        kind::SOLICIT | kind::CONFIRM | kind::REBIND => client.is_some() && named.is_none(),
        kind::REQUEST | kind::RENEW | kind::DECLINE | kind::RELEASE => {
            client.is_some() && named.is_some()
        }
        kind::INFORMATION_REQUEST => {
            [code::IA_NA, code::IA_TA, code::IA_PD].iter().all(|code| asked.get(*code).is_none())
        }
        _ => return Err(Refused::Other),
    };
    if !whole {
        return Err(Refused::Malformed);
    }
    if named.is_some_and(|duid| duid != server_duid(server)) {
        return Err(Refused::Foreign);
    }
    Ok(())
}

/// §11.4: DUID-LL, hardware type Ethernet.
fn server_duid(mac: MacAddr) -> Vec<u8> {
    [&[0, 3, 0, 1][..], &mac].concat()
}

/// The first associations. `None`: one of them is broken.
fn associations(asked: &Message) -> Option<Vec<Association>> {
    let is_one = |code: u16| matches!(code, code::IA_NA | code::IA_TA | code::IA_PD);
    let found = asked.options.iter().filter(|(code, _)| is_one(*code)).take(MAX_ASSOCIATIONS);
    found.map(|(code, value)| Association::parse(*code, value)).collect()
}

impl Knowledge<'_> {
    /// §18.3.10 and §18.3.11: what every answer begins with.
    fn blank(self, asked: &Message, kind: u8) -> Message {
        let mut options = vec![(code::SERVER_ID, server_duid(self.network.server_mac))];
        if let Some(client) = asked.get(code::CLIENT_ID) {
            options.push((code::CLIENT_ID, client.to_vec()));
        }
        Message { kind, transaction: asked.transaction, options }
    }

    fn with_status(self, asked: &Message, value: Status) -> Message {
        let mut reply = self.blank(asked, kind::REPLY);
        reply.options.push((code::STATUS, status(value)));
        reply
    }

    /// Answers the associations, and adds what was asked for; true when the address was given.
    fn grant(self, reply: &mut Message, asked: &Message, associations: &[Association]) -> bool {
        let mut granted = false;
        let mut taken = false;
        for ia in associations {
            let option = match ia.code {
                code::IA_NA if taken => ia.answer([0; 2], &status_option(Status::NoAddresses)),
                code::IA_NA => {
                    taken = true;
                    // §18.3.2: what cannot be an address here has to be unlearned first.
                    let off_link = |address: &Ipv6Addr| !self.is_on_link(*address);
                    if asked.kind == kind::REQUEST && ia.addresses.iter().any(off_link) {
                        ia.answer([0; 2], &status_option(Status::NotOnLink))
                    } else {
                        granted = true;
                        self.with_address(ia, asked.kind)
                    }
                }
                code::IA_PD => ia.answer([0; 2], &status_option(Status::NoPrefix)),
                _ => ia.answer([0; 2], &status_option(Status::NoAddresses)),
            };
            reply.options.push(option);
        }
        self.add_parameters(reply, asked);
        granted
    }

    /// `ia` with our address; in a renewal, others that it names end at once (§18.3.4, §18.3.5).
    fn with_address(self, ia: &Association, kind: u8) -> (u16, Vec<u8>) {
        let mut inner = address_option(self.v6.address, [LIFETIME_S; 2]);
        if matches!(kind, kind::RENEW | kind::REBIND) {
            let others = ia.addresses.iter().filter(|address| **address != self.v6.address);
            for other in others.take(MAX_ADDRESSES) {
                inner.extend(address_option(*other, [0; 2]));
            }
        }
        ia.answer([RENEWAL_S, REBINDING_S], &inner)
    }

    fn is_on_link(self, address: Ipv6Addr) -> bool {
        let host = u128::MAX.checked_shr(u32::from(self.v6.prefix)).unwrap_or(0);
        address.to_bits() | host == self.v6.address.to_bits() | host
    }

    /// Adds name servers and domains, if asked for or if the client does not say what it wants.
    fn add_parameters(self, reply: &mut Message, asked: &Message) {
        let list = asked.get(code::OPTION_REQUEST);
        let wants = |code: u16| {
            list.is_none_or(|list| list.chunks_exact(2).any(|asked| asked == code.to_be_bytes()))
        };
        let limit = usize::from(self.network.mtu.max(MIN_MTU).saturating_sub(HEADERS));
        if asked.kind == kind::INFORMATION_REQUEST && wants(code::INFORMATION_REFRESH_TIME) {
            let seconds = RENEWAL_S.to_be_bytes().to_vec();
            reply.options.push((code::INFORMATION_REFRESH_TIME, seconds));
        }
        // The option's own header, too.
        let room = |reply: &Message| limit.saturating_sub(reply.emit().len().saturating_add(4));
        if wants(code::NAME_SERVERS) {
            let servers = self.resolver.servers_v6().take(room(reply) / 16);
            let value: Vec<u8> = servers.flat_map(|server| server.octets()).collect();
            if !value.is_empty() {
                reply.options.push((code::NAME_SERVERS, value));
            }
        }
        if wants(code::DOMAIN_SEARCH) {
            let value = names::uncompressed(&self.resolver.search, room(reply));
            if !value.is_empty() {
                reply.options.push((code::DOMAIN_SEARCH, value));
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The DHCPv4 message, both ways: RFC 2131 §2, options RFC 2132, long options RFC 3396. No I/O.
//!
//! Parts of one option are put together, across the `file` and `sname` fields too (option 52), and
//! options that are too long for one are sent in parts. Nothing is ever sent in those two fields.

use std::net::Ipv4Addr;

use devices::net::MacAddr;

use crate::net::dhcp::bytes::Bytes;

/// RFC 2131 §2, table 1: `op`.
const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
/// `htype` and `hlen` of Ethernet.
const ETHERNET: [u8; 2] = [1, 6];
/// RFC 2131 §3.
const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
/// RFC 2131 §2, figure 2: the leftmost bit of `flags`.
const BROADCAST_FLAG: u16 = 0x8000;
/// The message before its options, cookie included.
pub const FIXED_LEN: usize = 240;
/// RFC 951 §3: a BOOTP message has 300 bytes, and there are receivers that insist.
const MIN_LEN: usize = 300;
/// Part of an option: its length is one byte.
const MAX_PART: usize = 255;

/// Option codes: RFC 2132, and where else they come from.
pub mod code {
    /// §3.1.
    pub const PAD: u8 = 0;
    /// §3.3.
    pub const SUBNET_MASK: u8 = 1;
    /// §3.5.
    pub const ROUTER: u8 = 3;
    /// §3.8.
    pub const NAME_SERVERS: u8 = 6;
    /// §3.14.
    pub const HOST_NAME: u8 = 12;
    /// §3.17.
    pub const DOMAIN_NAME: u8 = 15;
    /// §5.1.
    pub const INTERFACE_MTU: u8 = 26;
    /// §9.1.
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// §9.2.
    pub const LEASE_TIME: u8 = 51;
    /// §9.3.
    pub const OVERLOAD: u8 = 52;
    /// §9.6.
    pub const MESSAGE_TYPE: u8 = 53;
    /// §9.7.
    pub const SERVER_IDENTIFIER: u8 = 54;
    /// §9.8.
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    /// §9.9.
    pub const MESSAGE: u8 = 56;
    /// §9.10.
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    /// §9.11.
    pub const RENEWAL_TIME: u8 = 58;
    /// §9.12.
    pub const REBINDING_TIME: u8 = 59;
    /// §9.14, and RFC 6842.
    pub const CLIENT_IDENTIFIER: u8 = 61;
    /// RFC 4039 §4.
    pub const RAPID_COMMIT: u8 = 80;
    /// RFC 3397 §2.
    pub const DOMAIN_SEARCH: u8 = 119;
    /// RFC 3442.
    pub const CLASSLESS_ROUTES: u8 = 121;
    /// RFC 2132 §3.2.
    pub const END: u8 = 255;
}

/// RFC 2132 §9.6: what a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// DHCPDISCOVER.
    Discover = 1,
    /// DHCPOFFER.
    Offer = 2,
    /// DHCPREQUEST.
    Request = 3,
    /// DHCPDECLINE.
    Decline = 4,
    /// DHCPACK.
    Ack = 5,
    /// DHCPNAK.
    Nak = 6,
    /// DHCPRELEASE.
    Release = 7,
    /// DHCPINFORM.
    Inform = 8,
}

impl MessageType {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }
}

/// A message for or from an Ethernet client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// From the server.
    pub is_reply: bool,
    /// Transaction.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The client cannot receive unicast before it has its address.
    pub broadcast: bool,
    /// The client's address, if it has one and can answer ARP for it.
    pub ciaddr: Ipv4Addr,
    /// The address that the server gives.
    pub yiaddr: Ipv4Addr,
    /// The relay agent.
    pub giaddr: Ipv4Addr,
    /// The client.
    pub chaddr: MacAddr,
    /// What it is.
    pub kind: MessageType,
    /// The rest, each code once, in order; neither message type nor padding, end and overload.
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Message {
    /// Reads a message. `None`: it is none, not for Ethernet, or one of BOOTP without a type.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(message);
        let op = bytes.u8()?;
        if !matches!(op, BOOTREQUEST | BOOTREPLY) || bytes.array()? != ETHERNET {
            return None;
        }
        let _hops = bytes.u8()?;
        let xid = u32::from_be_bytes(bytes.array()?);
        let secs = bytes.u16()?;
        let flags = bytes.u16()?;
        let ciaddr = bytes.array::<4>()?.into();
        let yiaddr = bytes.array::<4>()?.into();
        let _siaddr = bytes.array::<4>()?;
        let giaddr = bytes.array::<4>()?.into();
        let chaddr = bytes.array()?;
        let _rest_of_chaddr = bytes.take(10)?;
        let (sname, file) = (bytes.take(64)?, bytes.take(128)?);
        if bytes.array()? != MAGIC_COOKIE {
            return None;
        }
        let mut options = Vec::new();
        read_options(bytes, &mut options)?;
        // §9.3; RFC 3396 §5 has the order.
        if let Some(place) = take(&mut options, code::OVERLOAD) {
            let [place @ 1..=3] = *place else { return None };
            if place & 1 != 0 {
                read_options(Bytes(file), &mut options)?;
            }
            if place & 2 != 0 {
                read_options(Bytes(sname), &mut options)?;
            }
            take(&mut options, code::OVERLOAD);
        }
        let kind = take(&mut options, code::MESSAGE_TYPE)?;
        let [kind] = *kind else { return None };
        Some(Self {
            is_reply: op == BOOTREPLY,
            xid,
            secs,
            broadcast: flags & BROADCAST_FLAG != 0,
            ciaddr,
            yiaddr,
            giaddr,
            chaddr,
            kind: MessageType::from_byte(kind)?,
            options,
        })
    }

    /// Writes it.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MIN_LEN);
        out.push(if self.is_reply { BOOTREPLY } else { BOOTREQUEST });
        out.extend(ETHERNET);
        out.push(0);
        out.extend(self.xid.to_be_bytes());
        out.extend(self.secs.to_be_bytes());
        out.extend(if self.broadcast { BROADCAST_FLAG } else { 0 }.to_be_bytes());
        out.extend(self.ciaddr.octets());
        out.extend(self.yiaddr.octets());
        out.extend([0; 4]);
        out.extend(self.giaddr.octets());
        out.extend(self.chaddr);
        out.resize(FIXED_LEN.saturating_sub(MAGIC_COOKIE.len()), 0);
        out.extend(MAGIC_COOKIE);
        out.extend([code::MESSAGE_TYPE, 1, self.kind as u8]);
        for (code, value) in &self.options {
            if value.is_empty() {
                out.extend([*code, 0]);
            }
            for part in value.chunks(MAX_PART) {
                out.extend([*code, part.len() as u8]);
                out.extend(part);
            }
        }
        out.push(code::END);
        out.resize(out.len().max(MIN_LEN), code::PAD);
        out
    }

    /// An option.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.options.iter().find(|(known, _)| *known == code).map(|(_, value)| value.as_slice())
    }

    /// An option that is an address; one of another length is none.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(self.get(code)?).ok().map(Ipv4Addr::from)
    }
}

/// What an option of `length` bytes takes in a message.
pub fn emitted_len(length: usize) -> usize {
    length.saturating_add(length.div_ceil(MAX_PART).max(1).saturating_mul(2))
}

/// The longest option that takes no more than `room` in a message.
pub fn longest_within(room: usize) -> usize {
    room.saturating_sub(room.div_ceil(MAX_PART.saturating_add(2)).saturating_mul(2))
}

/// Adds the options of one field to `options`. `None`: one overruns it.
fn read_options(mut bytes: Bytes<'_>, options: &mut Vec<(u8, Vec<u8>)>) -> Option<()> {
    // Some clients leave out the end: the field's is as good.
    while !bytes.is_empty() {
        let code = bytes.u8()?;
        match code {
            code::PAD => continue,
            code::END => break,
            _ => {}
        }
        let length = usize::from(bytes.u8()?);
        let value = bytes.take(length)?;
        match options.iter_mut().find(|(known, _)| *known == code) {
            Some((_, known)) => known.extend(value),
            None => options.push((code, value.to_vec())),
        }
    }
    Some(())
}

fn take(options: &mut Vec<(u8, Vec<u8>)>, code: u8) -> Option<Vec<u8>> {
    let at = options.iter().position(|(known, _)| *known == code)?;
    Some(options.remove(at).1)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::net::dhcp::frame::tests::VM;
    use proptest::prelude::*;

    /// From a client, with nothing in it.
    pub fn request(kind: MessageType) -> Message {
        Message {
            is_reply: false,
            xid: 0x3903_f326,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr: VM,
            kind,
            options: Vec::new(),
        }
    }

    /// A message's fixed part by hand, then `options`.
    fn raw(options: &[u8]) -> Vec<u8> {
        let mut out = vec![1, 1, 6, 0, 0x39, 3, 0xf3, 0x26, 0, 0, 0, 0];
        out.extend([0; 16]);
        out.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.extend([0; 192]);
        out.extend([0x63, 0x82, 0x53, 0x63]);
        out.extend(options);
        out
    }

    #[test]
    fn a_message_to_the_byte() {
        let mut discover = request(MessageType::Discover);
        discover.options = vec![(61, vec![1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]), (55, vec![1, 3])];
        let mut expected =
            raw(&[53, 1, 1, 61, 7, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 55, 2, 1, 3, 255]);
        expected.resize(300, 0);
        assert_eq!(discover.emit(), expected);
        assert_eq!(Message::parse(&expected), Some(discover));
    }

    #[test]
    fn options_in_parts_and_in_other_fields() {
        let mut bytes = raw(&[53, 1, 3, 61, 2, 1, 2, 0, 61, 1, 3, 52, 1, 3, 255, 9, 9]);
        bytes[108..114].copy_from_slice(&[61, 1, 4, 0, 255, 7]);
        bytes[44..48].copy_from_slice(&[61, 2, 5, 6]);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.options, [(61, vec![1, 2, 3, 4, 5, 6])]);

        let mut long = request(MessageType::Ack);
        long.options = vec![(6, vec![7; 256]), (80, vec![])];
        let bytes = long.emit();
        assert_eq!(bytes[243..245], [6, 255]);
        assert_eq!(bytes[500..506], [6, 1, 7, 80, 0, 255]);
        assert_eq!(Message::parse(&bytes), Some(long));
    }

    #[test]
    fn what_is_no_message_for_ethernet() {
        let good = raw(&[53, 1, 1, 255]);
        assert!(Message::parse(&good).is_some());
        assert!(Message::parse(&raw(&[53, 1, 1])).is_some());
        for (at, value) in [(0, 0), (0, 3), (1, 6), (2, 16), (236, 0), (239, 0), (242, 0), (242, 9)]
        {
            let mut wrong = good.clone();
            wrong[at] = value;
            assert_eq!(Message::parse(&wrong), None, "{at}");
        }
        for options in [
            &[][..],
            &[255],
            &[53],
            &[53, 1],
            &[53, 2, 1, 1],
            &[53, 0, 255],
            &[53, 1, 1, 61, 255, 0],
            &[53, 1, 1, 52, 1, 0, 255],
            &[53, 1, 1, 52, 1, 4, 255],
            &[53, 1, 1, 52, 0, 255],
            &[53, 1, 1, 12],
        ] {
            assert_eq!(Message::parse(&raw(options)), None, "{options:?}");
        }
        for end in 0..good.len() - 1 {
            assert_eq!(Message::parse(&good[..end]), None, "{end}");
        }
    }

    #[test]
    fn room_is_reckoned_as_it_is_used() {
        for room in 3..1200 {
            let length = longest_within(room);
            assert!(emitted_len(length) <= room, "{room}");
            assert!(emitted_len(length + 2) > room, "{room}");
        }
        assert_eq!((emitted_len(0), emitted_len(255), emitted_len(256)), (2, 257, 260));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(options in prop::collection::vec(any::<u8>(), 0..300)) {
            Message::parse(&raw(&options));
            Message::parse(&options);
        }

        #[test]
        fn what_is_emitted_is_parsed(
            is_reply: bool, xid: u32, secs: u16, broadcast: bool, addresses: [u32; 3],
            kind in 1u8..=8,
            options in prop::collection::btree_map(
                (1u8..=254).prop_filter("taken", |c| ![52, 53].contains(c)),
                prop::collection::vec(any::<u8>(), 0..600), 0..8),
        ) {
            let [ciaddr, yiaddr, giaddr] = addresses.map(Ipv4Addr::from);
            let message = Message {
                is_reply, xid, secs, broadcast, ciaddr, yiaddr, giaddr, chaddr: VM,
                kind: MessageType::from_byte(kind).unwrap(),
                options: options.into_iter().collect(),
            };
            let bytes = message.emit();
            let sizes: usize = message.options.iter().map(|(_, v)| emitted_len(v.len())).sum();
            prop_assert_eq!(bytes.len(), (FIXED_LEN + 3 + sizes + 1).max(MIN_LEN));
            prop_assert_eq!(Message::parse(&bytes), Some(message));
        }
    }
}

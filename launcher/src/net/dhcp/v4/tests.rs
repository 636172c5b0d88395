//! The DHCPv4 server as four clients see it, and as none should.

use super::packet::tests::request;
use super::*;
use crate::net::dhcp::frame::tests::{SERVER, VM};
use crate::net::names::tests::read_names;
use proptest::prelude::*;

use MessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 9);

struct Lan {
    network: GuestNetwork,
    v4: GuestV4,
    resolver: ResolvConf,
}

impl Lan {
    /// A bridge with a /30, as `--net pod` makes it.
    fn new() -> Self {
        let v4 = GuestV4 { address: ADDRESS, prefix: 30, gateway: Some(GATEWAY), server: GATEWAY };
        let network = GuestNetwork {
            mac: VM,
            server_mac: SERVER,
            mtu: 1450,
            host_name: "vm-1".to_owned(),
            v4: Some(v4.clone()),
            v6: None,
        };
        let text = b"search a.example b.example\nnameserver 10.96.0.10\nnameserver fd00::1\n\
                     nameserver 10.96.0.11\n";
        Self { network, v4, resolver: ResolvConf::parse(text) }
    }

    /// An address that is alone in its prefix, as Calico gives it.
    fn point_to_point() -> Self {
        let mut lan = Self::new();
        lan.v4.prefix = 32;
        lan.v4.gateway = Some(Ipv4Addr::new(169, 254, 1, 1));
        lan
    }

    fn answer(&self, asked: &Message) -> Result<Answer<Message>, Refused> {
        let known = Knowledge { network: &self.network, v4: &self.v4, resolver: &self.resolver };
        answer(asked, known)
    }

    fn reply(&self, asked: &Message) -> Message {
        self.answer(asked).unwrap().reply.expect("a reply")
    }
}

fn with(kind: MessageType, options: &[(u8, &[u8])]) -> Message {
    let options = options.iter().map(|(code, value)| (*code, value.to_vec())).collect();
    Message { options, ..request(kind) }
}

fn codes(message: &Message) -> Vec<u8> {
    message.options.iter().map(|(code, _)| *code).collect()
}

/// A client's message by hand: what RFC 2131 §2 says of the fixed part, then its options.
fn hand_made(flags: [u8; 2], ciaddr: [u8; 4], options: &[&[u8]]) -> Message {
    let mut bytes = vec![1, 1, 6, 0, 0x39, 0x03, 0xf3, 0x26, 0, 1];
    bytes.extend(flags);
    bytes.extend(ciaddr);
    bytes.resize(28, 0);
    bytes.extend(VM);
    bytes.resize(236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63]);
    bytes.extend(options.concat());
    bytes.push(255);
    bytes.resize(bytes.len().max(300), 0);
    Message::parse(&bytes).expect("a message")
}

#[test]
fn an_offer_to_busybox_to_the_byte() {
    let discover = hand_made(
        [0, 0],
        [0; 4],
        &[
            &[53, 1, 1, 61, 7, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 57, 2, 2, 64],
            &[55, 7, 1, 3, 6, 12, 15, 28, 42, 60, 12],
            b"udhcp 1.36.1",
        ],
    );
    let expected: &[&[u8]] = &[
        &[2, 1, 6, 0, 0x39, 0x03, 0xf3, 0x26, 0, 0, 0, 0],
        &[0, 0, 0, 0, 10, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0; 192],
        &[0x63, 0x82, 0x53, 0x63, 53, 1, 2, 54, 4, 10, 0, 2, 1],
        &[61, 7, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56],
        // 31536000 = 1e13380h, 3600 = e10h, 27594000 = 1a50d10h seconds.
        &[51, 4, 0x01, 0xe1, 0x33, 0x80, 58, 4, 0, 0, 0x0e, 0x10, 59, 4, 0x01, 0xa5, 0x0d, 0x10],
        &[1, 4, 255, 255, 255, 252, 3, 4, 10, 0, 2, 1],
        &[6, 8, 10, 96, 0, 10, 10, 96, 0, 11, 12, 4, b'v', b'm', b'-', b'1', 15, 9],
        b"a.example\xff",
    ];
    let reply = Lan::new().reply(&discover);
    assert_eq!(reply.emit(), expected.concat());
    assert_eq!(destination(&reply), ADDRESS);
}

#[test]
fn systemd_networkd_selects() {
    let identity: &[u8] =
        &[61, 19, 255, 0xb6, 0x22, 0x0f, 0xeb, 0, 2, 0, 0, 0xab, 0x11, 1, 2, 3, 4, 5, 6, 7, 8];
    let wishes: &[u8] = &[55, 9, 1, 3, 12, 15, 6, 26, 33, 119, 121, 57, 2, 5, 0xdc, 12, 2];
    let lan = Lan::new();
    let offer = lan.reply(&hand_made([0, 0], [0; 4], &[&[53, 1, 1], identity, wishes, b"vm"]));
    assert_eq!(offer.kind, Offer);
    assert_eq!(codes(&offer), [54, 61, 51, 58, 59, 1, 3, 12, 15, 6, 26, 119]);
    assert_eq!(offer.get(61), identity.get(2..));
    assert_eq!(offer.get(26), Some(&[5, 0xaa][..]));
    assert_eq!(read_names(offer.get(119).unwrap()), ["a.example", "b.example"]);

    let select: &[u8] = &[54, 4, 10, 0, 2, 1, 50, 4, 10, 0, 2, 2];
    let asked = hand_made([0, 0], [0; 4], &[&[53, 1, 3], identity, wishes, b"vm", select]);
    let answer = lan.answer(&asked).unwrap();
    assert_eq!(answer.event, Some(LeaseEvent::Acknowledged(ADDRESS.into())));
    assert_eq!(answer.reply, Some(Message { kind: Ack, ..offer }));
}

#[test]
fn dhclient_comes_back_and_is_told_off() {
    let wishes: &[u8] = &[55, 13, 1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42];
    let reboot = |address: [u8; 4]| {
        hand_made([0, 0], [0; 4], &[&[53, 1, 3, 50, 4], &address, &[12, 2, b'v', b'm'], wishes])
    };
    let lan = Lan::new();
    let ack = lan.reply(&reboot(ADDRESS.octets()));
    assert_eq!((ack.kind, ack.yiaddr), (Ack, ADDRESS));
    assert_eq!(codes(&ack), [54, 51, 58, 59, 1, 3, 15, 6, 119, 12, 26]);

    let answer = lan.answer(&reboot(OTHER.octets())).unwrap();
    assert_eq!(answer.event, Some(LeaseEvent::Refused(OTHER.into())));
    let nak = answer.reply.unwrap();
    assert_eq!((nak.kind, nak.yiaddr, codes(&nak)), (Nak, Ipv4Addr::UNSPECIFIED, vec![54, 56]));
    assert_eq!(nak.get(56), Some(&b"the address here is 10.0.2.2"[..]));
    assert_eq!(destination(&nak), Ipv4Addr::BROADCAST);
}

#[test]
fn network_manager_renews_and_rebinds() {
    let lan = Lan::new();
    let options: &[&[u8]] = &[
        &[53, 1, 3, 61, 7, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 57, 2, 5, 0xdc],
        &[55, 8, 121, 3, 1, 26, 119, 15, 12, 6, 12, 2, b'v', b'm'],
    ];
    // Renewing and rebinding are told apart by where the frame goes: not our concern.
    let ack = lan.reply(&hand_made([0x80, 0], ADDRESS.octets(), options));
    assert_eq!((ack.kind, ack.ciaddr, ack.yiaddr), (Ack, ADDRESS, ADDRESS));
    assert!(ack.broadcast);
    assert_eq!(destination(&ack), ADDRESS, "who has an address is written to there");
    assert_eq!(codes(&ack), [54, 61, 51, 58, 59, 1, 3, 26, 119, 15, 12, 6]);
    let nak = lan.reply(&hand_made([0, 0], OTHER.octets(), options));
    assert_eq!((nak.kind, nak.ciaddr), (Nak, Ipv4Addr::UNSPECIFIED));
}

#[test]
fn a_gateway_outside_of_the_prefix() {
    let lan = Lan::point_to_point();
    let reply = lan.reply(&with(Discover, &[(55, &[1, 3, 6, 121])]));
    assert_eq!(reply.get(1), Some(&[255; 4][..]));
    assert_eq!(codes(&reply)[5..], [3, 6, 121]);
    let routes: &[u8] = &[32, 169, 254, 1, 1, 0, 0, 0, 0, 0, 169, 254, 1, 1];
    assert_eq!(reply.get(121), Some(routes));
    let plain = lan.reply(&with(Discover, &[(55, &[1, 3])]));
    assert_eq!((plain.get(121), plain.get(3)), (None, Some(&[169, 254, 1, 1][..])));
    // Who asks for nothing gets everything.
    let all = lan.reply(&with(Discover, &[]));
    assert_eq!(codes(&all)[5..], [121, 3, 6, 26, 12, 15, 119]);
}

#[test]
fn masks_and_routes_at_their_ends() {
    for (prefix, expected) in [(0, [0; 4]), (1, [128, 0, 0, 0]), (31, [255, 255, 255, 254])] {
        assert_eq!(mask(prefix).octets(), expected);
    }
    assert_eq!((mask(32).octets(), mask(255).octets()), ([255; 4], [255; 4]));
    let mut v4 = Lan::new().v4;
    for (prefix, told) in [(0, false), (24, false), (30, false), (31, true), (32, true)] {
        v4.prefix = prefix;
        assert_eq!(routes(&v4).is_some(), told, "{prefix}");
    }
    v4.gateway = None;
    assert_eq!(routes(&v4), None);
}

#[test]
fn what_is_not_known_is_not_said() {
    let mut lan = Lan::new();
    lan.resolver = ResolvConf::parse(b"nameserver fd00::1\n");
    lan.v4.gateway = None;
    for name in ["", "not_one", "two words", "$(x)"] {
        lan.network.host_name = name.to_owned();
        assert_eq!(codes(&lan.reply(&with(Discover, &[])))[4..], [1, 26], "{name}");
    }
}

#[test]
fn rapid_commit() {
    let answer = Lan::new().answer(&with(Discover, &[(80, &[])])).unwrap();
    assert_eq!(answer.event, Some(LeaseEvent::Acknowledged(ADDRESS.into())));
    let reply = answer.reply.unwrap();
    assert_eq!((reply.kind, reply.get(80)), (Ack, Some(&[][..])));
    assert_eq!(Lan::new().reply(&with(Discover, &[])).get(80), None);
}

#[test]
fn information_without_a_lease() {
    let asked = Message { ciaddr: OTHER, ..with(Inform, &[(55, &[6, 51, 119])]) };
    let answer = Lan::new().answer(&asked).unwrap();
    assert_eq!(answer.event, None);
    let reply = answer.reply.unwrap();
    assert_eq!((reply.kind, reply.ciaddr, reply.yiaddr), (Ack, OTHER, Ipv4Addr::UNSPECIFIED));
    assert_eq!(codes(&reply), [54, 1, 6, 119]);
    assert_eq!(destination(&reply), OTHER);
    let nowhere = Message { ciaddr: Ipv4Addr::UNSPECIFIED, ..reply };
    assert_eq!(destination(&nowhere), Ipv4Addr::BROADCAST);
}

#[test]
fn declined_and_released() {
    let lan = Lan::new();
    let ours = ADDRESS.octets();
    let declined = with(Decline, &[(50, &ours), (54, &GATEWAY.octets())]);
    let event = LeaseEvent::Declined(ADDRESS.into());
    assert_eq!(lan.answer(&declined), Ok(Answer::silent(event)));
    assert_eq!(lan.reply(&with(Discover, &[])).yiaddr, ADDRESS, "there is no other");
    let released = Message { ciaddr: ADDRESS, ..with(Release, &[(54, &GATEWAY.octets())]) };
    let event = LeaseEvent::Released(ADDRESS.into());
    assert_eq!(lan.answer(&released), Ok(Answer::silent(event)));
    for other in [with(Decline, &[(50, &[1; 4])]), with(Decline, &[]), with(Release, &[])] {
        assert_eq!(lan.answer(&other), Ok(Answer { reply: None, event: None }));
    }
}

#[test]
fn who_is_not_answered() {
    let lan = Lan::new();
    let refused = |asked: &Message| lan.answer(asked).unwrap_err();
    for kind in [Offer, Ack, Nak] {
        assert_eq!(refused(&request(kind)), Refused::Other);
    }
    let discover = request(Discover);
    assert_eq!(refused(&Message { is_reply: true, ..discover.clone() }), Refused::Other);
    assert_eq!(refused(&Message { chaddr: SERVER, ..discover.clone() }), Refused::Foreign);
    assert_eq!(refused(&Message { giaddr: GATEWAY, ..discover }), Refused::Foreign);
    let elsewhere = with(Request, &[(54, &OTHER.octets()), (50, &ADDRESS.octets())]);
    assert_eq!(refused(&elsewhere), Refused::Foreign);
    assert_eq!(refused(&with(Request, &[(54, &[10, 0])])), Refused::Foreign);
    assert_eq!(refused(&with(Request, &[])), Refused::Malformed);
    assert_eq!(refused(&with(Request, &[(50, &[10, 0, 2])])), Refused::Malformed);
    assert_eq!(refused(&with(Discover, &[(61, &[0; 256])])), Refused::Malformed);
}

#[test]
fn where_replies_go() {
    let lan = Lan::new();
    let asked = with(Discover, &[]);
    assert_eq!(destination(&lan.reply(&asked)), ADDRESS);
    let asked = Message { broadcast: true, ..asked };
    let reply = lan.reply(&asked);
    assert!(reply.broadcast);
    assert_eq!(destination(&reply), Ipv4Addr::BROADCAST);
}

#[test]
fn lesser_options_give_way_to_greater_ones() {
    let mut lan = Lan::point_to_point();
    let mut text: String = (0..32).map(|n| format!("nameserver 10.1.{n}.1\n")).collect();
    text += "search";
    (0..64).for_each(|n| text += &format!(" {}{n}.example", "long".repeat(8)));
    lan.resolver = ResolvConf::parse(text.as_bytes());
    let id = [7; 255];
    for (size, domains) in [(0, 0), (576, 0), (700, 0), (1000, 5), (1450, 15), (65535, 15)] {
        let size = u16::to_be_bytes(size);
        let reply = lan.reply(&with(Discover, &[(57, &size), (61, &id)]));
        let limit = usize::from(u16::from_be_bytes(size).clamp(576, 1450) - 28);
        assert!(reply.emit().len() <= limit);
        assert_eq!(codes(&reply)[..7], [54, 61, 51, 58, 59, 1, 121]);
        let found = reply.get(119).map_or(0, |list| read_names(list).len());
        assert!(found >= domains, "{limit}: {found}");
    }
    // Without the long identifier all servers fit in the least message, and no domain.
    let reply = lan.reply(&with(Discover, &[]));
    assert_eq!(reply.get(6).map(<[u8]>::len), Some(128));
    // An option of this length comes in parts.
    let reply = lan.reply(&with(Discover, &[(57, &[255, 255]), (55, &[119])]));
    assert!(reply.get(119).unwrap().len() > 255);
    assert_eq!(Message::parse(&reply.emit()), Some(reply));
}

proptest! {
    #[test]
    fn any_client_is_answered_within_bounds(
        kind in 0usize..8, addresses: [u32; 2], ours: bool, broadcast: bool,
        options in prop::collection::btree_map(
            prop::sample::select(vec![12u8, 50, 54, 55, 57, 60, 61, 80]),
            prop::collection::vec(any::<u8>(), 0..300), 0..8),
    ) {
        let kind = [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform][kind];
        let [ciaddr, _] = addresses.map(Ipv4Addr::from);
        let asked = Message {
            ciaddr: if ours { ADDRESS } else { ciaddr },
            broadcast,
            options: options.into_iter().filter(|(code, _)| *code != 54).collect(),
            ..request(kind)
        };
        let lan = Lan::point_to_point();
        if let Ok(Answer { reply: Some(reply), .. }) = lan.answer(&asked) {
            let bytes = reply.emit();
            prop_assert!(bytes.len() <= 1450 - 28);
            prop_assert_eq!(reply.xid, asked.xid);
            prop_assert_eq!(reply.get(61), asked.get(61));
            prop_assert_eq!(Message::parse(&bytes), Some(reply));
        }
    }
}

//! The DHCPv6 server as clients see it, and as none should.

use super::packet::push_option;
use super::*;
use crate::net::dhcp::frame::tests::{SERVER, VM};
use crate::net::names::tests::read_names;
use proptest::prelude::*;

const CLIENT: &[u8] = &[0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
const OURS: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
/// IAID, T1 and T2.
const IA: [u8; 12] = [0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
const ELSEWHERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2);

struct Lan {
    network: GuestNetwork,
    v6: GuestV6,
    resolver: ResolvConf,
}

impl Lan {
    fn new() -> Self {
        let v6 = GuestV6 {
            address: ADDRESS,
            prefix: 126,
            router: "fe80::1".parse().unwrap(),
            router_mac: None,
        };
        let network = GuestNetwork {
            mac: VM,
            server_mac: SERVER,
            mtu: 1450,
            host_name: "vm-1".to_owned(),
            v4: None,
            v6: Some(v6.clone()),
        };
        let text = b"search a.example\nnameserver 10.96.0.10\nnameserver fd00::53\n";
        Self { network, v6, resolver: ResolvConf::parse(text) }
    }

    fn answer(&self, asked: &Message, multicast: bool) -> Result<Answer<Message>, Refused> {
        let known = Knowledge { network: &self.network, v6: &self.v6, resolver: &self.resolver };
        answer(asked, multicast, known)
    }

    fn ask(&self, asked: &Message) -> (Message, Option<LeaseEvent>) {
        let answer = self.answer(asked, true).unwrap();
        (answer.reply.expect("a reply"), answer.event)
    }
}

fn message(kind: u8, options: &[(u16, &[u8])]) -> Message {
    let options = options.iter().map(|(code, value)| (*code, value.to_vec())).collect();
    Message { kind, transaction: [1, 2, 3], options }
}

/// An association with these addresses.
fn ia(addresses: &[Ipv6Addr]) -> Vec<u8> {
    let inner: Vec<u8> =
        addresses.iter().flat_map(|address| address_option(*address, [0; 2])).collect();
    [&IA[..], &inner].concat()
}

/// What a client that has chosen this server asks.
fn chosen(kind: u8, addresses: &[Ipv6Addr]) -> Message {
    message(kind, &[(1, CLIENT), (2, OURS), (3, &ia(addresses))])
}

fn acknowledged() -> Option<LeaseEvent> {
    Some(LeaseEvent::Acknowledged(ADDRESS.into()))
}

fn codes(message: &Message) -> Vec<u16> {
    message.options.iter().map(|(code, _)| *code).collect()
}

/// Our address in an association, as told.
fn leased() -> Vec<u8> {
    let mut value = vec![0, 0, 0, 7, 0, 0, 0x0e, 0x10, 0x01, 0x80, 0xf6, 0x00];
    value.extend([0, 5, 0, 24]);
    value.extend(ADDRESS.octets());
    value.extend([0x01, 0xe1, 0x33, 0x80, 0x01, 0xe1, 0x33, 0x80]);
    value
}

/// A status in an association, as told.
fn denied(code: u8) -> Vec<u8> {
    [&IA[..], &[0, 13, 0, 2, 0, code]].concat()
}

#[test]
fn an_advertisement_to_the_byte() {
    // As systemd-networkd asks: identity, association, wishes, elapsed time.
    let solicit: &[&[u8]] = &[
        &[1, 0xab, 0xcd, 0xef, 0, 1, 0, 10],
        CLIENT,
        &[0, 3, 0, 12],
        &IA,
        &[0, 6, 0, 4, 0, 23, 0, 24, 0, 8, 0, 2, 0, 0],
    ];
    let asked = Message::parse(&solicit.concat()).unwrap();
    let expected: &[&[u8]] = &[
        &[2, 0xab, 0xcd, 0xef, 0, 2, 0, 10],
        OURS,
        &[0, 1, 0, 10],
        CLIENT,
        &[0, 7, 0, 1, 255, 0, 3, 0, 40],
        &leased(),
        &[0, 23, 0, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53],
        &[0, 24, 0, 11, 1, b'a', 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 0],
    ];
    let (reply, event) = Lan::new().ask(&asked);
    assert_eq!(event, None);
    assert_eq!(reply.emit(), expected.concat());
}

#[test]
fn rapid_commit_and_its_absence() {
    let lan = Lan::new();
    let asked = message(kind::SOLICIT, &[(1, CLIENT), (14, &[]), (3, &IA), (6, &[])]);
    let (reply, event) = lan.ask(&asked);
    assert_eq!((reply.kind, codes(&reply)), (kind::REPLY, vec![2, 1, 14, 3]));
    assert_eq!(event, acknowledged());
    // Without an association there is nothing to commit to.
    let asked = message(kind::SOLICIT, &[(1, CLIENT), (14, &[])]);
    assert_eq!(lan.ask(&asked).1, None);
}

#[test]
fn the_life_of_a_lease() {
    let lan = Lan::new();
    for kind in [kind::REQUEST, kind::RENEW] {
        let (reply, event) = lan.ask(&chosen(kind, &[ADDRESS]));
        assert_eq!((reply.kind, event), (kind::REPLY, acknowledged()));
        assert_eq!(reply.get(3), Some(&leased()[..]));
        assert_eq!(codes(&reply), [2, 1, 3, 23, 24], "who asks for nothing gets everything");
    }
    let rebind = message(kind::REBIND, &[(1, CLIENT), (3, &ia(&[ADDRESS]))]);
    assert_eq!(lan.ask(&rebind).1, acknowledged());
    for (kind, event) in [
        (kind::RELEASE, LeaseEvent::Released(ADDRESS.into())),
        (kind::DECLINE, LeaseEvent::Declined(ADDRESS.into())),
    ] {
        let (reply, noted) = lan.ask(&chosen(kind, &[ADDRESS]));
        assert_eq!((noted, reply.get(13), reply.get(3)), (Some(event), Some(&[0, 0][..]), None));
        let (reply, noted) = lan.ask(&chosen(kind, &[NEIGHBOUR]));
        assert_eq!((noted, reply.get(3)), (None, Some(&denied(3)[..])));
    }
}

#[test]
fn addresses_of_another_time() {
    let lan = Lan::new();
    // Of our prefix, but another's: it gets ours, and has to let that one go.
    let (reply, _) = lan.ask(&chosen(kind::REQUEST, &[NEIGHBOUR]));
    assert_eq!(reply.get(3), Some(&leased()[..]));
    let (reply, event) = lan.ask(&chosen(kind::RENEW, &[NEIGHBOUR, ADDRESS]));
    let gone = [leased(), address_option(NEIGHBOUR, [0; 2])].concat();
    assert_eq!((reply.get(3), event), (Some(&gone[..]), acknowledged()));
    // Of no prefix here.
    let (reply, event) = lan.ask(&chosen(kind::REQUEST, &[ELSEWHERE]));
    assert_eq!((reply.get(3), event), (Some(&denied(4)[..]), None));

    let confirm =
        |addresses: &[Ipv6Addr]| message(kind::CONFIRM, &[(1, CLIENT), (3, &ia(addresses))]);
    for (addresses, status) in
        [(&[ADDRESS][..], 0), (&[ELSEWHERE], 4), (&[NEIGHBOUR], 4), (&[ADDRESS, ELSEWHERE], 4)]
    {
        let (reply, event) = lan.ask(&confirm(addresses));
        assert_eq!((reply.get(13), event), (Some(&[0, status][..]), None), "{addresses:?}");
    }
    assert_eq!(lan.answer(&confirm(&[]), true), Err(Refused::Other));
}

#[test]
fn one_address_and_no_prefix() {
    let second = [&[0, 0, 0, 8][..], &[0; 8]].concat();
    let asked = message(
        kind::SOLICIT,
        &[(1, CLIENT), (25, &IA), (4, &[0, 0, 0, 9]), (3, &IA), (3, &second), (6, &[0, 23])],
    );
    let (reply, _) = Lan::new().ask(&asked);
    let status = |code: u8| vec![0, 13, 0, 2, 0, code];
    let expected = [
        (25, denied(6)),
        (4, [vec![0, 0, 0, 9], status(2)].concat()),
        (3, leased()),
        (3, [second, status(2)].concat()),
        (23, "fd00::53".parse::<Ipv6Addr>().unwrap().octets().to_vec()),
    ];
    assert_eq!(reply.options[3..], expected);
}

#[test]
fn information_only() {
    let lan = Lan::new();
    let (reply, event) = lan.ask(&message(kind::INFORMATION_REQUEST, &[(6, &[0, 32, 0, 23])]));
    assert_eq!((reply.kind, codes(&reply), event), (kind::REPLY, vec![2, 32, 23], None));
    assert_eq!(reply.get(32), Some(&[0, 0, 0x0e, 0x10][..]));
    let named = message(kind::INFORMATION_REQUEST, &[(1, CLIENT), (2, OURS)]);
    assert_eq!(codes(&lan.ask(&named).0), [2, 1, 32, 23, 24]);
    let none = Lan { resolver: ResolvConf::parse(b"nameserver 10.0.0.1\n"), ..lan };
    assert_eq!(codes(&none.ask(&named).0), [2, 1, 32]);
}

#[test]
fn who_is_not_answered() {
    let lan = Lan::new();
    let refused =
        |kind, options: &[(u16, &[u8])]| lan.answer(&message(kind, options), true).unwrap_err();
    let other: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0, 2];
    for kind in [kind::SOLICIT, kind::CONFIRM, kind::REBIND] {
        assert_eq!(refused(kind, &[(3, &IA)]), Refused::Malformed, "{kind}");
        assert_eq!(refused(kind, &[(1, CLIENT), (2, OURS)]), Refused::Malformed, "{kind}");
    }
    for kind in [kind::REQUEST, kind::RENEW, kind::RELEASE, kind::DECLINE] {
        assert_eq!(refused(kind, &[(1, CLIENT), (3, &IA)]), Refused::Malformed, "{kind}");
        assert_eq!(refused(kind, &[(2, OURS), (3, &IA)]), Refused::Malformed, "{kind}");
        let elsewhere = refused(kind, &[(1, CLIENT), (2, other), (3, &IA)]);
        assert_eq!(elsewhere, Refused::Foreign, "{kind}");
    }
    assert_eq!(refused(kind::INFORMATION_REQUEST, &[(2, other)]), Refused::Foreign);
    assert_eq!(refused(kind::INFORMATION_REQUEST, &[(3, &IA)]), Refused::Malformed);
    for kind in [0, kind::ADVERTISE, kind::REPLY, 10, 12, 13, 255] {
        assert_eq!(refused(kind, &[(1, CLIENT)]), Refused::Other, "{kind}");
    }
    for duid in [&[0, 1][..], &[0; 131]] {
        assert_eq!(refused(kind::SOLICIT, &[(1, duid), (3, &IA)]), Refused::Malformed);
    }
    assert_eq!(refused(kind::SOLICIT, &[(1, CLIENT), (3, &IA[..11])]), Refused::Malformed);
}

#[test]
fn unicast_is_not_welcome() {
    let lan = Lan::new();
    for kind in [kind::REQUEST, kind::RENEW, kind::RELEASE, kind::DECLINE] {
        let answer = lan.answer(&chosen(kind, &[ADDRESS]), false).unwrap();
        assert_eq!(answer.event, None);
        let reply = answer.reply.unwrap();
        assert_eq!((codes(&reply), reply.get(13)), (vec![2, 1, 13], Some(&[0, 5][..])));
    }
    let solicit = message(kind::SOLICIT, &[(1, CLIENT), (3, &IA)]);
    assert_eq!(lan.answer(&solicit, false), Err(Refused::Other));
}

#[test]
fn replies_fit_in_a_packet() {
    let mut text = "search".to_owned();
    (0..64).for_each(|n| text += &format!(" {}{n}.example", "long".repeat(8)));
    (0..32).for_each(|n| text += &format!("\nnameserver fd00::{n}"));
    let mut lan = Lan { resolver: ResolvConf::parse(text.as_bytes()), ..Lan::new() };
    for mtu in [0, 1280, 1500, 9000] {
        lan.network.mtu = mtu;
        let many = ia(&[NEIGHBOUR; 100]);
        let mut asked = message(kind::REBIND, &[(1, &[7; 130])]);
        asked.options.resize(100, (3, many));
        let (reply, _) = lan.ask(&asked);
        let length = reply.emit().len();
        assert!(length <= usize::from(mtu.max(1280)) - 48, "{mtu}: {length}");
        let names = reply.get(24).map(read_names).unwrap_or_default();
        assert_eq!(names.len() == 64, mtu == 9000, "{mtu}: {}", names.len());
    }
}

#[test]
fn prefixes_at_their_ends() {
    let mut lan = Lan::new();
    for (prefix, near, far) in
        [(0, true, true), (64, true, false), (126, true, false), (128, false, false)]
    {
        lan.v6.prefix = prefix;
        let known = Knowledge { network: &lan.network, v6: &lan.v6, resolver: &lan.resolver };
        assert!(known.is_on_link(ADDRESS));
        let found = (known.is_on_link(NEIGHBOUR), known.is_on_link(ELSEWHERE));
        assert_eq!(found, (near, far), "{prefix}");
    }
}

proptest! {
    #[test]
    fn any_client_is_answered_within_bounds(
        kind in 0u8..14, multicast: bool,
        options in prop::collection::vec(
            (prop::sample::select(vec![1u16, 2, 3, 4, 6, 14, 25]),
             prop::collection::vec(any::<u8>(), 0..140)), 0..30),
        sane: bool,
    ) {
        let mut asked = message(kind, if sane { &[(1, CLIENT), (2, OURS)] } else { &[] });
        asked.options.extend(options);
        if let Ok(Answer { reply: Some(reply), .. }) = Lan::new().answer(&asked, multicast) {
            let bytes = reply.emit();
            prop_assert!(bytes.len() <= 1450 - 48);
            prop_assert_eq!(reply.transaction, asked.transaction);
            prop_assert_eq!(Message::parse(&bytes), Some(reply));
        }
    }
}

#[test]
fn an_option_that_is_too_long_is_left_out() {
    let mut out = Vec::new();
    push_option(&mut out, 1, &[0; 65536]);
    assert!(out.is_empty());
    push_option(&mut out, 1, &[0; 65535]);
    assert_eq!((out.len(), &out[..4]), (65539, &[0, 1, 255, 255][..]));
}

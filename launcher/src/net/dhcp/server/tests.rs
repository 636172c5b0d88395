//! The server at its frames: what a VM sees on its wire, and what it cannot do to us.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::net::dhcp::frame::tests::{
    SERVER, VM, client4, client6, opened4, opened6, solicitation,
};
use crate::net::dhcp::neighbour::{
    NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION,
};
use crate::net::dhcp::v4::packet::MessageType;
use crate::net::dhcp::v4::packet::tests::request;
use crate::net::guest::{GuestV4, GuestV6};
use proptest::prelude::*;

const ADDRESS4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const HOST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe12, 0x3456);
/// All DHCPv6 servers.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

pub fn network() -> GuestNetwork {
    let gateway = Ipv4Addr::new(10, 0, 2, 1);
    GuestNetwork {
        mac: VM,
        server_mac: SERVER,
        mtu: 1500,
        host_name: "vm".to_owned(),
        v4: Some(GuestV4 {
            address: ADDRESS4,
            prefix: 30,
            gateway: Some(gateway),
            server: gateway,
        }),
        v6: Some(GuestV6 {
            address: ADDRESS6,
            prefix: 64,
            router: ROUTER,
            router_mac: Some(SERVER),
        }),
    }
}

fn server(network: GuestNetwork) -> Server {
    Server::new(network, Arc::default(), Instant::now())
}

fn receive(server: &mut Server, frame: &[u8]) -> Option<Vec<u8>> {
    server.receive(frame, Instant::now())
}

/// Malformed, foreign and unanswered frames.
fn dropped(server: &Server) -> [u64; 3] {
    let counters = &server.counters;
    [&counters.malformed, &counters.foreign, &counters.unanswered].map(|counter| counter.get())
}

fn discover() -> Vec<u8> {
    client4(&request(MessageType::Discover).emit())
}

fn select(address: Ipv4Addr) -> Vec<u8> {
    let mut message = request(MessageType::Request);
    message.options.push((50, address.octets().to_vec()));
    client4(&message.emit())
}

fn solicit6(kind: u8) -> Vec<u8> {
    let mut message = vec![kind, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1];
    message.extend(VM);
    message.extend([0, 3, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    message
}

fn ask_router(target: Ipv6Addr) -> Vec<u8> {
    [&[0; 4][..], &target.octets()].concat()
}

/// Where an ICMPv6 frame of ours goes, its type and flags, its checksum verified by `frame`.
fn opened_neighbour(frame: &[u8]) -> ([u8; 6], Ipv6Addr, u8, u8) {
    let Ok(Packet::Neighbour { source, destination, kind, body }) = frame::parse(frame, SERVER)
    else {
        panic!("{frame:?}")
    };
    assert_eq!(source, ROUTER);
    (frame[..6].try_into().unwrap(), destination, kind, body[0])
}

#[test]
fn four_frames_to_a_lease() {
    let mut server = server(network());
    let offer = receive(&mut server, &discover()).unwrap();
    let (mac, to, message) = opened4(&offer);
    assert_eq!((mac, to), (VM, ADDRESS4));
    let message = v4::packet::Message::parse(&message).unwrap();
    assert_eq!((message.kind, message.yiaddr), (MessageType::Offer, ADDRESS4));
    assert_eq!(server.counters.lease_v4(), None);

    let now = Instant::now();
    let ack = server.receive(&select(ADDRESS4), now).unwrap();
    let (_, _, message) = opened4(&ack);
    assert_eq!(v4::packet::Message::parse(&message).unwrap().kind, MessageType::Ack);
    let lease = server.counters.lease_v4().unwrap();
    assert_eq!((lease.address, lease.acknowledged), (ADDRESS4, now));

    let (mac, to, message) = opened4(&receive(&mut server, &select(Ipv4Addr::LOCALHOST)).unwrap());
    assert_eq!((mac, to), (BROADCAST, Ipv4Addr::BROADCAST));
    assert_eq!(v4::packet::Message::parse(&message).unwrap().kind, MessageType::Nak);

    let mut release = request(MessageType::Release);
    release.ciaddr = ADDRESS4;
    assert_eq!(receive(&mut server, &client4(&release.emit())), None);
    assert_eq!(server.counters.lease_v4(), None);
    let counters = &server.counters;
    let counts = [
        &counters.discovers,
        &counters.offers,
        &counters.requests,
        &counters.acks,
        &counters.naks,
        &counters.releases,
    ];
    assert_eq!(counts.map(|counter| counter.get()), [1, 1, 2, 1, 1, 1]);
    assert_eq!(dropped(&server), [0; 3]);
}

#[test]
fn a_lease_over_ipv6() {
    let mut server = server(network());
    let frame = client6(HOST, SERVERS, &solicit6(1));
    let (mac, to, message) = opened6(&receive(&mut server, &frame).unwrap());
    assert_eq!((mac, to, message[0]), (VM, HOST, 2));
    assert_eq!(server.counters.lease_v6(), None);
    let mut request = solicit6(3);
    request.extend([0, 2, 0, 10, 0, 3, 0, 1]);
    request.extend(SERVER);
    let frame = client6(HOST, SERVERS, &request);
    assert_eq!(opened6(&receive(&mut server, &frame).unwrap()).2[0], 7);
    assert_eq!(server.counters.lease_v6().unwrap().address, ADDRESS6);
    assert_eq!(server.counters.v6_messages.get(), 2);
    assert_eq!((server.counters.v6_advertises.get(), server.counters.v6_replies.get()), (1, 1));
    request[0] = 9;
    receive(&mut server, &client6(HOST, SERVERS, &request));
    assert_eq!(server.counters.v6_declines.get(), 1);
}

#[test]
fn routers_are_found() {
    let mut server = server(network());
    let alone = opened_neighbour(&server.advertise().unwrap());
    assert_eq!(alone, (ALL_NODES_MAC, ALL_NODES, ROUTER_ADVERTISEMENT, 64));
    let asked = solicitation(HOST, ROUTERS, ROUTER_SOLICITATION, &[0; 4]);
    let answer = opened_neighbour(&receive(&mut server, &asked).unwrap());
    assert_eq!(answer, (VM, HOST, ROUTER_ADVERTISEMENT, 64));
    let asked = solicitation(Ipv6Addr::UNSPECIFIED, ROUTERS, ROUTER_SOLICITATION, &[0; 4]);
    assert_eq!(opened_neighbour(&receive(&mut server, &asked).unwrap()), alone);
    assert_eq!(server.counters.router_solicitations.get(), 2);
    assert_eq!(server.counters.router_advertisements.get(), 3);

    let mut asked = solicitation(HOST, ROUTERS, ROUTER_SOLICITATION, &[0; 4]);
    asked[21] = 254;
    assert_eq!(receive(&mut server, &asked), None, "it has come through a router");
    assert_eq!(dropped(&server), [1, 0, 0]);
}

#[test]
fn the_router_is_resolved_when_it_is_ours() {
    let mut server = server(network());
    let asked = solicitation(HOST, ROUTER, NEIGHBOUR_SOLICITATION, &ask_router(ROUTER));
    let answer = opened_neighbour(&receive(&mut server, &asked).unwrap());
    assert_eq!(answer, (VM, HOST, NEIGHBOUR_ADVERTISEMENT, 0xe0));
    let group = "ff02::1:ff00:1".parse().unwrap();
    let probe = (Ipv6Addr::UNSPECIFIED, group);
    let asked = solicitation(probe.0, probe.1, NEIGHBOUR_SOLICITATION, &ask_router(ROUTER));
    let answer = opened_neighbour(&receive(&mut server, &asked).unwrap());
    assert_eq!(answer, (ALL_NODES_MAC, ALL_NODES, NEIGHBOUR_ADVERTISEMENT, 0xa0));

    let other = solicitation(HOST, group, NEIGHBOUR_SOLICITATION, &ask_router(ADDRESS6));
    assert_eq!(receive(&mut server, &other), None);
    let mut theirs = network();
    theirs.v6.as_mut().unwrap().router_mac = None;
    let mut silent = self::server(theirs);
    let asked = solicitation(HOST, ROUTER, NEIGHBOUR_SOLICITATION, &ask_router(ROUTER));
    assert_eq!(receive(&mut silent, &asked), None);
    assert_eq!((dropped(&server), dropped(&silent)), ([0, 0, 1], [0, 0, 1]));
}

#[test]
fn name_servers_that_are_gone_are_taken_back_once() {
    let mut server = server(network());
    server.set_resolver(ResolvConf::parse(b"nameserver fd00::1\n"));
    let before = server.advertise().unwrap().len();
    server.set_resolver(ResolvConf::parse(b"nameserver fd00::2\n"));
    assert_eq!(server.advertise().unwrap().len(), before + 24);
    assert_eq!(server.advertise().unwrap().len(), before);
}

#[test]
fn a_family_that_is_not_there_says_nothing() {
    let mut bare = network();
    bare.v6 = None;
    let mut server = server(bare);
    assert_eq!(server.advertise(), None);
    for frame in [
        client6(HOST, SERVERS, &solicit6(1)),
        solicitation(HOST, ROUTERS, ROUTER_SOLICITATION, &[0; 4]),
        solicitation(HOST, ROUTER, NEIGHBOUR_SOLICITATION, &ask_router(ROUTER)),
    ] {
        assert_eq!(receive(&mut server, &frame), None);
    }
    server.network.v4 = None;
    assert_eq!(receive(&mut server, &discover()), None);
    assert_eq!(dropped(&server), [0, 0, 4]);
}

#[test]
fn nobody_else_is_answered() {
    let mut server = server(network());
    let mut spoofed = discover();
    spoofed[11] ^= 1;
    assert_eq!(receive(&mut server, &spoofed), None);
    let mut inside = request(MessageType::Discover);
    inside.chaddr = SERVER;
    assert_eq!(receive(&mut server, &client4(&inside.emit())), None);
    assert_eq!(dropped(&server), [0, 2, 0]);
}

#[test]
fn frames_cut_anywhere_are_dropped() {
    let mut server = server(network());
    let mut count = 0;
    for frame in [discover(), client6(HOST, SERVERS, &solicit6(1))] {
        for end in 0..frame.len() {
            assert_eq!(receive(&mut server, &frame[..end]), None, "{end}");
            count += 1;
        }
    }
    assert_eq!(dropped(&server), [count, 0, 0]);
}

#[test]
fn a_flood_is_answered_and_not_told_of() {
    let mut server = server(network());
    let start = Instant::now();
    let mut release = request(MessageType::Release);
    release.ciaddr = ADDRESS4;
    let (take, give) = (select(ADDRESS4), client4(&release.emit()));
    for _ in 0..5000 {
        assert!(server.receive(&take, start).is_some());
        assert!(server.receive(&give, start).is_none());
    }
    assert!(!server.log_limit.allows(start));
    assert!(server.log_limit.allows(start + Duration::from_secs(60)));
    assert_eq!(server.counters.acks.get(), 5000);
}

proptest! {
    #[test]
    fn any_frame_is_answered_within_bounds(
        kind in 0usize..6,
        tail in prop::collection::vec(any::<u8>(), 0..300),
        target in prop::sample::select(vec![ROUTER, ADDRESS6, ALL_NODES]),
    ) {
        let frame = match kind {
            0 => [&[0xff; 6][..], &VM, &tail].concat(),
            1 => client4(&tail),
            2 => {
                let mut message = request(MessageType::Discover).emit();
                message.truncate(243);
                client4(&[message, tail].concat())
            }
            3 => client6(HOST, SERVERS, &[solicit6(1), tail].concat()),
            4 => solicitation(HOST, ROUTERS, ROUTER_SOLICITATION, &[vec![0; 4], tail].concat()),
            _ => {
                let body = [ask_router(target), tail].concat();
                solicitation(HOST, ROUTER, NEIGHBOUR_SOLICITATION, &body)
            }
        };
        let mut server = server(network());
        if let Some(answer) = receive(&mut server, &frame) {
            prop_assert!(answer.len() <= 14 + 1500);
            prop_assert_eq!(&answer[6..12], &SERVER);
            prop_assert_eq!(dropped(&server), [0; 3]);
        }
    }
}

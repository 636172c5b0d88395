//! The fence around a guest: frames that it may send, and frames that it may not.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::filter::Filter;
use super::super::plan::{Mode, Plan, Step};
use super::super::statistics::Statistics;
use super::namespace::Namespace;
use super::native::{MAC, Pod, has_flower, prepare, request, undo};

/// `struct virtio_net_hdr`, the default of a tap.
const HEADER: usize = 10;
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0xbe, 0, 9];

fn frame(source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &source, &ether_type.to_be_bytes()[..], payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn ip(source: &str, protocol: u8, payload: &[u8]) -> (u16, Vec<u8>) {
    match source.parse().unwrap() {
        IpAddr::V4(source) => {
            let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let head = [&[0x45, 0], &length[..], &[0, 0, 0, 0, 64, protocol, 0, 0]].concat();
            let addresses = [source.octets(), Ipv4Addr::BROADCAST.octets()].concat();
            (0x0800, [head, addresses, payload.to_vec()].concat())
        }
        IpAddr::V6(source) => {
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let head = [&[0x60, 0, 0, 0], &length[..], &[protocol, 255]].concat();
            let all_routers: Ipv6Addr = "ff02::2".parse().unwrap();
            let addresses = [source.octets(), all_routers.octets()].concat();
            (0x86dd, [head, addresses, payload.to_vec()].concat())
        }
    }
}

fn udp(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes(), [0, 8], [0, 0]].concat()
}

fn tcp(destination: u16) -> Vec<u8> {
    [&[0x80, 0][..], &destination.to_be_bytes(), &[0; 8], &[0x50, 2, 0, 0, 0, 0, 0, 0]].concat()
}

fn icmpv6(kind: u8) -> Vec<u8> {
    [&[kind, 0, 0, 0], &[0; 20][..]].concat()
}

/// Hop-by-hop options with nothing in them, before ICMPv6.
fn behind_options(kind: u8) -> Vec<u8> {
    [&[58, 0, 1, 4, 0, 0, 0, 0], &icmpv6(kind)[..]].concat()
}

fn arp(mac: [u8; 6], sender: [u8; 4]) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 1], &mac[..], &sender, &[0; 6], &[192, 168, 254, 1]].concat()
}

/// How many packets each filter has met, by its preference and handle.
fn met(namespace: &Namespace, link: &str) -> Vec<((u16, u32), u64)> {
    let shown = namespace.run(&format!("tc -s filter show dev {link} ingress"));
    let mut met: Vec<((u16, u32), u64)> = Vec::new();
    let after = |words: &[&str], word: &str| {
        let place = words.iter().position(|found| *found == word)?;
        words.get(place + 1).map(|found| (*found).to_owned())
    };
    for line in shown.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.first() {
            Some(&"filter") if words.contains(&"handle") => {
                let preference = after(&words, "pref").unwrap().parse().unwrap();
                let handle = after(&words, "handle").unwrap();
                let handle = u32::from_str_radix(handle.trim_start_matches("0x"), 16).unwrap();
                met.push(((preference, handle), 0));
            }
            // Of several actions the last counts.
            Some(&"Sent") => {
                met.last_mut().unwrap().1 = after(&words, "bytes").unwrap().parse().unwrap();
            }
            _ => {}
        }
    }
    met
}

fn filters<'a>(plan: &'a Plan, on: &str) -> Vec<&'a Filter> {
    let of = |step: &'a Step| match step {
        Step::Filter { link, filter } if link == on => Some(filter),
        _ => None,
    };
    plan.steps.iter().filter_map(of).collect()
}

#[test]
fn a_guest_says_only_what_it_may() {
    let Some(Pod { pod, .. }) = Pod::new() else { return };
    if !has_flower() {
        return;
    }
    let (plan, applied) = prepare(&pod, &request(Mode::Pod), true).unwrap();
    let (guest4, guest6) = ("192.168.254.2", "fd62:6572:7468::2");
    let from = |mac, (ether_type, payload): (u16, Vec<u8>)| frame(mac, ether_type, &payload);
    let cases = [
        (from(MAC, ip("0.0.0.0", 17, &udp(68, 67))), "udp dport 67"),
        (from(MAC, ip("fe80::2", 17, &udp(546, 547))), "udp dport 547"),
        (from(MAC, ip("fe80::2", 58, &icmpv6(133))), "icmpv6 type 133"),
        (from(MAC, ip(guest4, 17, &udp(67, 68))), "udp sport 67"),
        (from(MAC, ip("fe80::2", 17, &udp(547, 546))), "udp sport 547"),
        (from(MAC, ip("fe80::2", 58, &icmpv6(134))), "icmpv6 type 134"),
        (from(MAC, ip("fe80::2", 0, &behind_options(134))), "icmpv6 type 134"),
        (from(MAC, ip("fe80::2", 58, &icmpv6(137))), "icmpv6 type 137"),
        (frame(MAC, 0x0806, &arp(MAC, [192, 168, 254, 2])), "sender 52:54:00:be:00:01 192.168."),
        (frame(MAC, 0x0806, &arp(MAC, [0; 4])), "sender 52:54:00:be:00:01 0.0.0.0"),
        (frame(MAC, 0x0806, &arp(MAC, [192, 168, 254, 1])), "everything"),
        (frame(MAC, 0x0806, &arp(OTHER, [192, 168, 254, 2])), "everything"),
        (from(MAC, ip(guest4, 17, &udp(1, 1))), "from 192.168.254.2/32"),
        (from(MAC, ip(guest4, 6, &tcp(80))), "from 192.168.254.2/32 tcp"),
        (from(OTHER, ip(guest4, 6, &tcp(80))), "everything"),
        (from(MAC, ip("192.168.254.3", 6, &tcp(80))), "everything"),
        (from(MAC, ip(guest4, 1, &[8; 8])), "from 192.168.254.2/32 icmp"),
        (from(MAC, ip(guest6, 6, &tcp(80))), "from fd62:6572:7468::2/128 tcp"),
        (from(MAC, ip(guest6, 58, &icmpv6(134))), "icmpv6 type 134"),
        (from(MAC, ip("192.168.254.3", 17, &udp(1, 1))), "everything"),
        (from(OTHER, ip(guest4, 17, &udp(1, 1))), "everything"),
        (from(OTHER, ip("0.0.0.0", 17, &udp(68, 67))), "everything"),
        (from(MAC, ip(guest6, 17, &udp(1, 1))), "from fd62:6572:7468::2/128"),
        (from(MAC, ip("fe80::2", 58, &icmpv6(135))), "from fe80::/10"),
        (from(MAC, ip("::", 58, &icmpv6(135))), "from ::/128"),
        (from(MAC, ip("fd00::3", 17, &udp(1, 1))), "everything"),
        (frame(MAC, 0x88b5, &[1, 2, 3]), "everything"),
        // Marked for a VLAN.
        (frame(MAC, 0x8100, &[&[0, 5, 8, 0], &ip(guest4, 17, &udp(1, 1)).1[..]].concat()), "every"),
    ];
    let mut tap = &applied.taps[0];
    let statistics = pod.inside(|| Statistics::open("berth0").unwrap());
    let at_first = statistics.read().unwrap();
    let sent = cases.each_ref().map(|(frame, _)| frame.len() as u64);
    for (frame, expected) in cases {
        let before = met(&pod, "berth0");
        tap.write_all(&[&[0; HEADER], &frame[..]].concat()).unwrap();
        let after = met(&pod, "berth0");
        let hit = after.iter().zip(&before).find(|(a, b)| a.1 > b.1).unwrap().0.0;
        let filters = filters(&plan, "berth0");
        let hit = filters
            .iter()
            .find(|filter| (filter.preference, filter.handle) == hit)
            .unwrap()
            .to_string();
        assert!(hit.contains(expected), "{frame:02x?}: {hit}, not {expected}");
    }
    let counted = statistics.read().unwrap();
    assert_eq!(counted.link.rx_packets - at_first.link.rx_packets, sent.len() as u64);
    assert_eq!(counted.link.rx_bytes - at_first.link.rx_bytes, sent.iter().sum::<u64>());
    // "Everything" else, and what is not for a guest to say.
    assert_eq!(counted.refused - at_first.refused, 16);
    // What the service is asked, and what it answers.
    let service = applied.service.as_ref().unwrap();
    for (port, place) in [(67_u16, 14 + 20 + 2), (547, 14 + 40 + 2)] {
        // The kernel itself may have said something on it before.
        while read(service).get(place..place + 2) != Some(&port.to_be_bytes()) {}
    }
    let answer = frame(OTHER, 0x88b5, b"an answer");
    let mut service = service;
    service.write_all(&answer).unwrap();
    while read(tap)[HEADER..] != answer {}
    undo(&pod, applied);
}

fn read(mut file: &File) -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    let length = file.read(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

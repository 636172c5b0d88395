//! What is around the messages: Ethernet II, IPv4 (RFC 791), IPv6 (RFC 8200), UDP (RFC 768) and
//! ICMPv6 (RFC 4443 §2.3), with their [checksums](super::checksum). No I/O.
//!
//! Frames come from a guest, unchecked. Left out: VLAN tags, fragments, and IPv6 extension headers,
//! none of which a client sends before it has an address; frames with them are refused. So is a
//! wrong checksum: the kernel has completed those that a driver left to offload, since the tap
//! that is read here offers none. The Ethernet and IPv4 destinations are not looked at: a client
//! that renews its lease sends to whatever it has resolved our address to.

use std::net::{Ipv4Addr, Ipv6Addr};

use devices::net::MacAddr;

use super::bytes::Bytes;
use super::checksum::Sum;

/// Everybody.
pub const BROADCAST: MacAddr = [0xff; 6];
/// RFC 4291 §2.7.1: all nodes.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// RFC 791 §3.1: more fragments, and the fragment offset.
const FRAGMENT: u16 = 0x3fff;
const DONT_FRAGMENT: u16 = 0x4000;
const UDP_HEADER: usize = 8;
/// RFC 2131 §4.1.
const DHCPV4_SERVER: u16 = 67;
const DHCPV4_CLIENT: u16 = 68;
/// RFC 8415 §7.2.
const DHCPV6_CLIENT: u16 = 546;
const DHCPV6_SERVER: u16 = 547;
/// RFC 4861 §4.1 to §4.4: neighbour discovery never crosses a router.
const NEIGHBOUR_HOPS: u8 = 255;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// To the DHCPv4 server's port.
    Dhcp4(&'a [u8]),
    /// To the DHCPv6 server's port, from a unicast address.
    Dhcp6 {
        /// Where the answer goes.
        source: Ipv6Addr,
        /// Whether it was sent to everybody, as most messages have to be.
        multicast: bool,
        /// The message.
        message: &'a [u8],
    },
    /// ICMPv6 with the hop limit and code of neighbour discovery.
    Neighbour {
        /// The sender; it may be unspecified.
        source: Ipv6Addr,
        /// As sent to.
        destination: Ipv6Addr,
        /// ICMPv6 type.
        kind: u8,
        /// What follows the checksum.
        body: &'a [u8],
    },
}

/// Why a frame is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// From somebody else than the VM, or to another server.
    Foreign,
    /// Broken, or in a form that is not understood.
    Malformed,
    /// Whole, but nothing that is answered here.
    Other,
}

/// Takes apart a frame that the VM, whose address is `mac`, has sent.
///
/// # Errors
/// See [`Refused`].
pub fn parse(frame: &[u8], mac: MacAddr) -> Result<Packet<'_>, Refused> {
    let mut bytes = Bytes(frame);
    let addresses: Option<(MacAddr, MacAddr)> = bytes.array().zip(bytes.array());
    let (_destination, source) = addresses.ok_or(Refused::Malformed)?;
    if source != mac {
        return Err(Refused::Foreign);
    }
    match bytes.u16() {
        Some(ETHERTYPE_IPV4) => ipv4(bytes),
        Some(ETHERTYPE_IPV6) => ipv6(bytes),
        Some(_) => Err(Refused::Other),
        None => Err(Refused::Malformed),
    }
}

fn ipv4(packet: Bytes<'_>) -> Result<Packet<'_>, Refused> {
    let (protocol, sum, payload) = ipv4_header(packet).ok_or(Refused::Malformed)?;
    if protocol != UDP {
        return Err(Refused::Other);
    }
    let (port, _, message) = udp(payload, sum).ok_or(Refused::Malformed)?;
    if port != DHCPV4_SERVER {
        return Err(Refused::Other);
    }
    Ok(Packet::Dhcp4(message))
}

/// Protocol, pseudo header without its length, payload.
fn ipv4_header(packet: Bytes<'_>) -> Option<(u8, Sum, &[u8])> {
    let mut bytes = packet;
    let version = bytes.u8()?;
    let header_len = usize::from(version & 0xf).checked_mul(4)?;
    if version >> 4 != 4 || header_len < 20 {
        return None;
    }
    let header = packet.0.get(..header_len)?;
    let _service = bytes.u8()?;
    let total = usize::from(bytes.u16()?);
    let _identification = bytes.u16()?;
    let fragment = bytes.u16()?;
    let _time_to_live = bytes.u8()?;
    let protocol = bytes.u8()?;
    let _checksum = bytes.u16()?;
    let addresses: [u8; 8] = bytes.array()?;
    if Sum::default().add(header).finish() != 0 || fragment & FRAGMENT != 0 {
        return None;
    }
    let sum = Sum::default().add(&addresses).word(u16::from(protocol));
    Some((protocol, sum, packet.0.get(header_len..total)?))
}

fn ipv6(packet: Bytes<'_>) -> Result<Packet<'_>, Refused> {
    let header = ipv6_header(packet).ok_or(Refused::Malformed)?;
    let Header6 { source, destination, next, hops, sum, payload } = header;
    if source.is_multicast() {
        return Err(Refused::Malformed);
    }
    match next {
        UDP => {
            let (port, checked, message) = udp(payload, sum).ok_or(Refused::Malformed)?;
            if port != DHCPV6_SERVER {
                return Err(Refused::Other);
            }
            // RFC 8200 §8.1: over IPv6 the checksum is not optional.
            if !checked || source.is_unspecified() {
                return Err(Refused::Malformed);
            }
            Ok(Packet::Dhcp6 { source, multicast: destination.is_multicast(), message })
        }
        ICMPV6 => {
            // RFC 4861 §6.1.1 and §7.1.1.
            let length = u16::try_from(payload.len()).map_err(|_| Refused::Malformed)?;
            let whole = sum.word(length).add(payload).finish() == 0;
            let mut bytes = Bytes(payload);
            match bytes.array() {
                Some([kind, 0, _, _]) if whole && hops == NEIGHBOUR_HOPS => {
                    Ok(Packet::Neighbour { source, destination, kind, body: bytes.0 })
                }
                _ => Err(Refused::Malformed),
            }
        }
        _ => Err(Refused::Other),
    }
}

struct Header6<'a> {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next: u8,
    hops: u8,
    /// Pseudo header without its length.
    sum: Sum,
    payload: &'a [u8],
}

fn ipv6_header(mut bytes: Bytes<'_>) -> Option<Header6<'_>> {
    let [version, _, _, _] = bytes.array()?;
    if version >> 4 != 6 {
        return None;
    }
    let length = usize::from(bytes.u16()?);
    let (next, hops) = (bytes.u8()?, bytes.u8()?);
    let (source, destination): ([u8; 16], [u8; 16]) = (bytes.array()?, bytes.array()?);
    let sum = Sum::default().add(&source).add(&destination).word(u16::from(next));
    let (source, destination) = (source.into(), destination.into());
    Some(Header6 { source, destination, next, hops, sum, payload: bytes.take(length)? })
}

/// Destination port, whether there is a checksum (a wrong one is none of the answers), data.
fn udp(payload: &[u8], pseudo: Sum) -> Option<(u16, bool, &[u8])> {
    let mut bytes = Bytes(payload);
    let _source = bytes.u16()?;
    let port = bytes.u16()?;
    let length = bytes.u16()?;
    let checked = bytes.u16()? != 0;
    let datagram = payload.get(..usize::from(length))?;
    if checked && pseudo.word(length).add(datagram).finish() != 0 {
        return None;
    }
    Some((port, checked, datagram.get(UDP_HEADER..)?))
}

/// Where a frame goes, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Hardware address of the sender.
    pub source: MacAddr,
    /// Hardware address of the receiver.
    pub destination: MacAddr,
}

impl Link {
    fn header(self, ethertype: u16, payload: usize) -> Vec<u8> {
        let mut frame = Vec::with_capacity(payload.saturating_add(14));
        frame.extend(self.destination);
        frame.extend(self.source);
        frame.extend(ethertype.to_be_bytes());
        frame
    }
}

/// RFC 2464 §7: the hardware address of an IPv6 multicast group.
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// A frame with a message to the DHCPv4 client. `None`: the message is too large for any.
pub fn dhcp4(
    link: Link,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    message: &[u8],
) -> Option<Vec<u8>> {
    let addresses = [source.octets(), destination.octets()].concat();
    let sum = Sum::default().add(&addresses).word(u16::from(UDP));
    let datagram = udp_datagram([DHCPV4_SERVER, DHCPV4_CLIENT], sum, message)?;
    let total = u16::try_from(datagram.len().checked_add(20)?).ok()?;
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0]);
    header.extend(DONT_FRAGMENT.to_be_bytes());
    header.extend([64, UDP]);
    let checksum = Sum::default().add(&header).add(&addresses).finish();
    header.extend(checksum.to_be_bytes());
    header.extend(addresses);
    let mut frame = link.header(ETHERTYPE_IPV4, usize::from(total));
    frame.extend(header);
    frame.extend(datagram);
    Some(frame)
}

/// A frame with a message to the DHCPv6 client. `None`: the message is too large for any.
pub fn dhcp6(
    link: Link,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &[u8],
) -> Option<Vec<u8>> {
    let addresses = [source.octets(), destination.octets()].concat();
    let sum = Sum::default().add(&addresses).word(u16::from(UDP));
    let datagram = udp_datagram([DHCPV6_SERVER, DHCPV6_CLIENT], sum, message)?;
    ipv6_frame(link, &addresses, (UDP, 64), &datagram)
}

/// A frame with a message of neighbour discovery: `kind`, and what follows the checksum.
/// `None`: the message is too large for any.
pub fn neighbour(
    link: Link,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
    body: &[u8],
) -> Option<Vec<u8>> {
    let addresses = [source.octets(), destination.octets()].concat();
    let length = u16::try_from(body.len().checked_add(4)?).ok()?;
    let sum = Sum::default().add(&addresses).word(u16::from(ICMPV6)).word(length);
    let checksum = sum.add(&[kind, 0]).add(body).finish();
    let mut message = vec![kind, 0];
    message.extend(checksum.to_be_bytes());
    message.extend(body);
    ipv6_frame(link, &addresses, (ICMPV6, NEIGHBOUR_HOPS), &message)
}

fn ipv6_frame(
    link: Link,
    addresses: &[u8],
    (next, hops): (u8, u8),
    payload: &[u8],
) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok()?;
    let mut frame = link.header(ETHERTYPE_IPV6, payload.len().saturating_add(40));
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([next, hops]);
    frame.extend(addresses);
    frame.extend(payload);
    Some(frame)
}

fn udp_datagram([from, to]: [u16; 2], pseudo: Sum, data: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(data.len().checked_add(UDP_HEADER)?).ok()?;
    let sum = pseudo.word(length).word(from).word(to).word(length).add(data);
    // RFC 768: zero would say that there is none.
    let checksum = match sum.finish() {
        0 => 0xffff,
        sum => sum,
    };
    let mut datagram = Vec::with_capacity(usize::from(length));
    for word in [from, to, length, checksum] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend(data);
    Some(datagram)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    pub const VM: MacAddr = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    pub const SERVER: MacAddr = [0x02, 0, 0, 0, 0, 1];
    const TO_SERVER: Link = Link { source: VM, destination: BROADCAST };

    /// As a client would send it.
    pub fn client4(message: &[u8]) -> Vec<u8> {
        swap_ports(
            dhcp4(TO_SERVER, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, message).unwrap(),
            34,
        )
    }

    /// As a client would send it.
    pub fn client6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
        swap_ports(dhcp6(TO_SERVER, source, destination, message).unwrap(), 54)
    }

    /// As a host would send it.
    pub fn solicitation(source: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
        neighbour(TO_SERVER, source, to, kind, body).unwrap()
    }

    /// Checksums stay right: the sum does not know the order.
    fn swap_ports(mut frame: Vec<u8>, at: usize) -> Vec<u8> {
        frame[at..at + 4].rotate_left(2);
        frame
    }

    /// The message in a frame of ours, and where it goes, its checksums verified.
    pub fn opened4(frame: &[u8]) -> (MacAddr, Ipv4Addr, Vec<u8>) {
        assert_eq!(frame[6..12], SERVER);
        let swapped = swap_ports(frame.to_vec(), 34);
        let Ok(Packet::Dhcp4(message)) = parse(&swapped, SERVER) else { panic!("{frame:?}") };
        let to: [u8; 4] = frame[30..34].try_into().unwrap();
        (frame[..6].try_into().unwrap(), to.into(), message.to_vec())
    }

    /// The same for DHCPv6.
    pub fn opened6(frame: &[u8]) -> (MacAddr, Ipv6Addr, Vec<u8>) {
        assert_eq!(frame[6..12], SERVER);
        let swapped = swap_ports(frame.to_vec(), 54);
        let Ok(Packet::Dhcp6 { message, .. }) = parse(&swapped, SERVER) else {
            panic!("{frame:?}")
        };
        let to: [u8; 16] = frame[38..54].try_into().unwrap();
        (frame[..6].try_into().unwrap(), to.into(), message.to_vec())
    }

    #[test]
    fn an_ipv4_frame_to_the_byte() {
        let link = Link { source: SERVER, destination: VM };
        let (from, to) = (Ipv4Addr::new(10, 0, 2, 1), Ipv4Addr::new(10, 0, 2, 2));
        let frame = dhcp4(link, from, to, b"abc").unwrap();
        let expected: &[u8] = &[
            0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x22, 0xcc, 10, 0, 2, 1, 10, 0, 2,
            2, // IPv4
            // 0a00+0201+0a00+0202 + 0011+000b + 0043+0044+000b + 6162+6300 = dd13
            0, 67, 0, 68, 0, 11, 0x22, 0xec, b'a', b'b', b'c',
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn only_the_vm_is_heard() {
        let frame = client4(b"x");
        assert_eq!(parse(&frame, VM), Ok(Packet::Dhcp4(b"x")));
        assert_eq!(parse(&frame, SERVER), Err(Refused::Foreign));
    }

    #[test]
    fn frames_cut_anywhere_are_refused() {
        let link_local = "fe80::1".parse().unwrap();
        for frame in [
            client4(b"some message"),
            client6(link_local, ALL_NODES, b"some message"),
            solicitation(link_local, ALL_NODES, 133, &[0; 4]),
        ] {
            assert!(parse(&frame, VM).is_ok());
            for end in 0..frame.len() {
                assert_eq!(parse(&frame[..end], VM), Err(Refused::Malformed), "{end}");
            }
            // Ethernet pads what is short.
            let padded = [frame.clone(), vec![0; 30]].concat();
            assert_eq!(parse(&padded, VM), parse(&frame, VM));
        }
    }

    #[test]
    fn every_single_wrong_bit_is_seen() {
        let link_local = "fe80::1".parse().unwrap();
        for (frame, unsummed) in [
            (client4(b"some message"), 14..14),
            // Traffic class, flow label and hop limit of UDP have no checksum.
            (client6(link_local, ALL_NODES, b"some message"), 14..22),
            (solicitation(link_local, ALL_NODES, 133, &[0; 4]), 14..18),
        ] {
            let whole = parse(&frame, VM).unwrap();
            for bit in 12 * 8..frame.len() * 8 {
                let mut wrong = frame.clone();
                wrong[bit / 8] ^= 0x80 >> (bit % 8);
                let harmless = unsummed.contains(&(bit / 8)) && parse(&wrong, VM) == Ok(whole);
                assert!(parse(&wrong, VM).is_err() || harmless, "bit {bit}");
            }
        }
    }

    #[test]
    fn fragments_are_refused_and_a_missing_checksum_is_not() {
        let fix = |mut frame: Vec<u8>| {
            frame[24..26].fill(0);
            let sum = Sum::default().add(&frame[14..34]).finish();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        for fragment in [0x2000u16, 1, 0x1fff] {
            let mut frame = client4(b"x");
            frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            assert_eq!(parse(&fix(frame), VM), Err(Refused::Malformed));
        }
        let mut frame = client4(b"x");
        frame[40..42].fill(0);
        assert_eq!(parse(&frame, VM), Ok(Packet::Dhcp4(b"x")));
        let mut frame = client6("fe80::1".parse().unwrap(), ALL_NODES, b"x");
        frame[60..62].fill(0);
        assert_eq!(parse(&frame, VM), Err(Refused::Malformed));
    }

    #[test]
    fn other_traffic_is_somebody_elses() {
        let mut arp = client4(b"x");
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(parse(&arp, VM), Err(Refused::Other));
        let back = dhcp4(TO_SERVER, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"x").unwrap();
        assert_eq!(parse(&back, VM), Err(Refused::Other));
        let odd = solicitation(ALL_NODES, ALL_NODES, 133, &[0; 4]);
        assert_eq!(parse(&odd, VM), Err(Refused::Malformed));
    }

    #[test]
    fn messages_that_no_packet_holds_make_no_frame() {
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        let huge = vec![0; 65_528];
        assert_eq!(dhcp4(TO_SERVER, v4, v4, &huge), None);
        assert_eq!(dhcp6(TO_SERVER, v6, v6, &huge), None);
        assert!(dhcp6(TO_SERVER, v6, v6, &huge[..65_527]).is_some());
        assert_eq!(neighbour(TO_SERVER, v6, v6, 134, &[0; 65_532]), None);
    }

    proptest! {
        #[test]
        fn any_frame_is_judged(tail in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
            let mut frame = [BROADCAST, VM].concat();
            frame.extend([&[8, 0, 0x45][..], &[0x86, 0xdd, 0x60], &[]][kind as usize]);
            frame.extend(tail);
            let _ = parse(&frame, VM);
        }

        #[test]
        fn messages_pass_unchanged(message in prop::collection::vec(any::<u8>(), 0..600)) {
            let frame = client4(&message);
            prop_assert_eq!(parse(&frame, VM), Ok(Packet::Dhcp4(&message)));
            let source = "fe80::5054:ff:fe12:3456".parse().unwrap();
            let frame = client6(source, ALL_NODES, &message);
            let expected = Packet::Dhcp6 { source, multicast: true, message: &message };
            prop_assert_eq!(parse(&frame, VM), Ok(expected));
        }
    }
}

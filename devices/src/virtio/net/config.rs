//! Features and device configuration of a network device (VIRTIO 1.3 §5.1.3, §5.1.4).
//!
//! ```text
//! 0 mac (6)   6 status (2)   8 most queue pairs (2)   10 mtu (2)
//! ```

use crate::net::{HEADER_LEN, MAX_FRAME, MacAddr, Offloads};
use crate::virtio::RING_FEATURES;

/// The device takes partial checksums.
pub const F_CSUM: u64 = 1 << 0;
/// The driver takes partial checksums.
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// `mtu` is valid.
pub const F_MTU: u64 = 1 << 3;
/// `mac` is valid.
pub const F_MAC: u64 = 1 << 5;
/// The driver takes unsegmented TCP over IPv4.
pub const F_GUEST_TSO4: u64 = 1 << 7;
/// The driver takes unsegmented TCP over IPv6.
pub const F_GUEST_TSO6: u64 = 1 << 8;
/// The driver takes unsegmented TCP with ECN.
pub const F_GUEST_ECN: u64 = 1 << 9;
/// The device takes unsegmented TCP over IPv4.
pub const F_HOST_TSO4: u64 = 1 << 11;
/// The device takes unsegmented TCP over IPv6.
pub const F_HOST_TSO6: u64 = 1 << 12;
/// The device takes unsegmented TCP with ECN.
pub const F_HOST_ECN: u64 = 1 << 13;
/// A frame may take several receive buffers.
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// `status` is valid.
pub const F_STATUS: u64 = 1 << 16;
/// There is a control queue.
pub const F_CTRL_VQ: u64 = 1 << 17;
/// Receive modes can be set.
pub const F_CTRL_RX: u64 = 1 << 18;
/// Several queue pairs.
pub const F_MQ: u64 = 1 << 22;
/// The MAC address can be set.
pub const F_CTRL_MAC_ADDR: u64 = 1 << 23;
/// The driver takes unsegmented UDP over IPv4.
pub const F_GUEST_USO4: u64 = 1 << 54;
/// The driver takes unsegmented UDP over IPv6.
pub const F_GUEST_USO6: u64 = 1 << 55;
/// The device takes unsegmented UDP.
pub const F_HOST_USO: u64 = 1 << 56;

/// `status`: the cable is plugged in.
const S_LINK_UP: u16 = 1;
/// What a driver may expect of an interface that says nothing: jumbo frames.
const UNKNOWN_MTU: u16 = 9216;
/// Ethernet header, and a VLAN tag.
const ETHERNET_LEN: usize = 18;

/// What is offered.
pub fn features(pairs: usize, mtu: Option<u16>, uso: bool) -> u64 {
    let mut features = RING_FEATURES
        | F_CSUM
        | F_GUEST_CSUM
        | F_MAC
        | F_GUEST_TSO4
        | F_GUEST_TSO6
        | F_GUEST_ECN
        | F_HOST_TSO4
        | F_HOST_TSO6
        | F_HOST_ECN
        | F_MRG_RXBUF
        | F_STATUS
        | F_CTRL_VQ
        | F_CTRL_RX
        | F_CTRL_MAC_ADDR;
    if mtu.is_some() {
        features |= F_MTU;
    }
    if pairs > 1 {
        features |= F_MQ;
    }
    if uso {
        features |= F_GUEST_USO4 | F_GUEST_USO6 | F_HOST_USO;
    }
    features
}

/// The configuration space.
pub fn bytes(mac: MacAddr, pairs: usize, mtu: Option<u16>) -> [u8; 12] {
    let mut config = [0; 12];
    config[..6].copy_from_slice(&mac);
    config[6..8].copy_from_slice(&S_LINK_UP.to_le_bytes());
    config[8..10].copy_from_slice(&(pairs as u16).to_le_bytes());
    config[10..].copy_from_slice(&mtu.unwrap_or_default().to_le_bytes());
    config
}

/// What the driver has agreed to receive. Each needs GUEST_CSUM (§5.1.3.1), and ECN needs TSO.
pub fn guest_offloads(features: u64) -> Offloads {
    let has = |bits| features & (bits | F_GUEST_CSUM) == bits | F_GUEST_CSUM;
    let tso = has(F_GUEST_TSO4) || has(F_GUEST_TSO6);
    Offloads {
        csum: has(0),
        tso4: has(F_GUEST_TSO4),
        tso6: has(F_GUEST_TSO6),
        ecn: tso && has(F_GUEST_ECN),
        uso: has(F_GUEST_USO4 | F_GUEST_USO6),
    }
}

/// The largest frame to make room for, header included.
pub fn largest_frame(features: u64, mtu: Option<u16>) -> usize {
    let offloads = guest_offloads(features);
    if offloads.tso4 || offloads.tso6 || offloads.uso {
        MAX_FRAME
    } else {
        HEADER_LEN + ETHERNET_LEN + usize::from(mtu.unwrap_or(UNKNOWN_MTU))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_as_specified() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        assert_eq!(bytes(mac, 4, Some(1450)), [0x52, 0x54, 0, 1, 2, 3, 1, 0, 4, 0, 0xaa, 5]);
    }

    #[test]
    fn offloads_depend_on_each_other() {
        let none = Offloads::default();
        assert_eq!(guest_offloads(F_GUEST_TSO4 | F_GUEST_USO4 | F_GUEST_USO6), none);
        assert_eq!(
            guest_offloads(F_GUEST_CSUM | F_GUEST_ECN | F_GUEST_USO4),
            Offloads { csum: true, ..none }
        );
        let tso4 = guest_offloads(F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_ECN);
        assert_eq!(tso4, Offloads { csum: true, tso4: true, ecn: true, ..none });
        assert_eq!(largest_frame(0, Some(1500)), 1530);
        assert_eq!(largest_frame(F_GUEST_CSUM | F_GUEST_TSO6, Some(1500)), MAX_FRAME);
    }
}

//! The configuration service at a hostile VM's frames: at most one answer each, that goes in a
//! packet of its own, and no panic. An input is a `resolv.conf` and a run of frames, each behind its
//! length.
#![no_main]

// The launcher is a program, not a library: these modules of it stand alone.
#[path = "../../../launcher/src/net"]
#[allow(dead_code)]
mod net {
    pub mod dhcp;
    pub mod guest;
    pub mod names;
    pub mod resolv;
}

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use net::dhcp::server::Server;
use net::guest::{GuestNetwork, GuestV4, GuestV6};
use net::resolv::ResolvConf;

const VM: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const MTU: u16 = 1500;

fn network() -> GuestNetwork {
    GuestNetwork {
        mac: VM,
        server_mac: [2, 0, 0, 0, 0, 1],
        mtu: MTU,
        host_name: "vm".to_owned(),
        v4: Some(GuestV4 {
            address: Ipv4Addr::new(10, 0, 2, 2),
            prefix: 32,
            gateway: Some(Ipv4Addr::new(169, 254, 1, 1)),
            server: Ipv4Addr::new(10, 0, 2, 1),
        }),
        v6: Some(GuestV6 {
            address: "fd00::2".parse().expect("an address"),
            prefix: 64,
            router: "fe80::1".parse().expect("an address"),
            router_mac: Some([2, 0, 0, 0, 0, 1]),
        }),
    }
}

/// What the checksums of a frame should be is not for the fuzzer to find out: they are put right,
/// where there is room for them.
fn summed(frame: &mut [u8]) {
    let (udp, pseudo) = match frame.get(12..15) {
        Some([8, 0, 0x45]) if frame.len() >= 42 => {
            put(frame, 24, sum(&frame[14..34], 0));
            let length = u16::from_be_bytes([frame[38], frame[39]]);
            (34, 17 + u32::from(length))
        }
        Some([0x86, 0xdd, _]) if frame.len() >= 62 => {
            let length = u16::from_be_bytes([frame[18], frame[19]]);
            (54, u32::from(frame[20]) + u32::from(length))
        }
        _ => return,
    };
    let is_icmp = udp == 54 && frame[20] == 58;
    let (addresses, at) = match (udp, is_icmp) {
        (34, _) => (26, 40),
        (_, true) => (22, 56),
        _ => (22, 60),
    };
    put(frame, at, sum(&frame[addresses..], pseudo));
}

/// Puts a checksum at `at`, which is computed over zeros there.
fn put(frame: &mut [u8], at: usize, over: u16) {
    let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
    // Ones' complement: take out what was there, by adding its complement.
    let new = fold(u32::from(over) + u32::from(!old));
    frame[at..at + 2].copy_from_slice(&(!new).to_be_bytes());
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        _ => u32::from(pair[0]) << 8,
    });
    fold(words.fold(start, u32::wrapping_add))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The next part of an input.
fn next<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (part, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
    *rest = after;
    Some(part)
}

fuzz_target!(|data: &[u8]| {
    let now = Instant::now();
    let mut server = Server::new(network(), Arc::default(), now);
    let mut rest = data;
    server.set_resolver(ResolvConf::parse(next(&mut rest).unwrap_or_default()));
    while let Some(frame) = next(&mut rest) {
        let mut frame = frame.to_vec();
        if let Some(source) = frame.get_mut(6..12) {
            source.copy_from_slice(&VM);
        }
        summed(&mut frame);
        if let Some(answer) = server.receive(&frame, now) {
            assert!(answer.len() <= 14 + usize::from(MTU));
        }
    }
    let _ = server.advertise();
});

//! The DHCPv6 message between client and server, both ways: RFC 8415 §8 and §21. No I/O.
//!
//! Options are kept as they come, duplicates too; of one that may occur once, the first counts.

use std::net::Ipv6Addr;

use crate::net::dhcp::bytes::Bytes;

/// RFC 8415 §7.3: message types.
pub mod kind {
    #![allow(missing_docs)] // Named as there.
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const INFORMATION_REQUEST: u8 = 11;
}

/// Option codes.
pub mod code {
    /// RFC 8415 §21.2.
    pub const CLIENT_ID: u16 = 1;
    /// §21.3.
    pub const SERVER_ID: u16 = 2;
    /// §21.4.
    pub const IA_NA: u16 = 3;
    /// §21.5.
    pub const IA_TA: u16 = 4;
    /// §21.6.
    pub const IA_ADDRESS: u16 = 5;
    /// §21.7.
    pub const OPTION_REQUEST: u16 = 6;
    /// §21.8.
    pub const PREFERENCE: u16 = 7;
    /// §21.13.
    pub const STATUS: u16 = 13;
    /// §21.14.
    pub const RAPID_COMMIT: u16 = 14;
    /// RFC 3646 §3.
    pub const NAME_SERVERS: u16 = 23;
    /// RFC 3646 §4.
    pub const DOMAIN_SEARCH: u16 = 24;
    /// RFC 8415 §21.21.
    pub const IA_PD: u16 = 25;
    /// §21.23.
    pub const INFORMATION_REFRESH_TIME: u16 = 32;
}

/// RFC 8415 §21.13: status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Success = 0,
    /// NoAddrsAvail.
    NoAddresses = 2,
    /// NoBinding.
    NoBinding = 3,
    /// NotOnLink.
    NotOnLink = 4,
    /// UseMulticast.
    UseMulticast = 5,
    /// NoPrefixAvail.
    NoPrefix = 6,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// One of [`kind`], or unknown.
    pub kind: u8,
    /// Transaction.
    pub transaction: [u8; 3],
    /// Code and value, in order; a value has at most 65535 bytes.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Message {
    /// Reads a message. `None`: it is none.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(message);
        let kind = bytes.u8()?;
        let transaction = bytes.array()?;
        Some(Self { kind, transaction, options: parse_options(bytes)? })
    }

    /// Writes it.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = vec![self.kind];
        out.extend(self.transaction);
        for (code, value) in &self.options {
            push_option(&mut out, *code, value);
        }
        out
    }

    /// An option.
    pub fn get(&self, code: u16) -> Option<&[u8]> {
        self.options.iter().find(|(known, _)| *known == code).map(|(_, value)| value.as_slice())
    }
}

/// Appends an option. What would not fit in one is left out: the callers' limits are far below.
pub fn push_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    out.extend(code.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(value);
}

fn parse_options(mut bytes: Bytes<'_>) -> Option<Vec<(u16, Vec<u8>)>> {
    let mut options = Vec::new();
    while !bytes.is_empty() {
        let code = bytes.u16()?;
        let length = usize::from(bytes.u16()?);
        options.push((code, bytes.take(length)?.to_vec()));
    }
    Some(options)
}

/// An identity association in a request: §21.4, §21.5, §21.21.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// IA_NA, IA_TA or IA_PD.
    pub code: u16,
    /// Which one of the client's.
    pub iaid: [u8; 4],
    /// The addresses in it; none for IA_PD.
    pub addresses: Vec<Ipv6Addr>,
}

impl Association {
    /// Reads the value of an option of `code`; `None`: it is broken. For other options there is
    /// nothing to be asked: do not.
    pub fn parse(code: u16, value: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(value);
        let iaid = bytes.array()?;
        if code != code::IA_TA {
            let _times: [u8; 8] = bytes.array()?;
        }
        let mut addresses = Vec::new();
        for (inner, value) in parse_options(bytes)? {
            if inner == code::IA_ADDRESS {
                let mut bytes = Bytes(&value);
                addresses.push(bytes.array::<16>()?.into());
                let _lifetimes: [u8; 8] = bytes.array()?;
                parse_options(bytes)?;
            }
        }
        Some(Self { code, iaid, addresses })
    }

    /// An option in answer to this one: `times` are T1 and T2 in seconds, `options` what is in it.
    pub fn answer(&self, times: [u32; 2], options: &[u8]) -> (u16, Vec<u8>) {
        let mut value = self.iaid.to_vec();
        if self.code != code::IA_TA {
            value.extend(times.into_iter().flat_map(u32::to_be_bytes));
        }
        value.extend(options);
        (self.code, value)
    }
}

/// An address option with its preferred and valid lifetimes, in seconds.
pub fn address_option(address: Ipv6Addr, lifetimes: [u32; 2]) -> Vec<u8> {
    let mut value = address.octets().to_vec();
    value.extend(lifetimes.into_iter().flat_map(u32::to_be_bytes));
    let mut out = Vec::new();
    push_option(&mut out, code::IA_ADDRESS, &value);
    out
}

/// A status option's value, without a text for people.
pub fn status(status: Status) -> Vec<u8> {
    (status as u16).to_be_bytes().to_vec()
}

/// A status option.
pub fn status_option(value: Status) -> Vec<u8> {
    let mut out = Vec::new();
    push_option(&mut out, code::STATUS, &status(value));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_to_the_byte() {
        let address: Ipv6Addr = "fd00::2".parse().unwrap();
        let asked = Association { code: code::IA_NA, iaid: [0, 0, 0, 7], addresses: vec![] };
        let message = Message {
            kind: kind::REPLY,
            transaction: [0xab, 0xcd, 0xef],
            options: vec![asked.answer([100, 200], &address_option(address, [300, 400]))],
        };
        let bytes: &[u8] = &[
            7, 0xab, 0xcd, 0xef, // Reply
            0, 3, 0, 40, 0, 0, 0, 7, 0, 0, 0, 100, 0, 0, 0, 200, // IA_NA
            0, 5, 0, 24, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // address
            0, 0, 1, 44, 0, 0, 1, 0x90, // lifetimes
        ];
        assert_eq!(message.emit(), bytes);
        assert_eq!(Message::parse(bytes).unwrap(), message);
        let read = Association::parse(code::IA_NA, &bytes[8..]).unwrap();
        assert_eq!(read, Association { addresses: vec![address], ..asked });
        for end in 0..bytes.len() {
            // Without options there is a message, too.
            assert_eq!(Message::parse(&bytes[..end]).is_some(), end == 4, "{end}");
            let association =
                Association::parse(code::IA_NA, bytes[..end].get(8..).unwrap_or_default());
            assert_eq!(association.is_some(), end == 20, "{end}");
        }
    }

    #[test]
    fn options_in_options_have_bounds_too() {
        // The address option says that it is longer than what holds it.
        let overrun = [0, 0, 0, 7, 0, 5, 0, 25, 1, 2];
        assert_eq!(Association::parse(code::IA_TA, &overrun), None);
        assert_eq!(Association::parse(code::IA_TA, &[0, 0, 0, 7, 0, 5, 0, 2, 1, 2]), None);
        let mut address = address_option(Ipv6Addr::LOCALHOST, [0; 2]);
        address.push(0);
        address[3] += 1;
        assert_eq!(Association::parse(code::IA_TA, &[&[0; 4][..], &address].concat()), None);
        assert_eq!(status_option(Status::NoPrefix), [0, 13, 0, 2, 0, 6]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Message::parse(&bytes);
            for code in [code::IA_NA, code::IA_TA, code::IA_PD] {
                Association::parse(code, &bytes);
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            kind: u8, transaction: [u8; 3],
            options in prop::collection::vec(
                (any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
        ) {
            let message = Message { kind, transaction, options };
            prop_assert_eq!(Message::parse(&message.emit()), Some(message));
        }
    }
}

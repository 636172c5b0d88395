//! The checksum of IPv4, UDP and ICMPv6 (RFC 1071).

/// RFC 1071: sixteen-bit words, added up in ones' complement. The sum of 2³² words has room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// With one word more.
    pub fn word(self, word: u16) -> Self {
        Self(self.0.wrapping_add(u64::from(word)))
    }

    /// With the words of `bytes`; an odd byte at the end counts as if a zero followed.
    pub fn add(self, bytes: &[u8]) -> Self {
        bytes.chunks(2).fold(self, |sum, pair| match *pair {
            [high, low] => sum.word(u16::from_be_bytes([high, low])),
            [high] => sum.word(u16::from_be_bytes([high, 0])),
            _ => sum,
        })
    }

    /// The checksum; zero over data that hold a right one.
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 §3: the numeric example.
    #[test]
    fn the_checksum_of_the_rfc() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
        assert_eq!(Sum::default().add(&[0xab]).finish(), !0xab00);
    }
}

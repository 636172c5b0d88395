//! What a client speaks, by the first byte it says.

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// RFB, in which the server speaks first: so whoever is silent speaks it, too.
    Rfb,
    /// A request: its method comes first, in capital letters (RFC 9110 §9).
    Http,
    /// A TLS record with a handshake (RFC 8446 §5.1).
    Tls,
}

impl Speech {
    /// By what has come; `None`: nothing has.
    pub fn of(first: &[u8]) -> Option<Speech> {
        Some(match first.first()? {
            0x16 => Speech::Tls,
            // "RFB 003.008": no method begins like this.
            b'R' => Speech::Rfb,
            b'A'..=b'Z' => Speech::Http,
            _ => Speech::Rfb,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells() {
        for (first, want) in [
            (&b""[..], None),
            (b"RFB 003.008\n", Some(Speech::Rfb)),
            (b"G", Some(Speech::Http)),
            (b"HEAD / HTTP/1.1", Some(Speech::Http)),
            (b"OPTIONS", Some(Speech::Http)),
            (b"\x16\x03\x01", Some(Speech::Tls)),
            (b"get /", Some(Speech::Rfb)),
            (b"\0", Some(Speech::Rfb)),
        ] {
            assert_eq!(Speech::of(first), want, "{first:?}");
        }
    }
}

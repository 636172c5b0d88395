//! The netlink wire format: messages of attributes, built and read; no I/O.
//!
//! One codec serves links, addresses, routes, traffic control and nftables alike: all of them are
//! a fixed header with type-length-value attributes behind it, padded to four bytes, in the host's
//! byte order except where a payload says otherwise. See the kernel's
//! `Documentation/userspace-api/netlink/intro.rst` and `linux/netlink.h`.
//!
//! ```text
//! nlmsghdr   len:u32 type:u16 flags:u16 sequence:u32 port:u32
//! nlattr     len:u16 type:u16 payload padding
//! ```

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_EXCL`, `NLM_F_CREATE`, `NLM_F_APPEND`.
pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;
/// Flags of an answer: the dump changed under way; attributes follow in an error.
pub const DUMP_INTERRUPTED: u16 = 0x10;
pub const ACK_ATTRIBUTES: u16 = 0x200;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// A message under construction, or the attributes of one level of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The message's type, as its family numbers it.
    pub kind: u16,
    /// Without `NLM_F_REQUEST` and `NLM_F_ACK`, which every request has.
    pub flags: u16,
    /// Family header and attributes.
    pub body: Vec<u8>,
}

impl Message {
    /// A message with its family's fixed header.
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut body = header.to_vec();
        pad(&mut body);
        Self { kind, flags, body }
    }

    /// Adds attributes.
    #[must_use]
    pub fn with(mut self, attributes: Attributes) -> Self {
        self.body.extend(attributes.0);
        self
    }

    /// The message as it is sent.
    pub fn bytes(&self, sequence: u32, extra_flags: u16) -> Vec<u8> {
        let length = u32::try_from(HEADER.saturating_add(self.body.len())).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER.saturating_add(self.body.len()));
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | extra_flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(&self.body);
        bytes
    }
}

/// Attributes of one level, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds raw bytes.
    ///
    /// # Panics
    /// Longer than an attribute can be: nothing of ours is.
    #[must_use]
    pub fn bytes(mut self, kind: u16, payload: &[u8]) -> Self {
        let length = u16::try_from(payload.len().saturating_add(4)).expect("attributes are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(payload);
        pad(&mut self.0);
        self
    }

    /// Adds a number in the host's byte order.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order, as nftables wants every one.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a number in network byte order.
    #[must_use]
    pub fn be16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a byte.
    #[must_use]
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// Adds text with its ending zero.
    #[must_use]
    pub fn text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds a level below.
    #[must_use]
    pub fn nest(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The request it answers.
    pub sequence: u32,
    /// Family header and attributes.
    pub body: &'a [u8],
}

/// Splits a datagram into messages; stops where it is malformed.
pub fn messages(mut datagram: &[u8]) -> Vec<Received<'_>> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(flags), Some(sequence)) =
        (u32_at(datagram, 0), u16_at(datagram, 4), u16_at(datagram, 6), u32_at(datagram, 8))
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = datagram.get(HEADER..length) else { break };
        found.push(Received { kind, flags, sequence, body });
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The attributes in `bytes` as (type, payload); stops where they are malformed.
pub fn attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(payload) = rest.get(4..length) else { break };
        found.push((kind & TYPE_MASK, payload));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The payload of the first attribute of type `kind`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).into_iter().find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

/// Text up to its ending zero.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// A number in the host's byte order.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// A number in the host's byte order.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// A number in the host's byte order.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let inner = Attributes::new().u8(1, 7).be16(2, 0x0102);
        let message = Message::new(16, CREATE, &[9, 8])
            .with(Attributes::new().text(3, "abc").nest(4, inner).u32(5, 1).be32(6, 1));
        // A little-endian host, the only kind there is a KVM for here.
        let want: &[u8] = &[
            64, 0, 0, 0, 16, 0, 5, 4, 77, 0, 0, 0, 0, 0, 0, 0, // header
            9, 8, 0, 0, // the family's
            8, 0, 3, 0, b'a', b'b', b'c', 0, //
            20, 0, 4, 0x80, 5, 0, 1, 0, 7, 0, 0, 0, 6, 0, 2, 0, 1, 2, 0, 0, //
            8, 0, 5, 0, 1, 0, 0, 0, 8, 0, 6, 0, 0, 0, 0, 1,
        ];
        let bytes = message.bytes(77, REQUEST | ACK);
        assert_eq!(bytes, want);
        let read = messages(&bytes);
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (16, 0x405, 77));
        let level = &read[0].body[4..];
        assert_eq!(attribute(level, 3).map(text).as_deref(), Some("abc"));
        assert_eq!(attribute(attribute(level, 4).unwrap(), 2), Some(&[1, 2][..]));
        assert_eq!(attributes(level).len(), 4);
    }

    #[test]
    fn malformed_bytes_end_the_reading() {
        for bytes in [&[][..], &[1], &[3, 0, 1, 0], &[200, 0, 1, 0, 5], &[0; 4]] {
            assert_eq!(attributes(bytes), [], "{bytes:?}");
        }
        for bytes in [&[][..], &[0; 16], &[17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(messages(bytes), [], "{bytes:?}");
        }
    }
}

//! The header that every packet begins with (VIRTIO 1.3 §5.10.6).
//!
//! ```text
//!  0 src_cid  u64   16 src_port u32   24 len  u32   30 op    u16   36 buf_alloc u32
//!  8 dst_cid  u64   20 dst_port u32   28 type u16   32 flags u32   40 fwd_cnt   u32
//! ```
//! Little-endian, without gaps. Any 44 bytes are a header: what it says is an allegation.

/// Its length in bytes.
pub const HEADER_LEN: usize = 44;

/// Stream sockets (§5.10.6).
pub const TYPE_STREAM: u16 = 1;
/// With [`Op::Shutdown`]: whoever says so receives no more (§5.10.6.5).
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// With [`Op::Shutdown`]: whoever says so sends no more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for (§5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Agrees to one.
    Response = 2,
    /// There is no such connection, or none any more.
    Rst = 3,
    /// One will send no more, or receive no more.
    Shutdown = 4,
    /// Data.
    Rw = 5,
    /// Only tells of credit.
    CreditUpdate = 6,
    /// Asks for that.
    CreditRequest = 7,
}

impl Op {
    /// By its number.
    pub fn from_number(number: u16) -> Option<Op> {
        Some(match number {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Rst,
            4 => Op::Shutdown,
            5 => Op::Rw,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            _ => return None,
        })
    }
}

/// A header; the fields have the names of the specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Who sends it.
    pub src_cid: u64,
    /// To whom.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's.
    pub dst_port: u32,
    /// Bytes of data behind the header.
    pub len: u32,
    /// `type`: of which kind the sockets are.
    pub kind: u16,
    /// See [`Op`].
    pub op: u16,
    /// What they mean depends on `op`.
    pub flags: u32,
    /// How much the sender keeps for a receiver that does not read, in bytes.
    pub buf_alloc: u32,
    /// How much its receiver has read so far; wraps around.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads one.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Header {
        let mut input = Input(bytes);
        Header {
            src_cid: u64::from_le_bytes(input.take()),
            dst_cid: u64::from_le_bytes(input.take()),
            src_port: u32::from_le_bytes(input.take()),
            dst_port: u32::from_le_bytes(input.take()),
            len: u32::from_le_bytes(input.take()),
            kind: u16::from_le_bytes(input.take()),
            op: u16::from_le_bytes(input.take()),
            flags: u32::from_le_bytes(input.take()),
            buf_alloc: u32::from_le_bytes(input.take()),
            fwd_cnt: u32::from_le_bytes(input.take()),
        }
    }

    /// Writes it.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let fields: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// The answer that there is no such connection: to whoever sent this, in its own terms.
    pub fn reset(&self) -> Header {
        Header {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Rst as u16,
            ..Header::default()
        }
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    /// The next bytes; zeroes past the end, which is not reached.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((first, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *first
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn its_bytes_are_where_the_specification_puts_them() {
        let header = Header {
            src_cid: 0x0102,
            dst_cid: 2,
            src_port: 0x0304_0506,
            dst_port: 0x0708_090a,
            len: 0x0b0c,
            kind: TYPE_STREAM,
            op: Op::Rw as u16,
            flags: 0x0d,
            buf_alloc: 0x0004_0000,
            fwd_cnt: 0xffff_fffe,
        };
        let golden = [
            0x02, 0x01, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 6, 5, 4, 3, 0x0a, 9, 8, 7, 0x0c,
            0x0b, 0, 0, 1, 0, 5, 0, 0x0d, 0, 0, 0, 0, 0, 4, 0, 0xfe, 0xff, 0xff, 0xff,
        ];
        assert_eq!(header.to_bytes(), golden);
        assert_eq!(Header::parse(&golden), header);
    }

    #[test]
    fn a_reset_goes_back_where_it_came_from() {
        let header = Header {
            src_cid: 3,
            dst_cid: 9,
            src_port: 1,
            dst_port: 2,
            len: 7,
            kind: 77,
            op: 5,
            ..Header::default()
        };
        let reset = header.reset();
        assert_eq!((reset.src_cid, reset.dst_cid), (9, 3));
        assert_eq!((reset.src_port, reset.dst_port), (2, 1));
        assert_eq!((reset.len, reset.kind, reset.op), (0, 77, 3));
    }

    #[test]
    fn operations_have_their_numbers() {
        for number in 0..=u16::from(u8::MAX) {
            let op = Op::from_number(number);
            assert_eq!(op.map(|op| op as u16), Some(number).filter(|n| (1..=7).contains(n)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_and_come_back(bytes in prop::array::uniform32(any::<u8>()), more in prop::array::uniform12(any::<u8>())) {
            let mut all = [0; HEADER_LEN];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&more);
            prop_assert_eq!(Header::parse(&all).to_bytes(), all);
        }
    }
}

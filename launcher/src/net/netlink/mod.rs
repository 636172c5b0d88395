//! Netlink: a request, and the kernel's answer to it.
//!
//! Synchronous sockets, one for each protocol; nothing here runs while the machine does, except
//! for the undoing at its end. The kernel's own words on an error (`NETLINK_EXT_ACK`) become part
//! of ours. The messages are [`link`]'s (interfaces, addresses, routes), [`tc`]'s (filters) and
//! [`nft`]'s (rules), put together with [`wire`]: the one codec of some two hundred lines says all
//! of them, with attributes that typed crates for it do not know (flower keys, nftables
//! expressions).

pub mod link;
pub mod nft;
pub mod tc;
pub mod wire;

use std::io;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};

use wire::Message;

/// `NLMSG_ERROR`, which is also the acknowledgement, and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFNL_SUBSYS_NFTABLES`, whom a batch is for.
const NFTABLES: u8 = 10;
/// How often a dump that changed under way is asked for again.
const DUMP_TRIES: usize = 5;
/// Answers to one request; a kernel that sends more is not one we know.
const MAX_DATAGRAMS: usize = 100_000;

/// What the kernel said to a request.
#[derive(Debug, thiserror::Error)]
#[error("{source}{}", if text.is_empty() { String::new() } else { format!(" ({text})") })]
pub struct Refused {
    /// As an error number.
    pub source: io::Error,
    /// In words, where it has any.
    pub text: String,
}

impl Refused {
    /// Whether the error is `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.source.raw_os_error() == Some(errno)
    }
}

impl From<io::Error> for Refused {
    fn from(source: io::Error) -> Self {
        Self { source, text: String::new() }
    }
}

/// Sockets in one network namespace: the one of the thread that opened them.
pub struct Netlink {
    route: Connection,
    netfilter: Connection,
}

impl Netlink {
    /// Opens the sockets.
    ///
    /// # Errors
    /// What the system says.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            route: Connection::open(NETLINK_ROUTE)?,
            netfilter: Connection::open(NETLINK_NETFILTER)?,
        })
    }

    /// Asks for a change of interfaces, addresses, routes or filters.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn request(&mut self, message: &Message) -> Result<(), Refused> {
        self.route.exchange(message, wire::ACK).map(drop)
    }

    /// Asks for everything of a kind; answers the bodies of the messages.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Vec<u8>>, Refused> {
        self.route.dump(message)
    }

    /// Asks for all tables of rules; answers the bodies of the messages.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn tables(&mut self) -> Result<Vec<Vec<u8>>, Refused> {
        self.netfilter.dump(&nft::get_tables())
    }

    /// Asks for changes of rules: all of them take place at once, or none.
    ///
    /// # Errors
    /// [`Refused`], of the first one that cannot be.
    pub fn transaction(&mut self, messages: &[Message]) -> Result<(), Refused> {
        self.netfilter.batch(messages)
    }
}

struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels before 4.12 have no words.
        drop(socket.set_ext_ack(true));
        drop(socket.set_cap_ack(true));
        Ok(Self { socket, sequence: 0 })
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn dump(&mut self, message: &Message) -> Result<Vec<Vec<u8>>, Refused> {
        for _ in 0..DUMP_TRIES {
            if let Some(bodies) = self.exchange(message, wire::DUMP)? {
                return Ok(bodies);
            }
        }
        Err(io::Error::other("it changes faster than it can be read").into())
    }

    /// Sends one request and receives up to its end. `None`: the dump was interrupted.
    fn exchange(&mut self, message: &Message, flags: u16) -> Result<Option<Vec<Vec<u8>>>, Refused> {
        let sequence = self.next_sequence();
        let bytes = message.bytes(sequence, wire::REQUEST | flags);
        self.socket.send(&bytes, 0)?;
        let mut bodies = Vec::new();
        let mut whole = true;
        for _ in 0..MAX_DATAGRAMS {
            let (datagram, _) = self.socket.recv_from_full()?;
            for answer in wire::messages(&datagram) {
                if answer.sequence != sequence {
                    continue;
                }
                whole &= answer.flags & wire::DUMP_INTERRUPTED == 0;
                match answer.kind {
                    ERROR => {
                        acknowledged(&answer)?;
                        return Ok(Some(bodies));
                    }
                    DONE => return Ok(whole.then_some(bodies)),
                    _ => bodies.push(answer.body.to_vec()),
                }
            }
        }
        Err(io::Error::other("the kernel's answer has no end").into())
    }

    /// Sends `messages` as one batch. Only the last asks for an acknowledgement: the kernel answers
    /// with every error, and with nothing else, once the batch is done.
    fn batch(&mut self, messages: &[Message]) -> Result<(), Refused> {
        let header = [0, 0, 0, NFTABLES];
        let begin = Message::new(BATCH_BEGIN, 0, &header);
        let end = Message::new(BATCH_END, 0, &header);
        let first = self.next_sequence();
        let mut bytes = begin.bytes(first, wire::REQUEST);
        let last = messages.len().saturating_sub(1);
        let mut final_sequence = 0;
        for (index, message) in messages.iter().enumerate() {
            final_sequence = self.next_sequence();
            let flags = wire::REQUEST | if index == last { wire::ACK } else { 0 };
            bytes.extend(message.bytes(final_sequence, flags));
        }
        bytes.extend(end.bytes(self.next_sequence(), wire::REQUEST));
        self.socket.send(&bytes, 0)?;
        for _ in 0..MAX_DATAGRAMS {
            let (datagram, _) = self.socket.recv_from_full()?;
            for answer in wire::messages(&datagram) {
                // What is left over from a batch that failed is older.
                if answer.kind == ERROR && answer.sequence >= first {
                    acknowledged(&answer)?;
                    if answer.sequence == final_sequence {
                        return Ok(());
                    }
                }
            }
        }
        Err(io::Error::other("the kernel's answer has no end").into())
    }
}

/// `struct nlmsgerr`: a negative error number, zero for success, then the request's header, then
/// words.
fn acknowledged(answer: &wire::Received<'_>) -> Result<(), Refused> {
    let code = wire::u32_at(answer.body, 0).unwrap_or_default().cast_signed();
    if code == 0 {
        return Ok(());
    }
    // With NETLINK_CAP_ACK the request itself is not repeated behind its header.
    let words = answer.body.get(4 + wire::HEADER..).unwrap_or_default();
    let words = if answer.flags & wire::ACK_ATTRIBUTES != 0 { words } else { &[] };
    let text = wire::attribute(words, ERROR_TEXT).map(wire::text).unwrap_or_default();
    Err(Refused { source: io::Error::from_raw_os_error(code.saturating_neg()), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_kernels_words() {
        let mut body = (-22_i32).to_ne_bytes().to_vec();
        body.extend([0; 16]);
        let words = wire::Attributes::new().text(1, "Invalid name");
        body = Message { kind: 0, flags: 0, body }.with(words).body;
        let answer = wire::Received { kind: 2, flags: 0x300, sequence: 1, body: &body };
        let refused = acknowledged(&answer).unwrap_err();
        assert!(refused.is(22));
        assert_eq!(refused.to_string(), "Invalid argument (os error 22) (Invalid name)");
        let plain = wire::Received { flags: 0x100, ..answer };
        assert_eq!(acknowledged(&plain).unwrap_err().text, "");
        let fine = wire::Received { body: &[0; 20], ..answer };
        assert!(acknowledged(&fine).is_ok());
    }
}

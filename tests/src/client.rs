//! What a test says to others from inside a [`Namespace`], and what it answers there.
//!
//! Sockets belong to the namespace they were made in; what is done with them afterwards may be
//! done anywhere. Servers run on threads that end with the test program.

use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use crate::Namespace;

/// How long an answer may take on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a datagram is sent before it counts as lost: the first one to a new path may be.
const TRIES: u32 = 3;

impl Namespace {
    /// All that whoever listens at `address` says to a connection.
    ///
    /// # Errors
    /// Nobody does, or the connection breaks.
    pub fn tcp(&self, address: IpAddr, port: u16) -> io::Result<String> {
        let mut text = String::new();
        self.connect(address, port)?.read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    }

    /// What a service says first.
    ///
    /// # Errors
    /// There is none, or it says less than `length` bytes.
    pub fn first_bytes(&self, address: IpAddr, port: u16, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.connect(address, port)?.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Whether an echo service serves `count` connections that are open at the same time.
    ///
    /// # Errors
    /// One of them fails.
    pub fn tcp_echoes(&self, address: IpAddr, port: u16, count: usize) -> io::Result<bool> {
        let streams: Vec<_> =
            (0..count).map(|_| self.connect(address, port)).collect::<io::Result<_>>()?;
        for (number, mut stream) in streams.iter().enumerate() {
            stream.write_all(format!("{number}").as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
        }
        let mut right = true;
        for (number, mut stream) in streams.iter().enumerate() {
            let mut back = String::new();
            stream.read_to_string(&mut back)?;
            right &= back == format!("{number}");
        }
        Ok(right)
    }

    /// Sends `length` bytes to an echo service; whether the same come back.
    ///
    /// # Errors
    /// The connection fails.
    pub fn tcp_echo(&self, address: IpAddr, port: u16, length: usize) -> io::Result<bool> {
        let sent = pattern(length);
        let mut stream = self.connect(address, port)?;
        let mut writing = stream.try_clone()?;
        let mut back = Vec::with_capacity(length);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                writing.write_all(&sent)?;
                writing.shutdown(Shutdown::Write)
            });
            stream.read_to_end(&mut back)?;
            writer.join().expect("writing does not panic")
        })?;
        Ok(back == sent)
    }

    /// Sends a datagram of `length` bytes; what comes back.
    ///
    /// # Errors
    /// Nothing comes, or an ICMP error says why.
    pub fn udp(&self, address: IpAddr, port: u16, length: usize) -> io::Result<Vec<u8>> {
        let socket = self.inside(|| UdpSocket::bind((unspecified(address), 0)))?;
        socket.connect((address, port))?;
        socket.set_read_timeout(Some(PATIENCE / TRIES))?;
        let sent = pattern(length);
        let mut back = vec![0; 1 << 16];
        let mut answer = Err(io::ErrorKind::TimedOut.into());
        for _ in 0..TRIES {
            // It may be too big for the path, of which the next try knows.
            drop(socket.send(&sent));
            answer = socket.recv(&mut back);
            if !answer.as_ref().is_err_and(is_lost) {
                break;
            }
        }
        back.truncate(answer?);
        Ok(back)
    }

    /// Whether an echo service gives a datagram of `length` bytes back.
    ///
    /// # Errors
    /// Nothing comes back.
    pub fn udp_echo(&self, address: IpAddr, port: u16, length: usize) -> io::Result<bool> {
        Ok(self.udp(address, port, length)? == pattern(length))
    }

    /// Tells everybody who comes to `port`, by TCP or UDP, the address they come from.
    ///
    /// # Panics
    /// If the port cannot be had.
    pub fn tell_peers(&self, port: u16) {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let (tcp, udp) = self.inside(|| (TcpListener::bind(any), UdpSocket::bind(any)));
        let (tcp, udp) = (tcp.expect("a free port"), udp.expect("a free port"));
        let told = |peer: SocketAddr| format!("{}\n", peer.ip().to_canonical());
        thread::spawn(move || {
            while let Ok((mut stream, peer)) = tcp.accept() {
                drop(stream.write_all(told(peer).as_bytes()));
            }
        });
        thread::spawn(move || {
            while let Ok((_, peer)) = udp.recv_from(&mut [0; 64]) {
                drop(udp.send_to(told(peer).as_bytes(), peer));
            }
        });
    }

    /// Is the name server of the namespace: it knows `name`, whose addresses are these.
    ///
    /// # Panics
    /// If port 53 cannot be had.
    pub fn serve_name(&self, name: &'static str, addresses: (Ipv4Addr, Ipv6Addr)) {
        let socket = self.inside(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)));
        let socket = socket.expect("a free port");
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length], name, addresses) {
                    drop(socket.send_to(&answer, peer));
                }
            }
        });
    }

    fn connect(&self, address: IpAddr, port: u16) -> io::Result<TcpStream> {
        let place = SocketAddr::new(address, port);
        let stream = self.inside(|| TcpStream::connect_timeout(&place, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// Whether a datagram, or its answer, may arrive at the next try.
fn is_lost(error: &io::Error) -> bool {
    let too_big = Errno::EMSGSIZE as i32;
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(too_big)
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 % 251).expect("below 251")).collect()
}

/// An answer to a query of RFC 1035 §4.1 for the addresses of one name.
fn answer(query: &[u8], name: &str, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let end = HEADER + query.get(HEADER..)?.iter().position(|&byte| byte == 0)? + 1;
    let question = query.get(HEADER..end + 4)?;
    let wanted: Vec<u8> = name
        .split('.')
        .flat_map(|label| {
            [&[u8::try_from(label.len()).expect("a short label")], label.as_bytes()].concat()
        })
        .chain([0])
        .collect();
    let known = query.get(HEADER..end)?.eq_ignore_ascii_case(&wanted);
    let data = match query.get(end..end + 2)? {
        [0, 1] if known => v4.octets().to_vec(),
        [0, 28] if known => v6.octets().to_vec(),
        _ => Vec::new(),
    };
    // A response with recursion; NXDOMAIN (3) for other names.
    let code = if known { 0x80 } else { 0x83 };
    let count = u8::from(!data.is_empty());
    let mut answer = [&query[..2], &[0x81, code, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
    if count == 1 {
        let length = u8::try_from(data.len()).expect("an address");
        // The name of the question, at offset 12; type and class of the question; 60 seconds.
        answer.extend([0xc0, 12]);
        answer.extend(&query[end..end + 4]);
        answer.extend([0, 0, 0, 60, 0, length]);
        answer.extend(data);
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_and_others_are_not() {
        let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x02bc\0\0\x01\0\x01";
        let addresses = (Ipv4Addr::new(1, 2, 3, 4), Ipv6Addr::LOCALHOST);
        assert_eq!(
            answer(query, "a.bc", addresses).unwrap(),
            b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x01a\x02bc\0\0\x01\0\x01\
              \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04"
        );
        assert_eq!(answer(query, "a.bd", addresses).unwrap()[2..8], [0x81, 0x83, 0, 1, 0, 0]);
        assert_eq!(answer(&query[..20], "a.bc", addresses), None);
    }
}

//! Where the server listens: addresses as a user writes them, and sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt,
    socket, sockopt,
};

/// The port of display 0 (RFC 6143 §1 leaves it to custom).
pub const PORT: u16 = 5900;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "the screen cannot be served on {address}; give another address with --vnc-listen, or --no-vnc"
)]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// `ADDRESS`, `ADDRESS:PORT`, `[IPV6]:PORT` or `:PORT`.
pub fn parse(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let port = text.strip_prefix(':')?;
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    Some(SocketAddr::new(any, port.parse().ok().filter(|_| digits)?))
}

/// Where the server listens unless told otherwise: everywhere, or on this host only.
pub fn default(everywhere: bool) -> Vec<SocketAddr> {
    let at = |address: IpAddr| SocketAddr::new(address, PORT);
    match everywhere {
        true => vec![at(Ipv6Addr::UNSPECIFIED.into())],
        false => vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())],
    }
}

/// Listens on these. `[::]` is IPv4 as well, unless that has an address of its own among them; where
/// there is no IPv6, it is IPv4 alone. Other IPv6 addresses are left out there, as long as something
/// remains.
///
/// # Errors
/// [`ListenError`].
pub fn listeners(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::new();
    let mut missing = None;
    for address in addresses {
        let same_port = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
        let both = address.ip().is_unspecified() && !addresses.iter().any(same_port);
        let failed = |source| ListenError { address: *address, source };
        match open(address, both) {
            Ok(listener) => listeners.push(listener),
            Err(error) if address.is_ipv6() && is_without_ipv6(&error) => {
                if both {
                    let instead = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
                    listeners.push(open(&instead, false).map_err(failed)?);
                } else {
                    missing = Some(failed(error));
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
    match missing {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn open(address: &SocketAddr, both: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    use std::os::fd::AsRawFd;
    match address {
        SocketAddr::V6(address) => {
            setsockopt(&socket, sockopt::Ipv6V6Only, &!both)?;
            bind(socket.as_raw_fd(), &SockaddrIn6::from(*address))?;
        }
        SocketAddr::V4(address) => bind(socket.as_raw_fd(), &SockaddrIn::from(*address))?,
    }
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn addresses_as_they_are_written() {
        for (text, want) in [
            ("127.0.0.1:5901", "127.0.0.1:5901"),
            ("10.0.0.1", "10.0.0.1:5900"),
            ("[::1]:5901", "[::1]:5901"),
            ("[::1]", "[::1]:5900"),
            ("::1", "[::1]:5900"),
            ("::", "[::]:5900"),
            (":5902", "[::]:5902"),
        ] {
            assert_eq!(parse(text), Some(want.parse().unwrap()), "{text}");
        }
        for bad in
            ["", "5900", "localhost", "localhost:5900", ":", ":+1", ":70000", "1.2.3", "[::1"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_address_takes_both_families() {
        let any: SocketAddr = "[::]:0".parse().unwrap();
        let listener = &listeners(&[any]).unwrap()[0];
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_, from) = listener.accept().unwrap();
        assert!(from.ip().to_canonical().is_loopback());
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listeners(&[taken.local_addr().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:"), "{error}");
        assert!(listeners(&default(false)).is_ok() || TcpStream::connect("127.0.0.1:5900").is_ok());
    }
}

//! Where a request comes from: over which socket, and, if a browser sends it, from which page.
//!
//! A browser sends what any page tells it to. Two things keep other sites out: `Origin` (RFC 6454)
//! must be this host in whatever does something, and `Host` must be one that nobody can have a name
//! server say (DNS rebinding) where no password is asked for. Who is no browser sends neither.

use std::net::{IpAddr, Ipv6Addr};

use super::http::{Refusal, Request};

/// Over which socket a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The control socket: whoever may open it may do everything.
    Control,
    /// The network, from this address.
    Network(IpAddr),
}

/// Refuses what a page of another site asks for.
///
/// # Errors
/// [`Refusal`].
pub fn same_site(request: &Request) -> Result<(), Refusal> {
    let refused = Refusal { status: 403, why: "a page of another site may not ask for this" };
    if let Some(site) = request.field("sec-fetch-site")
        && !["same-origin", "none"].contains(&site)
    {
        return Err(refused);
    }
    let Some(origin) = request.field("origin") else { return Ok(()) };
    let authority = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
    let host = request.field("host").unwrap_or_default();
    match authority {
        Some(authority) if !host.is_empty() && authority.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(refused),
    }
}

/// Refuses a `Host` that could be another's name for this machine.
///
/// # Errors
/// [`Refusal`].
pub fn own_host(request: &Request) -> Result<(), Refusal> {
    let Some(host) = request.field("host") else { return Ok(()) };
    let name = without_port(host);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    if is_address || name == "localhost" || name.ends_with(".localhost") {
        return Ok(());
    }
    let why = "without a password, this server is asked by its address or as localhost only";
    Err(Refusal { status: 421, why })
}

/// `host` without `:PORT`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::parse;

    fn request(fields: &str) -> Request {
        let text = format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n");
        parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn pages_of_others_are_refused() {
        for (fields, allowed) in [
            ("Host: a:5900", true),
            ("Host: a:5900\r\nOrigin: http://a:5900", true),
            ("Host: a\r\nOrigin: HTTPS://a", false),
            ("Host: A\r\nOrigin: https://a", true),
            ("Host: a:5900\r\nOrigin: http://a", false),
            ("Host: a\r\nOrigin: http://a.evil", false),
            ("Host: a\r\nOrigin: http://evil/a", false),
            ("Host: a\r\nOrigin: null", false),
            ("Host: a\r\nOrigin:", false),
            ("Host:\r\nOrigin: http://", false),
            ("Host: a\r\nOrigin: ftp://a", false),
            ("Host: a\r\nSec-Fetch-Site: cross-site", false),
            ("Host: a\r\nSec-Fetch-Site: same-site", false),
            ("Host: a\r\nSec-Fetch-Site: same-origin\r\nOrigin: http://a", true),
            ("Host: a\r\nSec-Fetch-Site: none", true),
        ] {
            assert_eq!(same_site(&request(fields)).is_ok(), allowed, "{fields}");
        }
    }

    #[test]
    fn names_that_anybody_could_have_are_refused() {
        for host in [
            "localhost",
            "localhost:5900",
            "LOCALHOST.",
            "vm.localhost:1",
            "127.0.0.1",
            "10.1.2.3:5900",
            "[::1]",
            "[fd00::2]:5900",
        ] {
            assert_eq!(own_host(&request(&format!("Host: {host}"))), Ok(()), "{host}");
        }
        for host in [
            "",
            ":",
            "evil.example",
            "evil.example:5900",
            "localhost.evil",
            "notlocalhost",
            "127.0.0.1.evil",
            "[evil]",
            "::1",
            "[::1",
            "1.2.3",
            "0x7f000001",
            "127.0.0.1:80:90",
            "a@127.0.0.1",
        ] {
            assert_eq!(
                own_host(&request(&format!("Host: {host}"))).unwrap_err().status,
                421,
                "{host}"
            );
        }
    }
}

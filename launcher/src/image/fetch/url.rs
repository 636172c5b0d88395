//! HTTP URLs, as far as images are fetched from them (RFC 3986 §3 and §5.2, RFC 9110 §4.2).
//!
//! Strict where it can be: visible ASCII only, no other schemes, no fragment sent. User and
//! password are kept apart from the rest, so that nothing that shows a URL can show them; a query
//! may hold a signature and is not shown either. Pure.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Longest URL, in bytes; servers take no longer ones.
const MAX_URL: usize = 8 << 10;
/// Longest name of a base: room for what is added to it within the 255 bytes of a file name.
const MAX_NAME: usize = 200;

/// Where something is fetched from.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// `https`, not `http`.
    pub secure: bool,
    /// User and password as they were written, percent-encoded.
    userinfo: Option<String>,
    /// Host, and port if it is not the scheme's own; lower case.
    authority: String,
    /// Begins with a slash; the query, if any, with its question mark.
    path: String,
}

/// Why a text is no URL that images are fetched from. The sentence continues "`URL` ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("is no http or https URL")]
    Scheme,
    /// No host, or an impossible one.
    #[error("has no host name that could be looked up")]
    Host,
    /// Spaces, control characters, not ASCII.
    #[error("has characters that have to be percent-encoded in a URL")]
    Characters,
    /// Longer than 8 KiB.
    #[error("is too long for a URL")]
    Length,
}

/// Whether `text` looks like a URL rather than a path.
pub fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

impl Url {
    /// Reads `http://...` or `https://...`.
    ///
    /// # Errors
    /// See [`UrlError`].
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::Length);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(UrlError::Scheme),
        };
        // What a URI may hold, and what servers see anyway (RFC 3986 §2).
        if !rest.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
            return Err(UrlError::Characters);
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo.to_owned()), host),
            None => (None, authority),
        };
        let authority = authority_of(host, secure).ok_or(UrlError::Host)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { secure, userinfo, authority, path })
    }

    /// Where a `Location` header leads from here (RFC 9110 §10.2.2). Never with a user: those are
    /// ours to give, not the server's.
    ///
    /// # Errors
    /// See [`UrlError`].
    pub fn join(&self, location: &str) -> Result<Self, UrlError> {
        let location = location.trim();
        if is_url(location) {
            return Ok(Self { userinfo: None, ..Self::parse(location)? });
        }
        let scheme = self.scheme();
        if location.starts_with("//") {
            return Ok(Self { userinfo: None, ..Self::parse(&format!("{scheme}:{location}"))? });
        }
        let here = self.path.split('?').next().unwrap_or_default();
        let path = match location.bytes().next() {
            None | Some(b'#') => self.path.clone(),
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{here}{location}"),
            Some(_) => {
                let directory = here.rsplit_once('/').map_or("", |(directory, _)| directory);
                format!("{directory}/{location}")
            }
        };
        Self::parse(&format!("{scheme}://{}{path}", self.authority))
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// The whole, without user and password: what a request is made of.
    pub fn request(&self) -> String {
        format!("{}://{}{}", self.scheme(), self.authority, self.path)
    }

    /// The host alone, in lower case; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        host_and_port(&self.authority).map_or("", |(host, _)| host)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        let own = if self.secure { 443 } else { 80 };
        host_and_port(&self.authority).and_then(|(_, port)| port).unwrap_or(own)
    }

    /// Whether both lead to the same server: only there user and password belong.
    pub fn same_server(&self, other: &Self) -> bool {
        (self.secure, &self.authority) == (other.secure, &other.authority)
    }

    /// User and password, decoded, with a colon between them, if there are any.
    pub fn credentials(&self) -> Option<Vec<u8>> {
        let userinfo = self.userinfo.as_deref()?;
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let mut both = decode(user);
        both.push(b':');
        both.extend(decode(password));
        Some(both)
    }

    /// What tells this source from others without keeping its secrets: the digest of the URL
    /// without user and password, in hexadecimal digits.
    pub fn id(&self) -> String {
        let mut text = String::new();
        for byte in Sha256::digest(self.request().as_bytes()) {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    /// The last part of the path as a file name, if it can be one.
    pub fn file_name(&self) -> Option<String> {
        let path = self.path.split('?').next().unwrap_or_default();
        let last = decode(path.rsplit('/').next().unwrap_or_default());
        String::from_utf8(last).ok().filter(|name| is_base_name(name))
    }
}

/// Whether a base can have this name in the image directory, beside what is kept with it.
pub fn is_base_name(name: &str) -> bool {
    let ours = [".id", ".lock", ".base", ".part", ".json", ".new"];
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with(['.', '-'])
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control)
        && !ours.iter().any(|suffix| name.ends_with(suffix))
}

/// For people: without user, password and query.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, more) = match self.path.split_once('?') {
            Some((path, _)) => (path, "?..."),
            None => (self.path.as_str(), ""),
        };
        write!(f, "{}://{}{path}{more}", self.scheme(), self.authority)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// `HOST[:PORT]` in the form it is compared in.
fn authority_of(text: &str, secure: bool) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (host, port) = host_and_port(&lower)?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let bracketed = lower.starts_with('[');
    let fits = match bracketed {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => !host.is_empty() && host.len() <= 253 && host.bytes().all(is_name),
    };
    if !fits {
        return None;
    }
    let host = if bracketed { format!("[{host}]") } else { host.to_owned() };
    let own = if secure { 443 } else { 80 };
    Some(match port.filter(|port| *port != own) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    match port {
        None | Some("") => Some((host, None)),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok().filter(|port| *port != 0)?)))
        }
        Some(_) => None,
    }
}

/// Undoes percent-encoding; what is no such code stays.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn parts() {
        let all = url("HTTPS://me:p%40ss@Example.ORG:8443/a/b%20c.img?sig=secret#part");
        assert_eq!(all.request(), "https://example.org:8443/a/b%20c.img?sig=secret");
        assert_eq!(all.to_string(), "https://example.org:8443/a/b%20c.img?...");
        assert_eq!(format!("{all:?}"), format!("Url({all})"));
        assert_eq!((all.host(), all.port()), ("example.org", 8443));
        assert_eq!(all.credentials().unwrap(), b"me:p@ss");
        assert_eq!(all.file_name().unwrap(), "b c.img");
        let short = url("http://h");
        assert_eq!((short.request().as_str(), short.port()), ("http://h/", 80));
        assert_eq!((short.credentials(), short.file_name()), (None, None));
        assert_eq!(url("https://h:443/x"), url("https://h/x"));
        assert_eq!(url("http://u@h/x").id(), url("http://h/x").id());
        assert_ne!(url("http://h/x?a").id(), url("http://h/x?b").id());
        let six = url("http://[FE80::1]:81/x");
        assert_eq!((six.host(), six.port()), ("fe80::1", 81));
    }

    #[test]
    fn what_is_no_url() {
        for (text, want) in [
            ("ftp://h/x", UrlError::Scheme),
            ("file:///x", UrlError::Scheme),
            ("/x", UrlError::Scheme),
            ("http://", UrlError::Host),
            ("http:///x", UrlError::Host),
            ("http://h:99999/", UrlError::Host),
            ("http://h:0/", UrlError::Host),
            ("http://h:8x/", UrlError::Host),
            ("http://[1::2/", UrlError::Host),
            ("http://[h]/", UrlError::Host),
            ("http://a%2fb/", UrlError::Host),
            ("http://h/a b", UrlError::Characters),
            ("http://h/\r\nX: y", UrlError::Characters),
            ("http://h/\u{e4}", UrlError::Characters),
        ] {
            assert_eq!(Url::parse(text), Err(want), "{text}");
        }
        assert_eq!(Url::parse(&format!("http://h/{}", "x".repeat(MAX_URL))), Err(UrlError::Length));
    }

    #[test]
    fn names_stay_in_the_directory() {
        for (path, want) in [
            ("a.qcow2", Some("a.qcow2")),
            ("d/a.qcow2?x=/y", Some("a.qcow2")),
            ("%61.img", Some("a.img")),
            ("", None),
            ("..", None),
            (".hidden", None),
            ("-rf", None),
            ("%2e%2e", None),
            ("a%2fb", None),
            ("a%00b", None),
            ("a%0ab", None),
            ("%ff", None),
            ("pet.id", None),
            ("a.lock", None),
            ("a.part", None),
        ] {
            assert_eq!(url(&format!("http://h/{path}")).file_name().as_deref(), want, "{path}");
        }
        assert!(is_base_name(&"x".repeat(MAX_NAME)) && !is_base_name(&"x".repeat(MAX_NAME + 1)));
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let here = url("https://u:p@h:8443/a/b?q");
        for (location, want) in [
            ("http://other/x", "http://other/x"),
            ("https://x:y@h/x", "https://h/x"),
            ("//other/x", "https://other/x"),
            ("/x?y", "https://h:8443/x?y"),
            ("c", "https://h:8443/a/c"),
            ("?r", "https://h:8443/a/b?r"),
            ("", "https://h:8443/a/b?q"),
        ] {
            let there = here.join(location).unwrap();
            assert_eq!(there.request(), want, "{location}");
            assert_eq!(there.credentials(), None, "{location}");
        }
        assert!(here.join("ftp://h/x").is_err() && here.join("/a\u{7f}").is_err());
        assert!(here.same_server(&here.join("/x").unwrap()));
        assert!(!here.same_server(&here.join("//h/x").unwrap()));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC*", tail in "[ -~]{0,60}") {
            let _ = Url::parse(&text);
            if let Ok(url) = Url::parse(&format!("http://h/{tail}")) {
                prop_assert!(url.file_name().is_none_or(|name| is_base_name(&name)));
                if let Ok(next) = url.join(&text) {
                    prop_assert!(Url::parse(&next.request()).is_ok());
                }
            }
        }
    }
}

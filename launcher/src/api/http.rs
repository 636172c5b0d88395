//! HTTP/1.1 as bytes (RFC 9112; semantics RFC 9110): a request's head is parsed by httparse and then
//! judged more strictly, an answer is written. No I/O, and nothing of what is served.
//!
//! A request has one meaning or is refused: lines end in CR LF, the length of a body is told once and
//! in digits, no field that counts once comes twice. Left out: chunked bodies, `Expect`, trailers,
//! targets that name a host, percent-encoding (no path here needs it).

use std::borrow::Cow;
use std::fmt::Write as _;

/// The most bytes of a request line with its fields.
pub const HEAD_MAX: usize = 8 << 10;
/// The most fields.
const FIELDS_MAX: usize = 64;
/// The most bytes of a body.
pub const BODY_MAX: usize = 64 << 10;

/// Fields that decide something and may come once only.
const ONCE: [&str; 8] = [
    "authorization",
    "content-length",
    "host",
    "origin",
    "sec-fetch-site",
    "sec-websocket-key",
    "sec-websocket-version",
    "transfer-encoding",
];

/// What is asked for. Every other method is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: as GET, without the body.
    Head,
    /// POST.
    Post,
}

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// The path: begins with `/`, and is of printable ASCII. Without the query.
    pub path: String,
    /// Bytes of the body, at most [`BODY_MAX`].
    pub body_len: usize,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// Names in lower case.
    fields: Vec<(String, String)>,
}

impl Request {
    /// The first value of a field; `name` is in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The members of a field that is a list (RFC 9110 §5.6.1), however often it comes.
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.fields.iter().filter(move |(field, _)| field == name);
        values.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|m| !m.is_empty())
    }

    /// Whether a list has `member`, in any case.
    pub fn has_member(&self, name: &str, member: &str) -> bool {
        self.members(name).any(|m| m.eq_ignore_ascii_case(member))
    }
}

/// Why a request is not served. The connection ends with it: where the next request would begin is
/// not certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of the answer.
    pub status: u16,
    /// For whoever asked.
    pub why: &'static str,
}

fn refuse<T>(status: u16, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, why })
}

/// The request that `bytes` begin with, and where its body begins. `None`: its end is not there yet.
///
/// # Errors
/// [`Refusal`]: it is not a request, or not one that is served.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    // RFC 9112 §2.2: one empty line before a request is overlooked.
    let before = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let bytes = bytes.get(before..).unwrap_or_default();
    let shown = bytes.get(..bytes.len().min(HEAD_MAX)).unwrap_or_default();
    let end = shown.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at.saturating_add(4));
    let head = end.and_then(|end| shown.get(..end)).unwrap_or(shown);
    let mut last = 0;
    for byte in head {
        if *byte == b'\n' && last != b'\r' {
            return refuse(400, "a line of the request does not end in CR LF");
        }
        last = *byte;
    }
    if end.is_none() {
        return match shown.len() < HEAD_MAX {
            true => Ok(None),
            false => refuse(431, "the request's fields are larger than 8 KiB"),
        };
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return refuse(431, "the request has more than 64 fields");
        }
        Err(httparse::Error::Version) => return refuse(505, "this server speaks HTTP/1.1"),
        _ => return refuse(400, "this is not an HTTP request"),
    }
    let request = judge(&parsed)?;
    Ok(Some((request, before.saturating_add(head.len()))))
}

/// What httparse leaves to its caller.
fn judge(parsed: &httparse::Request<'_, '_>) -> Result<Request, Refusal> {
    let lower = |field: &httparse::Header<'_>| {
        (field.name.to_ascii_lowercase(), String::from_utf8_lossy(field.value).trim().to_owned())
    };
    let fields: Vec<(String, String)> = parsed.headers.iter().map(lower).collect();
    let count = |name: &str| fields.iter().filter(|(field, _)| field == name).count();
    if ONCE.iter().any(|name| count(name) > 1) {
        return refuse(400, "a field that may come once comes twice");
    }
    let minor = parsed.version.unwrap_or_default();
    if minor > 0 && count("host") == 0 {
        return refuse(400, "the field Host is missing");
    }
    let target = parsed.path.unwrap_or_default();
    let fits = target.starts_with('/')
        && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !fits {
        return refuse(400, "the target of the request is not a path");
    }
    let method = match parsed.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        _ => return refuse(405, "only GET, HEAD and POST are served"),
    };
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut request = Request { method, path, body_len: 0, keep_alive: false, fields };
    request.body_len = body_len(&request)?;
    request.keep_alive = minor > 0 && !request.has_member("connection", "close");
    Ok(request)
}

/// RFC 9112 §6.3, with less leave: a body whose length is not plain is refused.
fn body_len(request: &Request) -> Result<usize, Refusal> {
    match (request.field("content-length"), request.field("transfer-encoding")) {
        (Some(_), Some(_)) => refuse(400, "the length of the body is told in two ways"),
        (None, Some(_)) => refuse(501, "a body in chunks is not served; tell its Content-Length"),
        (None, None) => Ok(0),
        (Some(digits), None) => {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return refuse(400, "Content-Length is not a number");
            }
            match digits.parse::<usize>() {
                Ok(length) if length <= BODY_MAX => Ok(length),
                _ => refuse(413, "the request's body is larger than 64 KiB"),
            }
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body's media type.
    pub kind: &'static str,
    /// The body.
    pub body: Cow<'static, [u8]>,
    /// Further fields.
    pub fields: Vec<(&'static str, String)>,
}

/// Text for people.
const TEXT: &str = "text/plain; charset=utf-8";

/// Fields of every answer: what a browser may do with what it gets here. Nothing of it may be kept,
/// framed, guessed at, or be read by other sites; scripts and styles come from here only, and
/// pictures may also come out of the VNC stream, as data.
const GUARDS: &str = "Cache-Control: no-store\r\n\
    Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n\
    Referrer-Policy: no-referrer\r\n\
    X-Content-Type-Options: nosniff\r\n";

impl Response {
    /// A line of text.
    pub fn line(status: u16, line: impl Into<String>) -> Self {
        let mut body = line.into();
        body.push('\n');
        Self { status, kind: TEXT, body: body.into_bytes().into(), fields: Vec::new() }
    }

    /// Something found.
    pub fn found(kind: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { status: 200, kind, body: body.into(), fields: Vec::new() }
    }

    /// The connection becomes something else after this answer.
    pub fn upgrade(protocol: &str) -> Self {
        let fields = vec![("Upgrade", protocol.to_owned())];
        Self { status: 101, kind: TEXT, body: Cow::default(), fields }
    }

    /// With one more field. Its value must be one line.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// The answer as bytes; the body is left out for `head_only`. `date` is an IMF-fixdate (RFC 9110
    /// §5.6.7).
    pub fn to_bytes(&self, head_only: bool, keep_alive: bool, date: &str) -> Vec<u8> {
        let mut head =
            format!("HTTP/1.1 {} {}\r\nDate: {date}\r\n", self.status, reason(self.status));
        for (name, value) in &self.fields {
            debug_assert!(!value.contains(['\r', '\n']));
            // Writing to a string cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if self.status == 101 {
            head.push_str("Connection: Upgrade\r\n\r\n");
            return head.into_bytes();
        }
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let _ = write!(
            head,
            "Content-Type: {}\r\nContent-Length: {}\r\nConnection: {connection}\r\n{GUARDS}\r\n",
            self.kind,
            self.body.len()
        );
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let response = Self::line(refusal.status, refusal.why);
        if refusal.status == 405 { response.with("Allow", "GET, HEAD, POST") } else { response }
    }
}

/// RFC 9110 §15.
fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        let (request, length) = parse(text.as_bytes()).unwrap().expect("it is whole");
        assert_eq!(length, text.len());
        request
    }

    fn status(bytes: &[u8]) -> u16 {
        parse(bytes).unwrap_err().status
    }

    #[test]
    fn requests_as_browsers_and_probes_send_them() {
        let get = request("GET /status?x=1 HTTP/1.1\r\nHost: a:5900\r\nAccept: */*\r\n\r\n");
        assert_eq!((get.method, get.path.as_str(), get.keep_alive), (Method::Get, "/status", true));
        assert_eq!((get.field("host"), get.field("origin")), (Some("a:5900"), None));
        let old = request("HEAD / HTTP/1.0\r\n\r\n");
        assert_eq!((old.method, old.keep_alive), (Method::Head, false));
        let post = request(
            "POST /power HTTP/1.1\r\nHOST: a\r\nContent-Length: 6\r\nConnection: x, Close\r\n\r\n",
        );
        assert_eq!((post.body_len, post.keep_alive), (6, false));
        let upgrade = request(
            "GET /console HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b,binary\r\n\r\n",
        );
        assert!(upgrade.has_member("upgrade", "WebSocket"));
        assert_eq!(
            upgrade.members("sec-websocket-protocol").collect::<Vec<_>>(),
            ["a", "b", "binary"]
        );
        assert!(request("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").keep_alive);
    }

    #[test]
    fn what_follows_is_not_looked_at() {
        let bytes = b"POST /power HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nx\ny\0GET";
        let (request, length) = parse(bytes).unwrap().unwrap();
        assert_eq!((request.body_len, &bytes[length..]), (4, &b"x\ny\0GET"[..]));
    }

    #[test]
    fn a_request_that_is_cut_anywhere_is_waited_for() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn a_body_with_two_lengths_has_none() {
        let with = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        for (fields, want) in [
            ("Content-Length: 3\r\nContent-Length: 4", 400),
            ("Content-Length: 3\r\nContent-Length: 3", 400),
            ("Content-Length: 3, 3", 400),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3", 400),
            ("Transfer-Encoding: chunked", 501),
            ("Transfer-Encoding: xchunked", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
            ("Content-Length: +3", 400),
            ("Content-Length: -1", 400),
            ("Content-Length: 0x3", 400),
            ("Content-Length:", 400),
            ("Content-Length : 3", 400),
            ("Content-Length: 65537", 413),
            ("Content-Length: 99999999999999999999999999", 413),
            (" Content-Length: 3", 400),
            ("X: y\r\n folded", 400),
        ] {
            assert_eq!(status(with(fields).as_bytes()), want, "{fields}");
        }
        assert_eq!(
            parse(with("Content-Length: 65536").as_bytes()).unwrap().unwrap().0.body_len,
            BODY_MAX
        );
    }

    #[test]
    fn hostile_heads() {
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX));
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(HEAD_MAX));
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\nHost: a\n\n"[..], 400),
            (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400),
            (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"\0\0\0\0\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\nORIGIN: http://b\r\n\r\n", 400),
            (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), 400),
            (b"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            (b"GET /\r\n\r\n", 400),
            (b"\r\n\r\n\r\n", 400),
            (many.as_bytes(), 431),
            (long.as_bytes(), 431),
            (&[b'A'; HEAD_MAX], 431),
        ] {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            assert_eq!(parse(bytes).map_err(|refusal| refusal.status), Err(want), "{shown:?}");
        }
    }

    #[test]
    fn answers_are_whole() {
        let bytes = Response::line(404, "no").with("X", "y").to_bytes(false, true, "D");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with(
            "HTTP/1.1 404 Not Found\r\nDate: D\r\nX: y\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 3\r\nConnection: keep-alive\r\n"
        ));
        assert!(text.contains("\r\nX-Content-Type-Options: nosniff\r\n"));
        assert!(text.ends_with("\r\n\r\nno\n"));
        let head = Response::line(404, "no").to_bytes(true, false, "D");
        let head = String::from_utf8(head).unwrap();
        assert!(
            head.contains("Content-Length: 3\r\nConnection: close") && head.ends_with("\r\n\r\n")
        );
        assert_eq!(
            Response::upgrade("x").to_bytes(false, true, "D"),
            b"HTTP/1.1 101 Switching Protocols\r\nDate: D\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
        );
        let refused = Response::from(Refusal { status: 405, why: "no" });
        assert_eq!(refused.fields, [("Allow", "GET, HEAD, POST".to_owned())]);
    }
}

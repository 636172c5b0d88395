//! One request at a time: HTTP/1.1 by ureq, on a thread of its own, so that whoever waits can be
//! stopped at once: a thread that waits for a name server or a dead connection cannot be. It gives
//! itself up when its time is over, and does nothing but read meanwhile.
//!
//! Redirects are followed here, a few of them, and never from https to http. User and password go
//! to the server they were given for, and to no other. Bodies come in pieces through a short queue.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use devices::thread;
use ureq::http::Response;
use ureq::http::header::{AUTHORIZATION, HeaderValue, IF_RANGE, RANGE};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use super::FetchError;
use super::answer::{Head, Trouble, judge, redirect};
use super::certificates::{Trust, TrustError};
use super::proxies::Proxies;
use super::url::Url;
use crate::failure::sentence;
use crate::image::base::Cancelled;

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Largest piece of a body, in bytes.
const PIECE: usize = 128 << 10;
/// Pieces that may wait to be written.
const WAITING: usize = 16;
/// How soon a signal is heard.
const HEARING: Duration = Duration::from_millis(100);
/// A server that sends less than this in the time it has for a sign of life is not alive, in bytes.
const SIGN_OF_LIFE: u64 = 4 << 10;

/// How requests are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    /// How long a server may send nothing.
    pub stall: Duration,
    /// Attempts without progress, the first included.
    pub tries: u32,
    /// The ways there.
    pub proxies: Proxies,
    /// Whom to believe.
    pub trust: Trust,
}

/// Makes requests.
pub struct Client {
    manner: Manner,
}

/// What is left of a file, if it is still the same.
pub struct Rest {
    /// Bytes that are there.
    pub from: u64,
    /// What tells that it is still the same.
    pub validator: String,
}

/// A piece of an answer.
enum Piece {
    Head(Head),
    Data(Vec<u8>),
    End,
    Trouble(Trouble),
}

/// Why there is nothing more.
pub enum Stop {
    /// Of the server's making.
    Trouble(Trouble),
    /// Of ours, and final.
    Final(FetchError),
}

/// An answer that is being received.
pub struct Transfer<'a> {
    pieces: Receiver<Piece>,
    stall: Duration,
    /// Time spent waiting since the last sign of life, and the bytes that came meanwhile.
    waited: (Duration, u64),
    cancelled: Cancelled<'a>,
}

impl Client {
    /// Asks nobody anything yet.
    pub fn new(manner: &Manner) -> Self {
        Self { manner: manner.clone() }
    }

    /// Its manner.
    pub fn manner(&self) -> &Manner {
        &self.manner
    }

    /// Asks for `url`, or the `rest` of it.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn get<'a>(
        &self,
        url: &Url,
        rest: Option<Rest>,
        cancelled: Cancelled<'a>,
    ) -> Result<(Head, Transfer<'a>), Stop> {
        let mut hops = Hops { manner: self.manner.clone(), tls: None };
        let (send, pieces) = sync_channel(WAITING);
        let url = url.clone();
        let run = move || {
            let outcome = hops.serve(&url, rest.as_ref(), &send);
            // Nobody listens any more if the wait was given up.
            drop(send.send(outcome.map_or_else(Piece::Trouble, |()| Piece::End)));
        };
        let started = thread::start("fetch", run);
        started.map_err(|error| Stop::Trouble(Trouble::again(error.to_string())))?;
        let waited = (Duration::ZERO, 0);
        let mut transfer = Transfer { pieces, stall: self.manner.stall, waited, cancelled };
        match transfer.next()? {
            Piece::Head(head) => Ok((head, transfer)),
            Piece::Trouble(trouble) => Err(Stop::Trouble(trouble)),
            Piece::Data(_) | Piece::End => Err(Stop::Trouble(Trouble::again("no answer"))),
        }
    }
}

impl Transfer<'_> {
    /// The next piece of the body; `None`: the server has sent all of it.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn data(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        match self.next()? {
            Piece::Data(data) => Ok(Some(data)),
            Piece::End => Ok(None),
            Piece::Trouble(trouble) => Err(Stop::Trouble(trouble)),
            Piece::Head(_) => Err(Stop::Trouble(Trouble::again("two answers"))),
        }
    }

    fn next(&mut self) -> Result<Piece, Stop> {
        loop {
            if (self.cancelled)() {
                return Err(Stop::Final(FetchError::Cancelled));
            }
            let began = Instant::now();
            let received = self.pieces.recv_timeout(HEARING);
            self.waited.0 = self.waited.0.saturating_add(began.elapsed());
            if let Ok(Piece::Data(data)) = &received {
                self.waited.1 = self.waited.1.saturating_add(data.len() as u64);
            }
            if self.waited.1 >= SIGN_OF_LIFE {
                self.waited = (Duration::ZERO, 0);
            }
            match received {
                Ok(Piece::Data(_)) | Err(RecvTimeoutError::Timeout)
                    if self.waited.0 >= self.stall =>
                {
                    let seconds = self.stall.as_secs_f32();
                    let reason = format!("next to nothing came for {seconds} s");
                    return Err(Stop::Trouble(Trouble::again(reason)));
                }
                Ok(piece) => return Ok(piece),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Stop::Trouble(Trouble::again("the transfer broke off")));
                }
            }
        }
    }
}

/// What the thread has.
struct Hops {
    manner: Manner,
    /// Made when it is first needed: there may be no certificates where none are needed.
    tls: Option<TlsConfig>,
}

impl Hops {
    /// Fetches, follows redirects, sends what comes.
    fn serve(
        &mut self,
        first: &Url,
        rest: Option<&Rest>,
        send: &SyncSender<Piece>,
    ) -> Result<(), Trouble> {
        let mut url = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let credentials = first.credentials().filter(|_| url.same_server(first));
            let answer = self.ask(&url, rest, credentials)?;
            let Some(location) = redirect(answer.status(), answer.headers()) else {
                return pass_on(answer, rest.map_or(0, |rest| rest.from), send);
            };
            let next = url.join(location).map_err(|error| {
                let shown: String = location.chars().take(80).collect();
                Trouble::Refused(format!("the server redirects to `{shown}`, which {error}"))
            })?;
            if url.secure && !next.secure {
                let reason = format!("the server redirects from https to {next}: that is not safe");
                return Err(Trouble::Refused(reason));
            }
            log::debug!("{url} leads to {next}");
            url = next;
        }
        Err(Trouble::Refused(format!("there are more than {MAX_REDIRECTS} redirects")))
    }

    fn ask(
        &mut self,
        url: &Url,
        rest: Option<&Rest>,
        credentials: Option<Vec<u8>>,
    ) -> Result<Response<Body>, Trouble> {
        let proxy = self.manner.proxies.of(url).map(proxy).transpose()?;
        let secure_proxy =
            proxy.as_ref().is_some_and(|p| p.protocol() == ureq::ProxyProtocol::Https);
        if (url.secure || secure_proxy) && self.tls.is_none() {
            let refused = |error: TrustError| Trouble::Refused(sentence(&error));
            self.tls = Some(self.manner.trust.tls().map_err(refused)?);
        }
        let stall = Some(self.manner.stall);
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEAD)
            .tls_config(self.tls.clone().unwrap_or_default())
            .timeout_resolve(stall)
            .timeout_connect(stall)
            .timeout_send_request(stall)
            .timeout_recv_response(stall)
            .timeout_per_read(stall)
            .timeout_per_write(stall)
            .build()
            .into();
        let mut request = agent.get(url.request());
        if let Some(rest) = rest {
            request = request.header(RANGE, format!("bytes={}-", rest.from));
            request = request.header(IF_RANGE, &rest.validator);
        }
        if let Some(credentials) = credentials {
            let value = HeaderValue::try_from(format!("Basic {}", base64(&credentials)));
            if let Ok(mut value) = value {
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
        }
        request.call().map_err(|error| meaning(&error))
    }
}

/// Reads the body and sends it on, for as long as somebody listens.
fn pass_on(answer: Response<Body>, from: u64, send: &SyncSender<Piece>) -> Result<(), Trouble> {
    let head = judge(answer.status(), answer.headers(), from)?;
    if send.send(Piece::Head(head)).is_err() {
        return Ok(());
    }
    let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; PIECE];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let data = buffer.get(..count).unwrap_or_default().to_vec();
                if send.send(Piece::Data(data)).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(meaning(&error.into())),
        }
    }
}

/// A proxy as a variable names it.
fn proxy(text: &str) -> Result<ureq::Proxy, Trouble> {
    let fix = "the proxy in the environment is no http or https URL; correct http_proxy, \
               https_proxy or all_proxy";
    let proxy = ureq::Proxy::new(text).map_err(|_| Trouble::Refused(fix.to_owned()))?;
    match proxy.protocol() {
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Ok(proxy),
        _ => Err(Trouble::Refused(fix.to_owned())),
    }
}

/// Whether another try makes sense.
fn meaning(error: &ureq::Error) -> Trouble {
    let tls = match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref().and_then(|cause| cause.downcast_ref()),
        _ => None,
    };
    match (error, tls) {
        (_, Some(rustls::Error::InvalidCertificate(why))) => Trouble::Refused(format!(
            "the server's certificate is not trusted ({why}); name the authority that signed it \
             with --image-ca"
        )),
        (_, Some(error)) => Trouble::again(format!("TLS: {error}")),
        (ureq::Error::Io(error), None) => Trouble::again(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the connection ended early".to_owned(),
            _ => error.to_string(),
        }),
        (ureq::Error::HostNotFound, _) => Trouble::again("the host's name is not known"),
        (ureq::Error::Timeout(_), _) => Trouble::again("the server does not answer"),
        (ureq::Error::ConnectProxyFailed(why), _) => {
            let why: String = why.chars().filter(|c| !c.is_control()).take(80).collect();
            Trouble::again(format!("the proxy refuses: {why}"))
        }
        (ureq::Error::LargeResponseHeader(..), _) => {
            Trouble::Refused("the head of the server's answer is too large".to_owned())
        }
        (error, None) => Trouble::again(error.to_string()),
    }
}

/// Base64 with padding (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        for (to, from) in padded.iter_mut().skip(1).zip(group) {
            *to = *from;
        }
        let number = u32::from_be_bytes(padded);
        for place in 0..4 {
            let index = usize::try_from(number >> (18 - 6 * place) & 63).unwrap_or(0);
            let digit = DIGITS.get(index).filter(|_| place <= group.len());
            text.push(digit.map_or('=', |digit| char::from(*digit)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_its_rfc() {
        for (bytes, want) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), want);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn proxies_are_http() {
        assert!(proxy("http://proxy:3128").is_ok() && proxy("proxy:3128").is_ok());
        for text in ["socks5://proxy", "::", "ftp://proxy"] {
            assert!(matches!(proxy(text), Err(Trouble::Refused(_))), "{text}");
        }
    }
}

//! From the first byte to ServerInit: version, security, ClientInit (RFC 6143 §7.1 to §7.3), for
//! clients of version 3.3, 3.7 and 3.8, with VeNCrypt's X.509 types (rfbproto). No I/O: bytes go in,
//! answers come out, and whoever carries them is told when TLS begins.
//!
//! A type of security that was not offered is refused, whatever the client wants: the offer is what
//! decides who comes in. VeNCrypt's anonymous types and plain passwords are left out.

use crate::server::guard::Verdict;
use crate::server::passwords::Access;

use super::auth::CHALLENGE;

const VERSION: &[u8; 12] = b"RFB 003.008\n";

/// Types of security (RFC 6143 §7.1.2, §7.2).
const INVALID: u8 = 0;
const NONE: u8 = 1;
const VNC_AUTH: u8 = 2;
/// rfbproto, VeNCrypt.
const VENCRYPT: u8 = 19;
/// Its kinds, with TLS and a certificate.
const X509_NONE: u32 = 260;
const X509_VNC: u32 = 261;

/// The most of a client's messages here: the answer to a challenge.
const LONGEST: usize = CHALLENGE;

/// What a client is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// A password is asked for.
    pub password: bool,
    /// VeNCrypt can be had.
    pub tls: bool,
    /// It also goes without.
    pub plain: bool,
    /// Nothing is offered, for this reason.
    pub refusal: Option<String>,
}

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// To do what.
    pub access: Access,
    /// Others may stay.
    pub shared: bool,
}

/// How it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More has to come.
    More,
    /// When what was answered has been sent, TLS begins; then [`Handshake::secured`].
    StartTls,
    /// It is over.
    Done(Admission),
}

/// Why nobody comes in. What the client should hear of it is among the answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not this protocol.
    #[error("it does not speak RFB")]
    NotRfb,
    /// A type of security that was not offered.
    #[error("it wants security of type {0}, which was not offered")]
    NotOffered(u32),
    /// A version of VeNCrypt that is not 0.2.
    #[error("it speaks VeNCrypt {0}.{1}, not 0.2")]
    VeNCrypt(u8, u8),
    /// The password is wrong.
    #[error("wrong password")]
    WrongPassword,
    /// The offer's own reason, or the guard's.
    #[error("refused: {0}")]
    Refused(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V3_3,
    V3_7,
    V3_8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Version,
    Type,
    VeNCryptVersion,
    VeNCryptType,
    Tls(u32),
    Response,
    ClientInit,
}

/// A handshake under way.
#[derive(Debug)]
pub struct Handshake {
    offer: Offer,
    challenge: [u8; CHALLENGE],
    version: Version,
    state: State,
    access: Access,
}

impl Handshake {
    /// Greets a client; `challenge` is random.
    pub fn new(offer: Offer, challenge: [u8; CHALLENGE], out: &mut Vec<u8>) -> Handshake {
        out.extend(VERSION);
        let (version, state) = (Version::V3_8, State::Version);
        Handshake { offer, challenge, version, state, access: Access::Full }
    }

    /// TLS has been put under it.
    pub fn secured(&mut self, out: &mut Vec<u8>) {
        if let State::Tls(kind) = self.state {
            self.prove(kind == X509_VNC, out);
        }
    }

    /// True once the client has said that it speaks RFB.
    pub fn has_begun(&self) -> bool {
        self.state != State::Version
    }

    /// True once the client has said what it wants: from here on its user may be asked things.
    pub fn is_waiting_for_user(&self) -> bool {
        matches!(self.state, State::Response | State::ClientInit | State::Tls(_))
    }

    /// Goes on with what has come, and answers how many bytes of it are done with. `check` looks at
    /// the answer to a challenge.
    ///
    /// # Errors
    /// [`HandshakeError`]: `out` is to be sent, and then it is over.
    pub fn step(
        &mut self,
        input: &[u8],
        check: &mut dyn FnMut(&[u8; CHALLENGE], &[u8]) -> Verdict,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Step), HandshakeError> {
        let mut rest = input;
        loop {
            let used = input.len().saturating_sub(rest.len());
            let Some((message, after)) = rest.split_at_checked(self.expects()) else {
                // What cannot become a version is told from one that has not all come.
                if self.state == State::Version && !VERSION.starts_with(&prefix(rest)) {
                    return Err(HandshakeError::NotRfb);
                }
                return Ok((used, Step::More));
            };
            rest = after;
            let used = used.saturating_add(message.len());
            match self.message(message, check, out)? {
                Step::More => {}
                step => return Ok((used, step)),
            }
        }
    }

    /// How long the client's next message is.
    fn expects(&self) -> usize {
        match self.state {
            State::Version => VERSION.len(),
            State::Type | State::ClientInit => 1,
            State::VeNCryptVersion => 2,
            State::VeNCryptType => 4,
            State::Response => LONGEST,
            // Nothing is expected in the clear.
            State::Tls(_) => usize::MAX,
        }
    }

    fn message(
        &mut self,
        message: &[u8],
        check: &mut dyn FnMut(&[u8; CHALLENGE], &[u8]) -> Verdict,
        out: &mut Vec<u8>,
    ) -> Result<Step, HandshakeError> {
        match self.state {
            State::Version => self.on_version(message, out),
            State::Type => self.on_type(message.first().copied().unwrap_or(INVALID), out),
            State::VeNCryptVersion => {
                if message != [0, 2] {
                    out.push(0xff);
                    let part = |n: usize| message.get(n).copied().unwrap_or_default();
                    return Err(HandshakeError::VeNCrypt(part(0), part(1)));
                }
                let kinds = self.kinds();
                out.extend([0, kinds.len() as u8]);
                out.extend(kinds.iter().flat_map(|kind| kind.to_be_bytes()));
                self.state = State::VeNCryptType;
                Ok(Step::More)
            }
            State::VeNCryptType => {
                let kind = message.try_into().map(u32::from_be_bytes).unwrap_or(0);
                if !self.kinds().contains(&kind) {
                    out.push(0);
                    return Err(HandshakeError::NotOffered(kind));
                }
                out.push(1);
                self.state = State::Tls(kind);
                Ok(Step::StartTls)
            }
            State::Tls(_) => Ok(Step::StartTls),
            State::Response => self.on_response(check(&self.challenge, message), out),
            State::ClientInit => {
                let shared = message.first().is_some_and(|flag| *flag != 0);
                Ok(Step::Done(Admission { access: self.access, shared }))
            }
        }
    }

    /// RFC 6143 §7.1.1. Numbers that others use are taken for the published version before them.
    fn on_version(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let number = |range: std::ops::Range<usize>| -> Option<u32> {
            let digits = message.get(range)?;
            let all = digits.iter().all(u8::is_ascii_digit);
            std::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
        };
        let (Some(major), Some(minor)) = (number(4..7), number(8..11)) else {
            return Err(HandshakeError::NotRfb);
        };
        if prefix(message) != *VERSION {
            return Err(HandshakeError::NotRfb);
        }
        self.version = match (major, minor) {
            (0..3, _) => return Err(HandshakeError::NotRfb),
            (3, 0..7) => Version::V3_3,
            (3, 7) => Version::V3_7,
            _ => Version::V3_8,
        };
        let types = match &self.offer.refusal {
            None => self.types(),
            Some(_) => Vec::new(),
        };
        if self.version == Version::V3_3 {
            // The server decides, and VeNCrypt has no place in it.
            let kind = types.iter().copied().find(|kind| *kind != VENCRYPT).unwrap_or(INVALID);
            out.extend(u32::from(kind).to_be_bytes());
            if kind == INVALID {
                return Err(self.refuse("this server asks for VeNCrypt", out));
            }
            self.prove(kind == VNC_AUTH, out);
            return Ok(Step::More);
        }
        out.push(types.len() as u8);
        out.extend(&types);
        if types.is_empty() {
            return Err(self.refuse("nothing is offered", out));
        }
        self.state = State::Type;
        Ok(Step::More)
    }

    /// Says why nothing is offered: the offer's own reason, or `otherwise`.
    fn refuse(&self, otherwise: &str, out: &mut Vec<u8>) -> HandshakeError {
        let why = self.offer.refusal.clone().unwrap_or_else(|| otherwise.to_owned());
        reason(&why, out);
        HandshakeError::Refused(why)
    }

    /// RFC 6143 §7.1.2.
    fn on_type(&mut self, kind: u8, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        if !self.types().contains(&kind) {
            out.extend(1u32.to_be_bytes());
            if self.version == Version::V3_8 {
                reason("that type of security was not offered", out);
            }
            return Err(HandshakeError::NotOffered(kind.into()));
        }
        if kind == VENCRYPT {
            out.extend([0, 2]);
            self.state = State::VeNCryptVersion;
        } else {
            self.prove(kind == VNC_AUTH, out);
        }
        Ok(Step::More)
    }

    /// Asks for a password, or does without.
    fn prove(&mut self, password: bool, out: &mut Vec<u8>) {
        if password {
            out.extend(self.challenge);
            self.state = State::Response;
        } else {
            // RFC 6143 §7.2.1: before 3.8 nothing is said of it, with VeNCrypt there is 3.8.
            if self.version == Version::V3_8 || matches!(self.state, State::Tls(_)) {
                out.extend(0u32.to_be_bytes());
            }
            self.state = State::ClientInit;
        }
    }

    /// RFC 6143 §7.1.3.
    fn on_response(&mut self, verdict: Verdict, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let (why, error) = match verdict {
            Verdict::Admitted(access) => {
                out.extend(0u32.to_be_bytes());
                self.access = access;
                self.state = State::ClientInit;
                return Ok(Step::More);
            }
            Verdict::Wrong => ("wrong password".to_owned(), HandshakeError::WrongPassword),
            Verdict::TooMany(wait) => {
                let why = too_many(wait);
                (why.clone(), HandshakeError::Refused(why))
            }
        };
        out.extend(1u32.to_be_bytes());
        if self.version == Version::V3_8 {
            reason(&why, out);
        }
        Err(error)
    }

    /// What is offered, best first.
    fn types(&self) -> Vec<u8> {
        let plain = if self.offer.password { VNC_AUTH } else { NONE };
        [(self.offer.tls, VENCRYPT), (self.offer.plain, plain)]
            .into_iter()
            .filter_map(|(offered, kind)| offered.then_some(kind))
            .collect()
    }

    /// The kinds of VeNCrypt that are offered.
    fn kinds(&self) -> [u32; 1] {
        [if self.offer.password { X509_VNC } else { X509_NONE }]
    }
}

/// What a client is told that has to wait.
pub fn too_many(wait: std::time::Duration) -> String {
    let seconds = wait.as_secs().saturating_add(1);
    format!("too many wrong passwords; try again in {seconds} seconds")
}

/// The beginning of a version, its digits made those of [`VERSION`].
fn prefix(bytes: &[u8]) -> Vec<u8> {
    let own = |(byte, own): (&u8, &u8)| match byte.is_ascii_digit() && own.is_ascii_digit() {
        true => *own,
        false => *byte,
    };
    bytes.iter().zip(VERSION).map(own).collect()
}

/// A reason (RFC 6143 §7.1.2, §7.1.3).
fn reason(why: &str, out: &mut Vec<u8>) {
    out.extend((why.len() as u32).to_be_bytes());
    out.extend(why.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const OPEN: Offer = Offer { password: false, tls: false, plain: true, refusal: None };
    const PASSWORD: Offer = Offer { password: true, ..OPEN };
    const TLS: Offer = Offer { tls: true, plain: false, ..PASSWORD };

    /// What a client that says `says` hears, and how it ends. The right answer is sixteen times R,
    /// V only looks.
    fn talk(offer: &Offer, says: &[&[u8]]) -> (Vec<u8>, Result<Step, HandshakeError>) {
        let says = says.concat();
        let ends = [1, 3, says.len()].map(|piece| {
            let mut out = Vec::new();
            let mut handshake = Handshake::new(offer.clone(), [7; 16], &mut out);
            let (mut input, mut end) = (Vec::new(), Ok(Step::More));
            let mut check = |challenge: &[u8; 16], answer: &[u8]| {
                assert_eq!(challenge, &[7; 16]);
                match answer {
                    [b'R', ..] => Verdict::Admitted(Access::Full),
                    [b'V', ..] => Verdict::Admitted(Access::View),
                    [b'L', ..] => Verdict::TooMany(Duration::from_secs(8)),
                    _ => Verdict::Wrong,
                }
            };
            for part in says.chunks(piece.max(1)) {
                input.extend(part);
                loop {
                    end = match handshake.step(&input, &mut check, &mut out) {
                        Ok((used, step)) => {
                            input.drain(..used);
                            Ok(step)
                        }
                        Err(error) => Err(error),
                    };
                    match end {
                        Ok(Step::StartTls) => handshake.secured(&mut out),
                        _ => break,
                    }
                }
                if !matches!(end, Ok(Step::More)) {
                    break;
                }
            }
            (out, end)
        });
        let [one, three, all] = ends;
        assert_eq!(one, three);
        assert_eq!(one, all);
        one
    }

    fn done(access: Access, shared: bool) -> Result<Step, HandshakeError> {
        Ok(Step::Done(Admission { access, shared }))
    }

    fn said(parts: &[&[u8]]) -> Vec<u8> {
        let mut all = VERSION.to_vec();
        all.extend(parts.concat());
        all
    }

    #[test]
    fn without_a_password_in_every_version() {
        let open = |version: &[u8], kind: &[u8]| talk(&OPEN, &[version, kind, &[1]]);
        let ok = &[0, 0, 0, 0][..];
        let (out, end) = open(b"RFB 003.008\n", &[1]);
        assert_eq!((out, end), (said(&[&[1, 1], ok]), done(Access::Full, true)));
        let (out, end) = open(b"RFB 003.007\n", &[1]);
        assert_eq!((out, end), (said(&[&[1, 1]]), done(Access::Full, true)));
        for old in [b"RFB 003.003\n", b"RFB 003.005\n"] {
            let (out, end) = open(old, &[]);
            assert_eq!((out, end), (said(&[&[0, 0, 0, 1]]), done(Access::Full, true)));
        }
        for new in [b"RFB 003.889\n", b"RFB 004.001\n", b"RFB 005.000\n"] {
            assert_eq!(open(new, &[1]).0, said(&[&[1, 1], ok]));
        }
    }

    #[test]
    fn with_a_password_in_every_version() {
        let ask = [7; 16];
        let new = |answer: u8| talk(&PASSWORD, &[b"RFB 003.008\n", &[2], &[answer; 16], &[0]]);
        let (out, end) = new(b'R');
        assert_eq!((out, end), (said(&[&[1, 2], &ask, &[0; 4]]), done(Access::Full, false)));
        assert_eq!(new(b'V').1, done(Access::View, false));
        let (out, end) = new(b'x');
        let text = [&14u32.to_be_bytes()[..], b"wrong password"].concat();
        assert_eq!(out, said(&[&[1, 2], &ask, &[0, 0, 0, 1], &text]));
        assert_eq!(end, Err(HandshakeError::WrongPassword));
        let told = String::from_utf8_lossy(&new(b'L').0).into_owned();
        assert!(told.ends_with("too many wrong passwords; try again in 9 seconds"), "{told}");
        let old = |answer: u8| talk(&PASSWORD, &[b"RFB 003.003\n", &[answer; 16], &[1]]);
        assert_eq!(old(b'R').0, said(&[&[0, 0, 0, 2], &ask, &[0; 4]]));
        assert_eq!(old(b'x').0, said(&[&[0, 0, 0, 2], &ask, &[0, 0, 0, 1]]));
    }

    #[test]
    fn what_was_not_offered_lets_nobody_in() {
        for kind in [0, 1, 3, 5, 16, 18, 19, 255] {
            let (_, end) = talk(&PASSWORD, &[b"RFB 003.008\n", &[kind], &[1; 40]]);
            assert_eq!(end, Err(HandshakeError::NotOffered(kind.into())));
        }
        for kind in [1, 2] {
            let (_, end) = talk(&TLS, &[b"RFB 003.008\n", &[kind], &[b'R'; 40]]);
            assert_eq!(end, Err(HandshakeError::NotOffered(kind.into())));
        }
        for kind in [0u32, 1, 2, 256, 257, 258, 259, 260, 262, u32::MAX] {
            let (_, end) = talk(&TLS, &[b"RFB 003.008\n", &[19, 0, 2], &kind.to_be_bytes()]);
            assert_eq!(end, Err(HandshakeError::NotOffered(kind)));
        }
        let (out, end) = talk(&TLS, &[b"RFB 003.003\n", &[1; 40]]);
        assert!(matches!(end, Err(HandshakeError::Refused(_))), "3.3 has no VeNCrypt");
        assert_eq!(out[12..16], [0; 4]);
        let (_, end) = talk(&TLS, &[b"RFB 003.008\n", &[19, 0, 1]]);
        assert_eq!(end, Err(HandshakeError::VeNCrypt(0, 1)));
    }

    #[test]
    fn vencrypt_with_and_without_password() {
        let vnc = X509_VNC.to_be_bytes();
        let (out, end) = talk(&TLS, &[b"RFB 003.008\n", &[19, 0, 2], &vnc, &[b'R'; 16], &[1]]);
        let want = said(&[&[1, 19], &[0, 2], &[0, 1], &vnc, &[1], &[7; 16], &[0; 4]]);
        assert_eq!((out, end), (want, done(Access::Full, true)));
        let offer = Offer { password: false, plain: true, ..TLS };
        let none = X509_NONE.to_be_bytes();
        let (out, end) = talk(&offer, &[b"RFB 003.008\n", &[19, 0, 2], &none, &[0]]);
        let want = said(&[&[2, 19, 1], &[0, 2], &[0, 1], &none, &[1], &[0; 4]]);
        assert_eq!((out, end), (want, done(Access::Full, false)));
    }

    #[test]
    fn who_is_refused_hears_why() {
        let offer = Offer { refusal: Some("full".to_owned()), ..OPEN };
        let (out, end) = talk(&offer, &[b"RFB 003.008\n", &[1, 1]]);
        assert_eq!(out, said(&[&[0], &[0, 0, 0, 4], b"full"]));
        assert_eq!(end, Err(HandshakeError::Refused("full".to_owned())));
        let (out, _) = talk(&offer, &[b"RFB 003.003\n", &[1, 1]]);
        assert_eq!(out, said(&[&[0; 4], &[0, 0, 0, 4], b"full"]));
    }

    #[test]
    fn other_protocols_are_told_at_their_first_bytes() {
        for other in
            [&b"GET / HT"[..], b"SSH-2.0-x", b"\x16\x03", b"RFB 003.0x8\n", b"RFB +03.008\n"]
        {
            assert_eq!(talk(&OPEN, &[other]).1, Err(HandshakeError::NotRfb), "{other:?}");
        }
        assert_eq!(talk(&OPEN, &[b"RFB 002.002\n"]).1, Err(HandshakeError::NotRfb));
        assert_eq!(talk(&OPEN, &[b"RFB 003.00"]).1, Ok(Step::More));
    }
}

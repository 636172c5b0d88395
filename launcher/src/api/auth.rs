//! Who may ask for what. With a VNC password, everything on the network but `/healthz` and `/readyz`
//! needs it, as HTTP Basic authentication (RFC 7617) with any user name; `/metrics`, too, would tell
//! strangers when somebody works. The control socket needs none: it has its mode.
//!
//! The password and the count of wrong guesses are VNC's, behind [`Passwords`]: whoever guesses does
//! not get more guesses by guessing here.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::BASE64;

use super::http::{Request, Response};
use super::origin::Origin;
use crate::server::passwords::Access;

/// What a password is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Right(Access),
    /// It is not.
    Wrong,
    /// It was not looked at: there were too many wrong ones. In how long one is looked at again.
    Later(Duration),
}

/// The passwords.
pub trait Passwords: Send + Sync {
    /// Whether one is needed.
    fn needed(&self) -> bool;
    /// Judges a guess from `from`, in a time that tells nothing about the password. Wrong ones count
    /// against the guesser.
    fn judge(&self, from: IpAddr, guess: &[u8]) -> Verdict;
}

/// What the sender of `request` may do.
///
/// # Errors
/// The answer that asks for the password, or for patience.
pub fn access(
    request: &Request,
    from: Origin,
    passwords: Option<&dyn Passwords>,
) -> Result<Access, Box<Response>> {
    let Origin::Network(address) = from else { return Ok(Access::Full) };
    let Some(passwords) = passwords.filter(|passwords| passwords.needed()) else {
        return Ok(Access::Full);
    };
    let ask = |line: &str| {
        let challenge = "Basic realm=\"Berth\", charset=\"UTF-8\"";
        Box::new(Response::line(401, line).with("WWW-Authenticate", challenge))
    };
    let Some(guess) = guess(request) else {
        // Not a guess: browsers ask without first.
        return Err(ask("this needs the VNC password, with any user name"));
    };
    match passwords.judge(address, &guess) {
        Verdict::Right(access) => Ok(access),
        Verdict::Wrong => Err(ask("the password is wrong")),
        Verdict::Later(wait) => {
            let seconds = wait.as_secs().saturating_add(1).to_string();
            let line = "there were too many wrong passwords; try again later";
            Err(Box::new(Response::line(429, line).with("Retry-After", seconds)))
        }
    }
}

/// The password in the request, whatever the user name.
fn guess(request: &Request) -> Option<Vec<u8>> {
    let (scheme, credentials) = request.field("authorization")?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64.decode(credentials.trim().as_bytes()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    decoded.get(colon.saturating_add(1)..).map(<[u8]>::to_vec)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::api::http::parse;

    /// Passwords `full` and `view`; an address that ends in 9 has guessed too often.
    pub struct Fake(pub bool);

    impl Passwords for Fake {
        fn needed(&self) -> bool {
            self.0
        }

        fn judge(&self, from: IpAddr, guess: &[u8]) -> Verdict {
            match guess {
                _ if from.to_string().ends_with('9') => Verdict::Later(Duration::from_secs(4)),
                b"full" => Verdict::Right(Access::Full),
                b"view" => Verdict::Right(Access::View),
                _ => Verdict::Wrong,
            }
        }
    }

    fn ask(from: Origin, needed: bool, authorization: &str) -> Result<Access, u16> {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n\r\n");
        let request = parse(text.as_bytes()).unwrap().unwrap().0;
        access(&request, from, Some(&Fake(needed))).map_err(|response| response.status)
    }

    #[test]
    fn the_password_opens_whatever_the_name() {
        let from = Origin::Network([10, 0, 0, 1].into());
        let basic = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
        assert_eq!(ask(from, true, &basic("me:full")), Ok(Access::Full));
        assert_eq!(ask(from, true, &basic(":view")), Ok(Access::View));
        assert_eq!(ask(from, true, &basic("a:b:full")), Err(401));
        assert_eq!(ask(from, true, "basic  OmZ1bGw="), Ok(Access::Full));
        for wrong in [
            "",
            "Basic",
            "Basic ",
            "Basic full",
            "Bearer OmZ1bGw=",
            "Basic OmZ1bGw",
            &basic("full"),
        ] {
            assert_eq!(ask(from, true, wrong), Err(401), "{wrong}");
        }
        assert_eq!(ask(Origin::Network([10, 0, 0, 9].into()), true, &basic(":full")), Err(429));
        assert_eq!(ask(Origin::Network([10, 0, 0, 9].into()), true, ""), Err(401));
        assert_eq!(ask(from, false, ""), Ok(Access::Full));
        assert_eq!(ask(Origin::Control, true, ""), Ok(Access::Full));
    }

    #[test]
    fn a_browser_is_told_to_ask() {
        let request = parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap().0;
        let from = Origin::Network([10, 0, 0, 1].into());
        let response = access(&request, from, Some(&Fake(true))).unwrap_err();
        assert_eq!(response.fields[0].0, "WWW-Authenticate");
        assert_eq!(access(&request, from, None), Ok(Access::Full));
    }
}

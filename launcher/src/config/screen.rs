//! The screen's settings: whether and where it is served, who may see it, and how large it is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::value::{Wrong, wrong};
use super::{ConfigError, Layers, Net, parse, switch};
use crate::args::{self, Field};
use crate::host::Host;
use crate::server::address;
use crate::server::passwords::{Passwords, Secret, Source};
use crate::server::tls::Certificate;

/// The display's memory in bytes; a pixel takes four of them.
const DISPLAY_BYTES: u64 = 16 << 20;
/// Its sides in pixels.
const WIDTHS: std::ops::RangeInclusive<u16> = 320..=4096;
const HEIGHTS: std::ops::RangeInclusive<u16> = 200..=4096;

/// How the screen is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vnc {
    /// Where.
    pub listen: Vec<SocketAddr>,
    /// Whether the machine does not start when that cannot be: it was asked for, or the port is
    /// this pod's alone.
    pub required: bool,
    /// Who may see it.
    pub passwords: Passwords,
    /// Certificate and key for TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Size of a display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Pixels a row.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl Default for Mode {
    fn default() -> Mode {
        Mode { width: 1024, height: 768 }
    }
}

/// The display's size.
///
/// # Errors
/// No display has it.
pub fn display(layers: &Layers) -> Result<Mode, ConfigError> {
    Ok(parse(layers, args::DISPLAY, mode)?.unwrap_or_default())
}

/// How the screen is served; `None`: not at all.
///
/// # Errors
/// A wrong value, a file that cannot be used, or a screen that strangers could see.
pub fn vnc(
    layers: &Layers,
    host: &Host,
    net: &Net,
    warnings: &mut Vec<String>,
) -> Result<Option<Vnc>, ConfigError> {
    if switch(layers, args::NO_VNC) {
        return Ok(None);
    }
    let passwords = passwords(layers)?;
    let everywhere = passwords.asked_for() || switch(layers, args::VNC_OPEN);
    let given = layers.listen();
    let mut listen = Vec::new();
    for given in &given {
        let fix = "write ADDRESS, ADDRESS:PORT or :PORT, such as 127.0.0.1:5901 or [::1]:5901";
        let address = address::parse(&given.value)
            .ok_or_else(|| given.error("is not an address of this host", fix))?;
        if !everywhere && !address.ip().to_canonical().is_loopback() {
            return Err(given.error(
                "lets everybody in, since there is no password",
                "set VNC_PASSWORD or VNC_PASSWORD_FILE, or say with --vnc-open that the network is \
                 trusted",
            ));
        }
        if [Net::Pod, Net::Direct].contains(net)
            && address.port() != address::PORT
            && !address.ip().to_canonical().is_loopback()
        {
            warnings.push(format!(
                "the screen on {address} cannot be reached from outside: with this network only \
                 port {} is not the guest's",
                address::PORT
            ));
        }
        listen.push(address);
    }
    let required = !listen.is_empty() || host.in_container;
    if listen.is_empty() {
        listen = address::default(everywhere);
    }
    Ok(Some(Vnc { listen, required, passwords, tls: tls(layers)? }))
}

fn passwords(layers: &Layers) -> Result<Passwords, ConfigError> {
    let file = password_file(layers, args::VNC_PASSWORD_FILE)?;
    let view = password_file(layers, args::VNC_VIEW_PASSWORD_FILE)?;
    // The value itself is in no message.
    let full = match (layers.get(args::VNC_PASSWORD), file) {
        (None, file) => file,
        (Some(given), None) if given.value.is_empty() => {
            let told =
                format!("{}: the password is empty; give one, or leave it away", given.origin);
            return Err(ConfigError::Together(told));
        }
        (Some(given), None) => Some(Source::Given(Secret::new(given.value))),
        (Some(given), Some(_)) => {
            return Err(ConfigError::Together(format!(
                "{} and a password file both give the screen's password; give one of them",
                given.origin
            )));
        }
    };
    if view.is_some() && full.is_none() {
        return Err(ConfigError::Together(
            "there is a password for those who may only look, and none for those who may do \
             everything; set VNC_PASSWORD or VNC_PASSWORD_FILE too"
                .to_owned(),
        ));
    }
    Ok(Passwords { full, view })
}

/// A file that has a password in it now.
fn password_file(layers: &Layers, field: Field) -> Result<Option<Source>, ConfigError> {
    let Some(given) = layers.get(field) else { return Ok(None) };
    let path = PathBuf::from(given.value);
    let source = Source::File(path.clone());
    match source.read() {
        Ok(_) => Ok(Some(source)),
        Err(error) => {
            Err(ConfigError::Unreadable { origin: given.origin, path, reason: error.to_string() })
        }
    }
}

/// Certificate and key that go together now.
fn tls(layers: &Layers) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    let (certificate, key) = (layers.get(args::VNC_TLS_CERT), layers.get(args::VNC_TLS_KEY));
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(given), None) => {
            Err(given.error("is a certificate without its key", "give --vnc-tls-key too"))
        }
        (None, Some(given)) => {
            Err(given.error("is a key without its certificate", "give --vnc-tls-cert too"))
        }
        (Some(certificate), Some(key)) => {
            let origin = certificate.origin;
            let paths = (PathBuf::from(certificate.value), PathBuf::from(key.value));
            match Certificate::load(Path::new(&paths.0), Path::new(&paths.1)) {
                Ok(_) => Ok(Some(paths)),
                Err(error) => {
                    let told = crate::failure::sentence(&error);
                    Err(ConfigError::Together(format!("{origin}: {told}")))
                }
            }
        }
    }
}

/// `WIDTHxHEIGHT`.
fn mode(text: &str) -> Result<Mode, Wrong> {
    let side = |text: &str, range: std::ops::RangeInclusive<u16>| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|side| digits && range.contains(side))
    };
    let sides = text.split_once('x').and_then(|(w, h)| side(w, WIDTHS).zip(side(h, HEIGHTS)));
    let fits = |(width, height): &(u16, u16)| {
        width.is_multiple_of(8)
            && u64::from(*width).saturating_mul(u64::from(*height)) <= DISPLAY_BYTES / 4
    };
    match sides.filter(fits) {
        Some((width, height)) => Ok(Mode { width, height }),
        None => wrong(
            "is not a size that the display can have",
            "write WIDTHxHEIGHT, such as 1920x1080: a multiple of 8 from 320 to 4096 by 200 to \
             4096, of at most 4194304 pixels",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let size = |width, height| Ok(Mode { width, height });
        assert_eq!(mode("1024x768"), size(1024, 768));
        assert_eq!(mode("320x200"), size(320, 200));
        assert_eq!(mode("2560x1600"), size(2560, 1600));
        for bad in [
            "",
            "x",
            "1024",
            "1024X768",
            "+800x600",
            "800x600x8",
            "1366x768",
            "312x200",
            "320x199",
            "4096x2048",
            "800 x600",
            "65544x600",
        ] {
            assert!(mode(bad).is_err(), "{bad}");
        }
        assert_eq!(mode("2048x2048"), size(2048, 2048));
    }
}

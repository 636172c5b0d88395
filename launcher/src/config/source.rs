//! Where the base comes from: a local file, or a URL it is fetched from once, with all that fetching
//! depends on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::{Given, Layers, Origin};
use super::{ConfigError, look, parse, value};
use crate::args;
use crate::host::Host;
use crate::image::fetch::certificates::Trust;
use crate::image::fetch::client::Manner;
use crate::image::fetch::url::{Url, is_base_name, is_url};
use crate::image::fetch::{Wanted, WantedDigest, unpacked_name};
use crate::units;

const DEFAULT_STALL: Duration = Duration::from_secs(60);
const MAX_STALL: Duration = Duration::from_secs(3600);
const DEFAULT_TRIES: u32 = 10;
const MAX_TRIES: u32 = 1000;

/// Where the base is, what it has to have, and what has to be fetched before it is there.
pub(super) struct Source {
    /// Its path.
    pub base: PathBuf,
    /// A digest that the file at that path has to have.
    pub digest: Option<value::Digest>,
    /// What has to be fetched to that path.
    pub wanted: Option<Wanted>,
}

/// The base; `None`: none was named.
pub(super) fn source(
    layers: &Layers,
    host: &Host,
    image_dir: &Path,
    warnings: &mut Vec<String>,
) -> Result<Option<Source>, ConfigError> {
    let name = parse(layers, args::IMAGE_NAME, value::file_name)?;
    let given = layers.get(args::IMAGE_SOURCE);
    let given = match (given, name) {
        (Some(given), _) if is_url(&given.value) => {
            let wanted = wanted(layers, host, &given)?;
            let base = image_dir.join(&wanted.name);
            return Ok(Some(Source { base, digest: None, wanted: Some(wanted) }));
        }
        (Some(given), name) => {
            if name.is_some() {
                warnings.push(format!(
                    "--image-name is not used: {} is a local image, and is used where it is",
                    given.value
                ));
            }
            given
        }
        (None, Some(name)) => Given {
            value: image_dir.join(name).display().to_string(),
            origin: layers.get(args::IMAGE_NAME).map_or(Origin::Found, |given| given.origin),
        },
        (None, None) => return Ok(None),
    };
    let digest = match digest(layers)? {
        None => None,
        Some(WantedDigest::Is(digest)) => Some(digest),
        Some(WantedDigest::Listed(list)) => {
            let given = layers.get(args::IMAGE_SHA256).unwrap_or(given);
            return Err(Given { value: list.to_string(), ..given }.error(
                "is a list of checksums, for images that are fetched, and this one is local",
                "give the digest itself",
            ));
        }
    };
    Ok(Some(Source { base: local_image(&given)?, digest, wanted: None }))
}

/// What `given`, a URL, asks for.
///
/// # Errors
/// [`ConfigError`].
pub fn wanted(layers: &Layers, host: &Host, given: &Given) -> Result<Wanted, ConfigError> {
    let url = url(given)?;
    let name = match parse(layers, args::IMAGE_NAME, value::file_name)? {
        Some(name) if is_base_name(&name) => name,
        Some(name) => {
            let origin = layers.get(args::IMAGE_NAME).map_or(Origin::Found, |given| given.origin);
            return Err(Given { value: name, origin }.error(
                "cannot name a base: it would be taken for a file that belongs to another",
                "give a name like debian-12.qcow2",
            ));
        }
        None => url.file_name().map(|name| unpacked_name(&name).to_owned()).ok_or_else(|| {
            let given = Given { value: url.to_string(), origin: given.origin.clone() };
            given.error("does not end in a name for the base", "give one with --image-name")
        })?,
    };
    let trust = Trust { added: certificates(layers)?, ..host.trust.clone() };
    let manner = Manner {
        stall: stall(layers)?,
        tries: parse(layers, args::IMAGE_TRIES, |text| {
            value::number(text, 1, u64::from(MAX_TRIES))
        })?
        .and_then(|tries| u32::try_from(tries).ok())
        .unwrap_or(DEFAULT_TRIES),
        proxies: host.proxies.clone(),
        trust,
    };
    let format = parse(layers, args::IMAGE_FORMAT, value::format)?;
    Ok(Wanted { url, name, digest: digest(layers)?, format, manner })
}

/// A value as it may be shown, if it is a URL: it may hold a password, or a signature.
pub(super) fn without_secrets(value: &str) -> String {
    match Url::parse(value) {
        Ok(url) => url.to_string(),
        Err(_) if is_url(value) => value.rsplit('@').next().unwrap_or_default().to_owned(),
        Err(_) => value.to_owned(),
    }
}

fn url(given: &Given) -> Result<Url, ConfigError> {
    Url::parse(&given.value).map_err(|error| {
        let value = without_secrets(&given.value);
        let given = Given { value, origin: given.origin.clone() };
        given.error(error, "write http:// or https://, a host and a path")
    })
}

/// A digest, or a list of them.
fn digest(layers: &Layers) -> Result<Option<WantedDigest>, ConfigError> {
    match layers.get(args::IMAGE_SHA256) {
        None => Ok(None),
        Some(given) if is_url(&given.value) => url(&given).map(WantedDigest::Listed).map(Some),
        Some(_) => Ok(parse(layers, args::IMAGE_SHA256, value::digest)?.map(WantedDigest::Is)),
    }
}

fn certificates(layers: &Layers) -> Result<Option<PathBuf>, ConfigError> {
    let Some(given) = layers.get(args::IMAGE_CA) else { return Ok(None) };
    let path = PathBuf::from(given.value);
    match look(&path, false) {
        Ok(()) => Ok(Some(path)),
        Err(reason) => Err(ConfigError::Unreadable { origin: given.origin, path, reason }),
    }
}

fn stall(layers: &Layers) -> Result<Duration, ConfigError> {
    let Some(given) = layers.get(args::IMAGE_TIMEOUT) else { return Ok(DEFAULT_STALL) };
    let fix = "write seconds as a plain number, or a unit such as 90s or 2m";
    let time = units::duration(&given.value).map_err(|problem| given.error(problem, fix))?;
    if time.is_zero() || time > MAX_STALL {
        return Err(given.error("is no time to wait for a server", "give between 1s and 1h"));
    }
    Ok(time)
}

/// The base, which has to be a local file.
fn local_image(given: &Given) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(&given.value);
    look(&path, false).map_err(|reason| {
        given.error(
            format_args!("cannot be opened: {reason}"),
            "name a qcow2 or raw image that this user can read",
        )
    })?;
    Ok(path)
}

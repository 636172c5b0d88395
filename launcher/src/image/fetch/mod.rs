//! Fetching a base into the image directory: once, by one process of all that share it, and never
//! anything but the whole file that was asked for.
//!
//! The story is in [`fetch`]: what is there already is used without asking anybody. Else, under
//! the lock ([`lock`]), the file comes under a temporary name ([`transfer`], [`partial`]), is
//! checked (length, digest, and that it is an image: [`inspect`]), unpacked if need be
//! ([`unpack`]), and appears under its own name, read-only, whole and durable ([`publish`]),
//! beside a record of where it came from ([`record`]). Whatever goes wrong, there is no base.
//!
//! Runs on the main thread before the machine starts; each request has a thread `fetch`
//! ([`client`]). Left out: other protocols, signatures of checksums.

mod answer;
pub mod certificates;
mod checksums;
pub mod client;
mod inspect;
mod lock;
mod partial;
mod present;
mod progress;
pub mod proxies;
mod publish;
mod record;
mod retry;
mod room;
mod transfer;
mod unpack;
pub mod url;

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::config::{Digest, Format};
use crate::image::base::Cancelled;
use client::{Client, Manner};
use lock::FetchLock;
use partial::Partial;
use progress::Progress;
pub use record::Record;
pub use unpack::unpacked_name;
use url::Url;

/// How often a waiter looks.
const LOOK: Duration = Duration::from_millis(200);

/// A base that has to be there.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it is fetched from.
    pub url: Url,
    /// Its name in the image directory; see [`url::is_base_name`].
    pub name: String,
    /// What the file at the URL has to have.
    pub digest: Option<WantedDigest>,
    /// Its format, if stated.
    pub format: Option<Format>,
    /// How to fetch.
    pub manner: Manner,
}

/// A digest that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedDigest {
    /// This one.
    Is(Digest),
    /// The one in the list of checksums at this URL.
    Listed(Url),
}

/// Why a base is not there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A signal.
    #[error(
        "stopped by a signal; the next run goes on from what is there, where the server allows it"
    )]
    Cancelled,
    /// The answer will not change.
    #[error("{url} cannot be fetched: {reason}")]
    Refused {
        /// The source.
        url: String,
        /// Why.
        reason: String,
    },
    /// Too many failures.
    #[error(
        "{url} could not be fetched: gave up after {tries} tries in {seconds} s; the last: \
         {reason}; the next run goes on from what is there, where the server allows it"
    )]
    GaveUp {
        /// The source.
        url: String,
        /// How many tries there were.
        tries: u32,
        /// How long they took.
        seconds: u64,
        /// What happened at the last one.
        reason: String,
    },
    /// The volume.
    #[error(
        "the image directory {} is full: {needed}, and there are {free} that can be used; make \
         room and start again: {kept}", path.display()
    )]
    Full {
        /// The directory.
        path: PathBuf,
        /// What is needed.
        needed: String,
        /// What there is.
        free: String,
        /// What becomes of what is there.
        kept: &'static str,
    },
    /// The content is another.
    #[error(
        "{url} is not what was asked for: it has {found}, and {wanted} was asked for; nothing of \
         it is kept; correct --image-sha256, or the source"
    )]
    Digest {
        /// The source.
        url: String,
        /// Its digest.
        found: String,
        /// The one it should have.
        wanted: String,
    },
    /// It is no image.
    #[error("what was fetched from {url} {reason}; nothing of it is kept")]
    NoImage {
        /// The source.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The list has nothing to say.
    #[error("the list of checksums at {url} {reason}")]
    Checksums {
        /// The list.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The base there is another.
    #[error(
        "the image {} is {was}, not {is}; give the other another --image-name, or remove {} if \
         no machine uses it", path.display(), path.display()
    )]
    Other {
        /// The base.
        path: PathBuf,
        /// What it is.
        was: String,
        /// What was asked for.
        is: String,
    },
    /// Nobody knows what it is.
    #[error(
        "the image {} was not fetched by Berth, or its record {}.base is gone, so nothing says \
         that it is {url}; give its path instead of the URL to use it as it is, --image-sha256 to \
         have it checked, or remove it", path.display(), path.display()
    )]
    Unknown {
        /// The base.
        path: PathBuf,
        /// What was asked for.
        url: String,
    },
    /// Somebody wrote to it.
    #[error(
        "the image {} has changed since it was fetched: it was {was}, and is {is}; remove it to \
         fetch it again", path.display()
    )]
    Changed {
        /// The base.
        path: PathBuf,
        /// As it was fetched.
        was: String,
        /// As it is.
        is: String,
    },
    /// A file of the image directory.
    #[error("{} cannot be {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What could not be done with it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// For `map_err`.
fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::File { path, what, source }
}

/// Sees to it that the base `wanted` is in `dir`; answers its path.
///
/// # Errors
/// See [`FetchError`]; what is in `dir` under the base's name is a whole base then, or nothing.
pub fn fetch(dir: &Path, wanted: &Wanted, cancelled: Cancelled<'_>) -> Result<PathBuf, FetchError> {
    // A signal is told of once.
    let stopped = Cell::new(false);
    let cancelled: Cancelled<'_> = &|| {
        stopped.set(stopped.get() || cancelled());
        stopped.get()
    };
    let base = dir.join(&wanted.name);
    let client = Client::new(&wanted.manner);
    if present::is_there(&base, wanted, &client, cancelled)? {
        remove_leftovers(dir, &wanted.name);
        return Ok(base);
    }
    fs::create_dir_all(dir).map_err(failed(dir, "made"))?;
    let lock = wait_for_lock(dir, wanted, cancelled)?;
    // Another may have fetched it meanwhile, perhaps on another node.
    look_again(dir, &wanted.name);
    if !present::is_there(&base, wanted, &client, cancelled)? {
        get(dir, &base, wanted, &client, cancelled)?;
    }
    drop(lock);
    Ok(base)
}

/// What a run that was killed after the base had appeared has left beside it.
fn remove_leftovers(dir: &Path, name: &str) {
    let left = ["part", "part.json", "unpacked"].map(|kind| dir.join(format!(".{name}.{kind}")));
    if left.iter().any(|path| path.exists())
        && let Ok(Some(_lock)) = lock::try_take(&dir.join(format!("{name}.lock")))
    {
        left.iter().for_each(|path| partial::remove(path));
    }
}

/// What NFS has not found it may go on not finding for half a minute, unless it sees that the
/// directory has changed: which it does when it changes it.
fn look_again(dir: &Path, name: &str) {
    let path = dir.join(format!(".{name}.new"));
    if fs::write(&path, "").is_ok() {
        partial::remove(&path);
    }
}

/// Waits until nobody else fetches this base.
fn wait_for_lock(
    dir: &Path,
    wanted: &Wanted,
    cancelled: Cancelled<'_>,
) -> Result<FetchLock, FetchError> {
    let path = dir.join(format!("{}.lock", wanted.name));
    let mut progress = None;
    loop {
        if let Some(lock) = lock::try_take(&path).map_err(failed(&path, "locked"))? {
            return Ok(lock);
        }
        if cancelled() {
            return Err(FetchError::Cancelled);
        }
        let progress = progress.get_or_insert_with(|| {
            log::info!("another berth is fetching {}: waiting for it", wanted.name);
            Progress::new(format!("waiting for another berth to fetch {}", wanted.name))
        });
        let there = fs::metadata(Partial::path_of(dir, &wanted.name));
        progress.step(there.map_or(0, |meta| meta.len()), None);
        sleep(LOOK);
    }
}

/// Fetches the base; the caller holds the lock.
fn get(
    dir: &Path,
    base: &Path,
    wanted: &Wanted,
    client: &Client,
    cancelled: Cancelled<'_>,
) -> Result<(), FetchError> {
    let digest = match &wanted.digest {
        Some(WantedDigest::Is(digest)) => Some(digest.clone()),
        Some(WantedDigest::Listed(list)) => {
            Some(transfer::listed_digest(list, &wanted.url, client, cancelled)?)
        }
        None => None,
    };
    let path = Partial::path_of(dir, &wanted.name);
    let mut whole_run = false;
    loop {
        let mut partial =
            Partial::open(dir, &wanted.name, &wanted.url).map_err(failed(&path, "opened"))?;
        whole_run |= partial.len() == 0;
        if !partial.is_complete() {
            let vouched = digest.is_some();
            let came = transfer::download(&mut partial, dir, wanted, vouched, client, cancelled);
            if let Err(error) = came {
                if partial.len() == 0 {
                    partial.remove();
                }
                return Err(error);
            }
        }
        match publish::publish(partial, base, wanted, digest.as_ref(), cancelled) {
            // What another run has left may be of an edition that is no longer the one asked for.
            Err(FetchError::Digest { .. }) if !whole_run => {
                log::warn!("what an earlier run has left of {} is not it: anew", wanted.url);
            }
            outcome => return outcome,
        }
    }
}

//! Getting the bytes: tries, goes on from what is there where the server allows it (RFC 9110 §14,
//! `If-Range`), and begins anew where it does not, or where the file has changed in between.

use std::path::Path;

use super::answer::{Head, Length, Trouble};
use super::client::{Client, Rest, Stop, Transfer};
use super::partial::Partial;
use super::progress::{Progress, mib, share};
use super::retry::Retry;
use super::room::{self, NoRoom, Room};
use super::url::Url;
use super::{FetchError, Wanted, checksums, failed};
use crate::config::Digest;
use crate::image::base::Cancelled;

/// Less than this is no progress, in bytes: a server could go on for ever with it.
const PROGRESS: u64 = 64 << 10;
/// What the user is told of a partial file that stays.
const KEPT: &str = "what has been fetched is kept, and gone on from";

/// Fetches until `partial` is whole. `vouched`: a digest will be checked.
///
/// # Errors
/// See [`FetchError`].
pub fn download(
    partial: &mut Partial,
    dir: &Path,
    wanted: &Wanted,
    vouched: bool,
    client: &Client,
    cancelled: Cancelled<'_>,
) -> Result<(), FetchError> {
    let url = &wanted.url;
    match partial.len() {
        0 => log::info!("fetching {url}"),
        there => log::info!("fetching {url}: {} are there, going on", mib(there)),
    }
    let mut progress = Progress::new(format!("fetching {}", wanted.name));
    let mut retry = Retry::new(url, client.manner().tries, cancelled);
    let mut high = partial.high();
    let mut attempt = Attempt { partial, dir, wanted, vouched, client, cancelled };
    loop {
        let stop = match attempt.run(&mut progress) {
            Ok(()) => break,
            Err(stop) => stop,
        };
        let synced = attempt.partial.sync();
        let trouble = match (stop, synced) {
            // If it could not be synced any more, the state before holds.
            (Stop::Final(error), _) => return Err(error),
            (Stop::Trouble(_), Err(error)) => {
                return Err(attempt.write_error(error, attempt.partial.path()));
            }
            (Stop::Trouble(trouble), Ok(())) => trouble,
        };
        if attempt.partial.high().saturating_sub(high) >= PROGRESS {
            high = attempt.partial.high();
            retry.progressed();
        }
        progress.pause();
        retry.after(trouble)?;
    }
    progress.pause();
    let path = attempt.partial.path().to_owned();
    attempt.partial.complete().map_err(failed(&path, "written"))?;
    log::info!("fetched {url}: {}", mib(partial.len()));
    Ok(())
}

/// One try, and what it is about.
struct Attempt<'a> {
    partial: &'a mut Partial,
    dir: &'a Path,
    wanted: &'a Wanted,
    vouched: bool,
    client: &'a Client,
    cancelled: Cancelled<'a>,
}

impl Attempt<'_> {
    fn run(&mut self, progress: &mut Progress) -> Result<(), Stop> {
        let validator = self.partial.edition().validator().map(str::to_owned);
        let from = self.partial.len();
        let rest = validator.filter(|_| from > 0).map(|validator| Rest { from, validator });
        let asked_for_rest = rest.is_some();
        let (head, transfer) = match self.client.get(&self.wanted.url, rest, self.cancelled) {
            Err(Stop::Trouble(Trouble::Changed(reason))) if asked_for_rest => {
                log::info!("fetching {} from its beginning: {reason}", self.wanted.url);
                self.client.get(&self.wanted.url, None, self.cancelled)?
            }
            Ok((head, transfer)) if head.from > 0 => {
                if self.partial.edition().agrees(&head.edition) {
                    (head, transfer)
                } else {
                    log::info!("fetching {} from its beginning: it has changed", self.wanted.url);
                    drop(transfer);
                    self.client.get(&self.wanted.url, None, self.cancelled)?
                }
            }
            other => other?,
        };
        self.begin(&head)?;
        self.receive(&head, transfer, progress)
    }

    /// Makes the partial file ready for what comes.
    fn begin(&mut self, head: &Head) -> Result<(), Stop> {
        if head.from == 0 {
            if head.length == Length::Unknown && !self.vouched {
                let reason = "the server does not say how long the file is, so nobody could see \
                              if it were cut; give --image-sha256";
                return Err(Stop::Trouble(Trouble::Refused(reason.to_owned())));
            }
            if self.partial.len() > 0 {
                log::info!("fetching {} from its beginning", self.wanted.url);
            }
            let restarted = self.partial.restart(head.edition.clone());
            restarted.map_err(|error| self.stop(error))?;
        }
        if let Length::Known(length) = head.length {
            room::needs(&self.partial.file, length)
                .map_err(|room| self.full(Some(length), room))?;
        }
        Ok(())
    }

    fn receive(
        &mut self,
        head: &Head,
        mut transfer: Transfer<'_>,
        progress: &mut Progress,
    ) -> Result<(), Stop> {
        let total = head.edition.total;
        let mut room = Room::new();
        while let Some(data) = transfer.data()? {
            let there = self.partial.len();
            let left = total.map(|total| total.saturating_sub(there));
            if left.is_some_and(|left| (data.len() as u64) > left) {
                return Err(Stop::Trouble(Trouble::again("the server sent more than it had said")));
            }
            let taken = room.take(&self.partial.file, data.len() as u64);
            taken.map_err(|room| self.full(left, room))?;
            self.partial.append(&data).map_err(|error| self.stop(error))?;
            progress.step(self.partial.len(), total);
        }
        let there = self.partial.len();
        match total {
            Some(total) if there != total => {
                let reason = format!("the server ended after {}", share(there, Some(total)));
                Err(Stop::Trouble(Trouble::again(reason)))
            }
            _ => Ok(()),
        }
    }

    fn stop(&self, error: std::io::Error) -> Stop {
        Stop::Final(self.write_error(error, self.partial.path()))
    }

    fn write_error(&self, error: std::io::Error, path: &Path) -> FetchError {
        if room::is_full(&error) {
            let total = self.partial.edition().total;
            let left = total.map(|total| total.saturating_sub(self.partial.len()));
            return self.full_error(left, NoRoom { free: 0 });
        }
        failed(path, "written")(error)
    }

    fn full(&mut self, left: Option<u64>, room: NoRoom) -> Stop {
        let error = self.full_error(left, room);
        if left.is_none() {
            // A body without an end must not keep the volume full.
            let _ = self.partial.restart(Default::default());
        }
        Stop::Final(error)
    }

    fn full_error(&self, left: Option<u64>, room: NoRoom) -> FetchError {
        let url = &self.wanted.url;
        let (needed, kept) = match left {
            Some(left) => (format!("{url} needs {} more", mib(left)), KEPT),
            None => (format!("{url} is larger, and does not say how large"), "it begins anew"),
        };
        FetchError::Full { path: self.dir.to_owned(), needed, free: mib(room.free), kept }
    }
}

/// The digest of `url` in the list of checksums at `list`.
///
/// # Errors
/// See [`FetchError`].
pub fn listed_digest(
    list: &Url,
    url: &Url,
    client: &Client,
    cancelled: Cancelled<'_>,
) -> Result<Digest, FetchError> {
    let wrong = |reason: String| FetchError::Checksums { url: list.to_string(), reason };
    let name = url.file_name();
    let name = name.ok_or_else(|| wrong(format!("cannot name {url}, which has no name")))?;
    let mut retry = Retry::new(list, client.manner().tries, cancelled);
    let text = loop {
        match text_of(list, client, cancelled) {
            Ok(text) => break text,
            Err(Stop::Final(error)) => return Err(error),
            Err(Stop::Trouble(trouble)) => retry.after(trouble)?,
        }
    };
    let digest = checksums::find(&text, &name).map_err(|error| wrong(error.to_string()))?;
    log::info!("{list} says that {name} has {digest}");
    Ok(digest)
}

fn text_of(url: &Url, client: &Client, cancelled: Cancelled<'_>) -> Result<String, Stop> {
    let (_, mut transfer) = client.get(url, None, cancelled)?;
    let mut bytes = Vec::new();
    while let Some(data) = transfer.data()? {
        bytes.extend(data);
        if bytes.len() as u64 > checksums::MAX_BYTES {
            let reason = "it is too large for a list of checksums".to_owned();
            return Err(Stop::Trouble(Trouble::Refused(reason)));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

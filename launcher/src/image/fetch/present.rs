//! Whether a base that is there is the one that is wanted: by its record, without asking any
//! server; by its content, where the record does not say enough.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::client::Client;
use super::partial::Edition;
use super::publish::digest_or_cancel;
use super::record::{Record, mtime_ns};
use super::{FetchError, Wanted, WantedDigest, failed, inspect, transfer};
use crate::config::{Digest, parse_digest};
use crate::image::base::{BaseRecord, Cancelled};

/// Whether the base is there, and is the one that is wanted.
///
/// # Errors
/// [`FetchError::Other`], [`FetchError::Unknown`], [`FetchError::Changed`]: something else is
/// there. Those of a list of checksums that has to be fetched.
pub fn is_there(
    base: &Path,
    wanted: &Wanted,
    client: &Client,
    cancelled: Cancelled<'_>,
) -> Result<bool, FetchError> {
    match fs::metadata(base) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => {
            let no_file = io::Error::other("it is not a file; give another --image-name");
            return Err(failed(base, "used")(no_file));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(base, "looked at")(error)),
    }
    let file = File::open(base).map_err(failed(base, "opened"))?;
    let there = There { base, file, wanted, client, cancelled };
    match Record::load(base).map_err(failed(&Record::path_of(base), "read"))? {
        Some(record) => there.compare(record)?,
        None => there.adopt()?,
    }
    log::info!("{} is there: nothing is fetched", base.display());
    Ok(true)
}

/// A base that is there, and what it is compared with.
struct There<'a> {
    base: &'a Path,
    file: File,
    wanted: &'a Wanted,
    client: &'a Client,
    cancelled: Cancelled<'a>,
}

impl There<'_> {
    /// A base with a record.
    fn compare(&self, mut record: Record) -> Result<(), FetchError> {
        let before = record.clone();
        self.see_that_it_is_the_same(&mut record)?;
        let same_source = record.source_id == self.wanted.url.id();
        let listed = |list: &super::url::Url| record.checksums_id == Some(list.id());
        match &self.wanted.digest {
            None if same_source => {}
            None => {
                let was = format!("fetched from {}", record.source);
                return Err(self.other(was, self.wanted.url.to_string()));
            }
            Some(WantedDigest::Listed(list)) if same_source && listed(list) => {}
            Some(_) => {
                let digest = self.wanted_digest()?;
                self.has_digest(&mut record, &digest)?;
            }
        }
        if record != before {
            self.keep(&record);
        }
        Ok(())
    }

    /// A base that somebody has put there: it needs a digest.
    fn adopt(&self) -> Result<(), FetchError> {
        if self.wanted.digest.is_none() {
            let (path, url) = (self.base.to_owned(), self.wanted.url.to_string());
            return Err(FetchError::Unknown { path, url });
        }
        let digest = self.wanted_digest()?;
        let found = self.digest(&digest)?;
        if found != digest {
            return Err(self.other(found.to_string(), digest.to_string()));
        }
        let format = inspect::format(&self.file, self.wanted.format.map(Into::into), true);
        let url = self.wanted.url.to_string();
        let format = format.map_err(|reason| FetchError::NoImage { url: url.clone(), reason })?;
        let meta = self.file.metadata().map_err(failed(self.base, "looked at"))?;
        let of_base = BaseRecord {
            path: self.wanted.name.clone(),
            size: meta.len(),
            inode: meta.ino(),
            mtime_ns: mtime_ns(&meta),
            digest: Some(found.to_string()),
            format: format.to_string(),
        };
        let source = (url, self.wanted.url.id());
        let mut record = Record::new(source, Edition::default(), of_base);
        record.source_digests = vec![found.to_string()];
        self.keep(&record);
        Ok(())
    }

    /// Whoever has touched the file has to have left its content.
    fn see_that_it_is_the_same(&self, record: &mut Record) -> Result<(), FetchError> {
        if record.is_of(&self.file).map_err(failed(self.base, "looked at"))? {
            return Ok(());
        }
        let meta = self.file.metadata().map_err(failed(self.base, "looked at"))?;
        let changed = |is: String| FetchError::Changed {
            path: self.base.to_owned(),
            was: match &record.base.digest {
                Some(digest) => format!("{} bytes, {digest}", record.base.size),
                None => format!("{} bytes", record.base.size),
            },
            is,
        };
        let recorded = record.base.digest.as_deref().and_then(|text| parse_digest(text).ok());
        let recorded = recorded.filter(|_| meta.len() == record.base.size);
        let Some(recorded) = recorded else { return Err(changed(format!("{} bytes", meta.len()))) };
        let found = self.digest(&recorded)?;
        if found != recorded {
            return Err(changed(format!("{} bytes, {found}", meta.len())));
        }
        record.base.inode = meta.ino();
        record.base.mtime_ns = mtime_ns(&meta);
        Ok(())
    }

    /// Whether what was transferred had `digest`; adds it to the record where it is of a new kind.
    fn has_digest(&self, record: &mut Record, digest: &Digest) -> Result<(), FetchError> {
        let known = record.source_digests.iter().filter_map(|text| parse_digest(text).ok());
        let same_kind =
            |known: &Digest| std::mem::discriminant(known) == std::mem::discriminant(digest);
        let found = match known.into_iter().find(same_kind) {
            Some(known) => known,
            None if record.packed.is_none() => {
                let found = self.digest(digest)?;
                record.source_digests.push(found.to_string());
                found
            }
            None => {
                let was = record.source_digests.join(" and ");
                let was = format!("unpacked from a file of which only {was} is known");
                return Err(self.other(was, digest.to_string()));
            }
        };
        if found != *digest {
            let was = format!("fetched from {}, with {found}", record.source);
            return Err(self.other(was, digest.to_string()));
        }
        if let Some(WantedDigest::Listed(list)) = &self.wanted.digest
            && record.source_id == self.wanted.url.id()
        {
            record.checksums_id = Some(list.id());
        }
        Ok(())
    }

    fn wanted_digest(&self) -> Result<Digest, FetchError> {
        match &self.wanted.digest {
            Some(WantedDigest::Is(digest)) => Ok(digest.clone()),
            Some(WantedDigest::Listed(list)) => {
                transfer::listed_digest(list, &self.wanted.url, self.client, self.cancelled)
            }
            None => Ok(Digest::Sha256([0; 32])),
        }
    }

    fn digest(&self, kind: &Digest) -> Result<Digest, FetchError> {
        log::info!("computing the digest of {}", self.base.display());
        digest_or_cancel(&self.file, kind, self.base, self.cancelled)
    }

    fn other(&self, was: String, is: String) -> FetchError {
        FetchError::Other { path: self.base.to_owned(), was, is }
    }

    /// The record is worth keeping, but the base is usable without: the volume may be read-only.
    fn keep(&self, record: &Record) {
        if let Err(error) = record.save(self.base) {
            log::debug!("the record of {} is not renewed: {error}", self.base.display());
        }
    }
}

//! From a whole transfer to a base: checked, unpacked, read-only, recorded, and then renamed. In
//! this order, so that a process killed at any point leaves a base that is whole and known, or
//! something that the next run goes on from.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::partial::{Partial, remove};
use super::progress::{Progress, mib};
use super::record::{Record, mtime_ns};
use super::unpack::{Packing, UnpackError, unpack};
use super::{FetchError, Wanted, WantedDigest, failed, inspect, room};
use crate::config::Digest;
use crate::image::base::{BaseRecord, Cancelled, digest_of};

/// Read-only for everybody: a base is never written.
const BASE_MODE: u32 = 0o444;

/// Makes `base` of what was transferred; `digest`: what that has to have.
///
/// # Errors
/// See [`FetchError`].
pub fn publish(
    partial: Partial,
    base: &Path,
    wanted: &Wanted,
    digest: Option<&Digest>,
    cancelled: Cancelled<'_>,
) -> Result<(), FetchError> {
    let any = Digest::Sha256([0; 32]);
    let found = digest_or_cancel(&partial.file, digest.unwrap_or(&any), partial.path(), cancelled)?;
    if let Some(digest) = digest
        && found != *digest
    {
        partial.remove();
        let (found, wanted_digest) = (found.to_string(), digest.to_string());
        let url = wanted.url.to_string();
        return Err(FetchError::Digest { url, found, wanted: wanted_digest });
    }
    let packing = Packing::of(&partial.file).map_err(failed(partial.path(), "read"))?;
    let content = match packing {
        None => Content { file: None, path: partial.path().to_owned(), digest: found.clone() },
        Some(packing) => match unpacked(&partial, packing, base, wanted, cancelled) {
            Ok(content) => content,
            Err(error) => {
                if matches!(error, FetchError::NoImage { .. }) {
                    partial.remove();
                }
                return Err(error);
            }
        },
    };
    let file = content.file.as_ref().unwrap_or(&partial.file);
    let format = match inspect::format(file, wanted.format.map(Into::into), digest.is_some()) {
        Ok(format) => format,
        Err(reason) => {
            remove(&content.path);
            partial.remove();
            return Err(FetchError::NoImage { url: wanted.url.to_string(), reason });
        }
    };
    file.set_permissions(Permissions::from_mode(BASE_MODE))
        .and_then(|()| file.sync_all())
        .map_err(failed(&content.path, "made durable"))?;
    let meta = file.metadata().map_err(failed(&content.path, "looked at"))?;
    let of_base = BaseRecord {
        path: wanted.name.clone(),
        size: meta.len(),
        inode: meta.ino(),
        mtime_ns: mtime_ns(&meta),
        digest: Some(content.digest.to_string()),
        format: format.to_string(),
    };
    let source = (wanted.url.to_string(), wanted.url.id());
    let mut record = Record::new(source, partial.edition().clone(), of_base);
    record.source_digests = vec![found.to_string()];
    record.packed = packing.map(|packing| packing.name().to_owned());
    if let Some(WantedDigest::Listed(list)) = &wanted.digest {
        record.checksums_id = Some(list.id());
    }
    // First: a base without its record would not be used.
    record.save(base).map_err(failed(&Record::path_of(base), "written"))?;
    appear(&content.path, base).map_err(failed(base, "made"))?;
    log::info!("{} is ready: {}, {}, {found}", base.display(), format, mib(meta.len()));
    match packing {
        None => partial.forget(),
        Some(_) => partial.remove(),
    }
    Ok(())
}

/// What the base will hold.
struct Content {
    /// `None`: it is the partial file itself.
    file: Option<File>,
    path: PathBuf,
    digest: Digest,
}

fn unpacked(
    partial: &Partial,
    packing: Packing,
    base: &Path,
    wanted: &Wanted,
    cancelled: Cancelled<'_>,
) -> Result<Content, FetchError> {
    let path = base.with_file_name(format!(".{}.unpacked", wanted.name));
    // What a run that was killed has left.
    remove(&path);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed(&path, "made"))?;
    let mut progress = Progress::new(format!("unpacking {}", wanted.name));
    log::info!("unpacking {} ({})", wanted.name, packing.name());
    let step = |done| progress.step(done, Some(partial.len()));
    let outcome = unpack(packing, &partial.file, &file, step, cancelled)
        .map_err(|error| unpack_error(error, &path, base, wanted))
        .and_then(|()| digest_or_cancel(&file, &Digest::Sha256([0; 32]), &path, cancelled));
    match outcome {
        Ok(digest) => Ok(Content { file: Some(file), path, digest }),
        Err(error) => {
            remove(&path);
            Err(error)
        }
    }
}

fn unpack_error(error: UnpackError, path: &Path, base: &Path, wanted: &Wanted) -> FetchError {
    let url = wanted.url.to_string();
    match error {
        UnpackError::Damaged(why) => {
            FetchError::NoImage { url, reason: format!("cannot be unpacked: {why:.200}") }
        }
        UnpackError::Full => FetchError::Full {
            path: base.parent().unwrap_or(base).to_owned(),
            needed: format!("what is unpacked from {url} is larger than what is free"),
            free: "too few bytes".to_owned(),
            kept: "what has been fetched is kept, and unpacked then",
        },
        UnpackError::Cancelled => FetchError::Cancelled,
        UnpackError::Write(error) if room::is_full(&error) => {
            unpack_error(UnpackError::Full, path, base, wanted)
        }
        UnpackError::Write(error) => failed(path, "written")(error),
    }
}

/// The digest of `file`, of the kind of `kind`.
///
/// # Errors
/// [`FetchError::Cancelled`], [`FetchError::File`].
pub fn digest_or_cancel(
    file: &File,
    kind: &Digest,
    path: &Path,
    cancelled: Cancelled<'_>,
) -> Result<Digest, FetchError> {
    digest_of(file, kind, cancelled).map_err(|error| match cancelled() {
        true => FetchError::Cancelled,
        false => failed(path, "read")(error),
    })
}

/// Gives a durable file its name, durably.
fn appear(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

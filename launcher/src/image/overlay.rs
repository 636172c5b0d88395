//! A machine's disks, opened: the overlay on its base, made at the first start, and further disks.
//!
//! The base is opened for reading and never written. The overlay appears whole and durable or not
//! at all, is locked as long as the machine runs, and may grow, never shrink.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Instant;

use devices::block::qcow2::{self, CreateOptions, Repair};
use devices::block::{self, Claim, Fault, ImageFormat, OpenError, OpenOptions as HowToOpen};
use vmm::config::DiskConfig;

use super::base::{Base, BaseRecord, Cancelled};
use super::identity::{Identity, write_atomically};
use super::resolver::{Beneath, backing_name};
use super::{ImageError, Store};
use crate::config::{Disk, Format, RootImage};
use crate::units;

/// Serial number of the root disk, by which a guest can find it.
pub const ROOT_SERIAL: &str = "root";
/// qcow2: a backing file's name has at most 1023 bytes.
const MAX_BACKING_NAME: usize = 1023;

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2,
        }
    }
}

/// Opens the root disk: the overlay of the machine that `store` belongs to, made on the base if it
/// is not there. Records the base in `identity`, and writes that. Each image has `cache_bytes` of
/// memory for its tables.
///
/// # Errors
/// See [`ImageError`].
pub fn open_root(
    store: &mut Store,
    image: &RootImage,
    cache_bytes: usize,
    identity: &mut Identity,
    cancelled: Cancelled<'_>,
) -> Result<DiskConfig, ImageError> {
    let base = Base::open(&image.base)?;
    let path = store.overlay_path();
    let exists = path.try_exists().map_err(|source| file_error(&path, "looked at", source))?;
    // A record without its overlay is of a disk that was removed to start anew.
    let recorded = identity.base.as_ref().filter(|_| exists);
    let format = base_format(&base, image.format, recorded)?;
    if exists {
        is_on_base(&path, &base, &resolver(store, &base.path))?;
    }
    let name = format.to_string();
    let record = base.verify(image.digest.as_ref(), recorded, &name, &path, cancelled)?;
    identity.base = Some(record);
    store.keep_identity(identity)?;
    if exists {
        log::info!("the disk is {}, on the base {}", path.display(), base.named.display());
    } else {
        make(store, &path, &base, format, image.size)?;
    }
    let file = open_file(&path, false)?;
    let mut how = HowToOpen { cache_bytes, ..HowToOpen::default() };
    if exists {
        mend(&file, &path)?;
        how.least_size = larger(&file, &path, image.size)?;
    }
    let (name, resolver) = (path.display().to_string(), resolver(store, &base.path));
    let opened = block::open(file, &name, ImageFormat::Qcow2, &how, &resolver)?;
    Ok(DiskConfig {
        backend: opened.disk,
        serial: ROOT_SERIAL.to_owned(),
        queues: image.queues,
        engine: image.engine,
        name,
        limits: image.limits,
    })
}

/// Opens a further disk, or a device that is the root disk; see [`open_root`] for `cache_bytes`.
///
/// # Errors
/// See [`ImageError`].
pub fn open_disk(disk: &Disk, cache_bytes: usize) -> Result<DiskConfig, ImageError> {
    let file = open_file(&disk.path, disk.read_only)?;
    if disk.format == Format::Qcow2 && !disk.read_only {
        mend(&file, &disk.path)?;
    }
    let name = disk.path.display().to_string();
    let how = HowToOpen { read_only: disk.read_only, cache_bytes, ..HowToOpen::default() };
    let beside = disk.path.canonicalize().ok();
    let resolver = Beneath::new(None, beside.as_deref().and_then(Path::parent));
    let opened = block::open(file, &name, disk.format.into(), &how, &resolver)?;
    Ok(DiskConfig {
        backend: opened.disk,
        serial: disk.serial.clone().unwrap_or_default(),
        queues: disk.queues,
        engine: disk.engine,
        name,
        limits: disk.limits(),
    })
}

fn file_error(path: &Path, what: &'static str, source: io::Error) -> ImageError {
    ImageError::File { path: path.to_owned(), what, source }
}

fn open_file(path: &Path, read_only: bool) -> Result<File, ImageError> {
    let opened = OpenOptions::new().read(true).write(!read_only).open(path);
    opened.map_err(|source| file_error(path, "opened", source))
}

fn open_error(name: impl AsRef<Path>, fault: Fault) -> ImageError {
    OpenError { image: name.as_ref().display().to_string(), fault }.into()
}

/// What the overlay of a machine may refer to.
fn resolver(store: &Store, base: &Path) -> Beneath {
    Beneath::new(Some(store.dir()), base.parent())
}

/// As stated, as recorded, or by the base's own header. No guest has ever written to a base.
fn base_format(
    base: &Base,
    stated: Option<Format>,
    recorded: Option<&BaseRecord>,
) -> Result<ImageFormat, ImageError> {
    if let Some(format) = stated {
        return Ok(format.into());
    }
    if let Some(format) = recorded.and_then(|record| record.format.parse().ok()) {
        return Ok(format);
    }
    ImageFormat::probe(&base.file).map_err(|fault| open_error(&base.named, fault))
}

/// Size of the base's disk, in bytes.
fn base_capacity(base: &Base, format: ImageFormat) -> Result<u64, ImageError> {
    match format {
        ImageFormat::Raw if base.size == 0 => Err(open_error(&base.named, Fault::Empty)),
        ImageFormat::Raw => Ok(base.size.next_multiple_of(512)),
        ImageFormat::Qcow2 => Ok(qcow2::read_info(&base.file)
            .map_err(|fault| open_error(&base.named, fault))?
            .virtual_size),
    }
}

/// Checks that the overlay at `path` was made on `base`.
fn is_on_base(path: &Path, base: &Base, resolver: &Beneath) -> Result<(), ImageError> {
    let file = open_file(path, true)?;
    let info = qcow2::read_info(&file).map_err(|fault| open_error(path, fault))?;
    let Some(named) = info.backing_file else {
        return Err(ImageError::NoOverlay(path.to_owned()));
    };
    let (backing, real) = resolver.open(path, &named).map_err(|source| {
        open_error(path, Fault::BackingRefused { name: named, source: source.into() })
    })?;
    match base.is(&backing) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ImageError::OtherBase {
            overlay: path.to_owned(),
            was: real.display().to_string(),
            is: base.named.display().to_string(),
        }),
        Err(source) => Err(file_error(&real, "looked at", source)),
    }
}

/// Makes the overlay.
fn make(
    store: &mut Store,
    path: &Path,
    base: &Base,
    format: ImageFormat,
    size: Option<u64>,
) -> Result<(), ImageError> {
    let capacity = base_capacity(base, format)?;
    let size = size.unwrap_or(capacity);
    not_less(size, capacity, &base.named)?;
    let name = backing_name(store.dir(), &base.path)
        .filter(|name| name.len() <= MAX_BACKING_NAME)
        .ok_or_else(|| ImageError::Name(base.path.clone()))?;
    let options = CreateOptions::new(size).over(name, format);
    let mut fault = None;
    let begun = Instant::now();
    let written = write_atomically(path, |file| {
        qcow2::create(file, &options).map_err(|error| {
            fault = Some(error);
            io::ErrorKind::Other.into()
        })
    });
    match (fault, written) {
        (Some(fault), _) => return Err(open_error(path, fault)),
        (None, Err(source)) => return Err(file_error(path, "created", source)),
        (None, Ok(())) => store.created.add(path),
    }
    let (size, base) = (units::show(size), base.named.display());
    let (path, ms) = (path.display(), begun.elapsed().as_secs_f64() * 1000.0);
    log::info!("made the disk {path}, {size}, on the base {base}, in {ms:.1} ms");
    Ok(())
}

fn not_less(asked: u64, have: u64, path: &Path) -> Result<(), ImageError> {
    if asked >= have {
        return Ok(());
    }
    Err(ImageError::Shrink {
        path: path.to_owned(),
        asked: units::show(asked),
        have: units::show(have),
    })
}

/// Repairs an image that was left dirty or is marked corrupt, as far as nobody need be asked: its
/// reference counts. The mark alone is taken away if a check finds nothing wrong.
fn mend(file: &File, path: &Path) -> Result<(), ImageError> {
    let fault = |fault| open_error(path, fault);
    let info = qcow2::read_info(file).map_err(fault)?;
    if !info.dirty && !info.corrupt {
        return Ok(());
    }
    let damaged = |reason| ImageError::Damaged { path: path.to_owned(), reason };
    // The lock belongs to the open file, so it is kept from here on.
    block::lock(file, Claim::Write).map_err(fault)?;
    let report = qcow2::check(file).map_err(fault)?;
    if info.corrupt && report.corruptions > 0 {
        return Err(damaged(report.findings.into_iter().next().unwrap_or_default()));
    }
    qcow2::repair(file, Repair::Counts).map_err(|fault| damaged(fault.to_string()))?;
    let path = path.display();
    match info.corrupt {
        true => log::warn!("{path} was marked corrupt, but nothing is wrong: the mark is gone"),
        false => log::warn!("{path} was not closed cleanly: its clusters have been counted anew"),
    }
    Ok(())
}

/// How large a disk that is there has to become, in bytes; 0: it stays.
fn larger(file: &File, path: &Path, asked: Option<u64>) -> Result<u64, ImageError> {
    let Some(asked) = asked else { return Ok(0) };
    let have = qcow2::read_info(file).map_err(|fault| open_error(path, fault))?.virtual_size;
    not_less(asked, have, path)?;
    if asked == have {
        return Ok(0);
    }
    log::info!("{} grows from {} to {}", path.display(), units::show(have), units::show(asked));
    Ok(asked)
}
#[cfg(test)]
mod tests;

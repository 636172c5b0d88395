//! Opening an image together with the files it is based on.
//!
//! Only the caller opens files. For each backing file an image's header names, the caller's
//! [`BackingResolver`] is asked; it may refuse. A backing file's format must be stated, by the
//! header or by the resolver: its bytes are never probed, since those of a raw disk were written
//! by a guest, which could have put a header there that names any file. The chain is finite: its
//! depth is limited and no file may occur twice. Backing files are read-only, always.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

use super::lock::{Claim, lock};
use super::qcow2::{self, Qcow2};
use super::raw::{Raw, Window};
use super::{BlockBackend, Fault, ImageFormat, OpenError};

/// Most images in a chain, the top one included.
const MAX_DEPTH: usize = 16;

/// Why a resolver does not open a file.
pub type ResolveError = Box<dyn Error + Send + Sync>;

/// A backing file, as a resolver hands it over.
pub struct BackingFile {
    /// Open for reading.
    pub file: File,
    /// What to call it in messages, and to the resolver when it names a file in turn.
    pub name: String,
    /// Its format as the caller knows it from its own records; it counts only where the header of
    /// the image above says nothing.
    pub format: Option<ImageFormat>,
}

/// Opens the files that images refer to, or refuses.
pub trait BackingResolver {
    /// `backing` is the name that the header of `image` gives, byte for byte.
    ///
    /// # Errors
    /// Why the file is not opened: missing, or out of bounds.
    fn resolve(&self, image: &str, backing: &str) -> Result<BackingFile, ResolveError>;
}

/// Refuses every backing file.
pub struct NoBacking;

impl BackingResolver for NoBacking {
    fn resolve(&self, _image: &str, _backing: &str) -> Result<BackingFile, ResolveError> {
        Err("no backing file is allowed here".into())
    }
}

/// How to open an image.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The guest may not write.
    pub read_only: bool,
    /// Take the image locks, of the whole chain.
    pub lock: bool,
    /// Most memory for the metadata cache of each qcow2 image, in bytes; used as needed.
    pub cache_bytes: usize,
    /// Which part of a raw top image is the disk.
    pub window: Window,
    /// Make the disk at least so large, in bytes; not a device, and not a disk that is read-only.
    pub least_size: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            lock: true,
            cache_bytes: qcow2::DEFAULT_CACHE_BYTES,
            window: Window::default(),
            least_size: 0,
        }
    }
}

/// One image of a chain, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The name it was opened under.
    pub name: String,
    /// Its format.
    pub format: ImageFormat,
    /// Its virtual size in bytes.
    pub capacity: u64,
}

/// An open image.
pub struct OpenImage {
    /// The disk.
    pub disk: Arc<dyn BlockBackend>,
    /// The images it is made of, the top one first.
    pub layers: Vec<Layer>,
}

/// One file of the chain, checked but not yet opened as an image.
struct Link {
    file: File,
    name: String,
    format: ImageFormat,
}

/// Opens `file`, called `name` in messages, with its backing chain.
///
/// # Errors
/// [`OpenError`]: which image of the chain, and what is wrong with it. The file is unchanged,
/// unless it was marked dirty and had its reference counts rebuilt, or is larger now as asked for.
pub fn open(
    file: File,
    name: &str,
    format: ImageFormat,
    options: &OpenOptions,
    resolver: &dyn BackingResolver,
) -> Result<OpenImage, OpenError> {
    let mut links = follow(Link { file, name: name.into(), format }, options, resolver)?;
    let mut layers = Vec::new();
    let mut backing: Option<Arc<dyn BlockBackend>> = None;
    while let Some(link) = links.pop() {
        let top = links.is_empty();
        let read_only = options.read_only || !top;
        let least_size = if read_only { 0 } else { options.least_size };
        let fault = |fault| OpenError { image: link.name.clone(), fault };
        let disk: Arc<dyn BlockBackend> = match link.format {
            ImageFormat::Raw => {
                let window = if top { options.window } else { Window::default() };
                lengthen(&link.file, least_size).map_err(fault)?;
                Arc::new(Raw::open(link.file, window, read_only).map_err(fault)?)
            }
            ImageFormat::Qcow2 => {
                let image = Qcow2::open(link.file, backing.take(), read_only, options.cache_bytes)
                    .map_err(fault)?;
                if least_size > 0 {
                    image.grow(least_size).map_err(fault)?;
                }
                Arc::new(image)
            }
        };
        let capacity = disk.info().capacity;
        layers.insert(0, Layer { name: link.name, format: link.format, capacity });
        backing = Some(disk);
    }
    match backing {
        Some(disk) => Ok(OpenImage { disk, layers }),
        None => Err(OpenError { image: name.into(), fault: Fault::ChainDepth(0) }),
    }
}

/// Makes a raw disk's file at least `size` bytes long, durably.
fn lengthen(file: &File, size: u64) -> Result<(), Fault> {
    let metadata = file.metadata()?;
    if size > metadata.len() && metadata.is_file() {
        file.set_len(size.checked_next_multiple_of(512).unwrap_or(size))?;
        file.sync_all()?;
    }
    Ok(())
}

/// Locks and collects the files of a chain, the top one first.
fn follow(
    top: Link,
    options: &OpenOptions,
    resolver: &dyn BackingResolver,
) -> Result<Vec<Link>, OpenError> {
    let mut links: Vec<Link> = Vec::new();
    let mut seen = Vec::new();
    let mut next = Some(top);
    while let Some(link) = next.take() {
        let fault = |fault| OpenError { image: link.name.clone(), fault };
        if links.len() >= MAX_DEPTH {
            return Err(OpenError {
                image: links.remove(0).name,
                fault: Fault::ChainDepth(MAX_DEPTH),
            });
        }
        let identity = identity(&link.file).map_err(|e| fault(e.into()))?;
        if seen.contains(&identity) {
            let image = links.remove(0).name;
            return Err(OpenError { image, fault: Fault::ChainLoop(link.name) });
        }
        seen.push(identity);
        if options.lock {
            let writes = links.is_empty() && !options.read_only;
            let claim = if writes { Claim::Write } else { Claim::Read };
            lock(&link.file, claim).map_err(fault)?;
        }
        next = backing_of(&link, resolver).map_err(fault)?;
        links.push(link);
    }
    Ok(links)
}

/// The file below `link`, if it has one.
fn backing_of(link: &Link, resolver: &dyn BackingResolver) -> Result<Option<Link>, Fault> {
    if link.format != ImageFormat::Qcow2 {
        return Ok(None);
    }
    let info = qcow2::read_info(&link.file)?;
    let Some(backing) = info.backing_file else { return Ok(None) };
    let stated = info.backing_format.as_deref().map(str::parse::<ImageFormat>).transpose()?;
    let found = resolver
        .resolve(&link.name, &backing)
        .map_err(|source| Fault::BackingRefused { name: backing.clone(), source })?;
    let format = stated.or(found.format).ok_or(Fault::BackingFormat(backing))?;
    Ok(Some(Link { file: found.file, name: found.name, format }))
}

/// What makes a file the same file under every name.
fn identity(file: &File) -> std::io::Result<(bool, u64, u64)> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        Ok((true, metadata.rdev(), 0))
    } else {
        Ok((false, metadata.dev(), metadata.ino()))
    }
}

//! qcow2 images, version 2 and 3, read and write (QEMU `docs/interop/qcow2.txt`).
//!
//! A request looks its mapping up under one short lock (`map.rs`), and moves its data without it.
//! Reads and in-place writes are placements: their caller does the I/O. What needs new clusters is
//! a call (`write.rs`, `alloc.rs`), as are discards and zeroes (`trim.rs`). Metadata is written by
//! flushes, in an order that leaves a sound image on disk at any instant: `cache.rs` states it.
//!
//! Internal snapshots are kept: their clusters are shared, and copied when written. Clusters are
//! never written compressed. Runs on the threads that call it, one per queue; it has none of its
//! own. Lock order: flush, then metadata; neither is held across guest data I/O.

mod alloc;
mod bitmaps;
mod cache;
mod check;
mod compare;
mod compressed;
mod create;
mod flush;
mod geometry;
mod grow;
mod header;
mod inflight;
mod map;
mod repair;
#[cfg(test)]
mod tests;
mod trim;
mod write;

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vm_memory::VolatileSlice;

pub use check::{CheckReport, check};
pub use compressed::Compression;
pub use create::{Backing, CreateOptions, create};
pub use repair::{Repair, repair};

use super::file_io::ImageFile;
use super::scratch::Scratch;
use super::{
    Access, BlockBackend, BlockError, BlockInfo, Fault, FlushPlan, Lease, Placement, buffers,
};
use compressed::Inflated;
use geometry::Mapping;
use header::{Header, field, incompatible};
use map::{Image, Meta};
use trim::Trim;

/// Default limit of the metadata cache of one image, in bytes: it maps 16 GiB at the default
/// cluster size, and is used only as far as the guest roams.
pub const DEFAULT_CACHE_BYTES: usize = 2 << 20;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// 2 or 3.
    pub version: u32,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Bytes in a cluster.
    pub cluster_size: u64,
    /// Bits in a reference count.
    pub refcount_bits: u32,
    /// The features that are set, by name.
    pub features: Vec<String>,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// The backing file's name.
    pub backing_file: Option<String>,
    /// The backing file's format, as it is written there.
    pub backing_format: Option<String>,
    /// Internal snapshots.
    pub snapshots: u32,
    /// Refcounts may be wrong; opening for writing counts anew.
    pub dirty: bool,
    /// Marked as damaged; not opened for writing.
    pub corrupt: bool,
}

/// Reads an image's header.
///
/// # Errors
/// [`Fault`]: not a qcow2 image, damaged, or not supported.
pub fn read_info(file: &File) -> Result<ImageInfo, Fault> {
    let header = read_header(&ImageFile::new(file.try_clone()?)?)?;
    Ok(ImageInfo {
        features: header.features(),
        refcount_bits: 1 << header.geometry.refcount_order,
        version: header.geometry.version,
        virtual_size: header.size,
        cluster_size: header.geometry.cluster(),
        compression: header.compression,
        backing_file: header.backing_file,
        backing_format: header.backing_format,
        snapshots: header.nb_snapshots,
        dirty: header.incompatible & incompatible::DIRTY != 0,
        corrupt: header.incompatible & incompatible::CORRUPT != 0,
    })
}

fn read_header(file: &ImageFile) -> Result<Header, Fault> {
    let len = file.len()?;
    if len == 0 {
        return Err(Fault::Empty);
    }
    let mut prefix = [0; header::PREFIX];
    file.read(&mut prefix, 0)?;
    let mut cluster = vec![0; header::cluster_size(&prefix)?];
    file.read(&mut cluster, 0)?;
    Header::parse(&cluster)
}

/// An open qcow2 image. Dropping it writes out what is still in memory.
pub struct Qcow2 {
    image: Image,
    read_only: bool,
    capacity: AtomicU64,
    backing: Option<Arc<dyn BlockBackend>>,
    inflated: Inflated,
    /// For what a write copies from below around it.
    scratch: Scratch,
    /// Held by whoever flushes. Locked before `meta`.
    flush: Mutex<()>,
    meta: Mutex<Meta>,
    /// A claim on guest clusters was given back.
    unclaimed: Condvar,
}

impl Qcow2 {
    /// Opens an image over its backing disk, which must be the one its header names, if any.
    ///
    /// # Errors
    /// [`Fault`]: what is wrong with it. It is unchanged, unless it was marked dirty and had its
    /// refcounts rebuilt.
    pub fn open(
        file: File,
        backing: Option<Arc<dyn BlockBackend>>,
        read_only: bool,
        cache_bytes: usize,
    ) -> Result<Self, Fault> {
        Self::from_image(ImageFile::new(file)?, backing, read_only, cache_bytes)
    }

    fn from_image(
        file: ImageFile,
        backing: Option<Arc<dyn BlockBackend>>,
        read_only: bool,
        cache_bytes: usize,
    ) -> Result<Self, Fault> {
        let mut header = read_header(&file)?;
        if !read_only && header.incompatible & incompatible::CORRUPT != 0 {
            return Err(Fault::MarkedCorrupt);
        }
        check::refuse_truncated(&file, &header)?;
        if !read_only {
            if header.incompatible & incompatible::DIRTY != 0 {
                log::info!("qcow2: the image was not closed cleanly: counting its clusters anew");
                repair::rebuild(&file, &header)?;
                header = read_header(&file)?;
            }
            if header.autoclear != 0 {
                // We keep up none of the extensions these bits vouch for.
                file.write(&[0; 8], field::AUTOCLEAR)?;
                file.sync()?;
                header.autoclear = 0;
            }
        }
        let image = Image {
            file,
            geometry: header.geometry,
            compression: header.compression,
            snapshots_offset: header.snapshots_offset,
            incompatible: header.incompatible,
        };
        let meta = Meta::load(&image, &header, cache_bytes)?;
        let grid = backing.as_ref().map_or(512, |b| b.info().logical_block);
        let capacity = header.size / u64::from(grid) * u64::from(grid);
        if header.geometry.cluster() < u64::from(grid) {
            return Err(Fault::Feature("a base with blocks larger than its clusters".into()));
        }
        if capacity == 0 {
            return Err(Fault::Header {
                field: "size",
                value: header.size,
                rule: "less than one sector, so there is no disk",
            });
        }
        Ok(Self {
            inflated: Inflated::new(image.geometry.cluster() as usize),
            scratch: Scratch::new(image.geometry.cluster() as usize),
            image,
            read_only,
            capacity: AtomicU64::new(capacity),
            backing,
            flush: Mutex::new(()),
            meta: Mutex::new(meta),
            unclaimed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Meta> {
        // Whoever panicked has logged it and fails its request; metadata is changed in steps that
        // are each sound, so others go on.
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_unclaimed<'a>(&self, meta: MutexGuard<'a, Meta>) -> MutexGuard<'a, Meta> {
        self.unclaimed.wait(meta).unwrap_or_else(PoisonError::into_inner)
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.info().check(offset, len)
    }

    /// Reads a range of the disk; it has been checked, except for its grid.
    fn read_range(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        let total = buffers::total(bufs);
        let mut done = 0;
        while done < total {
            let at = offset + done;
            let (extent, share) = {
                let mut meta = self.lock();
                let extent = meta.lookup(&self.image, at, total - done)?;
                (extent, meta.inflight.share())
            };
            let part = buffers::part(bufs, done, extent.len);
            match extent.mapping {
                Mapping::Data { host, .. } => self.image.file.read_vectored(&part, host)?,
                Mapping::Zero { .. } => buffers::fill_zero(&part),
                Mapping::Unallocated => self.read_below(&part, at)?,
                Mapping::Compressed { host, len } => {
                    let size = self.image.geometry.cluster();
                    let compression = self.image.compression;
                    let file = &self.image.file;
                    let data =
                        self.inflated.cluster(file, compression, (host, len), size as usize)?;
                    let within = self.image.geometry.within(at) as usize;
                    buffers::copy_from_bytes(&part, data.get(within..).unwrap_or_default());
                }
            }
            drop(share);
            done += extent.len;
        }
        Ok(())
    }

    /// Reads what shows through from below: the backing disk, and zeroes beyond its end.
    fn read_below(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        let total = buffers::total(bufs);
        let mut present = 0;
        if let Some(backing) = &self.backing {
            present = backing.info().capacity.saturating_sub(offset).min(total);
            if present > 0 {
                backing.read_at(&buffers::part(bufs, 0, present), offset)?;
            }
        }
        buffers::fill_zero(&buffers::part(bufs, present, total - present));
        Ok(())
    }

    fn place_range(&self, offset: u64, len: u64, access: Access) -> Result<Placement, BlockError> {
        if len == 0 {
            return Ok(Placement::Zeroes { len });
        }
        let (extent, share, file_len) = {
            let mut meta = self.lock();
            let extent = meta.lookup(&self.image, offset, len)?;
            (extent, meta.inflight.share(), meta.file_len)
        };
        let len = extent.len;
        match (extent.mapping, access) {
            (Mapping::Data { host, .. }, Access::Read)
            | (Mapping::Data { host, copied: true }, Access::Write) => {
                // The file may end within its last cluster; calls fill up what is missing.
                let present = file_len.saturating_sub(host) & !511;
                if present == 0 {
                    return Ok(Placement::Call { len });
                }
                let len = len.min(present);
                let lease: Lease = if self.read_only { None } else { Some(share) };
                Ok(Placement::File {
                    file: self.image.file.file().clone(),
                    offset: host,
                    len,
                    lease,
                })
            }
            (_, Access::Write) | (Mapping::Compressed { .. }, _) => Ok(Placement::Call { len }),
            (Mapping::Zero { .. }, Access::Read) => Ok(Placement::Zeroes { len }),
            (Mapping::Unallocated, Access::Read) => {
                let Some(backing) = &self.backing else { return Ok(Placement::Zeroes { len }) };
                match backing.info().capacity.saturating_sub(offset).min(len) {
                    0 => Ok(Placement::Zeroes { len }),
                    present => backing.place(offset, present, access),
                }
            }
        }
    }
}

impl BlockBackend for Qcow2 {
    fn info(&self) -> BlockInfo {
        let cluster = self.image.geometry.cluster() as u32;
        let logical_block = self.backing.as_ref().map_or(512, |b| b.info().logical_block);
        BlockInfo {
            capacity: self.capacity.load(Ordering::Acquire),
            logical_block,
            physical_block: logical_block.max(4096),
            optimal_io: cluster.max(4096),
            discard_granularity: cluster.max(logical_block),
            read_only: self.read_only,
        }
    }

    fn read_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        self.info().check(offset, buffers::total(bufs))?;
        self.read_range(bufs, offset)
    }

    fn write_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        self.check_write(offset, buffers::total(bufs))?;
        self.write_range(bufs, offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Ok(());
        }
        self.flush_locked(&self.lock_flush())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check_write(offset, len)?;
        self.trim_range(offset, len, Trim::Discard)
    }

    fn zero(&self, offset: u64, len: u64, _unmap: bool) -> Result<(), BlockError> {
        // A zero cluster costs nothing either way, and new clusters are taken when it is written.
        self.check_write(offset, len)?;
        self.trim_range(offset, len, Trim::Zero)
    }

    fn place(&self, offset: u64, len: u64, access: Access) -> Result<Placement, BlockError> {
        match access {
            Access::Read => self.info().check(offset, len)?,
            Access::Write => self.check_write(offset, len)?,
        }
        self.place_range(offset, len, access)
    }

    fn plan_flush(&self) -> FlushPlan {
        if self.read_only {
            FlushPlan::Done
        } else if self.must_write_metadata() {
            FlushPlan::Call
        } else {
            FlushPlan::Sync(self.image.file.file().clone())
        }
    }

    fn sync_failed(&self, error: &std::io::Error) {
        self.image.file.sync_failed(error);
    }

    fn free_bytes(&self) -> Option<u64> {
        self.image.file.free_bytes()
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if self.read_only {
            return;
        }
        // The second flush writes the counts that the first one lowered.
        for _ in 0..2 {
            if let Err(error) = self.flush() {
                log::error!("qcow2: the image could not be flushed when it was closed: {error}");
                return;
            }
        }
        if let Err(error) = self.lock().cut_unused(&self.image) {
            log::warn!("qcow2: unused space at the image's end stays: {error}");
        }
    }
}

//! What stands behind virtio-blk: raw files and qcow2 images.
//!
//! A [`BlockBackend`] answers in two ways. Every operation can be *called*, and returns when it is
//! done. And where the bytes of a range simply lie in a file, [`BlockBackend::place`] says where,
//! so that the caller may do the transfer itself, many at once, straight between guest memory and
//! file. Metadata never changes behind a placement: what needs a change (a cluster to allocate, to
//! copy, to inflate) says [`Placement::Call`].
//!
//! [`open`] is the way in: it takes a file somebody else has opened, and asks a
//! [`BackingResolver`] for every file that one refers to. Nothing here opens a path. The files in
//! reading order: `chain.rs`, `raw.rs`, `qcow2/mod.rs`.

mod buffers;
mod chain;
mod fault;
mod file_io;
mod holes;
mod lock;
pub mod qcow2;
mod raw;
#[cfg(test)]
mod recorder;
mod scratch;

use std::any::Any;
use std::fs::File;
use std::sync::Arc;

pub use chain::{
    BackingFile, BackingResolver, Layer, NoBacking, OpenImage, OpenOptions, ResolveError, open,
};
pub use fault::{Fault, ImageFormat, OpenError};
pub use lock::{Claim, Holder, Usage, lock, usage};
pub use raw::{Raw, Window};

use vm_memory::VolatileSlice;

pub mod inline;
pub mod ring;
pub mod shortage;

/// Length in bytes of a file or block device that holds an image.
///
/// # Errors
/// Those of the system; it is neither a regular file nor a block device.
pub fn length(file: &File) -> std::io::Result<u64> {
    file_io::ImageFile::new(file.try_clone()?)?.len()
}

/// What a disk is made of, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Size of the disk; a multiple of `logical_block`.
    pub capacity: u64,
    /// Smallest unit of I/O: 512 or 4096.
    pub logical_block: u32,
    /// Unit that is written without reading first.
    pub physical_block: u32,
    /// I/O is best aligned to, and in multiples of, this (a qcow2 cluster).
    pub optimal_io: u32,
    /// Discards below this size, or off its grid, free nothing. 0: discard is not supported.
    pub discard_granularity: u32,
    /// Writes are refused.
    pub read_only: bool,
}

impl BlockInfo {
    /// Whether a range lies on the disk and on its grid.
    ///
    /// # Errors
    /// [`BlockError::Range`] if not.
    pub fn check(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let grid = u64::from(self.logical_block);
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.capacity);
        if inside && offset.is_multiple_of(grid) && len.is_multiple_of(grid) {
            Ok(())
        } else {
            Err(BlockError::Range { offset, len })
        }
    }
}

/// Why an operation failed. The guest's status byte is derived from it.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The range runs over the end of the disk, or is off the logical block grid.
    #[error("{len} bytes at {offset} are outside the disk or not on its grid")]
    Range {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A write to a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The host has no room left; nothing is lost, and the same request may succeed later.
    #[error("no space left for the disk image")]
    NoSpace,
    /// The backend cannot do this at all.
    #[error("operation not supported by the disk image")]
    Unsupported,
    /// The image's own metadata is wrong; the text says what.
    #[error("the disk image is damaged: {0}")]
    Corrupt(String),
    /// The host failed.
    #[error("host i/o failed")]
    Io(#[from] std::io::Error),
}

/// What a placement is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The bytes will be read.
    Read,
    /// The bytes will be overwritten in place.
    Write,
}

/// Keeps the place that a [`Placement`] names from being given to other data. Hold it until the
/// transfer has ended, then drop it.
pub type Lease = Option<Arc<dyn Any + Send + Sync>>;

/// Where the first bytes of a range are.
pub enum Placement {
    /// In a file, `len` bytes at `offset`: the caller does the transfer.
    File {
        /// The file.
        file: Arc<File>,
        /// Position in the file, in bytes.
        offset: u64,
        /// How many bytes of the range lie there in one piece; at least 1.
        len: u64,
        /// See [`Lease`].
        lease: Lease,
    },
    /// Nowhere: `len` bytes read as zeroes.
    Zeroes {
        /// At least 1.
        len: u64,
    },
    /// Only `read_at` or `write_at` can do these `len` bytes.
    Call {
        /// At least 1.
        len: u64,
    },
}

/// What a flush comes down to.
pub enum FlushPlan {
    /// `fdatasync` of this file is all there is to do: the caller does it.
    Sync(Arc<File>),
    /// Only [`BlockBackend::flush`] can do it.
    Call,
    /// Nothing to do: read-only.
    Done,
}

/// A disk. Offsets and lengths are in bytes, on the grid of `logical_block`; each call checks its
/// own range. Shared between threads, one per queue; concurrent calls on overlapping ranges leave
/// either's data, never damage.
pub trait BlockBackend: Send + Sync {
    /// What the disk is made of. The capacity may grow during its life.
    fn info(&self) -> BlockInfo;

    /// Fills `bufs` from `offset`.
    ///
    /// # Errors
    /// See [`BlockError`]; the contents of `bufs` are then unspecified.
    fn read_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError>;

    /// Writes `bufs` at `offset`. Not durable before the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// See [`BlockError`]; part of the range may then have been written.
    fn write_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError>;

    /// Makes everything durable that was written before this call.
    ///
    /// # Errors
    /// [`BlockError::NoSpace`]: nothing is durable yet, nothing is lost, and the next flush may
    /// succeed. [`BlockError::Io`]: nothing may be taken as durable, and no later flush succeeds.
    fn flush(&self) -> Result<(), BlockError>;

    /// Declares the range unused. It reads as zeroes or as before.
    ///
    /// # Errors
    /// See [`BlockError`].
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError>;

    /// Makes the range read as zeroes; `unmap` allows (and asks) to give its space back.
    ///
    /// # Errors
    /// See [`BlockError`].
    fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError>;

    /// Where the first bytes of the range are. Costs no data I/O; may read metadata.
    ///
    /// # Errors
    /// See [`BlockError`].
    fn place(&self, offset: u64, len: u64, access: Access) -> Result<Placement, BlockError>;

    /// What a flush comes down to now; it covers what was completed before this call.
    fn plan_flush(&self) -> FlushPlan;

    /// Tells of a [`FlushPlan::Sync`] that has failed. The kernel may have dropped what it could
    /// not write, and reports that once: from then on every flush of this disk must fail, until it
    /// is opened anew.
    fn sync_failed(&self, _error: &std::io::Error) {}

    /// Bytes that the host has left where this disk is stored; `None`: that cannot be told, or
    /// means nothing.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

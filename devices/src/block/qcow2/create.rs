//! New images: empty ones, and overlays on a base; the same bytes as `qemu-img create` writes.
//!
//! Layout: header, refcount table, refcount blocks, L1 table; the file ends behind the L1 table's
//! last entry. The caller makes the file appear under its name atomically.

use std::fs::File;

use super::super::file_io::ImageFile;
use super::super::{Fault, ImageFormat};
use super::compressed::Compression;
use super::geometry::Geometry;
use super::header::{self, Header};

/// Largest L1 table, bytes.
const MAX_L1_BYTES: u64 = 32 << 20;

/// What a new image is based on.
#[derive(Clone, Debug)]
pub struct Backing {
    /// The name to write into the header: relative to the image's directory, best.
    pub file: String,
    /// What it is.
    pub format: ImageFormat,
}

/// What a new image is like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Size of the disk in bytes, rounded up to 512; may be larger than the base.
    pub size: u64,
    /// The base, if it is an overlay.
    pub backing: Option<Backing>,
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size: 9 to 21.
    pub cluster_bits: u32,
    /// log2 of the refcount width: 0 to 6, and 4 for version 2.
    pub refcount_order: u32,
}

impl CreateOptions {
    /// A disk of `size` bytes, otherwise as `qemu-img` does it by default.
    pub fn new(size: u64) -> Self {
        Self { size, backing: None, version: 3, cluster_bits: 16, refcount_order: 4 }
    }

    /// The same as an overlay.
    #[must_use]
    pub fn over(self, file: impl Into<String>, format: ImageFormat) -> Self {
        Self { backing: Some(Backing { file: file.into(), format }), ..self }
    }
}

fn rule(holds: bool, field: &'static str, value: u64, rule: &'static str) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault::Header { field, value, rule }) }
}

/// Writes a new image into `file`, whose contents are lost, and makes it durable.
///
/// # Errors
/// [`Fault::Header`] for options no image can have, or the host's failure.
pub fn create(file: &File, options: &CreateOptions) -> Result<(), Fault> {
    let geometry = Geometry {
        version: options.version,
        cluster_bits: options.cluster_bits,
        refcount_order: options.refcount_order,
    };
    let size = options.size.checked_next_multiple_of(512).unwrap_or(u64::MAX);
    check_options(options, size)?;
    let l1_size = geometry.l1_needed(size);
    let l1_fits = l1_size * 8 <= MAX_L1_BYTES;
    rule(l1_fits, "size", size, "more than this cluster size can map; choose a smaller disk")?;
    let l1_clusters = (l1_size * 8).div_ceil(geometry.cluster());
    let (mut table, mut blocks) = (1, 1);
    loop {
        let total = 1 + table + blocks + l1_clusters;
        let needed = total.div_ceil(geometry.refblock_entries());
        if needed <= blocks {
            break;
        }
        (blocks, table) = (needed, (needed * 8).div_ceil(geometry.cluster()));
    }
    let total = 1 + table + blocks + l1_clusters;
    let at = |cluster: u64| cluster << geometry.cluster_bits;
    let header = Header {
        geometry,
        size,
        l1_size: l1_size as u32,
        l1_offset: at(1 + table + blocks),
        refcount_table_offset: at(1),
        refcount_table_clusters: table as u32,
        nb_snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        bitmaps: None,
        compression: Compression::Zlib,
        backing_file: options.backing.as_ref().map(|b| b.file.clone()),
        backing_format: options.backing.as_ref().map(|b| b.format.to_string()),
    };
    let bytes = header::emit(&header)?;
    file.set_len(0)?;
    file.set_len(header.l1_offset + l1_size * 8)?;
    let image = ImageFile::new(file.try_clone()?)?;
    for block in 0..blocks {
        let mut contents = vec![0; geometry.cluster() as usize];
        let first = block * geometry.refblock_entries();
        for cluster in first..total.min(first + geometry.refblock_entries()) {
            geometry.set_refcount(&mut contents, cluster - first, 1);
        }
        image.write(&contents, at(1 + table + block))?;
        image.write(&at(1 + table + block).to_be_bytes(), at(1) + block * 8)?;
    }
    image.write(&bytes, 0)?;
    file.sync_all()?;
    Ok(())
}

fn check_options(options: &CreateOptions, size: u64) -> Result<(), Fault> {
    let (version, bits) = (options.version, options.cluster_bits);
    rule((2..=3).contains(&version), "version", version.into(), "neither 2 nor 3")?;
    rule((9..=21).contains(&bits), "cluster_bits", bits.into(), "not between 9 and 21")?;
    let order = options.refcount_order;
    let order_fits = order <= 6 && (version >= 3 || order == 4);
    rule(order_fits, "refcount_order", order.into(), "not one this version has")?;
    let fits = (1..=i64::MAX as u64).contains(&size);
    rule(fits, "size", size, "not between 1 byte and 8 EiB")
}

//! The qcow2 header and its extensions: parse, validate, emit (QEMU `docs/interop/qcow2.txt`,
//! "Header", "Header extensions"). No I/O.
//!
//! Refused by name: encryption, an external data file, extended L2 entries, and every incompatible
//! feature the specification had not defined when this was written. Persistent bitmaps are not
//! kept up: their autoclear bit is cleared when the image is first written to (`bitmaps.rs`).

use super::super::Fault;
use super::bitmaps::Bitmaps;
use super::compressed::Compression;
use super::geometry::Geometry;

/// `QFI\xfb`.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Header length of version 2.
const V2_LENGTH: u32 = 72;
/// Shortest header length of version 3.
const V3_LENGTH: u32 = 104;
/// Header length that we emit: with the compression type, padded.
const EMITTED_LENGTH: u32 = 112;
/// Bytes from which the cluster size can be told.
pub(super) const PREFIX: usize = 24;

/// Where single fields lie, for updates in place. Each group lies in the first sector, so an
/// update of one group reaches the disk whole or not at all.
pub(super) mod field {
    /// `size`, 8 bytes.
    pub const SIZE: u64 = 24;
    /// `l1_size`, 4 bytes; `l1_table_offset`, 8, follows.
    pub const L1: u64 = 36;
    /// `refcount_table_offset`, 8 bytes; `refcount_table_clusters`, 4, follows.
    pub const REFCOUNT_TABLE: u64 = 48;
    /// `incompatible_features`, 8 bytes.
    pub const INCOMPATIBLE: u64 = 72;
    /// `autoclear_features`, 8 bytes.
    pub const AUTOCLEAR: u64 = 88;
}

/// Incompatible feature bits.
pub(super) mod incompatible {
    /// Refcounts may be wrong.
    pub const DIRTY: u64 = 1;
    /// Metadata is wrong.
    pub const CORRUPT: u64 = 1 << 1;
    /// Guest data lies in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// Clusters are compressed by something other than zlib.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries are 16 bytes.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// What we can work with.
    pub const KNOWN: u64 = DIRTY | CORRUPT | COMPRESSION;
}

/// Autoclear feature bits.
pub(super) mod autoclear {
    /// The bitmaps extension is right.
    pub const BITMAPS: u64 = 1;
}

/// Header extension types.
mod extension {
    pub const END: u32 = 0;
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    pub const BITMAPS: u32 = 0x2385_2875;
}

/// Largest L1 table, bytes.
const MAX_L1_BYTES: u64 = 32 << 20;
/// Largest refcount table, bytes.
pub(super) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Most internal snapshots.
const MAX_SNAPSHOTS: u32 = 65536;
/// Longest backing file name, bytes.
const MAX_BACKING_NAME: u32 = 1023;

/// The feature names that QEMU writes into every version 3 image: type, bit, name.
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// A parsed header.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub geometry: Geometry,
    /// Virtual size in bytes.
    pub size: u64,
    /// Entries of the L1 table.
    pub l1_size: u32,
    pub l1_offset: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_clusters: u32,
    pub nb_snapshots: u32,
    pub snapshots_offset: u64,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    /// Only if its autoclear bit vouches for it.
    pub bitmaps: Option<Bitmaps>,
    pub compression: Compression,
    pub backing_file: Option<String>,
    pub backing_format: Option<String>,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    field.map_or(0, u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// `Ok` if the rule holds, else the fault that names field, value and rule.
fn rule(
    holds: bool,
    field: &'static str,
    value: impl Into<u64>,
    rule: &'static str,
) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault::Header { field, value: value.into(), rule }) }
}

/// Bytes of the first cluster, told by the first [`PREFIX`] bytes of the file.
///
/// # Errors
/// Not a qcow2 image, or a version or cluster size that does not exist.
pub(super) fn cluster_size(prefix: &[u8]) -> Result<usize, Fault> {
    if !prefix.starts_with(&MAGIC) {
        return Err(Fault::NotQcow2);
    }
    let version = be32(prefix, 4);
    if !(2..=3).contains(&version) {
        return Err(Fault::Version(version));
    }
    let bits = be32(prefix, 20);
    rule((9..=21).contains(&bits), "cluster_bits", bits, "not between 9 and 21")?;
    Ok(1 << bits)
}

impl Header {
    /// Parses the first cluster of a file, padded with zeroes if the file is shorter.
    ///
    /// # Errors
    /// [`Fault`]: what is damaged or not supported, by name.
    pub(super) fn parse(cluster: &[u8]) -> Result<Self, Fault> {
        let size = cluster_size(cluster)?;
        let version = be32(cluster, 4);
        let crypt = be32(cluster, 32);
        let v3 = version >= 3;
        let optional = |at| if v3 { be64(cluster, at) } else { 0 };
        let length = if v3 { be32(cluster, 100) } else { V2_LENGTH };
        if v3 {
            let ok = length >= V3_LENGTH && length as usize <= size;
            rule(ok, "header_length", length, "not between 104 and the cluster size")?;
        }
        let geometry = Geometry {
            version,
            cluster_bits: size.trailing_zeros(),
            refcount_order: if v3 { be32(cluster, 96) } else { 4 },
        };
        let mut header = Self {
            geometry,
            size: be64(cluster, 24),
            l1_size: be32(cluster, 36),
            l1_offset: be64(cluster, 40),
            refcount_table_offset: be64(cluster, 48),
            refcount_table_clusters: be32(cluster, 56),
            nb_snapshots: be32(cluster, 60),
            snapshots_offset: be64(cluster, 64),
            incompatible: optional(72),
            compatible: optional(80),
            autoclear: optional(88),
            bitmaps: None,
            compression: Compression::Zlib,
            backing_file: None,
            backing_format: None,
        };
        let names = header.parse_extensions(cluster, length)?;
        header.refuse_unsupported(crypt, names)?;
        header.compression = header.parse_compression(cluster, length)?;
        header.check_tables()?;
        header.backing_file = parse_backing_name(cluster)?;
        Ok(header)
    }

    fn parse_extensions<'c>(&mut self, cluster: &'c [u8], length: u32) -> Result<&'c [u8], Fault> {
        let backing = be64(cluster, 8);
        let end = match backing {
            0 => cluster.len(),
            at => usize::try_from(at).unwrap_or(usize::MAX).min(cluster.len()),
        };
        let mut names: &[u8] = &[];
        let mut at = length as usize;
        while at + 8 <= end {
            let (kind, len) = (be32(cluster, at), be32(cluster, at + 4));
            if kind == extension::END {
                break;
            }
            let body = (at + 8).checked_add(len as usize).filter(|stop| *stop <= end);
            let body = body.and_then(|stop| cluster.get(at + 8..stop));
            let Some(body) = body else {
                return Err(Fault::Header {
                    field: "header extension length",
                    value: len.into(),
                    rule: "more than the first cluster holds",
                });
            };
            match kind {
                extension::BACKING_FORMAT => {
                    self.backing_format = Some(String::from_utf8_lossy(body).into_owned());
                }
                extension::FEATURE_NAMES => names = body,
                extension::BITMAPS if self.autoclear & autoclear::BITMAPS != 0 => {
                    self.bitmaps = Bitmaps::parse(body);
                }
                _ => {}
            }
            at += 8 + (len as usize).next_multiple_of(8);
        }
        Ok(names)
    }

    fn refuse_unsupported(&self, crypt: u32, names: &[u8]) -> Result<(), Fault> {
        let feature = |name: &str| Err(Fault::Feature(name.to_string()));
        match crypt {
            0 => {}
            1 => return feature("encryption (AES)"),
            2 => return feature("encryption (LUKS)"),
            _ => return feature("encryption of an unknown kind"),
        }
        if self.incompatible & incompatible::DATA_FILE != 0 {
            return feature("an external data file");
        }
        if self.incompatible & incompatible::EXTENDED_L2 != 0 {
            return feature("extended L2 entries (subclusters)");
        }
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            let bit = unknown.trailing_zeros();
            let name = names.chunks_exact(48).find(|n| n[0] == 0 && u32::from(n[1]) == bit);
            let name = name.map_or("without a name".into(), |n| {
                String::from_utf8_lossy(&n[2..]).trim_end_matches('\0').escape_debug().to_string()
            });
            return feature(&format!("incompatible feature {bit} ({name})"));
        }
        Ok(())
    }

    fn parse_compression(&self, cluster: &[u8], length: u32) -> Result<Compression, Fault> {
        let kind = if length > V3_LENGTH { cluster.get(104).copied().unwrap_or(0) } else { 0 };
        let flagged = self.incompatible & incompatible::COMPRESSION != 0;
        match (kind, flagged) {
            (0, false) => Ok(Compression::Zlib),
            (1, true) => Ok(Compression::Zstd),
            (0 | 1, _) => Err(Fault::Header {
                field: "compression_type",
                value: kind.into(),
                rule: "at odds with the compression feature bit",
            }),
            _ => Err(Fault::Feature(format!("compression type {kind}"))),
        }
    }

    fn check_tables(&self) -> Result<(), Fault> {
        let g = &self.geometry;
        rule(g.refcount_order <= 6, "refcount_order", g.refcount_order, "more than 6")?;
        let on_grid = |at: u64, name| {
            let ok = g.within(at) == 0 && at <= 1 << 55;
            rule(ok, name, at, "off the cluster grid or beyond any file")
        };
        on_grid(self.l1_offset, "l1_table_offset")?;
        on_grid(self.refcount_table_offset, "refcount_table_offset")?;
        let l1_bytes = u64::from(self.l1_size) * 8;
        rule(l1_bytes <= MAX_L1_BYTES, "l1_size", self.l1_size, "more than 32 MiB of entries")?;
        rule(self.size <= i64::MAX as u64, "size", self.size, "more than any disk")?;
        let needed = g.l1_needed(self.size);
        let enough = u64::from(self.l1_size) >= needed;
        rule(enough, "l1_size", self.l1_size, "too few entries for the disk's size")?;
        rule(needed == 0 || self.l1_offset != 0, "l1_table_offset", 0u64, "missing")?;
        rule(self.refcount_table_offset != 0, "refcount_table_offset", 0u64, "missing")?;
        let table = u64::from(self.refcount_table_clusters).saturating_mul(g.cluster());
        let fits = (1..=MAX_REFCOUNT_TABLE_BYTES.max(g.cluster())).contains(&table);
        let clusters = self.refcount_table_clusters;
        rule(fits, "refcount_table_clusters", clusters, "none, or more than 8 MiB")?;
        let snapshots = self.nb_snapshots;
        rule(snapshots <= MAX_SNAPSHOTS, "nb_snapshots", snapshots, "more than 65536")?;
        if snapshots > 0 {
            on_grid(self.snapshots_offset, "snapshots_offset")?;
            rule(self.snapshots_offset != 0, "snapshots_offset", 0u64, "missing")?;
        }
        Ok(())
    }
}

fn parse_backing_name(cluster: &[u8]) -> Result<Option<String>, Fault> {
    let (offset, len) = (be64(cluster, 8), be32(cluster, 16));
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    rule(len <= MAX_BACKING_NAME, "backing_file_size", len, "more than 1023")?;
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let name = start.checked_add(len as usize).and_then(|end| cluster.get(start..end));
    let name = name.and_then(|n| std::str::from_utf8(n).ok());
    match name {
        Some(name) => Ok(Some(name.to_string())),
        None => Err(Fault::Header {
            field: "backing_file_offset",
            value: offset,
            rule: "does not lead to a name within the first cluster",
        }),
    }
}

impl Header {
    /// The features that are set, by name; those without one by kind and number.
    pub(super) fn features(&self) -> Vec<String> {
        let kinds = [
            (0, "incompatible", self.incompatible),
            (1, "compatible", self.compatible),
            (2, "autoclear", self.autoclear),
        ];
        let mut features = Vec::new();
        for (kind, kind_name, bits) in kinds {
            for bit in (0..64u8).filter(|bit| bits >> bit & 1 != 0) {
                let known = FEATURE_NAMES.iter().find(|(k, b, _)| (*k, *b) == (kind, bit));
                features.push(match known {
                    Some((_, _, name)) => (*name).to_owned(),
                    None => format!("{kind_name} feature {bit}"),
                });
            }
        }
        features
    }
}

/// The bytes of a header with its extensions and backing name, as QEMU lays them out. The lazy
/// refcounts feature is never asked for, so the feature words are zero, except for zstd.
///
/// # Errors
/// The backing name does not fit into the first cluster.
pub(super) fn emit(header: &Header) -> Result<Vec<u8>, Fault> {
    let v3 = header.geometry.version >= 3;
    let mut out = vec![0; if v3 { EMITTED_LENGTH } else { V2_LENGTH } as usize];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(4, &header.geometry.version.to_be_bytes());
    put(20, &header.geometry.cluster_bits.to_be_bytes());
    put(24, &header.size.to_be_bytes());
    put(36, &header.l1_size.to_be_bytes());
    put(40, &header.l1_offset.to_be_bytes());
    put(48, &header.refcount_table_offset.to_be_bytes());
    put(56, &header.refcount_table_clusters.to_be_bytes());
    if v3 {
        put(72, &header.incompatible.to_be_bytes());
        put(88, &header.autoclear.to_be_bytes());
        put(96, &header.geometry.refcount_order.to_be_bytes());
        put(100, &EMITTED_LENGTH.to_be_bytes());
        put(104, &[u8::from(header.compression == Compression::Zstd)]);
    }
    let mut extend = |kind: u32, body: &[u8]| {
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(8), 0);
    };
    if let Some(format) = &header.backing_format {
        extend(extension::BACKING_FORMAT, format.as_bytes());
    }
    if v3 {
        let mut names = Vec::new();
        for (kind, bit, name) in FEATURE_NAMES {
            let start = names.len();
            names.extend_from_slice(&[kind, bit]);
            names.extend_from_slice(name.as_bytes());
            names.resize(start + 48, 0);
        }
        // Like QEMU, which leaves the names out of clusters they would crowd.
        if header.geometry.cluster() > 4096 {
            extend(extension::FEATURE_NAMES, &names);
        }
    }
    extend(extension::END, &[]);
    if let Some(name) = &header.backing_file {
        let offset = out.len() as u64;
        out[8..16].copy_from_slice(&offset.to_be_bytes());
        out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        let fits = name.len() <= MAX_BACKING_NAME as usize
            && out.len() as u64 <= header.geometry.cluster();
        rule(fits, "backing_file_size", name.len() as u64, "too long for the first cluster")?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Header {
        Header {
            geometry: Geometry { version: 3, cluster_bits: 16, refcount_order: 4 },
            size: 3 << 30,
            l1_size: 6,
            l1_offset: 0x30000,
            refcount_table_offset: 0x10000,
            refcount_table_clusters: 1,
            nb_snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            bitmaps: None,
            compression: Compression::Zlib,
            backing_file: Some("base.raw".into()),
            backing_format: Some("raw".into()),
        }
    }

    fn bytes() -> Vec<u8> {
        let mut bytes = emit(&valid()).unwrap();
        bytes.resize(65536, 0);
        bytes
    }

    #[test]
    fn what_is_emitted_is_parsed_back() {
        let header = Header::parse(&bytes()).unwrap();
        assert_eq!(header.backing_file.as_deref(), Some("base.raw"));
        assert_eq!(header.backing_format.as_deref(), Some("raw"));
        assert_eq!((header.size, header.l1_size, header.l1_offset), (3 << 30, 6, 0x30000));
    }

    #[test]
    fn every_field_out_of_bounds_is_refused() {
        let cases: [(usize, &[u8]); 17] = [
            (0, b"QFI\xfa"),
            (4, &[0, 0, 0, 1]),
            (4, &[0, 0, 0, 4]),
            (20, &[0, 0, 0, 8]),
            (20, &[0, 0, 0, 22]),
            (20, &[0xff; 4]),
            (24, &[0xff; 8]),
            (24, &[0, 0, 1, 0, 0, 0, 0, 0]),
            (32, &[0, 0, 0, 1]),
            (36, &[0, 0, 0, 5]),
            (36, &[0xff; 4]),
            (40, &[0, 0, 0, 0, 0, 3, 0, 8]),
            (48, &[0; 8]),
            (56, &[0xff; 4]),
            (60, &[0, 0, 0, 1]),
            (96, &[0, 0, 0, 7]),
            (100, &[0, 0, 0, 72]),
        ];
        for (at, value) in cases {
            let mut bytes = bytes();
            bytes[at..at + value.len()].copy_from_slice(value);
            assert!(Header::parse(&bytes).is_err(), "{at} {value:x?}");
        }
    }

    #[test]
    fn unsupported_features_are_named() {
        let cases: [(usize, u8, &str); 6] = [
            (35, 2, "LUKS"),
            (79, 4, "external data file"),
            (79, 16, "subclusters"),
            (79, 32, "incompatible feature 5"),
            (72, 0x80, "incompatible feature 63"),
            (104, 9, "compression type 9"),
        ];
        for (at, value, name) in cases {
            let mut bytes = bytes();
            bytes[at] = value;
            let fault = Header::parse(&bytes).unwrap_err().to_string();
            assert!(fault.contains(name), "{fault}");
        }
    }

    #[test]
    fn a_backing_name_or_extension_outside_the_cluster_is_refused() {
        let mut name = bytes();
        name[8..16].copy_from_slice(&65530u64.to_be_bytes());
        assert!(Header::parse(&name).is_err());
        let mut extension = bytes();
        extension[116..120].copy_from_slice(&[0xff; 4]);
        assert!(Header::parse(&extension).is_err());
    }
}

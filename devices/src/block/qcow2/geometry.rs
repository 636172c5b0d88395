//! Arithmetic of a qcow2 image: clusters, tables, and the meaning of their entries
//! (QEMU `docs/interop/qcow2.txt`, "Host cluster management" and "Cluster mapping"). No I/O.

use super::super::BlockError;

/// Bit 63 of L1 and L2 entries: the refcount of what it points to is exactly one, so that it may
/// be changed in place.
pub(super) const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard L2 entry, version 3: reads as zeroes.
pub(super) const ZERO: u64 = 1;
/// Bits 9 to 55: the host offset in L1, standard L2 and refcount table entries.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an L1 entry that must be zero.
const L1_RESERVED: u64 = !(COPIED | OFFSET);
/// Bits of a standard L2 entry that must be zero.
const L2_RESERVED: u64 = !(COPIED | OFFSET | ZERO);
/// Compressed data is counted in these, bytes.
const COMPRESSED_SECTOR: u64 = 512;
/// Metadata tables are cached in pieces of at most this, bytes.
const MAX_SLICE: u64 = 4096;

/// Sizes that follow from the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size: 9 to 21.
    pub cluster_bits: u32,
    /// log2 of the refcount width in bits: 0 to 6.
    pub refcount_order: u32,
}

/// What an L2 entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// Nothing: the backing file shows through.
    Unallocated,
    /// Zeroes; a host cluster may be kept for later.
    Zero {
        /// The kept cluster's offset.
        host: Option<u64>,
    },
    /// A host cluster.
    Data {
        /// Its offset, on the cluster grid.
        host: u64,
        /// Used only here, so writable in place.
        copied: bool,
    },
    /// Compressed data.
    Compressed {
        /// First byte.
        host: u64,
        /// Length in bytes, up to the end of its last 512-byte sector.
        len: u64,
    },
}

/// Consecutive host clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first cluster.
    pub start: u64,
    /// How many.
    pub count: u64,
}

impl Run {
    /// Number of the cluster after the last.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.count)
    }
}

impl Geometry {
    /// Bytes in a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries in an L2 table.
    pub(super) fn l2_entries(&self) -> u64 {
        self.cluster() / 8
    }

    /// Guest bytes that one L2 table maps.
    pub(super) fn l2_reach(&self) -> u64 {
        self.cluster() * self.l2_entries()
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub(super) fn l1_needed(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_reach())
    }

    /// Clusters that one refcount block counts.
    pub(super) fn refblock_entries(&self) -> u64 {
        (self.cluster() * 8) >> self.refcount_order
    }

    /// The largest refcount.
    pub(super) fn refcount_max(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.refcount_order))
    }

    /// Bytes of the pieces in which tables are cached.
    pub(super) fn slice(&self) -> u64 {
        self.cluster().min(MAX_SLICE)
    }

    /// The position of `offset` in its cluster.
    pub(super) fn within(&self, offset: u64) -> u64 {
        offset & (self.cluster() - 1)
    }

    /// Host clusters touched by `len` bytes from `offset`.
    pub(super) fn clusters_of(&self, offset: u64, len: u64) -> Run {
        let start = offset >> self.cluster_bits;
        let end = offset.saturating_add(len).div_ceil(self.cluster());
        Run { start, count: end.saturating_sub(start) }
    }

    /// The offset in an L1 entry; `None`: no L2 table.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`] when it is off the cluster grid.
    pub(super) fn l1_offset(&self, entry: u64) -> Result<Option<u64>, BlockError> {
        self.table_offset(entry & OFFSET, "l1", entry)
    }

    /// The offset in a refcount table entry; `None`: no refcount block.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`] when it is off the cluster grid.
    pub(super) fn refblock_offset(&self, entry: u64) -> Result<Option<u64>, BlockError> {
        self.table_offset(entry & !0x1ff, "refcount table", entry)
    }

    fn table_offset(&self, at: u64, what: &str, entry: u64) -> Result<Option<u64>, BlockError> {
        if self.within(at) != 0 || at > i64::MAX as u64 {
            return Err(BlockError::Corrupt(format!("{what} entry {entry:#x} is off the grid")));
        }
        Ok((at != 0).then_some(at))
    }

    /// What an L2 entry says.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`] when no valid image has such an entry.
    pub(super) fn l2_mapping(&self, entry: u64) -> Result<Mapping, BlockError> {
        if entry & COMPRESSED != 0 {
            let size_bits = self.cluster_bits - 8;
            let offset_bits = 62 - size_bits;
            let host = entry & ((1 << offset_bits) - 1);
            let sectors = ((entry >> offset_bits) & ((1 << size_bits) - 1)) + 1;
            let len = sectors * COMPRESSED_SECTOR - host % COMPRESSED_SECTOR;
            return Ok(Mapping::Compressed { host, len });
        }
        let host = entry & OFFSET;
        let zero = entry & ZERO != 0;
        if self.within(host) != 0 || (zero && self.version < 3) {
            return Err(BlockError::Corrupt(format!("l2 entry {entry:#x} is not valid")));
        }
        Ok(match (zero, host) {
            (true, 0) => Mapping::Zero { host: None },
            (true, _) => Mapping::Zero { host: Some(host) },
            (false, 0) => Mapping::Unallocated,
            (false, _) => Mapping::Data { host, copied: entry & COPIED != 0 },
        })
    }

    /// Whether an L1 entry uses bits that must be zero.
    pub(super) fn l1_has_reserved_bits(entry: u64) -> bool {
        entry & L1_RESERVED != 0
    }

    /// Whether an L2 entry uses bits that must be zero.
    pub(super) fn l2_has_reserved_bits(entry: u64) -> bool {
        entry & COMPRESSED == 0 && entry & L2_RESERVED != 0
    }

    /// The refcount with number `index` in a piece of a refcount block.
    pub(super) fn refcount(&self, block: &[u8], index: u64) -> u64 {
        let bits = index << self.refcount_order;
        let at = (bits / 8) as usize;
        let byte = |i: usize| block.get(at + i).copied().unwrap_or(0);
        match self.refcount_order {
            0..=2 => {
                let width = 1u32 << self.refcount_order;
                u64::from(byte(0) >> (bits % 8)) & ((1 << width) - 1)
            }
            order => (0..1usize << (order - 3)).fold(0, |v, i| v << 8 | u64::from(byte(i))),
        }
    }

    /// Sets the refcount with number `index` in a piece of a refcount block.
    pub(super) fn set_refcount(&self, block: &mut [u8], index: u64, value: u64) {
        let bits = index << self.refcount_order;
        let at = (bits / 8) as usize;
        match self.refcount_order {
            0..=2 => {
                let width = 1u32 << self.refcount_order;
                let mask = ((1u16 << width) - 1) as u8;
                let shift = (bits % 8) as u32;
                if let Some(byte) = block.get_mut(at) {
                    *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
                }
            }
            order => {
                let len = 1usize << (order - 3);
                if let Some(bytes) = block.get_mut(at..at + len) {
                    bytes.copy_from_slice(&value.to_be_bytes()[8 - len..]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(cluster_bits: u32, refcount_order: u32) -> Geometry {
        Geometry { version: 3, cluster_bits, refcount_order }
    }

    #[test]
    fn refcounts_of_every_width_come_back_and_leave_their_neighbours() {
        for order in 0..=6 {
            let g = geometry(9, order);
            let entries = g.refblock_entries();
            let mut block = vec![0; 512];
            for index in 0..entries {
                g.set_refcount(&mut block, index, (index % 3) & g.refcount_max());
            }
            for index in 0..entries {
                assert_eq!(g.refcount(&block, index), (index % 3) & g.refcount_max(), "{order}");
            }
            g.set_refcount(&mut block, 5, g.refcount_max());
            assert_eq!(g.refcount(&block, 5), g.refcount_max());
            assert_eq!(g.refcount(&block, 4), (4 % 3) & g.refcount_max());
            assert_eq!(g.refcount(&block, 6), 0);
        }
    }

    #[test]
    fn narrow_refcounts_begin_at_the_low_bit_and_wide_ones_are_big_endian() {
        let mut block = vec![0; 512];
        geometry(9, 0).set_refcount(&mut block, 9, 1);
        assert_eq!(block[..2], [0, 2]);
        geometry(9, 4).set_refcount(&mut block, 1, 0x1234);
        assert_eq!(block[2..4], [0x12, 0x34]);
    }

    #[test]
    fn l2_entries_mean_what_the_specification_says() {
        let g = geometry(16, 4);
        let mapping = |entry| g.l2_mapping(entry).unwrap();
        assert_eq!(mapping(0), Mapping::Unallocated);
        assert_eq!(mapping(ZERO), Mapping::Zero { host: None });
        assert_eq!(mapping(0x50001), Mapping::Zero { host: Some(0x50000) });
        assert_eq!(mapping(COPIED | 0x50000), Mapping::Data { host: 0x50000, copied: true });
        // 8 bits of sector count above 54 bits of offset; one sector less than there are.
        let entry = COMPRESSED | 2 << 54 | 0x50210;
        assert_eq!(mapping(entry), Mapping::Compressed { host: 0x50210, len: 3 * 512 - 0x10 });
        assert!(g.l2_mapping(0x50200).is_err());
        assert!(Geometry { version: 2, ..g }.l2_mapping(ZERO).is_err());
    }
}

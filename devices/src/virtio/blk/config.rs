//! Device configuration and features of a block device (VIRTIO 1.3 §5.2.3, §5.2.4).
//!
//! ```text
//!  0 capacity (8)      24 physical exponent, alignment   36 max discard sectors   52 max segments
//!  8 size_max          26 min_io_size                    40 max segments          56 may unmap
//! 12 seg_max           28 opt_io_size                    44 discard alignment
//! 16 geometry          32 writeback, 34 queues           48 max zeroes sectors
//! 20 blk_size
//! ```

use crate::block::BlockInfo;
use crate::virtio::RING_FEATURES;

/// Unit of capacity and request positions, whatever the logical block is.
pub const SECTOR: u64 = 512;
/// Size of each queue; firmware knows no larger ones.
pub const QUEUE_SIZE: u16 = 256;
/// Most segments of one discard or write-zeroes request.
pub const MAX_SEGMENTS: u32 = 32;
/// Most sectors of one such segment: 2 GiB less a bit, as other devices offer.
pub const MAX_SEGMENT_SECTORS: u32 = 0x3f_ffff;

/// `seg_max` is valid.
pub const F_SEG_MAX: u64 = 1 << 2;
/// The disk is read-only.
pub const F_RO: u64 = 1 << 5;
/// `blk_size` is valid.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// Flushes are understood; without it, writes are durable when they complete.
pub const F_FLUSH: u64 = 1 << 9;
/// The topology fields are valid.
pub const F_TOPOLOGY: u64 = 1 << 10;
/// Several queues.
pub const F_MQ: u64 = 1 << 12;
/// Discards are understood.
pub const F_DISCARD: u64 = 1 << 13;
/// Write-zeroes requests are understood.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

const CONFIG_LEN: usize = 60;

/// What is offered for such a disk.
pub fn features(info: &BlockInfo, queues: u16) -> u64 {
    let mut features = RING_FEATURES | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
    if queues > 1 {
        features |= F_MQ;
    }
    if info.read_only {
        return features | F_RO;
    }
    features |= F_WRITE_ZEROES;
    if info.discard_granularity > 0 {
        features |= F_DISCARD;
    }
    features
}

/// The configuration space.
pub fn bytes(info: &BlockInfo, queues: u16) -> [u8; CONFIG_LEN] {
    let logical = info.logical_block.max(1);
    let physical = info.physical_block.max(logical) / logical;
    let mut config = [0; CONFIG_LEN];
    let mut put = |at: usize, value: &[u8]| config[at..at + value.len()].copy_from_slice(value);
    put(0, &(info.capacity / SECTOR).to_le_bytes());
    // Header and status take a descriptor each.
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    put(20, &info.logical_block.to_le_bytes());
    put(24, &[physical.ilog2() as u8]);
    put(26, &u16::try_from(physical).unwrap_or(u16::MAX).to_le_bytes());
    put(28, &(info.optimal_io / logical).to_le_bytes());
    // Writes are cached by the host, until flushed.
    put(32, &[1]);
    put(34, &queues.to_le_bytes());
    if !info.read_only {
        if info.discard_granularity > 0 {
            put(36, &MAX_SEGMENT_SECTORS.to_le_bytes());
            put(40, &MAX_SEGMENTS.to_le_bytes());
            let alignment = (u64::from(info.discard_granularity) / SECTOR).max(1);
            put(44, &(alignment as u32).to_le_bytes());
        }
        put(48, &MAX_SEGMENT_SECTORS.to_le_bytes());
        put(52, &MAX_SEGMENTS.to_le_bytes());
        put(56, &[1]);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: BlockInfo = BlockInfo {
        capacity: 0x12_3456_7800,
        logical_block: 512,
        physical_block: 4096,
        optimal_io: 65536,
        discard_granularity: 65536,
        read_only: false,
    };

    #[test]
    fn the_layout_is_as_specified() {
        let mut expected = [0; CONFIG_LEN];
        expected[..8].copy_from_slice(&0x91a_2b3cu64.to_le_bytes());
        expected[12] = 254;
        expected[21] = 2;
        expected[24] = 3;
        expected[26] = 8;
        expected[28] = 128;
        expected[32] = 1;
        expected[34] = 4;
        expected[36..40].copy_from_slice(&[0xff, 0xff, 0x3f, 0]);
        expected[40] = 32;
        expected[44] = 128;
        expected[48..52].copy_from_slice(&[0xff, 0xff, 0x3f, 0]);
        expected[52] = 32;
        expected[56] = 1;
        assert_eq!(bytes(&INFO, 4), expected);
    }

    #[test]
    fn features_follow_the_disk() {
        let all = F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_MQ;
        assert_eq!(features(&INFO, 4) & (all | F_RO), all);
        let read_only = BlockInfo { read_only: true, ..INFO };
        assert_eq!(features(&read_only, 1) & (all | F_RO), F_FLUSH | F_RO);
        let plain = BlockInfo { discard_granularity: 0, ..INFO };
        assert_eq!(features(&plain, 1) & (all | F_RO), F_FLUSH | F_WRITE_ZEROES);
    }
}

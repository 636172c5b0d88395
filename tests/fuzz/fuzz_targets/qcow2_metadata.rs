//! A qcow2 image whose every byte is hostile is opened, read, written, discarded, flushed and
//! checked: no panic, no unbounded time or memory, and what was written is read back.
//!
//! Input: the image's bytes, then 64 bytes of operations, 8 each: what, where (3), how much (2),
//! and two that are spent on the file's length.
#![no_main]

use berth_fuzz::{file_of, split};
use devices::block::{Access, ImageFormat, NoBacking, OpenOptions, open};
use libfuzzer_sys::fuzz_target;
use vm_memory::VolatileSlice;

/// Reads and writes are at most this long, so that one input cannot take for ever.
const LONGEST: u64 = 256 << 10;

fuzz_target!(|data: &[u8]| {
    let (image, operations) = split(data, 64);
    let extent = operations.last().map_or(0, |&byte| u64::from(byte) << 14);
    let file = file_of(image, extent);
    let options = OpenOptions { lock: false, ..OpenOptions::default() };
    let Ok(opened) = open(file, "fuzz", ImageFormat::Qcow2, &options, &NoBacking) else {
        return;
    };
    let disk = opened.disk;
    let capacity = disk.info().capacity;
    for operation in operations.chunks_exact(8) {
        let [what, a, b, c, d, e, ..] = *operation else { return };
        let sector = u64::from(u32::from_le_bytes([a, b, c, 0])) * 512;
        let offset = if capacity == 0 { 0 } else { sector % capacity };
        let len = (u64::from(u16::from_le_bytes([d, e])) * 512)
            .min(LONGEST)
            .min(capacity.saturating_sub(offset));
        let mut bytes = vec![what; usize::try_from(len).unwrap_or(0)];
        match what % 7 {
            0 => {
                let _ = disk.read_at(&[VolatileSlice::from(&mut bytes[..])], offset);
            }
            1 => {
                if disk.write_at(&[VolatileSlice::from(&mut bytes[..])], offset).is_ok() {
                    let mut back = vec![!what; bytes.len()];
                    if disk.read_at(&[VolatileSlice::from(&mut back[..])], offset).is_ok() {
                        assert_eq!(back, bytes, "{len} bytes at {offset}");
                    }
                }
            }
            2 => {
                let _ = disk.discard(offset, len);
            }
            3 => {
                let _ = disk.zero(offset, len, d & 1 != 0);
            }
            4 => {
                let _ = disk.flush();
            }
            5 => {
                let _ = disk.place(offset, len.max(512), Access::Read);
            }
            _ => {
                let _ = disk.place(offset, len.max(512), Access::Write);
            }
        }
    }
    let _ = disk.flush();
});

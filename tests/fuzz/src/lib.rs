//! What the fuzz targets share: disks whose bytes the fuzzer chose.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file in memory that holds `bytes`, and is `length` long if that is more.
///
/// # Panics
/// If the kernel gives none.
pub fn file_of(bytes: &[u8], length: u64) -> File {
    let file = File::from(
        memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("the kernel has memory files"),
    );
    file.write_all_at(bytes, 0).expect("memory takes it");
    file.set_len(length.max(bytes.len() as u64)).expect("memory takes it");
    file
}

/// Cuts `tail` bytes off the end of the fuzzer's input, for what is done with the rest: seeds can
/// then be plain files.
pub fn split(data: &[u8], tail: usize) -> (&[u8], &[u8]) {
    data.split_at(data.len().saturating_sub(tail))
}

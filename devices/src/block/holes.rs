//! Holes of a file that nobody writes to: what a file system knows to be zeroes without reading them.

use std::fs::File;

use nix::errno::Errno;
use nix::libc::off_t;
use nix::unistd::{Whence, lseek};

/// Whether `len` bytes of `file` from `offset` on, all of them in it, are a hole. Where the file
/// system cannot tell, nothing is.
pub(super) fn is_hole(file: &File, offset: u64, len: u64) -> bool {
    let Some(end) = offset.checked_add(len) else { return false };
    let Ok(start) = off_t::try_from(offset) else { return false };
    // The position is nobody's: all else is done at a place that is given.
    let without_data = match lseek(file, start, Whence::SeekData) {
        Ok(data) => u64::try_from(data).is_ok_and(|data| data >= end),
        Err(Errno::ENXIO) => true,
        Err(_) => false,
    };
    without_data && file.metadata().is_ok_and(|metadata| end <= metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_hole_is_known_and_data_is_not() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        if !is_hole(&file, 0, 1 << 20) {
            eprintln!("skipped: this file system does not tell of holes");
            return;
        }
        assert!(!is_hole(&file, 0, (1 << 20) + 1), "a byte of it is data");
        assert!(!is_hole(&file, (1 << 20) + 512, 512));
        assert!(is_hole(&file, 2 << 20, 1 << 20), "up to the end");
        assert!(!is_hole(&file, 2 << 20, (1 << 20) + 1), "beyond the end");
        assert!(!is_hole(&file, u64::MAX, 2) && !is_hole(&file, 1 << 63, 1));
    }
}

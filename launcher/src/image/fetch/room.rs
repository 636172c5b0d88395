//! Free space on the image volume: looked at before and while something grows on it, so that a
//! fetch ends with a sentence instead of filling up what running machines need.

use std::fs::File;
use std::io;

use nix::sys::statvfs::fstatvfs;

/// At most this much stays free, in bytes.
const MOST_RESERVE: u64 = 64 << 20;
/// So many bytes may be written between two looks.
const STRIDE: u64 = 8 << 20;

/// Watches the space around one file.
pub struct Room {
    /// Bytes written since the last look.
    written: u64,
}

/// There is not enough space; in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// What could still be written.
    pub free: u64,
}

impl Room {
    /// Has not looked yet.
    pub fn new() -> Self {
        Self { written: STRIDE }
    }

    /// `bytes` are about to be written next to `file`.
    ///
    /// # Errors
    /// [`NoRoom`], if that would leave too little for others. A file system that does not tell
    /// has room until it says otherwise.
    pub fn take(&mut self, file: &File, bytes: u64) -> Result<(), NoRoom> {
        self.written = self.written.saturating_add(bytes);
        if self.written < STRIDE {
            return Ok(());
        }
        self.written = 0;
        needs(file, bytes)
    }
}

/// Whether `bytes` more fit beside `file`.
///
/// # Errors
/// [`NoRoom`].
pub fn needs(file: &File, bytes: u64) -> Result<(), NoRoom> {
    let Ok(stat) = fstatvfs(file) else { return Ok(()) };
    let unit: u64 = stat.fragment_size();
    let size = stat.blocks().saturating_mul(unit);
    if size == 0 {
        return Ok(());
    }
    let reserve = MOST_RESERVE.min(size / 100);
    let free = stat.blocks_available().saturating_mul(unit).saturating_sub(reserve);
    if bytes <= free { Ok(()) } else { Err(NoRoom { free }) }
}

/// Whether the system means that the volume, or this user's share of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_room_for_everything() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(needs(&file, 0), Ok(()));
        assert!(needs(&file, u64::MAX).is_err());
        let mut room = Room::new();
        assert_eq!(room.take(&file, 1), Ok(()));
        assert!(room.take(&file, u64::MAX).is_err());
        assert!(is_full(&io::Error::from_raw_os_error(libc::ENOSPC)));
        assert!(is_full(&io::Error::from_raw_os_error(libc::EDQUOT)));
        assert!(!is_full(&io::Error::from_raw_os_error(libc::EIO)));
    }
}

//! One fetcher of a base at a time, among all that share the image volume.
//!
//! An open-file-description lock (`fcntl(2)`, F_OFD_SETLK) on `<name>.lock`: local filesystems have
//! it, and NFS carries it to its server, so that pods on other nodes wait as well. It ends with
//! the process that holds it, however that ends. The file stays: whoever removed it could remove
//! the one that the next has just locked. Waiting is polling, so that signals are heard.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct FetchLock {
    _file: File,
}

/// Takes the lock at `path`, unless another has it.
///
/// # Errors
/// The file cannot be made, or the file system has no such locks.
pub fn try_take(path: &Path) -> io::Result<Option<FetchLock>> {
    // To lock for writing, NFS wants a file open for writing.
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(Some(FetchLock { _file: file })),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.lock");
        let first = try_take(&path).unwrap().unwrap();
        assert!(try_take(&path).unwrap().is_none());
        drop(first);
        // A test that starts a program at this moment has copies of our files until it does.
        let freed = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            try_take(&path).unwrap().is_some()
        });
        assert!(freed && path.exists());
        assert!(try_take(&dir.path().join("none/base.lock")).is_err());
    }
}

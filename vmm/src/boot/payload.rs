//! A kernel's or ramdisk's bytes: in a file or in memory, copied into guest memory once.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use devices::mem::{Bytes, GuestAddress, GuestMemory};
use vm_memory::ReadVolatile;

use super::BootError;

/// Bytes to be booted.
pub struct Payload {
    what: &'static str,
    name: String,
    source: Source,
    len: u64,
}

enum Source {
    File(File),
    Bytes(Vec<u8>),
}

impl Payload {
    /// Opens a regular file. `what` names its role in messages.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub fn open(what: &'static str, path: &Path) -> Result<Payload, BootError> {
        let name = path.display().to_string();
        let opened = File::open(path).and_then(|file| {
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(std::io::Error::other("not a regular file"));
            }
            Ok((file, metadata.len()))
        });
        match opened {
            Ok((file, len)) => Ok(Payload { what, name, source: Source::File(file), len }),
            Err(source) => Err(BootError::Read { what, name, source }),
        }
    }

    /// Bytes that were read already, from `name`.
    pub fn from_bytes(what: &'static str, name: String, bytes: Vec<u8>) -> Payload {
        let len = bytes.len() as u64;
        Payload { what, name, source: Source::Bytes(bytes), len }
    }

    /// Its path, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True: no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `max` bytes, or fewer if there are fewer.
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub fn head(&self, max: usize) -> Result<Vec<u8>, BootError> {
        let len = self.len.min(max as u64) as usize;
        match &self.source {
            Source::Bytes(bytes) => Ok(bytes[..len].to_vec()),
            Source::File(file) => {
                let mut head = vec![0; len];
                let mut file: &File = file;
                file.seek(SeekFrom::Start(0))
                    .and_then(|_| file.read_exact(&mut head))
                    .map_err(|source| self.failed(source))?;
                Ok(head)
            }
        }
    }

    /// Copies `len` bytes from `offset` to guest address `to`; what lies in a file goes straight
    /// from there to guest memory.
    ///
    /// # Errors
    /// [`BootError::Read`] when the range is not there, [`BootError::Memory`] when `to` is not RAM.
    pub fn copy_to(
        &self,
        memory: &GuestMemory,
        offset: u64,
        len: u64,
        to: u64,
    ) -> Result<(), BootError> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let (Some(end), Ok(count)) = (end, usize::try_from(len)) else {
            return Err(self.failed(std::io::ErrorKind::UnexpectedEof.into()));
        };
        match &self.source {
            Source::Bytes(bytes) => {
                memory.write_slice(&bytes[offset as usize..end as usize], GuestAddress(to))?;
            }
            Source::File(file) => {
                let mut file: &File = file;
                file.seek(SeekFrom::Start(offset)).map_err(|source| self.failed(source))?;
                memory.read_exact_volatile_from(GuestAddress(to), &mut Reader(file), count)?;
            }
        }
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> BootError {
        BootError::Read { what: self.what, name: self.name.clone(), source }
    }
}

/// A shared file as a source of volatile reads.
struct Reader<'a>(&'a File);

impl ReadVolatile for Reader<'_> {
    fn read_volatile<B: vm_memory::bitmap::BitmapSlice>(
        &mut self,
        buf: &mut vm_memory::VolatileSlice<B>,
    ) -> Result<usize, vm_memory::VolatileMemoryError> {
        self.0.read_volatile(buf)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory;

    #[test]
    fn files_and_bytes_are_copied_alike() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let memory = memory::allocate(32 << 20).unwrap();
        let both = [
            Payload::open("the kernel", file.path()).unwrap(),
            Payload::from_bytes("the kernel", "k".into(), b"0123456789".to_vec()),
        ];
        for payload in both {
            assert_eq!((payload.len(), payload.head(4).unwrap()), (10, b"0123".to_vec()));
            payload.copy_to(&memory, 3, 5, 0x1000).unwrap();
            let mut got = [0; 6];
            memory.read_slice(&mut got, GuestAddress(0x1000)).unwrap();
            assert_eq!(&got, b"34567\0");
            assert!(payload.copy_to(&memory, 6, 5, 0).is_err());
            assert!(payload.copy_to(&memory, u64::MAX, 2, 0).is_err());
            assert!(payload.copy_to(&memory, 0, 5, (32 << 20) - 4).is_err());
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = Payload::open("the kernel", Path::new("/nonexistent/k")).err().unwrap();
        assert_eq!(error.to_string(), "cannot read the kernel /nonexistent/k");
        assert!(Payload::open("the kernel", Path::new("/")).is_err());
    }
}

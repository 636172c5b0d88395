//! What can be wrong with an image, in sentences for whoever gave it to us; and its format, which
//! is stated by configuration and read off the bytes only once, at import.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::str::FromStr;

use super::file_io::block_error;
use super::lock::Holder;
use super::{BlockError, ResolveError};

/// How the bytes of an image make a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// The bytes are the disk.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

impl FromStr for ImageFormat {
    type Err = Fault;

    fn from_str(name: &str) -> Result<Self, Fault> {
        match name {
            "raw" | "host_device" | "file" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(Fault::FormatName(name.escape_debug().to_string())),
        }
    }
}

/// First bytes of files that are not disks we can read, and what they are.
const FOREIGN: [(&[u8], &str); 14] = [
    (b"QED\0", "a QED image"),
    (b"KDMV", "a VMDK image"),
    (b"COWD", "a VMDK image"),
    (b"# Disk Descriptor", "a VMDK description"),
    (b"vhdxfile", "a VHDX image"),
    (b"conectix", "a VHD image"),
    (b"<<< ", "a VDI image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"<!", "a web page"),
    (b"<html", "a web page"),
];

impl ImageFormat {
    /// Tells a base's format by its first bytes. For a base at import only: the bytes of a raw disk
    /// belong to its guest, which could write a qcow2 header there that names any file as backing.
    ///
    /// # Errors
    /// [`Fault::Foreign`] for archives, web pages and images of other kinds; [`Fault::Empty`].
    pub fn probe(file: &File) -> Result<Self, Fault> {
        let mut head = [0; 64];
        let mut len = 0;
        while len < head.len() {
            match file.read_at(&mut head[len..], len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        let head = &head[..len];
        if head.is_empty() {
            return Err(Fault::Empty);
        }
        if head.starts_with(b"QFI\xfb") {
            return Ok(Self::Qcow2);
        }
        let lower = head.to_ascii_lowercase();
        match FOREIGN.iter().find(|(magic, _)| head.starts_with(magic) || lower.starts_with(magic))
        {
            Some((_, kind)) => Err(Fault::Foreign(kind)),
            None => Ok(Self::Raw),
        }
    }
}

/// An image that cannot be opened: which, and why.
#[derive(Debug)]
pub struct OpenError {
    /// The image, as it was named.
    pub image: String,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.image, self.fault)
    }
}

impl Error for OpenError {
    /// What is behind the fault, which the text has already told.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.fault.source()
    }
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No bytes.
    #[error("the file is empty, so it is no disk image; fetch it again")]
    Empty,
    /// Recognised as something else.
    #[error("this is {0}, not a disk image; give a raw or qcow2 image")]
    Foreign(&'static str),
    /// An unknown format name.
    #[error("image format `{0}` is not supported; convert it with `qemu-img convert -O qcow2`")]
    FormatName(String),
    /// Stated to be qcow2, but is not.
    #[error("not a qcow2 image: it does not begin with `QFI\\xfb`; fetch it again or state `raw`")]
    NotQcow2,
    /// A qcow2 version other than 2 and 3.
    #[error("qcow2 version {0} is not supported, only 2 and 3; convert it with `qemu-img convert`")]
    Version(u32),
    /// A feature the image cannot be used without.
    #[error(
        "the image needs {0}, which is not supported; convert it with `qemu-img convert -O qcow2`"
    )]
    Feature(String),
    /// A header field that no valid image has.
    #[error("the qcow2 header is damaged: {field} is {value:#x}, {rule}")]
    Header {
        /// The field's name in the specification.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// The file ends too early.
    #[error(
        "the file is truncated: {what} at byte {at}, but the file has {len} bytes; fetch it again"
    )]
    Truncated {
        /// What lies beyond the end.
        what: &'static str,
        /// Where it should be.
        at: u64,
        /// Length of the file.
        len: u64,
    },
    /// The image's corrupt bit is set.
    #[error(
        "the image is marked corrupt, so it is not written to; repair it with `berth image repair`"
    )]
    MarkedCorrupt,
    /// A window off the file or the grid.
    #[error(
        "the window of the disk, offset {offset} and length {len:?}, does not fit the file's {size} bytes on its block grid"
    )]
    Window {
        /// Asked for, in bytes.
        offset: u64,
        /// Asked for, in bytes.
        len: Option<u64>,
        /// The file's length.
        size: u64,
    },
    /// Somebody else uses the image in a way that excludes this one.
    #[error("the image is in use by {holder}; stop it first", holder = Holder::name(.0.as_ref()))]
    Locked(Option<Holder>),
    /// The file system has no locks.
    #[error(
        "the image cannot be locked, so a second writer could not be kept out; use a file system with locks"
    )]
    LockUnavailable(#[source] io::Error),
    /// The chain comes back to a file that it already contains.
    #[error(
        "its backing chain comes back to itself at `{0}`; name another backing file with `qemu-img rebase -u`"
    )]
    ChainLoop(String),
    /// The chain is longer than we follow.
    #[error("its backing chain is longer than {0} images; merge some with `qemu-img rebase`")]
    ChainDepth(usize),
    /// The header names a backing file without saying what it is.
    #[error(
        "the format of its backing file `{0}` is not stated, and guessing would let a guest that once wrote a raw disk choose what is opened; state it with `qemu-img rebase -u -b {0} -F FORMAT`"
    )]
    BackingFormat(String),
    /// The caller does not open the backing file.
    #[error("its backing file `{name}` cannot be used")]
    BackingRefused {
        /// As the header names it.
        name: String,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// Reading or repairing failed.
    #[error(transparent)]
    Block(#[from] BlockError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Block(block_error(error))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn probe(bytes: &[u8]) -> Result<ImageFormat, Fault> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        ImageFormat::probe(&file)
    }

    #[test]
    fn a_base_is_told_by_its_first_bytes() {
        assert_eq!(probe(b"QFI\xfb....").unwrap(), ImageFormat::Qcow2);
        assert_eq!(probe(&[0; 512]).unwrap(), ImageFormat::Raw);
        assert!(matches!(probe(b""), Err(Fault::Empty)));
        for page in [&b"<!DOCTYPE html>"[..], b"<HTML><body>404", b"\x1f\x8b\x08", b"KDMV\x01"] {
            assert!(matches!(probe(page), Err(Fault::Foreign(_))), "{page:?}");
        }
    }
}

//! Whether what was fetched is an image at all. A server may answer a login page as if it were the
//! file, and any bytes are a raw image: so one needs something that a disk begins with, or the word
//! of whoever asked for it. Called with the file still under its temporary name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use devices::block::{ImageFormat, qcow2};

use crate::failure::sentence;

/// What disks begin with: offset and bytes. Partition tables, then filesystems on a whole disk.
const BEGINNINGS: [(u64, &[u8]); 9] = [
    (510, &[0x55, 0xaa]),
    (512, b"EFI PART"),
    (4096, b"EFI PART"),
    (1080, &[0x53, 0xef]),
    (0, b"XFSB"),
    (65600, b"_BHRfS_M"),
    (32769, b"CD001"),
    (512, b"LABELONE"),
    (0, b"hsqs"),
];

/// The format of the image in `file`: as `stated`, or by its header. `vouched`: it has the digest
/// that was asked for.
///
/// # Errors
/// Why it is no image that can be a base: continues "what was fetched ...".
pub fn format(
    file: &File,
    stated: Option<ImageFormat>,
    vouched: bool,
) -> Result<ImageFormat, String> {
    let probed = ImageFormat::probe(file);
    let found = match (stated, probed) {
        (Some(stated), _) => stated,
        (None, Ok(found)) => found,
        (None, Err(fault)) => return Err(format!("cannot be used: {}", sentence(&fault))),
    };
    if found == ImageFormat::Qcow2 {
        let info = qcow2::read_info(file);
        let info = info.map_err(|fault| format!("cannot be used: {}", sentence(&fault)))?;
        // On this machine, the name would lead to something else than where it was made.
        if let Some(name) = info.backing_file {
            return Err(format!("is only an overlay, on {name:.80?}; fetch a whole image"));
        }
        return Ok(found);
    }
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length == 0 {
        return Err("is empty".to_owned());
    }
    let like_a_disk = || BEGINNINGS.iter().any(|(offset, bytes)| has(file, *offset, bytes));
    if stated.is_some() || vouched || like_a_disk() {
        return Ok(found);
    }
    Err("has neither a qcow2 header nor a partition table or a filesystem; if it is a raw image, \
         say so with --image-format raw, or give --image-sha256"
        .to_owned())
}

fn has(file: &File, offset: u64, bytes: &[u8]) -> bool {
    let mut there = vec![0; bytes.len()];
    let read: io::Result<()> = file.read_exact_at(&mut there, offset);
    read.is_ok() && there == bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::block::qcow2::CreateOptions;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn pages_and_archives_are_no_images() {
        for (bytes, part) in [
            (&b"<!DOCTYPE html><html><body>404</body></html>"[..], "cannot be used: "),
            (b"", "empty"),
            (b"{\"error\": \"expired\"}", "neither a qcow2 header nor"),
            (&[0; 70_000], "neither a qcow2 header nor"),
            (b"QFI\xfb\0\0", "cannot be used: "),
        ] {
            let error = format(&file(bytes), None, false).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn disks_are() {
        for (offset, magic) in BEGINNINGS {
            let mut bytes = vec![0; 70_000];
            let at = usize::try_from(offset).unwrap();
            bytes[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(format(&file(&bytes), None, false), Ok(ImageFormat::Raw), "{offset}");
        }
        let nothing = file(&[0; 4096]);
        assert_eq!(format(&nothing, None, true), Ok(ImageFormat::Raw));
        assert_eq!(format(&nothing, Some(ImageFormat::Raw), false), Ok(ImageFormat::Raw));
        assert!(format(&nothing, Some(ImageFormat::Qcow2), true).is_err());
        let image = tempfile::tempfile().unwrap();
        qcow2::create(&image, &CreateOptions::new(1 << 20)).unwrap();
        assert_eq!(format(&image, None, false), Ok(ImageFormat::Qcow2));
        let overlay = tempfile::tempfile().unwrap();
        let options = CreateOptions::new(1 << 20).over("/etc/passwd", ImageFormat::Raw);
        qcow2::create(&overlay, &options).unwrap();
        assert!(format(&overlay, None, true).unwrap_err().contains("only an overlay"));
    }
}

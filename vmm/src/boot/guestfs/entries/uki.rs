//! Unified kernel images: kernel, ramdisk and command line as sections of one PE file.
//!
//! UAPI.5 "Unified Kernel Image"; PE/COFF §3 to §4. Sections used: `.linux`, `.ucode`, `.initrd`,
//! `.cmdline`. Left out: profiles (`.profile`, the first one counts), `.dtb`, signatures.

use std::ops::Range;

/// Where the parts of an image are, in bytes of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The kernel.
    pub linux: Range<usize>,
    /// Microcode and initial ramdisk, in the order they are to be loaded.
    pub initrds: Vec<Range<usize>>,
    /// The command line.
    pub cmdline: String,
}

fn le16(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn le32(file: &[u8], at: usize) -> Option<usize> {
    let value = u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?);
    usize::try_from(value).ok()
}

/// Finds the parts of an image; `None` where it is none, or its tables do not fit the file.
pub fn parse(file: &[u8]) -> Option<Image> {
    if !file.starts_with(b"MZ") {
        return None;
    }
    let coff = le32(file, 0x3c)?;
    if file.get(coff..coff.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let count = usize::from(le16(file, coff + 6)?);
    let table = coff + 24 + usize::from(le16(file, coff + 20)?);
    let section = |name: &[u8; 8]| {
        (0..count).find_map(|index| {
            let at = table + index * 40;
            let header = file.get(at..at.checked_add(40)?)?;
            if !header.starts_with(name) {
                return None;
            }
            // The file may pad a section (raw size), memory may extend it (virtual size).
            let len = le32(header, 8)?.min(le32(header, 16)?);
            let start = le32(header, 20)?;
            let range = start..start.checked_add(len)?;
            file.get(range.clone()).map(|_| range)
        })
    };
    let cmdline = section(b".cmdline").and_then(|range| file.get(range)).unwrap_or_default();
    let cmdline = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Image {
        linux: section(b".linux\0\0")?,
        initrds: [section(b".ucode\0\0"), section(b".initrd\0")].into_iter().flatten().collect(),
        cmdline: String::from_utf8_lossy(cmdline).trim().to_owned(),
    })
}

/// Builds an image for tests.
#[cfg(test)]
pub fn build(sections: &[(&[u8; 8], &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x80;
    file[0x80..0x84].copy_from_slice(b"PE\0\0");
    file[0x86] = sections.len() as u8;
    file[0x94] = 0xf0;
    for (index, (name, content)) in sections.iter().enumerate() {
        let at = 0x80 + 24 + 0xf0 + index * 40;
        let padded = content.len().next_multiple_of(512);
        file[at..at + 8].copy_from_slice(*name);
        file[at + 8..at + 12].copy_from_slice(&(content.len() as u32).to_le_bytes());
        file[at + 16..at + 20].copy_from_slice(&(padded as u32).to_le_bytes());
        let start = file.len() as u32;
        file[at + 20..at + 24].copy_from_slice(&start.to_le_bytes());
        file.extend_from_slice(content);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    file
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        build(&[
            (b".osrel\0\0", b"ID=fedora\n"),
            (b".cmdline", b"root=x ro\n\0"),
            (b".initrd\0", b"initrd"),
            (b".linux\0\0", b"kernel"),
        ])
    }

    #[test]
    fn sections_are_found_at_their_own_length() {
        let file = sample();
        let image = parse(&file).unwrap();
        assert_eq!(&file[image.linux], b"kernel");
        assert_eq!(&file[image.initrds[0].clone()], b"initrd");
        assert_eq!((image.initrds.len(), image.cmdline.as_str()), (1, "root=x ro"));
        assert!(parse(&build(&[(b".text\0\0\0", b"x")])).is_none());
        assert!(parse(b"MZ").is_none());
    }

    proptest! {
        #[test]
        fn any_header_is_read(
            edits in prop::collection::vec((0..1024_usize, any::<u8>()), 0..16),
            len in 0..3000_usize,
        ) {
            let mut file = sample();
            for (at, value) in edits {
                file[at] = value;
            }
            file.truncate(len);
            if let Some(image) = parse(&file) {
                prop_assert!(image.linux.end <= file.len());
            }
        }
    }
}

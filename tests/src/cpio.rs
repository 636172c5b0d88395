//! The "newc" cpio archive that Linux unpacks as an initramfs (Documentation/driver-api/early-
//! userspace/buffer-format.rst), just enough to add a few regular files to one that exists.
//!
//! The kernel unpacks archives that follow one another; each must start on a 4-byte boundary.

/// An archive of regular files, executable, owned by root.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (inode, (name, content)) in (1..).zip(files) {
        entry(&mut out, inode, 0o100_755, name, content);
    }
    entry(&mut out, 0, 0, "TRAILER!!!", &[]);
    out
}

fn entry(out: &mut Vec<u8>, inode: u32, mode: u32, name: &str, content: &[u8]) {
    let length = u32::try_from(content.len()).expect("a file in an initramfs is below 4 GiB");
    let name_length = u32::try_from(name.len() + 1).expect("a name is short");
    out.extend(b"070701");
    // inode, mode, uid, gid, links, mtime, size, device (4 fields), name length, checksum
    for field in [inode, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0] {
        out.extend(format!("{field:08X}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    pad(out);
    out.extend(content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_kernel_looks() {
        let made = archive(&[("job", b"echo\n")]);
        assert_eq!(&made[..6], b"070701");
        assert_eq!(&made[14..22], b"000081ED");
        assert_eq!(&made[54..62], b"00000005");
        assert_eq!(&made[94..102], b"00000004");
        assert_eq!(&made[110..114], b"job\0");
        assert_eq!(&made[116..124], b"echo\n\0\0\0");
        assert!(made.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(made.len() % 4, 0);
    }
}

//! What is in a volume, by its superblock: kind, label, UUID.
//!
//! Enough to open what can be read, to find what a boot loader searches by label or UUID, and to
//! name what cannot be read. Offsets are those of the on-disk formats: ext (`s_magic` at 1024+56),
//! XFS (`XFSB` at 0), btrfs (`_BHRfS_M` at 65536+64), FAT (BPB), LUKS, LVM2 (`LABELONE` in one of
//! the first four sectors), and some that are only named.

use std::fmt;

use crate::boot::guestfs::disk::Volume;

/// Bytes looked at: up to and including the btrfs superblock.
const PROBED: u64 = 65536 + 4096;

/// What is in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// Something known by name that cannot be read here.
    Foreign(&'static str),
    /// Nothing known.
    Unknown,
}

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What it is.
    pub kind: Kind,
    /// Name to show: `ext4` rather than `ext`.
    pub name: &'static str,
    /// Volume label; empty where there is none.
    pub label: String,
    /// UUID as `blkid` and GRUB write it, in lower case: a GUID, or `1234-abcd` for FAT.
    pub uuid: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Looks at the beginning of `volume`. What cannot be read counts as empty.
pub fn identify(volume: &Volume) -> Identity {
    let mut head = vec![0; volume.size().min(PROBED) as usize];
    let unknown = Identity {
        kind: Kind::Unknown,
        name: "nothing known",
        label: String::new(),
        uuid: String::new(),
    };
    if volume.read_exact_at(0, &mut head).is_err() {
        return unknown;
    }
    ext(&head)
        .or_else(|| xfs(&head))
        .or_else(|| btrfs(&head))
        .or_else(|| foreign(&head))
        .or_else(|| fat(&head))
        .unwrap_or(unknown)
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at + N)?.try_into().ok()
}

fn le16(head: &[u8], at: usize) -> Option<u16> {
    bytes(head, at).map(u16::from_le_bytes)
}

fn le32(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(u32::from_le_bytes)
}

/// Text up to the first NUL, without the spaces that pad it.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim_end().to_owned()
}

fn uuid(raw: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(raw));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn ext(head: &[u8]) -> Option<Identity> {
    const HAS_JOURNAL: u32 = 0x4;
    /// Incompatible features that only ext4 has: extents and later ones.
    const EXT4_ONLY: u32 = !0x3f;
    /// `EXT4_FEATURE_INCOMPAT_JOURNAL_DEV`: no filesystem, only a journal.
    const JOURNAL_DEVICE: u32 = 0x8;
    if le16(head, 1024 + 56)? != 0xef53 {
        return None;
    }
    let (compatible, incompatible) = (le32(head, 1024 + 92)?, le32(head, 1024 + 96)?);
    let (kind, name) = match () {
        () if incompatible & JOURNAL_DEVICE != 0 => (Kind::Foreign("ext4 journal"), "ext4 journal"),
        () if incompatible & EXT4_ONLY != 0 => (Kind::Ext, "ext4"),
        () if compatible & HAS_JOURNAL != 0 => (Kind::Ext, "ext3"),
        () => (Kind::Ext, "ext2"),
    };
    let label = text(&bytes::<16>(head, 1024 + 120)?);
    Some(Identity { kind, name, label, uuid: uuid(bytes(head, 1024 + 104)?) })
}

fn xfs(head: &[u8]) -> Option<Identity> {
    if &bytes::<4>(head, 0)? != b"XFSB" {
        return None;
    }
    let label = text(&bytes::<12>(head, 108)?);
    Some(Identity { kind: Kind::Xfs, name: "xfs", label, uuid: uuid(bytes(head, 32)?) })
}

fn btrfs(head: &[u8]) -> Option<Identity> {
    let superblock = head.get(65536..)?;
    if &bytes::<8>(superblock, 64)? != b"_BHRfS_M" {
        return None;
    }
    let label = text(&bytes::<256>(superblock, 299)?);
    Some(Identity { kind: Kind::Btrfs, name: "btrfs", label, uuid: uuid(bytes(superblock, 32)?) })
}

/// Volumes that are named and not read.
fn foreign(head: &[u8]) -> Option<Identity> {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..).is_some_and(|tail| tail.starts_with(magic))
    };
    let lvm =
        (0..4).any(|sector| at(sector * 512, b"LABELONE") && at(sector * 512 + 24, b"LVM2 001"));
    let name = match () {
        () if at(0, b"LUKS\xba\xbe") => "LUKS (encrypted)",
        () if lvm => "LVM physical volume",
        () if at(4096 - 10, b"SWAPSPACE2") => "swap",
        () if at(3, b"NTFS    ") => "NTFS",
        () if at(3, b"EXFAT   ") => "exFAT",
        () if at(3, b"-FVE-FS-") => "BitLocker (encrypted)",
        () if at(0, b"hsqs") => "squashfs",
        () if at(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) => "EROFS",
        () if at(1024, &[0x10, 0x20, 0xf5, 0xf2]) => "F2FS",
        () if at(32769, b"CD001") => "ISO 9660",
        () if at(4096, &[0xfc, 0x4e, 0x2b, 0xa9]) || at(0, &[0xfc, 0x4e, 0x2b, 0xa9]) => {
            "Linux software RAID"
        }
        () if at(8192 + 1372, &[0x19, 0x01, 0x54, 0x19]) => "UFS",
        () if at(65536 + 1372, &[0x19, 0x01, 0x54, 0x19]) => "UFS",
        () if at(4096 + 24, BCACHEFS) => "bcachefs",
        () => return None,
    };
    let kind = Kind::Foreign(name);
    Some(Identity { kind, name, label: String::new(), uuid: String::new() })
}

/// `BCHFS_MAGIC`.
const BCACHEFS: &[u8] = &[
    0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef,
];

/// FAT has no magic of its own: the BIOS parameter block has to make sense.
fn fat(head: &[u8]) -> Option<Identity> {
    let sector = le16(head, 11)?;
    let (cluster, fats) = (*head.get(13)?, *head.get(16)?);
    let jump = matches!(head.first()?, 0xeb | 0xe9);
    let plausible = jump
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && le16(head, 14)? != 0
        && matches!(fats, 1 | 2)
        && le16(head, 510)? == 0xaa55;
    if !plausible {
        return None;
    }
    // FAT32 has no 16-bit FAT size, and its extended block is further on.
    let (extended, name) = if le16(head, 22)? == 0 { (66, "FAT32") } else { (38, "FAT") };
    let (mut label, mut uuid) = (String::new(), String::new());
    if matches!(*head.get(extended)?, 0x28 | 0x29) {
        let serial = le32(head, extended + 1)?;
        uuid = format!("{:04x}-{:04x}", serial >> 16, serial & 0xffff);
        label = text(&bytes::<11>(head, extended + 5)?);
        if label == "NO NAME" {
            label.clear();
        }
    }
    Some(Identity { kind: Kind::Fat, name, label, uuid })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::boot::guestfs::testdisk::{MemoryDisk, open};

    fn identified(bytes: Vec<u8>) -> Identity {
        let len = bytes.len() as u64;
        identify(&Volume::new(&open(MemoryDisk::new(bytes, 512)), 0, len))
    }

    fn with(edits: &[(usize, &[u8])]) -> Identity {
        let mut bytes = vec![0; 128 * 1024];
        for (at, magic) in edits {
            bytes[*at..*at + magic.len()].copy_from_slice(magic);
        }
        identified(bytes)
    }

    #[test]
    fn superblocks_are_told_apart() {
        let id: [u8; 16] = core::array::from_fn(|index| index as u8 * 17);
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        let ext4 = with(&[
            (1080, &[0x53, 0xef]),
            (1024 + 96, &[0x42, 2, 0, 0]),
            (1024 + 104, &id),
            (1024 + 120, b"cloudimg-rootfs\0"),
        ]);
        assert_eq!((ext4.name, ext4.label.as_str()), ("ext4", "cloudimg-rootfs"));
        assert_eq!(ext4.uuid, text);
        assert_eq!(with(&[(1080, &[0x53, 0xef]), (1024 + 92, &[4])]).name, "ext3");
        assert_eq!(with(&[(1080, &[0x53, 0xef])]).name, "ext2");
        let xfs = with(&[(0, b"XFSB"), (32, &id), (108, b"boot")]);
        assert_eq!((xfs.kind, xfs.label.as_str(), xfs.uuid.as_str()), (Kind::Xfs, "boot", text));
        let btrfs = with(&[(65600, b"_BHRfS_M"), (65568, &id), (65536 + 299, b"fedora")]);
        assert_eq!(
            (btrfs.kind, btrfs.label.as_str(), btrfs.uuid.as_str()),
            (Kind::Btrfs, "fedora", text)
        );
        assert_eq!(with(&[(0, b"LUKS\xba\xbe\0\x02")]).kind, Kind::Foreign("LUKS (encrypted)"));
        let lvm = with(&[(512, b"LABELONE"), (536, b"LVM2 001")]);
        assert_eq!(lvm.kind, Kind::Foreign("LVM physical volume"));
        assert_eq!(with(&[(4086, b"SWAPSPACE2")]).name, "swap");
        assert_eq!(with(&[]).kind, Kind::Unknown);
        assert_eq!(identified(Vec::new()).kind, Kind::Unknown);
    }

    #[test]
    fn fat_needs_a_whole_parameter_block() {
        let fat16: &[(usize, &[u8])] = &[
            (0, &[0xeb, 0x3c, 0x90]),
            (11, &[0, 2, 4, 1, 0, 2]),
            (22, &[32, 0]),
            (38, &[0x29, 0x78, 0x56, 0x34, 0x12]),
            (43, b"UEFI       "),
            (510, &[0x55, 0xaa]),
        ];
        let found = with(fat16);
        assert_eq!((found.kind, found.label.as_str()), (Kind::Fat, "UEFI"));
        assert_eq!(found.uuid, "1234-5678");
        assert_eq!(with(&fat16[..5]).kind, Kind::Unknown);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_identified(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            identified(bytes);
        }
    }
}

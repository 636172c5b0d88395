//! Filesystems with bytes changed at random: whatever happens, there is an answer.

use std::sync::Arc;
use std::time::Duration;

use devices::block::BlockBackend;
use proptest::prelude::*;

use super::GRUB;
use super::images::{btrfs, ext, fat, xfs};
use crate::boot::guestfs::testdisk::MemoryDisk;
use crate::boot::guestfs::{BootPolicy, choose};

/// Mutations of each kind of filesystem. Thousands were run once; these keep watch.
const CASES: u32 = 64;

/// Mutates filesystems of one kind: whatever happens, there is an answer, and never an abort.
/// `repair` puts a page's checksum right again after a change, so that the change gets further.
fn survives(image: Option<Vec<u8>>, cases: u32, repair: fn(&mut [u8])) {
    let Some(image) = image else { return };
    let disk = MemoryDisk::new(image, 512);
    let places = disk.used();
    let edit = (0..places.len(), 0..4096_usize, any::<u8>());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&prop::collection::vec(edit, 1..24), |edits| {
        let mut disk = disk.clone();
        for (place, at, value) in edits {
            disk.edit(places[place], |page| {
                page[at % page.len()] = value;
                repair(page);
            });
        }
        let disk: Arc<dyn BlockBackend> = Arc::new(disk);
        let policy = BootPolicy { timeout: Duration::from_secs(60), ..BootPolicy::default() };
        if let Err(refusal) = choose(&disk, &policy) {
            prop_assert!(!refusal.0.contains("took longer"), "{}", refusal.0);
        }
        Ok(())
    });
    outcome.unwrap();
}

/// The checksum of a btrfs block of 4096 bytes: CRC-32C of everything behind it, at its beginning.
fn repair_btrfs(page: &mut [u8]) {
    let crc = !page[32..].iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    });
    // Pages of file contents have none.
    if page[4..32].iter().all(|byte| *byte == 0) {
        page[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn small_files() -> Vec<(&'static str, &'static [u8])> {
    vec![
        ("/boot/grub/grub.cfg", GRUB.as_bytes()),
        ("/boot/loader/entries/a.conf", b"linux /boot/vmlinuz-6.1\n"),
        ("/boot/vmlinuz-6.1", b"kernel"),
        ("/boot/initrd.img-6.1", b"-> vmlinuz-6.1"),
    ]
}

#[test]
fn mutated_ext_is_survived() {
    let small = small_files();
    survives(ext("ext4", "root", &["-O", "^metadata_csum"], &small), CASES, |_| {});
    survives(ext("ext2", "root", &[], &small), CASES, |_| {});
}

#[test]
fn mutated_xfs_is_survived() {
    survives(xfs("root", &["-m", "crc=0"], &small_files()), CASES, |_| {});
}

#[test]
fn mutated_btrfs_is_survived() {
    survives(btrfs("root", &[], &small_files()), CASES, repair_btrfs);
}

#[test]
fn mutated_fat_is_survived() {
    let files: &[(&str, &[u8])] = &[
        ("/loader/entries/a.conf", b"linux /kernel\n"),
        ("/EFI/debian/grub.cfg", GRUB.as_bytes()),
        ("/kernel", b"kernel"),
    ];
    survives(fat("ESP", files), CASES, |_| {});
}

//! Root disks as a machine finds them at its starts, with qemu-img as judge.

use super::*;
use crate::config::{Digest, parse_digest};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use devices::block::qcow2::DEFAULT_CACHE_BYTES as CACHE;
use vm_memory::VolatileSlice;
use vmm::config::DiskEngine;

const MIB: u64 = 1 << 20;

struct Place {
    dir: tempfile::TempDir,
    image: RootImage,
}

impl Place {
    /// `base` is a raw image of 2 MiB, each sector filled with its number.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let bytes: Vec<u8> = (0..2 * MIB).map(|n| (n / 512) as u8).collect();
        fs::write(&base, bytes).unwrap();
        let image = RootImage {
            base,
            format: None,
            digest: None,
            size: None,
            queues: 0,
            engine: DiskEngine::Auto,
            limits: Default::default(),
        };
        Self { dir, image }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, name: &str) -> Result<(DiskConfig, Identity), String> {
        let mut store = Store::open(&self.path("images"), name).map_err(|e| e.to_string())?;
        let mut identity = store.identity().map_err(|e| e.to_string())?;
        let disk = open_root(&mut store, &self.image, CACHE, &mut identity, &|| false);
        let disk = disk.map_err(|error| error.to_string())?;
        std::mem::take(&mut store.created).keep();
        Ok((disk, identity))
    }

    fn refused(&self, name: &str) -> String {
        let error = self.start(name).map(drop).unwrap_err();
        let root = self.dir.path().canonicalize().unwrap();
        error.replace(root.to_str().unwrap(), "@").replace(self.dir.path().to_str().unwrap(), "@")
    }
}

fn write(disk: &DiskConfig, byte: u8, offset: u64) {
    let mut bytes = vec![byte; 512];
    disk.backend.write_at(&[VolatileSlice::from(bytes.as_mut_slice())], offset).unwrap();
    disk.backend.flush().unwrap();
}

fn read(disk: &DiskConfig, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; 512];
    disk.backend.read_at(&[VolatileSlice::from(bytes.as_mut_slice())], offset).unwrap();
    bytes
}

fn qemu_img(args: &[&str]) -> Option<String> {
    match Command::new("qemu-img").args(args).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{args:?}: {text}");
            Some(text)
        }
        Err(error) => {
            eprintln!("SKIPPED: qemu-img did not judge the overlay: {error}");
            None
        }
    }
}

#[test]
fn the_same_disk_boots_again_and_the_base_stays() {
    let place = Place::new();
    let before = fs::read(place.path("base")).unwrap();
    let (disk, identity) = place.start("pet").unwrap();
    assert_eq!(disk.backend.info().capacity, 2 * MIB);
    assert_eq!((disk.serial.as_str(), disk.queues), ("root", 0));
    assert_eq!(read(&disk, 512 * 3), [3; 512]);
    write(&disk, 0xaa, 512 * 3);
    drop(disk);

    let (disk, again) = place.start("pet").unwrap();
    assert_eq!(again, identity, "same instance, same MAC, same record");
    assert_eq!(read(&disk, 512 * 3), [0xaa; 512]);
    assert_eq!(read(&disk, 512 * 4), [4; 512]);
    drop(disk);

    assert_eq!(fs::read(place.path("base")).unwrap(), before);
    let mut names: Vec<_> = fs::read_dir(place.path("images"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["pet.id", "pet.qcow2"]);
    let overlay = place.path("images/pet.qcow2");
    let info = qcow2::read_info(&File::open(&overlay).unwrap()).unwrap();
    assert_eq!(info.backing_file.as_deref(), Some("../base"));
    assert_eq!(info.backing_format.as_deref(), Some("raw"));
    if let Some(text) = qemu_img(&["check", overlay.to_str().unwrap()]) {
        assert!(text.contains("No errors were found"), "{text}");
    }
}

#[test]
fn a_second_machine_on_the_same_disk_is_refused() {
    let place = Place::new();
    let (disk, _) = place.start("pet").unwrap();
    let error = place.refused("pet");
    assert!(error.starts_with("@/images/pet.qcow2: the image is in use by"), "{error}");
    // Another machine on the same base is welcome.
    let (other, _) = place.start("other").unwrap();
    drop(disk);
    place.start("pet").unwrap();
    drop(other);
}

#[test]
fn a_disk_grows_and_never_shrinks() {
    let mut place = Place::new();
    place.image.size = Some(MIB);
    let error = place.refused("pet");
    assert!(error.starts_with("--disk-size is 1 MiB, less than the 2 MiB of @/base;"), "{error}");
    assert!(!place.path("images/pet.qcow2").exists());

    place.image.size = Some(4 * MIB);
    let (disk, _) = place.start("pet").unwrap();
    assert_eq!(disk.backend.info().capacity, 4 * MIB);
    write(&disk, 0xbb, 3 * MIB);
    drop(disk);

    place.image.size = Some(2048 * MIB);
    let (disk, _) = place.start("pet").unwrap();
    assert_eq!(disk.backend.info().capacity, 2048 * MIB);
    assert_eq!(read(&disk, 3 * MIB), [0xbb; 512]);
    assert_eq!(read(&disk, 2047 * MIB), [0; 512]);
    assert_eq!(read(&disk, 512), [1; 512]);
    drop(disk);

    place.image.size = Some(3 * MIB);
    let error = place.refused("pet");
    let want = "--disk-size is 3 MiB, less than the 2 GiB of @/images/pet.qcow2;";
    assert!(error.starts_with(want), "{error}");
    place.image.size = None;
    assert_eq!(place.start("pet").unwrap().0.backend.info().capacity, 2048 * MIB);
    qemu_img(&["check", place.path("images/pet.qcow2").to_str().unwrap()]);
}

/// Where the count of the cluster that was allocated last is, in an image of one block of them.
fn last_count(file: &File) -> u64 {
    let number = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let clusters = file.metadata().unwrap().len().div_ceil(65536);
    number(number(48)) + (clusters - 1) * 2
}

/// Byte 79 of the header holds the marks: 1 dirty, 2 corrupt.
#[test]
fn an_overlay_left_dirty_or_corrupt_is_repaired_as_far_as_is_safe() {
    let leak: fn(&File) = |file| {
        let end = file.metadata().unwrap().len().next_multiple_of(65536);
        file.set_len(end + 65536).unwrap();
        file.write_all_at(&[0, 1], last_count(file)).unwrap();
    };
    let lost_count: fn(&File) = |file| {
        file.write_all_at(&[0, 0], last_count(file)).unwrap();
    };
    let two_tables_in_one: fn(&File) = |file| {
        let mut l1 = [0; 8];
        file.read_exact_at(&mut l1, 40).unwrap();
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, u64::from_be_bytes(l1)).unwrap();
        let table = u64::from_be_bytes(entry) & !(1 << 63);
        file.write_all_at(&entry, table + 9 * 8).unwrap();
    };
    let nothing: fn(&File) = |_| ();
    for (name, mark, harm, repaired) in [
        ("clean", 0, nothing, true),
        ("dirty", 1, nothing, true),
        ("dirty-leak", 1, leak, true),
        ("dirty-count", 1, lost_count, true),
        ("dirty-tables", 1, two_tables_in_one, false),
        ("corrupt", 2, nothing, true),
        ("corrupt-leak", 2, leak, true),
        ("corrupt-count", 2, lost_count, false),
        ("both-count", 3, lost_count, false),
    ] {
        let place = Place::new();
        write(&place.start(name).unwrap().0, 0xcc, 0);
        let path = place.path(&format!("images/{name}.qcow2"));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        harm(&file);
        file.write_all_at(&[mark], 79).unwrap();
        let before = fs::read(&path).unwrap();
        if repaired {
            let (disk, _) = place.start(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(read(&disk, 0), [0xcc; 512], "{name}");
            write(&disk, 0xdd, MIB);
            drop(disk);
            let info = qcow2::read_info(&file).unwrap();
            assert!(!info.dirty && !info.corrupt, "{name}");
            let report = qcow2::check(&file).unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0), "{name}: {report:?}");
            qemu_img(&["check", path.to_str().unwrap()]);
        } else {
            let error = place.refused(name);
            let disk = format!("@/images/{name}.qcow2");
            assert!(error.starts_with(&format!("the disk {disk} is damaged")), "{error}");
            assert!(error.ends_with(&format!("run `berth image repair {disk}`")), "{error}");
            assert_eq!(fs::read(&path).unwrap(), before, "{name}: it is as it was");
        }
    }
}

#[test]
fn a_changed_base_is_refused() {
    let place = Place::new();
    drop(place.start("pet").unwrap());
    let file = File::options().write(true).open(place.path("base")).unwrap();
    file.write_all_at(b"changed", 0).unwrap();
    let error = place.refused("pet");
    assert!(error.starts_with("the base @/base has changed since @/images/pet.qcow2"), "{error}");
    // Removing the disk starts anew, as the same machine.
    let before = Identity::load(&place.path("images/pet.id")).unwrap().unwrap();
    fs::remove_file(place.path("images/pet.qcow2")).unwrap();
    let (_, identity) = place.start("pet").unwrap();
    assert_eq!((identity.uuid, identity.mac), (before.uuid, before.mac));
}

#[test]
fn a_digest_is_checked_before_anything_is_made() {
    let mut place = Place::new();
    place.image.digest = Some(Digest::Sha256([0; 32]));
    let error = place.refused("pet");
    assert!(error.starts_with("the image @/base is not the one asked for"), "{error}");
    assert!(!place.path("images").exists(), "nothing is left behind");
    let (_, right) = error.split_once("it has ").unwrap();
    let right = right.split(',').next().unwrap();
    place.image.digest = Some(parse_digest(right).unwrap());
    place.start("pet").unwrap();
}

#[test]
fn another_base_is_refused() {
    let mut place = Place::new();
    drop(place.start("pet").unwrap());
    fs::copy(place.path("base"), place.path("other")).unwrap();
    place.image.base = place.path("other");
    let error = place.refused("pet");
    let want = "the disk @/images/pet.qcow2 was made on @/base, not on @/other;";
    assert!(error.starts_with(want), "{error}");
}

#[test]
fn what_is_no_image_is_refused_and_leaves_nothing() {
    let mut place = Place::new();
    place.image.base = place.path("bad");
    for (bytes, part) in [
        (&b""[..], "the file is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x1f\x8b\x08 some archive", "a gzip archive"),
        (b"QFI\xfb\0\0\0\x03 cut", "@/bad: "),
    ] {
        fs::write(place.path("bad"), bytes).unwrap();
        let error = place.refused("pet");
        assert!(error.contains(part), "{error}");
        assert!(!place.path("images").exists(), "{error}");
    }
}

#[test]
fn a_hostile_base_opens_nothing_else() {
    let mut place = Place::new();
    fs::create_dir(place.path("home")).unwrap();
    fs::create_dir(place.path("home/.ssh")).unwrap();
    fs::write(place.path("home/.ssh/key"), vec![b'k'; 4096]).unwrap();
    fs::write(place.path("home/friend"), vec![b'f'; 4096]).unwrap();
    let hostile = place.path("home/image.qcow2");
    place.image.base = hostile.clone();
    for (backing, allowed) in
        [("/etc/passwd", false), ("../base", false), (".ssh/key", false), ("friend", true)]
    {
        let file = File::create(&hostile).unwrap();
        let options = CreateOptions::new(MIB).over(backing, ImageFormat::Raw);
        qcow2::create(&file, &options).unwrap();
        drop(file);
        match place.start(&format!("pet{}", backing.len())) {
            Ok((disk, _)) => {
                assert!(allowed, "{backing}");
                assert_eq!(read(&disk, 0), [b'f'; 512]);
            }
            Err(error) => {
                assert!(!allowed && error.contains("cannot be used"), "{backing}: {error}");
            }
        }
    }
}

#[test]
fn an_overlay_without_a_base_is_not_taken_for_one() {
    let place = Place::new();
    fs::create_dir(place.path("images")).unwrap();
    let file = File::create(place.path("images/pet.qcow2")).unwrap();
    qcow2::create(&file, &CreateOptions::new(MIB)).unwrap();
    drop(file);
    assert!(place.refused("pet").starts_with("@/images/pet.qcow2 is not an overlay"));
    assert!(place.path("images/pet.qcow2").exists(), "what was there stays");
}

#[test]
fn further_disks() {
    let place = Place::new();
    let mut disk = Disk::new(place.path("base"), Format::Raw);
    let opened = open_disk(&disk, CACHE).unwrap();
    assert_eq!((opened.serial.as_str(), &opened.name), ("", &disk.path.display().to_string()));
    write(&opened, 9, 0);
    assert!(open_disk(&disk, CACHE).is_err(), "one writer");
    drop(opened);
    disk.read_only = true;
    disk.serial = Some("data".into());
    let opened = open_disk(&disk, CACHE).unwrap();
    assert_eq!(opened.serial, "data");
    assert!(opened.backend.info().read_only);
    assert_eq!(read(&opened, 0), [9; 512]);
    let none = Disk::new(place.path("none"), Format::Raw);
    assert!(
        open_disk(&none, CACHE).is_err_and(|e| e.to_string().contains("none cannot be opened"))
    );
}

#[test]
fn qemu_img_would_have_made_the_same() {
    let place = Place::new();
    drop(place.start("pet").unwrap());
    let ours = place.path("images/pet.qcow2");
    let theirs = place.path("images/theirs.qcow2");
    let made = qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        "../base",
        theirs.to_str().unwrap(),
    ]);
    if made.is_some() {
        assert_eq!(fs::read(&ours).unwrap(), fs::read(&theirs).unwrap());
    }
    assert_eq!(fs::metadata(ours).unwrap().nlink(), 1);
}

//! The reference tools' judgement: created images byte for byte, snapshots, images they wrote, and
//! a second reader.

use std::path::PathBuf;

use super::super::super::{Fault, ImageFormat, OpenOptions};
use super::*;

fn file(path: PathBuf) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn created_images_are_those_of_qemu_img_byte_for_byte() {
    if !have_qemu() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    file(path("base.raw")).set_len(10 << 20).unwrap();
    qemu_img_ok(directory.path(), &["create", "-q", "-f", "qcow2", "base.qcow2", "10M"]);
    let cases: [(&[&str], CreateOptions); 7] = [
        (&["theirs", "1G"], CreateOptions::new(1 << 30)),
        (&["theirs", "1000001"], CreateOptions::new(1_000_001)),
        (&["theirs", "20T"], CreateOptions::new(20 << 40)),
        (
            &["-b", "base.raw", "-F", "raw", "theirs"],
            CreateOptions::new(10 << 20).over("base.raw", ImageFormat::Raw),
        ),
        (
            &["-b", "base.qcow2", "-F", "qcow2", "theirs", "3G"],
            CreateOptions::new(3 << 30).over("base.qcow2", ImageFormat::Qcow2),
        ),
        (
            &["-o", "compat=0.10", "-b", "base.raw", "-F", "raw", "theirs", "64M"],
            CreateOptions { version: 2, ..CreateOptions::new(64 << 20) }
                .over("base.raw", ImageFormat::Raw),
        ),
        (
            &["-o", "cluster_size=4096,refcount_bits=1", "theirs", "64M"],
            CreateOptions { cluster_bits: 12, refcount_order: 0, ..CreateOptions::new(64 << 20) },
        ),
    ];
    for (args, options) in cases {
        qemu_img_ok(directory.path(), &[&["create", "-q", "-f", "qcow2"], args].concat());
        let ours = file(path("ours"));
        create(&ours, &options).unwrap();
        let (ours, theirs) =
            (std::fs::read(path("ours")).unwrap(), std::fs::read(path("theirs")).unwrap());
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!((differs, ours.len()), (None, theirs.len()), "{args:?}");
        qemu_img_ok(directory.path(), &["check", "ours"]);
    }
}

#[test]
fn snapshots_keep_their_contents() {
    if !have_qemu() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| qemu_img_ok(directory.path(), args);
    run(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "disk", "8M"]);
    let image = file(directory.path().join("disk"));
    write(&open(&image, None), 0, &vec![1; 2 << 20]);
    run(&["snapshot", "-c", "before", "disk"]);
    run(&["convert", "-l", "snapshot.name=before", "-O", "raw", "disk", "before.raw"]);
    {
        let disk = open(&image, None);
        assert!(matches!(disk.place(0, 4096, Access::Write).unwrap(), Placement::Call { .. }));
        for i in 0..300 {
            write(&disk, i * 7168, &[2; 1024]);
        }
        disk.discard(1 << 20, 65536).unwrap();
        disk.zero((1 << 20) + 65536, 65536, true).unwrap();
        disk.flush().unwrap();
    }
    assert_eq!(assert_sound(&image), 0);
    run(&["check", "disk"]);
    run(&["convert", "-l", "snapshot.name=before", "-O", "raw", "disk", "after.raw"]);
    run(&["compare", "-f", "raw", "-F", "raw", "before.raw", "after.raw"]);
    run(&["snapshot", "-a", "before", "disk"]);
    assert!(read(&open(&image, None), 0, 2 << 20).iter().all(|b| *b == 1));
}

#[test]
fn a_dirty_image_is_counted_anew_when_it_is_opened_for_writing() {
    if !have_qemu() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| qemu_img_ok(directory.path(), args);
    for snapshot in [false, true] {
        run(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "lazy_refcounts=on,cluster_size=4096",
            "disk",
            "64M",
        ]);
        let image = file(directory.path().join("disk"));
        write(&open(&image, None), 0, &vec![3; 1 << 20]);
        if snapshot {
            run(&["snapshot", "-c", "s", "disk"]);
        }
        // As lazy refcounts leave it when the writer is killed: dirty, and counts not written.
        let header = read_header(&ImageFile::new(image.try_clone().unwrap()).unwrap()).unwrap();
        let mut entry = [0; 8];
        image.read_exact_at(&mut entry, header.refcount_table_offset).unwrap();
        image.write_all_at(&[0; 256], u64::from_be_bytes(entry) + 64).unwrap();
        image.write_all_at(&[0, 0, 0, 0, 0, 0, 0, 1], field::INCOMPATIBLE).unwrap();
        assert!(check(&image).unwrap().corruptions > 0);
        assert!(read_info(&image).unwrap().dirty);
        assert_eq!(
            read(&Qcow2::open(image.try_clone().unwrap(), None, true, 0).unwrap(), 0, 512),
            [3; 512]
        );
        {
            let disk = open(&image, None);
            write(&disk, 8 << 20, &[4; 65536]);
            assert!(read(&disk, 0, 1 << 20).iter().all(|b| *b == 3));
        }
        assert!(!read_info(&image).unwrap().dirty);
        assert_eq!(assert_sound(&image), 0);
        run(&["check", "disk"]);
    }
}

#[test]
fn a_disk_grows_and_keeps_its_contents() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let image = file(path);
    for (bits, from, to) in
        [(9u32, 1u64 << 20, 700u64 << 20), (16, 10 << 20, 5 << 40), (16, 1 << 30, (1 << 30) + 512)]
    {
        create(&image, &CreateOptions { cluster_bits: bits, ..CreateOptions::new(from) }).unwrap();
        let disk = open(&image, None);
        write(&disk, 0, &[8; 70_144]);
        disk.grow(to).unwrap();
        disk.grow(from).unwrap();
        assert_eq!(disk.info().capacity, to);
        write(&disk, to - 512, &[9; 512]);
        drop(disk);
        assert_eq!(assert_sound(&image), 0);
        let disk = open(&image, None);
        assert_eq!(read(&disk, 0, 70_144), vec![8; 70_144]);
        assert_eq!(read(&disk, to - 1024, 1024), [[0; 512], [9; 512]].concat());
        drop(disk);
        if have_qemu() {
            qemu_img_ok(directory.path(), &["check", "disk"]);
        }
    }
    let disk = open(&image, None);
    assert!(matches!(disk.grow(u64::MAX), Err(Fault::Header { field: "size", .. })));
}

#[test]
fn space_comes_back_from_discards() {
    use std::os::unix::fs::MetadataExt;
    let image = blank(Shape { cluster_bits: 16, ..V3 }, 64 << 20);
    let disk = open(&image, None);
    write(&disk, 0, &vec![5; 16 << 20]);
    disk.flush().unwrap();
    let full = image.metadata().unwrap().blocks();
    disk.discard(0, 16 << 20).unwrap();
    disk.flush().unwrap();
    let empty = image.metadata().unwrap().blocks();
    assert!(empty * 512 + (15 << 20) < full * 512, "{full} blocks, then {empty}");
    // And the clusters are used again, without the file growing.
    let len = image.metadata().unwrap().len();
    write(&disk, 32 << 20, &vec![6; 15 << 20]);
    assert!(image.metadata().unwrap().len() <= len + (1 << 20));
}

#[test]
fn truncated_images_are_refused_and_leaks_behind_the_end_are_not() {
    let image = blank(V3, 1 << 20);
    write(&open(&image, None), 0, &[1; 65536]);
    let len = image.metadata().unwrap().len();
    for cut in [1024, 4096, 20000] {
        image.set_len(len - cut).unwrap();
        let fault = Qcow2::open(image.try_clone().unwrap(), None, true, 0).err();
        assert!(matches!(fault, Some(Fault::Truncated { .. })), "{cut} {fault:?}");
    }
    let image = blank(V3, 1 << 20);
    let header = read_header(&ImageFile::new(image.try_clone().unwrap()).unwrap()).unwrap();
    let mut block = [0; 8];
    image.read_exact_at(&mut block, header.refcount_table_offset).unwrap();
    // A count for a cluster that a power cut kept from being written.
    image.write_all_at(&[0, 1], u64::from_be_bytes(block) + 2 * 100).unwrap();
    assert_eq!(assert_sound(&image), 1);
    write(&open(&image, None), 0, &[1; 65536]);
}

#[test]
fn faults_are_named() {
    let image = blank(V3, 1 << 20);
    let fault = |at: u64, bytes: &[u8]| {
        let mut was = vec![0; bytes.len()];
        image.read_exact_at(&mut was, at).unwrap();
        image.write_all_at(bytes, at).unwrap();
        let fault = Qcow2::open(image.try_clone().unwrap(), None, false, 0).err();
        image.write_all_at(&was, at).unwrap();
        fault.map(|f| f.to_string()).unwrap_or_default()
    };
    for (at, bytes, expected) in [
        (0, &b"<htm"[..], "not a qcow2 image"),
        (4, &[0, 0, 0, 1], "version 1"),
        (32, &[0, 0, 0, 2], "LUKS"),
        (79, &[4], "external data file"),
        (79, &[2], "marked corrupt"),
        (36, &[0, 0, 0, 1], "l1_size"),
    ] {
        let said = fault(at, bytes);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn the_chain_is_followed_only_as_far_as_it_is_sane() {
    use super::super::super::{BackingFile, BackingResolver, ResolveError, open};
    struct Names(PathBuf, Option<ImageFormat>);
    impl BackingResolver for Names {
        fn resolve(&self, _image: &str, backing: &str) -> Result<BackingFile, ResolveError> {
            if backing.contains('/') {
                return Err("it lies outside the image directory".into());
            }
            let file = File::open(self.0.join(backing))?;
            Ok(BackingFile { file, name: backing.into(), format: self.1 })
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let overlay = |name: &str, base: &str| {
        let options = CreateOptions::new(1 << 20).over(base, ImageFormat::Qcow2);
        create(&file(path(name)), &options).unwrap();
    };
    let fault = |name: &str, known: Option<ImageFormat>| {
        let options = OpenOptions { lock: name != "a", ..OpenOptions::default() };
        let names = Names(directory.path().into(), known);
        let result = open(file(path(name)), name, ImageFormat::Qcow2, &options, &names);
        result.err().map(|e| e.to_string()).unwrap_or_default()
    };
    overlay("a", "b");
    overlay("b", "a");
    assert!(fault("a", None).contains("comes back to itself"), "{}", fault("a", None));
    overlay("outside", "/etc/passwd");
    assert!(fault("outside", None).contains("`/etc/passwd` cannot be used"));
    overlay("gone", "missing");
    assert!(fault("gone", None).contains("`missing` cannot be used"));
    for i in 0..20 {
        overlay(&format!("deep{i}"), &format!("deep{}", i + 1));
    }
    assert!(fault("deep0", None).contains("longer than 16"));
    // A version 2 image as old tools made them: a backing name and no format.
    let old = file(path("old"));
    let options = CreateOptions { version: 2, ..CreateOptions::new(1 << 20) };
    create(&old, &options).unwrap();
    old.write_all_at(&200u64.to_be_bytes(), 8).unwrap();
    old.write_all_at(&4u32.to_be_bytes(), 16).unwrap();
    old.write_all_at(b"base", 200).unwrap();
    file(path("base")).set_len(1 << 20).unwrap();
    assert!(fault("old", None).contains("is not stated"), "{}", fault("old", None));
    assert_eq!(fault("old", Some(ImageFormat::Raw)), "");
    let names = Names(directory.path().into(), Some(ImageFormat::Raw));
    let whole = OpenOptions::default();
    let try_open = || open(file(path("old")), "old", ImageFormat::Qcow2, &whole, &names);
    // What another test starts at this moment has our files open until it is executed.
    let open_freed = || {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            match try_open() {
                Err(error) if matches!(error.fault, Fault::Locked(_)) => {
                    assert!(std::time::Instant::now() < patience, "{error}");
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                result => return result.unwrap(),
            }
        }
    };
    let first = open_freed();
    assert!(fault("old", Some(ImageFormat::Raw)).contains("in use by"));
    drop(first);
    drop(open_freed());
}

#[test]
fn a_second_reader_sees_the_same() {
    use imago::file::File as Storage;
    use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.qcow2");
    let image = file(path.clone());
    create(&image, &CreateOptions { cluster_bits: 12, ..CreateOptions::new(4 << 20) }).unwrap();
    let mut random = Random::new(77);
    let mut model = vec![0; 4 << 20];
    {
        let disk = open(&image, None);
        for i in 0..500 {
            let at = random.below((4 << 20) / 512 - 40) * 512;
            let len = (1 + random.below(39)) * 512;
            let fill = if i % 5 == 0 { 0 } else { random.next() as u8 };
            let part = &mut model[at as usize..(at + len) as usize];
            part.fill(fill);
            if fill == 0 {
                disk.zero(at, len, true).unwrap();
            } else {
                write(&disk, at, part);
            }
        }
    }
    let gate = PermissiveImplicitOpenGate::default();
    let reader = imago::qcow2::Qcow2::<Storage>::builder_path(&path).open(gate).unwrap();
    let mut bytes = vec![0; 4 << 20];
    FormatAccess::new(reader).read(&mut bytes[..], 0).unwrap();
    assert!(bytes == model);
}

#[test]
fn zeroes_take_no_space_where_the_rest_of_the_cluster_is_zeroes() {
    let base = tempfile::tempfile().unwrap();
    base.write_all_at(&vec![7; 96 << 10], 0).unwrap();
    let base = super::super::super::Raw::open(base, Default::default(), true).unwrap();
    let image = tempfile::tempfile().unwrap();
    create(&image, &CreateOptions::new(1 << 20).over("base", ImageFormat::Raw)).unwrap();
    let disk = open(&image, Some(Arc::new(base)));
    // The second cluster is the base's up to its middle, where the base ends.
    disk.zero(64 << 10, 32 << 10, true).unwrap();
    disk.flush().unwrap();
    assert_eq!(check(&image).unwrap().allocated_clusters, 0);
    disk.zero(512, 512, true).unwrap();
    disk.flush().unwrap();
    assert_eq!(check(&image).unwrap().allocated_clusters, 1);
    let held = read(&disk, 0, 1 << 20);
    assert!(held[..512].iter().chain(&held[1024..64 << 10]).all(|byte| *byte == 7));
    assert!(held[512..1024].iter().chain(&held[64 << 10..]).all(|byte| *byte == 0));
}

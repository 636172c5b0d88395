//! Growing, and mistakes that change nothing.

use std::fs;

use super::tools::*;

#[test]
fn a_disk_grows_and_keeps_its_data() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mib = |count: u64| count << 20;
    for shape in SHAPES {
        for (size, want) in [("64M", mib(64)), ("+1M", mib(65)), ("3000G", 3000 << 30)] {
            // 2 TiB and more need a larger L1 table than a cluster of 4 KiB can have.
            if shape.contains("4096") && want > mib(100) {
                continue;
            }
            make(dir, "before.qcow2", shape);
            fs::copy(dir.join("before.qcow2"), dir.join("disk.qcow2")).unwrap();
            let (status, json) = berth_json(dir, &["resize", "disk.qcow2", size]);
            assert_eq!((status, json["virtual-size"].as_u64()), (0, Some(want)), "{shape} {size}");
            let (_, theirs) = qemu_json(dir, &["info", "disk.qcow2"]);
            assert_eq!(theirs["virtual-size"].as_u64(), Some(want), "{shape} {size}");
            assert_eq!(same_check(dir, "disk.qcow2", shape), 0, "{shape} {size}");
            // Without --strict a longer image is alike if the rest of it is zeroes.
            qemu_img(dir, &["compare", "before.qcow2", "disk.qcow2"]);
        }
    }
    // A raw disk, and a base that is longer than its overlay was.
    for (format, compat) in [("raw", ""), ("qcow2", "0.10"), ("qcow2", "1.1")] {
        fs::write(dir.join("base"), vec![8; 8 << 20]).unwrap();
        let name = format!("disk.{format}");
        match format {
            "raw" => fs::write(dir.join(&name), vec![8; 3 << 20]).unwrap(),
            _ => {
                let compat = format!("compat={compat}");
                let args = ["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "-o"];
                qemu_img(dir, &[&args[..], &[&compat, &name, "3M"]].concat());
            }
        }
        let (status, json) = berth_json(dir, &["resize", "-f", format, &name, "20M"]);
        assert_eq!(status, 0, "{json}");
        assert_eq!(json["virtual-size"], 20 << 20);
        let mut want = vec![8; 3 << 20];
        want.resize(20 << 20, 0);
        fs::write(dir.join("want"), want).unwrap();
        qemu_img(dir, &["compare", "-f", format, "-F", "raw", &name, "want"]);
    }
}

#[test]
fn mistakes_are_status_one_and_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("disk.raw"), [0; 4096]).unwrap();
    fs::write(dir.join("page.qcow2"), "<html>404").unwrap();
    fs::write(dir.join("cut.qcow2"), "QFI\u{fb}").unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    for (args, part) in [
        (&["info"][..], "Usage:"),
        (&["check", "disk.raw", "--bogus"], "unexpected argument '--bogus'"),
        (&["repair", "--all", "--leaks-only", "disk.raw"], "cannot be used with"),
        (&["info", "none"], "neither a file none nor a disk "),
        (&["info", "./none"], "./none cannot be opened"),
        (&["info", "a/../b", "--image-dir", "."], "cannot name a machine"),
        (&["check", "./dir"], "neither a file nor a block device"),
        (&["info", "page.qcow2"], "a web page"),
        (&["check", "cut.qcow2", "-f", "qcow2"], "not a qcow2 image"),
        (&["info", "disk.raw", "--format", "vmdk"], "write qcow2 or raw"),
        (&["resize", "disk.raw", "20"], "has no unit"),
        (&["resize", "disk.raw", "1k"], "a disk is never made smaller"),
        (&["resize", "disk.raw", "2000T"], "at most 1024T"),
    ] {
        let said = refused(dir, args);
        assert!(said.contains(part), "{args:?}: {said}");
    }
    assert_eq!(fs::read(dir.join("disk.raw")).unwrap(), [0; 4096]);
    let output = berth(dir, &["check", "disk.raw"]);
    assert_eq!(output.status.code(), Some(63));
    assert!(text(&output.stdout).contains("disk.raw is raw"));
}

/// A guest can write any header into its raw disk.
#[test]
fn what_may_be_raw_is_not_written_by_its_header() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make(dir, "disk.img", "");
    let before = fs::read(dir.join("disk.img")).unwrap();
    for args in [&["repair", "disk.img"][..], &["resize", "disk.img", "1G"]] {
        assert!(refused(dir, args).contains("state what it is with --format"), "{args:?}");
    }
    assert_eq!(fs::read(dir.join("disk.img")).unwrap(), before);
    assert_eq!(berth(dir, &["check", "disk.img"]).status.code(), Some(0));
    assert_eq!(berth(dir, &["repair", "-f", "qcow2", "disk.img"]).status.code(), Some(0));
}

//! What is said of images, chains, machines' disks and their holders; nothing is changed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use super::tools::*;

#[test]
fn info_says_what_qemu_img_says() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("base.raw"), vec![7; 3 << 20]).unwrap();
    for (number, shape) in SHAPES.iter().enumerate() {
        let middle = format!("middle{number}.qcow2");
        let create = ["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw"];
        let options = if shape.is_empty() { vec![] } else { vec!["-o", shape] };
        qemu_img(dir, &[&create[..], &options, &[&middle, "64M"]].concat());
        let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &middle];
        qemu_img(dir, &[&create[..], &["top.qcow2", "80M"]].concat());
        qemu_img(dir, &["snapshot", "-c", "one", &middle]);

        let (status, ours) = berth_json(dir, &["info", "top.qcow2"]);
        let (_, theirs) = qemu_json(dir, &["info", "--backing-chain", "top.qcow2"]);
        assert_eq!(status, 0);
        assert_eq!(ours["chain-problem"], Value::Null, "{ours}");
        let (ours, theirs) = (ours["chain"].as_array().unwrap(), theirs.as_array().unwrap());
        assert_eq!((ours.len(), theirs.len()), (3, 3));
        for (ours, theirs) in ours.iter().zip(theirs) {
            for field in ["format", "virtual-size", "actual-size", "cluster-size", "dirty-flag"] {
                if field == "dirty-flag" && ours["format"] == "raw" {
                    continue;
                }
                assert_eq!(ours[field], theirs[field], "{field}: {ours} {theirs}");
            }
            for field in ["backing-filename", "backing-filename-format"] {
                assert_eq!(ours[field], theirs[field], "{field}: {ours} {theirs}");
            }
            let data = &theirs["format-specific"]["data"];
            if data.is_null() {
                continue;
            }
            let version = if data["compat"] == "0.10" { 2 } else { 3 };
            assert_eq!(ours["version"], version);
            assert_eq!(ours["refcount-bits"], data["refcount-bits"]);
            assert_eq!(ours["compression-type"], data["compression-type"]);
            let of = |what: &str| data[what].as_bool().unwrap_or(false);
            assert_eq!(ours["corrupt"], of("corrupt"));
            let features = ours["features"].as_array().unwrap();
            let lazy = features.iter().any(|name| name == "lazy refcounts");
            assert_eq!(lazy, of("lazy-refcounts"));
            let snapshots = theirs["snapshots"].as_array().map_or(0, Vec::len);
            assert_eq!(ours["snapshots"], snapshots, "{ours}");
        }
    }
    let text = text(&berth(dir, &["info", "top.qcow2"]).stdout);
    for part in ["disk size     80 MiB (83886080 bytes)", "lazy refcounts", "in use by nobody"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_chain_is_followed_no_further_than_it_may() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (backing, part) in [
        ("/etc/passwd", "outside of"),
        ("none", "cannot be opened"),
        ("top.qcow2", "comes back to"),
        ("json:{}", "names no file"),
    ] {
        qemu_img(dir, &["create", "-q", "-f", "qcow2", "top.qcow2", "1M"]);
        qemu_img(dir, &["rebase", "-u", "-F", "qcow2", "-b", backing, "top.qcow2"]);
        let (status, info) = berth_json(dir, &["info", "top.qcow2"]);
        let problem = info["chain-problem"].as_str().unwrap().to_owned();
        assert_eq!(status, 0);
        assert!(problem.contains(part), "{backing}: {problem}");
        assert_eq!(info["chain"].as_array().unwrap().len(), 1);
    }
}

/// Holds an image as QEMU's tools do: `write` to write to it, else to read it.
struct Holder(Child);

impl Holder {
    fn new(dir: &Path, image: &str, write: bool) -> Self {
        let mut args = vec!["-f", "qcow2"];
        if !write {
            args.push("-r");
        }
        args.push(image);
        let mut command = command("qemu-io", dir, &args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Its answer means that the image is open.
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut answered = [0; 12];
        child.stdout.as_mut().unwrap().read_exact(&mut answered).unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn who_uses_an_image_is_named() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make(dir, "disk.qcow2", "");
    let state = || {
        let (status, info) = berth_json(dir, &["info", "disk.qcow2"]);
        assert_eq!(status, 0);
        (info["lock"]["state"].as_str().unwrap().to_owned(), info["lock"]["holder"].clone())
    };
    assert_eq!(state(), ("free".to_owned(), Value::Null));
    let writer = Holder::new(dir, "disk.qcow2", true);
    let (lock, holder) = state();
    assert_eq!(lock, "written");
    assert_eq!(holder["command"], "qemu-io");
    assert_eq!(holder["pid"], writer.0.id());
    for args in [
        &["check", "disk.qcow2"][..],
        &["repair", "disk.qcow2"],
        &["repair", "--leaks-only", "disk.qcow2"],
        &["resize", "disk.qcow2", "1G"],
    ] {
        let said = refused(dir, args);
        let holder = format!("the image is in use by qemu-io (pid {})", writer.0.id());
        assert!(said.contains(&holder), "{args:?}: {said}");
    }
    drop(writer);
    let reader = Holder::new(dir, "disk.qcow2", false);
    assert_eq!(state().0, "read");
    assert_eq!(berth(dir, &["check", "disk.qcow2"]).status.code(), Some(0));
    assert!(refused(dir, &["repair", "disk.qcow2"]).contains("in use by qemu-io"));
    drop(reader);
    assert_eq!(berth(dir, &["repair", "disk.qcow2"]).status.code(), Some(0));
}

/// A machine's disk: an overlay and its identity file, as a start leaves them that gets no further.
fn machine(dir: &Path) {
    fs::write(dir.join("base.img"), vec![3; 1 << 20]).unwrap();
    let create = ["create", "-q", "-f", "qcow2", "-b", "../base.img", "-F", "raw"];
    fs::create_dir(dir.join("images")).unwrap();
    qemu_img(&dir.join("images"), &[&create[..], &["pet.qcow2"]].concat());
    let metadata = fs::metadata(dir.join("base.img")).unwrap();
    let identity = serde_json::json!({
        "version": 1,
        "instance-id": "00f1de2c-9b52-4c8a-9d5e-0d6f3d1e2a3b",
        "mac": "52:54:00:12:34:56",
        "base": {
            "path": dir.join("base.img").display().to_string(),
            "size": metadata.len(),
            "inode": metadata.ino(),
            "mtime-ns": metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            "format": "raw",
        },
    });
    fs::write(dir.join("images/pet.id"), identity.to_string()).unwrap();
}

#[test]
fn a_machine_is_named_and_its_base_is_recognised() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().canonicalize().unwrap();
    machine(dir);
    let (status, info) = berth_json(dir, &["info", "pet", "--image-dir", "images"]);
    assert_eq!(status, 0);
    assert_eq!(info["chain"].as_array().unwrap().len(), 2, "{info}");
    assert_eq!(info["chain"][1]["filename"], dir.join("base.img").display().to_string());
    assert_eq!(info["identity"]["instance-id"], "00f1de2c-9b52-4c8a-9d5e-0d6f3d1e2a3b");
    assert_eq!(info["identity"]["base"]["size"], 1 << 20);
    assert_eq!(info["identity"]["base-unchanged"], true, "{info}");
    assert_eq!(berth(dir, &["check", "pet", "--image-dir", "images"]).status.code(), Some(0));
    // Without --image-dir: where berth run would keep it.
    assert!(refused(dir, &["info", "other"]).contains("neither a file other nor a disk "));
    let mut with_env = command(env!("CARGO_BIN_EXE_berth"), dir, &["image", "info", "pet"]);
    let output = with_env.env("IMG_DIR", "images").output().unwrap();
    let said = text(&output.stdout);
    assert!(said.contains("mac           52:54:00:12:34:56"), "{said}");
    assert!(said.contains("base          unchanged since"), "{said}");

    open(dir, "base.img").write_all_at(b"new", 0).unwrap();
    let (status, info) = berth_json(dir, &["info", "images/pet.qcow2"]);
    assert_eq!(status, 0);
    assert_eq!(info["identity"]["base-unchanged"], false, "{info}");
    let problem = info["identity"]["base-problem"].as_str().unwrap();
    assert!(problem.contains("has changed since"), "{problem}");
}

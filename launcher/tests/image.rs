//! `berth image` beside `qemu-img`: the same answers about the same images, and images that it finds
//! nothing wrong with after what was done to them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn command(program: &str, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

fn berth(dir: &Path, args: &[&str]) -> Output {
    let mut command = command(env!("CARGO_BIN_EXE_berth"), dir, &["image"]);
    command.args(args).env_clear().env("HOME", dir).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What it says with `-o json`, and its status.
fn berth_json(dir: &Path, args: &[&str]) -> (i32, Value) {
    let output = berth(dir, &[args, &["-o", "json"]].concat());
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|_| panic!("{args:?}: {}", text(&output.stderr)));
    (output.status.code().unwrap(), json)
}

/// The sentence of an error.
#[track_caller]
fn refused(dir: &Path, args: &[&str]) -> String {
    let output = berth(dir, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    said
}

fn have_qemu() -> bool {
    let present = Command::new("qemu-img").arg("--version").output().is_ok()
        && Command::new("qemu-io").arg("--version").output().is_ok();
    if !present {
        eprintln!("SKIPPED: qemu-img and qemu-io are not installed to judge the images");
    }
    present
}

fn qemu_json(dir: &Path, args: &[&str]) -> (i32, Value) {
    let args = [args, &["--output=json"]].concat();
    let output = command("qemu-img", dir, &args).output().unwrap();
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|_| panic!("{args:?}: {}", text(&output.stderr)));
    (output.status.code().unwrap(), json)
}

#[track_caller]
fn qemu_img(dir: &Path, args: &[&str]) {
    let output = command("qemu-img", dir, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
}

#[track_caller]
fn qemu_io(dir: &Path, image: &str, commands: &[&str]) {
    let mut all = command("qemu-io", dir, &["-f", "qcow2", image]);
    commands.iter().for_each(|one| {
        all.args(["-c", one]);
    });
    let output = all.output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && !said.contains("failed"), "{commands:?}: {said}");
}

/// A number of the header.
fn number(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

fn open(dir: &Path, name: &str) -> File {
    File::options().read(true).write(true).open(dir.join(name)).unwrap()
}

/// Where the 16-bit count of a cluster is, for images of one refcount block.
fn count_at(file: &File, cluster: u64) -> u64 {
    number(file, number(file, 48)) + cluster * 2
}

/// The host cluster of the first guest cluster, of 64 KiB.
fn first_entry(file: &File) -> u64 {
    let l1 = number(file, 40);
    number(file, l1) & 0x00ff_ffff_ffff_fe00
}

/// An image with data in all kinds of clusters.
fn make(dir: &Path, name: &str, options: &str) {
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    args.extend([name, "64M"]);
    qemu_img(dir, &args);
    let commands = [
        "write -c -P 9 16M 64k",
        "write -P 1 0 1M",
        "write -P 2 32M 640k",
        "write -P 3 31M 128k",
        "write -z 8M 256k",
        "write -z 0 128k",
    ];
    qemu_io(dir, name, if options.contains("cluster_size") { &commands[1..] } else { &commands });
}

const SHAPES: [&str; 5] = [
    "",
    "compat=0.10",
    "cluster_size=4096,refcount_bits=1",
    "cluster_size=2M,refcount_bits=64",
    "lazy_refcounts=on,cluster_size=16k",
];

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

/// The fields of a check that both answer; qemu-img leaves out what is 0.
const CHECKED: [&str; 7] = [
    "check-errors",
    "leaks",
    "corruptions",
    "image-end-offset",
    "total-clusters",
    "allocated-clusters",
    "compressed-clusters",
];

#[track_caller]
fn same_check(dir: &Path, name: &str, about: &str) -> i32 {
    let (status, ours) = berth_json(dir, &["check", name]);
    let (their_status, theirs) = qemu_json(dir, &["check", name]);
    assert_eq!(status, their_status, "{about}: {ours} {theirs}");
    if about == "an entry off the grid" {
        // qemu-img counts the two clusters that it reaches into.
        return status;
    }
    let value = |json: &Value, field: &str| json[field].as_u64().unwrap_or(0);
    for field in CHECKED.into_iter().chain(["fragmented-clusters"]) {
        assert_eq!(value(&ours, field), value(&theirs, field), "{about}: {field}: {ours} {theirs}");
    }
    status
}

/// One way to damage an image of 64 KiB clusters and 16-bit counts.
struct Damage {
    name: &'static str,
    /// What it does to the file.
    harm: fn(&File),
    /// Status of check; after `repair --leaks-only`; after `repair`. Of qemu-img too.
    statuses: [i32; 3],
}

const DAMAGES: [Damage; 9] = [
    Damage { name: "none", harm: |_| (), statuses: [0, 0, 0] },
    Damage {
        name: "leaks behind the end",
        harm: |file| {
            let end = file.metadata().unwrap().len();
            file.set_len(end + (2 << 16)).unwrap();
            let at = count_at(file, end >> 16);
            file.write_all_at(&[0, 1, 0, 1], at).unwrap();
        },
        statuses: [3, 0, 0],
    },
    Damage {
        name: "a cluster counted twice",
        harm: |file| {
            let data = number(file, first_entry(file) + 8 * 8) & 0x00ff_ffff_ffff_fe00;
            file.write_all_at(&[0, 2], count_at(file, data >> 16)).unwrap();
        },
        statuses: [2, 0, 0],
    },
    Damage {
        name: "a cluster not counted",
        harm: |file| {
            let data = number(file, first_entry(file) + 8 * 8) & 0x00ff_ffff_ffff_fe00;
            file.write_all_at(&[0, 0], count_at(file, data >> 16)).unwrap();
        },
        statuses: [2, 2, 0],
    },
    Damage {
        name: "a flag",
        harm: |file| {
            let entry = first_entry(file) + 8 * 8;
            file.write_all_at(&(number(file, entry) ^ 1 << 63).to_be_bytes(), entry).unwrap();
        },
        statuses: [2, 0, 0],
    },
    Damage {
        name: "two guest clusters in one place",
        harm: |file| {
            let table = first_entry(file);
            file.write_all_at(&number(file, table + 8 * 8).to_be_bytes(), table + 9 * 8).unwrap();
        },
        statuses: [2, 2, 0],
    },
    Damage {
        name: "marked corrupt",
        harm: |file| file.write_all_at(&[2], 79).unwrap(),
        statuses: [0, 0, 0],
    },
    Damage {
        name: "no refcount block",
        harm: |file| file.write_all_at(&[0; 8], number(file, 48)).unwrap(),
        statuses: [2, 2, 0],
    },
    Damage {
        name: "an entry off the grid",
        harm: |file| {
            let entry = first_entry(file) + 8 * 8;
            file.write_all_at(&(number(file, entry) | 0x400).to_be_bytes(), entry).unwrap();
        },
        statuses: [2, 2, 2],
    },
];

#[test]
fn check_and_repair_agree_with_qemu_img() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for shape in SHAPES {
        make(dir, "sound.qcow2", shape);
        assert_eq!(same_check(dir, "sound.qcow2", shape), 0, "{shape}");
    }
    make(dir, "sound.qcow2", "");
    for damage in &DAMAGES {
        let about = damage.name;
        let harmed = |name: &str| {
            fs::copy(dir.join("sound.qcow2"), dir.join(name)).unwrap();
            (damage.harm)(&open(dir, name));
        };
        let [at_first, after_leaks, after_all] = damage.statuses;
        for (what, status) in [("leaks", after_leaks), ("all", after_all)] {
            harmed("theirs.qcow2");
            let args = ["check", "-q", "-r", what, "theirs.qcow2"];
            let theirs = command("qemu-img", dir, &args).output().unwrap();
            // Where counts cannot be corrected one by one, qemu-img takes that for its own error.
            let code = theirs.status.code();
            let alike = code == Some(status) || (code, status) == (Some(1), 2);
            assert!(alike, "{about}: {args:?}: {code:?}");
        }
        harmed("harmed.qcow2");
        assert_eq!(same_check(dir, "harmed.qcow2", about), at_first, "{about}");
        let (status, json) = berth_json(dir, &["repair", "--leaks-only", "harmed.qcow2"]);
        assert_eq!(status, after_leaks, "{about}: {json}");
        assert_eq!(same_check(dir, "harmed.qcow2", about), after_leaks, "{about}");
        harmed("harmed.qcow2");
        let (status, json) = berth_json(dir, &["repair", "harmed.qcow2"]);
        assert_eq!(status, after_all, "{about}: {json}");
        let said = text(&berth(dir, &["repair", "--all", "harmed.qcow2"]).stdout);
        assert_eq!(said.contains("nothing is wrong."), after_all == 0, "{about}: {said}");
        if after_all != 0 {
            continue;
        }
        assert_eq!(same_check(dir, "harmed.qcow2", about), 0, "{about}");
        let (_, info) = berth_json(dir, &["info", "harmed.qcow2"]);
        let marks = (&info["chain"][0]["corrupt"], &info["chain"][0]["dirty-flag"]);
        assert_eq!(marks, (&Value::Bool(false), &Value::Bool(false)), "{about}");
        let alike = ["compare", "-f", "qcow2", "-F", "qcow2", "sound.qcow2", "harmed.qcow2"];
        if about != "two guest clusters in one place" {
            qemu_img(dir, &alike);
        }
        // It is written to as any image, by both.
        qemu_io(dir, "harmed.qcow2", &["write -P 5 0 4M", "write -P 6 40M 1M"]);
        assert_eq!(same_check(dir, "harmed.qcow2", about), 0, "{about}");
    }
}

#[test]
fn persistent_bitmaps_are_no_leaks() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make(dir, "disk.qcow2", "");
    qemu_img(dir, &["bitmap", "--add", "disk.qcow2", "one"]);
    qemu_img(dir, &["bitmap", "--add", "-g", "64k", "disk.qcow2", "two"]);
    qemu_io(dir, "disk.qcow2", &["write -P 4 20M 3M"]);
    assert_eq!(same_check(dir, "disk.qcow2", "bitmaps"), 0);
    let (status, _) = berth_json(dir, &["repair", "disk.qcow2"]);
    assert_eq!(status, 0);
    assert_eq!(same_check(dir, "disk.qcow2", "bitmaps after repair"), 0);
}

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
    use std::os::unix::fs::MetadataExt;
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

/// Checks a disk of so many GiB that is allocated to the last cluster, in so many MiB of address
/// space, the program included.
fn check_large(gib: u64, mib: u64) {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let options = "preallocation=metadata";
    let size = format!("{gib}G");
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", &size]);
    let limited = format!(
        "ulimit -v {}; exec {} image check disk.qcow2 -o json",
        mib << 10,
        env!("CARGO_BIN_EXE_berth")
    );
    let output = command("sh", dir, &["-c", &limited]).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(output.status.code(), Some(0), "{json}");
    assert_eq!(json["allocated-clusters"], gib << 14);
}

#[test]
fn a_large_disk_is_checked_in_bounded_memory() {
    check_large(64, 96);
}

#[test]
#[ignore = "takes a minute without optimisation: cargo test -p berth-launcher --test image -- --ignored"]
fn a_disk_of_a_tebibyte_is_checked_in_bounded_memory() {
    check_large(1024, 192);
}

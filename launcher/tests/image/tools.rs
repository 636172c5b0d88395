//! The program and its judges, and images to be judged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub fn command(program: &str, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

pub fn berth(dir: &Path, args: &[&str]) -> Output {
    let mut command = command(env!("CARGO_BIN_EXE_berth"), dir, &["image"]);
    command.args(args).env_clear().env("HOME", dir).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What it says with `-o json`, and its status.
pub fn berth_json(dir: &Path, args: &[&str]) -> (i32, Value) {
    let output = berth(dir, &[args, &["-o", "json"]].concat());
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|_| panic!("{args:?}: {}", text(&output.stderr)));
    (output.status.code().unwrap(), json)
}

/// The sentence of an error.
#[track_caller]
pub fn refused(dir: &Path, args: &[&str]) -> String {
    let output = berth(dir, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    said
}

pub fn have_qemu() -> bool {
    let present = Command::new("qemu-img").arg("--version").output().is_ok()
        && Command::new("qemu-io").arg("--version").output().is_ok();
    if !present {
        eprintln!("SKIPPED: qemu-img and qemu-io are not installed to judge the images");
    }
    present
}

pub fn qemu_json(dir: &Path, args: &[&str]) -> (i32, Value) {
    let args = [args, &["--output=json"]].concat();
    let output = command("qemu-img", dir, &args).output().unwrap();
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|_| panic!("{args:?}: {}", text(&output.stderr)));
    (output.status.code().unwrap(), json)
}

#[track_caller]
pub fn qemu_img(dir: &Path, args: &[&str]) {
    let output = command("qemu-img", dir, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
}

#[track_caller]
pub fn qemu_io(dir: &Path, image: &str, commands: &[&str]) {
    let mut all = command("qemu-io", dir, &["-f", "qcow2", image]);
    commands.iter().for_each(|one| {
        all.args(["-c", one]);
    });
    let output = all.output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && !said.contains("failed"), "{commands:?}: {said}");
}

/// A number of the header.
pub fn number(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

pub fn open(dir: &Path, name: &str) -> File {
    File::options().read(true).write(true).open(dir.join(name)).unwrap()
}

/// Where the 16-bit count of a cluster is, for images of one refcount block.
pub fn count_at(file: &File, cluster: u64) -> u64 {
    number(file, number(file, 48)) + cluster * 2
}

/// The host cluster of the first guest cluster, of 64 KiB.
pub fn first_entry(file: &File) -> u64 {
    let l1 = number(file, 40);
    number(file, l1) & 0x00ff_ffff_ffff_fe00
}

/// An image with data in all kinds of clusters.
pub fn make(dir: &Path, name: &str, options: &str) {
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

pub const SHAPES: [&str; 5] = [
    "",
    "compat=0.10",
    "cluster_size=4096,refcount_bits=1",
    "cluster_size=2M,refcount_bits=64",
    "lazy_refcounts=on,cluster_size=16k",
];

/// The fields of a check that both answer; qemu-img leaves out what is 0.
pub const CHECKED: [&str; 7] = [
    "check-errors",
    "leaks",
    "corruptions",
    "image-end-offset",
    "total-clusters",
    "allocated-clusters",
    "compressed-clusters",
];

#[track_caller]
pub fn same_check(dir: &Path, name: &str, about: &str) -> i32 {
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

//! The program itself, as far as it goes without KVM: what it says, its exit status, and that
//! nothing is left behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn berth(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        // Else a network would be made.
        .env("NET", "none")
        // Of its port there is one on a host, and many tests at once.
        .env("NO_VNC", "1")
        .env("HOME", dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The names in `dir`, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn help_and_version() {
    let dir = tempfile::tempdir().unwrap();
    let version = berth(dir.path(), &["--version"]);
    assert_eq!(text(&version.stdout), concat!("berth ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = berth(dir.path(), &["run", "--help"]);
    assert!(help.status.success());
    let help = text(&help.stdout);
    for part in ["Usage: berth run [OPTIONS] [IMAGE]", "Disks:", "Exit status: 0", "Ctrl-]"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn mistakes_are_status_two_and_touch_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("base"), [0; 4096]).unwrap();
    fs::write(dir.path().join("list"), "- a\n").unwrap();
    fs::write(dir.path().join("bad.yaml"), "memroy: 2G\n").unwrap();
    let before = names(dir.path());
    for (args, part) in [
        (&["run"][..], "no image to boot"),
        (&["run", "--bogus"], "unexpected argument '--bogus'"),
        (&["walk"], "unrecognized subcommand 'walk'"),
        (&["run", "none"], "IMAGE: `none` cannot be opened"),
        (&["run", "base", "--memory", "1T"], "more than the "),
        (&["run", "base", "--log-level", "loud"], "--log-level: `loud` is not known here"),
        (&["run", "base", "--config", "bad.yaml"], "unknown field `memroy`"),
        (&["run", "base", "--metadata", "list"], "list holds a list"),
    ] {
        let output = berth(dir.path(), args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: {said}");
        assert_eq!(text(&output.stdout), "", "{args:?}");
    }
    assert_eq!(names(dir.path()), before);
}

#[test]
fn an_error_is_status_one_reported_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("base"), [0; 4096]).unwrap();
    fs::write(dir.path().join("no.qcow2"), [0; 4096]).unwrap();
    let before = names(dir.path());
    // The overlay is made by then.
    let report = dir.path().join("report");
    let args = ["run", "base", "--name", "pet", "--disk", "no.qcow2", "--log-format", "json"];
    let args = [&args[..], &["--image-dir", "deep/images", "--termination-log", "report"]].concat();
    let output = berth(dir.path(), &args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("made the disk"), "{said}");
    assert!(said.contains("no.qcow2: not a qcow2 image"), "{said}");
    assert!(said.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{said}");
    assert!(fs::read_to_string(&report).unwrap().contains("no.qcow2: not a qcow2 image"));
    fs::remove_file(report).unwrap();
    assert_eq!(names(dir.path()), before);
}

#[test]
fn what_is_ignored_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["run", "/none", "--no-vnc"])
        .env("KVM_BLK_OPTS", "cache=none")
        .env("LAUNCHER", "")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("KVM_BLK_OPTS held QEMU's arguments and is ignored"), "{said}");
    assert!(!said.contains("LAUNCHER"), "{said}");
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let dir = tempfile::tempdir().unwrap();
    let script = berth(dir.path(), &["completions", "bash"]);
    assert!(script.status.success() && text(&script.stdout).contains("--userdata"));
    assert!(berth(dir.path(), &["man", "."]).status.success());
    let pages = names(dir.path());
    assert!(["berth.1", "berth-run.1"].iter().all(|page| pages.contains(&(*page).to_owned())));
    let nowhere = berth(dir.path(), &["man", "none"]);
    assert_eq!(nowhere.status.code(), Some(1));
    let told = text(&nowhere.stderr);
    assert!(told.starts_with("berth error: a manual page in none cannot be written"), "{told}");
}

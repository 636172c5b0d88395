//! `berth check`, the program itself: with what this machine has, whatever that is.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn check(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .arg("check")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("NET", "none")
        .env("HOME", dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The findings of `-o json`, each as subject and level; and whether all is well.
fn findings(output: &Output) -> (Vec<(String, String)>, bool) {
    let said = text(&output.stdout);
    let answer: serde_json::Value = serde_json::from_str(&said).expect(&said);
    let word = |value: &serde_json::Value| value.as_str().expect(&said).to_owned();
    let findings = answer["findings"].as_array().expect(&said);
    let pairs = findings.iter().map(|found| (word(&found["subject"]), word(&found["level"])));
    (pairs.collect(), answer["ok"].as_bool().expect(&said))
}

#[test]
fn what_there_is_is_told_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("base"), [0; 4096]).unwrap();
    let args = ["base", "--name", "pet", "--image-dir", "deep/images", "--memory", "64M"];
    let output = check(dir.path(), &[&args[..], &["-o", "json"]].concat());
    let (found, well) = findings(&output);
    for subject in ["kvm", "memory", "image volume", "io_uring", "network"] {
        assert!(found.iter().any(|(of, _)| of == subject), "{subject}: {found:?}");
    }
    assert!(!found.iter().any(|(of, _)| of == "settings"), "{found:?}");
    let stopped = found.iter().any(|(_, level)| level == "error");
    assert_eq!(well, !stopped);
    assert_eq!(output.status.code(), Some(i32::from(stopped)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only what was there");

    // The same, for people: a line each.
    let output = check(dir.path(), &args);
    let said = text(&output.stdout);
    let words = ["ok ", "warning ", "error ", "plan "];
    assert!(said.lines().all(|line| words.iter().any(|word| line.starts_with(word))), "{said}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn mistakes_in_settings_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.yaml"), "memroy: 2G\n").unwrap();
    for (args, part) in [
        (&["none"][..], "error    settings: IMAGE: `none` cannot be opened"),
        (&["--config", "bad.yaml"], "error    settings: bad.yaml: "),
        (&[], "error    settings: no image to boot"),
    ] {
        let output = check(dir.path(), args);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(part), "{args:?}: {said}");
    }
    // Without an image, the rest is looked at all the same.
    let said = text(&check(dir.path(), &[]).stdout);
    assert!(said.contains(" network: none"), "{said}");
}

#[test]
fn a_network_is_planned_as_run_would() {
    let dir = tempfile::tempdir().unwrap();
    let output = check(dir.path(), &["--net", "nat", "-o", "json"]);
    let said = text(&output.stdout);
    let answer: serde_json::Value = serde_json::from_str(&said).expect(&said);
    let plan = answer["network-plan"].as_array().expect(&said);
    // Whether there is a way out or not, a host's guest has a tap.
    assert!(plan.iter().any(|step| step.as_str().unwrap().starts_with("tap berth-")), "{said}");
}

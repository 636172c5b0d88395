//! The style guide as a test, as far as a machine can judge it: what each file opens with, where
//! `unsafe` may be, how long files are, and words that must not be left in the tree.

use berth_tests::tree::files;

/// The longest a source file may be, tests included. About 400 is meant; past that, look for the
/// second noun.
const LONGEST: usize = 1200;
/// The longest without its `mod tests`.
const LONGEST_WITHOUT_TESTS: usize = 600;

/// The files that may contain `unsafe`, each with the reason in its head.
const UNSAFE_FILES: &[&str] = &[
    "devices/src/block/file_io.rs",
    "devices/src/block/inline.rs",
    "devices/src/block/lock.rs",
    "devices/src/block/ring.rs",
    "devices/src/event.rs",
    "devices/src/net/tap.rs",
    "devices/src/net/tap/",
    "devices/src/net/vhost.rs",
    "launcher/src/balloon/program.rs",
    "launcher/src/net/link.rs",
    "launcher/src/sandbox/heap.rs",
    "launcher/src/sandbox/report.rs",
    "vmm/src/kvm/",
    "vmm/src/memory.rs",
];

fn sources() -> Vec<(String, String)> {
    files(&["rs"])
}

fn assert_none(complaints: &[String], rule: &str) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

/// Code lines with their numbers: comments are cut off, roughly; strings are left in.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

#[test]
fn every_file_opens_with_what_it_is() {
    let complaints: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| {
            let first = text.lines().find(|line| !line.starts_with("#!")).unwrap_or_default();
            !first.starts_with("//! ")
        })
        .map(|(path, _)| path)
        .collect();
    assert_none(&complaints, "these do not open with `//!`");
}

#[test]
fn unsafe_is_where_it_is_allowed() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if UNSAFE_FILES.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in code(&text) {
            // A hyphen makes it part of another word, such as a flag's.
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-');
            let found = words.any(|word| word == "unsafe") || line.contains("allow(unsafe_code");
            if found && !line.contains('"') {
                complaints.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    assert_none(&complaints, "unsafe outside the files named for it");
}

#[test]
fn modules_are_named_after_what_they_are() {
    let complaints: Vec<String> = sources()
        .into_iter()
        .map(|(path, _)| path)
        // VIRTIO 1.3 §4.1.4.3 calls this structure the common configuration.
        .filter(|path| path != "devices/src/virtio/pci/common.rs")
        .filter(|path| {
            path.split('/').any(|part| {
                let part = part.trim_end_matches(".rs");
                ["util", "utils", "common", "helper", "helpers", "manager", "misc"].contains(&part)
            })
        })
        .collect();
    assert_none(&complaints, "names that say nothing");
}

#[test]
fn files_are_short_enough_to_read() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let whole = text.lines().count();
        let code = text.lines().take_while(|line| !line.starts_with("mod tests {")).count();
        let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
        if whole > LONGEST || (code > LONGEST_WITHOUT_TESTS && !is_test) {
            complaints.push(format!("{path}: {code} lines, {whole} with its tests"));
        }
    }
    assert_none(&complaints, "files that hold two nouns");
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["dbg", "!("], ["todo", "!("]]
        .map(|parts| parts.concat());
    let mut complaints = Vec::new();
    for (path, text) in files(&["rs", "sh", "md", "toml", "yaml", ""]) {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                complaints.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&complaints, "marks of unfinished work");
}

#[test]
fn no_file_names_a_package_registry() {
    let hosts = [
        ["deb.deb", "ian.org"],
        ["security.deb", "ian.org"],
        ["snapshot.deb", "ian.org"],
        ["archive.deb", "ian.org"],
        ["static.cra", "tes.io"],
        ["index.cra", "tes.io"],
        ["registry.np", "mjs.org"],
        ["py", "pi.org"],
    ]
    .map(|parts| parts.concat());
    let mut complaints = Vec::new();
    for (path, text) in files(&[]) {
        for (number, line) in text.lines().enumerate() {
            if hosts.iter().any(|host| line.contains(host.as_str())) {
                complaints.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&complaints, "hosts of package registries");
}

#[test]
fn lines_end_as_they_should() {
    let mut complaints = Vec::new();
    for (path, text) in files(&["rs", "sh", "md", "toml", "yaml", ""]) {
        if !text.is_empty() && !text.ends_with('\n') {
            complaints.push(format!("{path}: no newline at its end"));
        }
        for (number, line) in text.lines().enumerate() {
            // rustfmt sees to code; strings in it may quote files of others.
            if !path.ends_with(".rs") && line.ends_with([' ', '\t', '\r']) {
                complaints.push(format!("{path}:{}: stray white space", number + 1));
            }
        }
    }
    assert_none(&complaints, "white space");
}

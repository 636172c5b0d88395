//! Damaged images, checked and repaired, and large ones in bounded memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde_json::Value;

use super::tools::*;

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

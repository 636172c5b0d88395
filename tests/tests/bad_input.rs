//! Mistakes of the user and hostile files: one clear sentence, an exit status that is not zero,
//! nothing left behind.
//!
//! All but the last few run anywhere: a mistake must be found before KVM is even opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_tests::{Berth, Outcome, guest_file, has_program, scratch};
use tempfile::TempDir;

const USAGE: i32 = 2;
const FAILED: i32 = 1;

/// A directory with an image directory in it, where nothing may appear.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        let room = Self(scratch());
        fs::create_dir(room.images()).expect("the directory is writable");
        room
    }

    fn images(&self) -> PathBuf {
        self.0.path().join("images")
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.images().join(name);
        fs::write(&path, content).expect("the directory is writable");
        path
    }

    fn berth(&self) -> Berth {
        Berth::run()
            .flag("--name", "bad")
            .flag("--image-dir", self.images())
            .flag("--memory", "64M")
            .flag("--net", "none")
            // Of both there is one on a host, and many tests at once.
            .flag("--control", self.0.path().join("control"))
            .arg("--no-vnc")
    }

    /// Runs it: it must refuse with `code`, name each of `words`, and leave the directory alone.
    fn refuses(&self, berth: Berth, code: i32, words: &[&str]) -> Outcome {
        let before = listing(&self.images());
        let text = berth.text();
        let outcome = berth.outcome();
        assert_eq!(outcome.exit_code, Some(code), "{text}\n{outcome:#?}");
        assert_eq!(outcome.stdout, "", "{text}\nsays it on the console");
        let said = &outcome.stderr;
        assert!(!said.contains("panicked"), "{text}\n{said}");
        let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
        assert!((1..=8).contains(&lines), "{text}\n{lines} lines:\n{said}");
        for word in words {
            assert!(said.contains(word), "{text}\ndoes not say {word:?}:\n{said}");
        }
        assert_eq!(listing(&self.images()), before, "{text}\nleft something behind");
        outcome
    }
}

fn listing(directory: &Path) -> Vec<(String, u64)> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("the directory is there")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let length = entry.metadata().expect("its size").len();
            (entry.file_name().to_string_lossy().into_owned(), length)
        })
        .collect();
    names.sort();
    names
}

/// A valid, empty qcow2 image of 1 MiB (version 3, clusters of 64 KiB): header, refcount table,
/// refcount block and L1 table in a cluster each.
fn qcow2(backing: Option<&str>) -> Vec<u8> {
    const CLUSTER: u64 = 0x1_0000;
    let mut image = vec![0_u8; 4 * 0x1_0000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &16_u32.to_be_bytes()); // cluster_bits
    put(24, &(1_u64 << 20).to_be_bytes()); // size
    put(36, &1_u32.to_be_bytes()); // l1_size
    put(40, &(3 * CLUSTER).to_be_bytes()); // l1_table_offset
    put(48, &CLUSTER.to_be_bytes()); // refcount_table_offset
    put(56, &1_u32.to_be_bytes()); // refcount_table_clusters
    put(96, &4_u32.to_be_bytes()); // refcount_order: 16 bits
    put(100, &104_u32.to_be_bytes()); // header_length
    if let Some(name) = backing {
        put(104, &0xe279_2aca_u32.to_be_bytes()); // backing format
        put(108, &5_u32.to_be_bytes());
        put(112, b"qcow2");
        put(8, &1024_u64.to_be_bytes()); // backing_file_offset
        put(16, &u32::try_from(name.len()).expect("a short name").to_be_bytes());
        put(1024, name.as_bytes());
    }
    put(0x1_0000, &(2 * CLUSTER).to_be_bytes()); // the one refcount block
    for cluster in 0..4 {
        put(0x2_0000 + 2 * cluster, &1_u16.to_be_bytes());
    }
    image
}

#[test]
fn the_images_made_here_are_what_they_seem() {
    if !has_program("qemu-img") {
        eprintln!("SKIPPED: qemu-img is not installed, so nothing judges the test's own images");
        return;
    }
    let room = Room::new();
    let good = room.file("good.qcow2", &qcow2(None));
    let status = Command::new("qemu-img")
        .args(["check", "-q", "-f", "qcow2"])
        .arg(good)
        .status()
        .expect("qemu-img runs");
    assert!(status.success());
}

#[test]
fn a_missing_image() {
    let room = Room::new();
    room.refuses(room.berth().arg("/no/such/image.qcow2"), USAGE, &["/no/such/image.qcow2"]);
    room.refuses(room.berth(), USAGE, &["IMAGE"]);
}

#[test]
fn a_directory_is_not_an_image() {
    let room = Room::new();
    let directory = room.0.path().join("directory");
    fs::create_dir(&directory).expect("the directory is writable");
    room.refuses(room.berth().arg(&directory), USAGE, &["directory"]);
}

#[test]
fn a_file_that_is_no_image() {
    let room = Room::new();
    let empty = room.file("empty.img", b"");
    room.refuses(room.berth().arg(empty), FAILED, &["empty.img"]);
    // What a web server says instead of an image.
    let page = room.file("page.qcow2", b"<!DOCTYPE html><title>404 Not Found</title>");
    room.refuses(room.berth().arg(page), FAILED, &["page.qcow2"]);
}

#[test]
fn a_truncated_image() {
    let room = Room::new();
    let whole = qcow2(None);
    for length in [40, 104, 0x1_0000, 0x2_0000, 0x3_0000 - 8] {
        let cut = room.file("cut.qcow2", &whole[..length]);
        room.refuses(room.berth().arg(cut), FAILED, &["cut.qcow2"]);
    }
}

#[test]
fn an_encrypted_image() {
    let room = Room::new();
    for method in [1_u32, 2] {
        let mut image = qcow2(None);
        image[32..36].copy_from_slice(&method.to_be_bytes());
        let path = room.file("secret.qcow2", &image);
        room.refuses(room.berth().arg(path), FAILED, &["secret.qcow2", "encrypt"]);
    }
}

#[test]
fn an_image_with_its_data_elsewhere() {
    let room = Room::new();
    let mut image = qcow2(None);
    image[72 + 7] = 1 << 2; // incompatible feature: external data file
    let path = room.file("split.qcow2", &image);
    room.refuses(room.berth().arg(path), FAILED, &["split.qcow2", "external data file"]);
}

#[test]
fn a_backing_chain_that_loops() {
    let room = Room::new();
    let own = room.file("own.qcow2", &qcow2(Some("own.qcow2")));
    room.refuses(room.berth().arg(own), FAILED, &["own.qcow2"]);
    let one = room.file("one.qcow2", &qcow2(Some("two.qcow2")));
    room.file("two.qcow2", &qcow2(Some("one.qcow2")));
    room.refuses(room.berth().arg(one), FAILED, &["one.qcow2"]);
}

#[test]
fn a_backing_file_out_of_bounds() {
    let room = Room::new();
    let outside = room.0.path().join("outside.qcow2");
    fs::write(&outside, qcow2(None)).expect("the directory is writable");
    for name in ["../outside.qcow2", "/etc/passwd", "link.qcow2", "nbd://host/disk", "json:{}"] {
        let _ = fs::remove_file(room.images().join("link.qcow2"));
        if name == "link.qcow2" {
            std::os::unix::fs::symlink(&outside, room.images().join(name)).expect("a link");
        }
        let image = room.file("top.qcow2", &qcow2(Some(name)));
        room.refuses(room.berth().arg(image), FAILED, &["top.qcow2"]);
    }
    let image = room.file("top.qcow2", &qcow2(Some("gone.qcow2")));
    room.refuses(room.berth().arg(image), FAILED, &["gone.qcow2"]);
}

#[test]
fn sizes_that_are_none() {
    let room = Room::new();
    let image = room.file("good.qcow2", &qcow2(None));
    for (flag, value) in [
        ("--memory", "12Q"),
        ("--memory", "-1"),
        ("--memory", "0"),
        ("--memory", "99999999999999999999G"),
        ("--disk-size", "ten"),
        ("--cpus", "0"),
        ("--cpus", "1000"),
        ("--cpus", "two"),
        ("--stop-timeout", "soon"),
        ("--mac", "52:54:00:be"),
        ("--mtu", "12"),
        ("--vhost", "maybe"),
        ("--boot", "floppy"),
        ("--net", "wifi"),
        ("--image-sha256", "abc"),
    ] {
        let berth = Berth::run()
            .flag("--name", "bad")
            .flag("--image-dir", room.images())
            .arg(format!("{flag}={value}"))
            .arg(&image);
        room.refuses(berth, USAGE, &[flag, value]);
    }
}

#[test]
fn a_mistake_is_named_where_it_was_made() {
    let room = Room::new();
    let image = room.file("good.qcow2", &qcow2(None));
    room.refuses(room.berth().env("IMG_VCPU", "many").arg(&image), USAGE, &["IMG_VCPU", "many"]);
    let config = room.file("berth.yaml", b"cpus: 2\nmemroy: 2G\n");
    room.refuses(room.berth().flag("--config", config).arg(&image), USAGE, &["memroy"]);
    room.refuses(
        room.berth().flag("--config", "/no/such.yaml").arg(&image),
        USAGE,
        &["/no/such.yaml"],
    );
}

#[test]
fn flags_that_do_not_exist_or_do_not_fit() {
    let room = Room::new();
    let image = room.file("good.qcow2", &qcow2(None));
    room.refuses(room.berth().arg("--memroy=1G").arg(&image), USAGE, &["--memroy"]);
    room.refuses(
        room.berth().flag("--initrd", &image).arg(&image),
        USAGE,
        &["--initrd", "--kernel"],
    );
    room.refuses(Berth::command().arg("sail"), USAGE, &["sail"]);
}

#[test]
fn what_is_not_built_yet_is_refused() {
    let room = Room::new();
    let image = room.file("good.qcow2", &qcow2(None));
    for (flag, value) in [("--boot", "uefi"), ("--boot", "bios")] {
        room.refuses(room.berth().flag(flag, value).arg(&image), USAGE, &[flag, value]);
    }
}

#[test]
fn an_image_that_nobody_serves_is_given_up() {
    let room = Room::new();
    // tcpmux, which nobody has any more.
    let url = "http://127.0.0.1:1/image.qcow2";
    let outcome = room.berth().flag("--image-tries", "2").arg(url).outcome();
    assert_eq!(outcome.exit_code, Some(FAILED), "{outcome:#?}");
    let said = &outcome.stderr;
    assert!(said.contains(url) && said.contains("refused"), "{said}");
    // What others may wait for stays; an image there is not, nor a part of one.
    assert_eq!(listing(&room.images()), [("image.qcow2.lock".to_owned(), 0)]);
}

#[test]
fn a_digest_that_does_not_match() {
    let room = Room::new();
    let image = room.file("good.qcow2", &qcow2(None));
    let digest = format!("sha256:{}", "0".repeat(64));
    room.refuses(
        room.berth().flag("--image-sha256", &digest).arg(image),
        FAILED,
        &["good.qcow2", &digest[7..]],
    );
}

#[test]
fn a_disk_never_shrinks() {
    let room = Room::new();
    let image = room.file("good.qcow2", &qcow2(None));
    room.refuses(room.berth().flag("--disk-size", "512K").arg(image), FAILED, &["--disk-size"]);
}

#[test]
fn more_memory_than_the_host_has() {
    let room = Room::new();
    let image = room.file("good.qcow2", &qcow2(None));
    let berth = Berth::run()
        .flag("--name", "bad")
        .flag("--image-dir", room.images())
        .flag("--memory", "64T")
        .arg(image);
    room.refuses(berth, USAGE, &["64T", "--memory", "MiB"]);
}

#[test]
fn metadata_that_is_none() {
    let room = Room::new();
    let image = room.file("good.qcow2", &qcow2(None));
    let text = room.file("metadata", b"{ not: [closed");
    room.refuses(room.berth().flag("--metadata", &text).arg(&image), USAGE, &["metadata"]);
    room.refuses(
        room.berth().flag("--userdata", "/no/such/file").arg(&image),
        USAGE,
        &["/no/such/file"],
    );
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn nothing_to_boot() {
    let room = Room::new();
    let empty = room.file("empty.raw", &vec![0; 1 << 20]);
    let outcome =
        room.refuses(room.berth().flag("--image-format", "raw").arg(empty), FAILED, &["empty.raw"]);
    assert!(outcome.stderr.contains("partition"), "it says what it looked for: {outcome:?}");
}

#[test]
#[ignore = "needs root and a kernel from tests/guest/build: tests/run e2e"]
fn no_kvm_at_all() {
    let room = Room::new();
    let program = berth_tests::berth_program();
    // An empty /dev of its own: what a container without the device plugin sees.
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"])
        .arg(program)
        .args(["run", "--name", "bad", "--image-dir"])
        .arg(room.images())
        .arg("--kernel")
        .arg(guest_file("small/vmlinux"))
        .env("NET", "none")
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(FAILED), "{said}");
    assert!(said.contains("/dev/kvm"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[test]
#[ignore = "needs a paravirtual /dev/kvm: tests/run e2e, where the host has one"]
fn a_kvm_that_cannot_run_stock_kernels() {
    let room = Room::new();
    let berth = room.berth().flag("--kernel", guest_file("small/vmlinux"));
    let outcome = room.refuses(berth, FAILED, &["/dev/kvm"]);
    assert!(outcome.stderr.contains("stock kernels"), "it says what that KVM is: {outcome:?}");
}

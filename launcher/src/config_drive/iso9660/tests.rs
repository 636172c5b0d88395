//! The volume read back: by a small reader of our own, by isoinfo and by xorriso.

use super::*;
use std::fs;
use std::path::Path;
use std::process::Command;

fn tree(files: &[(&str, &[u8])]) -> BTreeMap<String, Node> {
    let mut root = BTreeMap::new();
    for (path, bytes) in files {
        let mut at = &mut root;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.insert(part.to_owned(), Node::File(bytes.to_vec()));
                break;
            }
            let node =
                at.entry(part.to_owned()).or_insert_with(|| Node::Directory(BTreeMap::new()));
            let Node::Directory(inner) = node else { panic!("{part} is a file") };
            at = inner;
        }
    }
    root
}

const FILES: &[(&str, &[u8])] = &[
    ("openstack/latest/meta_data.json", b"{}"),
    ("openstack/latest/user_data", b"#cloud-config\n"),
    ("openstack/2012-08-10/meta_data.json", b"{}"),
    ("openstack/2012-08-10/user_data", b"#cloud-config\n"),
];

fn le32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The names and contents a reader of one tree sees, found by its root record alone. With
/// `rock`, names come from NM entries.
fn read_back(image: &[u8], descriptor: usize, rock: bool) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let root = descriptor * SECTOR + 156;
    walk(image, root, "", rock, &mut found);
    found
}

fn walk(
    image: &[u8],
    record: usize,
    path: &str,
    rock: bool,
    found: &mut BTreeMap<String, Vec<u8>>,
) {
    let (start, size) = (le32(image, record + 2) * SECTOR, le32(image, record + 10));
    if image[record + 25] & FLAG_DIRECTORY == 0 {
        found.insert(path.to_owned(), image[start..start + size].to_vec());
        return;
    }
    let mut at = start;
    while at < start + size {
        let len = image[at] as usize;
        if len == 0 {
            at = at.next_multiple_of(SECTOR);
            continue;
        }
        assert!(at / SECTOR == (at + len - 1) / SECTOR, "a record crosses a sector");
        let id = &image[at + 33..at + 33 + image[at + 32] as usize];
        if id != [0] && id != [1] {
            let mut system = at + 33 + id.len() + (1 - id.len() % 2);
            let mut name = match rock {
                true => String::new(),
                false => String::from_utf16(
                    &id.chunks(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect::<Vec<_>>(),
                )
                .unwrap(),
            };
            while rock && system + 4 <= at + len && image[system + 2] != 0 {
                let entry = &image[system..system + image[system + 2] as usize];
                if entry.starts_with(b"NM") {
                    name = String::from_utf8(entry[5..].to_vec()).unwrap();
                }
                system += entry.len();
            }
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            walk(image, at, &path, rock, found);
        }
        at += len;
    }
}

fn expected(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
}

#[test]
fn the_structure() {
    let image = image("config-2", &tree(FILES)).unwrap();
    let sector = |n: usize| &image[n * SECTOR..(n + 1) * SECTOR];
    assert_eq!(&sector(16)[..8], b"\x01CD001\x01\0");
    assert_eq!(&sector(16)[40..72], b"config-2                        ");
    assert_eq!(&sector(17)[..8], b"\x02CD001\x01\0");
    assert_eq!(&sector(17)[40..60], b"\0c\0o\0n\0f\0i\0g\0-\x002\0 \0 ");
    assert_eq!(&sector(17)[88..91], b"%/E");
    assert_eq!(&sector(18)[..7], b"\xffCD001\x01");
    for descriptor in [16, 17] {
        let d = sector(descriptor);
        assert_eq!(le32(d, 80) * SECTOR, image.len());
        assert_eq!(u16::from_le_bytes([d[128], d[129]]), 2048);
        assert_eq!(&d[813..830], LONG_DATE);
        assert_eq!(d[881], 1);
        // Both path tables: root, openstack, then its two directories, each with its parent.
        let table = &image[le32(d, 140) * SECTOR..][..le32(d, 132)];
        let big_at = u32::from_be_bytes(d[148..152].try_into().unwrap()) as usize;
        let big = &image[big_at * SECTOR..][..le32(d, 132)];
        let (mut at, mut parents) = (0, vec![]);
        while at < table.len() {
            let length = table[at] as usize;
            parents.push(table[at + 6]);
            assert_eq!(big[at + 7], table[at + 6]);
            assert_eq!(le32(table, at + 2).to_be() >> 32, {
                u32::from_be_bytes(big[at + 2..at + 6].try_into().unwrap()).swap_bytes() as usize
            });
            at += 8 + length + length % 2;
        }
        assert_eq!(parents, [1, 1, 2, 2]);
    }
    // 16 + 3 descriptors, 4 path tables, continuation, 2 × 4 directories, 2 distinct files.
    assert_eq!(image.len() / SECTOR, 16 + 3 + 4 + 1 + 8 + 2);
}

#[test]
fn both_trees_hold_the_files() {
    let image = image("config-2", &tree(FILES)).unwrap();
    assert_eq!(read_back(&image, 16, true), expected(FILES));
    assert_eq!(read_back(&image, 17, false), expected(FILES));
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let mut turned = FILES.to_vec();
    turned.reverse();
    assert_eq!(image("config-2", &tree(FILES)), image("config-2", &tree(&turned)));
}

#[test]
fn many_long_names_and_large_files() {
    let long = "a".repeat(60);
    let names: Vec<String> = (0..200).map(|n| format!("{long}{n:03}")).collect();
    let large = vec![0x5a; 100_000];
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
    files.push(("empty", b""));
    files.push(("large.bin", &large));
    files.push(("1/2/3/4/5/6/7/deep", b"deep"));
    let image = image("config-2", &tree(&files)).unwrap();
    assert_eq!(read_back(&image, 16, true), expected(&files));
    assert_eq!(read_back(&image, 17, false), expected(&files));
    judge(&image, &files);
}

#[test]
fn what_cannot_be_written_is_refused() {
    for bad in ["a b", "ä", "..", &"a".repeat(65)] {
        assert_eq!(image("l", &tree(&[(bad, b"")])), Err(IsoError::Name(bad.into())));
    }
    assert_eq!(image("l", &tree(&[("1/2/3/4/5/6/7/8/9", b"")])), Err(IsoError::Depth));
    for bad in ["", "seventeen-letters", "a b"] {
        assert_eq!(image(bad, &tree(FILES)), Err(IsoError::Label(bad.into())));
    }
}

#[test]
fn primary_names_are_unique() {
    let mut taken = BTreeSet::new();
    let mut name =
        |name: &str, kind| String::from_utf8(primary_identifier(name, kind, &mut taken)).unwrap();
    let (file, dir) = (Kind::File(0), Kind::Directory(0));
    assert_eq!(name("meta_data.json", file), "META_DATA.JSON;1");
    assert_eq!(name("user_data", file), "USER_DATA.;1");
    assert_eq!(name("user-data", file), "USER_DATA1.;1");
    assert_eq!(name("2012-08-10", dir), "2012_08_10");
    assert_eq!(name(&"a".repeat(40), file), format!("{}.;1", "A".repeat(26)));
    assert_eq!(name(&"a".repeat(41), file), format!("{}1.;1", "A".repeat(25)));
}

#[test]
fn other_readers_agree() {
    let image = image("config-2", &tree(FILES)).unwrap();
    judge(&image, FILES);
}

/// What isoinfo and xorriso read, where they are installed.
fn judge(image: &[u8], files: &[(&str, &[u8])]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.iso");
    fs::write(&path, image).unwrap();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(dir.path()).output();
        match output {
            Ok(output) => Some(output),
            Err(error) => {
                eprintln!("SKIPPED: {program} did not judge the image: {error}");
                None
            }
        }
    };
    if let Some(output) = run("isoinfo", &["-d", "-i", "image.iso"]) {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Volume id: config-2"), "{text}");
        assert!(text.contains("Joliet with UCS level 3 found"), "{text}");
        assert!(text.contains("Rock Ridge signatures version 1"), "{text}");
    }
    for flag in ["-R", "-J"] {
        if let Some(output) = run("isoinfo", &[flag, "-f", "-i", "image.iso"]) {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            for (path, _) in files {
                assert!(text.lines().any(|line| line == format!("/{path}")), "{flag} {path}");
            }
        }
    }
    let extract =
        ["-osirrox", "on", "-indev", "image.iso", "-extract", "/", "out", "-rollback_end"];
    if let Some(output) = run("xorriso", &extract) {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        for (path, bytes) in files {
            assert_eq!(fs::read(dir.path().join("out").join(path)).unwrap(), *bytes, "{path}");
        }
        let _ = Command::new("chmod").args(["-R", "u+w"]).arg(dir.path()).status();
    }
    assert!(Path::new(&path).exists());
}

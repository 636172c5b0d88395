//! Writes an ISO 9660 image (ECMA-119, 4th edition) with Rock Ridge (SUSP 1.12, RRIP 1.12) and
//! Joliet names.
//!
//! Three trees of names over the same file data: the primary one in upper case, Rock Ridge's names
//! and modes within its records, and Joliet's in UCS-2. The same tree gives the same bytes: all
//! times are [`DATE`]. Files with the same contents share their sectors. Left out: what a config
//! drive has no use for (links, devices, files of 4 GiB, directories deeper than eight levels,
//! names beyond ASCII letters, digits, `.`, `_` and `-`).

use std::collections::{BTreeMap, BTreeSet};

const SECTOR: usize = 2048;
/// ECMA-119 §6.2.1: the first 16 sectors are the system area.
const FIRST_DESCRIPTOR: u32 = 16;
const DESCRIPTORS: u32 = 3;
/// §9.1.5: years since 1900, month, day, hour, minute, second, offset from UTC.
const DATE: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];
/// §8.4.26.1, the same instant in digits.
const LONG_DATE: &[u8; 17] = b"2000010100000000\0";
const NO_LONG_DATE: &[u8; 17] = b"0000000000000000\0";
/// §9.1.6: the record is a directory's.
const FLAG_DIRECTORY: u8 = 2;
/// §6.8.2.1.
const MAX_DEPTH: usize = 8;
/// Joliet: 64 characters for a name.
const MAX_NAME: usize = 64;
const MAX_IMAGE: u64 = 1 << 30;

const MODE_DIRECTORY: u32 = 0o040_555;
/// User data may hold secrets: for root alone.
const MODE_FILE: u32 = 0o100_400;

/// A file or a directory.
#[derive(Clone, Debug)]
pub enum Node {
    /// Entries by name.
    Directory(BTreeMap<String, Node>),
    /// Contents.
    File(Vec<u8>),
}

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsoError {
    /// A name that this writer does not write.
    #[error("`{0}` is not a name of 1 to 64 letters, digits, `.`, `_` and `-`")]
    Name(String),
    /// Too many levels of directories.
    #[error("directories are nested deeper than {MAX_DEPTH} levels")]
    Depth,
    /// Too much data.
    #[error("the files are larger than {MAX_IMAGE} bytes together")]
    Size,
    /// The label is too long for both descriptors.
    #[error("the label `{0}` is not 1 to 16 ASCII characters")]
    Label(String),
}

/// The image of a volume called `label`, with `root` in it.
///
/// # Errors
/// See [`IsoError`].
pub fn image(label: &str, root: &BTreeMap<String, Node>) -> Result<Vec<u8>, IsoError> {
    if label.is_empty() || label.len() > 16 || !label.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(IsoError::Label(label.to_owned()));
    }
    let mut volume = Volume::default();
    volume.add_directory(0, root, 1)?;
    volume.lay_out()?;
    Ok(volume.write(label))
}

/// Which names a tree has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    Primary,
    Joliet,
}

/// The tree, flat.
#[derive(Default)]
struct Volume<'a> {
    directories: Vec<Directory>,
    /// Distinct contents, with their first sectors.
    contents: Vec<(&'a [u8], u32)>,
    files: u32,
    primary: Tree,
    joliet: Tree,
    continuation: u32,
    sectors: u32,
}

struct Directory {
    parent: usize,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    /// Identifiers in the primary and the Joliet tree.
    primary: Vec<u8>,
    joliet: Vec<u8>,
    kind: Kind,
    /// File serial number for Rock Ridge.
    serial: u32,
}

#[derive(Clone, Copy)]
enum Kind {
    Directory(usize),
    /// Index in `contents`.
    File(usize),
}

/// Where one tree of names lies.
#[derive(Default)]
struct Tree {
    /// Directories in the order of the path table (ECMA-119 §6.9.1), with their identifiers.
    order: Vec<(usize, Vec<u8>)>,
    /// First sector and size in bytes of each directory, by its index.
    extents: Vec<(u32, u32)>,
    table_bytes: u32,
    little: u32,
    big: u32,
}

impl<'a> Volume<'a> {
    /// Adds the directory that `nodes` are in; answers its index.
    fn add_directory(
        &mut self,
        parent: usize,
        nodes: &'a BTreeMap<String, Node>,
        depth: usize,
    ) -> Result<usize, IsoError> {
        if depth > MAX_DEPTH {
            return Err(IsoError::Depth);
        }
        let index = self.directories.len();
        self.directories.push(Directory { parent, entries: Vec::new() });
        let mut taken = BTreeSet::new();
        let mut entries = Vec::new();
        for (name, node) in nodes {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain);
            if !fits || name == "." || name == ".." {
                return Err(IsoError::Name(name.clone()));
            }
            let kind = match node {
                Node::Directory(nodes) => {
                    Kind::Directory(self.add_directory(index, nodes, depth + 1)?)
                }
                Node::File(bytes) => Kind::File(self.add_contents(bytes)),
            };
            self.files += 1;
            entries.push(Entry {
                name: name.clone(),
                primary: primary_identifier(name, kind, &mut taken),
                joliet: ucs2(name),
                kind,
                serial: self.files,
            });
        }
        if let Some(directory) = self.directories.get_mut(index) {
            directory.entries = entries;
        }
        Ok(index)
    }

    fn add_contents(&mut self, bytes: &'a [u8]) -> usize {
        let known = self.contents.iter().position(|(known, _)| *known == bytes);
        known.unwrap_or_else(|| {
            self.contents.push((bytes, 0));
            self.contents.len() - 1
        })
    }

    /// Gives everything its sectors.
    fn lay_out(&mut self) -> Result<(), IsoError> {
        let total: u64 = self.contents.iter().map(|(bytes, _)| bytes.len() as u64).sum();
        if total > MAX_IMAGE {
            return Err(IsoError::Size);
        }
        let mut next = FIRST_DESCRIPTOR + DESCRIPTORS;
        for naming in [Naming::Primary, Naming::Joliet] {
            let mut tree = Tree { order: self.order(naming), ..Tree::default() };
            tree.table_bytes = length(path_table(self, &tree, u32::to_le_bytes).len());
            tree.little = take(&mut next, tree.table_bytes);
            tree.big = take(&mut next, tree.table_bytes);
            *self.tree_mut(naming) = tree;
        }
        self.continuation = take(&mut next, length(extension_reference().len()));
        for naming in [Naming::Primary, Naming::Joliet] {
            // The records' lengths do not depend on the sectors they name: write once for the
            // size, and again when every sector is known.
            let sizes: Vec<u32> = (0..self.directories.len())
                .map(|index| length(self.directory_bytes(naming, index).len()))
                .collect();
            let extents = sizes.into_iter().map(|size| (take(&mut next, size), size)).collect();
            self.tree_mut(naming).extents = extents;
        }
        for (bytes, sector) in &mut self.contents {
            *sector = take(&mut next, length(bytes.len()));
        }
        self.sectors = next;
        Ok(())
    }

    fn tree(&self, naming: Naming) -> &Tree {
        match naming {
            Naming::Primary => &self.primary,
            Naming::Joliet => &self.joliet,
        }
    }

    fn tree_mut(&mut self, naming: Naming) -> &mut Tree {
        match naming {
            Naming::Primary => &mut self.primary,
            Naming::Joliet => &mut self.joliet,
        }
    }

    /// Level by level, in each by the parent's place, then by identifier.
    fn order(&self, naming: Naming) -> Vec<(usize, Vec<u8>)> {
        let mut order = vec![(0, vec![0])];
        let mut place = 0;
        while let Some(index) = order.get(place).map(|(index, _)| *index) {
            for entry in self.sorted(naming, index) {
                if let Kind::Directory(child) = entry.kind {
                    order.push((child, entry.identifier(naming).to_vec()));
                }
            }
            place += 1;
        }
        order
    }

    fn sorted(&self, naming: Naming, index: usize) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> =
            self.directories.get(index).map(|dir| dir.entries.iter().collect()).unwrap_or_default();
        entries.sort_by_key(|entry| entry.identifier(naming));
        entries
    }

    fn extent(&self, naming: Naming, kind: Kind) -> (u32, u32) {
        match kind {
            Kind::Directory(index) => {
                self.tree(naming).extents.get(index).copied().unwrap_or_default()
            }
            Kind::File(index) => self
                .contents
                .get(index)
                .map(|(bytes, sector)| (*sector, length(bytes.len())))
                .unwrap_or_default(),
        }
    }

    fn parent(&self, index: usize) -> usize {
        self.directories.get(index).map_or(0, |dir| dir.parent)
    }

    /// 2, and one for each subdirectory, as on a Unix filesystem.
    fn links(&self, index: usize) -> u32 {
        let entries = self.directories.get(index).map_or(&[][..], |dir| &dir.entries);
        2 + length(entries.iter().filter(|e| matches!(e.kind, Kind::Directory(_))).count())
    }

    /// Serial number of a directory: that of the entry that names it; 0 is the root's.
    fn serial(&self, index: usize) -> u32 {
        let is_it = |entry: &&Entry| matches!(entry.kind, Kind::Directory(child) if child == index);
        let parent = self.directories.get(self.parent(index));
        parent.and_then(|dir| dir.entries.iter().find(is_it)).map_or(0, |entry| entry.serial)
    }

    /// A directory's records, none across the end of a sector (§6.8.1.1), in whole sectors.
    fn directory_bytes(&self, naming: Naming, index: usize) -> Vec<u8> {
        let parent = self.parent(index);
        let mut records = Vec::new();
        for (identifier, of) in [(0, index), (1, parent)] {
            let mut system = Vec::new();
            if naming == Naming::Primary {
                if index == 0 && identifier == 0 {
                    system.extend(sharing_protocol());
                    let er = length(extension_reference().len());
                    system.extend(continuation(self.continuation, er));
                }
                system.extend(attributes(MODE_DIRECTORY, self.links(of), self.serial(of)));
                system.extend(time_stamps());
            }
            let extent = self.extent(naming, Kind::Directory(of));
            records.push(record(&[identifier], extent, FLAG_DIRECTORY, &system));
        }
        for entry in self.sorted(naming, index) {
            let mut system = Vec::new();
            let (mode, links, flags) = match entry.kind {
                Kind::Directory(child) => (MODE_DIRECTORY, self.links(child), FLAG_DIRECTORY),
                Kind::File(_) => (MODE_FILE, 1, 0),
            };
            if naming == Naming::Primary {
                system.extend(attributes(mode, links, entry.serial));
                system.extend(time_stamps());
                system.extend(alternate_name(&entry.name));
            }
            let extent = self.extent(naming, entry.kind);
            records.push(record(entry.identifier(naming), extent, flags, &system));
        }
        let mut bytes: Vec<u8> = Vec::new();
        for record in records {
            if bytes.len() % SECTOR + record.len() > SECTOR {
                bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
            }
            bytes.extend(record);
        }
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        bytes
    }

    fn write(&self, label: &str) -> Vec<u8> {
        let mut image = Image(vec![0; self.sectors as usize * SECTOR]);
        for (place, naming) in (FIRST_DESCRIPTOR..).zip([Naming::Primary, Naming::Joliet]) {
            image.put(place, &self.descriptor(naming, label));
            let tree = self.tree(naming);
            image.put(tree.little, &path_table(self, tree, u32::to_le_bytes));
            image.put(tree.big, &path_table(self, tree, u32::to_be_bytes));
            for (index, (sector, _)) in tree.extents.iter().enumerate() {
                image.put(*sector, &self.directory_bytes(naming, index));
            }
        }
        // §8.3: the set terminator.
        image.put(FIRST_DESCRIPTOR + DESCRIPTORS - 1, b"\xffCD001\x01");
        image.put(self.continuation, &extension_reference());
        for (bytes, sector) in &self.contents {
            image.put(*sector, bytes);
        }
        image.0
    }

    /// §8.4 the primary descriptor, §8.5 the supplementary one.
    fn descriptor(&self, naming: Naming, label: &str) -> Vec<u8> {
        let tree = self.tree(naming);
        let text = |text: &str, bytes: usize| match naming {
            Naming::Primary => {
                let mut field = text.as_bytes().to_vec();
                field.resize(bytes, b' ');
                field
            }
            Naming::Joliet => {
                let mut field = ucs2(text);
                field.extend(b"\0 ".repeat(bytes / 2));
                field.truncate(bytes - bytes % 2);
                field.resize(bytes, 0);
                field
            }
        };
        let mut d = Vec::with_capacity(SECTOR);
        d.extend([if naming == Naming::Primary { 1 } else { 2 }]);
        d.extend(b"CD001\x01\0");
        d.extend(text("", 32));
        d.extend(text(label, 32));
        d.extend([0; 8]);
        d.extend(both32(self.sectors));
        // Joliet, UCS-2 level 3 (ISO 10646): the escape sequence %/E.
        let escape: &[u8] = if naming == Naming::Primary { b"" } else { b"%/E" };
        d.extend(escape);
        d.resize(120, 0);
        d.extend(both16(1));
        d.extend(both16(1));
        d.extend(both16(SECTOR as u16));
        d.extend(both32(tree.table_bytes));
        d.extend(tree.little.to_le_bytes());
        d.extend([0; 4]);
        d.extend(tree.big.to_be_bytes());
        d.extend([0; 4]);
        d.extend(record(&[0], self.extent(naming, Kind::Directory(0)), FLAG_DIRECTORY, &[]));
        for (value, bytes) in
            [("", 128), ("", 128), ("", 128), ("BERTH", 128), ("", 37), ("", 37), ("", 37)]
        {
            d.extend(text(value, bytes));
        }
        d.extend(LONG_DATE);
        d.extend(LONG_DATE);
        d.extend(NO_LONG_DATE);
        d.extend(LONG_DATE);
        d.extend([1]);
        d.resize(SECTOR, 0);
        d
    }
}

impl Entry {
    fn identifier(&self, naming: Naming) -> &[u8] {
        match naming {
            Naming::Primary => &self.primary,
            Naming::Joliet => &self.joliet,
        }
    }
}

struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, sector: u32, bytes: &[u8]) {
        let start = sector as usize * SECTOR;
        if let Some(place) = self.0.get_mut(start..start + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// Gives `bytes` their sectors; an empty file has one too, since some readers take sector 0 ill.
fn take(next: &mut u32, bytes: u32) -> u32 {
    let sector = *next;
    *next += bytes.div_ceil(SECTOR as u32).max(1);
    sector
}

/// Lengths are far below 4 GiB: [`MAX_IMAGE`].
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// §7.5 (level 2): upper-case letters, digits and `_`, one dot in a file's name, 30 characters and
/// a version number. Rock Ridge and Joliet have the real name.
fn primary_identifier(name: &str, kind: Kind, taken: &mut BTreeSet<Vec<u8>>) -> Vec<u8> {
    let clean = |part: &str, room: usize| -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        part.chars().take(room).map(letter).collect()
    };
    let (stem, tail) = match kind {
        Kind::Directory(_) => (clean(name, 30), String::new()),
        Kind::File(_) => {
            let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
            (clean(stem, 26), format!(".{};1", clean(extension, 3)))
        }
    };
    let mut identifier = format!("{stem}{tail}").into_bytes();
    let mut count = 0;
    while !taken.insert(identifier.clone()) {
        count += 1;
        let number = count.to_string();
        let stem: String = stem.chars().take(26 - number.len()).collect();
        identifier = format!("{stem}{number}{tail}").into_bytes();
    }
    identifier
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// §7.2.3 and §7.3.3: both byte orders, little first.
fn both16(value: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d]
}

fn both32(value: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

/// §9.1: a directory record, `system` in its system use area.
fn record(identifier: &[u8], (sector, bytes): (u32, u32), flags: u8, system: &[u8]) -> Vec<u8> {
    let mut r = vec![0, 0];
    r.extend(both32(sector));
    r.extend(both32(bytes));
    r.extend(DATE);
    r.extend([flags, 0, 0]);
    r.extend(both16(1));
    r.push(identifier.len() as u8);
    r.extend(identifier);
    if r.len() % 2 == 1 {
        r.push(0);
    }
    r.extend(system);
    if r.len() % 2 == 1 {
        r.push(0);
    }
    // The longest: 33 bytes, 132 of a Joliet name; or 33 of a primary one and 44 + 26 + 69.
    r[0] = r.len() as u8;
    r
}

/// §9.4: a path table; `order` of the bytes distinguishes the two.
fn path_table(volume: &Volume<'_>, tree: &Tree, order: fn(u32) -> [u8; 4]) -> Vec<u8> {
    let mut table = Vec::new();
    let number = |index: usize| {
        let place = tree.order.iter().position(|(at, _)| *at == index).unwrap_or(0);
        u16::try_from(place + 1).unwrap_or(u16::MAX)
    };
    for (index, identifier) in &tree.order {
        let sector = tree.extents.get(*index).map_or(0, |(sector, _)| *sector);
        table.extend([identifier.len() as u8, 0]);
        table.extend(order(sector));
        let parent = order(u32::from(number(volume.parent(*index))));
        // The low half, wherever this byte order has it.
        let low =
            if order(1) == [1, 0, 0, 0] { [parent[0], parent[1]] } else { [parent[2], parent[3]] };
        table.extend(low);
        table.extend(identifier);
        if identifier.len() % 2 == 1 {
            table.push(0);
        }
    }
    table
}

/// SUSP 1.12 §5.3, the SP entry: System Use Sharing Protocol is in use.
fn sharing_protocol() -> [u8; 7] {
    *b"SP\x07\x01\xbe\xef\0"
}

/// SUSP §5.1, the CE entry: goes on at the start of `sector`.
fn continuation(sector: u32, bytes: u32) -> Vec<u8> {
    let mut entry = b"CE\x1c\x01".to_vec();
    entry.extend(both32(sector));
    entry.extend(both32(0));
    entry.extend(both32(bytes));
    entry
}

/// SUSP §5.5, the ER entry, with the texts that RRIP 1.12 §4.3 gives.
fn extension_reference() -> Vec<u8> {
    let id = b"IEEE_P1282";
    let descriptor = b"THE IEEE P1282 PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
    let source = b"PLEASE CONTACT THE IEEE STANDARDS DEPARTMENT, PISCATAWAY, NJ, USA FOR THE \
                   P1282 SPECIFICATION.";
    let mut entry = b"ER\0\x01".to_vec();
    entry.extend([id.len() as u8, descriptor.len() as u8, source.len() as u8, 1]);
    entry.extend(id);
    entry.extend(descriptor);
    entry.extend(source);
    entry[2] = entry.len() as u8;
    entry
}

/// RRIP §4.1.1, the PX entry: mode, links, owner root, serial number.
fn attributes(mode: u32, links: u32, serial: u32) -> Vec<u8> {
    let mut entry = b"PX\x2c\x01".to_vec();
    for value in [mode, links, 0, 0, serial] {
        entry.extend(both32(value));
    }
    entry
}

/// RRIP §4.1.6, the TF entry: modification, access and change, in the short form.
fn time_stamps() -> Vec<u8> {
    let mut entry = b"TF\x1a\x01\x0e".to_vec();
    entry.extend(DATE.repeat(3));
    entry
}

/// RRIP §4.1.4, the NM entry: the whole name.
fn alternate_name(name: &str) -> Vec<u8> {
    let mut entry = vec![b'N', b'M', 5 + name.len() as u8, 1, 0];
    entry.extend(name.as_bytes());
    entry
}

#[cfg(test)]
mod tests {
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
                let path = if path.is_empty() { name.into() } else { format!("{path}/{name}") };
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
                    u32::from_be_bytes(big[at + 2..at + 6].try_into().unwrap()).swap_bytes()
                        as usize
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
        let mut name = |name: &str, kind| {
            String::from_utf8(primary_identifier(name, kind, &mut taken)).unwrap()
        };
        let (file, dir) = (Kind::File(0), Kind::Directory(0));
        assert_eq!(name("meta_data.json", file), "META_DATA.JSO;1");
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
}

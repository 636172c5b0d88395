//! Writes an ISO 9660 image (ECMA-119, 4th edition) with Rock Ridge (SUSP 1.12, RRIP 1.12) and
//! Joliet names.
//!
//! Three trees of names over the same file data: the primary one in upper case, Rock Ridge's names
//! and modes within its records, and Joliet's in UCS-2. The same tree gives the same bytes: all
//! times are [`fields::DATE`]. Files with the same contents share their sectors. Left out: what a config
//! drive has no use for (links, devices, files of 4 GiB, directories deeper than eight levels,
//! names beyond ASCII letters, digits, `.`, `_` and `-`).

mod fields;

use std::collections::{BTreeMap, BTreeSet};

use fields::{
    alternate_name, attributes, both16, both32, continuation, extension_reference, record,
    sharing_protocol, time_stamps, ucs2,
};

const SECTOR: usize = 2048;
/// ECMA-119 §6.2.1: the first 16 sectors are the system area.
const FIRST_DESCRIPTOR: u32 = 16;
const DESCRIPTORS: u32 = 3;
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
            (clean(stem, 26), format!(".{};1", clean(extension, 4)))
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

#[cfg(test)]
mod tests;

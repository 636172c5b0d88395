//! Tests of whole images: against a model, under power cuts, under hostile bytes, by many threads,
//! and by the judgement of qemu-img where it is installed.

mod cuts;
mod full;
mod hostile;
mod judges;
mod kills;
mod long;
mod model;
mod power;
mod repairs;
mod thin;
mod threads;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::*;

/// A small generator (xorshift64*), so that a seed names a run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// What an image is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub version: u32,
    pub cluster_bits: u32,
    pub refcount_order: u32,
}

pub(super) const V3: Shape = Shape { version: 3, cluster_bits: 9, refcount_order: 4 };

impl Shape {
    pub(super) fn options(self, size: u64) -> CreateOptions {
        CreateOptions {
            version: self.version,
            cluster_bits: self.cluster_bits,
            refcount_order: self.refcount_order,
            ..CreateOptions::new(size)
        }
    }
}

/// An empty image without a name.
pub(super) fn blank(shape: Shape, size: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    create(&file, &shape.options(size)).unwrap();
    file
}

/// Opens an image with the smallest cache, so that everything is evicted all the time.
pub(super) fn open(file: &File, backing: Option<Arc<dyn BlockBackend>>) -> Qcow2 {
    Qcow2::open(file.try_clone().unwrap(), backing, false, 0).unwrap()
}

pub(super) fn read(disk: &dyn BlockBackend, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0xa5; len as usize];
    let (a, b) = bytes.split_at_mut((len / 1024 * 512) as usize);
    disk.read_at(&[VolatileSlice::from(a), VolatileSlice::from(b)], offset).unwrap();
    bytes
}

pub(super) fn try_write(
    disk: &dyn BlockBackend,
    offset: u64,
    bytes: &[u8],
) -> Result<(), BlockError> {
    let mut bytes = bytes.to_vec();
    let third = bytes.len() / 3;
    let (a, b) = bytes.split_at_mut(third);
    disk.write_at(&[VolatileSlice::from(a), VolatileSlice::from(b)], offset)
}

pub(super) fn write(disk: &dyn BlockBackend, offset: u64, bytes: &[u8]) {
    try_write(disk, offset, bytes).unwrap();
}

/// Writes the way a queue does: in place where there is a place, else by a call.
pub(super) fn write_placed(disk: &dyn BlockBackend, mut offset: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let place = disk.place(offset, bytes.len() as u64, Access::Write).unwrap();
        let len = match place {
            Placement::File { file, offset: at, len, lease } => {
                file.write_all_at(&bytes[..len as usize], at).unwrap();
                drop(lease);
                len
            }
            Placement::Call { len } => {
                write(disk, offset, &bytes[..len as usize]);
                len
            }
            Placement::Zeroes { .. } => panic!("a write has no zeroes"),
        };
        offset += len;
        bytes = &bytes[len as usize..];
    }
}

/// Reads the way a queue does.
pub(super) fn read_placed(disk: &dyn BlockBackend, mut offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len {
        let left = len - bytes.len() as u64;
        let step = match disk.place(offset, left, Access::Read).unwrap() {
            Placement::File { file, offset: at, len, lease } => {
                let mut piece = vec![0; len as usize];
                let mut done = 0;
                // A file may end within its last cluster, whose rest is zeroes.
                while done < piece.len() {
                    match file.read_at(&mut piece[done..], at + done as u64).unwrap() {
                        0 => break,
                        n => done += n,
                    }
                }
                drop(lease);
                bytes.extend_from_slice(&piece);
                len
            }
            Placement::Zeroes { len } => {
                bytes.resize(bytes.len() + len as usize, 0);
                len
            }
            Placement::Call { len } => {
                bytes.extend_from_slice(&read(disk, offset, len));
                len
            }
        };
        assert!(step > 0 && step <= left);
        offset += step;
    }
    bytes
}

/// Fails unless the image is sound; returns its leaks.
#[track_caller]
pub(super) fn assert_sound(file: &File) -> u64 {
    let report = check(file).unwrap();
    assert_eq!(report.corruptions, 0, "{report:#?}");
    report.leaks
}

/// Whether the reference tools are installed; says so if not.
pub(super) fn have_qemu() -> bool {
    let present = Command::new("qemu-img").arg("--version").output().is_ok()
        && Command::new("qemu-io").arg("--version").output().is_ok();
    if !present {
        eprintln!("skipped in part: qemu-img and qemu-io are not installed to judge the image");
    }
    present
}

/// Runs qemu-img; the exit code and what it said.
pub(super) fn qemu_img(directory: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new("qemu-img").args(args).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

/// Fails unless qemu-img does what is asked.
#[track_caller]
pub(super) fn qemu_img_ok(directory: &Path, args: &[&str]) -> String {
    let (code, text) = qemu_img(directory, args);
    assert_eq!(code, 0, "qemu-img {args:?}: {text}");
    text
}

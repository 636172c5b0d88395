//! Random operations on images of every shape over chains of every kind, with QEMU's tools as
//! judge: contents equal to an array of bytes, `qemu-img check` clean, and hardly more clusters in use
//! than in a twin to which `qemu-io` did the same.
//!
//! A short run is part of every test run; tests/README.md says how the long one is run.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use super::super::super::{
    BackingFile, BackingResolver, ImageFormat, OpenOptions, ResolveError, open as open_chain,
};
use super::*;

/// Operations of the long run, unless `BERTH_OPERATIONS` says otherwise.
const LONG: u64 = 1_000_000;
/// Size of the disks before they grow: off the grid of every cluster size above 512.
const SIZES: [u64; 3] = [(640 << 10) + 512, (3 << 20) + 512, 9 << 20];
/// Growth is at most this much at a time, bytes.
const GROWTH: u64 = 1 << 20;

/// Opens what lies in the directory.
struct Directory(PathBuf);

impl BackingResolver for Directory {
    fn resolve(&self, _image: &str, backing: &str) -> Result<BackingFile, ResolveError> {
        let file = File::open(self.0.join(backing))?;
        Ok(BackingFile { file, name: backing.into(), format: None })
    }
}

/// A directory with `top.qcow2`, its twin `twin.qcow2`, and the chain below both.
struct Case {
    directory: tempfile::TempDir,
    shape: Shape,
    depth: u64,
    bytes: Vec<u8>,
    /// The same operations for `qemu-io`.
    script: String,
    about: String,
}

fn random_shape(random: &mut Random) -> Shape {
    let version = 2 + random.below(2) as u32;
    let refcount_order = if version < 3 { 4 } else { random.below(7) as u32 };
    Shape { version, cluster_bits: 9 + random.below(13) as u32, refcount_order }
}

fn options_of(shape: Shape) -> String {
    let compat = if shape.version < 3 { "0.10" } else { "1.1" };
    let mut text = format!("compat={compat},cluster_size={}", 1u64 << shape.cluster_bits);
    if shape.version >= 3 {
        let _ = write!(text, ",refcount_bits={}", 1 << shape.refcount_order);
    }
    text
}

impl Case {
    fn new(random: &mut Random) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let size = SIZES[random.below(3) as usize];
        let (shape, depth) = (random_shape(random), 1 + random.below(4));
        let mut case = Self {
            directory,
            shape,
            depth,
            bytes: vec![0; size as usize],
            script: String::new(),
            about: format!("{shape:?}, {size} bytes, depth {depth}"),
        };
        let mut below: Option<(String, &str)> = None;
        for level in 1..depth {
            below = Some(case.make_base(random, level, below.as_ref()));
        }
        for name in ["top.qcow2", "twin.qcow2"] {
            case.create(name, shape, size, below.as_ref());
        }
        if below.is_some() {
            case.qemu(&["convert", "-O", "raw", "top.qcow2", "model.raw"]);
            case.bytes = std::fs::read(case.path("model.raw")).unwrap();
        }
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn qemu(&self, args: &[&str]) -> String {
        let (code, text) = qemu_img(self.directory.path(), args);
        assert_eq!(code, 0, "{}: qemu-img {args:?}: {text}", self.about);
        text
    }

    fn create(&self, name: &str, shape: Shape, size: u64, below: Option<&(String, &str)>) {
        let (options, size) = (options_of(shape), size.to_string());
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
        if let Some((file, format)) = below {
            args.extend(["-b", file, "-F", format]);
        }
        args.extend([name, &size]);
        self.qemu(&args);
    }

    /// Makes the next file of the chain with data in it; answers its name and format.
    fn make_base(
        &mut self,
        random: &mut Random,
        level: u64,
        below: Option<&(String, &str)>,
    ) -> (String, &'static str) {
        let name = format!("base{level}");
        // Shorter or longer than the disk above, on and off its grids.
        let size = (self.bytes.len() as u64 / 2 + random.below(self.bytes.len() as u64)) & !511;
        if below.is_none() && random.below(3) == 0 {
            let mut contents = vec![0; size as usize + random.below(512) as usize];
            for piece in contents.chunks_mut(9000).step_by(2) {
                piece.fill(random.next() as u8);
            }
            std::fs::write(self.path(&name), contents).unwrap();
            let _ = write!(self.about, ", raw base");
            return (name, "raw");
        }
        let shape = random_shape(random);
        let _ = write!(self.about, ", base {shape:?} of {size} bytes");
        self.create(&name, shape, size, below);
        let cluster = 1 << shape.cluster_bits;
        let mut script = String::new();
        // QEMU writes compressed only what has no cluster yet.
        let clusters = size / cluster;
        let step = (clusters / 6).max(1);
        for number in (0..clusters).step_by(step as usize).skip(1).take(6) {
            let fill = random.next() as u8;
            let _ = writeln!(script, "write -c -P {fill} {} {cluster}", number * cluster);
        }
        for _ in 0..16 {
            let at = random.below(size / 512) * 512;
            let len = ((1 + random.below(100)) * 512).min(size - at);
            let fill = random.next() as u8;
            let _ = match random.below(4) {
                0 => writeln!(script, "write -z {at} {len}"),
                _ => writeln!(script, "write -P {fill} {at} {len}"),
            };
        }
        self.qemu_io(&name, &script);
        if below.is_none() && random.below(2) == 0 {
            let kind = ["zlib", "zstd"][random.below(2) as usize];
            let packed = format!("packed{level}");
            let option = format!("compression_type={kind}");
            self.qemu(&["convert", "-c", "-O", "qcow2", "-o", &option, &name, &packed]);
            let _ = write!(self.about, " compressed by {kind}");
            return (packed, "qcow2");
        }
        (name, "qcow2")
    }

    fn qemu_io(&self, name: &str, script: &str) {
        let mut child = Command::new("qemu-io")
            .args(["-t", "unsafe", "-d", "unmap", "-f", "qcow2", name])
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(script.as_bytes()).unwrap());
            child.wait_with_output().unwrap()
        });
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let failed = text.contains("failed") || text.contains("rror");
        assert!(output.status.success() && !failed, "{}: {name}: {text}", self.about);
    }

    fn open(&self, name: &str, least_size: u64) -> Arc<dyn BlockBackend> {
        let file = File::options().read(true).write(true).open(self.path(name)).unwrap();
        // Without locks: they outlive us for a moment in what other tests start meanwhile.
        let options =
            OpenOptions { least_size, cache_bytes: 0, lock: false, ..OpenOptions::default() };
        let directory = Directory(self.directory.path().into());
        open_chain(file, name, ImageFormat::Qcow2, &options, &directory).unwrap().disk
    }

    /// A range: mostly short, sometimes long, on the grid of sectors.
    fn range(&self, random: &mut Random) -> (usize, usize) {
        let sectors = self.bytes.len() as u64 / 512;
        let at = random.below(sectors);
        let longest = match random.below(20) {
            0 => sectors / 2,
            1..=4 => 256,
            _ => 16,
        };
        let count = (1 + random.below(longest)).min(sectors - at);
        (at as usize * 512, count as usize * 512)
    }

    /// One random operation on the disk, the model and the script.
    fn step(&mut self, disk: Arc<dyn BlockBackend>, random: &mut Random) -> Arc<dyn BlockBackend> {
        let (at, len) = self.range(random);
        let (offset, bytes) = (at as u64, len as u64);
        match random.below(100) {
            0..=44 => {
                let fill = random.next() as u8;
                self.bytes[at..at + len].fill(fill);
                match random.below(2) {
                    0 => write(&*disk, offset, &self.bytes[at..at + len]),
                    _ => write_placed(&*disk, offset, &self.bytes[at..at + len]),
                }
                let _ = writeln!(self.script, "write -P {fill} {at} {len}");
            }
            45..=64 => {
                let held = match random.below(2) {
                    0 => read(&*disk, offset, bytes),
                    _ => read_placed(&*disk, offset, bytes),
                };
                assert!(held == self.bytes[at..at + len], "{}: {at} {len}", self.about);
            }
            65..=76 => {
                disk.discard(offset, bytes).unwrap();
                let now = read(&*disk, offset, bytes);
                let was = &mut self.bytes[at..at + len];
                for (was, is) in was.chunks_mut(512).zip(now.chunks(512)) {
                    let honest = was == is || is.iter().all(|byte| *byte == 0);
                    assert!(honest, "{}: a discard made up data", self.about);
                    was.copy_from_slice(is);
                }
                let _ = writeln!(self.script, "discard {at} {len}");
            }
            77..=88 => {
                disk.zero(offset, bytes, true).unwrap();
                self.bytes[at..at + len].fill(0);
                let _ = writeln!(self.script, "write -z -u {at} {len}");
            }
            89..=96 => disk.flush().unwrap(),
            97 | 98 => return self.reopen(disk, 0),
            _ => {
                let size = self.bytes.len() as u64;
                let larger = size + (1 + random.below(GROWTH / 512)) * 512;
                // QEMU cannot grow a version 2 image over a base that is longer.
                if larger < 16 << 20 && (self.shape.version > 2 || self.depth == 1) {
                    self.bytes.resize(larger as usize, 0);
                    let _ = writeln!(self.script, "truncate {larger}");
                    return self.reopen(disk, larger);
                }
            }
        }
        disk
    }

    fn reopen(&self, disk: Arc<dyn BlockBackend>, least_size: u64) -> Arc<dyn BlockBackend> {
        drop(disk);
        self.open("top.qcow2", least_size)
    }

    /// Compares contents, soundness and size.
    fn judge(&self, figures: &mut Figures) {
        std::fs::write(self.path("model.raw"), &self.bytes).unwrap();
        self.qemu(&["compare", "-f", "raw", "-F", "qcow2", "model.raw", "top.qcow2"]);
        self.qemu(&["check", "top.qcow2"]);
        self.qemu_io("twin.qcow2", &self.script);
        let report = |name: &str| check(&File::open(self.path(name)).unwrap()).unwrap();
        let (ours, theirs) = (report("top.qcow2"), report("twin.qcow2"));
        let clean = (ours.corruptions, ours.leaks, theirs.corruptions, theirs.leaks);
        assert_eq!(clean, (0, 0, 0, 0), "{}: {ours:?} {theirs:?}", self.about);
        let cluster = 1u64 << self.shape.cluster_bits;
        let tables = (self.bytes.len() as u64).div_ceil(cluster * cluster / 8);
        assert!(
            ours.used_clusters <= theirs.used_clusters + tables,
            "{}: larger than the twin: {ours:?} {theirs:?}",
            self.about
        );
        figures.ours += ours.used_clusters * cluster;
        figures.theirs += theirs.used_clusters * cluster;
        figures.our_file += std::fs::metadata(self.path("top.qcow2")).unwrap().len();
        figures.their_file += std::fs::metadata(self.path("twin.qcow2")).unwrap().len();
    }
}

#[derive(Debug, Default)]
struct Figures {
    images: u64,
    operations: u64,
    by_depth: [u64; 4],
    /// Bytes in use, of all images together.
    ours: u64,
    theirs: u64,
    /// Bytes from first to last of the files.
    our_file: u64,
    their_file: u64,
}

fn run(seed: u64, wanted: u64, each: u64) {
    if !have_qemu() {
        return;
    }
    let began = Instant::now();
    let mut figures = Figures::default();
    for number in seed.. {
        if figures.operations >= wanted {
            break;
        }
        let mut random = Random::new(number);
        let mut case = Case::new(&mut random);
        case.about = format!("seed {number}: {}", case.about);
        let mut disk = case.open("top.qcow2", 0);
        for _ in 0..each {
            disk = case.step(disk, &mut random);
        }
        assert!(read(&*disk, 0, case.bytes.len() as u64) == case.bytes, "{}", case.about);
        drop(disk);
        case.judge(&mut figures);
        figures.images += 1;
        figures.operations += each;
        figures.by_depth[case.depth as usize - 1] += 1;
        if figures.images.is_multiple_of(100) {
            println!("{:?} s: {figures:?}", began.elapsed().as_secs());
        }
    }
    println!("{:?} s: {figures:?}", began.elapsed().as_secs());
}

#[test]
fn some_operations_as_in_qemu() {
    run(1000, 1200, 100);
}

#[test]
#[ignore = "takes long; tests/README.md says how it is run"]
fn a_million_operations_as_in_qemu() {
    let wanted = std::env::var("BERTH_OPERATIONS").map_or(LONG, |text| text.parse().unwrap());
    let seed = std::env::var("BERTH_SEED").map_or(1, |text| text.parse().unwrap());
    run(seed, wanted, 1000);
}

//! Random operations, compared with an array of bytes, and with what qemu-img makes of the result.

use proptest::prelude::*;

use super::super::super::{ImageFormat, OpenOptions, Raw, Window};
use super::*;

/// Size of the disks, off the grid of every cluster size above 512.
const SIZE: u64 = (640 << 10) + 512;

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, sectors: u64, placed: bool },
    Read { at: u64, sectors: u64 },
    Discard { at: u64, sectors: u64 },
    Zero { at: u64, sectors: u64 },
    Flush,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let range = || {
        let last = SIZE / 512;
        let short = (0..last, 1..8u64);
        let long = (0..last, 1..last);
        prop_oneof![3 => short.boxed(), 1 => long.boxed()]
            .prop_map(move |(at, n)| (at * 512, n.min(last - at)))
    };
    prop_oneof![
        8 => (range(), any::<bool>()).prop_map(|((at, sectors), placed)| Op::Write { at, sectors, placed }),
        4 => range().prop_map(|(at, sectors)| Op::Read { at, sectors }),
        3 => range().prop_map(|(at, sectors)| Op::Discard { at, sectors }),
        3 => range().prop_map(|(at, sectors)| Op::Zero { at, sectors }),
        3 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    None,
    ShortRaw,
    LongRaw,
    Qcow2,
    Compressed { zstd: bool },
}

fn shape() -> impl Strategy<Value = Shape> {
    (prop_oneof![Just(9u32), Just(10), Just(12), Just(16), Just(21)], 2..=3u32, 0..=6u32).prop_map(
        |(cluster_bits, version, order)| Shape {
            version,
            cluster_bits,
            refcount_order: if version < 3 { 4 } else { order },
        },
    )
}

fn base() -> impl Strategy<Value = Base> {
    prop_oneof![
        Just(Base::None),
        Just(Base::ShortRaw),
        Just(Base::LongRaw),
        Just(Base::Qcow2),
        Just(Base::Compressed { zstd: false }),
        Just(Base::Compressed { zstd: true }),
    ]
}

/// A directory with a base, an overlay on it, and the bytes the overlay's disk should have.
struct Bench {
    directory: tempfile::TempDir,
    qemu: bool,
    base: Option<(&'static str, ImageFormat)>,
    bytes: Vec<u8>,
}

impl Bench {
    fn new(shape: Shape, base: Base, qemu: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut bench = Self { directory, qemu, base: None, bytes: vec![0; SIZE as usize] };
        let len = match base {
            Base::None => 0,
            Base::ShortRaw => 100_000,
            Base::LongRaw => SIZE + 70_000,
            Base::Qcow2 | Base::Compressed { .. } => SIZE / 2 / 512 * 512,
        };
        let mut random = Random::new(7);
        let mut contents: Vec<u8> = (0..len).map(|i| (i / 700) as u8 ^ 0x11).collect();
        // Runs of zeroes, and a part that does not compress.
        for chunk in contents.chunks_mut(20_000).step_by(3) {
            chunk.fill(0);
        }
        contents.iter_mut().skip(50_000).take(10_000).for_each(|b| *b = random.next() as u8);
        let visible = contents.len().min(bench.bytes.len());
        bench.bytes[..visible].copy_from_slice(&contents[..visible]);
        std::fs::write(bench.path("base.raw"), &contents).unwrap();
        bench.base = match base {
            Base::None => None,
            Base::ShortRaw | Base::LongRaw => Some(("base.raw", ImageFormat::Raw)),
            Base::Compressed { zstd } if qemu => {
                let kind = if zstd { "compression_type=zstd" } else { "compression_type=zlib" };
                let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", kind];
                bench.qemu_img(&[&args[..], &["base.raw", "base.qcow2"]].concat());
                Some(("base.qcow2", ImageFormat::Qcow2))
            }
            Base::Qcow2 | Base::Compressed { .. } => {
                let file = bench.open_file("base.qcow2", true);
                create(&file, &V3.options(len)).unwrap();
                write(&open(&file, None), 0, &contents);
                Some(("base.qcow2", ImageFormat::Qcow2))
            }
        };
        let mut options = shape.options(SIZE);
        if let Some((name, format)) = bench.base {
            options = options.over(name, format);
        }
        create(&bench.open_file("disk.qcow2", true), &options).unwrap();
        bench
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn open_file(&self, name: &str, create: bool) -> File {
        let path = self.path(name);
        File::options().read(true).write(true).create(create).truncate(false).open(path).unwrap()
    }

    fn qemu_img(&self, args: &[&str]) -> String {
        qemu_img_ok(self.directory.path(), args)
    }

    fn open(&self) -> Qcow2 {
        let backing = self.base.map(|(name, format)| -> Arc<dyn BlockBackend> {
            let file = self.open_file(name, false);
            match format {
                ImageFormat::Raw => Arc::new(Raw::open(file, Window::default(), true).unwrap()),
                ImageFormat::Qcow2 => Arc::new(Qcow2::open(file, None, true, 0).unwrap()),
            }
        });
        open(&self.open_file("disk.qcow2", false), backing)
    }

    fn part(&mut self, at: u64, sectors: u64) -> &mut [u8] {
        &mut self.bytes[at as usize..(at + sectors * 512) as usize]
    }

    /// A discarded sector holds zeroes or what it held before.
    fn discarded(&mut self, disk: &Qcow2, at: u64, sectors: u64) {
        let now = read(disk, at, sectors * 512);
        for (was, is) in self.part(at, sectors).chunks_mut(512).zip(now.chunks(512)) {
            assert!(was == is || is.iter().all(|b| *b == 0), "discard made up data");
            was.copy_from_slice(is);
        }
    }

    fn run(&mut self, ops: &[Op]) {
        let mut disk = self.open();
        let mut random = Random::new(ops.len() as u64);
        for op in ops {
            match *op {
                Op::Write { at, sectors, placed } => {
                    let fill = random.next() as u8;
                    let part = self.part(at, sectors);
                    part.iter_mut().enumerate().for_each(|(i, b)| *b = fill ^ (i / 64) as u8);
                    if placed {
                        write_placed(&disk, at, part);
                    } else {
                        write(&disk, at, part);
                    }
                }
                Op::Read { at, sectors } => {
                    assert!(read(&disk, at, sectors * 512) == self.part(at, sectors));
                    assert!(read_placed(&disk, at, sectors * 512) == self.part(at, sectors));
                }
                Op::Discard { at, sectors } => {
                    disk.discard(at, sectors * 512).unwrap();
                    self.discarded(&disk, at, sectors);
                }
                Op::Zero { at, sectors } => {
                    disk.zero(at, sectors * 512, true).unwrap();
                    self.part(at, sectors).fill(0);
                }
                Op::Flush => disk.flush().unwrap(),
                Op::Reopen => {
                    drop(disk);
                    disk = self.open();
                }
            }
        }
        assert!(read(&disk, 0, SIZE) == self.bytes);
        drop(disk);
        self.judge();
    }

    fn judge(&self) {
        let file = self.open_file("disk.qcow2", false);
        assert_eq!(assert_sound(&file), 0, "a closed image has no leaks");
        assert!(read(&self.open(), 0, SIZE) == self.bytes);
        if self.qemu {
            self.qemu_img(&["check", "disk.qcow2"]);
            std::fs::write(self.path("model.raw"), &self.bytes).unwrap();
            self.qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "model.raw", "disk.qcow2"]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_image_is_an_array_of_bytes(
        shape in shape(),
        base in base(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        Bench::new(shape, base, have_qemu()).run(&ops);
    }
}

#[test]
fn the_chain_opens_what_the_model_wrote() {
    struct Directory(std::path::PathBuf);
    impl super::super::super::BackingResolver for Directory {
        fn resolve(
            &self,
            _image: &str,
            backing: &str,
        ) -> Result<super::super::super::BackingFile, super::super::super::ResolveError> {
            let file = File::open(self.0.join(backing))?;
            Ok(super::super::super::BackingFile { file, name: backing.into(), format: None })
        }
    }
    let mut bench = Bench::new(V3, Base::LongRaw, false);
    bench.run(&[Op::Write { at: 1024, sectors: 9, placed: true }]);
    let image = super::super::super::open(
        bench.open_file("disk.qcow2", false),
        "disk.qcow2",
        ImageFormat::Qcow2,
        &OpenOptions::default(),
        &Directory(bench.directory.path().into()),
    )
    .unwrap();
    let names: Vec<_> = image.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["disk.qcow2", "base.raw"]);
    assert!(read(&*image.disk, 0, SIZE) == bench.bytes);
}

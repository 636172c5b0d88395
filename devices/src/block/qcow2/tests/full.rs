//! A full host, and one that fails to make things durable.

use super::super::super::recorder::Recorder;
use super::super::super::{ImageFormat, Raw, Window};
use super::*;

const SECTORS: u64 = 2048;

/// An image whose host can be told to be full.
struct Full {
    file: File,
    recorder: Arc<Recorder>,
    disk: Qcow2,
    bytes: Vec<u8>,
}

impl Full {
    fn new(shape: Shape, over_base: bool) -> Self {
        let mut bytes = vec![0; SECTORS as usize * 512];
        let mut options = shape.options(SECTORS * 512);
        let mut backing: Option<Arc<dyn BlockBackend>> = None;
        if over_base {
            let base = tempfile::tempfile().unwrap();
            let half = bytes.len() / 2;
            bytes[..half].iter_mut().enumerate().for_each(|(at, b)| *b = (at / 512) as u8 | 1);
            base.write_all_at(&bytes[..half], 0).unwrap();
            backing = Some(Arc::new(Raw::open(base, Window::default(), true).unwrap()));
            options = options.over("base", ImageFormat::Raw);
        }
        let file = tempfile::tempfile().unwrap();
        create(&file, &options).unwrap();
        let recorder = Arc::new(Recorder::default());
        let image = ImageFile::recorded(file.try_clone().unwrap(), recorder.clone()).unwrap();
        let disk = Qcow2::from_image(image, backing, false, 0).unwrap();
        Self { file, recorder, disk, bytes }
    }

    /// Does `act` on a host with `room` bytes left, and again with some more each time, until it
    /// goes well: as a queue does it.
    fn until_done(&self, random: &mut Random, act: impl Fn(&Qcow2) -> Result<(), BlockError>) {
        self.recorder.limit(Some(random.below(5000)));
        let mut tries = 0;
        while let Err(error) = act(&self.disk) {
            assert!(matches!(error, BlockError::NoSpace), "{error}");
            tries += 1;
            // What a try has written is not given back, so each needs less; but there is an end.
            self.recorder.limit((tries < 40).then(|| random.below(1 << tries.min(22))));
        }
        self.recorder.limit(None);
    }
}

#[test]
fn a_full_host_loses_nothing() {
    let shapes = [
        V3,
        Shape { version: 2, ..V3 },
        // A refcount block for 64 clusters, and a table that fills up soon.
        Shape { refcount_order: 6, ..V3 },
        Shape { cluster_bits: 12, ..V3 },
        Shape { cluster_bits: 16, ..V3 },
    ];
    for (number, shape) in shapes.into_iter().enumerate() {
        for over_base in [false, true] {
            let mut random = Random::new(11 + number as u64);
            let mut full = Full::new(shape, over_base);
            for step in 1..200 {
                let first = random.below(SECTORS - 20) * 512;
                let len = (1 + random.below(20)) * 512;
                let range = first as usize..(first + len) as usize;
                match random.below(10) {
                    0..=5 => {
                        let data = vec![step as u8; len as usize];
                        full.until_done(&mut random, |disk| try_write(disk, first, &data));
                        full.bytes[range].fill(step as u8);
                    }
                    6 | 7 => {
                        full.until_done(&mut random, |disk| disk.zero(first, len, true));
                        full.bytes[range].fill(0);
                    }
                    8 => {
                        full.until_done(&mut random, |disk| disk.discard(first, len));
                        let held = read(&full.disk, first, len);
                        full.bytes[range].copy_from_slice(&held);
                    }
                    _ => {}
                }
                if random.below(3) == 0 {
                    full.until_done(&mut random, |disk| disk.flush());
                }
            }
            let about = format!("{shape:?}, base: {over_base}");
            assert!(read(&full.disk, 0, SECTORS * 512) == full.bytes, "{about}");
            drop(full.disk);
            assert_eq!(assert_sound(&full.file), 0, "{about}");
        }
    }
}

#[test]
fn a_sync_that_failed_is_never_made_good_and_nothing_of_it_is_linked() {
    for errno in [libc::EIO, libc::ENOSPC] {
        let full = Full::new(V3, false);
        write(&full.disk, 0, &[1; 4096]);
        full.disk.flush().unwrap();
        let before = full.recorder.len();
        write(&full.disk, 64 << 10, &[2; 4096]);
        full.recorder.fail_sync(errno);
        for _ in 0..3 {
            assert!(matches!(full.disk.flush(), Err(BlockError::Io(_))));
            assert!(matches!(full.disk.plan_flush(), FlushPlan::Call));
        }
        // Reads and overwrites go on, and what needs metadata does not.
        write(&full.disk, 0, &[3; 4096]);
        assert_eq!(read(&full.disk, 64 << 10, 512), [2; 512]);
        assert!(matches!(try_write(&full.disk, 128 << 10, &[4; 512]), Err(BlockError::Io(_))));
        assert!(matches!(full.disk.discard(0, 4096), Err(BlockError::Io(_))));
        drop(full.disk);
        assert_eq!(full.recorder.since(before).1, 0, "no sync was tried again");
        // On disk is what the last good flush left, and leaks.
        assert_sound(&full.file);
        let again = open(&full.file, None);
        assert_eq!(read(&again, 64 << 10, 512), [0; 512]);
        assert_eq!(read(&again, 0, 512), [3; 512]);
    }
}

//! Power cuts: at any instant the file opens, is sound, and has what was flushed.

use std::collections::HashSet;

use super::super::super::recorder::Recorder;
use super::super::super::{ImageFormat, Raw, Window};
use super::*;

pub(super) const SECTORS: u64 = 2048;

#[derive(Clone, Copy)]
enum What {
    Write(u64),
    Discard,
    Flush,
}

/// One operation, and the changes of the file that happened in it.
struct Event {
    what: What,
    first: u64,
    sectors: u64,
    begin: usize,
    end: usize,
}

/// A recorded run over a base.
pub(super) struct Run {
    initial: File,
    pub recorder: Arc<Recorder>,
    events: Vec<Event>,
    backing: Option<Arc<dyn BlockBackend>>,
}

fn sector(value: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&value.to_be_bytes()));
    bytes
}

fn base(with: bool) -> Option<Arc<dyn BlockBackend>> {
    with.then(|| {
        let file = tempfile::tempfile().unwrap();
        for i in 0..SECTORS / 2 {
            file.write_all_at(&sector(u64::MAX - i), i * 512).unwrap();
        }
        Arc::new(Raw::open(file, Window::default(), true).unwrap()) as Arc<dyn BlockBackend>
    })
}

fn copy(file: &File) -> File {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let copy = tempfile::tempfile().unwrap();
    copy.write_all_at(&bytes, 0).unwrap();
    copy
}

/// Plays random operations; in the middle, the disk grows to `size`.
pub(super) fn record(size: u64, initial: File, over_base: bool, seed: u64, steps: u64) -> Run {
    let file = copy(&initial);
    let recorder = Arc::new(Recorder::default());
    let backing = base(over_base);
    let image = ImageFile::recorded(file, recorder.clone()).unwrap();
    let disk = Qcow2::from_image(image, backing.clone(), false, 0).unwrap();
    let mut random = Random::new(seed);
    let mut events = Vec::new();
    for step in 1..=steps {
        let mut first = random.below(SECTORS);
        let long = random.below(6) == 0;
        let mut sectors = 1 + random.below(if long { 300 } else { 12 });
        let mut what = match random.below(20) {
            0..=11 => What::Write(step),
            12..=14 => What::Write(0),
            15 | 16 => What::Discard,
            _ => What::Flush,
        };
        if step == steps / 2 {
            disk.grow(size).unwrap();
            what = What::Flush;
        }
        sectors = sectors.min(SECTORS - first);
        let begin = recorder.len();
        match what {
            What::Write(0) => disk.zero(first * 512, sectors * 512, true).unwrap(),
            What::Write(value) => {
                write(&disk, first * 512, &sector(value).repeat(sectors as usize))
            }
            What::Discard => disk.discard(first * 512, sectors * 512).unwrap(),
            What::Flush => {
                (first, sectors) = (0, 0);
                disk.flush().unwrap();
            }
        }
        events.push(Event { what, first, sectors, begin, end: recorder.len() });
    }
    drop(disk);
    Run { initial, recorder, events, backing }
}

impl Run {
    /// What a sector may hold after a cut.
    fn allowed(&self, index: u64, at: usize, flushed: usize) -> HashSet<u64> {
        let below = self.backing.is_some() && index < SECTORS / 2;
        let mut allowed = HashSet::from([if below { u64::MAX - index } else { 0 }]);
        for (number, event) in self.events.iter().enumerate() {
            if event.begin >= at && number > flushed {
                break;
            }
            if !(event.first..event.first + event.sectors).contains(&index) {
                continue;
            }
            match event.what {
                What::Write(value) => {
                    if number <= flushed {
                        allowed.clear();
                    }
                    allowed.insert(value);
                }
                What::Discard => {
                    allowed.insert(0);
                }
                What::Flush => {}
            }
        }
        allowed
    }

    /// Cuts the power after `at` changes; answers how many clusters leaked.
    pub(super) fn check_cut(&self, at: usize, keep: impl FnMut() -> bool, qemu: bool) -> u64 {
        let file = copy(&self.initial);
        self.recorder.cut(&file, at, keep);
        let leaks = assert_sound(&file);
        if qemu {
            let path = tempfile::tempdir().unwrap();
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            std::fs::write(path.path().join("cut.qcow2"), bytes).unwrap();
            std::fs::write(path.path().join("base"), [0; 512]).unwrap();
            let (code, text) = qemu_img(path.path(), &["check", "cut.qcow2"]);
            assert!(code == 0 || code == 3, "cut at {at}: {text}");
        }
        let flushed = self
            .events
            .iter()
            .enumerate()
            .filter(|(_, e)| matches!(e.what, What::Flush) && e.end <= at)
            .map(|(number, _)| number)
            .next_back();
        let disk = open(&file, self.backing.clone());
        let bytes = read(&disk, 0, SECTORS * 512);
        for (index, held) in bytes.chunks(512).enumerate() {
            let value = u64::from_be_bytes(held[..8].try_into().unwrap());
            assert!(held == sector(value), "cut at {at}: sector {index} is torn");
            let allowed = match flushed {
                Some(flushed) => self.allowed(index as u64, at, flushed),
                None => self.allowed_unflushed(index as u64, at),
            };
            assert!(
                allowed.contains(&value),
                "cut at {at}: sector {index} holds {value:#x}, not one of {allowed:x?}"
            );
        }
        // Life goes on: what leaked stays unused, and what is written is there.
        write(&disk, 0, &sector(42).repeat(400));
        disk.flush().unwrap();
        drop(disk);
        assert_sound(&file);
        assert!(read(&open(&file, self.backing.clone()), 512 * 399, 512) == sector(42));
        leaks
    }

    /// Cuts at the instants when the header has just been pointed to another table.
    fn check_switches(&self, field: u64) {
        let mut random = Random::new(field);
        let switches = self.recorder.after_writes_at(field);
        assert!(!switches.is_empty(), "the run was meant to move a table");
        for at in switches {
            for odds in [10, 50, 50, 50, 90, 100] {
                self.check_cut(at, || random.below(100) < odds, false);
            }
        }
    }

    fn allowed_unflushed(&self, index: u64, at: usize) -> HashSet<u64> {
        let below = self.backing.is_some() && index < SECTORS / 2;
        let mut allowed = HashSet::from([if below { u64::MAX - index } else { 0 }]);
        for event in self.events.iter().take_while(|e| e.begin < at) {
            if (event.first..event.first + event.sectors).contains(&index) {
                allowed.insert(if let What::Write(value) = event.what { value } else { 0 });
            }
        }
        allowed
    }
}

fn play(shape: Shape, initial: File, over_base: bool, seed: u64) {
    let size = (SECTORS + (64 << shape.cluster_bits)) * 512;
    let run = record(size, initial, over_base, seed, 60);
    let mut random = Random::new(seed ^ 0xc0ffee);
    let changes = run.recorder.len();
    let qemu = have_qemu();
    for round in 0..40 {
        let at = random.below(changes as u64 + 1) as usize;
        // All of it (a killed process), none, or each sector by lot (a power cut).
        let odds = [100, 0, 50, 90, 10][round % 5];
        run.check_cut(at, || random.below(100) < odds, qemu && round % 8 == 0);
    }
    // The disk grew in the middle.
    run.check_switches(field::L1);
    run.check_switches(field::SIZE);
}

#[test]
fn an_empty_image_survives_power_cuts() {
    for (seed, order) in [(1, 4), (2, 0), (3, 6)] {
        let shape = Shape { refcount_order: order, ..V3 };
        play(shape, blank(shape, SECTORS * 512), false, seed);
    }
}

#[test]
fn an_overlay_survives_power_cuts() {
    for (seed, cluster_bits) in [(4, 9), (5, 12), (6, 16)] {
        let shape = Shape { cluster_bits, ..V3 };
        let file = tempfile::tempfile().unwrap();
        let options = shape.options(SECTORS * 512).over("base", ImageFormat::Raw);
        create(&file, &options).unwrap();
        play(shape, file, true, seed);
    }
}

#[test]
fn a_version_2_image_survives_power_cuts() {
    let shape = Shape { version: 2, ..V3 };
    play(shape, blank(shape, SECTORS * 512), false, 7);
    let file = tempfile::tempfile().unwrap();
    create(&file, &shape.options(SECTORS * 512).over("base", ImageFormat::Raw)).unwrap();
    play(shape, file, true, 8);
}

#[test]
fn a_moving_refcount_table_survives_power_cuts() {
    // 64 refcounts in a block, 64 blocks in a table cluster: 2 MiB of file, then it must move.
    let shape = Shape { refcount_order: 6, ..V3 };
    let file = blank(shape, 8 << 20);
    {
        let disk = open(&file, None);
        for i in 0..3400 {
            write(&disk, (2 << 20) + i * 512, &sector(i));
        }
    }
    assert_eq!(
        read_header(&ImageFile::new(copy(&file)).unwrap()).unwrap().refcount_table_clusters,
        1
    );
    let run = record(16 << 20, file, false, 9, 120);
    let last = copy(&run.initial);
    run.recorder.cut(&last, run.recorder.len(), || true);
    let header = read_header(&ImageFile::new(last).unwrap()).unwrap();
    assert!(header.refcount_table_clusters > 1, "the run was meant to move the table");
    let mut random = Random::new(10);
    for _ in 0..40 {
        let at = random.below(run.recorder.len() as u64 + 1) as usize;
        run.check_cut(at, || random.below(2) == 0, false);
    }
    run.check_switches(field::REFCOUNT_TABLE);
}

/// The larger L1 table needs refcount blocks of its own.
#[test]
fn a_disk_that_grows_much_survives_power_cuts() {
    let run = record(700 << 20, blank(V3, SECTORS * 512), false, 12, 30);
    run.check_switches(field::L1);
    run.check_switches(field::SIZE);
}

/// What lies in a free cluster of the file, after a crash or from a tool that does not punch holes,
/// is never seen through a cluster written in part.
#[test]
fn a_reused_cluster_shows_nothing_old() {
    let file = blank(Shape { cluster_bits: 16, ..V3 }, 4 << 20);
    let len = file.metadata().unwrap().len();
    file.write_all_at(&vec![0xdd; 1 << 20], len).unwrap();
    let disk = open(&file, None);
    for cluster in 0..20 {
        let at = cluster << 16;
        write(&disk, at + 8192, &[1; 512]);
        let bytes = read(&disk, at, 65536);
        assert_eq!(bytes[8192..8704], [1; 512]);
        assert!(bytes[..8192].iter().chain(&bytes[8704..]).all(|b| *b == 0), "{cluster}");
    }
}

#[test]
fn flushes_cost_as_few_syncs_as_promised() {
    let file = tempfile::tempfile().unwrap();
    create(&file, &CreateOptions::new(1 << 30)).unwrap();
    let recorder = Arc::new(Recorder::default());
    let image = ImageFile::recorded(file, recorder.clone()).unwrap();
    let disk = Qcow2::from_image(image, None, false, DEFAULT_CACHE_BYTES).unwrap();
    let syncs = |work: &dyn Fn()| {
        let before = recorder.len();
        work();
        recorder.since(before).1
    };
    assert_eq!(
        syncs(&|| {
            write(&disk, 0, &[1; 4096]);
            disk.flush().unwrap()
        }),
        2
    );
    assert_eq!(
        syncs(&|| {
            write(&disk, 4096, &[2; 4096]);
            disk.flush().unwrap()
        }),
        1
    );
    assert!(matches!(disk.plan_flush(), FlushPlan::Sync(_)));
    write(&disk, 1 << 20, &[3; 512]);
    assert!(matches!(disk.plan_flush(), FlushPlan::Call));
    // 1 MiB into new clusters is one write of data.
    let before = recorder.len();
    write(&disk, 16 << 20, &vec![4; 1 << 20]);
    assert_eq!(recorder.since(before).0, 1);
}

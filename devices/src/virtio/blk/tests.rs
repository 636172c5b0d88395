//! Every engine, as a driver sees it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, VolatileSlice};

use super::config::*;
use super::*;
use crate::block::{Access, BlockError, BlockInfo, FlushPlan, Placement};
use crate::pci::PciDevice;
use crate::virtio::F_VERSION_1;
use crate::virtio::testkit::{Rig, drive};
use driver::{ALL, CAPACITY, CLUSTER, Driver, Layout, TestDisk, Variant, blk, engines};

mod counting;
pub mod driver;
mod waiting;

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Cuts a buffer into pieces of sizes that fit no sector.
fn cut(at: u64, len: u32, rng: &mut Rng) -> Vec<(u64, u32)> {
    let (mut pieces, mut done) = (vec![], 0);
    while done < len {
        let some = (1 + rng.below(3000) as u32).min(len - done);
        pieces.push((at + u64::from(done), some));
        done += some;
    }
    pieces
}

fn compare_with_model(layout: Layout, queues: u16, engine: Variant) {
    let mut driver = Driver::up(layout, queues, engine);
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let mut model = vec![0u8; CAPACITY as usize];
    // Each round touches disjoint stripes, so that any order gives one result.
    let (stripes, room) = (12u64, CAPACITY / 12 / 512);
    let mut slots = vec![];
    for _ in 0..stripes {
        slots.push(driver.rig.ram.take(16 * 512));
    }
    for round in 0..30 {
        let mut expected = vec![];
        let mut statuses = vec![];
        for stripe in 0..stripes {
            let sectors = 1 + rng.below(16);
            let sector = stripe * room + rng.below(room - sectors);
            let (start, len) = ((sector * 512) as usize, (sectors * 512) as usize);
            let at = slots[stripe as usize];
            let pieces = cut(at, len as u32, &mut rng);
            let queue = rng.below(queues.into()) as usize;
            if rng.below(2) == 0 {
                let data: Vec<u8> =
                    (0..len).map(|at| (at as u64 * 7 + rng.0 % 251) as u8).collect();
                driver.rig.ram.write(at, &data);
                model[start..start + len].copy_from_slice(&data);
                statuses.push(driver.add(queue, 1, sector, &pieces, &[]));
            } else {
                driver.rig.ram.write(at, &vec![0xcc; len]);
                expected.push((at, model[start..start + len].to_vec()));
                statuses.push(driver.add(queue, 0, sector, &[], &pieces));
            }
        }
        (0..queues.into()).for_each(|queue| {
            driver.rig.complete(queue);
        });
        assert!(statuses.iter().all(|at| driver.rig.ram.read(*at, 1) == [0]), "round {round}");
        for (at, data) in expected {
            assert!(driver.rig.ram.read(at, data.len()) == data, "round {round} read other data");
        }
    }
    let mut disk = vec![0; CAPACITY as usize];
    driver.disk.file.read_exact_at(&mut disk, 0).unwrap();
    assert!(disk == model, "the file holds what was written");
    assert_eq!(Arc::strong_count(&driver.disk.lease), 1, "every lease was returned");
}

#[test]
fn data_is_right_on_every_engine_layout_and_number_of_queues() {
    for engine in engines() {
        for layout in [Layout::File, Layout::Crumbs, Layout::Mixed, Layout::Call] {
            for queues in [1, 4] {
                compare_with_model(layout, queues, engine);
            }
        }
    }
}

#[test]
fn a_request_beyond_the_ring_s_room_is_done_in_turns() {
    for engine in engines() {
        let mut driver = Driver::up(Layout::Crumbs, 1, engine);
        let len = 400 * 512;
        assert!(len / 512 > usize::from(uring::OPERATIONS) * 2);
        let data: Vec<u8> = (0..len).map(|at| (at / 3) as u8).collect();
        let buffer = driver.put(&data);
        let back = driver.rig.ram.take(len as u64);
        let first = driver.add(0, 1, 8, &[buffer], &[]);
        let second = driver.add(0, 1, 1000, &[buffer], &[]);
        driver.rig.complete(0);
        assert_eq!([driver.rig.ram.read(first, 1), driver.rig.ram.read(second, 1)], [[0], [0]]);
        assert_eq!(driver.call(0, 1000, &[], &[(back, len as u32)]), 0);
        assert!(driver.rig.ram.read(back, len) == data);
    }
}

#[test]
fn headers_and_status_may_be_cut_anyhow() {
    for engine in engines() {
        let mut driver = Driver::up(Layout::File, 1, engine);
        assert_eq!(driver.write(3, &[7; 512]), 0);
        let ram = &mut driver.rig.ram;
        let header = ram.take(16);
        ram.write(header, &[0, 0, 0, 0, 0, 0, 0, 0, 3]);
        let back = ram.take(1024);
        let cut = [(header, 1), (header + 1, 0), (header + 1, 7), (header + 8, 8)];
        driver.rig.queue(0).add(&cut, &[(back, 500), (back + 500, 13)]);
        assert_eq!(driver.rig.complete(0), [(0, 513)]);
        let answer = driver.rig.ram.read(back, 514);
        assert_eq!((&answer[..512], &answer[512..]), (&[7; 512][..], &[0, 0][..]));
    }
}

#[test]
fn the_rest_of_the_commands_answer() {
    for engine in engines() {
        let mut driver = Driver::up(Layout::Mixed, 1, engine);
        let id = driver.rig.ram.take(64);
        assert_eq!(driver.call(8, 0, &[], &[(id, 20)]), 0);
        assert_eq!(driver.rig.ram.read(id, 20), b"serial-0123456789\0\0\0");
        driver.rig.ram.write(id, &[9; 64]);
        assert_eq!(driver.call(8, 0, &[], &[(id, 5)]), 0);
        assert_eq!(driver.rig.ram.read(id, 6), b"seria\x09");
        for unknown in [2, 3, 5, 7, 99, u32::MAX] {
            assert_eq!(driver.call(unknown, 0, &[], &[(id, 20)]), 2, "type {unknown}");
        }
        // A header too short to say what is wanted.
        let short = driver.put(&[0; 15]);
        driver.rig.queue(0).add(&[short], &[(id, 1)]);
        assert_eq!(driver.rig.complete(0), [(0, 1)]);
        assert_eq!(driver.rig.ram.read(id, 1), [2]);
        // No room for a status: nothing can be said.
        let header = driver.put(&[0; 16]);
        driver.rig.queue(0).add(&[header], &[]);
        assert_eq!(driver.rig.complete(0), [(0, 0)]);
    }
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn discards_and_zeroes_check_their_segments() {
    for engine in engines() {
        let mut driver = Driver::up(Layout::Mixed, 1, engine);
        assert_eq!(driver.write(0, &[5; 16384]), 0);
        let both = [segment(0, 8, 0), segment(16, 8, 0)].concat();
        let many = segment(0, 0, 0).repeat(33);
        let cases: [(u32, Vec<u8>, u8); 12] = [
            (11, both, 0),
            (13, segment(25, 1, 1), 0),
            (13, segment(0, 0, 0), 0),
            (11, segment(0, 8, 1), 2),
            (13, segment(0, 8, 2), 2),
            (11, segment(2048, 1, 0), 1),
            (11, segment(u64::MAX, 1, 0), 1),
            (11, segment(u64::MAX / 512, 1, 0), 1),
            (13, segment(0, u32::MAX, 0), 1),
            (11, many, 1),
            (11, vec![], 1),
            (13, vec![0; 17], 1),
        ];
        for (number, (kind, list, status)) in cases.into_iter().enumerate() {
            let list = driver.put(&list);
            let out = if list.1 == 0 { vec![] } else { vec![list] };
            assert_eq!(driver.call(kind, 0, &out, &[]), status, "case {number}");
        }
        let (status, data) = driver.read(0, 16384);
        let sectors: Vec<u8> = data.chunks(512).map(|sector| sector[0]).collect();
        let mut expected = [5; 32];
        expected[..8].fill(0);
        expected[16..24].fill(0);
        expected[25] = 0;
        assert_eq!((status, &sectors[..]), (0, &expected[..]));
    }
}

#[test]
fn ranges_are_checked_without_overflow() {
    for engine in engines() {
        let mut driver = Driver::up(Layout::File, 1, engine);
        let last = CAPACITY / 512 - 1;
        assert_eq!(driver.read(last, 512).0, 0);
        for (sector, len) in [
            (last, 1024),
            (last + 1, 512),
            (u64::MAX, 512),
            (u64::MAX >> 9, 512),
            (0, 511),
            (0, 513),
        ] {
            assert_eq!(driver.read(sector, len).0, 1, "{len} bytes at sector {sector:#x}");
            assert_eq!(driver.write(sector, &vec![0; len]), 1, "{len} bytes at sector {sector:#x}");
        }
        assert_eq!(driver.counters.errors(), 12);
        assert_eq!(driver.counters.totals(Operation::Read).bytes, 512);
    }
}

#[test]
fn errors_become_a_status_and_the_next_request_succeeds() {
    for engine in engines() {
        for layout in [Layout::File, Layout::Crumbs, Layout::Mixed, Layout::Call] {
            let mut driver = Driver::up(layout, 1, engine);
            let io = || std::io::Error::other("on purpose");
            for (error, status) in [
                (BlockError::Unsupported, 2),
                (BlockError::Corrupt("on purpose".into()), 1),
                (BlockError::Io(io()), 1),
            ] {
                *driver.disk.failure.lock().unwrap() = Some(error);
                // Some of it succeeds before the last cluster is reached.
                let sector = (CAPACITY - 4 * CLUSTER) / 512;
                assert_eq!(driver.write(sector, &[1; 4 * CLUSTER as usize]), status, "{layout:?}");
                assert_eq!(driver.write(sector, &[2; 4 * CLUSTER as usize]), 0, "{layout:?}");
            }
            assert_eq!(Arc::strong_count(&driver.disk.lease), 1);
        }
    }
}

#[test]
fn a_file_shorter_than_its_disk_is_an_error() {
    for engine in engines() {
        let mut driver = Driver::up(Layout::File, 1, engine);
        driver.disk.file.set_len(1024).unwrap();
        assert_eq!(driver.read(0, 1024).0, 0);
        assert_eq!(driver.read(0, 4096).0, 1);
    }
}

#[test]
fn a_read_only_disk_refuses_what_would_change_it() {
    for engine in engines() {
        let disk = TestDisk { read_only: true, ..TestDisk::new(Layout::File) };
        let mut driver = Driver::new(disk, 1, engine);
        let offered = driver.rig.offered();
        assert_eq!(offered & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
        driver.rig.bring_up(offered);
        assert_eq!(driver.write(0, &[1; 512]), 1);
        for kind in [11, 13] {
            let list = driver.put(&segment(0, 1, 0));
            assert_eq!(driver.call(kind, 0, &[list], &[]), 1);
        }
        assert_eq!(driver.read(0, 512), (0, vec![0; 512]));
        assert_eq!(driver.call(4, 0, &[], &[]), 0);
    }
}

#[test]
fn a_driver_that_cannot_flush_gets_durable_writes() {
    for engine in engines() {
        for features in [F_VERSION_1, F_VERSION_1 | F_FLUSH] {
            let mut driver = Driver::new(TestDisk::new(Layout::Mixed), 1, engine);
            driver.disk.flush_by_call.store(true, Ordering::SeqCst);
            driver.rig.bring_up(features);
            assert_eq!(driver.write(0, &[1; 8192]), 0);
            let list = driver.put(&segment(0, 1, 0));
            assert_eq!(driver.call(13, 0, &[list], &[]), 0);
            assert_eq!(driver.read(0, 512).0, 0);
            let flushes = if features & F_FLUSH == 0 { 2 } else { 0 };
            assert_eq!(driver.disk.flushes.load(Ordering::SeqCst), flushes);
            assert_eq!(driver.call(4, 0, &[], &[]), 0);
            assert_eq!(driver.disk.flushes.load(Ordering::SeqCst), flushes + 1);
        }
    }
}

#[test]
fn buffers_that_the_file_does_not_take_go_through_the_backend() {
    use std::os::unix::fs::OpenOptionsExt;
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(CAPACITY).unwrap();
    let direct =
        File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(named.path());
    let Ok(direct) = direct else {
        eprintln!("skipped: no O_DIRECT on this filesystem");
        return;
    };
    for engine in engines() {
        let mut disk = TestDisk::new(Layout::File);
        disk.file = Arc::new(direct.try_clone().unwrap());
        let calls = Arc::new(AlignedCalls { disk, plain: named.reopen().unwrap() });
        let blk = blk(calls, "", 1, engine);
        let mut rig = Rig::new(Box::new(blk));
        rig.bring_up(ALL & rig.offered());
        let mut driver = Driver {
            rig,
            disk: Arc::new(TestDisk::new(Layout::File)),
            counters: Arc::new(Counters::new(1)),
        };
        let at = driver.rig.ram.take(2048);
        driver.rig.ram.write(at + 1, &[0x5a; 1024]);
        assert_eq!(driver.call(1, 4, &[(at + 1, 700), (at + 701, 324)], &[]), 0);
        driver.rig.ram.write(at, &[0; 2048]);
        assert_eq!(driver.call(0, 4, &[], &[(at + 3, 1024)]), 0);
        assert_eq!(driver.rig.ram.read(at + 3, 1025), [&[0x5a; 1024][..], &[0]].concat());
    }
}

/// Places in a file that wants alignment; calls go to one that does not.
struct AlignedCalls {
    disk: TestDisk,
    plain: File,
}

impl BlockBackend for AlignedCalls {
    fn info(&self) -> BlockInfo {
        self.disk.info()
    }
    fn read_at(&self, bufs: &[VolatileSlice<'_>], offset: u64) -> Result<(), BlockError> {
        let mut data = vec![0; bufs.iter().map(VolatileSlice::len).sum()];
        self.plain.read_exact_at(&mut data, offset)?;
        let mut rest = &data[..];
        for buf in bufs {
            buf.copy_from(rest);
            rest = &rest[buf.len()..];
        }
        Ok(())
    }
    fn write_at(&self, bufs: &[VolatileSlice<'_>], mut offset: u64) -> Result<(), BlockError> {
        for buf in bufs {
            let mut data = vec![0u8; buf.len()];
            buf.read_slice(&mut data, 0).unwrap();
            self.plain.write_all_at(&data, offset)?;
            offset += data.len() as u64;
        }
        Ok(())
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.disk.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.disk.discard(offset, len)
    }
    fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.disk.zero(offset, len, unmap)
    }
    fn place(&self, offset: u64, len: u64, access: Access) -> Result<Placement, BlockError> {
        self.disk.place(offset, len, access)
    }
    fn plan_flush(&self) -> FlushPlan {
        self.disk.plan_flush()
    }
}

#[test]
fn a_reset_in_flight_waits_and_the_device_serves_again() {
    for engine in engines() {
        let mut driver = Driver::new(TestDisk::new(Layout::File), 4, engine);
        for round in 0..20u8 {
            driver.rig.bring_up(ALL & driver.rig.offered());
            let data = driver.put(&[round; 65536]);
            for queue in 0..4 {
                for at in 0..4 {
                    driver.add(queue, 1, (queue as u64 * 4 + at) * 128, &[data], &[]);
                }
                driver.rig.kick(queue);
            }
            // Not a word of completion is waited for.
            driver.rig.pci.reset();
            assert_eq!(Arc::strong_count(&driver.disk.lease), 1, "nothing is in flight any more");
        }
        // Resetting the function has masked its vectors.
        driver.rig.unmask_all();
        driver.rig.bring_up(ALL & driver.rig.offered());
        assert_eq!(driver.write(0, &[0x77; 512]), 0);
        assert_eq!(driver.read(0, 512), (0, vec![0x77; 512]));
    }
}

#[test]
fn requests_made_before_driver_ok_are_served_without_a_kick() {
    for engine in engines() {
        let mut driver = Driver::new(TestDisk::new(Layout::File), 1, engine);
        assert!(driver.rig.negotiate(F_VERSION_1));
        let mut ring = driver.rig.set_up_queue(0, 0, F_VERSION_1);
        let header = driver.rig.ram.take(17);
        driver.rig.ram.write(header, &[4]);
        driver.rig.ram.write(header + 16, &[0xee]);
        ring.add(&[(header, 16)], &[(header + 16, 1)]);
        driver.rig.set_status(15);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        assert!(driver.rig.signals[1].wait_beyond(0, until));
        assert_eq!(ring.take_used(), [(0, 1)]);
        assert_eq!(driver.rig.ram.read(header + 16, 1), [0]);
    }
}

#[test]
fn an_impossible_ring_asks_for_a_reset_and_gets_over_it() {
    for engine in engines() {
        let mut driver = Driver::up(Layout::File, 1, engine);
        driver.rig.queue(0).set_avail_index(1000);
        driver.rig.kick(0);
        driver.rig.wait_needs_reset();
        driver.rig.bring_up(ALL & driver.rig.offered());
        assert_eq!(driver.write(0, &[1; 512]), 0);
    }
}

#[test]
fn a_device_is_refused_what_makes_no_sense() {
    let disk = || Arc::new(TestDisk::new(Layout::File));
    let serial = Blk::new(disk(), "123456789012345678901", 1, Engine::Sync);
    assert!(matches!(serial, Err(BlkError::Serial(_))));
    assert!(matches!(Blk::new(disk(), "a\n", 1, Engine::Sync), Err(BlkError::Serial(_))));
    for queues in [0, MAX_QUEUES + 1] {
        assert!(matches!(Blk::new(disk(), "", queues, Engine::Sync), Err(BlkError::Queues(_))));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]
    #[test]
    fn arbitrary_drivers_are_survived(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000)
    ) {
        for engine in engines() {
            let disk = Arc::new(TestDisk::new(Layout::Mixed));
            drive(&bytes, Box::new(blk(disk, "", 2, engine)));
        }
    }
}

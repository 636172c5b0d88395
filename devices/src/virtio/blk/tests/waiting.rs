//! Requests that wait: for room on the host, and for their disk's limits; and flushes that fail.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::driver::*;
use super::*;
use crate::block::shortage::Shortages;

const PATIENCE: Duration = Duration::from_secs(20);

/// A driver of a device that tells of its shortages.
fn told(layout: Layout, engine: Variant) -> (Driver, Arc<Shortages>, Receiver<()>) {
    let (tell, changes) = channel();
    let shortages = Shortages::new(move || {
        let _ = tell.send(());
    });
    let disk = Arc::new(TestDisk::new(layout));
    let blk = blk(disk.clone(), "", 1, engine).named("a.img".into());
    let counters = blk.counters();
    let rig = Rig::new(Box::new(blk.with_shortages(shortages.clone())));
    let mut driver = Driver { rig, disk, counters };
    driver.rig.bring_up(ALL & driver.rig.offered());
    (driver, shortages, changes)
}

fn limited(limits: Limits, engine: Variant) -> Driver {
    let disk = Arc::new(TestDisk::new(Layout::File));
    let blk = blk(disk.clone(), "", 1, engine).limited(limits);
    let counters = blk.counters();
    let mut driver = Driver { rig: Rig::new(Box::new(blk)), disk, counters };
    driver.rig.bring_up(ALL & driver.rig.offered());
    driver
}

impl Driver {
    fn statuses(&self, at: &[u64]) -> Vec<u8> {
        at.iter().map(|at| self.rig.ram.read(*at, 1)[0]).collect()
    }

    /// Waits until so many requests have been completed since the ring was made.
    fn wait_completed(&mut self, count: usize) {
        let until = Instant::now() + PATIENCE;
        let mut used = 0;
        loop {
            let seen = self.rig.signals[1].count();
            used += self.rig.queue(0).take_used().len();
            if used >= count {
                return;
            }
            assert!(self.rig.signals[1].wait_beyond(seen, until), "{used} of {count}");
        }
    }
}

#[test]
fn what_finds_no_room_is_kept_and_done_in_order() {
    for engine in engines() {
        for layout in [Layout::File, Layout::Crumbs, Layout::Mixed, Layout::Call] {
            let (mut driver, shortages, changes) = told(layout, engine);
            assert_eq!(driver.write(0, &[1; 16384]), 0);
            driver.disk.full.store(true, Ordering::SeqCst);
            let [two, three] = [2, 3].map(|fill| driver.put(&[fill; 8192]));
            let list = driver.put(&segment(24, 8, 0));
            let requests = [
                driver.add(0, 1, 0, &[two], &[]),
                // Over the first, which came before it.
                driver.add(0, 1, 8, &[three], &[]),
                driver.add(0, 13, 0, &[list], &[]),
                driver.add(0, 4, 0, &[], &[]),
            ];
            driver.rig.kick(0);
            changes.recv_timeout(PATIENCE).expect("somebody waits for room");
            let short = shortages.list();
            assert_eq!((&*short[0].disk, short[0].free_bytes, short.len()), ("a.img", Some(7), 1));
            // Another try, in vain: whatever the engine has taken is still there.
            let tries = driver.counters.stalls.load(Ordering::SeqCst);
            shortages.retry();
            let until = Instant::now() + PATIENCE;
            while driver.counters.stalls.load(Ordering::SeqCst) == tries {
                assert!(Instant::now() < until, "it is not tried again");
                std::thread::yield_now();
            }
            assert_eq!(driver.statuses(&requests), [0xee; 4], "{engine:?} {layout:?}");
            driver.disk.full.store(false, Ordering::SeqCst);
            shortages.retry();
            changes.recv_timeout(PATIENCE).expect("the waiting ends");
            driver.rig.complete(0);
            assert_eq!(driver.statuses(&requests), [0; 4], "{engine:?} {layout:?}");
            assert_eq!(shortages.list(), []);
            let held = driver.read(0, 16384).1;
            let sectors: Vec<u8> = held.chunks(512).map(|sector| sector[0]).collect();
            assert_eq!(sectors, [[2; 8], [3; 8], [3; 8], [0; 8]].concat());
            assert_eq!(driver.counters.errors(), 0);
            assert_eq!(Arc::strong_count(&driver.disk.lease), 1, "every lease was returned");
        }
    }
}

#[test]
fn it_is_tried_again_by_itself() {
    for engine in engines() {
        let (mut driver, _shortages, changes) = told(Layout::Mixed, engine);
        driver.disk.full.store(true, Ordering::SeqCst);
        let data = driver.put(&[9; 512]);
        let status = driver.add(0, 1, 0, &[data], &[]);
        driver.rig.kick(0);
        changes.recv_timeout(PATIENCE).expect("somebody waits for room");
        driver.disk.full.store(false, Ordering::SeqCst);
        driver.rig.complete(0);
        assert_eq!(driver.statuses(&[status]), [0]);
    }
}

#[test]
fn the_end_does_not_wait_for_room() {
    for engine in engines() {
        let (mut driver, shortages, changes) = told(Layout::Mixed, engine);
        driver.disk.full.store(true, Ordering::SeqCst);
        let data = driver.put(&[9; 4096]);
        let requests = [0, 8, 16].map(|sector| driver.add(0, 1, sector, &[data], &[]));
        driver.rig.kick(0);
        changes.recv_timeout(PATIENCE).expect("somebody waits for room");
        driver.rig.pci.reset();
        assert_eq!(shortages.list(), []);
        // What was taken has failed; the rest was never begun.
        let statuses = driver.statuses(&requests);
        assert!(statuses[0] == 1 && statuses.iter().all(|s| [1, 0xee].contains(s)), "{statuses:?}");
        let lost = driver.counters.errors();
        assert_eq!(lost, statuses.iter().filter(|status| **status == 1).count() as u64);
        driver.disk.full.store(false, Ordering::SeqCst);
        driver.rig.unmask_all();
        driver.rig.bring_up(ALL & driver.rig.offered());
        assert_eq!(driver.write(0, &[1; 512]), 0);
    }
}

#[test]
fn limits_keep_requests_but_no_flush() {
    for engine in engines() {
        // The first takes all the bytes of hours.
        let mut driver = limited(Limits { iops: 0, bytes_per_second: 1 }, engine);
        let data = driver.put(&[5; 8192]);
        assert_eq!(driver.call(1, 0, &[data], &[]), 0);
        let kept = [driver.add(0, 1, 16, &[data], &[]), driver.add(0, 1, 64, &[data], &[])];
        let flush = driver.add(0, 4, 0, &[], &[]);
        driver.rig.kick(0);
        driver.wait_completed(1);
        assert_eq!(driver.statuses(&[kept[0], kept[1], flush]), [0xee, 0xee, 0]);
        // The end waits for nobody's turn.
        driver.rig.pci.reset();
        assert_eq!(driver.statuses(&kept), [0, 0]);
        let mut held = [0; 512];
        driver.disk.file.read_exact_at(&mut held, 64 * 512).unwrap();
        assert_eq!(held, [5; 512]);
    }
}

#[test]
fn requests_pass_when_their_time_has_come() {
    for engine in engines() {
        let mut driver = limited(Limits { iops: 50, bytes_per_second: 0 }, engine);
        let data = driver.put(&[5; 512]);
        let requests: Vec<u64> = (0..60).map(|n| driver.add(0, 1, n, &[data], &[])).collect();
        driver.rig.complete(0);
        assert_eq!(driver.statuses(&requests), [0; 60]);
    }
}

#[test]
fn a_flush_that_failed_is_never_made_good() {
    // A pipe cannot be made durable.
    let (_reader, writer) = std::io::pipe().unwrap();
    let pipe = Arc::new(File::from(std::os::fd::OwnedFd::from(writer)));
    for engine in engines() {
        if engine.0 == Engine::Sync {
            continue;
        }
        let disk = TestDisk { synced: Some(pipe.clone()), ..TestDisk::new(Layout::File) };
        let mut driver = Driver::new(disk, 1, engine);
        driver.rig.bring_up(ALL & driver.rig.offered());
        for failed in 1..4 {
            assert_eq!(driver.call(4, 0, &[], &[]), 1);
            assert_eq!(driver.counters.errors(), failed);
        }
        assert_eq!(driver.disk.failed_syncs.load(Ordering::SeqCst), 1, "it is not tried again");
        assert_eq!(driver.write(0, &[1; 512]), 0, "the rest goes on");
        assert_eq!(driver.counters.totals(Operation::Flush).requests, 3);
    }
}

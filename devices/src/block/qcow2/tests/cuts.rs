//! Power cuts at every flush boundary and at random points between, over recorded random loads that
//! allocate, overwrite, discard, zero and grow.
//!
//! The short run is part of every test run; tests/README.md says how the long one is run.

use super::super::super::ImageFormat;
use super::power::{Run, SECTORS, record};
use super::*;

/// Cuts of the long run, unless `BERTH_CUTS` says otherwise.
const LONG: usize = 2000;

/// What was cut so far.
#[derive(Debug, Default)]
struct Figures {
    loads: usize,
    changes: usize,
    at_boundaries: usize,
    before_boundaries: usize,
    between: usize,
    leaky: usize,
    leaks: u64,
}

impl Figures {
    fn cuts(&self) -> usize {
        self.at_boundaries + self.before_boundaries + self.between
    }

    fn add(&mut self, leaks: u64) {
        self.leaky += usize::from(leaks > 0);
        self.leaks += leaks;
    }

    /// Cuts right after each flush, when nothing may be lost; right before, when any part of what
    /// it was to make durable may be; and at `between` random points for each.
    fn cut(&mut self, run: &Run, random: &mut Random, between: usize) {
        let qemu = have_qemu();
        let syncs = run.recorder.syncs();
        let changes = run.recorder.len() as u64;
        self.loads += 1;
        self.changes += run.recorder.len();
        for (number, sync) in syncs.into_iter().enumerate() {
            let judge = qemu && number % 16 == 0;
            let leaks = run.check_cut(sync + 1, || false, judge);
            self.at_boundaries += 1;
            self.add(leaks);
            let odds = 10 + random.below(81);
            let leaks = run.check_cut(sync, || random.below(100) < odds, judge);
            self.before_boundaries += 1;
            self.add(leaks);
            for _ in 0..between {
                let at = random.below(changes + 1) as usize;
                let odds = random.below(101);
                let leaks = run.check_cut(at, || random.below(100) < odds, false);
                self.between += 1;
                self.add(leaks);
            }
        }
    }
}

/// One load: what the image is like, and whether it lies over a base.
fn load(number: usize, steps: u64) -> Run {
    let shapes = [
        (V3, false),
        (Shape { cluster_bits: 16, ..V3 }, true),
        (Shape { version: 2, ..V3 }, true),
        (Shape { cluster_bits: 12, refcount_order: 0, ..V3 }, true),
        (Shape { cluster_bits: 10, refcount_order: 6, ..V3 }, false),
        (Shape { version: 2, cluster_bits: 12, ..V3 }, false),
        (Shape { refcount_order: 3, ..V3 }, true),
    ];
    let (shape, over_base) = shapes[number % shapes.len()];
    let options = shape.options(SECTORS * 512);
    let options = if over_base { options.over("base", ImageFormat::Raw) } else { options };
    let file = tempfile::tempfile().unwrap();
    create(&file, &options).unwrap();
    let size = (SECTORS + (64 << shape.cluster_bits)) * 512;
    record(size, file, over_base, 0x5eed + number as u64, steps)
}

#[test]
fn power_cuts_at_every_flush_lose_nothing() {
    let mut figures = Figures::default();
    let mut random = Random::new(31);
    for number in 0..4 {
        figures.cut(&load(number, 24), &mut random, 1);
    }
    println!("{figures:?}");
    assert!(figures.cuts() >= 60, "{figures:?}");
}

#[test]
#[ignore = "takes minutes; tests/README.md says how it is run"]
fn a_long_run_of_power_cuts_loses_nothing() {
    let wanted = std::env::var("BERTH_CUTS").map_or(LONG, |text| text.parse().unwrap());
    let mut figures = Figures::default();
    let mut random = Random::new(32);
    for number in 0.. {
        if figures.cuts() >= wanted {
            break;
        }
        figures.cut(&load(number, 120), &mut random, 3);
        println!("{} cuts: {figures:?}", figures.cuts());
    }
}

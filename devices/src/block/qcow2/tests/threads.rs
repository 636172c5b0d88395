//! Many threads on one image: neighbours in a cluster, flushes, discards and leases.

use std::sync::atomic::AtomicBool;

use super::super::super::{ImageFormat, Raw, Window};
use super::*;

const THREADS: u64 = 4;
const SIZE: u64 = 4 << 20;

/// Each thread owns every fourth sector of the first half, so that clusters are shared, and a
/// stretch of the second half for itself, where it also discards.
fn work(disk: &Qcow2, thread: u64, steps: u64) -> Vec<u64> {
    let sectors = SIZE / 512;
    let mut random = Random::new(thread + 100);
    let mut model = vec![u64::MAX; sectors as usize];
    let own = (sectors / 2 / THREADS) / 128 * 128;
    let first = sectors / 2 + thread * own;
    for step in 1..=steps {
        let value = step * THREADS + thread;
        let bytes: Vec<u8> = value.to_be_bytes().repeat(64);
        match random.below(10) {
            0..=4 => {
                let at = random.below(sectors / 2 / THREADS) * THREADS + thread;
                if step % 2 == 0 {
                    write(disk, at * 512, &bytes);
                } else {
                    write_placed(disk, at * 512, &bytes);
                }
                model[at as usize] = value;
            }
            5 => {
                let at = random.below(sectors / 2 / THREADS) * THREADS + thread;
                disk.zero(at * 512, 512, true).unwrap();
                model[at as usize] = 0;
            }
            6 | 7 => {
                let at = first + random.below(own - 16);
                write(disk, at * 512, &bytes.repeat(16));
                model[at as usize..at as usize + 16].fill(value);
            }
            8 => {
                disk.zero(first * 512, own * 512, true).unwrap();
                model[first as usize..(first + own) as usize].fill(0);
            }
            _ => {
                let at = random.below(sectors) / THREADS * THREADS + thread;
                let value = model[at as usize];
                if value != u64::MAX {
                    let held = read_placed(disk, at * 512, 512);
                    assert_eq!(held, value.to_be_bytes().repeat(64), "sector {at}");
                }
            }
        }
    }
    model
}

fn stress(cluster_bits: u32, version: u32, over_base: bool) {
    let shape = Shape { cluster_bits, version, refcount_order: 4 };
    let file = tempfile::tempfile().unwrap();
    let backing = over_base.then(|| {
        let base = tempfile::tempfile().unwrap();
        base.set_len(SIZE / 2).unwrap();
        base.write_all_at(&[0xbb; 4096], 4096).unwrap();
        Arc::new(Raw::open(base, Window::default(), true).unwrap()) as Arc<dyn BlockBackend>
    });
    let mut options = shape.options(SIZE);
    if over_base {
        options = options.over("base", ImageFormat::Raw);
    }
    create(&file, &options).unwrap();
    let disk = open(&file, backing.clone());
    let done = AtomicBool::new(false);
    let models: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|t| {
                scope.spawn({
                    let disk = &disk;
                    move || work(disk, t, 400)
                })
            })
            .collect();
        let flusher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                disk.flush().unwrap();
                std::thread::yield_now();
            }
        });
        let models = workers.into_iter().map(|w| w.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        flusher.join().unwrap();
        models
    });
    drop(disk);
    assert_eq!(assert_sound(&file), 0);
    let bytes = read(&open(&file, backing), 0, SIZE);
    for (index, held) in bytes.chunks(512).enumerate() {
        for model in &models {
            if model[index] != u64::MAX {
                assert_eq!(held, model[index].to_be_bytes().repeat(64), "sector {index}");
            }
        }
    }
}

#[test]
fn threads_share_clusters() {
    stress(16, 3, false);
    stress(12, 3, true);
    stress(9, 3, false);
}

#[test]
fn threads_share_clusters_of_version_2() {
    stress(12, 2, true);
}

#[test]
fn a_leased_cluster_is_not_given_to_other_data() {
    let file = blank(Shape { cluster_bits: 12, ..V3 }, 1 << 20);
    let disk = open(&file, None);
    write(&disk, 0, &[7; 4096]);
    disk.flush().unwrap();
    let Placement::File { file: held, offset, lease, .. } =
        disk.place(0, 4096, Access::Read).unwrap()
    else {
        panic!("an allocated cluster is a placement");
    };
    disk.discard(0, 4096).unwrap();
    let churn = || {
        for i in 1..40 {
            write(&disk, i * 4096, &[9; 4096]);
            disk.flush().unwrap();
        }
    };
    churn();
    let mut bytes = [0; 4096];
    held.read_exact_at(&mut bytes, offset).unwrap();
    assert_eq!(bytes, [7; 4096]);
    drop(lease);
    disk.flush().unwrap();
    disk.discard(4096, 39 * 4096).unwrap();
    disk.flush().unwrap();
    let before = file.metadata().unwrap().len();
    churn();
    assert_eq!(file.metadata().unwrap().len(), before, "freed clusters are used again");
}

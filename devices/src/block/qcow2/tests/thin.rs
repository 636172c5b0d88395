//! What takes no room: zeroes over what is a hole in the file below.

use super::super::super::holes::is_hole;
use super::super::super::raw::{Raw, Window};
use super::*;

const CLUSTER: u64 = 64 << 10;

#[test]
fn a_hole_below_is_zeroes_without_a_cluster() {
    let base = tempfile::tempfile().unwrap();
    base.set_len(4 * CLUSTER).unwrap();
    base.write_all_at(&[7; 512], 3 * CLUSTER).unwrap();
    let shape = Shape { cluster_bits: 16, ..V3 };
    let file = blank(shape, 4 * CLUSTER);
    let tells = is_hole(&base, 0, 3 * CLUSTER);
    let below = Arc::new(Raw::open(base, Window::default(), true).unwrap());
    let disk = open(&file, Some(below));
    disk.zero(512, CLUSTER, true).unwrap();
    disk.zero(3 * CLUSTER + 512, 512, true).unwrap();
    disk.flush().unwrap();
    let mut want = vec![0; 4 * CLUSTER as usize];
    want[3 * CLUSTER as usize..][..512].fill(7);
    assert!(read(&disk, 0, 4 * CLUSTER) == want);
    drop(disk);
    let report = check(&file).unwrap();
    // The last one is a hole in part only.
    if tells {
        assert_eq!(report.allocated_clusters, 1, "{report:?}");
    } else {
        eprintln!("skipped: this file system does not tell of holes");
    }
}

//! What is counted of a driver's requests, the same by each engine.

use super::driver::*;
use super::*;

#[test]
fn every_request_that_the_driver_is_told_of_is_counted() {
    for engine in engines() {
        let mut driver = Driver::up(Layout::File, 2, engine);
        for length in [512, 4096] {
            assert_eq!(driver.write(0, &vec![1; length]), 0);
        }
        assert_eq!(driver.read(8, 8192).0, 0);
        assert_eq!(driver.call(4, 0, &[], &[]), 0);
        let two = driver.put(&[segment(0, 8, 0), segment(16, 1, 0)].concat());
        assert_eq!(driver.call(11, 0, &[two], &[]), 0);
        let odd = driver.put(&segment(0, 8, 2));
        assert_eq!(driver.call(11, 0, &[odd], &[]), 2, "a flag that no discard has");
        let zeroes = driver.put(&segment(0, 8, 1));
        assert_eq!(driver.call(13, 0, &[zeroes], &[]), 0);
        // By the other queue.
        let data = driver.rig.ram.take(512);
        driver.add(1, 0, 0, &[], &[(data, 512)]);
        assert_eq!(driver.rig.complete(1).len(), 1);
        // What is about no data is not counted: the serial number, and what nobody knows.
        let serial = driver.rig.ram.take(20);
        assert_eq!(driver.call(8, 0, &[], &[(serial, 20)]), 0);
        assert_eq!(driver.call(77, 0, &[], &[]), 2);
        let counted = Operation::ALL.map(|operation| {
            let totals = driver.counters.totals(operation);
            assert_eq!(totals.classes.iter().sum::<u64>(), totals.requests);
            (totals.requests, totals.errors, totals.bytes)
        });
        let want = [(2, 0, 8704), (2, 0, 4608), (1, 0, 0), (2, 1, 4608), (1, 0, 4096)];
        assert_eq!(counted, want, "{engine:?}");
    }
}

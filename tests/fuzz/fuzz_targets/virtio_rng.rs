//! The entropy device under a driver that does anything, through its registers and rings.
#![no_main]

use devices::virtio::rng::Rng;
use devices::virtio::testkit::drive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| drive(data, Box::new(Rng::new())));

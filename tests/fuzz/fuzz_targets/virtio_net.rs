//! The network device under a driver that does anything. The first byte chooses the number of
//! queue pairs; frames wait on the other side, of lengths that the next bytes give.
#![no_main]

use devices::net::loopback::pair;
use devices::net::{MacAddr, NetBackend};
use devices::virtio::net::Net;
use devices::virtio::testkit::drive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, a, b, c], driver)) = data.split_first_chunk() else { return };
    let mut backends: Vec<Box<dyn NetBackend>> = Vec::new();
    let mut others = Vec::new();
    for _ in 0..=(choice % 3) {
        let Ok((near, far)) = pair() else { return };
        for length in [a, b, c] {
            far.put(&vec![length; usize::from(length) * 300]);
        }
        backends.push(Box::new(near));
        others.push(far);
    }
    let mac: MacAddr = [0x52, 0x54, 0, 0, 0, 1];
    let Ok(device) = Net::new(backends, mac, Some(1500)) else { return };
    drive(driver, Box::new(device));
    for far in &others {
        while far.get().is_some() {}
    }
});

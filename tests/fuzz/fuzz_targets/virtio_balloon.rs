//! The balloon under a driver that does anything, and under somebody who asks for sizes and statistics
//! meanwhile: the first byte chooses the size, and whether the host takes anything back. What is given
//! back is filled with zeroes, as the host does.
#![no_main]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use devices::mem::{Reclaim, VolatileSlice};
use devices::virtio::balloon::Balloon;
use devices::virtio::testkit::{HIGH_RAM_LEN, LOW_RAM, drive};
use libfuzzer_sys::fuzz_target;

struct Host;

impl Reclaim for Host {
    fn reclaim(&self, piece: &VolatileSlice<'_>) -> io::Result<()> {
        piece.copy_from(&vec![0_u8; piece.len()]);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, driver)) = data.split_first() else { return };
    let ram = LOW_RAM + HIGH_RAM_LEN;
    let host = (size & 2 == 0).then(|| Arc::new(Host) as Arc<dyn Reclaim>);
    let Ok(balloon) = Balloon::new(ram, host, size & 1 != 0) else { return };
    let control = balloon.control();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            control.set_target(u64::from(size) << 16);
            control.statistics(Duration::ZERO);
            control.set_target(0);
        });
        drive(driver, Box::new(balloon));
    });
    assert!(control.actual() <= ram && control.target() <= ram);
});

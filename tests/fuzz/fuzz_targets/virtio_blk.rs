//! The block device under a driver that does anything: the first byte chooses engine and queues,
//! the rest is the driver.
#![no_main]

use berth_fuzz::file_of;
use devices::block::{ImageFormat, NoBacking, OpenOptions, open};
use devices::virtio::blk::{Blk, Engine};
use devices::virtio::testkit::drive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, driver)) = data.split_first() else { return };
    let options =
        OpenOptions { lock: false, read_only: choice & 4 != 0, ..OpenOptions::default() };
    let file = file_of(b"", 1 << 20);
    let Ok(image) = open(file, "fuzz", ImageFormat::Raw, &options, &NoBacking) else { return };
    let engine = if choice & 1 == 0 { Engine::Sync } else { Engine::Auto };
    let queues = if choice & 2 == 0 { 1 } else { 4 };
    let Ok(device) = Blk::new(image.disk, "fuzz", queues, engine) else { return };
    drive(driver, Box::new(device));
});

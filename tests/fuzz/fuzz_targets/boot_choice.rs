//! A disk whose every byte is hostile is searched for something to boot: an answer, soon, and no
//! panic that gets out.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use berth_fuzz::file_of;
use devices::block::{ImageFormat, NoBacking, OpenOptions, open};
use libfuzzer_sys::fuzz_target;
use vmm::boot::guestfs::{BootPolicy, choose};

fuzz_target!(|data: &[u8]| {
    let file = file_of(data, 1 << 20);
    let options = OpenOptions { lock: false, read_only: true, ..OpenOptions::default() };
    let Ok(opened) = open(file, "fuzz", ImageFormat::Raw, &options, &NoBacking) else {
        return;
    };
    let policy = BootPolicy { memory_bytes: 64 << 20, timeout: Duration::from_secs(10) };
    let _ = choose(&Arc::clone(&opened.disk), &policy);
});

//! The PS/2 controller and the virtio keyboard and tablet under a guest that does anything, while
//! somebody types.
//!
//! The first byte says which: even, the old ports, three bytes an access; odd, a virtio device as
//! `testkit` drives it.
#![no_main]

use std::sync::Arc;

use devices::bus::Bus;
use devices::input::desk::Desk;
use devices::input::i8042::I8042;
use devices::input::{Buttons, InputSink, Key, Pointer};
use devices::irq::RecordingLine;
use devices::virtio::input::{Input, Kind};
use devices::virtio::testkit::drive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let (keyboard, keys) = Input::new(Kind::Keyboard).unwrap();
    let (tablet, positions) = Input::new(Kind::Tablet).unwrap();
    let line = || Arc::new(RecordingLine::default());
    let ps2 = I8042::new(line(), line());
    let desk = Desk::new(ps2.clone(), keys, positions, Box::new(|| (1024, 768)));
    if which & 1 != 0 {
        let typist = desk.clone();
        let hands = std::thread::spawn(move || {
            (0..64u16).for_each(|n| act(&typist, (n * 37 % 256) as u8, (n % 7) as u8));
        });
        let device = if which & 2 != 0 { keyboard } else { tablet };
        drive(data, Box::new(device));
        return hands.join().unwrap();
    }
    let ports = Bus::default();
    for (base, len, region) in ps2.ports() {
        ports.insert(base, len, region).unwrap();
    }
    for access in data.chunks_exact(3).take(8192) {
        let [what, a, b] = access else { return };
        let port = if what & 8 != 0 { 0x60 } else { 0x64 };
        match what & 7 {
            0..=2 => drop(ports.write(port, &[*a])),
            3 => ports.read(port, &mut [0]),
            4 if what & 0xf0 == 0 => (ps2.reset(), desk.reset()).0,
            4 => drop(desk.leds()),
            _ => act(&desk, *a, *b),
        }
    }
    // Whatever was done, what there is to read ends.
    let mut status = [0];
    for _ in 0..4096 {
        ports.read(0x64, &mut status);
        if status[0] & 1 == 0 {
            return;
        }
        ports.read(0x60, &mut [0]);
    }
    panic!("the controller never falls silent");
});

fn act(desk: &Desk, a: u8, b: u8) {
    if b & 1 != 0 {
        return desk.key(Key(a.into()), b & 2 != 0);
    }
    desk.pointer(Pointer {
        x: u16::from(a) << 7,
        y: u16::from(b) << 8,
        buttons: Buttons::from_bits_truncate(b >> 1),
        wheel: a as i8,
        side_wheel: b as i8,
    });
}

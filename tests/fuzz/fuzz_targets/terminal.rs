//! The terminal on the guest's serial line at hostile bytes: no panic, the cursor on the screen, what
//! is painted bit by bit the same as what is painted at once. An input is the size, then what the guest sends.
#![no_main]

// The launcher is a program, not a library: these modules of it stand alone.
#[path = "../../../launcher/src/serial_screen"]
#[allow(dead_code)]
mod serial_screen {
    pub mod colours;
    pub mod grid;
    pub mod paint;
    pub mod terminal;
}

use devices::display::{Damage, Picture, Rect};
use libfuzzer_sys::fuzz_target;
use serial_screen::paint::paint;
use serial_screen::terminal::Terminal;

fuzz_target!(|data: &[u8]| {
    let Some(([columns, rows], bytes)) = data.split_first_chunk() else { return };
    let (columns, rows) = (1 + usize::from(columns % 40), 1 + usize::from(rows % 12));
    let mut terminal = Terminal::new(columns, rows);
    let (mut picture, mut damage) = (Picture::default(), Damage::default());
    let all = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };
    for part in bytes.chunks(64) {
        terminal.write(part);
        let shown = terminal.shown();
        assert!(shown.cursor.is_none_or(|(x, y)| x < columns && y < rows));
        let before = picture.clone();
        paint(&shown, &mut picture, &mut damage);
        assert_eq!(before == picture, damage.take(&all).is_empty());
    }
    let (mut anew, mut whole) = (Picture::default(), Damage::default());
    paint(&terminal.shown(), &mut anew, &mut whole);
    assert!(bytes.is_empty() || anew == picture);
});

//! A day of updates without the day: the painter is told the time, and viewers take what there is at
//! once. What the process holds at the end is what it held after the first hour.

use devices::display::Rect;

use super::*;
use crate::server::passwords::Access;
use crate::vnc::encode::wishes::{COPY_RECT, TIGHT, ZRLE};
use crate::vnc::rfb::{ClientMessage, pseudo};
use crate::vnc::session::Session;
use crate::vnc::testkit::{Board, Recorder, desk};

/// Pictures of an hour, thirty a second.
const HOUR: u64 = 30 * 3600;
/// What may be held more, bytes: an allocator's own affairs.
const SLACK: u64 = 4 << 20;

/// JPEG of a middling quality.
const JPEG: i32 = -27;

/// One viewer with what it has been sent.
struct Watcher {
    viewer: Viewer,
    session: Session,
    out: Vec<u8>,
}

impl Watcher {
    fn join(shared: &Arc<Shared>, painter: &mut Painter, now: Instant, encodings: &[i32]) -> Self {
        let viewer = Viewer::of(shared).unwrap();
        viewer.ask(true);
        painter.round(now);
        let mut out = Vec::new();
        let mut session = Session::new(Access::Full, &viewer, &mut out);
        let list = ClientMessage::SetEncodings(encodings.to_vec());
        session.receive(list, &viewer, &mut out).unwrap();
        Self { viewer, session, out }
    }

    fn look(&mut self) -> usize {
        let all = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };
        let request = ClientMessage::UpdateRequest { incremental: true, area: all };
        self.session.receive(request, &self.viewer, &mut self.out).unwrap();
        self.session.update(&self.viewer, 1 << 20, &mut self.out);
        self.viewer.ask(false);
        self.viewer.wake().take();
        let count = self.out.len();
        self.out.clear();
        count
    }
}

/// Bytes in memory, and descriptors.
fn held() -> (u64, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    (kib << 10, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

#[test]
#[ignore = "takes minutes; tests/README.md says how it is run"]
fn a_day_of_updates_leaks_nothing() {
    let (board, input) = (Board::new(160, 120, 0), Arc::new(Recorder::default()));
    let shared = Arc::new(Shared::new(desk(&board, &input)).unwrap());
    let mut painter = Painter::new(Arc::clone(&shared));
    let start = Instant::now();
    let zrle = [ZRLE, COPY_RECT, pseudo::EXTENDED_DESKTOP_SIZE];
    let tight = [TIGHT, JPEG, pseudo::DESKTOP_SIZE];
    let mut first = Watcher::join(&shared, &mut painter, start, &zrle);
    let mut second = Watcher::join(&shared, &mut painter, start, &tight);
    let (mut sent, mut after_an_hour) = (0, None);
    for number in 0..24 * HOUR {
        let now = start + Duration::from_millis(34) * u32::try_from(number).unwrap();
        let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let (x, y) = ((seed % 140) as u32, (seed / 140 % 100) as u32);
        match number % 3000 {
            // Another size, and who comes and goes.
            0 => board.resize(160, 120 + 8 * (seed as u32 % 2), seed as u32 & 0xff_ffff),
            1500 => second = Watcher::join(&shared, &mut painter, now, &tight),
            other if other % 50 == 0 => {
                // It scrolls.
                let mut picture = board.picture();
                for y in 0..picture.height() - 8 {
                    let row = picture.row(y + 8).to_vec();
                    picture.row_mut(y).copy_from_slice(&row);
                }
                board.show(picture);
            }
            _ => board.fill(Rect { x, y, width: 16, height: 16 }, seed as u32 & 0xff_ffff),
        }
        painter.round(now);
        sent += first.look() + second.look();
        if number == HOUR {
            after_an_hour = Some(held());
        }
    }
    let ((before, files), (after, files_after)) = (after_an_hour.unwrap(), held());
    println!("{sent} bytes sent; {before} bytes held after an hour, {after} after a day");
    assert!(after < before + SLACK, "{before} -> {after}");
    assert_eq!(files, files_after);
    drop((first, second));
    painter.round(start + Duration::from_hours(25));
    assert!(!board.watched.load(Ordering::SeqCst));
}

//! Text that only moved up or down, found by comparing rows: the client copies it itself (CopyRect,
//! RFC 6143 §7.7.2) instead of getting it again.
//!
//! Rows are compared by hashes first, then pixel by pixel: a wrong hash costs time, never a wrong
//! picture.

use std::collections::HashMap;

use devices::display::{Picture, Rect};

/// The fewest rows that are worth it: two lines of text.
const ROWS_MIN: u32 = 32;
/// The fewest columns.
const WIDTH_MIN: u32 = 64;

/// A part of the picture that moved up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scroll {
    /// Where it is now.
    pub to: Rect,
    /// The row where it began before; its columns, and its size, are the same.
    pub from_y: u32,
}

impl Scroll {
    /// Finds what moved from `previous`, which the client shows, to `current`. `damage` has every
    /// pixel that differs.
    ///
    /// Takes time for each pixel of the rectangle around all damage, in both pictures.
    pub fn find(previous: &Picture, current: &Picture, damage: &[Rect]) -> Option<Scroll> {
        if (previous.width(), previous.height()) != (current.width(), current.height()) {
            return None;
        }
        let around = around(damage)?;
        let whole = Rect { x: 0, y: 0, width: current.width(), height: current.height() };
        let area = around.intersection(&whole);
        if area.width < WIDTH_MIN || area.height < ROWS_MIN {
            return None;
        }
        let before: Vec<Row> = rows(previous, &area).collect();
        let now: Vec<Row> = rows(current, &area).collect();
        let shift = likely_shift(&before, &now)?;
        let run = longest(&before, &now, shift)?;
        let to = Rect { y: area.y + run.first, height: run.rows, ..area };
        let from_y = to.y.checked_add_signed(shift)?;
        let same = |row: u32| cut(current, to.y + row, &to) == cut(previous, from_y + row, &to);
        (run.saved >= ROWS_MIN / 2 && (0..to.height).all(same)).then_some(Scroll { to, from_y })
    }

    /// What of the damage is still to be sent once this was copied.
    pub fn rest(&self, damage: &[Rect]) -> Vec<Rect> {
        damage.iter().flat_map(|rect| without(rect, &self.to)).collect()
    }
}

/// A row of the area: its hash, and whether it has one colour only.
#[derive(Clone, Copy)]
struct Row {
    hash: u64,
    plain: bool,
}

fn rows(picture: &Picture, area: &Rect) -> impl Iterator<Item = Row> {
    (area.y..area.y + area.height).map(move |y| {
        let pixels = cut(picture, y, area);
        let first = pixels.first().copied().unwrap_or_default();
        // Any mixture will do: the pixels themselves are compared in the end.
        let hash = pixels.iter().fold(0u64, |hash, pixel| {
            (hash.rotate_left(5) ^ u64::from(*pixel)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        Row { hash, plain: pixels.iter().all(|pixel| *pixel == first) }
    })
}

fn cut<'a>(picture: &'a Picture, y: u32, area: &Rect) -> &'a [u32] {
    let columns = area.x as usize..(area.x + area.width) as usize;
    picture.row(y).get(columns).unwrap_or_default()
}

/// How far up most rows came that can be told apart: a row's place before, less its place now.
fn likely_shift(before: &[Row], now: &[Row]) -> Option<i32> {
    let mut places: HashMap<u64, Option<usize>> = HashMap::with_capacity(before.len());
    for (y, row) in before.iter().enumerate().filter(|(_, row)| !row.plain) {
        // A row that is there twice says nothing.
        places.entry(row.hash).and_modify(|place| *place = None).or_insert(Some(y));
    }
    let mut votes: HashMap<i32, u32> = HashMap::new();
    for (y, row) in now.iter().enumerate() {
        if let Some(Some(place)) = places.get(&row.hash) {
            // Both are less than a picture's height.
            *votes.entry(*place as i32 - y as i32).or_default() += 1;
        }
    }
    votes.remove(&0);
    // Of equals the shorter way, so that the answer does not depend on the table's order.
    votes.into_iter().max_by_key(|(shift, votes)| (*votes, -shift.abs(), *shift)).map(|(s, _)| s)
}

/// Rows that came by one shift.
#[derive(Clone, Copy, Default)]
struct Run {
    first: u32,
    rows: u32,
    /// Those that would have to be sent, and are more than one colour.
    saved: u32,
}

/// The run of rows that saves most.
fn longest(before: &[Row], now: &[Row], shift: i32) -> Option<Run> {
    let (mut best, mut run) = (Run::default(), Run::default());
    for (y, row) in now.iter().enumerate() {
        let source = isize::try_from(shift).ok().and_then(|shift| y.checked_add_signed(shift));
        let moved = source.and_then(|y| before.get(y)).is_some_and(|old| old.hash == row.hash);
        if !moved {
            run = Run::default();
            continue;
        }
        if run.rows == 0 {
            run.first = y as u32;
        }
        run.rows += 1;
        let stays = before.get(y).is_some_and(|old| old.hash == row.hash);
        run.saved += u32::from(!stays && !row.plain);
        if run.saved > best.saved {
            best = run;
        }
    }
    (best.rows > 0).then_some(best)
}

/// The rectangle around all.
fn around(damage: &[Rect]) -> Option<Rect> {
    let mut some = damage.iter().filter(|rect| !rect.is_empty());
    let first = *some.next()?;
    Some(some.fold(first, |all, rect| {
        let (x, y) = (all.x.min(rect.x), all.y.min(rect.y));
        let end = |start: u32, length: u32| start.saturating_add(length);
        let right = end(all.x, all.width).max(end(rect.x, rect.width));
        let bottom = end(all.y, all.height).max(end(rect.y, rect.height));
        Rect { x, y, width: right - x, height: bottom - y }
    }))
}

/// `rect` without `hole`: above, below, left and right of it.
fn without(rect: &Rect, hole: &Rect) -> impl Iterator<Item = Rect> {
    let inside = rect.intersection(hole);
    let (right, bottom) = (rect.x + rect.width, rect.y + rect.height);
    let parts = if inside.is_empty() {
        [*rect, Rect::default(), Rect::default(), Rect::default()]
    } else {
        let Rect { x, y, width, height } = inside;
        let (end_x, end_y) = (x + width, y + height);
        [
            Rect { height: y - rect.y, ..*rect },
            Rect { y: end_y, height: bottom - end_y, ..*rect },
            Rect { x: rect.x, y, width: x - rect.x, height },
            Rect { x: end_x, y, width: right - end_x, height },
        ]
    };
    parts.into_iter().filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnc::encode::copy_rect;
    use crate::vnc::encode::tests::decode::Client;
    use crate::vnc::encode::tests::pictures::{KINDS, Kind, picture};
    use crate::vnc::pixel::PixelFormat;
    use devices::display::Damage;
    use proptest::prelude::*;

    /// `of`, with rows `first..end` moved up by `shift`, and what comes in from below in `new`.
    fn moved(of: &Picture, (first, end): (u32, u32), shift: i32, new: &Picture) -> Picture {
        let mut picture = of.clone();
        for y in first..end {
            let from = y.checked_add_signed(shift).filter(|from| (first..end).contains(from));
            let row = from.map_or_else(|| new.row(y), |from| of.row(from));
            picture.row_mut(y).copy_from_slice(row);
        }
        picture
    }

    /// Every tile that differs.
    fn damage(previous: &Picture, current: &Picture) -> Vec<Rect> {
        let mut damage = Damage::new(current.width(), current.height());
        for y in 0..current.height() {
            for (x, (old, new)) in (0..).zip(previous.row(y).iter().zip(current.row(y))) {
                if old != new {
                    damage.add(&Rect { x, y, width: 1, height: 1 });
                }
            }
        }
        damage.take(&Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX })
    }

    /// A client that shows `previous`, and is told of `current` by the scroll and what it leaves,
    /// shows `current`. Answers how many pixels were sent.
    fn apply(previous: &Picture, current: &Picture, damage: &[Rect], scroll: &Scroll) -> u32 {
        let mut client = Client::new(previous.width(), previous.height(), PixelFormat::NATIVE);
        let all = (0..previous.height()).flat_map(|y| previous.row(y));
        client.shown = all.map(|pixel| Some(*pixel)).collect();
        let mut out = vec![];
        copy_rect(&scroll.to, scroll.to.x, scroll.from_y, &mut out);
        assert_eq!(client.read(1, &out), [1]);
        let mut pixels = 0;
        for rect in scroll.rest(damage) {
            assert!(rect.intersection(&scroll.to).is_empty());
            pixels += rect.width * rect.height;
            for y in rect.y..rect.y + rect.height {
                for x in rect.x..rect.x + rect.width {
                    let place = (y * current.width() + x) as usize;
                    client.shown[place] = Some(current.row(y)[x as usize]);
                }
            }
        }
        let want = (0..current.height()).flat_map(|y| current.row(y));
        assert!(want.zip(&client.shown).all(|(want, shown)| Some(*want) == *shown));
        pixels
    }

    #[test]
    fn a_terminal_that_scrolls_is_copied() {
        let old = picture(Kind::Text, 640, 400, 1);
        let new = picture(Kind::Text, 640, 400, 2);
        for (shift, lines) in [(16, (0, 400)), (48, (0, 384)), (-16, (16, 400)), (16, (32, 368))] {
            let current = moved(&old, lines, shift, &new);
            let damage = damage(&old, &current);
            let scroll = Scroll::find(&old, &current, &damage).expect("it moved");
            assert_eq!(scroll.from_y, scroll.to.y.saturating_add_signed(shift));
            let pixels = apply(&old, &current, &damage, &scroll);
            // What came in, and little more.
            assert!(pixels <= 640 * (shift.unsigned_abs() + 16), "{shift}: {pixels} pixels");
        }
    }

    #[test]
    fn what_did_not_move_is_not_copied() {
        let old = picture(Kind::Text, 640, 400, 1);
        let find = |new: &Picture| Scroll::find(&old, new, &damage(&old, new));
        assert_eq!(find(&old), None);
        assert_eq!(find(&picture(Kind::Text, 640, 400, 2)), None);
        assert_eq!(find(&Picture::new(640, 400)), None);
        assert_eq!(find(&picture(Kind::Noise, 640, 400, 2)), None);
        // Another size.
        assert_eq!(Scroll::find(&old, &Picture::new(640, 416), &[Rect::default()]), None);
        // A line of text typed, and damage that is outside.
        let mut typed = old.clone();
        typed.row_mut(80)[100..300].fill(0xff_ffff);
        assert_eq!(find(&typed), None);
        let outside = Rect { x: 700, y: 500, width: u32::MAX, height: u32::MAX };
        assert_eq!(Scroll::find(&old, &typed, &[outside]), None);
    }

    #[test]
    fn equal_hashes_are_not_enough() {
        // Rows that differ in pixels' upper bits only: no picture has any, but a hash might.
        let old = picture(Kind::Text, 640, 400, 1);
        let mut current = moved(&old, (0, 400), 16, &old);
        current.row_mut(200)[0] ^= 0x80;
        let damage = damage(&old, &current);
        let scroll = Scroll::find(&old, &current, &damage).expect("the longer part moved");
        assert!(!(scroll.to.y..scroll.to.y + scroll.to.height).contains(&200));
        apply(&old, &current, &damage, &scroll);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn whatever_is_found_makes_the_right_picture(
            kinds in (prop::sample::select(KINDS.to_vec()), prop::sample::select(KINDS.to_vec())),
            (width, height) in (1u32..200, 1u32..200),
            (first, end, shift) in (0u32..200, 0u32..200, -60i32..60),
            dots in prop::collection::vec((0u32..200, 0u32..200), 0..4),
            seed: u64,
        ) {
            let old = picture(kinds.0, width, height, seed);
            let new = picture(kinds.1, width, height, seed ^ 1);
            let lines = (first.min(height), end.min(height));
            let mut current = moved(&old, lines, shift, &new);
            for (x, y) in dots {
                if let Some(pixel) = current.row_mut(y).get_mut(x as usize) {
                    *pixel ^= 0x00ff_00ff;
                }
            }
            let damage = damage(&old, &current);
            if let Some(scroll) = Scroll::find(&old, &current, &damage) {
                apply(&old, &current, &damage, &scroll);
            }
        }
    }
}

//! A terminal by what it shows; hostile bytes included.

use std::collections::BTreeMap;

use devices::display::{Damage, Picture, Rect, Screen};
use proptest::prelude::*;

use super::*;
use crate::serial_screen::SerialScreen;
use crate::serial_screen::colours::Colour;
use crate::serial_screen::grid::Look;

/// What a terminal of 10 columns and 4 rows shows; rows that are empty at the end are left out.
fn shows(bytes: &str) -> String {
    let mut terminal = Terminal::new(10, 4);
    terminal.write(bytes.as_bytes());
    terminal.contents().trim_end().to_owned()
}

#[test]
fn control_functions() {
    for (bytes, shown) in [
        ("login: root\r\n# ", "login: roo\nt\n#"),
        ("one\ntwo\rX", "one\nX  two"),
        ("a\tb\x08c", "a       c"),
        ("1\r\n2\r\n3\r\n4\r\n5", "2\n3\n4\n5"),
        // The last column is written before the line goes on.
        ("0123456789\r\nx", "0123456789\nx"),
        ("0123456789x", "0123456789\nx"),
        ("\x1b[?7l0123456789abc", "012345678c"),
        // Places.
        ("\x1b[2;3Hx\x1b[Hy\x1b[99;99Hz", "y\n  x\n\n         z"),
        ("abc\x1b[2Dx\x1b[1Cy\x1b[Bz\x1b[Aw", "axcy w\n    z"),
        ("abc\x1b[2Gx\x1b[3dy\x1b[Ez\x1b[2Fw", "axc\nw\n  y\nz"),
        // Clearing.
        ("abcdef\x1b[3G\x1b[K", "ab"),
        ("abcdef\x1b[3G\x1b[1K", "   def"),
        ("abcdef\x1b[3G\x1b[2X", "ab  ef"),
        ("1\r\n2\r\n3\x1b[2;1H\x1b[J", "1"),
        ("1\r\n2\r\n3\x1b[2;1H\x1b[1J", "\n\n3"),
        ("1\r\n2\x1b[2Jx", "\n x"),
        // Inserting and deleting.
        ("abcdef\x1b[3G\x1b[2@xy", "abxycdef"),
        ("abcdef\x1b[3G\x1b[2P", "abef"),
        ("1\r\n2\r\n3\x1b[2H\x1b[L", "1\n\n2\n3"),
        ("1\r\n2\r\n3\x1b[2H\x1b[M", "1\n3"),
        ("\x1b[4hba\x1b[1Gc", "cba"),
        // A scrolling region: 2 and 3 of four rows.
        ("1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[3H\nx", "1\n3\nx\n4"),
        ("1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[2H\x1bMx", "1\nx\n2\n4"),
        ("1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[S", "1\n3\n\n4"),
        ("1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[T", "1\n\n2\n4"),
        ("1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[?6h\x1b[9;1Hx", "1\n2\nx\n4"),
        // A region of one row is none.
        ("1\r\n2\r\n3\r\n4\x1b[2;2r\r\nx", "2\n3\n4\nx"),
        // Saved, repeated, tabs, lines, reset, alternate screen.
        ("ab\x1b7\x1b[3Hx\x1b8c", "abc\n\nx"),
        ("a\x1b[3b", "aaaa"),
        ("a\x1b[65535b", "aaaaaaaaaa\na"),
        ("\x1b[3g\x1b[4G\x1bH\r\tx", "   x"),
        ("\x1b[10G\x1b[Zx\x1b[2Zy", "y       x"),
        ("\x1b(0lqk\x1b(B lqk", "┌─┐ lqk"),
        ("\x1b)0l\x0ek\x0fl", "l┐l"),
        ("abc\x1bcd", "d"),
        ("main\x1b[?1049h\x1b[Hother", "other"),
        ("main\x1b[?1049h\x1b[Hother\x1b[?1049l!", "main!"),
        ("\x1b#8\x1b[2J", ""),
        ("a\x1b[20h\nb", "a\nb"),
        // Wide characters take two places, marks none, what is not UTF-8 one.
        ("語x", "語 x"),
        ("e\u{301}x", "ex"),
        // Nothing of these is shown.
        ("\x1b]0;title\x07a\x1bP1$qm\x1b\\b\x1b[>1;2;3xc\x1b[?9999hd\x1b[12345678901;1xe", "abcde"),
    ] {
        assert_eq!(shows(bytes), shown, "{bytes:?}");
    }
    let mut terminal = Terminal::new(10, 4);
    terminal.write(b"a\xffb\xe8\xaa");
    terminal.write(b"\x9ec");
    assert_eq!(terminal.contents().trim_end(), "a\u{fffd}b語 c");
}

#[test]
fn bytes_mean_the_same_however_they_are_divided() {
    for bytes in [
        &b"\xc2\x80 \xa0x"[..],
        b"\xe8\xaa\xe8\xaa\x9ex",
        b"\xf0\x9f\x98\x80y\xf0\x9f\x98\x1b[3Cz",
        b"\xe8\xaa\x9e\xe8\xaa\x9e\xff\xc2",
        b"\xf0\xf0\x9f\xe0\x80\x80\xed\xa0\x80\xc2 ",
        b"\x1b]0;\xe8\xaa\x9e\x9c\x07\xe8\xaa\x9ex\x9bx",
    ] {
        let mut whole = Terminal::new(10, 4);
        whole.write(bytes);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut divided = Terminal::new(10, 4);
                divided.write(&bytes[..first]);
                divided.write(&bytes[first..second]);
                divided.write(&bytes[second..]);
                assert_eq!(divided.contents(), whole.contents(), "{bytes:?} at {first}, {second}");
            }
        }
        assert!(whole.begun.len() <= 3);
    }
    // A proptest found it: the space behind the first character was lost.
    assert_eq!(shows("\u{80} x"), " x");
}

#[test]
fn colours_and_looks() {
    let style = |bytes: &str| {
        let mut terminal = Terminal::new(10, 4);
        terminal.write(bytes.as_bytes());
        terminal.write(b"x");
        terminal.state.grid.iter_rows().next().unwrap()[0].style
    };
    let of = |foreground, background, look| Style { foreground, background, look };
    let default = Colour::Default;
    for (bytes, want) in [
        ("", Style::default()),
        ("\x1b[1;31m", of(Colour::Indexed(1), default, Look::BOLD)),
        ("\x1b[1;31m\x1b[m", Style::default()),
        ("\x1b[97;44m", of(Colour::Indexed(15), Colour::Indexed(4), Look::empty())),
        (
            "\x1b[38;5;200;48;2;1;2;3m",
            of(Colour::Indexed(200), Colour::Rgb(0x01_0203), Look::empty()),
        ),
        ("\x1b[38:2::1:2:3;7m", of(Colour::Rgb(0x01_0203), default, Look::REVERSE)),
        ("\x1b[38:2:1:2:3m", of(Colour::Rgb(0x01_0203), default, Look::empty())),
        ("\x1b[38:5:9m", of(Colour::Indexed(9), default, Look::empty())),
        ("\x1b[38m\x1b[38;5m\x1b[48;2;1m", Style::default()),
        ("\x1b[1;2;4;7;8;9m\x1b[22;24;27;28;29m", Style::default()),
        ("\x1b[4:3m\x1b[4:0m", Style::default()),
    ] {
        assert_eq!(style(bytes), want, "{bytes:?}");
    }
}

#[test]
fn only_what_changed_is_painted_and_counts() {
    let all = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };
    let screen = SerialScreen::new(10, 4);
    let (mut picture, mut damage) = (Picture::default(), Damage::default());
    let mut paint = |damage: &mut Damage| {
        screen.paint(&mut picture, damage);
        let colours = (0..picture.height()).flat_map(|y| picture.row(y).to_vec());
        let counted = colours.fold(BTreeMap::<u32, usize>::new(), |mut counted, colour| {
            *counted.entry(colour).or_default() += 1;
            counted
        });
        (damage.take(&all), counted)
    };
    let (rects, colours) = paint(&mut damage);
    assert_eq!(rects, [Rect { x: 0, y: 0, width: 80, height: 64 }]);
    // The cursor is all that can be seen.
    assert_eq!(colours, BTreeMap::from([(0, 80 * 64 - 128), (0xaa_aaaa, 128)]));
    assert!(!screen.has_printed());
    assert!(paint(&mut damage).0.is_empty());
    screen.write(b"\x1b[?25l");
    assert_eq!(paint(&mut damage).0, [Rect { x: 0, y: 0, width: 16, height: 16 }]);
    screen.write(b"\x1b[3;5H\x1b[42m ");
    let (rects, colours) = paint(&mut damage);
    assert_eq!(rects, [Rect { x: 32, y: 32, width: 16, height: 16 }]);
    assert_eq!(colours.get(&0x00_aa00), Some(&128));
    screen.write(b"\x1b[3;5H\x1b[0;7m \x1b[0;4;31m \x1b[8mx");
    let (_, colours) = paint(&mut damage);
    // A reversed space is all in front, an underlined one in one row; what is hidden is not there.
    assert_eq!((colours.get(&0xaa_aaaa), colours.get(&0xaa_0000)), (Some(&128), Some(&16)));
    screen.write(b"x");
    assert!(screen.has_printed());
}

/// Bytes that are often control functions.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![Just(0u32), Just(1), 0u32..90, Just(65_535), Just(999_999_999)];
    let function = (
        prop::sample::select(vec!["", "?", ">", "!", " "]),
        prop::collection::vec(number, 0..4),
        prop::sample::select("@ABCDEFGHIJKLMPSTXZ`abcdefghlmnrsu".chars().collect::<Vec<_>>()),
    );
    let function = function.prop_map(|(mark, numbers, action)| {
        let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
        format!("\x1b[{mark}{}{action}", numbers.join(";")).into_bytes()
    });
    let modes = prop::sample::select(vec![
        "\x1b[?6h",
        "\x1b[?7l",
        "\x1b[?1049h",
        "\x1b[?1049l",
        "\x1b[4h",
        "\x1b7",
        "\x1b8",
        "\x1bM",
        "\x1bD",
        "\x1bc",
        "\x1b(0",
        "\x1bH",
        "\x1b#8",
        "語",
        "\x1b]2;",
        "\x1bP",
    ]);
    let part = prop_oneof![
        4 => function,
        2 => modes.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => "[ -~]{0,30}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn whatever_comes_the_picture_is_that_of_the_cells(
        bytes in bytes(),
        (columns, rows) in (1usize..40, 1usize..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let screen = SerialScreen::new(columns, rows);
        let (mut picture, mut damage) = (Picture::default(), Damage::default());
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        screen.write(first);
        screen.paint(&mut picture, &mut damage);
        let all = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };
        damage.take(&all);
        let before = picture.clone();
        screen.write(second);
        screen.paint(&mut picture, &mut damage);
        // Painted from nothing it is the same, and what differs was said to.
        let (mut anew, mut whole) = (Picture::default(), Damage::default());
        screen.paint(&mut anew, &mut whole);
        prop_assert!(anew == picture);
        let said = damage.take(&all);
        for y in 0..picture.height() {
            for (x, (old, new)) in (0..).zip(before.row(y).iter().zip(picture.row(y))) {
                let dot = Rect { x, y, width: 1, height: 1 };
                prop_assert!(old == new || said.iter().any(|r| !r.intersection(&dot).is_empty()));
            }
        }
        prop_assert_eq!(screen.contents().lines().count(), rows);
        // Bytes in another division give the same.
        let apart = SerialScreen::new(columns, rows);
        bytes.chunks(1).for_each(|byte| apart.write(byte));
        prop_assert_eq!(apart.contents(), screen.contents());
    }
}

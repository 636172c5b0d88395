//! Every encoding, read back by a client of our own; small cases byte by byte.

pub mod decode;
pub mod pictures;

use devices::display::{Picture, Rect};
use proptest::prelude::*;

use super::wishes::{HEXTILE, RAW, TIGHT, ZRLE};
use super::{Encoder, copy_rect};
use crate::vnc::pixel::PixelFormat;
use crate::vnc::pixel::tests::{format, formats};
use decode::Client;
use pictures::{KINDS, Kind, picture};

fn all(picture: &Picture) -> Rect {
    Rect { x: 0, y: 0, width: picture.width(), height: picture.height() }
}

/// What a client shows of `area`, once it has what `encoder` says about it.
fn sent(encoder: &mut Encoder, client: &mut Client, picture: &Picture, area: Rect) -> usize {
    let mut out = vec![];
    let count = encoder.encode(picture, area, &mut out);
    client.read(count, &out);
    out.len()
}

/// The client shows `picture` in `area`, and nothing outside.
fn check(client: &Client, picture: &Picture, area: &Rect, format: &PixelFormat) {
    let wire = format.pixels();
    for y in 0..picture.height() {
        for (x, pixel) in (0..).zip(picture.row(y)) {
            let place = (y * picture.width() + x) as usize;
            let is_in = (area.x..area.x + area.width).contains(&x)
                && (area.y..area.y + area.height).contains(&y);
            let want = is_in.then(|| wire.value(*pixel));
            assert_eq!(client.shown[place], want, "at {x}, {y}, {format:?}");
        }
    }
}

fn round_trip(encodings: &[i32], picture: &Picture, area: Rect, format: PixelFormat) {
    let mut encoder = Encoder::new();
    encoder.set_format(format);
    encoder.set_encodings(encodings);
    let mut client = Client::new(picture.width(), picture.height(), format);
    sent(&mut encoder, &mut client, picture, area);
    check(&client, picture, &area, &format);
    // Once more: streams go on.
    sent(&mut encoder, &mut client, picture, area);
    check(&client, picture, &area, &format);
}

const ENCODINGS: [i32; 4] = [RAW, HEXTILE, ZRLE, TIGHT];

#[test]
fn every_kind_of_picture_in_every_format_and_encoding() {
    for kind in KINDS {
        // Neither side is a whole number of tiles.
        let picture = picture(kind, 83, 70, 1);
        for format in formats() {
            for encoding in ENCODINGS {
                round_trip(&[encoding], &picture, all(&picture), format);
            }
        }
    }
}

#[test]
fn the_smallest_and_the_widest() {
    for encoding in ENCODINGS {
        for (width, height) in [(1, 1), (1, 200), (300, 1), (17, 16), (64, 64), (65, 129)] {
            for kind in [Kind::Noise, Kind::Plain, Kind::Drawing(3)] {
                let picture = picture(kind, width, height, 5);
                round_trip(&[encoding], &picture, all(&picture), PixelFormat::NATIVE);
            }
        }
        // Wider than one Tight rectangle may be, and more than one in height.
        let picture = picture(Kind::Drawing(40), 2100, 70, 6);
        round_trip(&[encoding], &picture, all(&picture), PixelFormat::NATIVE);
    }
}

#[test]
fn what_is_outside_the_picture_is_not_sent() {
    let mut encoder = Encoder::new();
    let picture = picture(Kind::Noise, 8, 8, 1);
    for area in [
        Rect { x: 8, y: 0, width: 5, height: 5 },
        Rect { x: 0, y: 0, width: 0, height: 5 },
        Rect { x: u32::MAX, y: u32::MAX, width: u32::MAX, height: u32::MAX },
    ] {
        for encoding in ENCODINGS {
            encoder.set_encodings(&[encoding]);
            let mut out = vec![];
            assert_eq!((encoder.encode(&picture, area, &mut out), out.len()), (0, 0));
            assert_eq!(encoder.encode(&Picture::default(), area, &mut out), 0);
        }
    }
    let mut out = vec![];
    encoder.set_encodings(&[]);
    let area = Rect { x: 7, y: 6, width: u32::MAX, height: u32::MAX };
    assert_eq!(encoder.encode(&picture, area, &mut out), 1);
    assert_eq!(out[..8], [0, 7, 0, 6, 0, 1, 0, 2]);
    assert_eq!(out.len(), 12 + 2 * 4);
}

/// The bytes after the head of the only rectangle.
fn body(encodings: &[i32], picture: &Picture) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.set_encodings(encodings);
    let mut out = vec![];
    assert_eq!(encoder.encode(picture, all(picture), &mut out), 1);
    out.split_off(12)
}

fn small(rows: &[&[u32]]) -> Picture {
    let mut picture = Picture::new(rows[0].len() as u32, rows.len() as u32);
    for (y, row) in (0..).zip(rows) {
        picture.row_mut(y).copy_from_slice(row);
    }
    picture
}

#[test]
fn golden_raw_and_copy() {
    let picture = small(&[&[0x010203, 0xff_040506], &[0x070809, 0x0a0b0c]]);
    let golden = [3, 2, 1, 0, 6, 5, 4, 0, 9, 8, 7, 0, 12, 11, 10, 0];
    assert_eq!(body(&[RAW], &picture), golden);
    let mut out = vec![];
    copy_rect(&Rect { x: 1, y: 2, width: 3, height: 0x1234 }, 5, 0x678, &mut out);
    assert_eq!(out, [0, 1, 0, 2, 0, 3, 0x12, 0x34, 0, 0, 0, 1, 0, 5, 6, 0x78]);
}

#[test]
fn golden_hextile() {
    // One colour; the same beside it; then one foreground rectangle of 2 × 1 at (1, 0).
    let row = |colours: [u32; 4]| {
        let mut row = vec![7; 32];
        row.extend(colours);
        row
    };
    let (first, second) = (row([7, 9, 9, 7]), row([7; 4]));
    let golden = [2, 7, 0, 0, 0, 0, 4 | 8, 9, 0, 0, 0, 1, 0x10, 0x10];
    assert_eq!(body(&[HEXTILE], &small(&[&first, &second])), golden);
    // Three colours: rectangles with theirs; two by two pixels are cheaper raw.
    let wide = small(&[&[7, 7, 7, 7, 8, 9]]);
    let golden = [2 | 8 | 16, 7, 0, 0, 0, 2, 8, 0, 0, 0, 0x40, 0, 9, 0, 0, 0, 0x50, 0];
    assert_eq!(body(&[HEXTILE], &wide), golden);
    let few = small(&[&[1, 2], &[3, 4]]);
    assert_eq!(body(&[HEXTILE], &few), [1, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
}

fn rows_of(rows: &[[u32; 64]]) -> Vec<&[u32]> {
    rows.iter().map(|row| &row[..]).collect()
}

/// What a zlib stream of one flush has.
fn inflated(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 16);
    let mut stream = flate2::Decompress::new(true);
    stream.decompress_vec(data, &mut out, flate2::FlushDecompress::Sync).unwrap();
    out
}

fn zrle(picture: &Picture) -> Vec<u8> {
    let body = body(&[ZRLE], picture);
    let (length, data) = body.split_at(4);
    assert_eq!(length, (data.len() as u32).to_be_bytes());
    inflated(data)
}

#[test]
fn golden_zrle() {
    assert_eq!(zrle(&small(&[&[5; 64][..]; 64])), [1, 5, 0, 0]);
    // Two colours in one bit a pixel, rows filled up to bytes.
    let two = small(&[&[1, 2, 1, 2, 1, 2, 1, 2, 2], &[2, 1, 2, 1, 2, 1, 2, 1, 1]]);
    assert_eq!(zrle(&two), [2, 1, 0, 0, 2, 0, 0, 0b0101_0101, 0x80, 0b1010_1010, 0]);
    // Three colours, of which one once.
    let three = small(&[&[1, 1, 2, 3, 3]]);
    assert_eq!(zrle(&three), [3, 1, 0, 0, 2, 0, 0, 3, 0, 0, 0b0000_0110, 0b1000_0000]);
    // Long runs, longer than 255 and over the ends of rows: 4095 is 1 + 16 * 255 + 14.
    let mut rows = vec![[1u32; 64]; 64];
    rows[63][63] = 2;
    let golden = [&[128, 1, 0, 0][..], &[255; 16], &[14, 2, 0, 0, 0]].concat();
    assert_eq!(zrle(&small(&rows_of(&rows))), golden);
    // The same with a palette: 300 is 1 + 255 + 44, 3794 is 1 + 14 * 255 + 223.
    rows[4][44] = 2;
    let runs = [&[128, 255, 44, 1, 128][..], &[255; 14], &[223, 1]].concat();
    assert_eq!(zrle(&small(&rows_of(&rows))), [&[130, 1, 0, 0, 2, 0, 0], &runs[..]].concat());
    // As many colours as pixels.
    assert_eq!(zrle(&small(&[&[1, 2]])), [0, 1, 0, 0, 2, 0, 0]);
}

#[test]
fn golden_tight() {
    assert_eq!(body(&[TIGHT], &small(&[&[0x010203; 30]])), [0x80, 1, 2, 3]);
    // Two colours, a bit each, too short for zlib: stream 1, palette filter.
    let two = small(&[&[1, 2, 1, 2, 1, 2, 1, 2, 2]]);
    assert_eq!(body(&[TIGHT], &two), [0x50, 1, 1, 0, 0, 1, 0, 0, 2, 0b0101_0101, 0x80]);
    // All colours, too short for zlib: stream 0, no filter.
    assert_eq!(body(&[TIGHT], &small(&[&[1, 2, 3]])), [0, 0, 0, 1, 0, 0, 2, 0, 0, 3]);
    // Three colours, a byte each, compressed: stream 2, palette filter.
    let body = body(&[TIGHT], &small(&[&[1, 1, 1, 2, 2, 2, 3, 3, 3, 1, 1, 1, 2]]));
    assert_eq!(body[..12], [0x60, 1, 2, 0, 0, 1, 0, 0, 2, 0, 0, 3]);
    assert_eq!(usize::from(body[12]), body.len() - 13);
    assert_eq!(inflated(&body[13..]), [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 1]);
}

#[test]
fn a_photo_is_jpeg_only_where_the_client_asked_and_can() {
    let photo = picture(Kind::Photo, 300, 280, 3);
    let photos = |format: PixelFormat, encodings: &[i32], picture: &Picture| {
        let mut encoder = Encoder::new();
        encoder.set_format(format);
        encoder.set_encodings(encodings);
        let mut client = Client::new(picture.width(), picture.height(), format);
        let bytes = sent(&mut encoder, &mut client, picture, all(picture));
        assert!(client.shown.iter().all(Option::is_some));
        let pixels = (0..picture.height()).flat_map(|y| picture.row(y));
        let worst = pixels.zip(&client.photo).filter_map(|(pixel, got)| {
            let [_, r, g, b] = pixel.to_be_bytes();
            let got = (*got)?;
            [r, g, b].into_iter().zip(got).map(|(want, got)| want.abs_diff(got)).max()
        });
        (client.photo.iter().flatten().count(), worst.max().unwrap_or(0), bytes)
    };
    let native = PixelFormat::NATIVE;
    let (pixels, worst, good) = photos(native, &[TIGHT, -23], &photo);
    assert_eq!(pixels, 300 * 280);
    assert!(worst < 24, "{worst}");
    let (_, _, poor) = photos(native, &[TIGHT, -32], &photo);
    assert!(poor < good, "{poor} is not less than {good}");
    assert_eq!(photos(native, &[TIGHT], &photo).0, 0);
    let eight = format([8, 8, 0, 1], [7, 7, 3], [0, 3, 6]);
    assert_eq!(photos(eight, &[TIGHT, -23], &photo).0, 0);
    let mapped = format([16, 8, 0, 0], [0; 3], [0; 3]);
    assert_eq!(photos(mapped, &[TIGHT, -23], &photo).0, 0);
    let sixteen = format([16, 16, 0, 1], [31, 63, 31], [11, 5, 0]);
    // There the block of 44 × 24 pixels at the corner has few colours.
    assert_eq!(photos(sixteen, &[TIGHT, -23], &photo).0, 300 * 280 - 44 * 24);
    // Text and drawings stay sharp.
    for kind in [Kind::Text, Kind::Drawing(400), Kind::Plain] {
        assert_eq!(photos(native, &[TIGHT, -32], &picture(kind, 300, 280, 3)).0, 0, "{kind:?}");
    }
}

#[test]
fn formats_encodings_and_levels_may_change_between_rectangles() {
    let mut encoder = Encoder::new();
    let mut client = Client::new(200, 90, PixelFormat::NATIVE);
    let mut seed = 0;
    for format in formats() {
        encoder.set_format(format);
        client.set_format(format);
        for encodings in [&[ZRLE, -247][..], &[TIGHT, -256], &[HEXTILE], &[TIGHT, -247], &[TIGHT]] {
            encoder.set_encodings(encodings);
            for kind in [Kind::Text, Kind::Noise, Kind::Drawing(50)] {
                seed += 1;
                let picture = picture(kind, 200, 90, seed);
                sent(&mut encoder, &mut client, &picture, all(&picture));
                check(&client, &picture, &all(&picture), &format);
            }
        }
    }
}

/// How many bytes a screen of text takes, as a bound that a change for the worse would break.
#[test]
fn a_screen_of_text_takes_few_bytes() {
    for (encoding, most) in [(ZRLE, 60_000), (TIGHT, 60_000)] {
        let mut encoder = Encoder::new();
        encoder.set_encodings(&[encoding]);
        let mut client = Client::new(1024, 768, PixelFormat::NATIVE);
        let bytes: Vec<usize> = (1..5)
            .map(|seed| {
                let picture = picture(Kind::Text, 1024, 768, seed);
                sent(&mut encoder, &mut client, &picture, all(&picture))
            })
            .collect();
        println!("encoding {encoding}: {bytes:?} bytes");
        assert!(bytes.iter().all(|bytes| *bytes < most), "encoding {encoding}: {bytes:?}");
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(KINDS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_part_of_any_picture(
        kind in kind(),
        (width, height) in (1u32..=300, 1u32..=200),
        (x, y, seed) in (0u32..300, 0u32..200, any::<u64>()),
        (part, format) in ((1u32..=300, 1u32..=200), prop::sample::select(formats())),
        encoding in prop::sample::select(ENCODINGS.to_vec()),
        level in -256i32..=-247,
    ) {
        let picture = picture(kind, width, height, seed);
        let area = Rect { x: x % width, y: y % height, width: part.0, height: part.1 };
        let area = area.intersection(&all(&picture));
        round_trip(&[level, encoding], &picture, area, format);
    }
}

//! What the monitor says of itself: EDID 1.4 (VESA Enhanced EDID, release A revision 2).
//!
//! ```text
//! 00 header | 08 who | 12 version | 14 picture | 19 colours | 23 old modes | 26 eight more modes
//! 36 four descriptors: preferred timing, limits, name, nothing | 7e extensions | 7f checksum
//! ```
//! A digital monitor of 96 dots an inch, whose preferred mode is the one asked for. Blanking is as
//! short as CVT allows with reduced blanking; nothing is ever scanned out, so any will do.

/// Length of the base block, in bytes.
pub const LEN: usize = 128;
/// The most pixels a side that a detailed timing can say.
pub const SIDE_MAX: u32 = 4095;

const HEADER: [u8; 8] = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
/// "BRT" in five bits a letter.
const MANUFACTURER: u16 = 2 << 10 | 18 << 5 | 20;
const MODEL: u16 = 1;
/// Years since 1990, and "a model year" where a week would be.
const YEAR: [u8; 2] = [0xff, 36];
/// Digital, eight bits a colour, of no particular interface.
const DIGITAL_8_BIT: u8 = 0xa0;
/// Gamma 2.2, as (gamma - 1) × 100.
const GAMMA: u8 = 120;
/// RGB only, sRGB, the preferred timing is the panel's own, further timings are possible.
const FEATURES: u8 = 1 << 2 | 1 << 1 | 1;
/// The sRGB primaries and white point.
const SRGB: [u8; 10] = [0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54];
/// 640 × 480, 800 × 600 and 1024 × 768 at 60 Hz.
const ESTABLISHED: [u8; 3] = [1 << 5 | 1, 1 << 3, 0];

/// Aspect ratios that a standard timing can say.
#[derive(Clone, Copy)]
enum Aspect {
    Is16To10 = 0,
    Is4To3 = 1,
    Is5To4 = 2,
    Is16To9 = 3,
}

/// Widths and aspect ratios of the standard timings, at 60 Hz.
const STANDARD: [(u16, Aspect); 8] = [
    (1920, Aspect::Is16To9),
    (1680, Aspect::Is16To10),
    (1600, Aspect::Is16To9),
    (1440, Aspect::Is16To10),
    (1280, Aspect::Is5To4),
    (1280, Aspect::Is16To10),
    (1280, Aspect::Is16To9),
    (1400, Aspect::Is4To3),
];

const REFRESH_HZ: u32 = 60;
const H_BLANK: u32 = 160;
const H_FRONT: u32 = 48;
const H_SYNC: u32 = 32;
const V_FRONT: u32 = 3;
const V_SYNC: u32 = 6;
/// A 460 µs vertical blank at 60 Hz takes this part of the frame: 460 / (1/60 s), in 10000ths.
const V_BLANK_PART: u32 = 276;

/// The block of a monitor that prefers `width` × `height` pixels, each 1 to [`SIDE_MAX`].
pub fn block(width: u32, height: u32) -> [u8; LEN] {
    let (width, height) = (width.clamp(1, SIDE_MAX), height.clamp(1, SIDE_MAX));
    let millimetres = |pixels: u32| pixels * 254 / 960;
    let centimetres = |pixels: u32| millimetres(pixels).div_ceil(10).min(255) as u8;
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend(HEADER);
    bytes.extend(MANUFACTURER.to_be_bytes());
    bytes.extend(MODEL.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(YEAR);
    bytes.extend([1, 4]);
    bytes.extend([DIGITAL_8_BIT, centimetres(width), centimetres(height), GAMMA, FEATURES]);
    bytes.extend(SRGB);
    bytes.extend(ESTABLISHED);
    for (width, aspect) in STANDARD {
        bytes.extend([(width / 8 - 31) as u8, (aspect as u8) << 6]);
    }
    bytes.extend(timing((width, height), (millimetres(width), millimetres(height))));
    bytes.extend(limits());
    bytes.extend(descriptor(0xfc, b"Berth\n       "));
    bytes.extend(descriptor(0x10, &[0; 13]));
    // No extensions.
    bytes.push(0);
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes.push(sum.wrapping_neg());
    // The pieces above are as long as the standard says: a test checks it.
    bytes.try_into().unwrap_or([0; LEN])
}

/// A detailed timing descriptor (§3.10.2).
fn timing((width, height): (u32, u32), (width_mm, height_mm): (u32, u32)) -> [u8; 18] {
    const SEPARATE_SYNC_H_POSITIVE: u8 = 0x1a;
    let v_blank = (height * V_BLANK_PART).div_ceil(10_000 - V_BLANK_PART).max(V_FRONT + V_SYNC + 6);
    let clock_hz = (width + H_BLANK) * (height + v_blank) * REFRESH_HZ;
    let clock = (clock_hz / 10_000).min(u16::MAX.into()) as u16;
    let low = |value: u32| value as u8;
    let high = |first: u32, second: u32| (first >> 8 << 4 | second >> 8) as u8;
    let [clock_low, clock_high] = clock.to_le_bytes();
    [
        clock_low,
        clock_high,
        low(width),
        low(H_BLANK),
        high(width, H_BLANK),
        low(height),
        low(v_blank),
        high(height, v_blank),
        low(H_FRONT),
        low(H_SYNC),
        low(V_FRONT << 4 | V_SYNC),
        0,
        low(width_mm),
        low(height_mm),
        high(width_mm, height_mm),
        0,
        0,
        SEPARATE_SYNC_H_POSITIVE,
    ]
}

/// Display range limits (§3.10.3.3): 50 to 75 Hz, 15 to 255 kHz, no formula.
fn limits() -> [u8; 18] {
    const CLOCK_MAX_10_MHZ: u8 = 66;
    const RANGE_ONLY: u8 = 1;
    const FILL: [u8; 7] = [0x0a, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20];
    let mut body = [0; 13];
    body[..6].copy_from_slice(&[50, 75, 15, 255, CLOCK_MAX_10_MHZ, RANGE_ONLY]);
    body[6..].copy_from_slice(&FILL);
    descriptor(0xfd, &body)
}

fn descriptor(tag: u8, body: &[u8; 13]) -> [u8; 18] {
    let mut descriptor = [0; 18];
    descriptor[3] = tag;
    descriptor[5..].copy_from_slice(body);
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Width, height and refresh of the preferred timing, as a driver computes them.
    fn preferred(block: &[u8; LEN]) -> (u32, u32, f64) {
        let byte = |at: usize| u32::from(block[54 + at]);
        let (width, h_blank) = (byte(2) | (byte(4) >> 4) << 8, byte(3) | (byte(4) & 0xf) << 8);
        let (height, v_blank) = (byte(5) | (byte(7) >> 4) << 8, byte(6) | (byte(7) & 0xf) << 8);
        let clock = f64::from((byte(0) | byte(1) << 8) * 10_000);
        (width, height, clock / f64::from((width + h_blank) * (height + v_blank)))
    }

    #[test]
    fn the_block_is_well_formed_and_prefers_what_was_asked_for() {
        for (width, height) in [(640, 480), (1024, 768), (1366, 768), (1920, 1080), (2560, 1600)] {
            let block = block(width, height);
            assert_eq!(block[..8], HEADER);
            assert_eq!(block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            assert_eq!(block[18..20], [1, 4]);
            let (w, h, refresh) = preferred(&block);
            assert_eq!((w, h), (width, height));
            assert!((59.9..60.1).contains(&refresh), "{width} × {height}: {refresh} Hz");
        }
    }

    #[test]
    fn standard_timings_are_the_usual_ones() {
        let block = block(1024, 768);
        let modes: Vec<(u32, u32)> = block[38..54]
            .as_chunks()
            .0
            .iter()
            .map(|[width, rest]| {
                let width = (u32::from(*width) + 31) * 8;
                let height = [(10, 16), (3, 4), (4, 5), (9, 16)][usize::from(rest >> 6)];
                (width, width * height.0 / height.1)
            })
            .collect();
        let usual = [(1920, 1080), (1680, 1050), (1600, 900), (1440, 900), (1280, 1024)];
        assert_eq!(modes[..5], usual);
        assert_eq!(modes[5..], [(1280, 800), (1280, 720), (1400, 1050)]);
    }

    #[test]
    fn any_size_makes_a_block() {
        for side in [0, 1, 255, 256, SIDE_MAX, u32::MAX] {
            assert_eq!(block(side, side)[..8], HEADER);
        }
    }
}

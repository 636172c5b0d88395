//! An input device's configuration space (VIRTIO 1.3 §5.8.4): the driver selects what it wants to
//! know, and reads the answer.
//!
//! ```text
//! 0 select, W | 1 subsel, W | 2 size | 3..8 zero | 8..136 answer
//! ```

use super::Kind;
use super::reports::{BUTTONS, KEYS};
use crate::input::POSITION_MAX;
use crate::virtio::read_config_bytes;

const ID_NAME: u8 = 1;
const ID_SERIAL: u8 = 2;
const ID_DEVIDS: u8 = 3;
const EV_BITS: u8 = 0x11;
const ABS_INFO: u8 = 0x12;

const EV_KEY: u8 = 1;
const EV_REL: u8 = 2;
const EV_ABS: u8 = 3;
const EV_LED: u8 = 0x11;
/// LED_NUML, LED_CAPSL, LED_SCROLLL.
const LEDS: [u16; 3] = [0, 1, 2];
/// REL_HWHEEL, REL_WHEEL.
const WHEELS: [u16; 2] = [6, 8];
/// ABS_X, ABS_Y.
const AXES: [u16; 2] = [0, 1];

const BUS_VIRTUAL: u16 = 6;
const VENDOR: u16 = 0x1af4;
const VERSION: u16 = 1;
const ANSWER: usize = 8;
const ANSWER_LEN: usize = 128;

/// The space.
pub(super) struct Config {
    kind: Kind,
    select: u8,
    subsel: u8,
}

impl Config {
    pub(super) fn new(kind: Kind) -> Config {
        Config { kind, select: 0, subsel: 0 }
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let answer = self.answer();
        let mut space = vec![self.select, self.subsel, answer.len() as u8];
        space.resize(ANSWER, 0);
        space.extend(answer);
        read_config_bytes(&space, offset, data);
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            match at {
                0 => self.select = *byte,
                1 => self.subsel = *byte,
                _ => return,
            }
        }
    }

    /// At most [`ANSWER_LEN`] bytes; none for what the device has not.
    fn answer(&self) -> Vec<u8> {
        let is_tablet = self.kind == Kind::Tablet;
        match (self.select, self.subsel) {
            (ID_NAME, 0) => format!("Berth {}", self.kind.name()).into_bytes(),
            (ID_SERIAL, 0) => self.kind.name().as_bytes().to_vec(),
            (ID_DEVIDS, 0) => {
                let product = 1 + u16::from(is_tablet);
                [BUS_VIRTUAL, VENDOR, product, VERSION].map(u16::to_le_bytes).concat()
            }
            (EV_BITS, EV_KEY) if is_tablet => bitmap(BUTTONS.map(|(_, code)| code)),
            (EV_BITS, EV_REL) if is_tablet => bitmap(WHEELS),
            (EV_BITS, EV_ABS) if is_tablet => bitmap(AXES),
            (EV_BITS, EV_KEY) => bitmap(KEYS),
            (EV_BITS, EV_LED) if !is_tablet => bitmap(LEDS),
            (ABS_INFO, axis) if is_tablet && AXES.contains(&axis.into()) => {
                // Least, most, fuzz, flat, resolution.
                [0, POSITION_MAX.into(), 0, 0, 0].map(u32::to_le_bytes).concat()
            }
            _ => Vec::new(),
        }
    }
}

/// Bits set at `codes`, as many bytes as that takes.
fn bitmap(codes: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bits = Vec::new();
    for code in codes {
        let byte = usize::from(code / 8).min(ANSWER_LEN - 1);
        if bits.len() <= byte {
            bits.resize(byte + 1, 0);
        }
        bits[byte] |= 1u8 << (code % 8);
    }
    bits
}

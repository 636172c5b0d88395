//! The DISPI registers of a Bochs display adapter: the mode of its linear framebuffer (the Bochs
//! VBE display API, version 0xB0C5).
//!
//! ```text
//! 0 ID  1 XRES  2 YRES  3 BPP  4 ENABLE  5 BANK  6 VIRT_WIDTH  7 VIRT_HEIGHT  8 X_OFFSET
//! 9 Y_OFFSET  a memory in 64 KiB
//! ENABLE: 0 on | 1 XRES, YRES, BPP read their limits | 5 palette of 8 bits | 6 linear | 7 keep memory
//! ```
//! Any value can be written at any time. Registers keep what was written; the frame that results
//! is checked when it is asked for ([`Dispi::frame`]), so that nothing outside video memory is ever
//! looked at. Left out: banks (the window at 0xA0000 is plain memory) and 4 bits a pixel.

use super::SIDE_MAX;
use super::linear::Frame;
use super::pixels::Depth;

/// Bytes of video memory.
pub const MEMORY_LEN: usize = 16 << 20;

const ID: u16 = 0;
const XRES: u16 = 1;
const YRES: u16 = 2;
const BPP: u16 = 3;
/// Register that switches modes on.
pub const ENABLE: u16 = 4;
const BANK: u16 = 5;
const VIRT_WIDTH: u16 = 6;
const VIRT_HEIGHT: u16 = 7;
const X_OFFSET: u16 = 8;
const Y_OFFSET: u16 = 9;
const MEMORY_64K: u16 = 0xa;
/// How many registers there are.
pub const COUNT: u16 = 0xb;

/// Its bit for that.
pub const ENABLED: u16 = 1;
const GET_CAPS: u16 = 1 << 1;
const DAC_8_BIT: u16 = 1 << 5;
const LINEAR: u16 = 1 << 6;
const KEEP_MEMORY: u16 = 1 << 7;
const IDS: std::ops::RangeInclusive<u16> = 0xb0c0..=0xb0c5;
const BPP_MAX: u16 = 32;

/// The registers.
#[derive(Clone, Debug)]
pub struct Dispi {
    registers: [u16; COUNT as usize],
}

impl Default for Dispi {
    fn default() -> Dispi {
        let mut registers = [0; COUNT as usize];
        registers[usize::from(ID)] = *IDS.end();
        registers[usize::from(BPP)] = 8;
        registers[usize::from(MEMORY_64K)] = (MEMORY_LEN >> 16) as u16;
        Dispi { registers }
    }
}

impl Dispi {
    /// Reads register `index`; zero where there is none.
    pub fn read(&self, index: u16) -> u16 {
        let limits = self.get(ENABLE) & GET_CAPS != 0;
        match index {
            XRES | YRES if limits => SIDE_MAX as u16,
            BPP if limits => BPP_MAX,
            VIRT_WIDTH => self.virtual_width() as u16,
            VIRT_HEIGHT => (MEMORY_LEN / self.pitch()).min(u16::MAX.into()) as u16,
            index => self.get(index),
        }
    }

    /// Writes register `index`. True when that has switched a mode on and its frame is to be cleared.
    pub fn write(&mut self, index: u16, value: u16) -> bool {
        match index {
            ID if IDS.contains(&value) => self.set(ID, value),
            // 0 is an old name for 8.
            BPP if value == 0 => self.set(BPP, 8),
            BPP if Depth::from_bits(value).is_some() => self.set(BPP, value),
            XRES | YRES | BANK | VIRT_WIDTH | X_OFFSET | Y_OFFSET => self.set(index, value),
            ENABLE => {
                let rises = value & !self.get(ENABLE) & ENABLED != 0;
                self.set(ENABLE, value);
                if rises {
                    for index in [VIRT_WIDTH, X_OFFSET, Y_OFFSET] {
                        self.set(index, 0);
                    }
                }
                return rises && value & KEEP_MEMORY == 0;
            }
            _ => {}
        }
        false
    }

    /// Switches a mode on as firmware would: 32 bits a pixel.
    pub fn preset(&mut self, width: u32, height: u32) {
        *self = Dispi::default();
        self.set(XRES, width.min(SIDE_MAX) as u16);
        self.set(YRES, height.min(SIDE_MAX) as u16);
        self.set(BPP, BPP_MAX);
        self.set(ENABLE, ENABLED | LINEAR);
    }

    /// Colours in the palette have eight bits, not six.
    pub fn dac_is_8_bit(&self) -> bool {
        self.get(ENABLE) & DAC_8_BIT != 0
    }

    /// What is shown; `None` while the adapter is in a VGA mode. It lies in video memory whatever was
    /// written: a frame too high is cut, an offset too far counts as none.
    pub fn frame(&self) -> Option<Frame> {
        if self.get(ENABLE) & ENABLED == 0 {
            return None;
        }
        let (depth, pitch) = (self.depth(), self.pitch());
        let width = self.width();
        let height = u32::from(self.get(YRES)).clamp(1, SIDE_MAX).min((MEMORY_LEN / pitch) as u32);
        let frame = Frame { width, height, depth, pitch, start: 0 };
        let start = usize::from(self.get(Y_OFFSET)) * pitch
            + usize::from(self.get(X_OFFSET)) * depth.bytes();
        let fits = start + frame.span() <= MEMORY_LEN;
        Some(Frame { start: if fits { start } else { 0 }, ..frame })
    }

    fn depth(&self) -> Depth {
        Depth::from_bits(self.get(BPP)).unwrap_or(Depth::Indexed8)
    }

    fn width(&self) -> u32 {
        u32::from(self.get(XRES)).clamp(1, SIDE_MAX)
    }

    fn virtual_width(&self) -> u32 {
        u32::from(self.get(VIRT_WIDTH)).max(self.width())
    }

    /// Bytes from row to row; at least 1, and at most 256 KiB.
    fn pitch(&self) -> usize {
        self.virtual_width() as usize * self.depth().bytes()
    }

    fn get(&self, index: u16) -> u16 {
        self.registers.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn set(&mut self, index: u16, value: u16) {
        if let Some(register) = self.registers.get_mut(usize::from(index)) {
            *register = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled(width: u16, height: u16, bits: u16) -> Dispi {
        let mut dispi = Dispi::default();
        for (index, value) in [(XRES, width), (YRES, height), (BPP, bits)] {
            assert!(!dispi.write(index, value));
        }
        assert!(dispi.write(ENABLE, ENABLED | LINEAR));
        dispi
    }

    #[test]
    fn a_mode_is_set_as_drivers_do() {
        let dispi = Dispi::default();
        assert_eq!((dispi.read(ID), dispi.read(MEMORY_64K)), (0xb0c5, 0x100));
        assert_eq!(dispi.frame(), None);
        let mut dispi = enabled(1024, 768, 32);
        let depth = Depth::Xrgb8888;
        let frame = Frame { width: 1024, height: 768, depth, pitch: 4096, start: 0 };
        assert_eq!(dispi.frame(), Some(frame));
        assert_eq!((dispi.read(VIRT_WIDTH), dispi.read(VIRT_HEIGHT)), (1024, 4096));
        dispi.write(Y_OFFSET, 768);
        assert_eq!(dispi.frame().unwrap().start, 768 * 4096);
        dispi.write(VIRT_WIDTH, 1032);
        dispi.write(X_OFFSET, 8);
        assert_eq!(dispi.frame().unwrap().start, 768 * 4128 + 32);
        assert_eq!(dispi.frame().unwrap().pitch, 4128);
        assert!(!dispi.write(ENABLE, 0));
        assert_eq!(dispi.frame(), None);
        assert!(!dispi.write(ENABLE, ENABLED | KEEP_MEMORY));
        assert_eq!(dispi.frame().unwrap(), frame);
    }

    #[test]
    fn limits_are_told_and_ids_kept() {
        let mut dispi = enabled(640, 480, 24);
        assert_eq!(dispi.frame().unwrap().pitch, 1920);
        dispi.write(ENABLE, GET_CAPS);
        assert_eq!([XRES, YRES, BPP].map(|index| dispi.read(index)), [8192, 8192, 32]);
        dispi.write(ENABLE, 0);
        assert_eq!([XRES, YRES, BPP].map(|index| dispi.read(index)), [640, 480, 24]);
        dispi.write(ID, 0xb0c2);
        dispi.write(ID, 0x1234);
        dispi.write(BPP, 4);
        dispi.write(MEMORY_64K, 7);
        assert_eq!([ID, BPP, MEMORY_64K].map(|index| dispi.read(index)), [0xb0c2, 24, 0x100]);
        assert_eq!(dispi.read(0xffff), 0);
    }

    #[test]
    fn no_frame_leaves_video_memory() {
        proptest::proptest!(|(writes in proptest::collection::vec((0u16..12, 0u16..), 0..24))| {
            let mut dispi = Dispi::default();
            dispi.write(ENABLE, ENABLED);
            for (index, value) in writes {
                dispi.write(index, if index == BPP { [8, 15, 16, 24, 32, 0][value as usize % 6] } else { value });
                dispi.read(index);
                dispi.read(VIRT_HEIGHT);
                if let Some(frame) = dispi.frame() {
                    assert!(frame.width > 0 && frame.height > 0);
                    assert!(frame.width <= SIDE_MAX && frame.height <= SIDE_MAX);
                    assert!(frame.start + frame.span() <= MEMORY_LEN, "{frame:?}");
                }
            }
        });
    }
}

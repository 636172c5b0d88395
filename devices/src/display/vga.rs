//! The VGA registers, ports 0x3B0 to 0x3DF, as far as text modes, mode 0x13 and drivers' probing
//! need them (IBM PS/2 Hardware Interface Technical Reference, Video Subsystem).
//!
//! ```text
//! 3c0 attribute index, data in turn; 3c1 R data | 3c2 W, 3cc R miscellaneous | 3c4 sequencer
//! 3c6 DAC | 3ce graphics | 3b4, 3d4 CRT controller | 3ba, 3da R status, resets 3c0's turn
//! ```
//! The registers are storage: what they mean for the picture is read out of them when it is painted.
//! The window at 0xA0000 is plain memory, so planes, latches and write modes are left out, and with
//! them the planar graphics modes; so are interrupts and light pens. After reset the registers hold
//! mode 3, as a BIOS leaves them. Runs on vCPU threads, under the adapter's lock.

use super::dac::Dac;
use super::linear::Frame;
use super::pixels::Depth;
use super::text::{Cursor, TextMode, WINDOW_LEN};

/// The first port.
pub const PORTS: u64 = 0x3b0;
/// How many ports there are.
pub const PORTS_LEN: u64 = 0x30;

const ATTRIBUTE: u64 = 0x3c0;
const ATTRIBUTE_READ: u64 = 0x3c1;
const MISC_WRITE: u64 = 0x3c2;
const MISC_READ: u64 = 0x3cc;
const SEQUENCER: u64 = 0x3c4;
const DAC: u64 = 0x3c6;
const DAC_LAST: u64 = 0x3c9;
const GRAPHICS: u64 = 0x3ce;
const CRTC_MONO: u64 = 0x3b4;
const CRTC: u64 = 0x3d4;
const STATUS_MONO: u64 = 0x3ba;
const STATUS: u64 = 0x3da;
/// Input status 1: display disabled, and vertical retrace. Pollers want to see both change.
const STATUS_TOGGLES: u8 = 1 | 1 << 3;

/// Bit 5 of the attribute index: the palette is not being set.
const ATTRIBUTE_INDEX: u8 = 0x1f;
const CRTC_PROTECT: u8 = 1 << 7;
const OVERFLOW: usize = 7;
const OVERFLOW_COMPARE: u8 = 1 << 4;

/// A mode's registers behind each index port.
struct ModeTable {
    misc: u8,
    sequencer: [u8; 5],
    graphics: [u8; 9],
    crtc: [u8; 25],
    attribute: [u8; 21],
}

/// Mode 3: 80 × 25 characters in 16 colours, 9 × 16 pixels each.
const MODE_3: ModeTable = ModeTable {
    misc: 0x67,
    sequencer: [0x03, 0x00, 0x03, 0x00, 0x02],
    graphics: [0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c,
        0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ],
    attribute: [
        0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0, 0x0f,
        8, 0,
    ],
};

/// What a VGA mode shows.
#[derive(Clone, Debug, PartialEq)]
pub enum VgaView {
    /// Characters.
    Text(TextMode),
    /// Bytes, a pixel each, at the start of the window.
    Bytes(Frame),
    /// A graphics mode that is not modelled.
    Unknown,
}

/// The registers.
#[derive(Clone, Debug)]
pub struct Vga {
    misc: u8,
    attribute: Indexed<21>,
    /// The next write to 0x3C0 is data.
    attribute_data: bool,
    sequencer: Indexed<5>,
    graphics: Indexed<9>,
    crtc: Indexed<25>,
    dac: Dac,
    status: u8,
}

/// Registers behind an index register.
#[derive(Clone, Debug)]
struct Indexed<const N: usize> {
    index: u8,
    values: [u8; N],
}

impl<const N: usize> Indexed<N> {
    fn new(values: [u8; N]) -> Self {
        Self { index: 0, values }
    }

    fn read(&self) -> u8 {
        self.values.get(usize::from(self.index)).copied().unwrap_or(0)
    }

    fn write(&mut self, value: u8) {
        if let Some(register) = self.values.get_mut(usize::from(self.index)) {
            *register = value;
        }
    }
}

impl Default for Vga {
    fn default() -> Vga {
        Vga {
            misc: MODE_3.misc,
            attribute: Indexed::new(MODE_3.attribute),
            attribute_data: false,
            sequencer: Indexed::new(MODE_3.sequencer),
            graphics: Indexed::new(MODE_3.graphics),
            crtc: Indexed::new(MODE_3.crtc),
            dac: Dac::default(),
            status: 0,
        }
    }
}

impl Vga {
    /// Reads a port.
    pub fn read(&mut self, port: u64) -> u8 {
        match port {
            ATTRIBUTE => self.attribute.index,
            ATTRIBUTE_READ => Indexed {
                index: self.attribute.index & ATTRIBUTE_INDEX,
                values: self.attribute.values,
            }
            .read(),
            // Input status 0: a colour screen is connected.
            MISC_WRITE => 1 << 4,
            MISC_READ => self.misc,
            SEQUENCER => self.sequencer.index,
            0x3c5 => self.sequencer.read(),
            DAC..=DAC_LAST => self.dac.read(port - DAC),
            GRAPHICS => self.graphics.index,
            0x3cf => self.graphics.read(),
            CRTC | CRTC_MONO => self.crtc.index,
            0x3d5 | 0x3b5 => self.crtc.read(),
            STATUS | STATUS_MONO => {
                self.attribute_data = false;
                self.status ^= STATUS_TOGGLES;
                self.status
            }
            // Feature control.
            0x3ca => 0,
            _ => 0xff,
        }
    }

    /// Writes a port.
    pub fn write(&mut self, port: u64, value: u8) {
        match port {
            ATTRIBUTE => {
                if self.attribute_data {
                    let index = self.attribute.index;
                    self.attribute.index &= ATTRIBUTE_INDEX;
                    self.attribute.write(value);
                    self.attribute.index = index;
                } else {
                    self.attribute.index = value & (ATTRIBUTE_INDEX | 1 << 5);
                }
                self.attribute_data = !self.attribute_data;
            }
            MISC_WRITE => self.misc = value,
            SEQUENCER => self.sequencer.index = value,
            0x3c5 => self.sequencer.write(value),
            DAC..=DAC_LAST => self.dac.write(port - DAC, value),
            GRAPHICS => self.graphics.index = value,
            0x3cf => self.graphics.write(value),
            CRTC | CRTC_MONO => self.crtc.index = value,
            0x3d5 | 0x3b5 => self.write_crtc(value),
            _ => {}
        }
    }

    /// The first eight are protected by a bit of the eighteenth, but for the line compare bit.
    fn write_crtc(&mut self, value: u8) {
        let is_protected = self.crtc(0x11) & CRTC_PROTECT != 0;
        match usize::from(self.crtc.index) {
            OVERFLOW if is_protected => {
                let kept = self.crtc(OVERFLOW) & !OVERFLOW_COMPARE;
                self.crtc.write(kept | value & OVERFLOW_COMPARE);
            }
            0..=OVERFLOW if is_protected => {}
            _ => self.crtc.write(value),
        }
    }

    /// The DAC.
    pub fn dac(&self) -> &Dac {
        &self.dac
    }

    /// What the registers say is shown.
    pub fn view(&self, eight_bits: bool) -> VgaView {
        const GRAPHICS_MODE: u8 = 1;
        const COLOURS_256: u8 = 1 << 6;
        const CHAIN_4: u8 = 1 << 3;
        if self.graphics.values[6] & GRAPHICS_MODE == 0 {
            return VgaView::Text(self.text(eight_bits));
        }
        let is_linear =
            self.graphics.values[5] & COLOURS_256 != 0 && self.sequencer.values[4] & CHAIN_4 != 0;
        if is_linear { self.bytes() } else { VgaView::Unknown }
    }

    /// Mode 0x13 and those like it.
    fn bytes(&self) -> VgaView {
        let width = (u32::from(self.crtc(1)) + 1) * 4;
        let height = (self.lines() / self.row_height()).max(1);
        let pitch = usize::from(self.crtc(0x13)) * 8;
        let start = usize::from(self.start()) * 4;
        let frame = Frame { width, height, depth: Depth::Indexed8, pitch, start };
        // Where the address would wrap, the mode is none that anything sets.
        let fits = pitch >= width as usize && start + frame.span() <= WINDOW_LEN;
        if fits { VgaView::Bytes(frame) } else { VgaView::Unknown }
    }

    fn text(&self, eight_bits: bool) -> TextMode {
        const EIGHT_DOTS: u8 = 1;
        const LINE_GRAPHICS: u8 = 1 << 2;
        const BLINK: u8 = 1 << 3;
        let control = self.attribute.values[0x10];
        let cell_height = self.row_height();
        let map = self.sequencer.values[3];
        TextMode {
            columns: u32::from(self.crtc(1)) + 1,
            rows: (self.lines() / cell_height).max(1),
            cell_width: if self.sequencer.values[1] & EIGHT_DOTS != 0 { 8 } else { 9 },
            cell_height,
            pitch: u32::from(self.crtc(0x13)) * 2,
            start: self.start(),
            cursor: self.cursor(),
            base: self.text_base(),
            colours: std::array::from_fn(|index| self.colour(index, eight_bits)),
            line_graphics: control & LINE_GRAPHICS != 0,
            blink: control & BLINK != 0,
            // Where attribute bit 3 is clear, and where it is set.
            fonts: [font_offset(map & 3, map >> 4 & 1), font_offset(map >> 2 & 3, map >> 5 & 1)],
        }
    }

    fn cursor(&self) -> Option<Cursor> {
        const OFF: u8 = 1 << 5;
        let (first, last) = (self.crtc(0x0a), self.crtc(0x0b) & 0x1f);
        let at = u16::from_be_bytes([self.crtc(0x0e), self.crtc(0x0f)]);
        (first & OFF == 0).then_some(Cursor { at, first: (first & 0x1f).into(), last: last.into() })
    }

    /// The colour that attribute value `index` selects, through the attribute palette and the DAC.
    fn colour(&self, index: usize, eight_bits: bool) -> u32 {
        const P54_FROM_SELECT: u8 = 1 << 7;
        let plane_enable = usize::from(self.attribute.values[0x12]);
        let select = self.attribute.values[0x14];
        let entry = self.attribute.values[index & plane_enable & 0xf] & 0x3f;
        let low = if self.attribute.values[0x10] & P54_FROM_SELECT != 0 {
            entry & 0xf | (select & 3) << 4
        } else {
            entry
        };
        self.dac.colour(low | (select >> 2 & 3) << 6, eight_bits)
    }

    /// Where text begins in the window, by the graphics controller's memory map.
    fn text_base(&self) -> usize {
        match self.graphics.values[6] >> 2 & 3 {
            2 => 0x1_0000,
            3 => 0x1_8000,
            _ => 0,
        }
    }

    /// Scan lines that are shown.
    fn lines(&self) -> u32 {
        let overflow = self.crtc(OVERFLOW);
        let end = u32::from(self.crtc(0x12))
            | u32::from(overflow >> 1 & 1) << 8
            | u32::from(overflow >> 6 & 1) << 9;
        end + 1
    }

    /// Scan lines a row of characters (or of doubled pixels).
    fn row_height(&self) -> u32 {
        u32::from(self.crtc(9) & 0x1f) + 1
    }

    fn start(&self) -> u16 {
        u16::from_be_bytes([self.crtc(0x0c), self.crtc(0x0d)])
    }

    fn crtc(&self, index: usize) -> u8 {
        self.crtc.values.get(index).copied().unwrap_or(0)
    }
}

/// Where a character map lies in plane 2: 16 KiB apart, the upper four 8 KiB after the lower.
fn font_offset(low: u8, high: u8) -> usize {
    usize::from(low) << 14 | usize::from(high) << 13
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(vga: &mut Vga, port: u64, index: u8, value: u8) {
        vga.write(port, index);
        vga.write(port + 1, value);
    }

    fn text(vga: &Vga) -> TextMode {
        match vga.view(false) {
            VgaView::Text(mode) => mode,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn after_reset_it_is_mode_3() {
        let mode = text(&Vga::default());
        assert_eq!((mode.columns, mode.rows, mode.pitch, mode.start), (80, 25, 80, 0));
        assert_eq!((mode.cell_width, mode.cell_height, mode.base), (9, 16, 0x1_8000));
        assert_eq!(mode.cursor, Some(Cursor { at: 0, first: 13, last: 14 }));
        assert_eq!([0, 6, 7, 15].map(|i| mode.colours[i]), [0, 0xaa_5500, 0xaa_aaaa, 0xff_ffff]);
    }

    #[test]
    fn the_attribute_port_takes_turns_that_the_status_resets() {
        let mut vga = Vga::default();
        vga.write(ATTRIBUTE, 0x30);
        vga.read(STATUS);
        vga.write(ATTRIBUTE, 1);
        vga.write(ATTRIBUTE, 0x3f);
        assert_eq!((vga.read(ATTRIBUTE), vga.read(ATTRIBUTE_READ)), (1, 0x3f));
        assert_eq!(text(&vga).colours[1], 0xff_ffff);
        let statuses = [0; 4].map(|_| vga.read(STATUS));
        assert_ne!(statuses[0], statuses[1]);
        assert_eq!(statuses[0], statuses[2]);
    }

    #[test]
    fn the_crtc_s_first_registers_are_protected() {
        let mut vga = Vga::default();
        put(&mut vga, CRTC, 1, 39);
        put(&mut vga, CRTC, 7, 0);
        assert_eq!((text(&vga).columns, text(&vga).rows), (80, 25));
        put(&mut vga, CRTC, 0x11, 0x0e);
        put(&mut vga, CRTC_MONO, 1, 39);
        assert_eq!(text(&vga).columns, 40);
        put(&mut vga, CRTC, 0x0c, 0x12);
        put(&mut vga, CRTC, 0x0d, 0x34);
        put(&mut vga, CRTC, 0x0a, 0x20);
        assert_eq!((text(&vga).start, text(&vga).cursor), (0x1234, None));
        assert_eq!((vga.read(CRTC), vga.read(0x3d5)), (0x0a, 0x20));
    }

    #[test]
    fn mode_13_is_320_by_200_bytes() {
        let mut vga = Vga::default();
        put(&mut vga, GRAPHICS, 6, 0x05);
        assert_eq!(vga.view(false), VgaView::Unknown);
        put(&mut vga, GRAPHICS, 5, 0x40);
        put(&mut vga, SEQUENCER, 4, 0x0e);
        put(&mut vga, CRTC, 9, 0x41);
        let depth = Depth::Indexed8;
        let frame = Frame { width: 320, height: 200, depth, pitch: 320, start: 0 };
        assert_eq!(vga.view(false), VgaView::Bytes(frame));
        put(&mut vga, CRTC, 0x0c, 0xff);
        assert_eq!(vga.view(false), VgaView::Unknown);
    }

    #[test]
    fn any_register_value_makes_a_sane_view() {
        proptest::proptest!(|(writes in proptest::collection::vec((0u64..0x30, 0u8..), 0..200))| {
            let mut vga = Vga::default();
            for (port, value) in writes {
                vga.write(PORTS + port, value);
                vga.read(PORTS + port);
                match vga.view(value & 1 != 0) {
                    VgaView::Text(mode) => {
                        assert!((1..=256).contains(&mode.columns) && (1..=1024).contains(&mode.rows));
                        assert!(mode.rows * mode.cell_height <= 1024);
                        assert!(mode.fonts.iter().all(|at| at + 0x2000 <= 0x1_0000));
                    }
                    VgaView::Bytes(frame) => assert!(frame.start + frame.span() <= WINDOW_LEN),
                    VgaView::Unknown => {}
                }
            }
        });
    }
}

//! Display, keyboard and mouse under guests of a few instructions: what they store is seen, what is
//! typed arrives.

use std::sync::Arc;

use devices::display::{Damage, Picture, Rect, Screen, TILE, font};
use devices::input::{Buttons, Key, Pointer};
use vmm::config::DisplayConfig;
use vmm::{ExitReason, Machine};

use super::{COM1, Code, Paper, RESET_CONTROL, start_on};

const SCREEN: DisplayConfig = DisplayConfig { width: 640, height: 480 };
/// Where direct boot puts video memory: at the start of the PCI window.
const VIDEO: u32 = 0x8000_0000;
const RED: u32 = 0xff_0000;
const GREEN: u32 = 0x00_ff00;
const BLUE: u32 = 0x00_00ff;
const ALL: Rect = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };

impl Code {
    /// Waits for a byte of the serial port.
    fn wait_for_input(self) -> Code {
        self.dx(COM1 + 5).bytes(&[0xec, 0xa8, 0x01, 0x74, 0xfb]).in8(COM1)
    }

    /// Waits until bit 0 of a port is set.
    fn wait_for_bit_0(self, port: u16) -> Code {
        self.dx(port).bytes(&[0xec, 0xa8, 0x01, 0x74, 0xfb])
    }

    /// Sets a DISPI register.
    fn dispi(self, index: u16, value: u16) -> Code {
        self.out16(0x1ce, index).out16(0x1cf, value)
    }
}

/// Somebody who watches.
struct Viewer {
    screen: Arc<dyn Screen>,
    picture: Picture,
    damage: Damage,
}

impl Viewer {
    fn new(machine: &Machine) -> Viewer {
        let screen = machine.handle().screen().expect("the machine has a display");
        screen.watch(true);
        Viewer { screen, picture: Picture::default(), damage: Damage::default() }
    }

    fn look(&mut self) -> Vec<Rect> {
        self.screen.paint(&mut self.picture, &mut self.damage);
        self.damage.take(&ALL)
    }

    fn size(&self) -> (u32, u32) {
        (self.picture.width(), self.picture.height())
    }
}

fn run(code: &Code) -> Option<(Machine, Arc<Paper>)> {
    start_on(Vec::new(), Some(SCREEN), code, 1, 32)
}

fn tell(machine: &Machine, paper: &Paper, answer: &str) {
    assert_eq!(machine.handle().console_input(b"."), 1);
    paper.wait_for(answer);
}

fn tile(x: u32, y: u32) -> Rect {
    Rect { x, y, width: TILE, height: TILE }
}

#[test]
fn what_a_guest_stores_is_seen_and_only_that() {
    let row = 640 * 4;
    let code = Code::default()
        .store(VIDEO, RED)
        .say("1")
        .wait_for_input()
        .store(VIDEO + 100 * row + 4 * 32, GREEN)
        // The same pixel again, and one that stays black.
        .store(VIDEO, RED)
        .store(VIDEO + 300 * row, 0)
        .say("2")
        .wait_for_input()
        .power_off();
    let Some((machine, paper)) = run(&code) else { return };
    paper.wait_for("1");
    let mut viewer = Viewer::new(&machine);
    assert_eq!(viewer.look(), [Rect { x: 0, y: 0, width: 640, height: 480 }]);
    assert_eq!((viewer.size(), viewer.picture.row(0)[0]), ((640, 480), RED));
    assert!(viewer.look().is_empty());
    tell(&machine, &paper, "2");
    assert_eq!(viewer.look(), [tile(32, 96)]);
    assert_eq!(viewer.picture.row(100)[32], GREEN);
    assert!(viewer.look().is_empty());
    machine.handle().console_input(b".");
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
}

#[test]
fn video_memory_follows_its_bar() {
    const MOVED: u32 = 0x9000_0000;
    // BAR 0 of 00:01.0 goes elsewhere, then nowhere (an address over RAM), then elsewhere again.
    let bar = |code: Code, address: u32| code.out32(0xcf8, 0x8000_0810).out32(0xcfc, address);
    let code = bar(Code::default().store(VIDEO, RED).say("1").wait_for_input(), MOVED)
        .store(MOVED + 4 * 64, BLUE)
        .store(VIDEO + 4 * 128, GREEN)
        .say("2")
        .wait_for_input();
    let code = bar(bar(code, 0x10_0000), MOVED + 0x100_0000)
        .store(MOVED + 4 * 256, GREEN)
        .store(MOVED + 0x100_0000 + 4 * 192, BLUE)
        .say("3")
        .wait_for_input()
        .power_off();
    let Some((machine, paper)) = run(&code) else { return };
    paper.wait_for("1");
    let mut viewer = Viewer::new(&machine);
    viewer.look();
    tell(&machine, &paper, "2");
    assert_eq!(viewer.look(), [tile(64, 0)]);
    tell(&machine, &paper, "3");
    assert_eq!(viewer.look(), [tile(192, 0)]);
    let row = viewer.picture.row(0);
    assert_eq!([0, 64, 128, 192, 256].map(|x| row[x]), [RED, BLUE, 0, BLUE, 0]);
    machine.handle().console_input(b".");
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
}

#[test]
fn a_guest_s_own_mode_and_text_are_shown() {
    let code = Code::default()
        .dispi(4, 0)
        .store(0xb_8000, 0x1f42_0741)
        .say("t")
        .wait_for_input()
        .dispi(1, 800)
        .dispi(2, 600)
        .dispi(3, 16)
        .dispi(4, 0x41)
        .store(VIDEO, 0xf800_001f)
        .say("m")
        .wait_for_input()
        .power_off();
    let Some((machine, paper)) = run(&code) else { return };
    paper.wait_for("t");
    let mut viewer = Viewer::new(&machine);
    viewer.look();
    assert_eq!(viewer.size(), (720, 400));
    // Below that is the cursor.
    for (y, bits) in (0..13).zip(font::glyph('A').unwrap()) {
        let seen = viewer.picture.row(y)[..8].iter().map(|pixel| *pixel == 0xaa_aaaa);
        assert!(seen.eq((0..8).map(|x| bits << x & 0x80 != 0)), "row {y}");
    }
    assert_eq!(viewer.picture.row(0)[9], 0x00_00aa);
    tell(&machine, &paper, "m");
    viewer.look();
    assert_eq!((viewer.size(), &viewer.picture.row(0)[..2]), ((800, 600), &[BLUE, RED][..]));
    machine.handle().console_input(b".");
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
}

#[test]
fn a_reset_sets_the_screen_up_anew() {
    let first = Code::default()
        .out8(0x70, 0x40)
        .out8(0x71, 1)
        .dispi(4, 0)
        .store(0xb_8000, 0x0741_0741)
        .out32(0xcf8, 0x8000_0810)
        .out32(0xcfc, 0x9000_0000)
        .out8(RESET_CONTROL, 6)
        .spin();
    let code = Code::default().out8(0x70, 0x40).in8(0x71).if_al_zero(first);
    let code = code.store(VIDEO + 4, BLUE).say("2").wait_for_input().dispi(4, 0).say("3");
    let Some((machine, paper)) = run(&code.wait_for_input().power_off()) else { return };
    paper.wait_for("2");
    let mut viewer = Viewer::new(&machine);
    viewer.look();
    assert_eq!((viewer.size(), &viewer.picture.row(0)[..2]), ((640, 480), &[0, BLUE][..]));
    tell(&machine, &paper, "3");
    viewer.look();
    assert!(viewer.picture.row(4).iter().all(|pixel| *pixel == 0), "text of before the reset");
    machine.handle().console_input(b".");
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
}

#[test]
fn what_is_typed_arrives_at_the_old_ports_too() {
    let echo = |code: Code| code.wait_for_bit_0(0x64).in8(0x60).send_al();
    let code = (0..4).fold(Code::default().say(">"), |code, _| echo(code)).power_off();
    let Some((machine, paper)) = run(&code) else { return };
    paper.wait_for(">");
    let input = machine.handle().input().expect("the machine has a keyboard");
    for key in [Key(30), Key(48)] {
        input.key(key, true);
        input.key(key, false);
    }
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!(*paper.0.lock().unwrap(), [b'>', 0x1e, 0x9e, 0x30, 0xb0]);
}

#[test]
fn keyboard_and_mouse_raise_interrupt_lines_1_and_12() {
    // Both controllers: ICW1 to ICW4, then OCW3: read requests.
    let pic = |code: Code, port: u16, vector, wiring| {
        code.out8(port, 0x11)
            .out8(port + 1, vector)
            .out8(port + 1, wiring)
            .out8(port + 1, 1)
            .out8(port, 0x0a)
    };
    let pics = |code| pic(pic(code, 0x20, 0x20, 4), 0xa0, 0x28, 2);
    // in al, dx; test al, 1 << 4; jz back: request bit 12 - 8.
    let mouse = |code: Code| code.dx(0xa0).bytes(&[0xec, 0xa8, 0x10, 0x74, 0xfb]).in8(0x60);
    // The mouse is switched on, its interrupt too. Its answer's interrupt is waited for, and then
    // forgotten by ICW1.
    let code =
        pics(Code::default()).out8(0x64, 0x60).out8(0x60, 0x47).out8(0x64, 0xd4).out8(0x60, 0xf4);
    let code = pics(mouse(code))
        .say("r")
        .dx(0x20)
        .bytes(&[0xec, 0xa8, 0x02, 0x74, 0xfb])
        .in8(0x60)
        .say("k")
        .wait_for_input()
        .say("m");
    let code = mouse(code).send_al().power_off();
    let Some((machine, paper)) = run(&code) else { return };
    paper.wait_for("r");
    let input = machine.handle().input().expect("the machine has a keyboard");
    input.key(Key(1), true);
    paper.wait_for("k");
    tell(&machine, &paper, "m");
    input.pointer(Pointer { buttons: Buttons::RIGHT, ..Pointer::default() });
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!(*paper.0.lock().unwrap(), [b'r', b'k', b'm', 0x0a]);
}

//! The screen of a whole system, from the kernel's first words to a desktop in two sizes. It is used as
//! by somebody who sits before it: what is typed goes by RFB, and what is known of the guest was seen.

use std::fs;
use std::time::Duration;

use berth_tests::{Area, Berth, Glyphs, Picture, Viewer, Watched, guest_file, scratch};

/// A system on an emulated machine that is not alone.
const PATIENCE: Duration = Duration::from_secs(1500);
const ADDRESS: &str = "127.0.0.1:5900";

// As `tests/images/desktop` sets them.
const ROOT_WINDOW: [u8; 3] = [0x2e, 0x6e, 0x9e];
const TERMINAL: [u8; 3] = [0x20, 0x00, 0x40];
const TERMINAL_SIZE: (usize, usize) = (100 * 8, 24 * 16);

/// The most that a theme takes for a window's frame and title, and for the task bar.
const FRAME: usize = 10;
const TITLE: usize = 40;
const BAR_ROWS: usize = 40;

const RIGHT_BUTTON: u8 = 1 << 2;
/// Its keysym.
const ESCAPE: u32 = 0xff1b;

fn start() -> Watched {
    let directory = scratch();
    let base = directory.path().join("base.qcow2");
    fs::copy(guest_file("desktop.qcow2"), &base).expect("room for the base");
    let machine = Berth::run()
        .patience(PATIENCE)
        .flag("--name", "desktop")
        .flag("--memory", "512M")
        .flag("--image-dir", directory.path())
        .flag("--control", directory.path().join("control"))
        .arg(&base)
        .start();
    Watched { directory, machine }
}

/// The inside of the only terminal window, once all of it is shown.
fn terminal(picture: &Picture) -> Option<Area> {
    picture.area_of(TERMINAL).filter(|area| (area.width, area.height) == TERMINAL_SIZE)
}

/// What a terminal window says.
fn terminal_text(picture: &Picture, glyphs: &Glyphs) -> Vec<String> {
    terminal(picture).map_or_else(Vec::new, |area| picture.part(area).text(glyphs))
}

/// The title of the terminal window.
fn title(picture: &Picture, terminal: Area, window: Area) -> Picture {
    picture.part(Area { y: window.y, height: terminal.y - window.y, ..terminal })
}

/// Takes a desktop of this size apart: its terminal, and the window around that. `None` if it is none,
/// or if anything but the two and a task bar along the bottom is seen of the root window.
fn windows(picture: &Picture, (width, height): (usize, usize)) -> Option<(Area, Area)> {
    if (picture.width, picture.height) != (width, height) {
        return None;
    }
    let desk = Area { x: 0, y: 0, width, height: height - BAR_ROWS };
    let (terminal, window) = (terminal(picture)?, picture.part(desk).area_without(ROOT_WINDOW)?);
    let left = terminal.x.checked_sub(window.x)?;
    let above = terminal.y.checked_sub(window.y)?;
    let more = window.width.checked_sub(terminal.width)?;
    let below = window.height.checked_sub(terminal.height)?;
    let bar = picture.part(Area { x: 0, y: height - 12, width, height: 1 });
    (left <= FRAME && more <= 2 * FRAME && (12..=TITLE).contains(&above) && below <= FRAME + TITLE)
        .then_some((terminal, window))
        .filter(|_| title(picture, terminal, window).colours().len() > 4)
        .filter(|_| !bar.colours().contains(&ROOT_WINDOW))
}

/// Waits for a desktop of this size, whose terminal has a line that begins so.
fn desktop(
    watched: &Watched,
    size: (usize, usize),
    glyphs: Option<&Glyphs>,
    line: &str,
) -> Picture {
    watched.until(&format!("a desktop of {size:?} that says {line:?}"), |picture| {
        let says =
            |glyphs| terminal_text(picture, glyphs).iter().any(|said| said.starts_with(line));
        windows(picture, size).is_some() && glyphs.is_none_or(says)
    })
}

/// Waits until the terminal has this title on a desktop of this size.
fn has_title(watched: &Watched, size: (usize, usize), wanted: &Picture) {
    watched.until("the title", |picture| {
        windows(picture, size)
            .is_some_and(|(terminal, window)| title(picture, terminal, window) == *wanted)
    });
}

fn centre(area: Area) -> (usize, usize) {
    (area.x + area.width / 2, area.y + area.height / 2)
}

/// From the boot to a shell on the text console, in a font that is learnt here.
fn log_in(watched: &mut Watched) -> Glyphs {
    // The serial console has a shell as soon as the screen has its prompt.
    watched.machine.wait_for("root@desktop");
    let glyphs = watched.learn();
    let says = |picture: &Picture, text: &str| {
        picture.text(&glyphs).iter().any(|line| line.contains(text))
    };
    let picture = watched.until("a login prompt", |picture| says(picture, "desktop login:"));
    watched.keep("login");
    assert_eq!((picture.width, picture.height), (1024, 768));
    let lines = picture.text(&glyphs);
    // The driver for this display, by its own words, among those of the kernel and of init.
    for text in [
        "] EXT4-fs (vda): ",
        "fb0: bochs-drmdrmfb frame buffer device",
        "INIT: Entering runlevel: 2",
    ] {
        assert!(says(&picture, text), "no {text:?} on the screen:\n{}", lines.join("\n"));
    }
    let mut viewer = Viewer::connect(ADDRESS);
    viewer.type_text("root\n");
    watched.until("a shell", |picture| says(picture, "root@desktop:~#"));
    viewer.type_text("startx\n");
    glyphs
}

/// Clicks into the terminal, and enters a line. A few characters at a time, and then they are waited
/// for: an X server that is slow to read its keyboard loses what does not fit into evdev's 64 events.
fn enter(watched: &Watched, viewer: &mut Viewer, (inside, glyphs): (Area, &Glyphs), line: &str) {
    click(viewer, centre(inside), 1);
    let mut shown = "desk: ".to_owned();
    for few in line.as_bytes().chunks(8) {
        let few = str::from_utf8(few).expect("ASCII");
        viewer.type_text(few);
        shown.push_str(few);
        watched.until(&format!("the line {shown:?}"), |picture| {
            let lines = terminal_text(picture, glyphs);
            let last = lines.iter().rfind(|line| line.starts_with("desk:"));
            last.is_some_and(|line| line.starts_with(&shown))
        });
    }
    viewer.type_text("\n");
}

fn click(viewer: &mut Viewer, (x, y): (usize, usize), button: u8) {
    let (x, y) =
        (u16::try_from(x).expect("on the screen"), u16::try_from(y).expect("on the screen"));
    viewer.pointer(x, y, 0);
    viewer.pointer(x, y, button);
    viewer.pointer(x, y, 0);
}

/// The pointer is drawn where it was put, and its right button opens the menu there; Escape closes it.
fn a_menu_opens(watched: &Watched, viewer: &mut Viewer, (x, y): (usize, usize), name: &str) {
    let away = (x - 100, y);
    click(viewer, away, 0);
    let around = Area { x: away.0 - 10, y: away.1 - 10, width: 40, height: 40 };
    let before = watched.until("the pointer", |picture| !picture.part(around).is_plain());
    let pointer = (0..1600).find(|at| before.part(around).pixel(at % 40, at / 40) != ROOT_WINDOW);
    // The tip of the arrow.
    let tip = pointer.map(|at| (around.x + at % 40, around.y + at / 40));
    assert!(tip.is_some_and(|(x, y)| x.abs_diff(away.0) < 3 && y.abs_diff(away.1) < 3), "{tip:?}");

    click(viewer, (x, y), RIGHT_BUTTON);
    let inside = Area { x: x + 15, y: y + 25, width: 40, height: 40 };
    let open = |picture: &Picture| !picture.part(inside).colours().contains(&ROOT_WINDOW);
    watched.until("a menu at the pointer", open);
    watched.keep(name);
    viewer.key(ESCAPE, true);
    viewer.key(ESCAPE, false);
    watched.until("the menu has gone", |picture| !open(picture));
}

#[test]
#[ignore = "needs KVM and the image desktop: tests/run desktop"]
fn a_desktop_is_seen_and_used() {
    const SMALL: (usize, usize) = (1024, 768);
    const LARGE: (usize, usize) = (1920, 1080);
    let mut watched = start();
    let console = log_in(&mut watched);

    let picture = desktop(&watched, SMALL, None, "");
    let (inside, _) = windows(&picture, SMALL).expect("a desktop");
    let mut glyphs = None;
    watched.until("every character in the terminal", |picture| {
        glyphs = Glyphs::learn(&picture.part(inside));
        glyphs.is_some()
    });
    let glyphs = &glyphs.expect("until it is some");
    desktop(&watched, SMALL, Some(glyphs), "desk:");
    let mut viewer = Viewer::connect(ADDRESS);
    a_menu_opens(&watched, &mut viewer, (700, 600), "menu-1024");
    // By now the window manager has painted all of the window's frame.
    click(&mut viewer, centre(inside), 0);
    let first = desktop(&watched, SMALL, Some(glyphs), "desk:");
    watched.keep("desktop-1024");
    let (inside, window) = windows(&first, SMALL).expect("a desktop");
    let title = title(&first, inside, window);

    enter(
        &watched,
        &mut viewer,
        (inside, glyphs),
        "xrandr --output Virtual-1 --mode 1920x1080; echo done $?",
    );
    let large = desktop(&watched, LARGE, Some(glyphs), "done 0");
    let (inside, _) = windows(&large, LARGE).expect("a desktop");
    has_title(&watched, LARGE, &title);
    watched.keep("desktop-1920");
    let mut viewer = Viewer::connect(ADDRESS);
    assert_eq!(viewer.size, (1920, 1080));
    a_menu_opens(&watched, &mut viewer, (1500, 800), "menu-1920");

    enter(
        &watched,
        &mut viewer,
        (inside, glyphs),
        "xrandr --output Virtual-1 --mode 1024x768; echo back $?",
    );
    let last = desktop(&watched, SMALL, Some(glyphs), "back 0");
    let (inside, _) = windows(&last, SMALL).expect("a desktop");
    has_title(&watched, SMALL, &title);
    watched.keep("desktop-1024-again");

    // The session's end is the text console's return.
    let mut viewer = Viewer::connect(ADDRESS);
    enter(&watched, &mut viewer, (inside, glyphs), "pkill icewm");
    watched.until("the text console", |picture| {
        picture.text(&console).iter().any(|line| line.starts_with("root@desktop:~#"))
    });
    watched.keep("console-again");
    viewer.type_text("poweroff\n");
    assert_eq!(watched.machine.wait_for_exit().exit_code, Some(0));
}

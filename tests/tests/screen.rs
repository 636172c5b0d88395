//! The screen as those see it who watch: pictures that are read, keys and pointer that arrive, and
//! viewers that behave well or badly. The guest's console is the kernel's own, on whatever it finds.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use berth_tests::{
    ALPHABET, Area, Kernel, Picture, SmallGuest, TigerVnc, Viewer, Watched, guest_file,
};

const ADDRESS: &str = "127.0.0.1:5900";

/// Prints the alphabet where a shell's script is told to.
fn alphabet(to: &str) -> String {
    let quoted = ALPHABET.map(|line| line.replace('\'', r"'\''"));
    format!("printf '%s\\n' '{}' '{}' >{to}\n", quoted[0], quoted[1])
}

/// Switches of the thread that paints from running to waiting, by its own choice.
fn rests_of_the_painter(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    for task in tasks.map(|task| task.expect("a thread").path()) {
        if fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "screen") {
            let status = fs::read_to_string(task.join("status")).expect("the thread's status");
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            return line.expect("the kernel counts them").to_owned();
        }
    }
    panic!("no thread is called screen");
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A shell on the first console, as after a login; the tablet's events; then a flood of text.
const AT_THE_DESK: &str = r"
modprobe virtio_input || exit 1
for e in /sys/class/input/event*; do
    case $(cat $e/device/name) in *[Tt]ablet*) tablet=/dev/input/${e##*/} ;; esac
done
[ -c $tablet ] || exit 2
setsid sh -c 'PS1=: exec sh -i </dev/tty1 >/dev/tty1 2>&1' &
(
    dd if=$tablet bs=24 count=3 2>/dev/null >/tmp/events
    echo @@ events $(hexdump -v -e '24/1 \%02x\ ' /tmp/events)
) &
echo @@ ready
read go </dev/ttyS0
echo @@ typed $(cat /tmp/typed)
(while [ ! -e /tmp/enough ]; do seq 100 140 >/dev/tty1; done) &
read go </dev/ttyS0
touch /tmp/enough
";

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_console_is_seen_and_used() {
    let job = AT_THE_DESK.replace(r"\%02x\ ", r#""%02x" " ""#);
    let job = format!("printf '\\033[2J\\033[H' >/dev/tty1\n{}{job}", alphabet("/dev/tty1"));
    let guest = SmallGuest::running(&job).kernel(Kernel::BzImage);
    let mut watched = Watched::start(guest);
    watched.machine.wait_for("@@ ready");
    let glyphs = watched.learn();
    let picture = watched.picture();
    assert_eq!((picture.width, picture.height), (1024, 768));

    // Unwatched, nobody wakes up.
    let pid = watched.machine.pid();
    let before = rests_of_the_painter(pid);
    sleep(Duration::from_secs(3));
    assert_eq!(rests_of_the_painter(pid), before, "the screen is looked at though nobody watches");

    let mut viewer = Viewer::connect(ADDRESS);
    assert_eq!((viewer.size, viewer.name.as_str()), ((1024, 768), "small"));
    viewer.request(false);
    assert_eq!(viewer.update(), 1024 * 768);
    // Shift on most of it, and found by the server.
    viewer.type_text("echo 'Is {this} ~ \"The\" |<Text>| & $1 @ 100% ?!' | tee /tmp/typed\n");
    watched.shows(&glyphs, "Is {this} ~ \"The\" |<Text>| & $1 @ 100% ?!");
    viewer.request(true);
    assert!(viewer.update() < 1024 * 768, "all of it, though a few lines have changed");
    the_pointer_lands(&mut watched, &mut viewer);
    watched.machine.send("go\n");
    let typed = watched.machine.wait_for_value("typed");
    assert_eq!(typed, "Is {this} ~ \"The\" |<Text>| & $1 @ 100% ?!");
    curl_and_strangers(&watched);
    ten_watch(&watched, viewer);
    watched.machine.send("go\n");
    watched.machine.wait_for_exit().expect_success();
}

fn the_pointer_lands(watched: &mut Watched, viewer: &mut Viewer) {
    viewer.pointer(600, 300, 0);
    let events = watched.machine.wait_for_value("events");
    let events: Vec<(u64, u64)> = events
        .split(' ')
        .map(|event| {
            let number = |at: usize, bytes: usize| {
                let byte = |i| u64::from_str_radix(&event[2 * (at + i)..][..2], 16).expect("hex");
                (0..bytes).map(|i| byte(i) << (8 * i)).sum()
            };
            (number(18, 2), number(20, 4))
        })
        .collect();
    // ABS_X and ABS_Y, in parts of 32768.
    let [(0, x), (1, y), (0, 0)] = events[..] else { panic!("{events:?}") };
    assert_eq!((x * 1024 / 32768, y * 768 / 32768), (600, 300));
}

fn curl_and_strangers(watched: &Watched) {
    let file = watched.directory.path().join("by-http.png");
    let curl = |path: &str, more: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "120", "--write-out", "%{http_code}"])
            .args(more)
            .arg("--output")
            .arg(&file)
            .arg(format!("http://{ADDRESS}{path}"))
            .output()
            .expect("curl is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(curl("/screenshot.png", &[]), "200");
    let picture = Picture::from_png(&fs::read(&file).expect("a picture"));
    assert_eq!((picture.width, picture.height), (1024, 768));
    assert!(!picture.is_plain());
    assert_eq!(curl("/healthz", &[]), "200");
    // A page of somebody else's in a browser of this host, by this host's address or a name of its own.
    let press = ["--data", "button", "--header", "Origin: http://example.com"];
    assert_eq!(curl("/power", &press), "403");
    assert_eq!(curl("/screenshot.png", &["--header", "Host: example.com"]), "421");
}

/// Some watch while one reads nothing and some talk nonsense.
fn ten_watch(watched: &Watched, mut first: Viewer) {
    let pid = watched.machine.pid();
    let before = resident_kib(pid);
    let mut stalled = Viewer::connect(ADDRESS);
    for _ in 0..1000 {
        stalled.request(false);
    }
    let mut nonsense = Viewer::connect(ADDRESS);
    nonsense.send(&[0xff; 64]);
    nonsense.is_sent_away();
    let mut others: Vec<Viewer> = (0..7).map(|_| Viewer::connect(ADDRESS)).collect();
    for round in 0..10 {
        first.request(true);
        assert!(first.update() > 0);
        for other in &mut others {
            other.request(round > 0);
            assert!(other.update() > 0);
        }
    }
    // A picture is 3 MiB, and one update is what a viewer that is behind has waiting. The guest's own
    // memory counts too, but it has nothing to do that would take more.
    let grown = resident_kib(pid).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more with ten viewers");
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn a_guest_without_a_display_has_its_serial_console_shown() {
    let job = format!("echo @@ ready\nread go </dev/ttyS0\n{}read go </dev/ttyS0\n", {
        let clear = "printf '\\033[2J\\033[H' >/dev/ttyS0\n";
        format!("{clear}{}echo @@ printed\n", alphabet("/dev/ttyS0"))
    });
    // By PVH a kernel is told of no framebuffer.
    let mut watched = Watched::start(SmallGuest::running(&job));
    watched.machine.wait_for("@@ ready");
    watched.machine.send("go\n");
    watched.machine.wait_for("@@ printed");
    let glyphs = watched.learn();
    watched.shows(&glyphs, "@@ printed");
    let picture = watched.picture();
    assert_eq!((picture.width, picture.height), (640, 400));
    // What is typed goes down the line.
    let mut viewer = Viewer::connect(ADDRESS);
    assert_eq!(viewer.name, "small (serial console)");
    viewer.type_text("go\n");
    watched.machine.wait_for_exit().expect_success();
}

/// What is typed for TigerVNC: a shell's line, and the keys of a German keyboard that write it, as
/// Linux numbers them, released ones negative. Shift is 42, AltGr 100, the dead acute 13.
const LINE: &str = "echo Ä@€{é|tee german|xxd -p";
#[rustfmt::skip]
const KEYS: &[(&str, &[i32])] = &[
    ("echo ", &[18, -18, 46, -46, 35, -35, 24, -24, 57, -57]),
    ("Ä", &[42, 40, -40, -42]),
    ("@", &[100, 16, -16, -100]),
    ("€", &[100, 18, -18, -100]),
    ("{", &[100, 8, -8, -100]),
    ("é", &[13, -13, 18, -18]),
    ("|", &[100, 86, -86, -100]),
    ("tee ", &[20, -20, 18, -18, 18, -18, 57, -57]),
    ("german", &[34, -34, 18, -18, 19, -19, 50, -50, 30, -30, 49, -49]),
    ("|", &[100, 86, -86, -100]),
    ("xxd -p", &[45, -45, 45, -45, 32, -32, 57, -57, 53, -53, 25, -25]),
];
const ENTER: &[i32] = &[28, -28];

/// A shell that reads lines from the first console, as the keyboard's layout has it.
const IN_TWO_LAYOUTS: &str = r"
modprobe virtio_input || exit 1
loadkmap </de.bkeymap || exit 2
(cd /tmp && setsid sh /dev/tty1 </dev/tty1 >/dev/tty1 2>&1) &
echo @@ ready
read go </dev/ttyS0
echo @@ german $(xxd -p /tmp/german)
loadkmap </us-intl.bkeymap || exit 3
echo @@ ready
read go </dev/ttyS0
echo @@ us $(xxd -p /tmp/us)
";

/// The bytes of a line, as `xxd -p` has them.
fn hex(text: &str) -> String {
    text.bytes().chain([b'\n']).map(|byte| format!("{byte:02x}")).collect()
}

/// A line of text, as a picture.
fn row(picture: &Picture, number: usize) -> Picture {
    picture.part(Area { x: 0, y: number * 16, width: picture.width, height: 16 })
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn tigervnc_and_vncdotool_type_with_shift_alt_gr_and_dead_keys() {
    assert_eq!(KEYS.iter().map(|(text, _)| *text).collect::<String>(), LINE);
    let keymap = |name: &str| fs::read(guest_file(&format!("small/{name}"))).expect("a keymap");
    let clear = "printf '\\033[2J\\033[H' >/dev/tty1\n";
    let job = format!("{clear}{}echo '{LINE}' >/dev/tty1\n{IN_TWO_LAYOUTS}", alphabet("/dev/tty1"));
    let guest = SmallGuest::running(&job)
        .kernel(Kernel::BzImage)
        .file("de.bkeymap", keymap("de.bkeymap"))
        .file("us-intl.bkeymap", keymap("us-intl.bkeymap"));
    let mut watched = Watched::start(guest);
    watched.machine.wait_for("@@ ready");
    let glyphs = watched.learn();

    // It knows which key can be told by its place as soon as it shows something.
    let viewer = TigerVnc::connect("127.0.0.1::5900", "de");
    let top = Area { x: 0, y: 0, width: 1024, height: 160 };
    let shows = |text: &str| {
        viewer.until(&format!("the line {text:?}"), |picture| {
            picture.part(top).text(&glyphs).iter().any(|line| line == text)
        });
    };
    shows(ALPHABET[1]);
    viewer
        .strike(&KEYS.iter().flat_map(|(_, keys)| *keys).chain(ENTER).copied().collect::<Vec<_>>());
    let german = hex("Ä@€{é");
    shows(&german);
    // What was typed looks like what the guest has written itself.
    let picture = watched.picture();
    assert!((3..10).any(|number| row(&picture, number) == row(&picture, 2)), "another line");
    watched.machine.send("go\n");
    assert_eq!(watched.machine.wait_for_value("german"), german);
    drop(viewer);

    // It tells no keys but what they make; U+FE51, for a keysym, is the dead acute.
    watched.machine.wait_for("@@ ready");
    let Some(vncdo) = std::env::var_os("BERTH_TEST_VNCDO") else {
        eprintln!("skipped: vncdotool, which BERTH_TEST_VNCDO names");
        return;
    };
    let typed = Command::new(vncdo)
        .args(["-s", "127.0.0.1::5900", "type", "echo Ä@€{à", "key", "\u{fe51}", "key", "e"])
        .args(["type", "|tee us|xxd -p", "key", "enter"])
        .output()
        .expect("vncdotool is installed");
    assert!(typed.status.success(), "{}", String::from_utf8_lossy(&typed.stderr));
    let us = hex("Ä@€{àé");
    watched.shows(&glyphs, &us);
    watched.machine.send("go\n");
    assert_eq!(watched.machine.wait_for_value("us"), us);
    watched.machine.wait_for_exit().expect_success();
}

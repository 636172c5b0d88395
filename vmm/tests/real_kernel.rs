//! A Debian kernel before the display: what it prints is seen, what is typed it reads. It needs a KVM
//! that runs stock kernels, and the small guest of `tests/guest/build`; so it is ignored.
//!
//!     cargo test -p berth-vmm --test real_kernel --no-run
//!     tests/nested-kvm -- target/debug/deps/real_kernel-… --ignored --nocapture
//!
//! With `BERTH_PICTURES` set to a directory, what was seen is left there as PPM files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devices::display::{Damage, Picture, Rect, Screen};
use devices::input::{Buttons, InputSink, Key, Pointer};
use devices::serial::Console;
use vmm::config::{BootConfig, DisplayConfig, Identity, MachineConfig};
use vmm::{ExitReason, Machine};

const PATIENCE: Duration = Duration::from_secs(300);
/// Keys that type "berth" and Enter.
const BERTH: [u16; 6] = [48, 18, 19, 20, 35, 28];
/// What the guest runs: a question on the screen, its answer on the serial port, then a picture.
const JOB: &str = r#"
modprobe virtio_input
cat /proc/bus/input/devices /proc/fb /proc/ioports >/dev/ttyS0
echo "name?" >/dev/tty0
echo "@@ ready" >/dev/ttyS0
read name </dev/tty1
echo "@@ name $name" >/dev/ttyS0
clear >/dev/tty1
echo "@@ cleared" >/dev/ttyS0
read more </dev/tty1
for event in /dev/input/event*; do timeout 3 hexdump -n 96 $event >/tmp/${event##*/} & done
echo "@@ pointer" >/dev/ttyS0
wait
head /tmp/event* >/dev/ttyS0
"#;

#[derive(Default)]
struct Paper(Mutex<Vec<u8>>);

impl Console for Paper {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend(bytes);
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.text().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {}", self.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn guest(name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/small");
    let path = std::env::var_os("BERTH_SMALL_GUEST").map_or(built, PathBuf::from).join(name);
    assert!(path.exists(), "{} is missing: run tests/guest/build", path.display());
    path
}

/// The small guest's initramfs, and an archive ("newc") with files for it behind.
fn initramfs() -> tempfile::NamedTempFile {
    let mut bytes = fs::read(guest("initramfs")).unwrap();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    for (name, content) in [("job", JOB.as_bytes()), ("TRAILER!!!", &[])] {
        let mode = if name.ends_with('!') { 0 } else { 0o100_755 };
        let lengths = (content.len() as u32, name.len() as u32 + 1);
        bytes.extend(b"070701");
        for field in [1, mode, 0, 0, 1, 0, lengths.0, 0, 0, 0, 0, lengths.1, 0] {
            bytes.extend(format!("{field:08X}").bytes());
        }
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

struct Viewer {
    screen: Arc<dyn Screen>,
    picture: Picture,
    damage: Damage,
}

impl Viewer {
    /// Paints; answers how many pixels of the picture lie in damaged tiles.
    fn look(&mut self, name: &str) -> u64 {
        self.screen.paint(&mut self.picture, &mut self.damage);
        let all = Rect { x: 0, y: 0, width: u32::MAX, height: u32::MAX };
        let damage = self.damage.take(&all);
        let area = damage.iter().map(|r| u64::from(r.width) * u64::from(r.height)).sum();
        println!(
            "{name}: {} × {}, {area} pixels in {} rectangles",
            self.picture.width(),
            self.picture.height(),
            damage.len()
        );
        if let Some(directory) = std::env::var_os("BERTH_PICTURES") {
            let (width, height) = (self.picture.width(), self.picture.height());
            let mut ppm = format!("P6 {width} {height} 255\n").into_bytes();
            for y in 0..height {
                ppm.extend(
                    self.picture.row(y).iter().flat_map(|p| [p >> 16, p >> 8, *p].map(|b| b as u8)),
                );
            }
            fs::write(Path::new(&directory).join(format!("{name}.ppm")), ppm).unwrap();
        }
        area
    }

    /// Lines of text (16 rows each) in which anything is.
    fn lines(&self) -> usize {
        let is_lit = |y: u32| self.picture.row(y).iter().any(|pixel| *pixel != 0);
        (0..self.picture.height() / 16)
            .filter(|line| (0..16).any(|y| is_lit(line * 16 + y)))
            .count()
    }
}

fn tap(input: &dyn InputSink, key: u16) {
    input.key(Key(key), true);
    input.key(Key(key), false);
}

#[test]
#[ignore = "needs a KVM that runs stock kernels, and the small guest"]
fn a_kernel_prints_on_the_screen_and_reads_the_keyboard() {
    let initrd = initramfs();
    let paper = Arc::new(Paper::default());
    let machine = Machine::start(MachineConfig {
        cpus: 1,
        memory_bytes: 256 << 20,
        hugepages: None,
        boot: BootConfig::Kernel {
            kernel: guest("bzImage"),
            initrd: Some(initrd.path().into()),
            cmdline: "console=ttyS0 console=tty0 panic=-1".into(),
        },
        disks: Vec::new(),
        nics: Vec::new(),
        display: Some(DisplayConfig { width: 1024, height: 768 }),
        balloon: None,
        vsock: None,
        console: paper.clone(),
        identity: Identity::default(),
        require_native_kvm: true,
    })
    .unwrap();
    let handle = machine.handle();
    let screen = handle.screen().unwrap();
    let input = handle.input().unwrap();
    screen.watch(true);
    let mut viewer = Viewer { screen, picture: Picture::default(), damage: Damage::default() };
    paper.wait_for("Linux version");
    viewer.look("early");
    paper.wait_for("@@ ready");
    viewer.look("log");
    assert_eq!((viewer.picture.width(), viewer.picture.height()), (1024, 768));
    assert!(viewer.lines() > 20, "the kernel's messages, not {} lines", viewer.lines());
    BERTH.iter().for_each(|key| tap(&*input, *key));
    paper.wait_for("@@ name berth");
    paper.wait_for("@@ cleared");
    viewer.look("cleared");
    assert!(viewer.lines() < 5, "{} lines are left", viewer.lines());
    // One letter is a change of a few tiles, whatever else the console rewrites.
    tap(&*input, 30);
    let deadline = Instant::now() + PATIENCE;
    let area = loop {
        match viewer.look("letter") {
            0 => assert!(Instant::now() < deadline, "the letter is never seen"),
            area => break area,
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(area <= 16 * 256, "a letter changes {area} pixels");
    tap(&*input, 28);
    paper.wait_for("@@ pointer");
    std::thread::sleep(Duration::from_secs(1));
    input.pointer(Pointer { x: 0x1234, y: 0x4321, buttons: Buttons::LEFT, ..Pointer::default() });
    input.pointer(Pointer { x: 0x1234, y: 0x4321, wheel: 1, ..Pointer::default() });
    tap(&*input, 57);
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    println!("{}", paper.text());
}

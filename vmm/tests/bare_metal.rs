//! The machine under guests of a few instructions: they run on any KVM, in milliseconds, and reach
//! what a distribution's kernel reaches only on its worst day.
//!
//! Each guest is an ELF kernel with a PVH entry point, assembled here: 32-bit code, flat segments.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devices::serial::Console;
use vmm::config::{BootConfig, DiskConfig, DisplayConfig, HugePage, Identity, MachineConfig};
use vmm::{ExitReason, Machine, StartError};

#[path = "bare_metal/counting.rs"]
mod counting;
#[path = "bare_metal/desktop.rs"]
mod desktop;

const COM1: u16 = 0x3f8;
const PM1_CONTROL: u16 = 0x604;
const PM1_ENABLE: u16 = 0x602;
const S5: u16 = 1 << 13;
const RESET_CONTROL: u16 = 0xcf9;
const PVPANIC: u16 = 0x505;
const ENTRY: u32 = 0x10_0000;

/// Serial output, collected.
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
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.text().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Machine code.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn bytes(mut self, bytes: &[u8]) -> Code {
        self.0.extend(bytes);
        self
    }
    fn dx(self, port: u16) -> Code {
        self.bytes(&[0x66, 0xba]).bytes(&port.to_le_bytes())
    }
    fn out8(self, port: u16, value: u8) -> Code {
        self.dx(port).bytes(&[0xb0, value, 0xee])
    }
    fn out16(self, port: u16, value: u16) -> Code {
        self.dx(port).bytes(&[0x66, 0xb8]).bytes(&value.to_le_bytes()).bytes(&[0x66, 0xef])
    }
    fn out32(self, port: u16, value: u32) -> Code {
        self.dx(port).bytes(&[0xb8]).bytes(&value.to_le_bytes()).bytes(&[0xef])
    }
    /// AL from a port.
    fn in8(self, port: u16) -> Code {
        self.dx(port).bytes(&[0xec])
    }
    /// Stores 32 bits at an address.
    fn store(self, address: u32, value: u32) -> Code {
        self.bytes(&[0xc7, 0x05]).bytes(&address.to_le_bytes()).bytes(&value.to_le_bytes())
    }
    fn say(self, text: &str) -> Code {
        text.bytes().fold(self, |code, byte| code.out8(COM1, byte))
    }
    /// Sends AL to the serial port.
    fn send_al(self) -> Code {
        self.dx(COM1).bytes(&[0xee])
    }
    fn power_off(self) -> Code {
        self.out16(PM1_CONTROL, S5).spin()
    }
    fn spin(self) -> Code {
        self.bytes(&[0xeb, 0xfe])
    }
    /// `then` runs only if AL is zero.
    fn if_al_zero(self, then: Code) -> Code {
        let distance = i8::try_from(then.0.len()).expect("a short jump");
        self.bytes(&[0x84, 0xc0, 0x75, distance as u8]).bytes(&then.0)
    }

    /// An ELF file: one segment at 1 MiB, and the PVH note.
    fn elf(&self) -> tempfile::NamedTempFile {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        elf.extend([2u16, 62].map(u16::to_le_bytes).concat());
        elf.extend(1u32.to_le_bytes());
        elf.extend([u64::from(ENTRY), 64, 0].map(u64::to_le_bytes).concat());
        elf.extend(0u32.to_le_bytes());
        elf.extend([64u16, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
        let segments = [(1u32, 0x200u64, u64::from(ENTRY), self.0.len() as u64), (4, 0x100, 0, 20)];
        for (kind, offset, address, len) in segments {
            elf.extend([kind, 7].map(u32::to_le_bytes).concat());
            elf.extend([offset, address, address, len, len, 4].map(u64::to_le_bytes).concat());
        }
        elf.resize(0x100, 0);
        elf.extend([4u32, 4, 18].map(u32::to_le_bytes).concat());
        elf.extend(b"Xen\0");
        elf.extend(ENTRY.to_le_bytes());
        elf.resize(0x200, 0);
        elf.extend(&self.0);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&elf).unwrap();
        file
    }
}

/// Runs `code` on a machine with `cpus` and `memory_mib`; `None`, aloud, where there is no KVM.
fn start(code: &Code, cpus: u32, memory_mib: u64) -> Option<(Machine, Arc<Paper>)> {
    start_on(Vec::new(), None, code, cpus, memory_mib)
}

/// The same with disks, and with a display or without.
fn start_on(
    disks: Vec<DiskConfig>,
    display: Option<DisplayConfig>,
    code: &Code,
    cpus: u32,
    memory_mib: u64,
) -> Option<(Machine, Arc<Paper>)> {
    let kernel = code.elf();
    let paper = Arc::new(Paper::default());
    let config = MachineConfig {
        cpus,
        memory_bytes: memory_mib << 20,
        hugepages: None,
        boot: BootConfig::Kernel {
            kernel: kernel.path().into(),
            initrd: None,
            cmdline: "quiet".into(),
        },
        disks,
        nics: Vec::new(),
        display,
        balloon: None,
        vsock: None,
        console: paper.clone(),
        identity: Identity::default(),
        require_native_kvm: false,
    };
    match Machine::start(config) {
        // A reset reads the kernel again: it stays until the test's process ends.
        Ok(machine) => {
            kernel.keep().unwrap();
            Some((machine, paper))
        }
        Err(StartError::Kvm(error)) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn run(code: &Code, cpus: u32, memory_mib: u64) -> Option<(ExitReason, String)> {
    let (machine, paper) = start(code, cpus, memory_mib)?;
    let reason = machine.wait();
    Some((reason, paper.text()))
}

#[test]
fn a_guest_speaks_and_powers_off() {
    let code = Code::default().say("hello").power_off();
    let Some(result) = run(&code, 1, 32) else { return };
    assert_eq!(result, (ExitReason::PoweredOff, "hello".into()));
}

#[test]
fn a_reset_boots_again_in_the_same_process() {
    // CMOS memory survives a reset; RAM is loaded anew.
    let first =
        Code::default().out8(0x70, 0x40).out8(0x71, 1).say("1").out8(RESET_CONTROL, 6).spin();
    let code = Code::default().out8(0x70, 0x40).in8(0x71).if_al_zero(first).say("2").power_off();
    for cpus in [1, 4] {
        let Some(result) = run(&code, cpus, 32) else { return };
        assert_eq!(result, (ExitReason::PoweredOff, "12".into()), "{cpus} vCPUs");
    }
}

#[test]
fn every_reset_register_resets() {
    for (port, value) in [(0x64, 0xfe), (0x92, 1), (RESET_CONTROL, 0x0e)] {
        let first = Code::default().out8(0x70, 0x40).out8(0x71, 1).out8(port, value).spin();
        let code = Code::default().out8(0x70, 0x40).in8(0x71).if_al_zero(first).power_off();
        let Some((reason, _)) = run(&code, 1, 32) else { return };
        assert_eq!(reason, ExitReason::PoweredOff, "port {port:#x}");
    }
}

#[test]
fn panics_and_triple_faults_are_told_apart() {
    let code = Code::default().out8(PVPANIC, 1).spin();
    let Some((reason, _)) = run(&code, 1, 32) else { return };
    assert_eq!(reason, ExitReason::GuestPanicked);
    // An interrupt descriptor table of length 0, and an undefined instruction.
    let code = Code::default().bytes(&[0x0f, 0x01, 0x1d]).bytes(&(ENTRY + 64).to_le_bytes());
    let Some((reason, _)) = run(&code.bytes(&[0x0f, 0x0b]), 1, 32) else { return };
    assert_eq!(reason, ExitReason::TripleFault);
}

#[test]
fn stop_ends_a_guest_that_never_exits() {
    let code = Code::default().say("x").spin();
    for cpus in [1, 3] {
        let Some((machine, paper)) = start(&code, cpus, 32) else { return };
        paper.wait_for("x");
        let handle = machine.handle();
        handle.stop().unwrap();
        assert_eq!(machine.wait(), ExitReason::Stopped);
        assert!(handle.stop().is_err(), "the handle outlives the machine, and says so");
    }
}

#[test]
fn a_reset_from_outside_is_a_reset() {
    let first = Code::default().out8(0x70, 0x40).out8(0x71, 1).say("1").spin();
    let code = Code::default().out8(0x70, 0x40).in8(0x71).if_al_zero(first).say("2").power_off();
    let Some((machine, paper)) = start(&code, 2, 32) else { return };
    paper.wait_for("1");
    machine.handle().reset().unwrap();
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!(paper.text(), "12");
}

#[test]
fn the_power_button_reaches_the_status_register() {
    // Enable it, say so, wait for bit 8 (bit 0 of the second byte), power off.
    let wait = Code::default().out16(PM1_ENABLE, 1 << 8).say("r").dx(0x601);
    // in al, dx; test al, 1; jz back
    let code = wait.bytes(&[0xec, 0xa8, 0x01, 0x74, 0xfb]).say("b").power_off();
    let Some((machine, paper)) = start(&code, 1, 32) else { return };
    paper.wait_for("r");
    machine.handle().power_button().unwrap();
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!(paper.text(), "rb");
}

#[test]
fn the_power_button_raises_interrupt_line_9() {
    // ICW1 to ICW4 of the slave controller, so that it works; OCW3: read requests.
    let pic = Code::default()
        .out8(0xa0, 0x11)
        .out8(0xa1, 0x28)
        .out8(0xa1, 2)
        .out8(0xa1, 1)
        .out8(0xa0, 0x0a);
    let wait = pic.out16(PM1_ENABLE, 1 << 8).say("r").dx(0xa0);
    // in al, dx; test al, 2; jz back
    let code = wait.bytes(&[0xec, 0xa8, 0x02, 0x74, 0xfb]).say("i").power_off();
    let Some((machine, paper)) = start(&code, 1, 32) else { return };
    paper.wait_for("r");
    machine.handle().power_button().unwrap();
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!(paper.text(), "ri");
}

#[test]
fn typed_input_arrives() {
    // Wait for the line status's data-ready bit, echo three bytes, power off.
    let echo =
        |code: Code| code.dx(COM1 + 5).bytes(&[0xec, 0xa8, 0x01, 0x74, 0xfb]).in8(COM1).send_al();
    let code = (0..3).fold(Code::default().say(">"), |code, _| echo(code)).power_off();
    let Some((machine, paper)) = start(&code, 1, 32) else { return };
    paper.wait_for(">");
    assert_eq!(machine.handle().console_input(b"abc"), 3);
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!(paper.text(), ">abc");
}

#[test]
fn configuration_space_is_where_ports_and_ecam_say() {
    // Vendor of 00:1f.0 through the ports, then through the ECAM window at 0xe000_0000.
    let code = Code::default().out32(0xcf8, 0x8000_f800).in8(0xcfc).send_al();
    let code = code.bytes(&[0xa0]).bytes(&0xe00f_8001u32.to_le_bytes()).send_al().power_off();
    let Some((machine, paper)) = start(&code, 1, 32) else { return };
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!(*paper.0.lock().unwrap(), [0x86, 0x80]);
}

#[test]
fn holes_read_ones_and_swallow_writes() {
    // mov al, [0xfed40000]; then a write there; then an unclaimed port.
    let hole = 0xfed4_0000u32.to_le_bytes();
    let code = Code::default().bytes(&[0xa0]).bytes(&hole).send_al();
    let code = code.bytes(&[0xa2]).bytes(&hole).in8(0x2e9).send_al().power_off();
    let Some((machine, paper)) = start(&code, 1, 32) else { return };
    assert_eq!(machine.wait(), ExitReason::PoweredOff);
    assert_eq!(*paper.0.lock().unwrap(), [0xff, 0xff]);
}

#[test]
fn wrong_configurations_are_refused_in_words() {
    let code = Code::default().power_off();
    let kernel = code.elf();
    let huge = |cpus, memory_bytes, display, hugepages| {
        let path = kernel.path();
        let config = MachineConfig {
            cpus,
            memory_bytes,
            hugepages,
            boot: BootConfig::Kernel { kernel: path.into(), initrd: None, cmdline: String::new() },
            disks: Vec::new(),
            nics: Vec::new(),
            display,
            balloon: None,
            vsock: None,
            console: Arc::new(Paper::default()),
            identity: Identity::default(),
            require_native_kvm: false,
        };
        Machine::start(config).err().expect("refused").to_string()
    };
    let with = |cpus, memory_bytes, display| huge(cpus, memory_bytes, display, None);
    assert!(with(0, 64 << 20, None).contains("0 vCPUs"));
    assert!(with(65, 64 << 20, None).contains("65 vCPUs"));
    assert!(with(1, 1 << 20, None).contains("1048576 bytes of memory"));
    let refused = huge(1, 64 << 20, None, Some(HugePage::OneGib));
    assert!(refused.contains("67108864 bytes of memory are not a multiple of huge pages of 1 GiB"));
    let display = DisplayConfig { width: 4000, height: 4000 };
    let refused = with(1, 64 << 20, Some(display));
    assert!(refused.contains("4000 × 4000 pixels"), "{refused}");
}

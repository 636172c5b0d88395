//! The lists, and processes that are confined: each is this test program once more, since it cannot
//! be undone.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use devices::serial::Console;
use devices::virtio::vsock::Sockets;
use vmm::config::{BootConfig, Identity, MachineConfig};
use vmm::{ExitReason, Machine};

use super::calls::{self, Argument, Call};
use super::files::Files;
use super::threads::Kind;
use super::*;
use crate::exit;

/// What the second process is to do.
const TASK: &str = "BERTH_TEST_SANDBOX";
/// getppid(2): nobody needs it.
const FORBIDDEN_CALL: libc::c_long = libc::SYS_getppid;
/// The kernel takes no longer programs (BPF_MAXINSNS).
const LONGEST: usize = 4096;

/// A name of a thread of each kind that has a filter.
const NAMES: [(Kind, &str); 13] = [
    (Kind::Vcpu, "vcpu12"),
    (Kind::Machine, "machine"),
    (Kind::Guestfs, "guestfs"),
    (Kind::Disk, "blk0"),
    (Kind::Net, "net0"),
    (Kind::Vsock, "vsock"),
    (Kind::Plain, "rng"),
    (Kind::Painter, "screen"),
    (Kind::Listener, "listen"),
    (Kind::Connection, "viewer7"),
    (Kind::Dhcp, "dhcp"),
    (Kind::Memory, "memory"),
    (Kind::Signals, "signals"),
];

#[test]
fn every_kind_has_its_place_and_a_name() {
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, place);
        let unnamed = [Kind::Main, Kind::Caretaker, Kind::Fetch].contains(&kind);
        assert_eq!(NAMES.iter().any(|(named, _)| *named == kind), !unnamed, "{kind:?}");
    }
    for (kind, name) in NAMES {
        assert_eq!(Kind::of(name), Some(kind), "{name}");
    }
    assert_eq!(
        [Kind::of("blk"), Kind::of("control-conn")],
        [Some(Kind::Disk), Some(Kind::Connection)]
    );
    assert_eq!([Kind::of(""), Kind::of("starter"), Kind::of("7")], [None; 3]);
}

#[test]
fn lists_are_in_order_and_say_nothing_twice() {
    let of = |kind: Kind| {
        kind.calls().unwrap_or_default().iter().map(move |list| (format!("{kind:?}"), *list))
    };
    let lists = Kind::ALL.into_iter().flat_map(of);
    let more = [("every thread", calls::EVERY_THREAD), ("starting", calls::STARTING)];
    for (name, list) in lists.chain(more.map(|(name, list)| (name.to_owned(), list))) {
        for pair in list.windows(2) {
            let [one, next] = pair else { panic!("two") };
            assert!(
                one.number < next.number
                    || (one.number == next.number
                        && one.argument.is_some()
                        && next.argument.is_some()),
                "{name}: {} before {}",
                one.number,
                next.number
            );
        }
        // Some have for all arguments what every thread has for one.
        let whole = || calls::EVERY_THREAD.iter().filter(|one| one.argument.is_none());
        let everywhere = |call: &Call| whole().any(|one| one.number == call.number);
        if name != "every thread" && name != "starting" {
            assert!(!list.iter().any(everywhere), "{name} has a call that every thread has");
        }
    }
}

#[test]
fn requests_are_of_the_size_that_they_say() {
    for call in Kind::ALL.into_iter().filter_map(Kind::calls).flatten().copied().flatten() {
        if let Some(Argument::OneOf { index: 1, values }) = call.argument {
            for value in values.iter().filter(|_| call.number == libc::SYS_ioctl) {
                assert!(u32::try_from(*value).is_ok(), "{value:#x}");
            }
        }
    }
}

#[test]
fn filters_are_made_and_short_enough() {
    for wish in [Enforcement::On, Enforcement::Log] {
        let filters = filters::compile_all(wish).unwrap();
        for kind in Kind::ALL {
            let length = filters.of(kind).len();
            assert!(length < LONGEST && (length > 50 || kind == Kind::Fetch), "{kind:?}: {length}");
        }
        assert!(filters.base.len() < LONGEST && filters.no_clone3.len() > 3);
    }
}

/// This program once more, confined, with `task`.
fn second(task: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "sandbox::tests::in_a_second_process"])
        .args(["--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "by the other tests, in a process of its own"]
fn in_a_second_process() {
    let Ok(task) = std::env::var(TASK) else { return };
    begin(Enforcement::On, LogForm::Text).unwrap();
    match task.split_once(' ') {
        Some(("early", name)) => die_in(name),
        Some(("late", name)) => {
            Sandbox::enter(&Files::default(), None).unwrap();
            die_in(name)
        }
        Some(("open", path)) => {
            let dir = Path::new(path).parent().unwrap();
            let sandbox = Sandbox::enter(&Files::reading(&dir.join("may")), None).unwrap();
            drop(sandbox);
            let read = |name: &str| fs::read_to_string(dir.join(name)).is_ok();
            println!("{} {}", read("may/file"), read("may-not"));
        }
        Some(("log", path)) => {
            Sandbox::enter(&Files::default(), Some(Path::new(path))).unwrap();
            die_in("signals")
        }
        Some(("call", dir)) => call(Path::new(dir)),
        Some(("machine", kernel)) => run_machine(Path::new(kernel)),
        _ => panic!("{task}"),
    }
}

/// A thread of this name makes a call that is forbidden it.
fn die_in(name: &str) {
    let thread = devices::thread::start(name, nix::unistd::getppid);
    thread.unwrap().join();
    println!("it has survived");
}

/// How a process has ended, and what it said.
fn end_of(mut child: Child) -> (Option<i32>, String, String) {
    let (mut out, mut said) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), out, said)
}

#[test]
fn a_forbidden_call_ends_the_process_and_is_reported_whichever_thread_makes_it() {
    for time in ["early", "late"] {
        for (_, name) in NAMES {
            let (code, out, said) = end_of(second(&format!("{time} {name}")));
            assert_eq!(code, Some(exit::FORBIDDEN.into()), "{name}: {out}{said}");
            let want = format!(
                "Z berth error: thread {name} was stopped at system call {FORBIDDEN_CALL}, which"
            );
            assert!(said.contains(&want), "{name}: {said}");
            assert!(!out.contains("survived"), "{out}");
        }
    }
}

#[test]
fn the_termination_log_has_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("termination-log");
    fs::write(&path, "of before, and longer than what is written now: ".repeat(20)).unwrap();
    let (code, ..) = end_of(second(&format!("log {}", path.display())));
    assert_eq!(code, Some(exit::FORBIDDEN.into()));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("thread signals was stopped at system call 110, which"), "{text}");
    assert!(text.ends_with("give --sandbox off\n"), "{text}");
}

#[test]
fn files_that_nobody_needs_cannot_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("may")).unwrap();
    fs::write(dir.path().join("may/file"), "").unwrap();
    fs::write(dir.path().join("may-not"), "").unwrap();
    let (code, out, said) = end_of(second(&format!("open {}/x", dir.path().display())));
    assert_eq!(code, Some(0), "{out}{said}");
    if files::is_enforced() {
        assert!(out.contains("true false\n"), "{out}");
    } else {
        eprintln!("skipped: there is no Landlock here");
    }
}

/// Makes the calls of the device's thread: to a socket that may be reached, and to one that may not.
fn call(dir: &Path) {
    let sockets = |place: &str| {
        let path = dir.join(place).join("v");
        Sockets::new(UnixListener::bind(&path).unwrap(), path).unwrap()
    };
    let (may, may_not) = (sockets("may"), sockets("may-not"));
    let mut files = Files::default();
    files.calling(&dir.join("may"));
    Sandbox::enter(&files, None).unwrap();
    let calls = move || {
        let nobody = may.accept().unwrap().is_none();
        (nobody, may.connect(1).is_ok(), may.connect(2).is_ok(), may_not.connect(1).is_ok())
    };
    println!("{:?}", devices::thread::start("vsock", calls).unwrap().join().unwrap());
}

#[test]
fn the_guest_s_connections_lead_to_sockets_beside_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let _listeners = ["may", "may-not"].map(|place| {
        fs::create_dir(dir.path().join(place)).unwrap();
        UnixListener::bind(dir.path().join(place).join("v_1")).unwrap()
    });
    let (code, out, said) = end_of(second(&format!("call {}", dir.path().display())));
    assert_eq!(code, Some(0), "{out}{said}");
    assert!(out.contains("(true, true, false, "), "{out}{said}");
    if files::is_enforced_for_sockets() {
        assert!(out.contains("(true, true, false, false)\n"), "{out}");
    } else {
        eprintln!("skipped: the Landlock here knows no sockets");
    }
}

#[derive(Default)]
struct Nowhere;

impl Console for Nowhere {
    fn write(&self, _: &[u8]) {}
}

fn run_machine(kernel: &Path) {
    let mut files = Files::reading(kernel.parent().unwrap());
    files.device(Path::new(vmm::kvm::DEVICE));
    let sandbox = Sandbox::enter(&files, None).unwrap().unwrap();
    let config = MachineConfig {
        balloon: None,
        vsock: None,
        cpus: 2,
        memory_bytes: 64 << 20,
        hugepages: None,
        boot: BootConfig::Kernel { kernel: kernel.into(), initrd: None, cmdline: "quiet".into() },
        disks: Vec::new(),
        nics: Vec::new(),
        display: None,
        console: Arc::new(Nowhere),
        identity: Identity::default(),
        require_native_kvm: false,
    };
    let machine = match Machine::start(config) {
        Ok(machine) => machine,
        Err(error) => return println!("skipped: {error}"),
    };
    sandbox.settle().unwrap();
    let handle = machine.handle();
    println!("up");
    let wait = || std::io::stdin().read_line(&mut String::new()).unwrap();
    wait();
    handle.reset().unwrap();
    while handle.resets() == 0 {
        std::thread::yield_now();
    }
    println!("up again");
    wait();
    handle.stop().unwrap();
    assert_eq!(machine.wait(), ExitReason::Stopped);
    println!("down");
}

/// A kernel that does nothing for ever: an ELF file with a PVH entry (`vmm/tests/bare_metal.rs`).
fn kernel(dir: &Path) -> PathBuf {
    const ENTRY: u32 = 0x10_0000;
    let code = [0xeb, 0xfe];
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2u16, 62].map(u16::to_le_bytes).concat());
    elf.extend(1u32.to_le_bytes());
    elf.extend([u64::from(ENTRY), 64, 0].map(u64::to_le_bytes).concat());
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, offset, address, len) in
        [(1u32, 0x200u64, u64::from(ENTRY), code.len() as u64), (4, 0x100, 0, 20)]
    {
        elf.extend([kind, 7].map(u32::to_le_bytes).concat());
        elf.extend([offset, address, address, len, len, 4].map(u64::to_le_bytes).concat());
    }
    elf.resize(0x100, 0);
    elf.extend([4u32, 4, 18].map(u32::to_le_bytes).concat());
    elf.extend(b"Xen\0");
    elf.extend(ENTRY.to_le_bytes());
    elf.resize(0x200, 0);
    elf.extend(code);
    let path = dir.join("kernel");
    fs::write(&path, elf).unwrap();
    path
}

#[test]
fn a_machine_runs_is_reset_and_ends_with_every_thread_confined() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = second(&format!("machine {}", kernel(dir.path()).display()));
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut hear = |want: &str| {
        let mut line = String::new();
        while out.read_line(&mut line).unwrap() > 0 {
            if line.contains("skipped: ") || line.contains(want) {
                return !line.contains("skipped: ");
            }
            line.clear();
        }
        panic!("it has ended before it was {want}");
    };
    if !hear("up") {
        eprintln!("skipped: there is no KVM here");
        child.wait().unwrap();
        return;
    }
    for then in ["up again", "down"] {
        // A thread that has just been started is still called as its starter is.
        let all = ["vcpu0", "vcpu1", "machine", "starter"].map(str::to_owned);
        while !all.iter().all(|name| confined(child.id()).contains(name)) {
            std::thread::yield_now();
        }
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert!(hear(then));
    }
    assert!(child.wait().unwrap().success());
}

/// The names of a process's threads, each of which has nothing that could be given up: but the first,
/// which is the test harness's.
fn confined(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let tasks = tasks.filter(|task| !task.ends_with(pid.to_string()));
    let one = |task: PathBuf| {
        let status = fs::read_to_string(task.join("status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_start_matches(':').trim().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(value(set), "0000000000000000", "{status}");
        }
        assert_eq!((value("NoNewPrivs"), value("Seccomp")), ("1".into(), "2".into()), "{status}");
        value("Name")
    };
    tasks.map(one).collect()
}

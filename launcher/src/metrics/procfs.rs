//! Processor time and memory as the kernel counts them, from `/proc` (proc_pid_stat(5)).
//!
//! The files are opened once, when the vCPUs' threads are there, and read when somebody asks; so a
//! process that may not open files any more can still tell. Runs on any thread.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// USER_HZ: part of the kernel's interface on x86-64, whatever its own clock is.
const TICKS_PER_SECOND: u64 = 100;
/// A page, on x86-64.
const PAGE: u64 = 4096;
/// The most vCPUs that are looked for.
const CPUS_MAX: usize = vmm::config::MAX_CPUS as usize;

/// Where fields are in what follows the name, which begins with field 3.
const UTIME: usize = 14 - 3;
const STIME: usize = 15 - 3;
const RSS: usize = 24 - 3;
const GUEST_TIME: usize = 43 - 3;

/// Processor time of a thread or a process. What is in one of them is in no other, but that guest time
/// is user time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Outside the kernel, guest code included.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
    /// Running guest code.
    pub guest: Duration,
}

/// One `stat` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Processor time.
    pub times: Times,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
}

impl Stat {
    /// Reads a line; `None`: it is none.
    pub fn parse(line: &str) -> Option<Stat> {
        // The name may contain anything, but nothing after it contains a bracket.
        let (_, fields) = line.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let time = |at| {
            let ticks = number(at)?;
            Some(Duration::from_millis(ticks.checked_mul(1000 / TICKS_PER_SECOND)?))
        };
        let times = Times { user: time(UTIME)?, system: time(STIME)?, guest: time(GUEST_TIME)? };
        Some(Stat { times, resident_bytes: number(RSS)?.checked_mul(PAGE)? })
    }
}

/// The open files.
#[derive(Debug, Default)]
pub struct Procfs {
    process: Option<File>,
    /// By their numbers.
    cpus: Vec<Option<File>>,
}

impl Procfs {
    /// Opens what there is of this process; `task` and `stat` are its entries in `/proc/self`. What
    /// cannot be opened is not told of.
    pub fn open(proc_self: &Path) -> Self {
        let mut cpus = Vec::new();
        for entry in fs::read_dir(proc_self.join("task")).into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let number = name.trim().strip_prefix("vcpu").and_then(|digits| digits.parse().ok());
            let Some(number) = number.filter(|number: &usize| *number < CPUS_MAX) else { continue };
            if cpus.len() <= number {
                cpus.resize_with(number.saturating_add(1), || None);
            }
            if let Some(place) = cpus.get_mut(number) {
                *place = File::open(entry.path().join("stat")).ok();
            }
        }
        Self { process: File::open(proc_self.join("stat")).ok(), cpus }
    }

    /// Of the whole process.
    pub fn process(&self) -> Option<Stat> {
        read(self.process.as_ref()?)
    }

    /// Of the thread of vCPU `number`.
    pub fn cpu(&self, number: usize) -> Option<Times> {
        Some(read(self.cpus.get(number)?.as_ref()?)?.times)
    }
}

fn read(file: &File) -> Option<Stat> {
    let mut line = [0; 2048];
    let count = file.read_at(&mut line, 0).ok()?;
    Stat::parse(str::from_utf8(line.get(..count)?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "42 (a ) b (c) S 1 42 42 0 -1 4194304 9 8 7 6 150 25 3 4 20 0 5 0 12345 \
                        104857600 1000 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 120 \
                        0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn a_line_is_read_whatever_the_name() {
        let ms = Duration::from_millis;
        let times = Times { user: ms(1500), system: ms(250), guest: ms(1200) };
        assert_eq!(Stat::parse(LINE), Some(Stat { times, resident_bytes: 4_096_000 }));
        for bad in ["", "42 (a", "42 (a) S 1 2", &LINE.replace(" 150 ", " -1 ")] {
            assert_eq!(Stat::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_process_is_told_of() {
        let thread = std::thread::Builder::new().name("vcpu3".to_owned());
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let (named, is_named) = std::sync::mpsc::channel::<()>();
        let run = move || {
            named.send(()).unwrap();
            // Until the other end is dropped.
            let _ = wait.recv();
        };
        let thread = thread.spawn(run).unwrap();
        is_named.recv().unwrap();
        let procfs = Procfs::open(Path::new("/proc/self"));
        assert!(procfs.process().unwrap().resident_bytes > 1 << 20);
        assert!(procfs.cpu(3).is_some() && procfs.cpu(2).is_none() && procfs.cpu(4).is_none());
        drop(end);
        thread.join().unwrap();
        let none = Procfs::open(Path::new("/nowhere"));
        assert!(none.process().is_none() && none.cpu(0).is_none());
    }
}

//! The program's own pages, which stay in memory while the pod is short of it.
//!
//! They are page cache, and that is what the kernel takes first. Without them each step of the program
//! is a fault, for whose page the kernel lets it wait, up to two seconds each above `memory.high`: a
//! guest that was asked for memory could not run to give it. So what is in use when memory becomes
//! short is locked (mlock(2)), as far as the limit on that goes (`RLIMIT_MEMLOCK`, 8 MiB by default):
//! nothing is read for it, and nothing is locked where memory never is short.

#![allow(unsafe_code)] // mlock(2) takes an address.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;

use nix::sys::mman::mlock;

const PAGE: usize = 4096;
/// Bytes of `/proc/self/pagemap` for each page.
const ENTRY: usize = 8;
/// The bit of an entry that says that the page is in memory.
const PRESENT: u64 = 1 << 63;

/// What this process runs from.
#[derive(Debug)]
pub struct Program {
    pagemap: File,
    /// Addresses of code and constants.
    mappings: Vec<Range<usize>>,
    /// Addresses of the pages that are locked.
    locked: BTreeSet<usize>,
    /// No more may be locked.
    is_full: bool,
}

impl Program {
    /// Looks for it in `proc_self`, which is `/proc/self`.
    ///
    /// # Errors
    /// That has no `maps` or `pagemap`.
    pub fn open(proc_self: &Path) -> io::Result<Self> {
        Ok(Self {
            mappings: read_only(&std::fs::read_to_string(proc_self.join("maps"))?),
            pagemap: File::open(proc_self.join("pagemap"))?,
            locked: BTreeSet::new(),
            is_full: false,
        })
    }

    /// Locks what is in memory now.
    pub fn keep(&mut self) {
        if self.is_full {
            return;
        }
        let before = self.locked.len();
        let fresh: Vec<usize> =
            self.mappings.iter().flat_map(|mapping| self.present(mapping)).collect();
        for page in fresh {
            if self.locked.contains(&page) {
                continue;
            }
            if let Err(error) = lock(page) {
                log::debug!(
                    "memory: no more of the program than {} KiB is kept: {error}",
                    self.kib()
                );
                self.is_full = true;
                return;
            }
            self.locked.insert(page);
        }
        if self.locked.len() != before {
            log::debug!("memory: {} KiB of the program are kept", self.kib());
        }
    }

    fn kib(&self) -> usize {
        self.locked.len() * PAGE / 1024
    }

    /// The pages of `mapping` that are in memory; none where that cannot be read.
    fn present(&self, mapping: &Range<usize>) -> Vec<usize> {
        let mut entries = vec![0; mapping.len() / PAGE * ENTRY];
        let offset = (mapping.start / PAGE * ENTRY) as u64;
        if self.pagemap.read_exact_at(&mut entries, offset).is_err() {
            return Vec::new();
        }
        let entries = entries.as_chunks::<ENTRY>().0.iter().map(|entry| u64::from_ne_bytes(*entry));
        let pages = mapping.clone().step_by(PAGE).zip(entries);
        pages.filter_map(|(page, entry)| (entry & PRESENT != 0).then_some(page)).collect()
    }
}

fn lock(page: usize) -> nix::Result<()> {
    let address = NonNull::new(page as *mut _).ok_or(nix::errno::Errno::EINVAL)?;
    // SAFETY: mlock does not change what the memory holds, and fails where there is none.
    unsafe { mlock(address, PAGE) }
}

/// The mappings of files in `maps` (proc_pid_maps(5)) that are not written to.
fn read_only(maps: &str) -> Vec<Range<usize>> {
    let mapping = |line: &str| {
        let mut fields = line.split_whitespace();
        let (range, mode, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let range = address(start)?..address(end)?;
        (mode.starts_with("r-") && mode.ends_with('p') && inode != "0").then_some(range)
    };
    maps.lines().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_only_and_of_a_file_is_the_program() {
        let maps = "\
55d0c0000000-55d0c002a000 r--p 00000000 fe:00 1311 /usr/bin/berth
55d0c002a000-55d0c0833000 r-xp 0002a000 fe:00 1311 /usr/bin/a name
55d0c0833000-55d0c0834000 rw-p 00833000 fe:00 1311 /usr/bin/berth
7f0000000000-7f0000100000 r--s 00000000 fe:00 1312 /shared
7f0010000000-7f0010100000 r-xp 00000000 00:00 0 [vdso]
7f0040000000-7f0080000000 rw-p 00000000 00:0f 77 /anon_hugepage (deleted)
nonsense
7f0010000000-x r-xp 00000000 00:00 7
";
        let (first, code) = (0x55d0_c000_0000, 0x55d0_c002_a000);
        assert_eq!(read_only(maps), [first..code, code..0x55d0_c083_3000]);
    }

    #[test]
    fn what_is_in_use_is_locked() {
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        let mut program = Program::open(Path::new("/proc/self")).unwrap();
        program.keep();
        let kept = program.kib();
        assert_eq!(locked(), kept);
        if program.is_full {
            // As much as may be.
            eprintln!("skipped: no more than {kept} KiB may be locked here");
            return;
        }
        assert!(kept > 64, "{kept} KiB are kept");
        // The function that runs is there, its neighbours in the file that nobody called need not be.
        let here = what_is_in_use_is_locked as fn() as usize / PAGE * PAGE;
        assert!(program.locked.contains(&here));
        // It is done once; what comes into use later is added.
        program.keep();
        assert!(program.kib() >= kept);
        assert_eq!(locked(), program.kib());
    }

    #[test]
    fn without_proc_nothing_is_kept() {
        assert!(Program::open(Path::new("/nowhere")).is_err());
    }
}

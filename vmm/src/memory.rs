//! Guest RAM: where it is in the guest's address space, and the host memory behind it.
//!
//! The host maps it anonymously, privately and without reserving swap, aligned so that a 2 MiB page
//! of the host is a 2 MiB page of the guest: with huge pages on both sides, nested paging walks and
//! faults are a fraction of what they are with small ones.
//!
//! Or it is on huge pages that the host has set aside (hugetlbfs; kernel documentation,
//! admin-guide/mm/hugetlbpage.rst): then all of it is there before the machine starts, and stays as a
//! whole until the process ends. Nothing of it is given back, since a part of a page cannot be.

#![allow(unsafe_code)] // mmap of guest RAM: the one place that owns it

use std::ptr;
use std::sync::Arc;

use devices::mem::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion, GuestRam, Reclaim,
    VolatileSlice,
};
use vm_memory::{GuestRegionMmap, MmapRegion};

use crate::config::HugePage;
use crate::machine::layout;

/// Guest and host pages are aligned to each other at this size.
const HUGE_PAGE: usize = 2 << 20;
/// What the host counts memory in.
const PAGE: usize = 4096;

/// Guest RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("cannot map {bytes} bytes of guest memory")]
    Map {
        /// How much was asked for.
        bytes: u64,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// There are not enough huge pages.
    #[error(
        "{} MiB of guest memory need {} huge pages of {page}, and {why}; set more of them aside on this \
         host, raise this cgroup's (or pod's) limit on them, or do without --hugepages",
        bytes >> 20, bytes / page.bytes()
    )]
    HugePages {
        /// How much was asked for.
        bytes: u64,
        /// On which pages.
        page: HugePage,
        /// What is in the way.
        why: String,
    },
    /// The pieces do not make a memory map.
    #[error("cannot lay out guest memory: {0}")]
    Layout(String),
}

/// Splits `bytes` of RAM into what lies below the PCI window and what lies above 4 GiB, as
/// (guest address, length).
pub fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(layout::LOW_RAM_END);
    let mut ranges = vec![(0, low)];
    if bytes > low {
        ranges.push((layout::HIGH_RAM_START, bytes - low));
    }
    ranges
}

/// Maps `bytes` of guest RAM, a multiple of the page size.
///
/// # Errors
/// [`MemoryError`].
pub fn allocate(bytes: u64) -> Result<GuestMemory, MemoryError> {
    lay_out(bytes, map_aligned)
}

/// Maps `bytes` of guest RAM, a multiple of the size of `page`, on such pages: all of them are there
/// afterwards. That takes as long as it takes to fill them with zeroes.
///
/// # Errors
/// [`MemoryError`].
pub fn allocate_huge(bytes: u64, page: HugePage) -> Result<GuestMemory, MemoryError> {
    let mut before = 0;
    lay_out(bytes, |len| {
        let refused = |why| MemoryError::HugePages { bytes, page, why };
        let mapping = map_huge(len, page)
            .map_err(|error| refused(format!("the kernel cannot set them aside: {error}")))?;
        let there = resident_in(mapping.as_ptr() as u64, len as u64)
            .map_err(|error| refused(format!("nobody knows how many are there: {error}")))?;
        before += there;
        // What is not there cannot be had, and would be a SIGBUS when it is touched.
        if there < len as u64 {
            return Err(refused(format!("only {} can be had here", before / page.bytes())));
        }
        Ok(mapping)
    })
}

/// Guest RAM of pieces that `map` maps.
fn lay_out(
    bytes: u64,
    mut map: impl FnMut(usize) -> Result<MmapRegion, MemoryError>,
) -> Result<GuestMemory, MemoryError> {
    let mut regions = Vec::new();
    for (start, len) in ranges(bytes) {
        let len = usize::try_from(len).map_err(|e| MemoryError::Layout(e.to_string()))?;
        let mapping = map(len)?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(start))
            .ok_or_else(|| MemoryError::Layout(format!("{len:#x} bytes at {start:#x} overflow")))?;
        regions.push(region);
    }
    let ram = GuestRam::from_regions(regions).map_err(|e| MemoryError::Layout(e.to_string()))?;
    Ok(Arc::new(ram))
}

/// Maps memory that is not RAM, for a device: `len` bytes, a multiple of the page size, at address 0
/// of a map of its own.
///
/// # Errors
/// [`MemoryError`].
pub fn allocate_device(len: usize) -> Result<GuestMemory, MemoryError> {
    let region = GuestRegionMmap::new(map_aligned(len)?, GuestAddress(0))
        .ok_or_else(|| MemoryError::Layout(format!("{len:#x} bytes at 0 overflow")))?;
    let memory = GuestRam::from_regions(vec![region]);
    Ok(Arc::new(memory.map_err(|e| MemoryError::Layout(e.to_string()))?))
}

/// An anonymous mapping of `len` bytes that starts on a huge page.
fn map_aligned(len: usize) -> Result<MmapRegion, MemoryError> {
    let error = || MemoryError::Map { bytes: len as u64, source: std::io::Error::last_os_error() };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    let room = len.checked_add(HUGE_PAGE).ok_or_else(error)?;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing else.
    let start = unsafe { libc::mmap(ptr::null_mut(), room, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(error());
    }
    let head = start.align_offset(HUGE_PAGE);
    // SAFETY: `head` is less than HUGE_PAGE, so head + len is inside the mapping; the pieces cut
    // off before and after are ours, and nothing refers to them.
    let base = unsafe {
        let base = start.cast::<u8>().add(head);
        if head > 0 {
            libc::munmap(start, head);
        }
        libc::munmap(base.add(len).cast(), room - head - len);
        // Small pages do as well, only slower: a refusal is no error.
        libc::madvise(base.cast(), len, libc::MADV_HUGEPAGE);
        // A core dump of this process is about the machine, not about what the guest keeps in RAM.
        libc::madvise(base.cast(), len, libc::MADV_DONTDUMP);
        base
    };
    // SAFETY: the range was mapped above with these flags, and is given away whole. Guest RAM lives
    // as long as the machine's process: it is not unmapped while a vCPU or a device may use it.
    let region = unsafe { MmapRegion::build_raw(base, len, protection, flags) };
    region.map_err(|e| MemoryError::Layout(e.to_string()))
}

/// An anonymous mapping of `len` bytes on pages of this size, as far as they can be had.
fn map_huge(len: usize, page: HugePage) -> std::io::Result<MmapRegion> {
    let size = match page {
        HugePage::TwoMib => libc::MAP_HUGE_2MB,
        HugePage::OneGib => libc::MAP_HUGE_1GB,
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // Without MAP_NORESERVE the kernel sets the pages aside now, or refuses. It may still not give them
    // to a cgroup that is limited: only when each is touched, so all are, by the kernel, which sends no
    // signals for that. The start of a mapping is that of a page.
    let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE;
    let flags = flags | libc::MAP_HUGETLB | size | libc::MAP_POPULATE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing else.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the range was mapped above with these flags, and is given away whole; as in `map_aligned`
    // it is not unmapped again. Advice against a core dump changes nothing that is seen here.
    let region = unsafe {
        libc::madvise(start, len, libc::MADV_DONTDUMP);
        MmapRegion::build_raw(start.cast(), len, protection, flags)
    };
    region.map_err(std::io::Error::other)
}

/// Every piece of RAM: guest address, length, and where the host has it.
pub fn host_ranges(memory: &GuestMemory) -> Vec<(u64, u64, u64)> {
    memory
        .iter()
        .map(|region| (region.start_addr().0, region.len(), region.as_ptr() as u64))
        .collect()
}

/// Bytes of it that are in the host's memory: what the guest has touched, but for what was given back
/// or swapped out.
///
/// Walks the page tables, which takes milliseconds for each 64 GiB in huge pages and more in small ones.
///
/// # Errors
/// What mincore says.
pub fn resident(memory: &GuestMemory) -> std::io::Result<u64> {
    host_ranges(memory).into_iter().map(|(_, len, host)| resident_in(host, len)).sum()
}

/// Of a piece of RAM: where the host has it, and its length.
fn resident_in(host: u64, len: u64) -> std::io::Result<u64> {
    let mut pages = [0_u8; 1 << 14];
    let mut resident = 0_u64;
    for at in (0..len).step_by(pages.len() * PAGE) {
        let some = (len - at).min((pages.len() * PAGE) as u64);
        let count = some.div_ceil(PAGE as u64) as usize;
        // SAFETY: the range is a part of guest RAM, which stays mapped and begins on a page; it
        // is only asked about. One byte is written for each of its pages, and `pages` has as many.
        let status =
            unsafe { libc::mincore((host + at) as *mut _, some as usize, pages.as_mut_ptr()) };
        if status != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let here = pages.iter().take(count).filter(|page| **page & 1 == 1).count();
        resident += here as u64 * PAGE as u64;
    }
    Ok(resident)
}

/// Gives guest RAM back to the host, for as long as it holds it.
pub struct Returns(pub GuestMemory);

impl Reclaim for Returns {
    fn reclaim(&self, piece: &VolatileSlice<'_>) -> std::io::Result<()> {
        let guard = piece.ptr_guard();
        let (first, len) = (guard.as_ptr() as u64, piece.len() as u64);
        let end = first.checked_add(len).ok_or(std::io::ErrorKind::InvalidInput)?;
        let is_ram = host_ranges(&self.0)
            .into_iter()
            .any(|(_, ram_len, host)| first >= host && end - host <= ram_len);
        if !is_ram {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        // Half a page stays: its other half may be in use.
        let page = PAGE as u64;
        let (first, end) = (first.next_multiple_of(page), end / page * page);
        if first >= end {
            return Ok(());
        }
        // SAFETY: the range is whole pages of guest RAM, which is a private anonymous mapping that
        // stays. It reads as zeroes from here on, which is no more than the guest itself could have
        // written: nothing in this process holds a reference into guest RAM, nor trusts what is there.
        // What the kernel has in flight keeps its own references to the pages.
        let status =
            unsafe { libc::madvise(first as *mut _, (end - first) as usize, libc::MADV_DONTNEED) };
        if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn ram_is_split_around_the_pci_window() {
        let gib = 1 << 30;
        assert_eq!(ranges(gib), [(0, gib)]);
        assert_eq!(ranges(2 * gib), [(0, 2 * gib)]);
        assert_eq!(ranges(5 * gib), [(0, 2 * gib), (4 * gib, 3 * gib)]);
    }

    #[test]
    fn ram_is_aligned_zero_and_writable_to_its_end() {
        let memory = allocate(64 << 20).unwrap();
        for (_, len, host) in host_ranges(&memory) {
            assert_eq!((host % HUGE_PAGE as u64, len), (0, 64 << 20));
        }
        let last = GuestAddress((64 << 20) - 8);
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 0);
        memory.write_obj(0x1234u64, last).unwrap();
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 0x1234);
        assert!(memory.write_obj(0u64, GuestAddress((64 << 20) - 7)).is_err());
    }

    #[test]
    fn what_was_touched_is_resident() {
        let memory = allocate(96 << 20).unwrap();
        assert_eq!(resident(&memory).unwrap(), 0);
        memory.write_obj(1u8, GuestAddress(0)).unwrap();
        memory.write_obj(1u8, GuestAddress((96 << 20) - 1)).unwrap();
        let touched = resident(&memory).unwrap();
        // A page each, small or huge.
        assert!((2 * PAGE as u64..=2 * HUGE_PAGE as u64).contains(&touched), "{touched}");
    }

    /// How many huge pages nobody has, nor has a promise of; 0 where there are none.
    fn free(page: HugePage) -> u64 {
        let dir = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page.bytes() >> 10);
        let number = |name: &str| {
            let text = std::fs::read_to_string(format!("{dir}/{name}")).ok();
            text.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        number("free_hugepages").saturating_sub(number("resv_hugepages"))
    }

    #[test]
    fn huge_pages_are_all_there() {
        let page = HugePage::TwoMib;
        if free(page) < 4 {
            eprintln!("skipped: four huge pages of {page} are needed, and {} are free", free(page));
            return;
        }
        let memory = allocate_huge(4 * page.bytes(), page).unwrap();
        assert_eq!(resident(&memory).unwrap(), 4 * page.bytes());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let [(_, len, host)] = host_ranges(&memory)[..] else { panic!("not one piece") };
        let mapping = format!("{host:x}-{:x} ", host + len);
        let (_, about) = maps.split_once(&mapping).unwrap();
        let size = about.lines().find_map(|line| line.strip_prefix("KernelPageSize:")).unwrap();
        assert_eq!(size.trim(), "2048 kB");
        let last = GuestAddress(4 * page.bytes() - 8);
        memory.write_obj(0x1234_u64, last).unwrap();
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 0x1234);
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 0);
    }

    #[test]
    fn too_few_huge_pages_are_an_error() {
        for page in HugePage::ALL {
            // More than any host has; where the size is unknown, all are too many.
            let bytes = 1 << 46;
            if free(page) * page.bytes() >= layout::LOW_RAM_END {
                eprintln!(
                    "skipped: the first piece of so much memory is there, on pages of {page}"
                );
                continue;
            }
            let said = allocate_huge(bytes, page).unwrap_err().to_string();
            let start = format!(
                "67108864 MiB of guest memory need {} huge pages of {page}, and the kernel cannot set \
                 them aside: ",
                bytes / page.bytes()
            );
            assert!(said.starts_with(&start), "{said}");
            assert!(said.ends_with("or do without --hugepages"), "{said}");
        }
    }

    #[test]
    fn what_is_given_back_is_zero_and_not_resident() {
        let memory = allocate(32 << 20).unwrap();
        let ram = Returns(memory.clone());
        let page = PAGE as u64;
        let fill = vec![0xaa_u8; 4 << 20];
        memory.write_slice(&fill, GuestAddress(0)).unwrap();
        let before = resident(&memory).unwrap();
        assert!(before >= 4 << 20);
        let slice = |at, len| memory.get_slice(GuestAddress(at), len).unwrap();
        ram.reclaim(&slice(0, 2 << 20)).unwrap();
        assert!(resident(&memory).unwrap() <= before - (2 << 20));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 0);
        // Of what is not whole pages, those inside; nothing of less than one.
        let at = (2 << 20) + 1;
        ram.reclaim(&slice(at, 2 * PAGE - 2)).unwrap();
        ram.reclaim(&slice(at + 4 * page, PAGE - 2)).unwrap();
        ram.reclaim(&slice(at, 0)).unwrap();
        for (offset, want) in [(0, 0xaa), (page - 1, 0xaa), (4 * page, 0xaa), (5 * page, 0xaa)] {
            let byte = memory.read_obj::<u8>(GuestAddress(at + offset - 1)).unwrap();
            assert_eq!(byte, want, "at {offset:#x}");
        }
        ram.reclaim(&slice((2 << 20) + 1, 3 * PAGE)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress((2 << 20) + page)).unwrap(), 0);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(2 << 20)).unwrap(), 0xaa);
        // Memory of somebody else's.
        let other = allocate(2 << 20).unwrap();
        assert!(ram.reclaim(&other.get_slice(GuestAddress(0), PAGE).unwrap()).is_err());
        let end = (32 << 20) - page;
        ram.reclaim(&slice(end, PAGE)).unwrap();
        memory.write_obj(1_u8, GuestAddress(end)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(end)).unwrap(), 1);
    }

    #[test]
    fn giving_back_what_the_kernel_writes_to_is_safe() {
        use std::fs::File;
        use std::os::fd::AsRawFd;
        use std::sync::atomic::{AtomicBool, Ordering};

        let memory = allocate(4 << 20).unwrap();
        let ram = Returns(memory.clone());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // As a disk does: the kernel fills guest RAM by address while it is taken away.
            scope.spawn(|| {
                let file = File::open("/dev/zero").unwrap();
                for round in 0..2000_u64 {
                    let at = GuestAddress(round % 500 * PAGE as u64);
                    let piece = memory.get_slice(at, 8 * PAGE).unwrap();
                    let address = piece.ptr_guard_mut().as_ptr();
                    // SAFETY: the range is guest RAM, which stays mapped while it is borrowed.
                    let read = unsafe { libc::read(file.as_raw_fd(), address.cast(), 8 * PAGE) };
                    assert_eq!(read, 8 * PAGE as isize, "{}", std::io::Error::last_os_error());
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                ram.reclaim(&memory.get_slice(GuestAddress(0), 4 << 20).unwrap()).unwrap();
            }
        });
        memory.write_obj(7_u8, GuestAddress(0)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
    }
}

//! The kernel's vhost-net (`linux/vhost.h`): a receive and a transmit ring that a worker of the
//! kernel serves, between guest memory and a tap, without a thread of ours.
//!
//! The file, `/dev/vhost-net`, is opened by someone with the privilege to do so. The requests are
//! made by hand: they are a dozen, and the crate that wraps them (`vhost` of rust-vmm) opens the
//! file itself by its path, can unbind no eventfd, and refuses a ring that ends where RAM does.
//!
//! The kernel is told guest memory by host address, and writes it from then on. This file works the
//! addresses out itself, from the memory and the rings' guest addresses, and keeps the memory alive
//! for as long as the file is open. What the rings' contents say is the kernel's to check: it
//! signals an eventfd when it cannot go on.
//!
//! Left out: dirty-page logging, an IOTLB, busy polling, headers added by the kernel (the tap has
//! them already), legacy byte orders. Runs on the thread of the queue pair, but for the opening.
#![allow(unsafe_code)] // ioctl(2) with the structures of linux/vhost.h.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};

use crate::event::Event;
use crate::mem::{GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion};
use crate::virtio::F_VERSION_1;
use crate::virtio::queue::ring_lengths;

const VHOST_GET_FEATURES: libc::Ioctl = 0x8008_af00_u32 as libc::Ioctl;
const VHOST_SET_FEATURES: libc::Ioctl = 0x4008_af00;
const VHOST_SET_OWNER: libc::Ioctl = 0xaf01;
const VHOST_SET_MEM_TABLE: libc::Ioctl = 0x4008_af03;
const VHOST_SET_VRING_NUM: libc::Ioctl = 0x4008_af10;
const VHOST_SET_VRING_ADDR: libc::Ioctl = 0x4028_af11;
const VHOST_SET_VRING_BASE: libc::Ioctl = 0x4008_af12;
const VHOST_GET_VRING_BASE: libc::Ioctl = 0xc008_af12_u32 as libc::Ioctl;
const VHOST_SET_VRING_KICK: libc::Ioctl = 0x4008_af20;
const VHOST_SET_VRING_CALL: libc::Ioctl = 0x4008_af21;
const VHOST_SET_VRING_ERR: libc::Ioctl = 0x4008_af22;
const VHOST_NET_SET_BACKEND: libc::Ioctl = 0x4008_af30;

/// `VHOST_FILE_UNBIND`.
const UNBIND: libc::c_int = -1;
/// The kernel takes 64; a machine has two.
const MAX_REGIONS: usize = 8;

/// The kernel refuses.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// A request failed.
    #[error("vhost refuses {request}")]
    Request {
        /// Which.
        request: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel serves only rings of before VIRTIO 1.0.
    #[error("vhost offers features {0:#x}, without VERSION_1")]
    Features(u64),
    /// Memory or a ring is not what the kernel could be told.
    #[error("vhost cannot be told of {0}")]
    Memory(&'static str),
    /// It was stopped by what the rings contain, and has said so.
    #[error("vhost cannot go on with the guest's rings")]
    Rings,
    /// There is no eventfd to tell it of.
    #[error("no eventfd for vhost")]
    Eventfd,
}

/// The rings of one file (`VHOST_NET_VQ_RX`, `VHOST_NET_VQ_TX`). rx and tx are seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Frames to the guest.
    Rx = 0,
    /// Frames of the guest.
    Tx = 1,
}

impl Ring {
    /// Both.
    pub const ALL: [Ring; 2] = [Ring::Rx, Ring::Tx];
}

/// The eventfds of a ring.
#[derive(Clone, Debug)]
pub struct RingEvents {
    /// Signalled by the driver's kicks.
    pub kick: Event,
    /// Signalled by the kernel when the driver wants to hear of used buffers.
    pub call: Event,
    /// Signalled by the kernel when it cannot go on with what the rings contain.
    pub error: Event,
}

/// What serves the two rings of a queue pair in our place: the kernel, or what stands for it in
/// tests. Memory comes before rings, rings before their backend.
pub trait Vhost: Send {
    /// The ring features (VIRTIO 1.3 §6), and MRG_RXBUF, that it can serve.
    fn features(&self) -> u64;

    /// Takes the negotiated ones of [`features`](Self::features), and the guest's RAM.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set_up(&mut self, features: u64, memory: &GuestMemory) -> Result<(), VhostError>;

    /// Takes a ring's place and size, and the entry of the available ring that is next. Where the
    /// used ring goes on is read from the ring itself.
    ///
    /// # Errors
    /// When the kernel refuses, and while the ring has a backend.
    fn set_ring(&mut self, ring: Ring, queue: &Queue) -> Result<(), VhostError>;

    /// Takes a ring's eventfds; `None` gives them up.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set_events(&mut self, ring: Ring, events: Option<&RingEvents>) -> Result<(), VhostError>;

    /// Serves the ring to and from this tap queue, which must have joined its interface. `None`
    /// ends that: what was in flight is done when it returns.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set_backend(&mut self, ring: Ring, tap: Option<BorrowedFd<'_>>) -> Result<(), VhostError>;

    /// The entry of the available ring that is next; of use while the ring has no backend.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn next_avail(&self, ring: Ring) -> Result<u16, VhostError>;
}

/// An open `/dev/vhost-net`.
pub struct VhostFile {
    // In this order: the kernel lets go of the memory when the file is closed.
    file: File,
    memory: Option<GuestMemory>,
    /// Whether [`Vhost::set_ring`] has succeeded for each ring.
    placed: [bool; 2],
    features: u64,
}

/// `struct vhost_vring_state` and `struct vhost_vring_file`: a ring's index and a number.
#[repr(C)]
struct RingValue {
    index: u32,
    value: u32,
}

/// `struct vhost_vring_addr`: host addresses.
#[repr(C)]
struct RingAddresses {
    index: u32,
    flags: u32,
    table: u64,
    used: u64,
    avail: u64,
    log: u64,
}

/// `struct vhost_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    guest: u64,
    len: u64,
    host: u64,
    flags: u64,
}

/// `struct vhost_memory`, with room for more regions than are told.
#[repr(C)]
struct MemoryTable {
    count: u32,
    padding: u32,
    regions: [Region; MAX_REGIONS],
}

impl VhostFile {
    /// Takes an open file over. The kernel makes a thread for it, in this process.
    ///
    /// # Errors
    /// When the kernel refuses, has given the file to another owner, or has no VERSION_1.
    pub fn new(file: File) -> Result<VhostFile, VhostError> {
        // SAFETY: VHOST_SET_OWNER takes no argument.
        let owned = unsafe { libc::ioctl(file.as_raw_fd(), VHOST_SET_OWNER) };
        check("VHOST_SET_OWNER", owned)?;
        let mut features = 0u64;
        // SAFETY: VHOST_GET_FEATURES fills a u64, which lives through the call.
        let got = unsafe { libc::ioctl(file.as_raw_fd(), VHOST_GET_FEATURES, &raw mut features) };
        check("VHOST_GET_FEATURES", got)?;
        if features & F_VERSION_1 == 0 {
            return Err(VhostError::Features(features));
        }
        Ok(VhostFile { file, memory: None, placed: [false; 2], features })
    }

    /// Makes a request whose argument is a ring's index and a number.
    fn set_value(
        &self,
        (name, request): (&'static str, libc::Ioctl),
        ring: Ring,
        value: u32,
    ) -> Result<(), VhostError> {
        let argument = RingValue { index: ring as u32, value };
        // SAFETY: the callers' requests (VRING_NUM, _BASE, _KICK, _CALL, _ERR, NET_SET_BACKEND)
        // read a structure of two 32-bit numbers, which lives through the call. None of them
        // makes the kernel write memory but in the rings that `set_ring` has told it.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, &raw const argument) };
        check(name, result)
    }

    fn set_fd(
        &self,
        request: (&'static str, libc::Ioctl),
        ring: Ring,
        fd: Option<libc::c_int>,
    ) -> Result<(), VhostError> {
        self.set_value(request, ring, fd.unwrap_or(UNBIND).cast_unsigned())
    }
}

impl Vhost for VhostFile {
    fn features(&self) -> u64 {
        self.features
    }

    fn set_up(&mut self, features: u64, memory: &GuestMemory) -> Result<(), VhostError> {
        let table = MemoryTable::of(memory).ok_or(VhostError::Memory("so many pieces of RAM"))?;
        // SAFETY: VHOST_SET_FEATURES reads a u64, which lives through the call.
        let set =
            unsafe { libc::ioctl(self.file.as_raw_fd(), VHOST_SET_FEATURES, &raw const features) };
        check("VHOST_SET_FEATURES", set)?;
        // The rings may still be where they were: in the RAM that is kept.
        if self.memory.as_ref().is_some_and(|known| !Arc::ptr_eq(known, memory)) {
            return Err(VhostError::Memory("another machine's RAM"));
        }
        self.memory = Some(memory.clone());
        // SAFETY: VHOST_SET_MEM_TABLE reads the table, which lives through the call, and `count`
        // regions of it. They are guest RAM, which any thread may write at any time, and which
        // `self.memory` keeps mapped until the file is closed.
        let set =
            unsafe { libc::ioctl(self.file.as_raw_fd(), VHOST_SET_MEM_TABLE, &raw const table) };
        check("VHOST_SET_MEM_TABLE", set)
    }

    fn set_ring(&mut self, ring: Ring, queue: &Queue) -> Result<(), VhostError> {
        let memory = self.memory.as_ref().ok_or(VhostError::Memory("rings without RAM"))?;
        let host = |at, len| {
            let slice = memory.get_slice(GuestAddress(at), len);
            let slice = slice.map_err(|_| VhostError::Memory("a ring outside RAM"))?;
            Ok::<u64, VhostError>(slice.ptr_guard_mut().as_ptr().expose_provenance() as u64)
        };
        let [table_len, avail_len, used_len] = ring_lengths(queue.size());
        let addresses = RingAddresses {
            index: ring as u32,
            flags: 0,
            table: host(queue.desc_table(), table_len)?,
            used: host(queue.used_ring(), used_len)?,
            avail: host(queue.avail_ring(), avail_len)?,
            log: 0,
        };
        self.placed[ring as usize] = false;
        self.set_value(("VHOST_SET_VRING_NUM", VHOST_SET_VRING_NUM), ring, queue.size().into())?;
        let base = queue.next_avail().into();
        self.set_value(("VHOST_SET_VRING_BASE", VHOST_SET_VRING_BASE), ring, base)?;
        // SAFETY: VHOST_SET_VRING_ADDR reads the structure, which lives through the call. The rings
        // it names lie in guest RAM at the lengths that belong to the size just set; `self.memory`
        // keeps them mapped until the file is closed. If this fails, the place of before does not
        // go with the new size, and `set_backend` lets nobody serve the ring.
        let set = unsafe {
            libc::ioctl(self.file.as_raw_fd(), VHOST_SET_VRING_ADDR, &raw const addresses)
        };
        check("VHOST_SET_VRING_ADDR", set)?;
        self.placed[ring as usize] = true;
        Ok(())
    }

    fn set_events(&mut self, ring: Ring, events: Option<&RingEvents>) -> Result<(), VhostError> {
        let fd = |event: fn(&RingEvents) -> &Event| events.map(|e| event(e).fd().as_raw_fd());
        // An error must be heard of before a kick may cause it.
        self.set_fd(("VHOST_SET_VRING_ERR", VHOST_SET_VRING_ERR), ring, fd(|e| &e.error))?;
        self.set_fd(("VHOST_SET_VRING_CALL", VHOST_SET_VRING_CALL), ring, fd(|e| &e.call))?;
        self.set_fd(("VHOST_SET_VRING_KICK", VHOST_SET_VRING_KICK), ring, fd(|e| &e.kick))
    }

    fn set_backend(&mut self, ring: Ring, tap: Option<BorrowedFd<'_>>) -> Result<(), VhostError> {
        if tap.is_some() && !self.placed[ring as usize] {
            return Err(VhostError::Memory("a backend before its ring"));
        }
        let fd = tap.map(|tap| tap.as_raw_fd());
        self.set_fd(("VHOST_NET_SET_BACKEND", VHOST_NET_SET_BACKEND), ring, fd)
    }

    fn next_avail(&self, ring: Ring) -> Result<u16, VhostError> {
        let mut state = RingValue { index: ring as u32, value: 0 };
        // SAFETY: VHOST_GET_VRING_BASE reads the index and fills the number; the structure lives
        // through the call.
        let got =
            unsafe { libc::ioctl(self.file.as_raw_fd(), VHOST_GET_VRING_BASE, &raw mut state) };
        check("VHOST_GET_VRING_BASE", got)?;
        // The upper half is of use for packed rings only.
        Ok(state.value as u16)
    }
}

impl MemoryTable {
    /// `None` when there are more regions than places.
    fn of(memory: &GuestMemory) -> Option<MemoryTable> {
        let mut regions = [Region::default(); MAX_REGIONS];
        let mut count = 0;
        for region in memory.iter() {
            let place = regions.get_mut(count as usize)?;
            *place = Region {
                guest: region.start_addr().0,
                len: region.len(),
                host: region.as_ptr().expose_provenance() as u64,
                flags: 0,
            };
            count += 1;
        }
        Some(MemoryTable { count, padding: 0, regions })
    }
}

fn check(request: &'static str, result: libc::c_int) -> Result<(), VhostError> {
    if result >= 0 {
        return Ok(());
    }
    Err(VhostError::Request { request, source: io::Error::last_os_error() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::GuestRam;

    #[test]
    fn the_structures_are_those_of_the_kernel() {
        // The size of an argument is in the number of its request, from bit 16 on.
        let size = |request: libc::Ioctl| (request as u32 >> 16 & 0x3fff) as usize;
        assert_eq!(size_of::<RingValue>(), size(VHOST_SET_VRING_NUM));
        assert_eq!(size_of::<RingValue>(), size(VHOST_NET_SET_BACKEND));
        assert_eq!(size_of::<RingAddresses>(), size(VHOST_SET_VRING_ADDR));
        // There it is without its regions.
        let whole = size_of::<MemoryTable>() - MAX_REGIONS * size_of::<Region>();
        assert_eq!(whole, size(VHOST_SET_MEM_TABLE));
        assert_eq!(size_of::<Region>(), 32);
    }

    #[test]
    fn every_piece_of_ram_is_told() {
        let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(4 << 30), 2 << 20)];
        let memory = Arc::new(GuestRam::from_ranges(&ranges).unwrap());
        let table = MemoryTable::of(&memory).unwrap();
        assert_eq!(table.count, 2);
        for (region, (start, len)) in table.regions.iter().zip(ranges) {
            let host = memory.get_slice(start, len).unwrap().ptr_guard_mut().as_ptr();
            assert_eq!((region.guest, region.len), (start.0, len as u64));
            assert_eq!((region.host, region.flags), (host.addr() as u64, 0));
        }
        let many: Vec<_> =
            (0..=MAX_REGIONS as u64).map(|n| (GuestAddress(n << 20), 1 << 12)).collect();
        assert!(MemoryTable::of(&Arc::new(GuestRam::from_ranges(&many).unwrap())).is_none());
    }

    #[test]
    fn other_files_are_refused() {
        let error = VhostFile::new(tempfile::tempfile().unwrap()).err().expect("it is no vhost");
        assert!(matches!(error, VhostError::Request { request: "VHOST_SET_OWNER", .. }));
    }
}

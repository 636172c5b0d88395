//! A queue of a Linux tap interface (tun(4), `linux/if_tun.h`), opened by someone with the
//! privilege to do so: IFF_TAP, IFF_VNET_HDR and IFF_NO_PI, with IFF_MULTI_QUEUE for several.
//!
//! Frames go between guest memory and the kernel by one `readv` or `writev` each. The kernel checks
//! the headers that the guest writes; ours is little-endian, as the host is.
#![allow(unsafe_code)] // ioctl(2), fcntl(2), readv(2) and writev(2) on guest memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

use super::{HEADER_LEN, NetBackend, Offloads, Received};

const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2_u32 as libc::Ioctl;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUNSETQUEUE: libc::Ioctl = 0x4004_54d9;

const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// The host's `IOV_MAX`, less the piece that catches what is too large.
const MAX_PIECES: usize = 1023;

/// The descriptor is not a tap queue as it must be.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel refuses a request.
    #[error("tap refuses {request}")]
    Request {
        /// Which.
        request: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was opened with other flags.
    #[error("tap has flags {0:#x}, but IFF_TAP, IFF_NO_PI and IFF_VNET_HDR must be set")]
    Flags(libc::c_int),
}

/// An open tap queue.
pub struct Tap {
    file: File,
    multi_queue: bool,
    enabled: bool,
    uso: bool,
    /// Scratch.
    iovecs: Vec<libc::iovec>,
}

// SAFETY: `iovecs` is scratch: its pointers are used only within the call that put them there.
unsafe impl Send for Tap {}

impl Tap {
    /// Takes over an open queue: makes it non-blocking, and sets the header's length.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn new(file: File) -> Result<Tap, TapError> {
        let request = |request, result: io::Result<()>| {
            result.map_err(|source| TapError::Request { request, source })
        };
        let mut interface = interface_request(0);
        request("TUNGETIFF", ioctl(&file, TUNGETIFF, &mut interface))?;
        // SAFETY: TUNGETIFF fills the flags, and any bytes are a short.
        let flags = libc::c_int::from(unsafe { interface.ifr_ifru.ifru_flags }) & 0xffff;
        let needed = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if flags & needed != needed {
            return Err(TapError::Flags(flags));
        }
        let mut len = HEADER_LEN as libc::c_int;
        request("TUNSETVNETHDRSZ", ioctl(&file, TUNSETVNETHDRSZ, &mut len))?;
        request("O_NONBLOCK", set_nonblocking(&file))?;
        let mut tap = Tap {
            file,
            multi_queue: flags & libc::IFF_MULTI_QUEUE != 0,
            enabled: true,
            uso: false,
            iovecs: Vec::new(),
        };
        // Linux 6.2 and later segment UDP; there is no way to find out but to try.
        let all = Offloads { csum: true, tso4: true, tso6: true, ecn: true, uso: true };
        tap.uso = tap.set_guest_offloads(all).is_ok();
        request("TUNSETOFFLOAD", tap.set_guest_offloads(Offloads::default()))?;
        Ok(tap)
    }

    fn gather(&mut self, bufs: &[VolatileSlice<'_>]) {
        self.iovecs.clear();
        self.iovecs.extend(bufs.iter().take(MAX_PIECES).map(|buf| libc::iovec {
            iov_base: buf.ptr_guard_mut().as_ptr().cast(),
            iov_len: buf.len(),
        }));
    }
}

impl NetBackend for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn has_uso(&self) -> bool {
        self.uso
    }

    fn set_guest_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        let bits = [
            (offloads.csum, TUN_F_CSUM),
            (offloads.tso4, TUN_F_TSO4),
            (offloads.tso6, TUN_F_TSO6),
            (offloads.ecn && (offloads.tso4 || offloads.tso6), TUN_F_TSO_ECN),
            (offloads.uso, TUN_F_USO4 | TUN_F_USO6),
        ];
        let flags = bits.iter().filter(|(on, _)| *on && offloads.csum).map(|(_, bits)| bits).sum();
        let flags: libc::c_uint = flags;
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let result = unsafe {
            libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags))
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn set_enabled(&mut self, enabled: bool) -> io::Result<()> {
        // The kernel refuses to attach twice; and a single queue cannot be detached.
        if enabled != self.enabled && self.multi_queue {
            let flag = if enabled { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
            ioctl(&self.file, TUNSETQUEUE, &mut interface_request(flag))?;
        }
        self.enabled = enabled;
        Ok(())
    }

    fn receive(&mut self, bufs: &[VolatileSlice<'_>]) -> io::Result<Received> {
        self.gather(bufs);
        let room: usize = self.iovecs.iter().map(|iovec| iovec.iov_len).sum();
        // The kernel cuts a frame off without a word: one byte more tells.
        let mut excess = 0u8;
        self.iovecs.push(libc::iovec { iov_base: (&raw mut excess).cast(), iov_len: 1 });
        let count = self.iovecs.len() as libc::c_int;
        // SAFETY: every iovec is guest memory borrowed through `bufs`, or `excess`: all writable,
        // and alive through the call. At most 1024 of them.
        let read = unsafe { libc::readv(self.file.as_raw_fd(), self.iovecs.as_ptr(), count) };
        match usize::try_from(read) {
            Ok(0) => Ok(Received::Nothing),
            Ok(len) if len > room => Ok(Received::TooLarge),
            Ok(len) => Ok(Received::Frame(len)),
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Received::Nothing),
                    _ => Err(error),
                }
            }
        }
    }

    fn send(&mut self, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        if bufs.len() > MAX_PIECES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.gather(bufs);
        let count = self.iovecs.len() as libc::c_int;
        loop {
            // SAFETY: every iovec is guest memory borrowed through `bufs`: readable, and alive
            // through the call. At most 1023 of them.
            let sent = unsafe { libc::writev(self.file.as_raw_fd(), self.iovecs.as_ptr(), count) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// An `ifreq` with flags and no name: what these requests look at.
fn interface_request(flags: libc::c_int) -> libc::ifreq {
    libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
    }
}

fn ioctl<T>(file: &File, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: each caller passes the type that the request reads or fills: an `ifreq` for
    // TUNGETIFF and TUNSETQUEUE, an int for TUNSETVNETHDRSZ.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut *argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: these take no pointers.
    let result = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;

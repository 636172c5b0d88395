//! Memory that is not RAM: behind a BAR, where the guest puts it, with a log of what is written.
//!
//! Runs on vCPU threads (the BAR moves) and on a viewer's (the log). An ioctl that the kernel refuses
//! costs speed only: without its slot the memory is served access by access, without its log all of
//! it counts as written.

#![allow(unsafe_code)] // memory slots hand host addresses to the kernel

use std::sync::{Arc, Mutex, MutexGuard};

use devices::bus::MemorySlot;
use devices::display::dirty::DirtyLog;
use devices::mem::GuestMemory;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use crate::memory;

/// A KVM memory slot that moves.
pub struct BarMemory {
    fd: Arc<VmFd>,
    slot: u32,
    /// One piece. Held so that the mapping outlives the slot.
    memory: GuestMemory,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where KVM has it.
    at: Option<u64>,
    watched: bool,
    /// The log does not say all that was written since it was taken last.
    incomplete: bool,
}

impl BarMemory {
    /// A slot, by a number that nothing else has, that is nowhere yet. The first region of `memory`
    /// is what it holds.
    pub fn new(fd: Arc<VmFd>, slot: u32, memory: GuestMemory) -> Arc<BarMemory> {
        Arc::new(BarMemory { fd, slot, memory, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the slot's lock is never held in a panic")
    }

    fn len(&self) -> u64 {
        memory::host_ranges(&self.memory).first().map_or(0, |(_, len, _)| *len)
    }

    /// Puts the slot at `at` with the flags it is to have, or takes it away. True when KVM did.
    fn set(&self, at: Option<u64>, watched: bool) -> bool {
        let Some((_, len, host)) = memory::host_ranges(&self.memory).first().copied() else {
            return false;
        };
        let region = kvm_userspace_memory_region {
            slot: self.slot,
            flags: if watched { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: at.unwrap_or(0),
            memory_size: if at.is_some() { len } else { 0 },
            userspace_addr: host,
        };
        // SAFETY: the range is mapped by `memory`, which this object keeps alive; whoever places it
        // has found no other block there, and BARs are never placed over RAM.
        let result = unsafe { self.fd.set_user_memory_region(region) };
        if let Err(error) = &result {
            log::debug!("memory slot {} at {at:x?}: {error}", self.slot);
        }
        result.is_ok()
    }
}

impl MemorySlot for BarMemory {
    fn place(&self, address: Option<u64>) {
        let mut state = self.lock();
        if state.at.is_some() {
            self.set(None, false);
            state.at = None;
        }
        if address.is_some() && self.set(address, state.watched) {
            state.at = address;
        }
        state.incomplete = true;
    }
}

impl DirtyLog for BarMemory {
    fn watch(&self, watched: bool) {
        let mut state = self.lock();
        if state.watched != watched {
            state.watched = watched;
            state.incomplete = true;
            if state.at.is_some() {
                self.set(state.at, watched);
            }
        }
    }

    fn take(&self) -> Option<Vec<u64>> {
        let mut state = self.lock();
        if !state.watched {
            return None;
        }
        let incomplete = std::mem::take(&mut state.incomplete);
        if state.at.is_none() {
            // What is nowhere is not written: but what came before is not in this log.
            return (!incomplete).then(Vec::new);
        }
        match self.fd.get_dirty_log(self.slot, self.len() as usize) {
            Ok(pages) if !incomplete => Some(pages),
            Ok(_) => None,
            Err(error) => {
                log::debug!("dirty log of slot {}: {error}", self.slot);
                None
            }
        }
    }
}

//! A vCPU's registers: as they are after power-on, and as a kernel's entry point wants them.
//!
//! What KVM gives a new vCPU is kept, and written back at reset: so whatever registers this kernel
//! knows of are reset, without a list of them here.

use devices::mem::{Bytes, GuestAddress, GuestMemory, GuestMemoryError};
use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd};

use super::{During, KvmError};
use crate::boot::Entry;
use crate::machine::layout;

const MSR_TSC: u32 = 0x10;
const MSR_MTRR_PHYS_BASE0: u32 = 0x200;
const MSR_MTRR_PHYS_MASK0: u32 = 0x201;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;
const MTRR_VALID: u64 = 1 << 11;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

const LAPIC_LVT0: usize = 0x350;
const LAPIC_LVT1: usize = 0x360;
const DELIVERY_MODE: u32 = 0x700;
const DELIVERY_NMI: u32 = 0x400;
const DELIVERY_EXTINT: u32 = 0x700;
const LVT_MASKED: u32 = 1 << 16;

/// Selectors of the flat segments in the table at [`layout::GDT`].
const SELECTOR_CODE: u16 = 0x10;
const SELECTOR_DATA: u16 = 0x18;
/// Access rights as in a descriptor: present, code or data, accessed; 4 KiB granular.
const FLAGS_CODE_64: u64 = 0xa09b;
const FLAGS_CODE_32: u64 = 0xc09b;
const FLAGS_DATA: u64 = 0xc093;
const PAGE_PRESENT_WRITABLE: u64 = 3;
const PAGE_LARGE: u64 = 1 << 7;

/// A vCPU's registers right after its creation.
pub struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
}

impl PowerOn {
    /// Reads a new vCPU's registers; its CPUID must be set.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn read(kvm: &Kvm, vcpu: &VcpuFd) -> Result<PowerOn, KvmError> {
        Ok(PowerOn {
            regs: vcpu.get_regs().during("reading registers")?,
            sregs: vcpu.get_sregs().during("reading special registers")?,
            fpu: vcpu.get_fpu().during("reading the FPU")?,
            // Where the CPU has no XSAVE there are none: KVM says so, and takes none back.
            xcrs: vcpu.get_xcrs().ok().filter(|xcrs| xcrs.nr_xcrs > 0),
            debug: vcpu.get_debug_regs().during("reading debug registers")?,
            lapic: vcpu.get_lapic().during("reading the local APIC")?,
            msrs: readable_msrs(kvm, vcpu)?,
            events: vcpu.get_vcpu_events().during("reading pending events")?,
            mp_state: vcpu.get_mp_state().during("reading the processor state")?,
        })
    }

    /// Writes them back. The vCPU must not be running.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        vcpu.set_mp_state(self.mp_state).during("resetting the processor state")?;
        vcpu.set_regs(&self.regs).during("resetting registers")?;
        vcpu.set_sregs(&self.sregs).during("resetting special registers")?;
        vcpu.set_fpu(&self.fpu).during("resetting the FPU")?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs).during("resetting extended control registers")?;
        }
        vcpu.set_debug_regs(&self.debug).during("resetting debug registers")?;
        vcpu.set_lapic(&self.lapic).during("resetting the local APIC")?;
        write_msrs(vcpu, &self.msrs);
        vcpu.set_vcpu_events(&self.events).during("resetting pending events")
    }
}

/// Every model-specific register that KVM lists and this vCPU can read, but the time stamp counter,
/// which runs on through a reset.
fn readable_msrs(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let list = kvm.get_msr_index_list().during("listing model-specific registers")?;
    let all: Vec<kvm_msr_entry> = list
        .as_slice()
        .iter()
        .filter(|index| **index != MSR_TSC)
        .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
        .collect();
    let mut read = Vec::with_capacity(all.len());
    let mut rest = &all[..];
    while !rest.is_empty() {
        let mut msrs = some(rest);
        // KVM stops at the first that it cannot read, and says how many came before.
        let count = vcpu.get_msrs(&mut msrs).unwrap_or(0).min(rest.len());
        read.extend_from_slice(&msrs.as_slice()[..count]);
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    Ok(read)
}

/// Writes registers. What KVM reads it may refuse to write: such a one has not changed either.
fn write_msrs(vcpu: &VcpuFd, mut rest: &[kvm_msr_entry]) {
    while !rest.is_empty() {
        let count = vcpu.set_msrs(&some(rest)).unwrap_or(0);
        rest = rest.get(count + 1..).unwrap_or_default();
    }
}

fn some(entries: &[kvm_msr_entry]) -> Msrs {
    Msrs::from_entries(entries).expect("KVM's own list fits into its own table")
}

/// Sets what firmware would have set on every processor, whose physical addresses have
/// `physical_bits` bits: memory types and the APIC's two pins.
///
/// # Errors
/// [`KvmError::Ioctl`].
pub fn as_firmware_leaves_them(vcpu: &VcpuFd, physical_bits: u32) -> Result<(), KvmError> {
    // Everything is write-back but the PCI window and what follows it up to 4 GiB.
    let physical_mask = (1u64 << physical_bits.clamp(32, 52)) - 1;
    let hole = !(layout::HIGH_RAM_START - layout::PCI_WINDOW - 1) & physical_mask;
    for (index, data) in [
        (MSR_MTRR_PHYS_BASE0, layout::PCI_WINDOW),
        (MSR_MTRR_PHYS_MASK0, hole | MTRR_VALID),
        (MSR_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ] {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        if !matches!(vcpu.set_msrs(&some(&[entry])), Ok(1)) {
            log::debug!("memory type register {index:#x} was refused");
        }
    }
    let mut lapic = vcpu.get_lapic().during("reading the local APIC")?;
    set_delivery(&mut lapic, LAPIC_LVT0, DELIVERY_EXTINT);
    set_delivery(&mut lapic, LAPIC_LVT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic).during("setting the local APIC up")
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut lapic.regs[register..register + 4];
    let value = bytes.iter().rev().fold(0, |value: u32, byte| value << 8 | u32::from(*byte as u8));
    let value = value & !(DELIVERY_MODE | LVT_MASKED) | mode;
    for (byte, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *byte = new as _;
    }
}

/// Sets the boot processor's registers for `entry`.
///
/// # Errors
/// [`KvmError::Ioctl`].
pub fn enter(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().during("reading special registers")?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 8 * 4 - 1;
    let (code_flags, rip) = match entry {
        Entry::Linux { rip } => (FLAGS_CODE_64, rip),
        Entry::Pvh { eip } => (FLAGS_CODE_32, eip),
    };
    sregs.cs = segment(SELECTOR_CODE, code_flags);
    let data = segment(SELECTOR_DATA, FLAGS_DATA);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr0 = CR0_PE | CR0_ET;
    let mut regs = kvm_regs { rip, rflags: RFLAGS_RESERVED, ..Default::default() };
    match entry {
        Entry::Linux { .. } => {
            sregs.cr3 = layout::PAGE_TABLES;
            sregs.cr4 |= CR4_PAE;
            sregs.cr0 |= CR0_PG;
            sregs.efer |= EFER_LME | EFER_LMA;
            regs.rsi = layout::ZERO_PAGE;
        }
        Entry::Pvh { .. } => regs.rbx = layout::PVH_START_INFO,
    }
    vcpu.set_sregs(&sregs).during("setting special registers")?;
    vcpu.set_regs(&regs).during("setting registers")
}

fn segment(selector: u16, flags: u64) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: (flags & 0xf) as u8,
        s: (flags >> 4 & 1) as u8,
        dpl: (flags >> 5 & 3) as u8,
        present: (flags >> 7 & 1) as u8,
        avl: (flags >> 12 & 1) as u8,
        l: (flags >> 13 & 1) as u8,
        db: (flags >> 14 & 1) as u8,
        g: (flags >> 15 & 1) as u8,
        ..Default::default()
    }
}

/// Writes the descriptor table and the page tables that [`enter`] refers to: flat segments, and the
/// first 4 GiB mapped onto themselves in 2 MiB pages.
///
/// # Errors
/// When guest memory is smaller than the tables' place.
pub fn write_tables(memory: &GuestMemory, entry: Entry) -> Result<(), GuestMemoryError> {
    let code = if matches!(entry, Entry::Linux { .. }) { FLAGS_CODE_64 } else { FLAGS_CODE_32 };
    for (index, flags) in [0, 0, code, FLAGS_DATA].into_iter().enumerate() {
        // Base 0, limit 0xfffff pages.
        let descriptor = if flags == 0 { 0 } else { flags << 40 | 0xf << 48 | 0xffff };
        memory.write_obj(descriptor, GuestAddress(layout::GDT + 8 * index as u64))?;
    }
    let table = |n: u64| layout::PAGE_TABLES + 0x1000 * n;
    memory.write_obj(table(1) | PAGE_PRESENT_WRITABLE, GuestAddress(table(0)))?;
    for gib in 0..4 {
        let entry = table(2 + gib) | PAGE_PRESENT_WRITABLE;
        memory.write_obj(entry, GuestAddress(table(1) + 8 * gib))?;
        let directory: Vec<u8> = (0..512)
            .map(|page| (gib << 30 | page << 21) | PAGE_PRESENT_WRITABLE | PAGE_LARGE)
            .flat_map(u64::to_le_bytes)
            .collect();
        memory.write_slice(&directory, GuestAddress(table(2 + gib)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn segments_are_flat_and_of_the_right_kind() {
        let code = segment(SELECTOR_CODE, FLAGS_CODE_64);
        assert_eq!(
            (code.type_, code.s, code.present, code.l, code.db, code.g),
            (0xb, 1, 1, 1, 0, 1)
        );
        let code = segment(SELECTOR_CODE, FLAGS_CODE_32);
        assert_eq!((code.l, code.db), (0, 1));
        let data = segment(SELECTOR_DATA, FLAGS_DATA);
        assert_eq!((data.type_, data.s, data.present, data.db), (3, 1, 1, 1));
    }

    #[test]
    fn the_first_four_gibibytes_are_mapped_onto_themselves() {
        let memory = memory::allocate(32 << 20).unwrap();
        write_tables(&memory, Entry::Linux { rip: 0 }).unwrap();
        let read = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        for address in [0u64, 0x20_0000, 0x7fff_ffff, 0xfee0_0000] {
            let pdpt = read(layout::PAGE_TABLES) & !0xfff;
            let directory = read(pdpt + 8 * (address >> 30)) & !0xfff;
            let page = read(directory + 8 * (address >> 21 & 511));
            assert_eq!(page & !0x1f_ffff, address & !0x1f_ffff);
            assert_eq!(page & 0xfff, 0x83);
        }
        assert_eq!(read(layout::GDT + 0x10), 0x00af_9b00_0000_ffff);
        assert_eq!(read(layout::GDT + 0x18), 0x00cf_9300_0000_ffff);
    }
}

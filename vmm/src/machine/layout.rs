//! The guest-physical address map, and the ports outside any device's own file.
//!
//! ```text
//! 0                     RAM
//!   0x0000_0500           GDT for the entry state
//!   0x0000_6000           PVH start info, module list and memory map
//!   0x0000_7000           Linux boot_params (zero page)
//!   0x0000_9000           page tables for the entry state
//!   0x0002_0000           kernel command line
//!   0x0009_fc00           reserved (where an EBDA would be)
//!   0x000a_0000           legacy VGA window (RAM, not in the memory map)
//!   0x000e_0000           ACPI tables
//!   0x000e_f000           VM generation id
//!   0x000f_0000           SMBIOS
//!   0x0010_0000           kernel, initial ramdisk
//! 0x8000_0000           PCI window, first part
//! 0xe000_0000           ECAM (where direct boot puts it; firmware chooses for itself)
//! 0xf000_0000           PCI window, second part
//! 0xfec0_0000           I/O APIC, 0xfee0_0000 local APICs
//! 0xfeff_c000           KVM's identity map and TSS pages
//! 0x1_0000_0000         RAM above 4 GiB
//! ```

/// End of RAM below 4 GiB, at most: 2 GiB leave firmware its choice of windows.
pub const LOW_RAM_END: u64 = 0x8000_0000;
/// Start of RAM above 4 GiB.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// The global descriptor table that the entry state refers to.
pub const GDT: u64 = 0x500;
/// PVH start info (xen/include/public/arch-x86/hvm/start_info.h).
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH module list: one module.
pub const PVH_MODULES: u64 = 0x6040;
/// PVH memory map.
pub const PVH_MEMORY_MAP: u64 = 0x6080;
/// Linux boot_params, 4 KiB.
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables that map the first 4 GiB onto themselves: one PML4, one PDPT, four PDs.
pub const PAGE_TABLES: u64 = 0x9000;
/// The command line, NUL-terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line, its NUL included.
pub const CMDLINE_LEN: u64 = 0x1_0000;
/// End of conventional memory.
pub const EBDA: u64 = 0x9_fc00;
/// The legacy VGA window.
pub const VGA_WINDOW: u64 = devices::display::text::WINDOW;
/// Its length: a memory slot of its own.
pub const VGA_WINDOW_LEN: u64 = devices::display::text::WINDOW_LEN as u64;
/// ACPI tables; the RSDP is at the very start.
pub const ACPI: u64 = 0xe_0000;
/// Room for ACPI tables.
pub const ACPI_LEN: u64 = 0xf000;
/// The VM generation id, alone in its page, which is reserved.
pub const GENERATION: u64 = 0xe_f000;
/// Length of that page.
pub const GENERATION_LEN: u64 = 0x1000;
/// SMBIOS entry points and structures.
pub const SMBIOS: u64 = 0xf_0000;
/// Room for SMBIOS.
pub const SMBIOS_LEN: u64 = 0x1_0000;
/// RAM from here on is free for kernels.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Where BARs may be: from the end of low RAM at its largest to the I/O APIC.
pub const PCI_WINDOW: u64 = 0x8000_0000;
/// One past the last address of the PCI window.
pub const PCI_WINDOW_END: u64 = 0xfec0_0000;
/// Where direct boot puts the ECAM window.
pub const ECAM: u64 = 0xe000_0000;
/// Length of the ECAM window.
pub const ECAM_LEN: u64 = devices::pci::root::ECAM_LEN;
/// I/O APIC registers.
pub const IO_APIC: u64 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// KVM's identity-map page, needed by VMX without unrestricted guests.
pub const KVM_IDENTITY_MAP: u64 = 0xfeff_c000;
/// KVM's three TSS pages.
pub const KVM_TSS: u64 = 0xfeff_d000;

/// Where direct boot puts the power-management block.
pub const PM_BASE: u16 = 0x600;
/// The SCI's interrupt line.
pub const SCI: u32 = 9;
/// First interrupt line that is free for MSI routes: past the I/O APIC's 24.
pub const FIRST_MSI_GSI: u32 = 24;
/// The reset control register, which the FADT names.
pub const RESET_PORT: u16 = 0xcf9;
/// What to write there.
pub const RESET_VALUE: u8 = 0x06;

const _: () = {
    assert!(GDT + 64 <= PVH_START_INFO && PVH_MEMORY_MAP + 0x400 <= ZERO_PAGE);
    assert!(ZERO_PAGE + 0x1000 <= PAGE_TABLES && PAGE_TABLES + 6 * 0x1000 <= CMDLINE);
    assert!(CMDLINE + CMDLINE_LEN <= EBDA && EBDA < VGA_WINDOW);
    assert!(VGA_WINDOW + VGA_WINDOW_LEN <= ACPI);
    assert!(ACPI + ACPI_LEN <= GENERATION && GENERATION + GENERATION_LEN <= SMBIOS);
    assert!(SMBIOS + SMBIOS_LEN <= HIGH_MEMORY);
    assert!(LOW_RAM_END <= PCI_WINDOW && ECAM >= PCI_WINDOW);
    assert!(ECAM + ECAM_LEN <= PCI_WINDOW_END && PCI_WINDOW_END <= IO_APIC);
    assert!(LOCAL_APIC < KVM_IDENTITY_MAP && KVM_TSS + 0x3000 <= HIGH_RAM_START);
};

/// What a range of guest-physical memory is, with the numbers that e820 and PVH share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Free for the kernel.
    Ram = 1,
    /// Not free.
    Reserved = 2,
}

/// The memory map for a guest with these RAM ranges, ascending: address, length, kind.
pub fn memory_map(ram: &[(u64, u64)]) -> Vec<(u64, u64, MemoryKind)> {
    let mut map = vec![
        (0, EBDA, MemoryKind::Ram),
        (EBDA, VGA_WINDOW - EBDA, MemoryKind::Reserved),
        (ACPI, HIGH_MEMORY - ACPI, MemoryKind::Reserved),
    ];
    for (start, len) in ram {
        let first = (*start).max(HIGH_MEMORY);
        map.push((first, start + len - first, MemoryKind::Ram));
    }
    map.push((ECAM, ECAM_LEN, MemoryKind::Reserved));
    map.sort_by_key(|(start, ..)| *start);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_covers_ram_but_for_the_first_mebibyte_s_holes() {
        let map = memory_map(&[(0, LOW_RAM_END), (HIGH_RAM_START, 1 << 30)]);
        for pair in map.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?} overlap");
        }
        let ram: u64 = map.iter().filter(|r| r.2 == MemoryKind::Ram).map(|r| r.1).sum();
        assert_eq!(ram, LOW_RAM_END + (1 << 30) - (HIGH_MEMORY - EBDA));
        assert_eq!(map.last(), Some(&(HIGH_RAM_START, 1 << 30, MemoryKind::Ram)));
    }
}

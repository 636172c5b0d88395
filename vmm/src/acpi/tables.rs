//! The fixed tables: RSDP, RSDT, XSDT, FACS, FADT, MADT, MCFG (ACPI 6.5 §5.2, PCI Firmware 3.3).

use acpi_tables::sdt::{GenericAddress, Sdt};
use devices::platform::pm;

use super::{Board, OEM_ID, table};
use crate::machine::layout;

const FACS_LEN: usize = 64;
const FADT_LEN: u32 = 276;
const IO_APIC_ID: u8 = 0;

/// Firmware ACPI control structure (§5.2.10): nothing in it is used, but its place is.
pub fn facs() -> [u8; FACS_LEN] {
    let mut facs = [0; FACS_LEN];
    facs[..4].copy_from_slice(b"FACS");
    facs[4] = FACS_LEN as u8;
    facs[32] = 2;
    facs
}

/// Fixed ACPI description table (§5.2.9), revision 6.5: always in ACPI mode (SMI_CMD is 0).
pub fn fadt(board: &Board, facs: u64, dsdt: u64) -> Sdt {
    const PROFILE_SERVER: u8 = 4;
    // Legacy devices are there; ASPM is not to be touched.
    const BOOT_ARCH: u16 = 1 << 0 | 1 << 4;
    const BOOT_ARCH_8042: u16 = 1 << 1;
    const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
    // WBINVD works, C1 works, no fixed sleep button, no fixed RTC wake, reset register.
    const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10;
    const LATENCY_NONE: u16 = 0x0fff;
    let pm1_event = board.pm_base;
    let pm1_control = board.pm_base + 4;
    let timer = board.pm_base + 8;
    let gpe0 = board.pm_base + pm::GPE0 as u16;
    let mut fadt = table(b"FACP", 6);
    fadt.append_slice(&vec![0; FADT_LEN as usize - 36]);
    fadt.write_u32(36, facs as u32);
    fadt.write_u32(40, dsdt as u32);
    fadt.write_u8(45, PROFILE_SERVER);
    fadt.write_u16(46, layout::SCI as u16);
    fadt.write_u32(56, pm1_event.into());
    fadt.write_u32(64, pm1_control.into());
    fadt.write_u32(76, timer.into());
    fadt.write_u32(80, gpe0.into());
    fadt.write_bytes(88, &[4, 2, 0, 4, pm::GPE0_LEN as u8]);
    fadt.write_u16(96, LATENCY_NONE);
    fadt.write_u16(98, LATENCY_NONE);
    fadt.write_u8(108, devices::platform::cmos::CENTURY as u8);
    let desktop = if board.desktop { BOOT_ARCH_8042 } else { BOOT_ARCH_NO_VGA };
    fadt.write_u16(109, BOOT_ARCH | desktop);
    fadt.write_u32(112, FLAGS);
    fadt.write(116, GenericAddress::io_port_address::<u8>(layout::RESET_PORT));
    fadt.write_u8(128, layout::RESET_VALUE);
    fadt.write_u8(131, 5);
    fadt.write_u64(132, facs);
    fadt.write_u64(140, dsdt);
    fadt.write(148, GenericAddress::io_port_address::<u32>(pm1_event));
    fadt.write(172, GenericAddress::io_port_address::<u16>(pm1_control));
    fadt.write(208, GenericAddress::io_port_address::<u32>(timer));
    // 128 bits wide, in byte accesses.
    fadt.write_bytes(220, &[1, 128, 0, 1]);
    fadt.write_u64(224, gpe0.into());
    fadt.write_bytes(268, b"BERTHVMM");
    fadt
}

/// Multiple APIC description table (§5.2.12).
pub fn madt(board: &Board) -> Sdt {
    const PC_AT_PICS: u32 = 1;
    const ENABLED: u32 = 1;
    // Level-triggered, active high (§5.2.12.5).
    const LEVEL_HIGH: u16 = 0xd;
    let mut madt = table(b"APIC", 5);
    madt.append(layout::LOCAL_APIC as u32);
    madt.append(PC_AT_PICS);
    for cpu in 0..board.cpus as u8 {
        madt.append_slice(&[0, 8, cpu, cpu]);
        madt.append(ENABLED);
    }
    madt.append_slice(&[1, 12, IO_APIC_ID, 0]);
    madt.append(layout::IO_APIC as u32);
    madt.append(0u32);
    // The PIT's ISA interrupt 0 is wired to pin 2.
    interrupt_override(&mut madt, 0, 2, 0);
    interrupt_override(&mut madt, layout::SCI as u8, layout::SCI, LEVEL_HIGH);
    // NMI on LINT1 of every processor.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

fn interrupt_override(madt: &mut Sdt, source: u8, gsi: u32, flags: u16) {
    madt.append_slice(&[2, 10, 0, source]);
    madt.append(gsi);
    madt.append(flags);
}

/// Memory-mapped configuration space (PCI Firmware 3.3 §4.1.2), of the one bus that there is.
///
/// The window has room for 256. But Linux asks at every device number of every bus that is named here
/// and that nothing leads to whether there is a peer of the root bridge: with 256 of them, 16,320
/// accesses to ports, all for nothing.
pub fn mcfg(board: &Board) -> Sdt {
    let mut mcfg = table(b"MCFG", 1);
    mcfg.append(0u64);
    mcfg.append(board.ecam);
    // Segment 0, bus 0.
    mcfg.append_slice(&[0; 8]);
    mcfg
}

/// Root table with 32-bit addresses, for kernels that know no XSDT (§5.2.7).
pub fn rsdt(tables: &[u64]) -> Sdt {
    let mut rsdt = table(b"RSDT", 1);
    tables.iter().for_each(|address| rsdt.append(*address as u32));
    rsdt
}

/// Root table (§5.2.8).
pub fn xsdt(tables: &[u64]) -> Sdt {
    let mut xsdt = table(b"XSDT", 1);
    tables.iter().for_each(|address| xsdt.append(*address));
    xsdt
}

/// Root system description pointer, revision 2 (§5.2.5.3).
pub fn rsdp(rsdt: u64, xsdt: u64) -> [u8; 36] {
    let mut rsdp = [0; 36];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(&OEM_ID);
    rsdp[15] = 2;
    rsdp[16..20].copy_from_slice(&(rsdt as u32).to_le_bytes());
    rsdp[20] = 36;
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

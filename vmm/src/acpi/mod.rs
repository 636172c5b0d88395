//! ACPI tables: which there are, and where (ACPI 6.5 §5.2).
//!
//! The tables are written at `0xE0000`, where every kernel looks for the RSDP. They describe the
//! machine as it is configured at that moment: the ECAM window and the power-management block may
//! move, so they are made anew for every boot.

mod dsdt;
mod tables;

use acpi_tables::sdt::Sdt;

/// What the tables describe.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// Number of vCPUs; APIC ids are 0 to cpus - 1.
    pub cpus: u32,
    /// Where the ECAM window is.
    pub ecam: u64,
    /// Where the power-management block is.
    pub pm_base: u16,
    /// Display adapter, PS/2 keyboard and mouse are there.
    pub desktop: bool,
}

const OEM_ID: [u8; 6] = *b"BERTH ";
const OEM_TABLE_ID: [u8; 8] = *b"BERTHVM ";

/// Length of the RSDP, and alignment of the tables.
const RSDP_LEN: u64 = 36;
const ALIGN: u64 = 64;

/// All tables, to be placed at `base`, which is where the RSDP then is.
pub fn build(board: &Board, base: u64) -> Vec<u8> {
    let mut area = Area { base, bytes: vec![0; RSDP_LEN as usize] };
    let facs = area.place(&tables::facs());
    let dsdt = area.place(dsdt::build(board).as_slice());
    let fadt = area.place(tables::fadt(board, facs, dsdt).as_slice());
    let madt = area.place(tables::madt(board).as_slice());
    let mcfg = area.place(tables::mcfg(board).as_slice());
    let roots = [fadt, madt, mcfg];
    let rsdt = area.place(tables::rsdt(&roots).as_slice());
    let xsdt = area.place(tables::xsdt(&roots).as_slice());
    area.bytes[..RSDP_LEN as usize].copy_from_slice(&tables::rsdp(rsdt, xsdt));
    area.bytes
}

/// A table's header with an empty body.
fn table(signature: &[u8; 4], revision: u8) -> Sdt {
    Sdt::new(*signature, 36, revision, OEM_ID, OEM_TABLE_ID, 1)
}

/// Bytes at a guest-physical address.
struct Area {
    base: u64,
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table, and answers its guest-physical address.
    fn place(&mut self, table: &[u8]) -> u64 {
        let at = (self.base + self.bytes.len() as u64).next_multiple_of(ALIGN);
        self.bytes.resize((at - self.base) as usize, 0);
        self.bytes.extend_from_slice(table);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::layout;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
        for desktop in [false, true] {
            check(&Board { cpus: 64, ecam: layout::ECAM, pm_base: layout::PM_BASE, desktop });
        }
    }

    fn check(board: &Board) {
        let board = *board;
        let bytes = build(&board, layout::ACPI);
        assert!(bytes.len() as u64 <= layout::ACPI_LEN);
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
        let at = |address: u32| &bytes[(u64::from(address) - layout::ACPI) as usize..];
        let table = |address: u32| {
            let all = at(address);
            let whole = &all[..word(all, 4) as usize];
            assert_eq!(sum(whole), 0, "{:?}", std::str::from_utf8(&whole[..4]));
            whole
        };
        let rsdt = table(word(&bytes, 16));
        let xsdt = table(word(&bytes, 24));
        let names: Vec<_> = (0..3)
            .map(|i| {
                let address = word(rsdt, 36 + 4 * i);
                assert_eq!(address, word(xsdt, 36 + 8 * i));
                String::from_utf8(table(address)[..4].to_vec()).unwrap()
            })
            .collect();
        assert_eq!(names, ["FACP", "APIC", "MCFG"]);
        let fadt = table(word(rsdt, 36));
        assert_eq!(&table(word(fadt, 40))[..4], b"DSDT");
        assert_eq!(&at(word(fadt, 36))[..4], b"FACS");
        assert_eq!(fadt.len(), 276);
        // One bus, as Linux looks for devices on all that the MCFG has.
        let mcfg = table(word(rsdt, 44));
        assert_eq!((word(mcfg, 44), word(mcfg, 52)), (board.ecam as u32, 0));
        // "PNP0303", compressed, is in the DSDT; the FADT's flags say 8042, and VGA.
        let dsdt = table(word(fadt, 40));
        // The generation id's place, as a DWord; nothing else lies there.
        let name = [b"ADDR".as_slice(), &[0x12]].concat();
        let at = dsdt.windows(5).position(|bytes| bytes == name).unwrap();
        let place = [[0x0c].as_slice(), &(layout::GENERATION as u32).to_le_bytes()].concat();
        assert!(
            dsdt[at..at + 16].windows(5).any(|bytes| bytes == place),
            "{:x?}",
            &dsdt[at..at + 16]
        );
        let keyboard = dsdt.windows(4).any(|id| id == [0x41, 0xd0, 0x03, 0x03]);
        assert_eq!(keyboard, board.desktop);
        assert_eq!((fadt[109] >> 1 & 1 != 0, fadt[109] >> 2 & 1 == 0), (keyboard, keyboard));
    }
}

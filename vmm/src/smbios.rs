//! SMBIOS (DSP0134 3.7): what `dmidecode`, cloud-init and systemd read the machine's identity from.
//!
//! Both entry points, the 32-bit one for old kernels and the 64-bit one, lead to one table.

use crate::config::Identity;

/// Anchor of the 2.1 entry point, 16-aligned in the F segment (§5.2.1).
const ENTRY_32: usize = 0x00;
/// Anchor of the 3.0 entry point (§5.2.2).
const ENTRY_64: usize = 0x20;
/// The structures.
const TABLE: usize = 0x40;

const MANUFACTURER: &str = "Berth";
const PRODUCT: &str = "Berth Virtual Machine";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the structures describe.
pub struct Description<'a> {
    /// UUID and serial number.
    pub identity: &'a Identity,
    /// Number of vCPUs.
    pub cpus: u32,
    /// RAM ranges: guest address and length in bytes.
    pub ram: &'a [(u64, u64)],
}

/// Entry points and table, to be placed at `base`, below 1 MiB.
pub fn build(description: &Description<'_>, base: u64) -> Vec<u8> {
    let mut table = Table::default();
    firmware(&mut table);
    system(&mut table, description.identity);
    enclosure(&mut table);
    processor(&mut table, description.cpus);
    memory(&mut table, description.ram);
    // System boot information: no error; then the end of the table.
    table.add(32, &[0; 7], &[]);
    table.add(127, &[], &[]);
    let mut bytes = vec![0; TABLE];
    let address = base + TABLE as u64;
    bytes[ENTRY_32..ENTRY_32 + 31].copy_from_slice(&entry_32(&table, address as u32));
    bytes[ENTRY_64..ENTRY_64 + 24].copy_from_slice(&entry_64(&table, address));
    bytes.extend(table.bytes);
    bytes
}

/// Structures, one after the other.
#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    count: u16,
    largest: usize,
}

impl Table {
    /// Adds a structure: its type, its fields after the 4-byte header, and its strings.
    /// The handle is its number. Strings are referred to by their position, from 1.
    fn add(&mut self, kind: u8, fields: &[u8], strings: &[&str]) {
        let start = self.bytes.len();
        self.bytes.extend([kind, fields.len() as u8 + 4]);
        self.bytes.extend(self.count.to_le_bytes());
        self.bytes.extend(fields);
        for string in strings {
            // A zero byte would end the string set early.
            self.bytes.extend(string.bytes().filter(|byte| *byte != 0).take(64));
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
        self.largest = self.largest.max(self.bytes.len() - start);
    }
}

/// Type 0 (§7.1).
fn firmware(table: &mut Table) {
    let mut fields = vec![1, 2, 0, 0xe8, 3, 0];
    // Characteristics: not supported are the characteristics; it is a virtual machine (bit 4 of
    // the second extension byte, §7.1.2.2).
    fields.extend((1u64 << 3).to_le_bytes());
    fields.extend([0, 1 << 4, 0xff, 0xff, 0xff, 0xff]);
    table.add(0, &fields, &[MANUFACTURER, VERSION, "01/01/2026"]);
}

/// Type 1 (§7.2). The UUID's first three fields are little-endian (§7.2.1).
fn system(table: &mut Table, identity: &Identity) {
    let u = identity.uuid;
    let mut fields = vec![1, 2, 3, 4];
    fields.extend([u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6]]);
    fields.extend(&u[8..]);
    // Woken by the power switch; no SKU; family.
    fields.extend([6, 0, 5]);
    let serial = if identity.serial.is_empty() { "0" } else { &identity.serial };
    table.add(1, &fields, &[MANUFACTURER, PRODUCT, VERSION, serial, "Virtual Machine"]);
}

/// Type 3 (§7.4): other, safe state.
fn enclosure(table: &mut Table) {
    let mut fields = vec![1, 1, 0, 0, 0, 3, 3, 3, 2];
    fields.extend([0; 4]);
    fields.extend([0, 0, 0, 0]);
    table.add(3, &fields, &[MANUFACTURER]);
}

/// Type 4 (§7.5): one socket with all cores.
fn processor(table: &mut Table, cpus: u32) {
    let cores = cpus.min(255) as u8;
    // Socket; central processor; family in the second field; manufacturer; id; version.
    let mut fields = vec![1, 3, 0xfe, 2];
    fields.extend([0; 8]);
    fields.extend([3, 0]);
    // Clock, maximum and current speed unknown; enabled; other upgrade.
    fields.extend([0; 6]);
    fields.extend([0x41, 1]);
    // No cache structures; no serial number, asset tag or part number.
    fields.extend([0xff; 6]);
    fields.extend([0, 0, 0, cores, cores, cores]);
    // 64-bit capable, multi-core.
    fields.extend((1u16 << 2 | 1 << 3).to_le_bytes());
    fields.extend(1u16.to_le_bytes());
    fields.extend([(cpus as u16).to_le_bytes(); 3].concat());
    table.add(4, &fields, &["CPU 0", MANUFACTURER, "vCPU"]);
}

/// Types 16, 17 and 19 (§7.17, §7.18, §7.20): one array, one module, one address range per piece.
fn memory(table: &mut Table, ram: &[(u64, u64)]) {
    let total: u64 = ram.iter().map(|(_, len)| len).sum();
    let array = table.count;
    // On the board, system memory, no error correction; capacity in the extended field.
    let mut fields = vec![3, 3, 3, 0, 0, 0, 0x80, 0xfe, 0xff, 1, 0];
    fields.extend(total.to_le_bytes());
    table.add(16, &fields, &[]);

    let mib = total >> 20;
    let mut fields = array.to_le_bytes().to_vec();
    fields.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
    // 0x7fff: the size is in the extended field.
    let (size, extended) = if mib < 0x7fff { (mib as u16, 0) } else { (0x7fff, mib as u32) };
    fields.extend(size.to_le_bytes());
    // DIMM, no set, locator; RAM of no further kind; speed unknown; manufacturer.
    fields.extend([9, 0, 1, 0, 7, 2, 0, 0, 0, 2, 0, 0, 0, 0]);
    fields.extend(extended.to_le_bytes());
    fields.extend([0; 8]);
    table.add(17, &fields, &["DIMM 0", MANUFACTURER]);

    for (start, len) in ram {
        let mut fields = vec![0xff; 8];
        fields.extend(array.to_le_bytes());
        fields.push(1);
        fields.extend(start.to_le_bytes());
        fields.extend((start + len - 1).to_le_bytes());
        table.add(19, &fields, &[]);
    }
}

fn entry_32(table: &Table, address: u32) -> [u8; 31] {
    let mut entry = [0; 31];
    entry[..4].copy_from_slice(b"_SM_");
    entry[5..8].copy_from_slice(&[31, 2, 8]);
    entry[8..10].copy_from_slice(&(table.largest as u16).to_le_bytes());
    entry[16..21].copy_from_slice(b"_DMI_");
    entry[22..24].copy_from_slice(&(table.bytes.len() as u16).to_le_bytes());
    entry[24..28].copy_from_slice(&address.to_le_bytes());
    entry[28..30].copy_from_slice(&table.count.to_le_bytes());
    entry[30] = 0x28;
    entry[21] = checksum(&entry[16..]);
    entry[4] = checksum(&entry);
    entry
}

fn entry_64(table: &Table, address: u64) -> [u8; 24] {
    let mut entry = [0; 24];
    entry[..5].copy_from_slice(b"_SM3_");
    entry[6..11].copy_from_slice(&[24, 3, 0, 0, 1]);
    entry[12..16].copy_from_slice(&(table.bytes.len() as u32).to_le_bytes());
    entry[16..24].copy_from_slice(&address.to_le_bytes());
    entry[5] = checksum(&entry);
    entry
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The structures as (type, fields from offset 4, strings).
    fn parse(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (kind, len) = (bytes[0], bytes[1] as usize);
            let fields = bytes[4..len].to_vec();
            bytes = &bytes[len..];
            let end = bytes.windows(2).position(|w| w == [0, 0]).unwrap();
            let strings = bytes[..end]
                .split(|b| *b == 0)
                .filter(|s| !s.is_empty())
                .map(|s| String::from_utf8(s.to_vec()).unwrap())
                .collect();
            bytes = &bytes[end + 2..];
            all.push((kind, fields, strings));
            if kind == 127 {
                break;
            }
        }
        assert!(bytes.is_empty());
        all
    }

    #[test]
    fn the_table_holds_what_guests_read() {
        let uuid = std::array::from_fn(|i| i as u8);
        let identity = Identity { uuid, serial: "pet-1".into(), ..Identity::default() };
        let ram = [(0, 2 << 30), (4 << 30, 40 << 30)];
        let bytes = build(&Description { identity: &identity, cpus: 4, ram: &ram }, 0xf0000);
        let sum = |range: &[u8]| range.iter().fold(0u8, |s, b| s.wrapping_add(*b));
        assert_eq!((sum(&bytes[..31]), sum(&bytes[16..31]), sum(&bytes[0x20..0x38])), (0, 0, 0));
        let all = parse(&bytes[TABLE..]);
        let kinds: Vec<u8> = all.iter().map(|s| s.0).collect();
        assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 19, 19, 32, 127]);
        assert_eq!(u16::from_le_bytes([bytes[28], bytes[29]]), 10);
        let system = &all[1];
        assert_eq!(system.1[4..12], [3, 2, 1, 0, 5, 4, 7, 6]);
        assert_eq!((system.1.len(), system.2[3].as_str()), (0x1b - 4, "pet-1"));
        let lengths: Vec<usize> = all.iter().map(|s| s.1.len() + 4).collect();
        assert_eq!(lengths, [0x18, 0x1b, 0x15, 0x30, 0x17, 0x28, 0x1f, 0x1f, 0x0b, 4]);
    }
}

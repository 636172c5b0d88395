//! The parts that ISO 9660 directories are made of: numbers in both byte orders, directory records
//! (ECMA-119 §9.1), and the system use entries of SUSP 1.12 and RRIP 1.12 within them.

/// §9.1.5: years since 1900, month, day, hour, minute, second, offset from UTC.
pub const DATE: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];

/// Joliet: UCS-2, most significant byte first.
pub fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// §7.2.3: both byte orders, little first.
pub fn both16(value: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d]
}

/// §7.3.3, the same for 32 bits.
pub fn both32(value: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

/// §9.1: a directory record, `system` in its system use area.
pub fn record(identifier: &[u8], (sector, bytes): (u32, u32), flags: u8, system: &[u8]) -> Vec<u8> {
    let mut r = vec![0, 0];
    r.extend(both32(sector));
    r.extend(both32(bytes));
    r.extend(DATE);
    r.extend([flags, 0, 0]);
    r.extend(both16(1));
    r.push(identifier.len() as u8);
    r.extend(identifier);
    if r.len() % 2 == 1 {
        r.push(0);
    }
    r.extend(system);
    if r.len() % 2 == 1 {
        r.push(0);
    }
    // The longest: 33 bytes, 132 of a Joliet name; or 33 of a primary one and 44 + 26 + 69.
    r[0] = r.len() as u8;
    r
}

/// SUSP 1.12 §5.3, the SP entry: System Use Sharing Protocol is in use.
pub fn sharing_protocol() -> [u8; 7] {
    *b"SP\x07\x01\xbe\xef\0"
}

/// SUSP §5.1, the CE entry: goes on at the start of `sector`.
pub fn continuation(sector: u32, bytes: u32) -> Vec<u8> {
    let mut entry = b"CE\x1c\x01".to_vec();
    entry.extend(both32(sector));
    entry.extend(both32(0));
    entry.extend(both32(bytes));
    entry
}

/// SUSP §5.5, the ER entry, with the texts that RRIP 1.12 §4.3 gives.
pub fn extension_reference() -> Vec<u8> {
    let id = b"IEEE_P1282";
    let descriptor = b"THE IEEE P1282 PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
    let source = b"PLEASE CONTACT THE IEEE STANDARDS DEPARTMENT, PISCATAWAY, NJ, USA FOR THE \
                   P1282 SPECIFICATION.";
    let mut entry = b"ER\0\x01".to_vec();
    entry.extend([id.len() as u8, descriptor.len() as u8, source.len() as u8, 1]);
    entry.extend(id);
    entry.extend(descriptor);
    entry.extend(source);
    entry[2] = entry.len() as u8;
    entry
}

/// RRIP §4.1.1, the PX entry: mode, links, owner root, serial number.
pub fn attributes(mode: u32, links: u32, serial: u32) -> Vec<u8> {
    let mut entry = b"PX\x2c\x01".to_vec();
    for value in [mode, links, 0, 0, serial] {
        entry.extend(both32(value));
    }
    entry
}

/// RRIP §4.1.6, the TF entry: modification, access and change, in the short form.
pub fn time_stamps() -> Vec<u8> {
    let mut entry = b"TF\x1a\x01\x0e".to_vec();
    entry.extend(DATE.repeat(3));
    entry
}

/// RRIP §4.1.4, the NM entry: the whole name.
pub fn alternate_name(name: &str) -> Vec<u8> {
    let mut entry = vec![b'N', b'M', 5 + name.len() as u8, 1, 0];
    entry.extend(name.as_bytes());
    entry
}

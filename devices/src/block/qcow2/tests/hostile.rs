//! Images made to harm: whatever their bytes say, nothing panics, hangs or eats memory.

use super::*;

const SIZE: u64 = 512 << 10;

/// Some valid images whose metadata can be bent.
fn victims() -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    for (cluster_bits, version) in [(9, 3), (12, 3), (16, 2)] {
        let file = blank(Shape { cluster_bits, version, refcount_order: 4 }, SIZE);
        {
            let disk = open(&file, None);
            for i in 0..30 {
                write(&disk, i * 16384, &[i as u8; 5120]);
            }
            disk.discard(0, 65536).unwrap();
        }
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        images.push(bytes);
    }
    images
}

/// Opens an image and uses it in every way; errors are fine.
fn abuse(bytes: &[u8], random: &mut Random) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let _ = read_info(&file);
    let _ = check(&file);
    let read_only = random.below(2) == 0;
    let Ok(disk) = Qcow2::open(file.try_clone().unwrap(), None, read_only, 0) else {
        let what = [Repair::All, Repair::Counts, Repair::Leaks][random.below(3) as usize];
        let _ = repair(&file, what);
        return;
    };
    let sectors = (disk.info().capacity / 512).min(SIZE / 512);
    for _ in 0..40 {
        let first = random.below(sectors);
        let count = (1 + random.below(64)).min(sectors - first);
        let (at, len) = (first * 512, count * 512);
        let mut buffer = vec![random.next() as u8; len as usize];
        let bufs = [VolatileSlice::from(&mut buffer[..])];
        let _ = match random.below(6) {
            0 => disk.write_at(&bufs, at),
            1 => disk.discard(at, len),
            2 => disk.zero(at, len, true),
            3 => disk.flush(),
            4 => disk.place(at, len, Access::Read).map(drop),
            _ => disk.read_at(&bufs, at),
        };
    }
    if random.below(8) == 0 {
        let _ = disk.grow(disk.info().capacity.saturating_add(1 << 20).min(1 << 40));
    }
    // Every cluster once, as a guest that reads its whole disk.
    let mut buffer = vec![0; 65536];
    for at in (0..sectors * 512).step_by(65536) {
        let len = (sectors * 512 - at).min(65536) as usize;
        let _ = disk.read_at(&[VolatileSlice::from(&mut buffer[..len])], at);
    }
}

#[test]
fn bent_metadata_is_harmless() {
    let victims = victims();
    let mut random = Random::new(20);
    for round in 0..1500 {
        let mut bytes = victims[round % victims.len()].clone();
        let header_only = random.below(3) == 0;
        for _ in 0..1 + random.below(6) {
            let reach = if header_only { 112 } else { bytes.len() as u64 };
            let at = random.below(reach) as usize / 8 * 8;
            let value: u64 = match random.below(8) {
                0 => u64::MAX,
                1 => random.next() << 32 | random.next(),
                2 => 1 << random.below(64),
                3 => random.below(bytes.len() as u64 / 512) * 512,
                4 => (1 << 63) | (random.below(bytes.len() as u64 / 512) * 512),
                5 => (1 << 62) | random.next(),
                6 => random.below(1 << 20),
                _ => 0,
            };
            if let Some(field) = bytes.get_mut(at..at + 8) {
                if random.below(3) == 0 {
                    field[random.below(8) as usize] ^= 1 << random.below(8);
                } else {
                    field.copy_from_slice(&value.to_be_bytes());
                }
            }
        }
        if random.below(10) == 0 {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        abuse(&bytes, &mut random);
    }
}

#[test]
fn noise_behind_a_valid_magic_is_harmless() {
    let mut random = Random::new(21);
    for _ in 0..300 {
        let mut bytes: Vec<u8> = (0..2048).map(|_| random.next() as u8).collect();
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&[0, 0, 0, 9 + random.below(13) as u8]);
        bytes[72..80].fill(0);
        abuse(&bytes, &mut random);
    }
}

/// Every L1 entry leads to one L2 table whose entries all lead to one cluster: a walk must not
/// take the product of both.
#[test]
fn a_check_of_many_references_to_one_table_ends() {
    let file = tempfile::tempfile().unwrap();
    let entries = 1u64 << 20;
    let options = CreateOptions { cluster_bits: 9, ..CreateOptions::new(entries * 64 * 512) };
    create(&file, &options).unwrap();
    let header = read_header(&ImageFile::new(file.try_clone().unwrap()).unwrap()).unwrap();
    let l2 = header.l1_offset + entries * 8;
    let table: Vec<u8> = (l2 | geometry::COPIED).to_be_bytes().repeat(entries as usize);
    file.write_all_at(&table, header.l1_offset).unwrap();
    file.write_all_at(&(l2 | geometry::COPIED).to_be_bytes().repeat(64), l2).unwrap();
    let corruptions = check(&file).unwrap().corruptions;
    assert!((entries..4 * entries).contains(&corruptions), "{corruptions}");
}

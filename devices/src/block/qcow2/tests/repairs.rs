//! Repairs of randomly damaged counts, flags and marks: afterwards nothing is wrong, the disk reads
//! as it did before, and it can be written to; and a power cut in the middle changes none of that.

use super::super::super::recorder::Recorder;
use super::super::geometry::COPIED;
use super::super::repair::repair_image;
use super::*;

const SIZE: u64 = 1 << 20;

fn number(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

fn put(file: &File, at: u64, value: u64) {
    file.write_all_at(&value.to_be_bytes(), at).unwrap();
}

fn copy(file: &File) -> File {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let copy = tempfile::tempfile().unwrap();
    copy.write_all_at(&bytes, 0).unwrap();
    copy
}

fn header_of(file: &File) -> Header {
    read_header(&ImageFile::new(file.try_clone().unwrap()).unwrap()).unwrap()
}

/// An image with data here and there.
fn sound(shape: Shape, random: &mut Random) -> File {
    let file = blank(shape, SIZE);
    let disk = open(&file, None);
    for _ in 0..60 {
        let at = random.below(SIZE / 512 - 16) * 512;
        write(&disk, at, &vec![random.next() as u8; 512 * (1 + random.below(16)) as usize]);
    }
    drop(disk);
    file
}

/// A random entry of a random L2 table: its place, if there is a table.
fn entry_of(header: &Header, file: &File, random: &mut Random) -> Option<u64> {
    let l1 = header.l1_offset + random.below(header.l1_size.into()) * 8;
    let table = header.geometry.l1_offset(number(file, l1)).unwrap()?;
    Some(table + random.below(header.geometry.l2_entries()) * 8)
}

/// Does harm that can be repaired. Leaks only: nothing else.
fn harm(file: &File, random: &mut Random, only_leaks: bool) {
    let header = header_of(file);
    let g = &header.geometry;
    let block = number(file, header.refcount_table_offset);
    if block == 0 {
        return;
    }
    match random.below(if only_leaks { 1 } else { 6 }) {
        0 | 1 => {
            let mut counts = vec![0; g.cluster() as usize];
            file.read_exact_at(&mut counts, block).unwrap();
            for _ in 0..1 + random.below(20) {
                let index = random.below(g.refblock_entries());
                let count = g.refcount(&counts, index);
                match (only_leaks, count) {
                    (true, 0) => g.set_refcount(&mut counts, index, 1),
                    (true, _) => {}
                    _ => g.set_refcount(&mut counts, index, random.below(g.refcount_max().min(4))),
                }
            }
            file.write_all_at(&counts, block).unwrap();
        }
        2 => {
            if let Some(at) = entry_of(&header, file, random).filter(|at| number(file, *at) != 0) {
                put(file, at, number(file, at) ^ COPIED);
            }
        }
        3 => {
            let (from, to) = (entry_of(&header, file, random), entry_of(&header, file, random));
            if let (Some(from), Some(to)) = (from, to) {
                put(file, to, number(file, from));
            }
        }
        4 => put(file, header.refcount_table_offset, 0),
        _ if g.version >= 3 => put(file, field::INCOMPATIBLE, 1 + random.below(3)),
        _ => {}
    }
}

fn contents(file: &File) -> Vec<u8> {
    read(&Qcow2::open(file.try_clone().unwrap(), None, true, 0).unwrap(), 0, SIZE)
}

#[track_caller]
fn assert_repaired(file: &File, held: &[u8], random: &mut Random) {
    let report = check(file).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{report:#?}");
    let info = read_info(file).unwrap();
    assert!(!info.dirty && !info.corrupt);
    assert!(contents(file) == held);
    // No write shows anywhere but where it went.
    let mut held = held.to_vec();
    let disk = open(file, None);
    for _ in 0..40 {
        let at = random.below(SIZE / 512) * 512;
        let fill = random.next() as u8;
        write(&disk, at, &[fill; 512]);
        held[at as usize..at as usize + 512].fill(fill);
    }
    disk.flush().unwrap();
    assert!(read(&disk, 0, SIZE) == held);
    drop(disk);
    // Of two that were in one place the one that was not written may now be flagged.
    let report = check(file).unwrap();
    let flags = report.findings.iter().all(|finding| finding.ends_with("wrong COPIED flag"));
    assert!(flags && report.leaks == 0, "{report:#?}");
    repair(file, Repair::All).unwrap();
    assert_eq!(assert_sound(file), 0);
    assert!(contents(file) == held);
}

fn shape(random: &mut Random) -> Shape {
    let version = 2 + random.below(2) as u32;
    // A count of one bit cannot tell that two refer to a cluster.
    let refcount_order = if version < 3 { 4 } else { 1 + random.below(6) as u32 };
    Shape { version, cluster_bits: [9, 12, 16][random.below(3) as usize], refcount_order }
}

#[test]
fn whatever_counts_and_flags_say_can_be_repaired() {
    let mut random = Random::new(41);
    let mut rebuilt = 0;
    for round in 0..60 {
        let shape = shape(&mut random);
        let file = sound(shape, &mut random);
        (0..1 + random.below(4)).for_each(|_| harm(&file, &mut random, false));
        let held = contents(&file);
        let table = header_of(&file).refcount_table_offset;
        if let Err(fault) = repair(&file, Repair::All) {
            // With two bits a count ends at 3.
            assert!(fault.to_string().contains("more than can be counted"), "{round}: {fault}");
            continue;
        }
        rebuilt += usize::from(header_of(&file).refcount_table_offset != table);
        assert_repaired(&file, &held, &mut random);
        if round % 10 == 0 && have_qemu() {
            let directory = tempfile::tempdir().unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut &copy(&file), &mut bytes).unwrap();
            std::fs::write(directory.path().join("disk"), bytes).unwrap();
            qemu_img_ok(directory.path(), &["check", "-f", "qcow2", "disk"]);
        }
    }
    assert!((5..55).contains(&rebuilt), "{rebuilt} in place and anew are both meant to be met");
}

#[test]
fn leaks_alone_are_given_back_and_nothing_else_is_touched() {
    let mut random = Random::new(42);
    for _ in 0..40 {
        let shape = shape(&mut random);
        let file = sound(shape, &mut random);
        let held = contents(&file);
        let before = header_of(&file).refcount_table_offset;
        harm(&file, &mut random, true);
        repair(&file, Repair::Leaks).unwrap();
        assert_eq!(header_of(&file).refcount_table_offset, before);
        assert_repaired(&file, &held, &mut random);
    }
}

#[test]
fn a_power_cut_in_a_repair_costs_only_the_repair() {
    let mut random = Random::new(43);
    for _ in 0..10 {
        let shape = shape(&mut random);
        let file = sound(shape, &mut random);
        (0..1 + random.below(3)).for_each(|_| harm(&file, &mut random, false));
        let held = contents(&file);
        let initial = copy(&file);
        let recorder = Arc::new(Recorder::default());
        let recorded = ImageFile::recorded(file, recorder.clone()).unwrap();
        if repair_image(&recorded, Repair::All).is_err() {
            continue;
        }
        for _ in 0..8 {
            let cut = copy(&initial);
            let at = random.below(recorder.len() as u64 + 1) as usize;
            let odds = random.below(101);
            recorder.cut(&cut, at, || random.below(100) < odds);
            assert!(contents(&cut) == held);
            repair(&cut, Repair::All).unwrap();
            assert_repaired(&cut, &held, &mut random);
        }
    }
}

//! A process that is killed in the middle of what it does to an overlay: all that it had flushed is
//! there, whatever it did after may be or not, and the image is sound. One overlay lives through it all.
//!
//! The process is this program again, running the test [`the_one_that_is_killed`]; it says on standard
//! output up to which of its operations it has flushed. Both know the operations by their seed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::super::super::{ImageFormat, Raw, Window};
use super::*;

const SECTOR: u64 = 512;
const SECTORS: u64 = 16 << 10;
/// Operations between two flushes, on average.
const BETWEEN: u64 = 12;
/// So many operations after the last flush that was told of, the process has surely been killed.
const AHEAD: u64 = 50_000;
/// What a sector of the base holds, as a number.
const BASE: u64 = 0xbabe;
/// Where the process finds the image, and which round it is: `ROUND DIRECTORY`.
const VICTIM: &str = "BERTH_TEST_VICTIM";
/// Kills of the long run, unless `BERTH_KILLS` says otherwise.
const LONG: u64 = 100;

/// One operation: sectors, and what they hold after it; zero is written as zeroes.
#[derive(Clone, Copy)]
struct Operation {
    at: u64,
    count: u64,
    value: u64,
}

impl Operation {
    /// The operations of a round, from the first.
    fn all(round: u64) -> impl Iterator<Item = (Operation, bool)> {
        let mut random = Random::new(round);
        (1..).map(move |number| {
            let most = if random.below(8) == 0 { 300 } else { 16 };
            let count = 1 + random.below(most);
            let at = random.below(SECTORS - count);
            let zero = random.below(6) == 0;
            let value = if zero { 0 } else { round << 32 | number };
            (Operation { at, count, value }, random.below(BETWEEN) == 0)
        })
    }

    fn apply(self, disk: &Qcow2) {
        let len = self.count * SECTOR;
        match self.value {
            0 => disk.zero(self.at * SECTOR, len, true).unwrap(),
            value => {
                let bytes = value.to_be_bytes().repeat(len as usize / 8);
                write_placed(disk, self.at * SECTOR, &bytes);
            }
        }
    }
}

fn base(directory: &Path) -> Arc<dyn BlockBackend> {
    let file = File::open(directory.join("base")).unwrap();
    Arc::new(Raw::open(file, Window::default(), true).unwrap())
}

fn overlay(directory: &Path) -> File {
    File::options().read(true).write(true).open(directory.join("pet")).unwrap()
}

#[test]
#[ignore = "is run, and killed, by the others here"]
fn the_one_that_is_killed() {
    let Ok(what) = std::env::var(VICTIM) else { return };
    let (round, directory) = what.split_once(' ').unwrap();
    let directory = PathBuf::from(directory);
    let disk = open(&overlay(&directory), Some(base(&directory)));
    for ((operation, flush), number) in Operation::all(round.parse().unwrap()).zip(1_u64..) {
        operation.apply(&disk);
        if flush {
            disk.flush().unwrap();
            println!("flushed {number}");
        }
    }
}

/// Runs the process until it has flushed a few times, and kills it a moment later; the number of the
/// last operation that it said was flushed.
fn killed(directory: &Path, round: u64, random: &mut Random) -> u64 {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact"])
        .arg("block::qcow2::tests::kills::the_one_that_is_killed")
        .env(VICTIM, format!("{round} {}", directory.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let told = |line: String| line.split_once("flushed ")?.1.parse::<u64>().ok();
    let mut flushed = lines.by_ref().filter_map(told);
    let last = flushed.by_ref().nth(random.below(30) as usize).expect("it flushes");
    std::thread::sleep(Duration::from_micros(random.below(20_000)));
    victim.kill().unwrap();
    victim.wait().unwrap();
    // A last line that was cut says less than was flushed.
    flushed.max().unwrap_or(last).max(last)
}

fn run(kills: u64) {
    let directory = tempfile::tempdir().unwrap();
    let bytes = BASE.to_be_bytes().repeat((SECTORS * SECTOR) as usize / 8);
    std::fs::write(directory.path().join("base"), bytes).unwrap();
    let options = Shape { cluster_bits: 16, ..V3 }.options(SECTORS * SECTOR);
    let file = File::create_new(directory.path().join("pet")).unwrap();
    create(&file, &options.over("base", ImageFormat::Raw)).unwrap();
    let mut holds = vec![BASE; SECTORS as usize];
    let mut random = Random::new(kills);
    let (judge, mut after) = (have_qemu(), 0);
    for round in 1..=kills {
        let flushed = killed(directory.path(), round, &mut random);
        let file = overlay(directory.path());
        assert_sound(&file);
        if judge {
            // 3: clusters that nothing refers to yet, as the order of writing has it.
            let (code, said) = qemu_img(directory.path(), &["check", "-q", "pet"]);
            assert!([0, 3].contains(&code), "round {round}: {said}");
        }
        let disk = open(&file, Some(base(directory.path())));
        let contents = read(&disk, 0, SECTORS * SECTOR);
        let mut operations = Operation::all(round).map(|(operation, _)| operation);
        for operation in operations.by_ref().take(flushed as usize) {
            let sectors = operation.at as usize..(operation.at + operation.count) as usize;
            holds[sectors].fill(operation.value);
        }
        let later: Vec<Operation> = operations.take(AHEAD as usize).collect();
        for ((sector, bytes), holds) in (0..).zip(contents.chunks(SECTOR as usize)).zip(&mut holds)
        {
            let number = u64::from_be_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes.chunks(8).all(|chunk| chunk == &bytes[..8]), "sector {sector} is torn");
            if number == *holds {
                continue;
            }
            let may =
                |it: &Operation| it.value == number && (it.at..it.at + it.count).contains(&sector);
            assert!(
                later.iter().any(may),
                "round {round}: sector {sector} holds {number:#x} and not {holds:#x}"
            );
            *holds = number;
            after += 1;
        }
    }
    println!("{kills} kills; {after} sectors held what was written after the last flush");
}

#[test]
fn what_was_flushed_survives_a_few_kills() {
    run(5);
}

#[test]
#[ignore = "takes long; tests/README.md says how it is run"]
fn what_was_flushed_survives_a_hundred_kills() {
    run(std::env::var("BERTH_KILLS").map_or(LONG, |text| text.parse().unwrap()));
}

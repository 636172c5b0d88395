//! Metrics of disks. They are told apart by their serial numbers, of which no two are equal.

use std::fmt;

use devices::virtio::blk::{LATENCY_BOUNDS, Operation, Totals};

use super::super::Disk;
use super::{Family, Histogram, Labels, Page};

const FACTS: Family =
    Family::new("disk", "What a disk is: its file and whether the guest cannot write it");
const SIZE: Family = Family::bytes("disk_size", "The size of a disk, as the guest sees it");
const OPERATIONS: Family = Family::new(
    "disk_operations",
    "Requests that have ended, failed ones included: read, write, flush, discard, write_zeroes",
);
const ERRORS: Family = Family::new(
    "disk_operation_errors",
    "Requests that failed, and of which the guest was told so",
);
const BYTES: Family = Family::bytes("disk", "Bytes that requests which went well were about");
const TIMES: Family = Family::seconds(
    "disk_operation_duration",
    "How long requests took, from when Berth saw them to when the guest was told; waiting for limits \
     and for room on the host included",
);
const PAUSED: Family = Family::new(
    "disk_paused",
    "1 while a disk waits for room on the host, and the machine with it",
);
const STALLS: Family = Family::new(
    "disk_stalls",
    "How often a request found the host full; it is kept and tried again",
);
const MALFORMED: Family = Family::new(
    "disk_malformed_requests",
    "Chains of descriptors that were no request: the guest's driver is wrong",
);

pub(super) fn write(disks: &[Disk], page: &mut Page<'_>) -> fmt::Result {
    let each = || disks.iter().map(|disk| (label(disk), disk));
    page.infos(
        &FACTS,
        each().map(|(mut labels, disk)| {
            labels.push(("name", disk.name.clone()));
            labels.push(("read_only", disk.read_only.to_string()));
            labels
        }),
    )?;
    page.gauges(&SIZE, each().map(|(labels, disk)| (labels, disk.size_bytes)))?;
    let operations = || {
        each().flat_map(|(labels, disk)| {
            disk.counts.operations.iter().map(move |(operation, totals)| {
                let word = vec![("operation", word(*operation).to_owned())];
                (*operation, [labels.clone(), word].concat(), totals)
            })
        })
    };
    page.counters(&OPERATIONS, operations().map(|(_, labels, it)| (labels, it.requests)))?;
    page.counters(&ERRORS, operations().map(|(_, labels, it)| (labels, it.errors)))?;
    let bytes = operations().filter(|(operation, ..)| *operation != Operation::Flush);
    page.counters(&BYTES, bytes.map(|(_, labels, it)| (labels, it.bytes)))?;
    page.histograms(&TIMES, operations().map(|(_, labels, it)| (labels, histogram(it))))?;
    page.gauges(&PAUSED, each().map(|(labels, disk)| (labels, u32::from(disk.counts.waits))))?;
    page.counters(&STALLS, each().map(|(labels, disk)| (labels, disk.counts.stalls)))?;
    page.counters(&MALFORMED, each().map(|(labels, disk)| (labels, disk.counts.malformed)))
}

fn label(disk: &Disk) -> Labels {
    vec![("disk", disk.serial.clone())]
}

fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "read",
        Operation::Write => "write",
        Operation::Flush => "flush",
        Operation::Discard => "discard",
        Operation::WriteZeroes => "write_zeroes",
    }
}

fn histogram(totals: &Totals) -> Histogram {
    let bounds = LATENCY_BOUNDS.iter().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
    let classes = bounds.zip(totals.classes).collect();
    Histogram { classes, sum: totals.time.as_secs_f64() }
}

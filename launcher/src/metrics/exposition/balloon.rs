//! Metrics of the balloon, and of the guest's memory as the guest itself sees it.

use std::fmt;

use devices::virtio::balloon::Statistic;

use super::super::Balloon;
use super::{Family, Labels, Page, alone};

const TARGET: Family =
    Family::bytes("balloon_target", "What of its RAM the guest was asked to do without");
const SIZE: Family =
    Family::bytes("balloon", "What of its RAM the guest does without, as it was asked to");
const RETURNED: Family = Family::bytes(
    "balloon_returned",
    "Memory that went back to the host: free pages that the guest reported (reported) and pages put \
     into the balloon (inflated); the guest may have taken it again since",
);
const FAILURES: Family =
    Family::new("balloon_failures", "How often the host refused to take memory back");
const MEMORY: Family = Family::bytes(
    "guest_memory_reported",
    "Memory as the guest sees it: total, free, available (to its programs) and caches; absent until \
     its driver runs",
);
const SWAPPED: Family =
    Family::bytes("guest_swapped", "What the guest says it has swapped, by direction: in, out");
const FAULTS: Family = Family::new(
    "guest_page_faults",
    "Page faults in the guest, by its own count: major ones needed a disk, minor ones did not",
);
const OOM_KILLS: Family = Family::new(
    "guest_oom_kills",
    "Processes that the guest says it has killed for want of memory",
);

pub(super) fn write(balloon: Option<&Balloon>, page: &mut Page<'_>) -> fmt::Result {
    let Some(Balloon { target, size, counts, statistics }) = balloon else { return Ok(()) };
    let label = |name, value: &str| -> Labels { vec![(name, value.to_owned())] };
    page.gauges(&TARGET, alone(Some(*target)))?;
    page.gauges(&SIZE, alone(Some(*size)))?;
    let returned = [("reported", counts.reported), ("inflated", counts.inflated)];
    page.counters(&RETURNED, returned.map(|(how, bytes)| (label("how", how), bytes)))?;
    page.counters(&FAILURES, alone(Some(counts.failed)))?;
    let told = |name, list: &[(&str, Statistic)]| -> Vec<(Labels, u64)> {
        let told =
            list.iter().map(|(value, which)| Some((label(name, value), statistics.get(*which)?)));
        told.flatten().collect()
    };
    let memory = [
        ("total", Statistic::Total),
        ("free", Statistic::Free),
        ("available", Statistic::Available),
        ("caches", Statistic::Caches),
    ];
    page.gauges(&MEMORY, told("kind", &memory))?;
    let swapped = [("in", Statistic::SwapIn), ("out", Statistic::SwapOut)];
    page.counters(&SWAPPED, told("direction", &swapped))?;
    let faults = [("major", Statistic::MajorFaults), ("minor", Statistic::MinorFaults)];
    page.counters(&FAULTS, told("kind", &faults))?;
    page.counters(&OOM_KILLS, alone(statistics.get(Statistic::OomKills)))
}

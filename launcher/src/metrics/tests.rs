//! The text as others read it: a lint in the spirit of promtool's, promtool itself where it is
//! installed, and the table in `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use devices::virtio::balloon::{Counts, Statistic, Statistics};
use devices::virtio::blk::{LATENCY_CLASSES, Operation, Totals};

use super::exposition::write;
use super::*;
use crate::net::dhcp::counters::{Counters, Lease};
use crate::nic::Traffic;

/// A machine of which everything can be told.
fn example() -> Sample {
    let ms = Duration::from_millis;
    let mut classes = [0; LATENCY_CLASSES];
    (classes[0], classes[4], classes[15]) = (90, 9, 1);
    let read = Totals { requests: 100, errors: 1, bytes: 405_504, classes, time: ms(12_345) };
    let disk = |serial: &str, read_only| Disk {
        serial: serial.into(),
        // As hostile as a file's name can be.
        name: format!("/image/{serial} \"quoted\\\n"),
        size_bytes: 10 << 30,
        read_only,
        counts: DiskCounts {
            operations: Operation::ALL.map(|operation| (operation, read)).to_vec(),
            stalls: 2,
            malformed: 0,
            waits: !read_only,
        },
    };
    let cpu = Cpu {
        exits: ExitKind::ALL.map(|kind| (kind, 1 + kind as u64)).to_vec(),
        times: Some(Times { user: ms(61_230), system: ms(450), guest: ms(60_100) }),
    };
    let acknowledged = Instant::now();
    let counters = NicCounters {
        rx: Traffic { frames: 17, bytes: 2000, dropped: 7 },
        tx: Traffic { frames: 10, bytes: 1000, dropped: 3 },
        tx_refused: 5,
        lease_v4: Some(Lease { address: Ipv4Addr::LOCALHOST, acknowledged }),
        lease_v6: None::<Lease<Ipv6Addr>>,
    };
    let told = Told {
        frames: Counters::default().all().to_vec(),
        lease_v4: Some(ms(8_500)),
        lease_v6: None,
    };
    Sample {
        version: "0.1.0".into(),
        state: State::Paused,
        ready: true,
        started_at: Duration::new(1_700_000_000, 250_000_000),
        uptime: ms(3_723_000),
        stages: vec![
            (Stage::Console, ms(400)),
            (Stage::Lease, ms(7_900)),
            (Stage::Ready, ms(7_900)),
        ],
        resets: 1,
        vnc_viewers: Some(2),
        consoles: 1,
        cpus: vec![cpu.clone(), cpu],
        memory: Memory {
            guest: 2 << 30,
            guest_resident: Some(1 << 29),
            process_resident: Some(600 << 20),
        },
        balloon: Some(Balloon {
            target: 256 << 20,
            size: 128 << 20,
            counts: Counts { inflated: 128 << 20, reported: 1 << 30, failed: 0 },
            statistics: Statistic::ALL
                .iter()
                .fold(Statistics::default(), |all, which| all.with(*which, 1 + *which as u64)),
        }),
        times: Some(Times { user: ms(130_000), system: ms(2_000), guest: ms(120_200) }),
        disks: vec![disk("root", false), disk("config-2", true)],
        nics: vec![Nic {
            mac: "52:54:00:12:34:56".into(),
            counters: Some(counters),
            told: Some(told),
        }],
        vsock: Some(VsockCounts {
            open: 2,
            from_guest: 3,
            from_host: 4,
            refused: 5,
            rx_bytes: 6 << 20,
            tx_bytes: 7 << 20,
            malformed: 0,
        }),
    }
}

/// Names and values.
type Labels = Vec<(String, String)>;
/// Name, labels and value.
type Line = (String, Labels, f64);

/// One histogram.
#[derive(Default)]
struct Classes {
    /// Bound, and how many are within it.
    within: Vec<(f64, f64)>,
    count: Option<f64>,
}

/// A family of metrics, as a reader finds it.
#[derive(Debug, Default)]
struct Found {
    kind: String,
    help: String,
    unit: Option<String>,
    lines: Vec<Line>,
}

/// Takes the labels of a line apart: what is between the braces, unescaped.
fn labels(mut text: &str) -> Labels {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("no label: {text}"));
        let (mut value, mut rest) = (String::new(), rest.chars());
        loop {
            match rest.next().unwrap() {
                '"' => break,
                '\\' => match rest.next().unwrap() {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("\\{c} is no escape"),
                },
                c => value.push(c),
            }
        }
        labels.push((name.to_owned(), value));
        text = rest.as_str();
        if !text.is_empty() {
            text = text.strip_prefix(',').unwrap_or_else(|| panic!("no comma: {text}"));
        }
    }
    labels
}

/// Reads a page: families in their order. Whatever has no place in one fails.
fn read(page: &str) -> Vec<(String, Found)> {
    let body = page.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {page}"));
    let mut families: Vec<(String, Found)> = Vec::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let [what, name, text] = *comment.splitn(3, ' ').collect::<Vec<_>>() else {
                panic!("a comment: {line}")
            };
            if families.last().is_none_or(|(last, _)| last != name) {
                assert!(families.iter().all(|(other, _)| other != name), "{name} is cut in two");
                families.push((name.to_owned(), Found::default()));
            }
            let found = &mut families.last_mut().unwrap().1;
            assert!(found.lines.is_empty(), "{line} comes after what it is about");
            match what {
                "HELP" => found.help = text.to_owned(),
                "TYPE" => found.kind = text.to_owned(),
                "UNIT" => found.unit = Some(text.to_owned()),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, inside) = series.split_once('{').map_or((series, ""), |(name, rest)| {
            (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("no brace: {line}")))
        });
        let (family, found) = families.last_mut().unwrap_or_else(|| panic!("of nothing: {line}"));
        assert!(name.starts_with(family.as_str()), "{line} is among {family}");
        found.lines.push((name.to_owned(), labels(inside), value.parse().unwrap()));
    }
    families
}

/// Judges a page by what Prometheus asks of names, units, types and histograms.
pub fn lint(page: &str) {
    let mut seen = BTreeSet::new();
    for (family, found) in read(page) {
        let Found { kind, help, unit, lines } = &found;
        let name = |name: &str| {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(good) && !name.contains("__"), "the name {name}");
            assert!(name.starts_with(|c: char| c.is_ascii_lowercase()), "the name {name}");
        };
        name(family.as_str());
        assert!(family.starts_with("berth_"), "{family}");
        assert!(!help.is_empty() && !help.ends_with('.'), "{family}: {help}");
        assert!(!lines.is_empty(), "{family} has no metric");
        for word in family.split('_') {
            let bad = ["total", "info", "count", "sum", "bucket", "counter", "gauge", "histogram"];
            let units =
                ["ms", "us", "msec", "milliseconds", "kb", "kib", "kilobytes", "mb", "minutes"];
            assert!(!bad.contains(&word) && !units.contains(&word), "{family}: {word}");
            if ["seconds", "bytes"].contains(&word) {
                assert!(
                    unit.as_deref() == Some(word) && family.ends_with(word),
                    "{family}: {word}"
                );
            }
        }
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("{family}: the type {other}"),
        };
        for (line, labels, value) in lines {
            assert!(suffixes.iter().any(|suffix| *line == format!("{family}{suffix}")), "{line}");
            labels.iter().for_each(|(label, _)| name(label));
            let distinct: BTreeSet<&String> = labels.iter().map(|(label, _)| label).collect();
            assert_eq!(distinct.len(), labels.len(), "{line}: a label comes twice");
            assert!(seen.insert((line.clone(), labels.clone())), "{line} {labels:?} comes twice");
            assert!(value.is_finite() && *value >= 0.0, "{line}: {value}");
            let bound = labels.iter().any(|(label, _)| label == "le");
            assert_eq!(bound, line.ends_with("_bucket"), "{line}");
        }
        if kind == "histogram" {
            histograms(&family, lines);
        }
    }
}

/// Judges the histograms of a family: classes ascend, and the last counts everything.
fn histograms(family: &str, lines: &[Line]) {
    let mut each = BTreeMap::<Labels, Classes>::new();
    for (line, labels, value) in lines {
        let of: Vec<_> = labels.iter().filter(|(label, _)| label != "le").cloned().collect();
        let Classes { within, count } = each.entry(of).or_default();
        if let Some((_, bound)) = labels.iter().find(|(label, _)| label == "le") {
            within.push((bound.parse().unwrap(), *value));
        } else if line.ends_with("_count") {
            *count = Some(*value);
        }
    }
    for (labels, Classes { within, count }) in each {
        assert!(within.is_sorted() && within.iter().is_sorted_by_key(|class| class.1), "{family}");
        let (bound, all) = *within.last().unwrap();
        assert_eq!((bound, Some(all)), (f64::INFINITY, count), "{family} {labels:?}");
    }
}

#[test]
fn the_page_is_clean() {
    let page = write(example());
    lint(&page);
    for line in [
        "# UNIT berth_disk_operation_duration_seconds seconds\n",
        "berth_build_info{version=\"0.1.0\"} 1\n",
        "berth_state{state=\"paused\"} 1\nberth_state{state=\"stopping\"} 0\n",
        "berth_start_time_seconds 1700000000.25\n",
        "berth_stage_duration_seconds{stage=\"lease\"} 7.9\n",
        "berth_guest_resets_total 1\n",
        "berth_vcpu_exits_total{vcpu=\"1\",kind=\"mmio_write\"} 4\n",
        "berth_vcpu_cpu_seconds_total{vcpu=\"0\",mode=\"system\"} 0.45\n",
        "berth_guest_memory_bytes 2147483648\n",
        "berth_disk_info{disk=\"root\",name=\"/image/root \\\"quoted\\\\\\n\",read_only=\"false\"} 1\n",
        "berth_disk_bytes_total{disk=\"root\",operation=\"discard\"} 405504\n",
        "berth_disk_operation_duration_seconds_bucket{le=\"0.00005\",disk=\"root\",operation=\"read\"} 90\n",
        "berth_disk_operation_duration_seconds_bucket{le=\"10.0\",disk=\"root\",operation=\"read\"} 99\n",
        "berth_disk_operation_duration_seconds_bucket{le=\"+Inf\",disk=\"root\",operation=\"read\"} 100\n",
        "berth_disk_operation_duration_seconds_sum{disk=\"root\",operation=\"read\"} 12.345\n",
        "berth_disk_paused{disk=\"root\"} 1\nberth_disk_paused{disk=\"config-2\"} 0\n",
        "berth_network_frames_total{mac=\"52:54:00:12:34:56\",direction=\"transmit\"} 10\n",
        "berth_dhcp_lease{mac=\"52:54:00:12:34:56\",family=\"ipv6\"} 0\n",
        "berth_dhcp_lease_acknowledged_timestamp_seconds{mac=\"52:54:00:12:34:56\",family=\"ipv4\"} \
         1700000008.75\n",
        "berth_dhcp_frames_total{mac=\"52:54:00:12:34:56\",kind=\"dhcpv6_messages\"} 0\n",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[test]
fn what_cannot_be_told_is_left_out() {
    let mut sample = example();
    sample.cpus.iter_mut().for_each(|cpu| cpu.times = None);
    (sample.times, sample.vnc_viewers) = (None, None);
    sample.memory = Memory { guest: 1, ..Memory::default() };
    (sample.disks, sample.nics, sample.stages) = (vec![], vec![], vec![]);
    sample.vsock = None;
    sample.balloon = Some(Balloon::default());
    let page = write(sample);
    lint(&page);
    for left in [
        "resident",
        "seconds_total",
        "vnc",
        "disk",
        "network",
        "dhcp",
        "vsock",
        "stage",
        "_reported_",
        "swap",
        "faults",
        "oom_kills",
    ] {
        assert!(!page.contains(left), "{left} is in {page}");
    }
}

#[test]
#[should_panic(expected = "comes twice")]
fn the_lint_can_fail() {
    let mut sample = example();
    sample.disks[1].serial = "root".into();
    lint(&write(sample));
}

/// The rows of the documentation that this page should have: name, type, labels, meaning.
fn rows(page: &str) -> Vec<String> {
    let row = |(family, found): (String, Found)| {
        let suffix = match found.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let (_, labels, _) = &found.lines[0];
        let labels: Vec<String> = labels
            .iter()
            .filter(|(label, _)| label != "le")
            .map(|(label, _)| format!("`{label}`"))
            .collect();
        format!("| `{family}{suffix}` | {} | {} | {} |", found.kind, labels.join(", "), found.help)
    };
    read(page).into_iter().map(row).collect()
}

#[test]
fn the_documentation_has_what_there_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let told: Vec<&str> = text.lines().filter(|line| line.starts_with("| `berth_")).collect();
    let rows = rows(&write(example()));
    assert!(told == rows, "docs/metrics.md should have these rows:\n{}", rows.join("\n"));
}

/// Runs promtool over `input`; `None`, aloud, where it is not installed.
fn promtool(args: &[&str], input: &str) -> Option<(bool, String)> {
    let child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!(
                "skipped: promtool cannot be run ({error}); Debian's package prometheus has it"
            );
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// The page in Prometheus' own text form, 0.0.4, which is what `promtool check metrics` reads: names in
/// comments are those of the lines, and there are no infos, units and ends.
fn as_prometheus(page: &str) -> String {
    let mut text = String::new();
    for (family, found) in read(page) {
        let (suffix, kind) = match found.kind.as_str() {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            kind => ("", kind),
        };
        text +=
            &format!("# HELP {family}{suffix} {}\n# TYPE {family}{suffix} {kind}\n", found.help);
        let of = |line: &&str| {
            line.strip_prefix(family.as_str()).is_some_and(|rest| {
                let ends = ["_total", "_info", "_bucket", "_count", "_sum", ""];
                ends.iter().any(|end| {
                    rest.strip_prefix(end).is_some_and(|rest| rest.starts_with(['{', ' ']))
                })
            })
        };
        let names: BTreeSet<&String> = found.lines.iter().map(|(name, ..)| name).collect();
        for line in page.lines().filter(|line| !line.starts_with('#')).filter(of) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            if names.iter().any(|other| *other == name) {
                text += &format!("{line}\n");
            }
        }
    }
    text
}

#[test]
fn promtool_finds_nothing_wrong() {
    let page = write(example());
    let Some((good, said)) = promtool(&["check", "metrics"], &as_prometheus(&page)) else { return };
    assert!(good && said.is_empty(), "{said}");
    let bad = as_prometheus(&page).replace("berth_guest_resets_total", "berth_guest_resets");
    assert!(!promtool(&["check", "metrics"], &bad).unwrap().0, "a judge that lets everything pass");
}

#[test]
fn promtool_reads_the_page_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page");
    let into = dir.path().join("into");
    // It takes samples with a time only.
    let timed = |page: &str| -> String {
        let line = |line: &str| match line.starts_with('#') {
            true => format!("{line}\n"),
            false => format!("{line} 1700000000\n"),
        };
        page.lines().map(line).collect()
    };
    let judge = |page: &str| {
        std::fs::write(&file, timed(page)).unwrap();
        let paths = [file.to_str().unwrap(), into.to_str().unwrap()];
        promtool(&[&["tsdb", "create-blocks-from", "openmetrics"][..], &paths].concat(), "")
    };
    let page = write(example());
    let Some((good, said)) = judge(&page) else { return };
    assert!(good, "{said}");
    let bad = page.replace("# TYPE berth_build info", "# TYPE berth_build counter of");
    assert!(!judge(&bad).unwrap().0, "a judge that lets everything pass");
}

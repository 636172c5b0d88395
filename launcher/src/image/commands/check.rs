//! `berth image check` and `repair`: the statuses and, as JSON, the keys of `qemu-img check`.

use std::fmt::Write as _;

use devices::block::qcow2::{self, CheckReport, Repair};
use devices::block::{self, Claim, ImageFormat};
use serde_json::{Value, json};

use super::{CommandError, Target, Use, answer};
use crate::args::image::{Output, RepairArgs, Which};
use crate::units;

/// Exit statuses of `qemu-img check`.
const CLEAN: u8 = 0;
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NOTHING_TO_CHECK: u8 = 63;

/// `berth image check`; answers the exit status.
pub(super) fn check(which: &Which) -> Result<u8, CommandError> {
    let target = Target::open(which, Use::Read)?;
    if target.format == ImageFormat::Raw {
        return raw(&target, which.output);
    }
    block::lock(&target.file, Claim::Read).map_err(|fault| target.fault(fault))?;
    let report = qcow2::check(&target.file).map_err(|fault| target.fault(fault))?;
    let info = qcow2::read_info(&target.file).map_err(|fault| target.fault(fault))?;
    let mut text = String::new();
    tell(&mut text, &target, &report);
    if info.corrupt {
        let _ = writeln!(text, "It is marked corrupt; `berth image repair` checks and unmarks it.");
    } else if info.dirty {
        let _ = writeln!(text, "It was not closed cleanly; the next start counts it anew.");
    }
    answer(which.output, &as_json(&target, &report, None, None), &text)?;
    Ok(status(&report))
}

/// `berth image repair`; answers the exit status.
pub(super) fn repair(args: &RepairArgs) -> Result<u8, CommandError> {
    let target = Target::open(&args.which, Use::Write)?;
    if target.format == ImageFormat::Raw {
        return raw(&target, args.which.output);
    }
    block::lock(&target.file, Claim::Write).map_err(|fault| target.fault(fault))?;
    let check = || qcow2::check(&target.file).map_err(|fault| target.fault(fault));
    let before = check()?;
    let what = if args.leaks_only { Repair::Leaks } else { Repair::All };
    let problem = qcow2::repair(&target.file, what).err();
    let after = check()?;
    let problem = match problem {
        // It has been repaired as far as it can be, which is the answer.
        Some(block::Fault::Block(block::BlockError::Corrupt(reason))) => Some(reason),
        Some(fault) => return Err(target.fault(fault)),
        None => None,
    };
    let mut text = String::new();
    let fixed = [
        ("corruption", before.corruptions.saturating_sub(after.corruptions)),
        ("leaked cluster", before.leaks.saturating_sub(after.leaks)),
    ];
    for (what, count) in fixed.into_iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "Repaired {}.", counted(count, what));
    }
    if let Some(reason) = &problem {
        let _ = writeln!(text, "Not repaired: {reason}.");
    }
    tell(&mut text, &target, &after);
    let json = as_json(&target, &after, Some(&before), problem.as_deref());
    answer(args.which.output, &json, &text)?;
    Ok(status(&after))
}

fn raw(target: &Target, output: Output) -> Result<u8, CommandError> {
    let filename = target.path.display().to_string();
    let text = format!("{filename} is raw: there is nothing in it to check.\n");
    answer(output, &json!({ "filename": filename, "format": "raw" }), &text)?;
    Ok(NOTHING_TO_CHECK)
}

fn status(report: &CheckReport) -> u8 {
    match (report.corruptions, report.leaks) {
        (0, 0) => CLEAN,
        (0, _) => LEAKS,
        _ => CORRUPT,
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn tell(text: &mut String, target: &Target, report: &CheckReport) {
    for finding in &report.findings {
        let _ = writeln!(text, "{finding}");
    }
    let told = report.findings.len() as u64;
    if report.corruptions > told {
        let _ = writeln!(text, "... and {} more", report.corruptions - told);
    }
    let name = target.path.display();
    let leaks = counted(report.leaks, "leaked cluster");
    let _ = match (report.corruptions, report.leaks) {
        (0, 0) => writeln!(text, "{name}: nothing is wrong."),
        (0, _) => writeln!(text, "{name}: {leaks}: lost space, and nothing worse."),
        (more, 0) => writeln!(text, "{name}: {}.", counted(more, "corruption")),
        (more, _) => writeln!(text, "{name}: {}, {leaks}.", counted(more, "corruption")),
    };
    let _ = writeln!(
        text,
        "{} of {} clusters have space of their own: {} fragmented, {} compressed. The image ends at \
         {}.",
        report.allocated_clusters,
        report.total_clusters,
        report.fragmented_clusters,
        report.compressed_clusters,
        units::show(report.image_end)
    );
}

fn as_json(
    target: &Target,
    report: &CheckReport,
    before: Option<&CheckReport>,
    problem: Option<&str>,
) -> Value {
    let mut json = json!({
        "filename": target.path.display().to_string(),
        "format": "qcow2",
        "check-errors": 0,
        "corruptions": report.corruptions,
        "leaks": report.leaks,
        "findings": report.findings,
        "image-end-offset": report.image_end,
        "total-clusters": report.total_clusters,
        "allocated-clusters": report.allocated_clusters,
        "fragmented-clusters": report.fragmented_clusters,
        "compressed-clusters": report.compressed_clusters,
    });
    if let (Some(before), Some(fields)) = (before, json.as_object_mut()) {
        let fixed = before.corruptions.saturating_sub(report.corruptions);
        fields.insert("corruptions-fixed".into(), fixed.into());
        fields.insert("leaks-fixed".into(), before.leaks.saturating_sub(report.leaks).into());
        fields.insert("not-repaired".into(), problem.into());
    }
    json
}

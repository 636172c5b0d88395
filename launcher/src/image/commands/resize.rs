//! `berth image resize`: a disk grows, the rest of it unchanged.

use std::os::unix::fs::FileTypeExt;

use devices::block::{self, Claim, ImageFormat, OpenOptions, qcow2};
use serde_json::json;

use super::{CommandError, Target, Use, answer};
use crate::args::image::ResizeArgs;
use crate::config::MAX_DISK_SIZE;
use crate::exit;
use crate::units;

/// Does it; answers the exit status.
pub(super) fn run(args: &ResizeArgs) -> Result<u8, CommandError> {
    let target = Target::open(&args.which, Use::Write)?;
    let fault = |fault| target.fault(fault);
    block::lock(&target.file, Claim::Write).map_err(fault)?;
    let failed = |source| CommandError::Open { path: target.path.clone(), source };
    let metadata = target.file.metadata().map_err(failed)?;
    if metadata.file_type().is_block_device() && target.format == ImageFormat::Raw {
        return Err(CommandError::Size(format!(
            "{} is a block device, which is as large as it is; resize the device",
            target.path.display()
        )));
    }
    let have = match target.format {
        ImageFormat::Raw => metadata.len(),
        ImageFormat::Qcow2 => qcow2::read_info(&target.file).map_err(fault)?.virtual_size,
    };
    let size = wanted(&args.size, have, &target)?;
    let recorded = target.identity()?.and_then(|(_, identity)| identity.base);
    let how = OpenOptions { least_size: size, ..OpenOptions::default() };
    let name = target.path.display().to_string();
    let file = target.file.try_clone().map_err(failed)?;
    let opened =
        block::open(file, &name, target.format, &how, &target.resolver(recorded.as_ref()))?;
    opened.disk.flush().map_err(|error| fault(error.into()))?;
    let now = opened.disk.info().capacity;
    drop(opened);
    let json = json!({
        "filename": name,
        "format": target.format.to_string(),
        "previous-size": have,
        "virtual-size": now,
    });
    let text = match now == have {
        true => format!("{name} has {} already.\n", units::show(now)),
        false => format!("{name} has grown from {} to {}.\n", units::show(have), units::show(now)),
    };
    answer(args.which.output, &json, &text)?;
    Ok(exit::OK)
}

/// The size that was asked for, in bytes: no less than it is.
fn wanted(text: &str, have: u64, target: &Target) -> Result<u64, CommandError> {
    let (plus, number) = match text.strip_prefix('+') {
        Some(number) => (true, number),
        None => (false, text),
    };
    let wrong =
        |problem: &str, fix: &str| CommandError::Size(format!("SIZE: `{text}` {problem}; {fix}"));
    let fix = "write a whole number with a unit, such as 20G or +5G";
    let number = units::size(number, None).map_err(|problem| wrong(&problem.to_string(), fix))?;
    let size = if plus { have.saturating_add(number) } else { number };
    let size = size.checked_next_multiple_of(512).unwrap_or(u64::MAX);
    if size > MAX_DISK_SIZE {
        return Err(wrong("is too large for a disk", "give at most 1024T"));
    }
    if size < have {
        return Err(CommandError::Size(format!(
            "SIZE: {} is less than the {} of {}; a disk is never made smaller: give at least that",
            units::show(size),
            units::show(have),
            target.path.display()
        )));
    }
    Ok(size)
}

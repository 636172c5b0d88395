//! `berth image info`: the chain of files, whose disk it is, whether its base still is the one it
//! was made on, and who uses it. Takes no lock, so a machine may be running on it.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use devices::block::qcow2::{self, Compression, ImageInfo};
use devices::block::{self, Holder, ImageFormat, OpenError, Usage};
use serde_json::{Value, json};

use super::super::base::Base;
use super::super::identity::Identity;
use super::super::resolver::Beneath;
use super::{CommandError, Target, Use, answer};
use crate::args::image::Which;
use crate::config::show_mac;
use crate::exit;
use crate::failure::sentence;
use crate::units;

/// Most files of a chain that are looked at.
const MAX_DEPTH: usize = 16;

/// One file of the chain.
struct Layer {
    path: PathBuf,
    format: ImageFormat,
    /// Sizes in bytes.
    virtual_size: u64,
    file_size: u64,
    allocated: u64,
    /// Device and inode number.
    identity: (u64, u64),
    qcow2: Option<ImageInfo>,
}

/// What became of the base that the overlay was made on.
enum BaseState {
    /// There is no record of it.
    Unrecorded,
    Unchanged,
    /// The sentence that a start would end with.
    Changed(String),
}

/// Shows it; answers the exit status.
pub(super) fn run(which: &Which) -> Result<u8, CommandError> {
    let target = Target::open(which, Use::Read)?;
    let identity = target.identity()?;
    let record = identity.as_ref().and_then(|(_, identity)| identity.base.as_ref());
    let usage = block::usage(&target.file).map_err(|fault| target.fault(fault))?;
    let file = target.file.try_clone()?;
    let first = look(target.path.clone(), file, target.format)?;
    let (chain, problem) = follow(first, &target.resolver(record));
    let base = base_state(&target.path, &chain, identity.as_ref().map(|(_, identity)| identity));
    let json = json!({
        "chain": chain.iter().map(layer_json).collect::<Vec<_>>(),
        "chain-problem": problem,
        "identity": identity.as_ref().map(|(path, identity)| identity_json(path, identity, &base)),
        "lock": usage_json(&usage),
    });
    let mut text = String::new();
    chain.iter().for_each(|layer| tell_layer(&mut text, layer));
    if let Some(problem) = &problem {
        let _ = writeln!(text, "the chain ends here: {problem}");
    }
    if let Some((path, identity)) = &identity {
        tell_identity(&mut text, path, identity, &base);
    }
    tell_usage(&mut text, &usage);
    answer(which.output, &json, &text)?;
    Ok(exit::OK)
}

fn look(path: PathBuf, file: File, format: ImageFormat) -> Result<Layer, OpenError> {
    let image = path.display().to_string();
    let fault = |fault| OpenError { image: image.clone(), fault };
    let metadata = file.metadata().map_err(|error| fault(error.into()))?;
    let file_size = block::length(&file).map_err(|error| fault(error.into()))?;
    let qcow2 = match format {
        ImageFormat::Raw => None,
        ImageFormat::Qcow2 => Some(qcow2::read_info(&file).map_err(fault)?),
    };
    Ok(Layer {
        path,
        format,
        virtual_size: qcow2.as_ref().map_or(file_size, |info| info.virtual_size),
        file_size,
        // `st_blocks` counts in 512 bytes, whatever the file system's blocks are.
        allocated: metadata.blocks().saturating_mul(512),
        identity: (metadata.dev(), metadata.ino()),
        qcow2,
    })
}

/// The chain as far as it can be followed, and why no further.
fn follow(first: Layer, resolver: &Beneath) -> (Vec<Layer>, Option<String>) {
    let mut chain = vec![first];
    loop {
        let next = match chain.last().map(|top| below(top, resolver)) {
            Some(Ok(Some(next))) => next,
            Some(Err(problem)) => return (chain, Some(problem)),
            _ => return (chain, None),
        };
        if chain.iter().any(|layer| layer.identity == next.identity) {
            return (chain, Some(format!("it comes back to {}", next.path.display())));
        }
        if chain.len() >= MAX_DEPTH {
            return (chain, Some(format!("it is longer than {MAX_DEPTH} images")));
        }
        chain.push(next);
    }
}

fn below(top: &Layer, resolver: &Beneath) -> Result<Option<Layer>, String> {
    let Some(info) = &top.qcow2 else { return Ok(None) };
    let Some(named) = &info.backing_file else { return Ok(None) };
    let (file, path) = resolver
        .open(&top.path, named)
        .map_err(|error| format!("`{}`: {}", named.escape_debug(), sentence(&error)))?;
    let Some(stated) = &info.backing_format else {
        return Err(format!("the format of {} is not stated", path.display()));
    };
    let format = stated.parse().map_err(|error| sentence(&error as &devices::block::Fault))?;
    look(path, file, format).map(Some).map_err(|error| sentence(&error))
}

fn base_state(overlay: &Path, chain: &[Layer], identity: Option<&Identity>) -> BaseState {
    let Some(record) = identity.and_then(|identity| identity.base.as_ref()) else {
        return BaseState::Unrecorded;
    };
    let Some(layer) = chain.get(1) else {
        return BaseState::Changed(format!("the base {} is not there", record.path));
    };
    let verified = Base::open(&layer.path)
        .and_then(|base| base.verify(None, Some(record), &record.format, overlay, &|| false));
    match verified {
        Ok(_) => BaseState::Unchanged,
        Err(error) => BaseState::Changed(sentence(&error)),
    }
}

fn compression_name(info: &ImageInfo) -> &'static str {
    match info.compression {
        Compression::Zlib => "zlib",
        Compression::Zstd => "zstd",
    }
}

fn layer_json(layer: &Layer) -> Value {
    let mut json = json!({
        "filename": layer.path.display().to_string(),
        "format": layer.format.to_string(),
        "virtual-size": layer.virtual_size,
        "file-size": layer.file_size,
        "actual-size": layer.allocated,
    });
    if let (Some(info), Some(fields)) = (&layer.qcow2, json.as_object_mut()) {
        fields.insert("version".into(), info.version.into());
        fields.insert("cluster-size".into(), info.cluster_size.into());
        fields.insert("refcount-bits".into(), info.refcount_bits.into());
        fields.insert("compression-type".into(), compression_name(info).into());
        fields.insert("features".into(), info.features.clone().into());
        fields.insert("dirty-flag".into(), info.dirty.into());
        fields.insert("corrupt".into(), info.corrupt.into());
        fields.insert("snapshots".into(), info.snapshots.into());
        fields.insert("backing-filename".into(), info.backing_file.clone().into());
        fields.insert("backing-filename-format".into(), info.backing_format.clone().into());
    }
    json
}

fn identity_json(path: &Path, identity: &Identity, base: &BaseState) -> Value {
    let (unchanged, problem) = match base {
        BaseState::Unrecorded => (None, None),
        BaseState::Unchanged => (Some(true), None),
        BaseState::Changed(problem) => (Some(false), Some(problem)),
    };
    json!({
        "filename": path.display().to_string(),
        "instance-id": identity.uuid.to_string(),
        "mac": show_mac(identity.mac),
        "base": identity.base,
        "base-unchanged": unchanged,
        "base-problem": problem,
    })
}

fn usage_json(usage: &Usage) -> Value {
    let (state, holder) = match usage {
        Usage::Free => ("free", None),
        Usage::Read(holder) => ("read", holder.as_ref()),
        Usage::Written(holder) => ("written", holder.as_ref()),
    };
    let holder = holder.map(|holder| json!({ "pid": holder.pid, "command": holder.command }));
    json!({ "state": state, "holder": holder })
}

fn tell_layer(text: &mut String, layer: &Layer) {
    let _ = writeln!(text, "{}", layer.path.display());
    let mut line = |what: &str, value: &str| {
        let _ = writeln!(text, "  {what:<13} {value}");
    };
    let size = |bytes: u64| match units::show(bytes) {
        shown if shown.ends_with(" bytes") => shown,
        shown => format!("{shown} ({bytes} bytes)"),
    };
    let format = match &layer.qcow2 {
        Some(info) => format!("qcow2, version {}", info.version),
        None => "raw".to_owned(),
    };
    line("format", &format);
    line("disk size", &size(layer.virtual_size));
    line("file size", &size(layer.file_size));
    line("allocated", &size(layer.allocated));
    if let Some(info) = &layer.qcow2 {
        let cluster = units::show(info.cluster_size);
        let (bits, compression) = (info.refcount_bits, compression_name(info));
        line("clusters", &format!("{cluster}, counted in {bits} bits, compression {compression}"));
        let none = || "none".to_owned();
        let features = Some(info.features.join(", ")).filter(|text| !text.is_empty());
        line("features", &features.unwrap_or_else(none));
        line("snapshots", &info.snapshots.to_string());
        let state = match (info.corrupt, info.dirty) {
            (true, _) => "marked corrupt: see berth image check",
            (_, true) => "not closed cleanly: counted anew at the next start",
            _ => "closed cleanly, as far as is marked",
        };
        line("state", state);
        if let Some(named) = &info.backing_file {
            let format = info.backing_format.as_deref().unwrap_or("format not stated");
            line("based on", &format!("{} ({})", named.escape_debug(), format.escape_debug()));
        }
    }
}

fn tell_identity(text: &mut String, path: &Path, identity: &Identity, base: &BaseState) {
    let _ = writeln!(text, "{}", path.display());
    let _ = writeln!(text, "  {:<13} {}", "instance id", identity.uuid);
    let _ = writeln!(text, "  {:<13} {}", "mac", show_mac(identity.mac));
    if let Some(record) = &identity.base {
        let _ = writeln!(text, "  {:<13} {}: {}", "made on", record.path, record.show());
    }
    let state = match base {
        BaseState::Unrecorded => "not recorded",
        BaseState::Unchanged => "unchanged since",
        BaseState::Changed(problem) => problem,
    };
    let _ = writeln!(text, "  {:<13} {state}", "base");
}

fn tell_usage(text: &mut String, usage: &Usage) {
    let name = |holder: &Option<Holder>| {
        holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string)
    };
    let _ = match usage {
        Usage::Free => writeln!(text, "in use by nobody"),
        Usage::Read(holder) => writeln!(text, "read by {}", name(holder)),
        Usage::Written(holder) => writeln!(text, "in use by {}", name(holder)),
    };
}

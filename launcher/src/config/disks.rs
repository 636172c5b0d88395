//! Which disks the machine has: the root disk, those that a container's volumes bring along, and
//! those asked for. Files are looked at; nothing is opened for good.

use std::fs;
use std::path::{Path, PathBuf};

use super::layers::{Given, Layers, Origin};
use super::source::{self, source};
use super::value::{self, Disk, Format};
use super::{Boot, ConfigError, Root, RootImage, look, parse};
use crate::args;
use crate::host::Host;
use crate::image::fetch::Wanted;
use crate::units;

/// qcow2 and raw files beyond this are a typing error, and far beyond what filesystems hold.
pub const MAX_DISK_SIZE: u64 = 1 << 50;
/// As many as a machine has PCI slots for, beside its other devices.
const MAX_DISKS: usize = 24;

/// The root disk: `/dev/vm/root` in a container that has one, else the image; and what has to be
/// fetched for it.
pub(super) fn root(
    layers: &Layers,
    host: &Host,
    (image_dir, machine): (&Path, &str),
    boot: &Boot,
    warnings: &mut Vec<String>,
) -> Result<(Root, Option<Wanted>), ConfigError> {
    let queues =
        parse(layers, args::DISK_QUEUES, |text| value::number(text, 1, value::MAX_QUEUES))?
            .and_then(|queues| u16::try_from(queues).ok())
            .unwrap_or(0);
    let engine = parse(layers, args::DISK_ENGINE, value::engine)?.unwrap_or_default();
    let image = RootImage {
        base: PathBuf::new(),
        format: parse(layers, args::IMAGE_FORMAT, value::format)?,
        digest: None,
        size: disk_size(layers)?,
        queues,
        engine,
    };
    let device = host.root.join("dev/vm/root");
    if host.in_container && device.exists() {
        let of_image = [args::IMAGE_SOURCE, args::IMAGE_NAME, args::DISK_SIZE, args::IMAGE_SHA256];
        for given in of_image.into_iter().filter_map(|field| layers.get(field)) {
            warnings.push(format!(
                "{}: `{}` is not used, since {} is the root disk",
                given.origin,
                source::without_secrets(&given.value),
                device.display()
            ));
        }
        let disk = Disk { queues, engine, ..Disk::new(device, Format::Raw) };
        return Ok((Root::Device(disk), None));
    }
    if let Some(source) = source(layers, host, image_dir, warnings)? {
        if let Some(wanted) = &source.wanted {
            is_not_the_machines(wanted, layers, machine)?;
        }
        let image = RootImage { base: source.base, digest: source.digest, ..image };
        return Ok((Root::Image(image), source.wanted));
    }
    if !matches!(boot, Boot::Kernel { .. }) {
        return Err(ConfigError::NoImage);
    }
    let of_image = [
        args::DISK_SIZE,
        args::IMAGE_FORMAT,
        args::IMAGE_SHA256,
        args::DISK_QUEUES,
        args::DISK_ENGINE,
    ];
    if let Some(given) = of_image.into_iter().find_map(|field| layers.get(field)) {
        return Err(given.error("has no root disk to apply to", "name an image, or drop it"));
    }
    Ok((Root::None, None))
}

/// A base must not have the name of the machine's own disk.
fn is_not_the_machines(wanted: &Wanted, layers: &Layers, machine: &str) -> Result<(), ConfigError> {
    if wanted.name != format!("{machine}.qcow2") {
        return Ok(());
    }
    let origin = layers.get(args::IMAGE_NAME).or_else(|| layers.get(args::IMAGE_SOURCE));
    let origin = origin.map_or(Origin::Found, |given| given.origin);
    Err(Given { value: wanted.name.clone(), origin }.error(
        "would be both the base and the machine's own disk",
        "give the base another --image-name, or the machine another --name",
    ))
}

fn disk_size(layers: &Layers) -> Result<Option<u64>, ConfigError> {
    let Some(given) = layers.get(args::DISK_SIZE) else { return Ok(None) };
    let fix = "write a whole number with a unit, such as 10G";
    let size = units::size(&given.value, None).map_err(|problem| given.error(problem, fix))?;
    if size == 0 || size > MAX_DISK_SIZE {
        return Err(given.error("is no size for a disk", "give between 1M and 1024T"));
    }
    Ok(Some(size))
}

/// Further disks: `/volumes/**/*.img`, `/dev/vm/disk*`, then those asked for.
pub(super) fn further(layers: &Layers, host: &Host) -> Result<Vec<Disk>, ConfigError> {
    let mut disks = Vec::new();
    if host.in_container {
        let found = found_disks(&host.root);
        disks.extend(found.into_iter().map(|path| Disk::new(path, Format::Raw)));
    }
    for given in layers.disks() {
        let disk = value::disk(&given.value).map_err(|(problem, fix)| given.error(problem, fix))?;
        look(&disk.path, !disk.read_only).map_err(|reason| {
            let fix = "name a disk image that this user can read and write, or add ,ro";
            given.error(format_args!("cannot be opened: {reason}"), fix)
        })?;
        disks.push(disk);
    }
    if disks.len() > MAX_DISKS {
        return Err(ConfigError::Together(format!(
            "{} further disks are too many; a machine has room for {MAX_DISKS}",
            disks.len()
        )));
    }
    Ok(disks)
}

/// The disks a container's volumes bring along, sorted.
fn found_disks(root: &Path) -> Vec<PathBuf> {
    let mut images = Vec::new();
    collect_images(&root.join("volumes"), 8, &mut images);
    images.sort();
    let mut devices = list(&root.join("dev/vm"));
    devices.retain(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"disk"))
    });
    devices.sort();
    images.extend(devices);
    images
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    // A directory of another kind of volume may be huge.
    entries.take(4096).flatten().map(|entry| entry.path()).collect()
}

fn collect_images(dir: &Path, depth: u32, into: &mut Vec<PathBuf>) {
    for path in list(dir) {
        if into.len() > MAX_DISKS {
            return;
        }
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_dir() && depth > 0 {
            collect_images(&path, depth - 1, into);
        } else if path.extension().is_some_and(|ext| ext == "img") && path.is_file() {
            into.push(path);
        }
    }
}

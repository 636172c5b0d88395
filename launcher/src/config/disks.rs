//! Which disks the machine has: the root disk, those that a container's volumes bring along, and
//! those asked for. Files are looked at; nothing is opened for good.

use std::fs;
use std::path::{Path, PathBuf};

use super::layers::{Given, Layers, Origin};
use super::value::{self, Disk, Format};
use super::{Boot, ConfigError, Root, RootImage, look, parse};
use crate::args;
use crate::host::Host;
use crate::units;

/// qcow2 and raw files beyond this are a typing error, and far beyond what filesystems hold.
pub const MAX_DISK_SIZE: u64 = 1 << 50;
/// As many as a machine has PCI slots for, beside its other devices.
const MAX_DISKS: usize = 24;

/// The root disk: `/dev/vm/root` in a container that has one, else the image.
pub(super) fn root(
    layers: &Layers,
    host: &Host,
    image_dir: &Path,
    boot: &Boot,
    warnings: &mut Vec<String>,
) -> Result<Root, ConfigError> {
    let queues =
        parse(layers, args::DISK_QUEUES, |text| value::number(text, 1, value::MAX_QUEUES))?
            .and_then(|queues| u16::try_from(queues).ok())
            .unwrap_or(0);
    let engine = parse(layers, args::DISK_ENGINE, value::engine)?.unwrap_or_default();
    let image = RootImage {
        base: PathBuf::new(),
        format: parse(layers, args::IMAGE_FORMAT, value::format)?,
        digest: parse(layers, args::IMAGE_SHA256, value::digest)?,
        size: disk_size(layers)?,
        queues,
        engine,
    };
    let image_name = parse(layers, args::IMAGE_NAME, value::file_name)?;
    let source = layers.get(args::IMAGE_SOURCE);

    let device = host.root.join("dev/vm/root");
    if host.in_container && device.exists() {
        let of_image = [args::IMAGE_SOURCE, args::IMAGE_NAME, args::DISK_SIZE, args::IMAGE_SHA256];
        for given in of_image.into_iter().filter_map(|field| layers.get(field)) {
            warnings.push(format!(
                "{}: `{}` is not used, since {} is the root disk",
                given.origin,
                given.value,
                device.display()
            ));
        }
        return Ok(Root::Device(Disk { queues, engine, ..Disk::new(device, Format::Raw) }));
    }
    let base = match (source, image_name) {
        (Some(given), name) => {
            if name.is_some() && !is_url(&given.value) {
                warnings.push(format!(
                    "--image-name is not used: {} is a local image, and is used where it is",
                    given.value
                ));
            }
            local_image(&given)?
        }
        (None, Some(name)) => {
            let given = Given {
                value: image_dir.join(name).display().to_string(),
                origin: layers.get(args::IMAGE_NAME).map_or(Origin::Found, |given| given.origin),
            };
            local_image(&given)?
        }
        (None, None) if matches!(boot, Boot::Kernel { .. }) => {
            let of_image = [
                args::DISK_SIZE,
                args::IMAGE_FORMAT,
                args::IMAGE_SHA256,
                args::DISK_QUEUES,
                args::DISK_ENGINE,
            ];
            if let Some(given) = of_image.into_iter().find_map(|field| layers.get(field)) {
                return Err(
                    given.error("has no root disk to apply to", "name an image, or drop it")
                );
            }
            return Ok(Root::None);
        }
        (None, None) => {
            return Err(ConfigError::Together(
                "no image to boot; name a qcow2 or raw image: berth run IMAGE".to_owned(),
            ));
        }
    };
    Ok(Root::Image(RootImage { base, ..image }))
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

fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

/// The base, which has to be a local file.
fn local_image(given: &Given) -> Result<PathBuf, ConfigError> {
    if is_url(&given.value) {
        return Err(given.error(
            "is a URL, and fetching images is not built yet",
            "download it and give the path of the file",
        ));
    }
    let path = PathBuf::from(&given.value);
    look(&path, false).map_err(|reason| {
        given.error(
            format_args!("cannot be opened: {reason}"),
            "name a qcow2 or raw image that this user can read",
        )
    })?;
    Ok(path)
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

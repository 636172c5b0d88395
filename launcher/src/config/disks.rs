//! Which disks the machine has: the root disk, those that a container's volumes bring along, and
//! those asked for. Files are looked at; nothing is opened for good.

use std::path::{Path, PathBuf};

use devices::block::qcow2::DEFAULT_CACHE_BYTES;
use vmm::config::DiskLimits;
use vmm::machine::resources::DISKS_MAX;

use super::disk::{Disk, MAX_QUEUES, disk};
use super::layers::{Given, Layers, Origin};
use super::source::{self, source};
use super::value::{self, Format};
use super::{Boot, ConfigError, Root, RootImage, look, parse, serials, volumes};
use crate::args;
use crate::host::Host;
use crate::image::fetch::Wanted;
use crate::image::overlay::ROOT_SERIAL;
use crate::units;

/// qcow2 and raw files beyond this are a typing error, and far beyond what filesystems hold.
pub const MAX_DISK_SIZE: u64 = 1 << 50;
/// As many as a machine has slots for, beside the root disk and the config drive.
const MAX_DISKS: usize = DISKS_MAX - 2;

/// The root disk: `/dev/vm/root` in a container that has one, else the image; and what has to be
/// fetched for it.
pub(super) fn root(
    layers: &Layers,
    host: &Host,
    (image_dir, machine): (&Path, &str),
    boot: &Boot,
    warnings: &mut Vec<String>,
) -> Result<(Root, Option<Wanted>), ConfigError> {
    let queues = parse(layers, args::DISK_QUEUES, |text| value::number(text, 1, MAX_QUEUES))?
        .and_then(|queues| u16::try_from(queues).ok())
        .unwrap_or(0);
    let engine = parse(layers, args::DISK_ENGINE, value::engine)?.unwrap_or_default();
    let (iops, bytes_per_second) = limits(layers)?;
    let image = RootImage {
        base: PathBuf::new(),
        format: parse(layers, args::IMAGE_FORMAT, value::format)?,
        digest: None,
        size: disk_size(layers)?,
        queues,
        engine,
        limits: DiskLimits {
            iops: iops.unwrap_or(0),
            bytes_per_second: bytes_per_second.unwrap_or(0),
        },
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
        let of_root = Disk::new(device, Format::Raw);
        let serial = Some(ROOT_SERIAL.to_owned());
        let of_root = Disk { queues, engine, serial, iops, bytes_per_second, ..of_root };
        return Ok((Root::Device(of_root), None));
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

/// What each disk may do in a second, unless it says otherwise itself.
fn limits(layers: &Layers) -> Result<(Option<u64>, Option<u64>), ConfigError> {
    Ok((
        parse(layers, args::DISK_IOPS, value::iops)?,
        parse(layers, args::DISK_BPS, value::bytes_per_second)?,
    ))
}

/// Most memory for the tables of each qcow2 image, in bytes.
pub(super) fn table_cache(layers: &Layers) -> Result<usize, ConfigError> {
    Ok(parse(layers, args::DISK_CACHE, value::table_cache)?.unwrap_or(DEFAULT_CACHE_BYTES))
}

/// Further disks: `/volumes/**/*.img`, `/dev/vm/disk*`, then those asked for.
pub(super) fn further(
    layers: &Layers,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Vec<Disk>, ConfigError> {
    let mut disks = Vec::new();
    if host.in_container {
        let found = volumes::find(&host.root, MAX_DISKS);
        warnings.extend(found.warnings);
        disks.extend(found.disks.into_iter().map(|path| found_disk(path, warnings)));
    }
    for given in layers.disks() {
        let disk = disk(&given.value).map_err(|(problem, fix)| given.error(problem, fix))?;
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
    let (iops, bytes_per_second) = limits(layers)?;
    for disk in &mut disks {
        disk.iops = disk.iops.or(iops);
        disk.bytes_per_second = disk.bytes_per_second.or(bytes_per_second);
    }
    serials::assign(&mut disks, &host.root.join("volumes"))?;
    Ok(disks)
}

/// A disk that nobody has described: raw, and written where that is possible.
fn found_disk(path: PathBuf, warnings: &mut Vec<String>) -> Disk {
    let read_only = match (look(&path, true), look(&path, false)) {
        (Err(reason), Ok(())) => {
            warnings.push(format!(
                "{} is a read-only disk, since it cannot be written: {reason}",
                path.display()
            ));
            true
        }
        // What cannot be opened at all is told of when it is.
        _ => false,
    };
    Disk { read_only, ..Disk::new(path, Format::Raw) }
}

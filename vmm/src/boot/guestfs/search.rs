//! Where a boot configuration is looked for, and in which order.
//!
//! Partitions: an extended boot loader partition, one labelled `boot`, then ext and XFS by size,
//! then btrfs, then FAT. On each: GRUB, Boot Loader Specification entries, GRUB Legacy, SYSLINUX,
//! unified kernel images, and the configurations that GRUB keeps on an EFI system partition.
//! Nothing is guessed: only what a configuration names is loaded, and what cannot be followed is
//! noted, so that the refusal can say what was seen. Runs on the thread of
//! [`choose`](super::choose).

use std::cmp::Reverse;

use super::entries::grub::{self, GrubError};
use super::entries::{Place, bls, menulst, sdboot, syslinux};
use super::fs::{Kind, Node};
use super::load::{Files, Plan};
use super::partition::Role;
use super::volumes::{Part, Volumes};
use super::{BootPolicy, Choice};

/// Partitions looked into.
const MAX_PARTITIONS: usize = 64;
/// Partitions that a refusal lists.
const MAX_SHOWN: usize = 16;
/// Boot Loader Specification entries read from one directory.
const MAX_BLS: usize = 512;

const GRUB_CFG: [&str; 4] =
    ["/boot/grub2/grub.cfg", "/boot/grub/grub.cfg", "/grub2/grub.cfg", "/grub/grub.cfg"];
const GRUBENV: [&str; 4] =
    ["/boot/grub2/grubenv", "/boot/grub/grubenv", "/grub2/grubenv", "/grub/grubenv"];
const BLS: [&str; 2] = ["/boot/loader/entries", "/loader/entries"];
const MENU_LST: [&str; 4] =
    ["/boot/grub/menu.lst", "/grub/menu.lst", "/boot/grub/grub.conf", "/grub/grub.conf"];
const SYSLINUX: [&str; 10] = [
    "/boot/extlinux.conf",
    "/boot/extlinux/extlinux.conf",
    "/extlinux/extlinux.conf",
    "/extlinux.conf",
    "/boot/syslinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/syslinux/syslinux.cfg",
    "/syslinux.cfg",
    "/boot/isolinux/isolinux.cfg",
    "/isolinux/isolinux.cfg",
];
const UKI: &str = "/EFI/Linux";

/// A search, with what it has seen so far.
pub struct Search<'v> {
    pub(super) volumes: &'v mut Volumes,
    pub(super) policy: BootPolicy,
    /// By partition: configurations that led nowhere, and why.
    notes: Vec<Vec<String>>,
}

impl<'v> Search<'v> {
    /// A search of `volumes`.
    pub fn new(volumes: &'v mut Volumes, policy: BootPolicy) -> Self {
        let notes = vec![Vec::new(); volumes.parts.len()];
        Search { volumes, policy, notes }
    }

    /// What boots; `None` where nothing does.
    pub fn run(&mut self) -> Option<Choice> {
        for index in order(&self.volumes.parts) {
            for tree in 0..self.volumes.open(index) {
                self.volumes.look_in(index, tree);
                if let Some(choice) = self.tree(index) {
                    return Some(choice);
                }
            }
            self.volumes.look_in(index, 0);
        }
        None
    }

    /// Everything a tree may be booted by, in order.
    fn tree(&mut self, index: usize) -> Option<Choice> {
        let is_boot_partition = self.volumes.parts.get(index).is_some_and(|part| {
            part.identity.kind == Kind::Fat || part.partition.role == Role::Xbootldr
        });
        self.grub(index, &GRUB_CFG)
            .or_else(|| self.bls(index))
            .or_else(|| MENU_LST.iter().find_map(|path| self.menu_lst(index, path)))
            .or_else(|| SYSLINUX.iter().find_map(|path| self.syslinux(index, path)))
            .or_else(|| if is_boot_partition { self.unified(index) } else { None })
            .or_else(|| if is_boot_partition { self.efi_grub(index) } else { None })
    }

    pub(super) fn note(&mut self, index: usize, note: String) {
        if let Some(notes) = self.notes.get_mut(index)
            && notes.len() < 8
            && !notes.contains(&note)
        {
            notes.push(note);
        }
    }

    /// A file is at `path`, in the very tree that is looked in.
    fn is_file(&mut self, index: usize, path: &str) -> bool {
        matches!(self.volumes.node_here(index, path), Some(Node::File(_)))
    }

    /// The names in a directory of the very tree that is looked in.
    fn names(&mut self, index: usize, path: &str) -> Vec<String> {
        match self.volumes.node_here(index, path) {
            Some(Node::Directory) => self.volumes.names(index, path),
            _ => Vec::new(),
        }
    }

    /// Where a configuration is, for people: `partition 1 (ext4, GPT): /boot/grub/grub.cfg`.
    fn origin(&self, index: usize, path: &str) -> String {
        let Some(part) = self.volumes.parts.get(index) else { return path.to_owned() };
        let view = part.view();
        let subvolume = match self.volumes.subvolume(index, view) {
            "" => String::new(),
            "/" => ", top level".to_owned(),
            name => format!(", subvolume {name}"),
        };
        let scheme = self.volumes.scheme;
        format!("{} ({}{subvolume}, {scheme}): {path}", part.partition, part.identity)
    }

    fn grub(&mut self, index: usize, paths: &[&str]) -> Option<Choice> {
        for path in paths {
            if !self.is_file(index, path) {
                continue;
            }
            let config = Place { device: self.volumes.device(index), path: (*path).to_owned() };
            let loaded = grub::load(self.volumes, &config);
            if let Some(choice) = self.grub_loaded(index, path, loaded) {
                return Some(choice);
            }
        }
        None
    }

    fn grub_loaded(
        &mut self,
        index: usize,
        path: &str,
        loaded: Result<grub::Loaded, GrubError>,
    ) -> Option<Choice> {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                self.note(index, format!("{path} {error}"));
                return None;
            }
        };
        let mut origin = self.origin(index, path);
        if (loaded.config.device.as_str(), loaded.config.path.as_str())
            != (self.volumes.device(index).as_str(), path)
        {
            origin.push_str(&format!(" by way of {}", loaded.config));
        }
        let origin = format!("{origin}, {}", loaded.entry);
        let place = |place: &Place| match self.volumes.index(&place.device) {
            Some(found) => Ok((found, place.path.clone())),
            None => Err(format!("{path}: {place} is not on a partition of this disk")),
        };
        let kernel = place(&loaded.kernel);
        let initrds: Result<Vec<_>, String> = loaded.initrds.iter().map(place).collect();
        match (kernel, initrds) {
            (Ok(kernel), Ok(initrds)) => {
                let files = Files::Separate { kernel, initrds, cmdline: loaded.cmdline };
                self.load(index, path, Plan { origin, files })
            }
            (Err(note), _) | (_, Err(note)) => {
                self.note(index, note);
                None
            }
        }
    }

    /// Boot Loader Specification entries that no GRUB configuration lists.
    fn bls(&mut self, index: usize) -> Option<Choice> {
        for directory in BLS {
            let mut names = self.names(index, directory);
            names.retain(|name| name.ends_with(".conf"));
            names.truncate(MAX_BLS);
            if names.is_empty() {
                continue;
            }
            let env = GRUBENV.into_iter().find(|path| self.is_file(index, path));
            let choice = match env {
                Some(env) => self.bls_of_grub(index, directory, env),
                None => self.bls_of_sdboot(index, directory, &names),
            };
            if choice.is_some() {
                return choice;
            }
        }
        None
    }

    /// With GRUB's environment beside them, the entries are GRUB's.
    fn bls_of_grub(&mut self, index: usize, directory: &str, env: &str) -> Option<Choice> {
        let config = Place { device: self.volumes.device(index), path: directory.to_owned() };
        let script = format!(
            "load_env -f {env}\n\
             if [ \"$next_entry\" ]; then\n set default=\"$next_entry\"\n set boot_once=true\n\
             else\n set default=\"$saved_entry\"\nfi\nblscfg {directory}\n"
        );
        let loaded = grub::load_script(self.volumes, &config, &script);
        self.grub_loaded(index, directory, loaded)
    }

    fn bls_of_sdboot(&mut self, index: usize, directory: &str, names: &[String]) -> Option<Choice> {
        let mut entries = Vec::new();
        for name in names {
            let text = self.volumes.read_text(index, &format!("{directory}/{name}"));
            entries.extend(text.and_then(|text| bls::Entry::parse(name, &text)));
        }
        bls::sort_by_specification(&mut entries);
        let default = self.loader_conf(index);
        let (entry, why) = match default.as_deref() {
            Some(pattern) => match entries.iter().find(|e| sdboot::matches(pattern, &e.id)) {
                Some(entry) => (entry, format!("default {pattern} in loader.conf")),
                None => (entries.first()?, format!("the newest; no entry matches {pattern}")),
            },
            None => (entries.first()?, "the newest".to_owned()),
        };
        let entry = entry.clone();
        let path = format!("{directory}/{}.conf", entry.id);
        let origin = format!("{}, entry '{}' ({why})", self.origin(index, &path), entry.title);
        let initrds = entry.initrds.into_iter().map(|path| (index, path)).collect();
        let files =
            Files::Separate { kernel: (index, entry.linux), initrds, cmdline: entry.options };
        self.load(index, directory, Plan { origin, files })
    }

    /// The default in `loader.conf`, here or on the EFI system partition.
    fn loader_conf(&mut self, index: usize) -> Option<String> {
        let is_esp = |part: &Part| part.partition.role == Role::Esp;
        let esp = self.volumes.parts.iter().position(is_esp);
        [Some(index), esp].into_iter().flatten().find_map(|index| {
            let text = self.volumes.read_text(index, "/loader/loader.conf")?;
            sdboot::default_pattern(&text)
        })
    }

    fn menu_lst(&mut self, index: usize, path: &str) -> Option<Choice> {
        let is_here = self.is_file(index, path);
        let text = is_here.then(|| self.volumes.read_text(index, path)).flatten()?;
        let Some((entry, default)) = menulst::default_entry(&text) else {
            self.note(index, format!("{path} has no entries"));
            return None;
        };
        let shown = format!("entry {} '{}' (default={default})", entry.index, entry.title);
        if entry.kernel.is_empty() {
            self.note(index, format!("{path}: {shown} loads no kernel"));
            return None;
        }
        let number = |volumes: &Volumes, number: u32| {
            volumes.parts.iter().position(|part| part.partition.number == number)
        };
        // `root` counts where it names a partition there is; images that were built under other
        // numbers boot from where their configuration lies.
        let root = match (&entry.uuid, entry.partition) {
            (Some(uuid), _) => self.volumes.by_uuid(uuid),
            (None, Some(wanted)) => number(self.volumes, wanted),
            (None, None) => None,
        };
        let root = root.unwrap_or(index);
        let place = |path: &str| {
            let (device, path) = menulst::split_device(path);
            let device = device.and_then(|wanted| number(self.volumes, wanted));
            (device.unwrap_or(root), path.to_owned())
        };
        let files = Files::Separate {
            kernel: place(&entry.kernel),
            initrds: entry.initrd.iter().map(|path| place(path)).collect(),
            cmdline: entry.cmdline,
        };
        let origin = format!("{}, {shown}", self.origin(index, path));
        self.load(index, path, Plan { origin, files })
    }

    fn syslinux(&mut self, index: usize, path: &str) -> Option<Choice> {
        let is_here = self.is_file(index, path);
        let text = is_here.then(|| self.volumes.read_text(index, path)).flatten()?;
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned();
        let absolute = |file: &str| {
            if file.starts_with('/') { file.to_owned() } else { format!("{directory}/{file}") }
        };
        let volumes = &mut *self.volumes;
        let config =
            syslinux::Config::parse(&text, &mut |file| volumes.read_text(index, &absolute(file)));
        let Some(found) = config.default_label() else {
            self.note(index, format!("{path} has no labels"));
            return None;
        };
        let label = found.label;
        let shown = format!("label '{}' ({})", label.name, found.why);
        if label.kernel.is_empty() || syslinux::is_module(&label.kernel) {
            self.note(index, format!("{path}: {shown} loads no Linux kernel"));
            return None;
        }
        let files = Files::Separate {
            kernel: (index, absolute(&label.kernel)),
            initrds: label.initrds.iter().map(|file| (index, absolute(file))).collect(),
            cmdline: found.cmdline,
        };
        let origin = format!("{}, {shown}", self.origin(index, path));
        self.load(index, path, Plan { origin, files })
    }

    /// Unified kernel images: the one `loader.conf` names, else the newest by name.
    fn unified(&mut self, index: usize) -> Option<Choice> {
        let mut entries: Vec<bls::Entry> = Vec::new();
        for name in self.names(index, UKI) {
            let stem = name.to_ascii_lowercase().strip_suffix(".efi").map(str::len);
            // The boot counter of an image is written as that of an entry file is.
            let parsed = stem.and_then(|len| name.get(..len)).and_then(|stem| {
                bls::Entry::parse(&format!("{stem}.conf"), &format!("linux {UKI}/{name}\n"))
            });
            entries.extend(parsed);
        }
        bls::sort_by_specification(&mut entries);
        let default = self.loader_conf(index);
        let named = default.as_deref().and_then(|pattern| {
            let pattern = pattern.strip_suffix(".efi").unwrap_or(pattern);
            entries.iter().find(|entry| sdboot::matches(pattern, &entry.id))
        });
        let why = if named.is_some() { "default in loader.conf" } else { "the newest" };
        let path = named.or(entries.first())?.linux.clone();
        let origin = format!("{}, unified kernel image ({why})", self.origin(index, &path));
        let files = Files::Unified { partition: index, path: path.clone() };
        self.load(index, &path, Plan { origin, files })
    }

    /// The small configurations beside GRUB on an EFI system partition, vendors' before `BOOT`.
    fn efi_grub(&mut self, index: usize) -> Option<Choice> {
        let mut vendors = self.names(index, "/EFI");
        vendors.sort_by_key(|name| name.eq_ignore_ascii_case("boot"));
        let paths: Vec<String> =
            vendors.iter().take(32).map(|name| format!("/EFI/{name}/grub.cfg")).collect();
        self.grub(index, &paths.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What was looked for and what was seen, for the refusal.
    pub fn seen(&self) -> String {
        let parts = self.volumes.parts.iter().enumerate();
        let mut shown: Vec<String> = parts
            .take(MAX_SHOWN)
            .map(|(index, part)| {
                let mut line = format!("{}: {}", part.partition, part.identity);
                if !part.identity.label.is_empty() {
                    line.push_str(&format!(" '{}'", part.identity.label));
                }
                match (self.volumes.failure(index), self.notes.get(index)) {
                    _ if matches!(part.identity.kind, Kind::Foreign(_) | Kind::Unknown) => {}
                    (Some(why), _) => line.push_str(&format!(", cannot be read: {why}")),
                    (None, Some(notes)) if !notes.is_empty() => {
                        line.push_str(&format!(", {}", notes.join(", ")));
                    }
                    _ => line.push_str(", none of these"),
                }
                line
            })
            .collect();
        if self.volumes.parts.len() > MAX_SHOWN {
            shown.push(format!("and {} more", self.volumes.parts.len() - MAX_SHOWN));
        }
        let seen = if shown.is_empty() { "no partitions".to_owned() } else { shown.join("; ") };
        format!(
            "no bootable system found on the disk ({}): looked for grub.cfg, loader entries, \
             menu.lst, extlinux or syslinux configuration and unified kernel images; saw {seen}",
            self.volumes.scheme
        )
    }
}

/// The partitions worth looking into, in the order in which they are.
fn order(parts: &[Part]) -> Vec<usize> {
    let rank = |part: &Part| {
        let is_boot = |name: &str| name.eq_ignore_ascii_case("boot");
        let kind = match part.identity.kind {
            Kind::Ext | Kind::Xfs => 2,
            Kind::Btrfs => 3,
            Kind::Fat => 4,
            Kind::Foreign(_) | Kind::Unknown => return None,
        };
        Some(match part.partition {
            // The whole disk beside a partition table: an unlikely reading.
            ref partition if partition.number == 0 && parts.len() > 1 => 5,
            ref partition if partition.role == Role::Xbootldr => 0,
            ref partition if partition.role == Role::Esp => 4,
            ref partition if is_boot(&partition.name) || is_boot(&part.identity.label) => 1,
            _ => kind,
        })
    };
    let mut ranked: Vec<_> = parts
        .iter()
        .enumerate()
        .filter_map(|(index, part)| Some((rank(part)?, Reverse(part.partition.len), index)))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, index)| index).take(MAX_PARTITIONS).collect()
}

//! `blscfg`: Boot Loader Specification entries as menu entries of GRUB.
//!
//! What Fedora and the Enterprise Linux family build their menus from. `options` and `initrd` may
//! name GRUB's variables; nothing else of GRUB's language counts in them.

use super::Place;
use super::run::{Action, Item, Kernel, MAX_ENTRIES, MAX_TEXT, Run};
use crate::boot::guestfs::entries::bls;

/// Entry files read from one directory.
const MAX_FILES: usize = 512;

impl Run<'_> {
    /// `blscfg [directory]`: lists the Boot Loader Specification entries of this system.
    pub(super) fn list_bls(&mut self, directory: Option<&str>) {
        let mut places: Vec<Place> = directory.map(|path| self.place(path)).into_iter().collect();
        for device in [self.variable("boot"), self.variable("root"), &self.config.device] {
            for path in ["/loader/entries", "/boot/loader/entries"] {
                places.push(Place { device: device.to_owned(), path: path.to_owned() });
            }
        }
        for place in places.iter().filter(|place| !place.device.is_empty()) {
            let mut entries = Vec::new();
            for name in self.devices.list(place).into_iter().take(MAX_FILES) {
                let file =
                    Place { device: place.device.clone(), path: format!("{}/{name}", place.path) };
                let text = name.ends_with(".conf").then(|| self.devices.read(&file)).flatten();
                let text = text.unwrap_or_default();
                entries.extend(bls::Entry::parse(&name, &String::from_utf8_lossy(&text)));
            }
            if entries.is_empty() {
                continue;
            }
            bls::sort_for_grub(&mut entries);
            for entry in entries.into_iter().take(MAX_ENTRIES - self.items.len().min(MAX_ENTRIES)) {
                self.items.push(Item {
                    title: entry.title.clone(),
                    id: entry.id.clone(),
                    action: Action::Bls(Box::new(entry), place.device.clone()),
                    config: self.config.clone(),
                });
            }
            return;
        }
    }

    /// What a Boot Loader Specification entry on `device` loads.
    pub(super) fn bls(&mut self, entry: &bls::Entry, device: &str) {
        let on_device = |path: &str| {
            if path.starts_with('(') { path.to_owned() } else { format!("({device}){path}") }
        };
        let kernel = on_device(&entry.linux);
        let options = self.expand_text(&entry.options);
        let words = options.split_whitespace().collect::<Vec<_>>().join(" ");
        let initrds = self.expand_text(&entry.initrds.join(" "));
        self.kernel = Some(Kernel {
            kernel: self.place(&kernel),
            initrds: initrds.split_whitespace().map(|path| self.place(&on_device(path))).collect(),
            cmdline: format!("BOOT_IMAGE={kernel} {words}").trim_end().to_owned(),
        });
    }

    /// Replaces `$name` and `${name}` in free text, and nothing else.
    fn expand_text(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (name, next) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
                Some(braced) => braced,
                None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
            };
            if name.is_empty() {
                expanded.push('$');
            } else {
                expanded.push_str(self.variable(name));
            }
            rest = next;
            if expanded.len() > MAX_TEXT {
                return expanded;
            }
        }
        expanded.push_str(rest);
        expanded
    }
}

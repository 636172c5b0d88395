//! extlinux, syslinux and isolinux: `DEFAULT`, and for each `LABEL` its kernel, ramdisk and
//! `APPEND`.
//!
//! Syslinux wiki, "Config" and "Menu". Keywords in any case; `INCLUDE` one level down. Where a menu
//! is shown, `MENU DEFAULT` decides; else `DEFAULT` names a label; else the first label boots.
//! The command line begins with `BOOT_IMAGE=`, as SYSLINUX passes it. Left out: `F` keys,
//! `ONTIMEOUT`, `KBDMAP`, submenus, kernels given on the `DEFAULT` line itself.

/// Labels kept.
const MAX_LABELS: usize = 1024;

/// Reads a further configuration file, named as `INCLUDE` does; `None` where there is none.
pub type Include<'a> = dyn FnMut(&str) -> Option<String> + 'a;

/// What a label loads; paths are relative to the directory of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// The kernel; empty where it loads none.
    pub kernel: String,
    /// Initial ramdisks, in order.
    pub initrds: Vec<String>,
    /// What is appended; `None`: what is appended for all labels.
    append: Option<String>,
    is_menu_default: bool,
}

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    default: String,
    append: String,
    has_menu: bool,
    labels: Vec<Label>,
}

/// What boots by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The label.
    pub label: Label,
    /// The command line.
    pub cmdline: String,
    /// Why this label: `DEFAULT linux`.
    pub why: String,
}

impl Config {
    /// Reads a configuration; `include` reads a further file, and is not asked for more below it.
    pub fn parse(text: &str, include: &mut Include<'_>) -> Self {
        let mut config = Config::default();
        config.read(text, Some(include));
        config
    }

    fn read(&mut self, text: &str, mut include: Option<&mut Include<'_>>) {
        for line in text.lines() {
            let line = line.trim();
            let (keyword, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let value = value.trim();
            match keyword.to_ascii_uppercase().as_str() {
                "INCLUDE" => {
                    if let Some(include) = include.as_deref_mut()
                        && let Some(text) = include(value)
                    {
                        self.read(&text, None);
                    }
                }
                "DEFAULT" if is_module(value) => self.has_menu = true,
                "DEFAULT" => self.default = value.to_owned(),
                "UI" => self.has_menu = true,
                "LABEL" if self.labels.len() < MAX_LABELS => {
                    self.labels.push(Label { name: value.to_owned(), ..Label::default() });
                }
                "APPEND" if self.labels.is_empty() => self.append = value.to_owned(),
                other => {
                    if let Some(label) = self.labels.last_mut() {
                        label.read(other, value);
                    }
                }
            }
        }
    }

    /// The label that boots by itself; `None` where there is none.
    pub fn default_label(&self) -> Option<Loaded> {
        let named = || self.labels.iter().find(|label| label.name == self.default);
        let marked = || self.labels.iter().find(|label| label.is_menu_default);
        let (label, why) = if self.has_menu
            && let Some(label) = marked()
        {
            (label, "MENU DEFAULT".to_owned())
        } else if let Some(label) = named() {
            (label, format!("DEFAULT {}", self.default))
        } else if let Some(label) = marked() {
            (label, "MENU DEFAULT".to_owned())
        } else {
            (self.labels.first()?, "the first".to_owned())
        };
        let append = match label.append.as_deref() {
            None => self.append.as_str(),
            Some("-") => "",
            Some(append) => append,
        };
        let mut label = label.clone();
        if label.initrds.is_empty() {
            let mut listed =
                append.split_whitespace().filter_map(|word| word.strip_prefix("initrd="));
            label.initrds = listed.next_back().map(split_list).unwrap_or_default();
        }
        let cmdline = format!("BOOT_IMAGE={} {append}", label.kernel).trim_end().to_owned();
        Some(Loaded { label, cmdline, why })
    }
}

impl Label {
    fn read(&mut self, keyword: &str, value: &str) {
        match keyword {
            "KERNEL" | "LINUX" => self.kernel = value.to_owned(),
            "INITRD" => self.initrds = split_list(value),
            "APPEND" => self.append = Some(value.to_owned()),
            "MENU" => self.is_menu_default |= value.eq_ignore_ascii_case("default"),
            _ => {}
        }
    }
}

fn split_list(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

/// A program of SYSLINUX itself, and no kernel.
pub fn is_module(name: &str) -> bool {
    let file = name.split_whitespace().next().unwrap_or("");
    [".c32", ".com", ".cbt", ".bin", ".bs", ".bss", ".img"]
        .iter()
        .any(|extension| file.to_ascii_lowercase().ends_with(extension))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Alpine's update-extlinux writes it.
    const ALPINE: &str = "# Generated by update-extlinux 6.04_pre1-r15\n\
        DEFAULT menu.c32\nPROMPT 0\nMENU TITLE Alpine/Linux Boot Menu\nMENU HIDDEN\n\
        MENU AUTOBOOT Alpine will be booted automatically in # seconds.\nTIMEOUT 10\n\
        LABEL virt\n  MENU LABEL Linux virt\n  LINUX vmlinuz-virt\n  INITRD initramfs-virt\n\
        \x20 APPEND root=LABEL=/ modules=sd-mod,usb-storage,ext4 console=ttyS0,115200n8\n\
        LABEL lts\n  MENU DEFAULT\n  MENU LABEL Linux lts\n  LINUX vmlinuz-lts\n\
        \x20 INITRD /boot/intel-ucode.img,initramfs-lts\n  APPEND root=LABEL=/ ro\n\
        MENU SEPARATOR\n";

    fn loaded(text: &str) -> Option<Loaded> {
        Config::parse(text, &mut |_| None).default_label()
    }

    #[test]
    fn alpine() {
        let found = loaded(ALPINE).unwrap();
        assert_eq!((found.label.name.as_str(), found.why.as_str()), ("lts", "MENU DEFAULT"));
        assert_eq!(found.cmdline, "BOOT_IMAGE=vmlinuz-lts root=LABEL=/ ro");
        assert_eq!(found.label.initrds, ["/boot/intel-ucode.img", "initramfs-lts"]);
        let first = loaded(&ALPINE.replace("  MENU DEFAULT\n", "")).unwrap();
        assert_eq!((first.label.name.as_str(), first.why.as_str()), ("virt", "the first"));
    }

    #[test]
    fn a_default_by_name_with_things_appended_for_all() {
        let text = "default Live\nappend ro quiet initrd=/a.img,/b.img\n\
            label other\n kernel /other\n append -\nlabel Live\n kernel ../vmlinuz\n";
        let found = loaded(text).unwrap();
        assert_eq!(found.cmdline, "BOOT_IMAGE=../vmlinuz ro quiet initrd=/a.img,/b.img");
        assert_eq!(found.label.initrds, ["/a.img", "/b.img"]);
        let other = loaded(&text.replace("default Live", "default other")).unwrap();
        assert_eq!((other.cmdline.as_str(), other.label.initrds.len()), ("BOOT_IMAGE=/other", 0));
        assert!(loaded("PROMPT 0\n").is_none());
    }

    #[test]
    fn one_include_and_no_more() {
        let mut asked = Vec::new();
        let config = Config::parse("INCLUDE a.cfg\n", &mut |path| {
            asked.push(path.to_owned());
            Some("INCLUDE a.cfg\nLABEL x\nKERNEL /k\n".to_owned())
        });
        assert_eq!(config.default_label().unwrap().label.kernel, "/k");
        assert_eq!(asked, ["a.cfg"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(
            text in "(LABEL|DEFAULT|APPEND|INITRD|KERNEL|MENU|[ \\n,a=-]|\\PC){0,60}",
        ) {
            let _ = loaded(&text);
        }
    }
}

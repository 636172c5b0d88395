//! GRUB Legacy's `menu.lst`: `default`, and for each `title` its `root`, `kernel` and `initrd`.
//!
//! GRUB Legacy manual §13. Partitions count from 0, so `(hd0,0)` is partition 1. The kernel's
//! command line is what follows its name, without `BOOT_IMAGE`. Left out: `fallback`, `savedefault`
//! (the saved number is in a file of its own; the first entry is taken), `map`, chain loading.

/// What an entry loads. Paths may carry their own `(hd0,N)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Number in the file, from 0.
    pub index: usize,
    /// Title shown.
    pub title: String,
    /// Partition number from 1, where one is named.
    pub partition: Option<u32>,
    /// Filesystem UUID, where one is named instead.
    pub uuid: Option<String>,
    /// The kernel; empty where it loads none.
    pub kernel: String,
    /// The initial ramdisk.
    pub initrd: Option<String>,
    /// The command line.
    pub cmdline: String,
}

/// The entry that boots by itself, with the `default` that says so; `None` where there are none.
pub fn default_entry(text: &str) -> Option<(Entry, String)> {
    let mut default = "0".to_owned();
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        let (command, value) = line.split_once([' ', '\t', '=']).unwrap_or((line, ""));
        let value = value.trim_start_matches([' ', '\t', '=']).trim_end();
        if command.eq_ignore_ascii_case("title") {
            let index = entries.len();
            entries.push(Entry { index, title: value.to_owned(), ..Entry::default() });
            continue;
        }
        match (command, entries.last_mut()) {
            ("default", None) => default = value.to_owned(),
            ("root" | "rootnoverify", Some(entry)) => entry.partition = partition(value),
            ("uuid", Some(entry)) => entry.uuid = Some(value.to_owned()),
            ("kernel", Some(entry)) => {
                let words = value.trim_start_matches("--no-mem-option").trim_start();
                let words = match words.strip_prefix("--type=") {
                    Some(rest) => rest.split_once([' ', '\t']).map_or("", |(_, rest)| rest.trim()),
                    None => words,
                };
                let (kernel, rest) = words.split_once([' ', '\t']).unwrap_or((words, ""));
                entry.kernel = kernel.to_owned();
                entry.cmdline = rest.trim().to_owned();
            }
            ("initrd", Some(entry)) => entry.initrd = Some(value.to_owned()),
            _ => {}
        }
    }
    let index = default.parse().unwrap_or(0);
    let index = if index < entries.len() { index } else { 0 };
    (index < entries.len()).then(|| (entries.swap_remove(index), default))
}

/// The partition of `(hd0,0)`, counted from 1; a letter of a BSD slice does not matter.
fn partition(device: &str) -> Option<u32> {
    let (number, _) = device.strip_prefix("(hd0,")?.split_once(')')?;
    number.split(',').next()?.parse::<u32>().ok()?.checked_add(1)
}

/// Splits a path into the partition it names, counted from 1, and the rest.
pub fn split_device(path: &str) -> (Option<u32>, &str) {
    match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, rest)) => (partition(path), rest),
        None => (None, path),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As CirrOS ships it.
    const CIRROS: &str = "default 0\ntimeout 0\nhiddenmenu\n\n\
        title           Linux virtual kernel\n\
        root            (hd0,0)\n\
        kernel          /boot/vmlinuz-5.15.0-117-generic LABEL=cirros-rootfs ro console=tty1 console=ttyS0\n\
        initrd          /boot/initrd.img-5.15.0-117-generic\n";

    #[test]
    fn cirros() {
        let (entry, default) = default_entry(CIRROS).unwrap();
        assert_eq!((entry.title.as_str(), entry.partition), ("Linux virtual kernel", Some(1)));
        assert_eq!(entry.kernel, "/boot/vmlinuz-5.15.0-117-generic");
        assert_eq!(entry.initrd.as_deref(), Some("/boot/initrd.img-5.15.0-117-generic"));
        assert_eq!(entry.cmdline, "LABEL=cirros-rootfs ro console=tty1 console=ttyS0");
        assert_eq!(default, "0");
    }

    #[test]
    fn centos_6_with_a_default_and_equals_signs() {
        let text = "# comment\ndefault=1\ntimeout=5\nsplashimage=(hd0,0)/grub/splash.xpm.gz\n\
            title CentOS (2.6.32-754)\n\troot (hd0,1)\n\tkernel /vmlinuz-2.6.32-754 ro root=/dev/vda2\n\
            title CentOS (2.6.32-71)\n\troot (hd0,0)\n\tkernel (hd0,2)/vmlinuz-2.6.32-71 ro\n\
            \tinitrd /initramfs\n";
        let (entry, _) = default_entry(text).unwrap();
        assert_eq!((entry.index, entry.kernel.as_str()), (1, "(hd0,2)/vmlinuz-2.6.32-71"));
        assert_eq!(split_device(&entry.kernel), (Some(3), "/vmlinuz-2.6.32-71"));
        let (entry, _) = default_entry(&text.replace("default=1", "default saved")).unwrap();
        assert_eq!((entry.index, entry.partition, entry.initrd), (0, Some(2), None));
        assert!(default_entry("default 0\n").is_none());
        assert_eq!(split_device("(hd1,0)/x"), (None, "/x"));
        assert_eq!(partition("(hd0,4294967295)"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(title|default|kernel|root|[ =\\n()hd0-9,/-]|\\PC){0,60}") {
            if let Some((entry, _)) = default_entry(&text) {
                split_device(&entry.kernel);
            }
        }
    }
}

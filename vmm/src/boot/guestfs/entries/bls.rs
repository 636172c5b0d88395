//! Boot Loader Specification entries, type 1: one file of `key value` lines for each kernel.
//!
//! UAPI.1 "The Boot Loader Specification", section Type #1, and what Fedora's GRUB adds to it:
//! variables in `options` and several `initrd` lines. Names may carry a boot counter
//! (`name+3-1.conf`: tries left and done).

use std::cmp::Ordering;

use super::version;

/// Longest entry file, in bytes: its command line alone is bounded to far less.
const MAX_ENTRY: usize = 64 * 1024;

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// File name without counter and `.conf`.
    pub id: String,
    /// Title to show.
    pub title: String,
    /// Version of the kernel.
    pub version: String,
    /// What sorts first, if given.
    pub sort_key: String,
    /// Whose entry it is, if given.
    pub machine_id: String,
    /// Kernel path; empty where the entry starts something else.
    pub linux: String,
    /// Initial ramdisks, in order.
    pub initrds: Vec<String>,
    /// Command line; several lines are joined.
    pub options: String,
    /// The counter says that no try is left.
    pub spent: bool,
}

impl Entry {
    /// Reads an entry file called `name`; `None` where it is not for this machine or loads no Linux
    /// kernel.
    pub fn parse(name: &str, text: &str) -> Option<Self> {
        let stem = name.strip_suffix(".conf")?;
        if text.len() > MAX_ENTRY {
            return None;
        }
        let (id, spent) = without_counter(stem);
        let mut entry = Entry { id: id.to_owned(), spent, ..Entry::default() };
        for line in text.lines() {
            let line = line.trim();
            let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let value = value.trim();
            match key {
                "title" => entry.title = value.to_owned(),
                "version" => entry.version = value.to_owned(),
                "sort-key" => entry.sort_key = value.to_owned(),
                "machine-id" => entry.machine_id = value.to_owned(),
                "linux" => entry.linux = value.to_owned(),
                "initrd" => entry.initrds.extend(value.split_whitespace().map(str::to_owned)),
                "options" => {
                    if !entry.options.is_empty() && !value.is_empty() {
                        entry.options.push(' ');
                    }
                    entry.options.push_str(value);
                }
                "architecture" if !value.eq_ignore_ascii_case("x64") => return None,
                _ => {}
            }
        }
        if entry.title.is_empty() {
            entry.title.clone_from(&entry.id);
        }
        (!entry.linux.is_empty()).then_some(entry)
    }

    /// It starts the rescue kernel, which is never what boots by itself.
    pub fn is_rescue(&self) -> bool {
        self.id.ends_with("-rescue") || self.version.starts_with("0-rescue")
    }
}

/// Sorts as GRUB's `blscfg` does: newest file name first, rescue last.
pub fn sort_for_grub(entries: &mut [Entry]) {
    entries.sort_by(|a, b| {
        let rescue = a.is_rescue().cmp(&b.is_rescue());
        rescue.then_with(|| version::compare_entry_names(&b.id, &a.id))
    });
}

/// Sorts by the specification, section Sorting: entries with tries left first, then by sort key,
/// machine and version, the newest first; rescue last.
pub fn sort_by_specification(entries: &mut [Entry]) {
    entries.sort_by(|a, b| {
        let usable = a.is_rescue().cmp(&b.is_rescue()).then(a.spent.cmp(&b.spent));
        usable.then_with(|| by_key(a, b)).then_with(|| version::compare(&b.id, &a.id))
    });
}

fn by_key(a: &Entry, b: &Entry) -> Ordering {
    match (a.sort_key.is_empty(), b.sort_key.is_empty()) {
        (false, false) => a
            .sort_key
            .cmp(&b.sort_key)
            .then_with(|| a.machine_id.cmp(&b.machine_id))
            .then_with(|| version::compare(&b.version, &a.version)),
        (left, right) => left.cmp(&right),
    }
}

/// A name without its boot counter, and whether that counter has run out.
fn without_counter(stem: &str) -> (&str, bool) {
    let Some((name, counter)) = stem.rsplit_once('+') else { return (stem, false) };
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !is_number(left) || !is_number(done) {
        return (stem, false);
    }
    (name, left.bytes().all(|c| c == b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALMA9: &str = "title AlmaLinux (5.14.0-362.8.1.el9_3.x86_64) 9.3 (Shamrock Pampas Cat)\n\
        version 5.14.0-362.8.1.el9_3.x86_64\n\
        linux /vmlinuz-5.14.0-362.8.1.el9_3.x86_64\n\
        initrd /initramfs-5.14.0-362.8.1.el9_3.x86_64.img $tuned_initrd\n\
        options root=UUID=aa ro console=tty0 console=ttyS0,115200n8 \n\
        # a comment\n\
        grub_users $grub_users\n\
        grub_arg --unrestricted\n\
        grub_class almalinux\n";

    #[test]
    fn an_entry_as_enterprise_linux_writes_it() {
        let entry = Entry::parse("abc-5.14.0-362.8.1.el9_3.x86_64.conf", ALMA9).unwrap();
        assert_eq!(entry.id, "abc-5.14.0-362.8.1.el9_3.x86_64");
        assert_eq!(entry.linux, "/vmlinuz-5.14.0-362.8.1.el9_3.x86_64");
        assert_eq!(entry.initrds, ["/initramfs-5.14.0-362.8.1.el9_3.x86_64.img", "$tuned_initrd"]);
        assert_eq!(entry.options, "root=UUID=aa ro console=tty0 console=ttyS0,115200n8");
    }

    #[test]
    fn several_lines_counters_and_foreign_entries() {
        let text = "linux\t/l\ninitrd /ucode\ninitrd /i\noptions a\noptions b=c\n";
        let entry = Entry::parse("x+0-3.conf", text).unwrap();
        assert_eq!((entry.id.as_str(), entry.spent, entry.title.as_str()), ("x", true, "x"));
        assert_eq!((entry.initrds.len(), entry.options.as_str()), (2, "a b=c"));
        assert!(!Entry::parse("x+3.conf", text).unwrap().spent);
        assert_eq!(Entry::parse("linux-6.1+deb12.conf", text).unwrap().id, "linux-6.1+deb12");
        assert!(Entry::parse("x", text).is_none());
        assert!(Entry::parse("x.conf", "title Windows\nefi /EFI/x.efi\n").is_none());
        assert!(Entry::parse("x.conf", "linux /l\narchitecture aa64\n").is_none());
        assert!(Entry::parse("x.conf", &format!("linux /{}", "l".repeat(MAX_ENTRY))).is_none());
    }

    fn sorted(names: &[&str], sort: fn(&mut [Entry])) -> Vec<String> {
        let entry = |name: &&str| {
            let version = name.split_once('-').map_or("", |(_, version)| version);
            let key = if name.starts_with('k') { "sort-key k\n" } else { "" };
            let text = format!("linux /l\n{key}version {version}\n");
            Entry::parse(&format!("{name}.conf"), &text).unwrap()
        };
        let mut entries: Vec<Entry> = names.iter().map(entry).collect();
        sort(&mut entries);
        entries.into_iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn the_newest_kernel_comes_first_and_rescue_last() {
        let names = ["m-0-rescue", "m-5.14.0-70.el9", "m-5.14.0-362.el9", "m-5.14.0-9.el9"];
        let newest_first = ["m-5.14.0-362.el9", "m-5.14.0-70.el9", "m-5.14.0-9.el9", "m-0-rescue"];
        assert_eq!(sorted(&names, sort_for_grub), newest_first);
        assert_eq!(sorted(&names, sort_by_specification), newest_first);
        assert_eq!(
            sorted(&["a-9", "k-1+0-2", "k-2", "k-10"], sort_by_specification),
            ["k-10", "k-2", "a-9", "k-1"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(name in "\\PC{0,12}", text in "\\PC{0,200}") {
            let _ = Entry::parse(&format!("{name}.conf"), &text);
        }
    }
}

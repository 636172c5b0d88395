//! The kernel's command line, from what the boot loader would have passed to what is passed.
//!
//! Linux `Documentation/admin-guide/kernel-parameters.rst` and `serial-console.rst`: of several
//! `console=`, the last one becomes `/dev/console`, so none is ever moved or removed. What is added
//! goes before ` -- `, behind which everything belongs to init. Pure; runs on any thread.

/// What is appended where no console is named.
const CONSOLES: &str = "console=tty0 console=ttyS0,115200";
/// What shows kernel messages on a display.
const DISPLAY_CONSOLE: &str = "console=tty0";

/// Why there is no command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// Longer than the kernel takes.
    #[error(
        "the kernel command line is {len} bytes long, and this kernel takes {limit}: shorten what \
         is added to it"
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// What the kernel takes, in bytes.
        limit: usize,
    },
    /// It holds a byte that would end it.
    #[error("the kernel command line has a NUL or a line break at byte {0}: remove it")]
    ControlCharacter(usize),
}

/// Makes the command line: `base` as the boot loader would pass it, `extra` added to it, and
/// consoles where they are missing. `has_display`: somebody may look at a screen. `limit`: what the
/// kernel takes, in bytes without the NUL at the end (`cmdline_size` of its header).
///
/// # Errors
/// [`CmdlineError`].
pub fn compose(
    base: &str,
    extra: &str,
    has_display: bool,
    limit: usize,
) -> Result<String, CmdlineError> {
    let (kernel, init) = split_init(base.trim());
    let mut words: Vec<&str> = Vec::new();
    words.extend(self::words(kernel));
    words.extend(self::words(extra));
    let consoles: Vec<&str> = words.iter().filter_map(|w| w.strip_prefix("console=")).collect();
    let is_serial = |console: &&str| console.starts_with("ttyS");
    if consoles.is_empty() {
        words.extend(CONSOLES.split(' '));
    } else if has_display && consoles.iter().all(is_serial) {
        // In front of the others, so that /dev/console stays what it was.
        let first = words.iter().position(|word| word.starts_with("console=")).unwrap_or(0);
        words.insert(first, DISPLAY_CONSOLE);
    }
    if let Some(init) = init {
        words.extend(["--", init]);
    }
    let cmdline = words.join(" ");
    if let Some(at) = cmdline.bytes().position(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
        return Err(CmdlineError::ControlCharacter(at));
    }
    if cmdline.len() > limit {
        return Err(CmdlineError::TooLong { len: cmdline.len(), limit });
    }
    Ok(cmdline)
}

/// The words of a command line; white space in double quotes does not part them.
fn words(cmdline: &str) -> impl Iterator<Item = &str> {
    let mut in_quotes = false;
    cmdline
        .split(move |c: char| {
            in_quotes ^= c == '"';
            !in_quotes && matches!(c, ' ' | '\t')
        })
        .filter(|word| !word.is_empty())
}

/// What is the kernel's, and what follows a `--` and is init's.
fn split_init(cmdline: &str) -> (&str, Option<&str>) {
    let Some(word) = words(cmdline).find(|word| *word == "--") else { return (cmdline, None) };
    let at = word.as_ptr().addr() - cmdline.as_ptr().addr();
    let (kernel, rest) = cmdline.split_at(at);
    let init = rest[2..].trim();
    (kernel, (!init.is_empty()).then_some(init))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn composed(base: &str, extra: &str, has_display: bool) -> String {
        compose(base, extra, has_display, 2047).unwrap()
    }

    #[test]
    fn consoles_are_added_only_where_there_are_none() {
        let both = "root=/dev/vda1 ro console=tty0 console=ttyS0,115200";
        assert_eq!(composed("root=/dev/vda1 ro", "", false), both);
        assert_eq!(composed(both, "", true), both);
        assert_eq!(composed("ro", "console=hvc0", true), "ro console=hvc0");
        assert_eq!(composed("", "", false), "console=tty0 console=ttyS0,115200");
        assert_eq!(
            composed("ro netconsole=x", "", false),
            "ro netconsole=x console=tty0 console=ttyS0,115200"
        );
    }

    #[test]
    fn a_display_gets_a_console_in_front_of_the_serial_one() {
        let rocky = "BOOT_IMAGE=/vmlinuz root=UUID=x console=ttyS0,115200n8 no_timer_check";
        assert_eq!(composed(rocky, "", false), rocky);
        assert_eq!(
            composed(rocky, "", true),
            "BOOT_IMAGE=/vmlinuz root=UUID=x console=tty0 console=ttyS0,115200n8 no_timer_check"
        );
    }

    #[test]
    fn what_is_added_stays_the_kernels() {
        assert_eq!(
            composed("ro console=ttyS0 -- single", " quiet  debug ", false),
            "ro console=ttyS0 quiet debug -- single"
        );
        assert_eq!(
            composed("dyndbg=\"file x -- +p\" console=ttyS0 --", "a", false),
            "dyndbg=\"file x -- +p\" console=ttyS0 a"
        );
    }

    #[test]
    fn limits_are_errors() {
        let long = "x".repeat(2048);
        let error = compose(&long, "console=ttyS0", false, 2047).unwrap_err();
        assert_eq!(error, CmdlineError::TooLong { len: 2062, limit: 2047 });
        let fits = format!("console=ttyS0 {}", "x".repeat(2047 - 14));
        assert_eq!(composed(&fits, "", false).len(), 2047);
        assert_eq!(
            compose("a\nconsole=ttyS0", "", false, 99),
            Err(CmdlineError::ControlCharacter(1))
        );
        assert_eq!(compose("console=x", "a\0", false, 99), Err(CmdlineError::ControlCharacter(11)));
    }

    proptest! {
        #[test]
        fn any_text_is_composed(base in "([ \"-]|console=|--|\\PC){0,40}", extra in "\\PC{0,20}") {
            if let Ok(cmdline) = compose(&base, &extra, true, 4096) {
                prop_assert!(cmdline.contains("console="));
            }
        }
    }
}

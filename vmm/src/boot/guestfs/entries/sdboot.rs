//! systemd-boot's `loader.conf`: which entry boots by itself.
//!
//! loader.conf(5). Only `default` matters here: a glob over entry ids. What names an EFI variable
//! (`@saved`) cannot be known without firmware and counts as not given.

/// The `default` of a `loader.conf`; `None` where none counts.
pub fn default_pattern(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter_map(|line| line.split_once([' ', '\t']));
    let mut values = lines.filter(|(key, _)| *key == "default").map(|(_, value)| value.trim());
    values
        .next_back()
        .filter(|value| !value.is_empty() && !value.starts_with('@'))
        .map(str::to_owned)
}

/// `id`, an entry's file name without `.conf`, matches `pattern`, which may be written with it.
pub fn matches(pattern: &str, id: &str) -> bool {
    let pattern = pattern.strip_suffix(".conf").unwrap_or(pattern).to_lowercase();
    glob(&pattern.chars().collect::<Vec<_>>(), &id.to_lowercase().chars().collect::<Vec<_>>())
}

/// Shell matching with `*` and `?`, in time bounded by the product of the lengths.
fn glob(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much it has swallowed so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, swallowed)) => {
                    star = Some((at, swallowed + 1));
                    p = at + 1;
                    t = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_default_counts() {
        let text = "timeout 3\n#default x\ndefault  a-*\nconsole-mode max\ndefault b*.conf\n";
        assert_eq!(default_pattern(text).as_deref(), Some("b*.conf"));
        assert_eq!(default_pattern("default @saved\n"), None);
        assert_eq!(default_pattern(""), None);
    }

    #[test]
    fn globs() {
        assert!(matches("abc*", "ABC-6.1"));
        assert!(matches("*-6.?.conf", "abc-6.1"));
        assert!(matches("a.conf", "a"));
        assert!(matches("*", ""));
        assert!(!matches("b*", "abc"));
        assert!(!matches("", "abc"));
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }
}

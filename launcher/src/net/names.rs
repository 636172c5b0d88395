//! Domain names, checked: RFC 1035 §2.3 and §3.1, host names RFC 1123 §2.1.
//!
//! They come from files of the host and end up in programs of the guest: letters, digits, hyphens
//! and underscores pass, nothing that a shell or terminal might take for its own. Names in another
//! script have to be given in their ASCII form (RFC 5890), as resolvers need them, too. Written in
//! wire format, with the compression of RFC 1035 §4.1.4 where that is allowed; compressed names are
//! never read.

use std::collections::HashMap;
use std::fmt;

/// RFC 1035 §2.3.4: the longest label, and the longest name in wire format.
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;
/// RFC 1035 §4.1.4: the two high bits of a pointer, and the furthest that one reaches.
const POINTER: u16 = 0xc000;
const MAX_OFFSET: usize = 0x3fff;

/// A name with at least one label, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainName(String);

impl DomainName {
    /// `text` as a name; a dot at its end is taken off. `None`: it is none.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        // A length octet for each label, and the root's.
        (text.len() + 2 <= MAX_NAME && text.split('.').all(is_label)).then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, what is left without its first label, and so on: no more than 127.
    fn suffixes(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.0.as_str()), |suffix| Some(suffix.split_once('.')?.1))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    let within = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(within)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether `text` may be a host name (RFC 1123 §2.1): a domain name without underscores.
pub fn is_host_name(text: &str) -> bool {
    !text.contains('_') && !text.ends_with('.') && DomainName::new(text).is_some()
}

/// As many of `names` as fit in `limit` bytes, the first ones first, in wire format and without
/// compression.
pub fn uncompressed<'a>(names: impl IntoIterator<Item = &'a DomainName>, limit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for name in names {
        let before = out.len();
        name.0.split('.').for_each(|label| push_label(&mut out, label));
        out.push(0);
        if out.len() > limit {
            out.truncate(before);
            break;
        }
    }
    out
}

/// The same, each name's tail replaced by a pointer where an earlier one had it. Pointers count
/// from the start of what is returned (RFC 3397 §2).
pub fn compressed(names: &[DomainName], limit: usize) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    let mut known: HashMap<&str, u16> = HashMap::new();
    for name in names {
        let before = out.len();
        let mut ended = false;
        for suffix in name.suffixes() {
            if let Some(offset) = known.get(suffix) {
                out.extend((POINTER | offset).to_be_bytes());
                ended = true;
                break;
            }
            if out.len() <= MAX_OFFSET {
                known.insert(suffix, out.len() as u16);
            }
            push_label(&mut out, suffix.split('.').next().unwrap_or(suffix));
        }
        if !ended {
            out.push(0);
        }
        if out.len() > limit {
            out.truncate(before);
            break;
        }
    }
    out
}

/// A label has been checked: its length fits in six bits.
fn push_label(out: &mut Vec<u8>, label: &str) {
    out.push(label.len() as u8);
    out.extend(label.as_bytes());
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn names(texts: &[&str]) -> Vec<DomainName> {
        texts.iter().map(|text| DomainName::new(text).expect(text)).collect()
    }

    /// A second opinion: reads names as a client would. Pointers only ever go back.
    pub fn read_names(bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (mut labels, mut here, mut after) = (Vec::new(), at, None);
            loop {
                let length = usize::from(bytes[here]);
                if length & 0xc0 == 0xc0 {
                    let to = (length & 0x3f) << 8 | usize::from(bytes[here + 1]);
                    assert!(to < here, "a pointer that does not go back");
                    after.get_or_insert(here + 2);
                    here = to;
                } else if length == 0 {
                    break;
                } else {
                    assert!(length <= MAX_LABEL);
                    let label = &bytes[here + 1..here + 1 + length];
                    labels.push(String::from_utf8(label.to_vec()).unwrap());
                    here += 1 + length;
                }
            }
            at = after.unwrap_or(here + 1);
            names.push(labels.join("."));
        }
        names
    }

    #[test]
    fn only_real_names_pass() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        for text in ["a", "cluster.local", "cluster.local.", "_tcp.x-1.org", "1.2", &longest] {
            let name = DomainName::new(text).expect(text);
            assert_eq!(name.as_str(), text.trim_end_matches('.'));
            assert!(uncompressed([&name], 1000).len() <= MAX_NAME);
        }
        let (long_label, long) = ("a".repeat(64), format!("{longest}b"));
        for text in [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "-a.b",
            "a-",
            "a b",
            "a;b",
            "$(x)",
            "`x`",
            "a\0",
            "a\n",
            "ä.org",
            "a/b",
            "'",
            &long_label,
            &long,
        ] {
            assert_eq!(DomainName::new(text), None, "{text:?}");
        }
    }

    #[test]
    fn host_names() {
        for text in ["vm", "vm-1", "1", "a.b.c"] {
            assert!(is_host_name(text), "{text}");
        }
        for text in ["", "vm_1", "vm.", "-vm", "vm-", "a b", &"x".repeat(64)] {
            assert!(!is_host_name(text), "{text}");
        }
    }

    /// The example of RFC 3397 §3.
    #[test]
    fn the_compression_of_the_rfc() {
        let list = names(&["eng.apple.com", "marketing.apple.com"]);
        let wire = compressed(&list, 255);
        assert_eq!(wire, b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04");
        assert_eq!(read_names(&wire), ["eng.apple.com", "marketing.apple.com"]);
    }

    #[test]
    fn a_name_that_does_not_fit_is_left_out_whole() {
        let list = names(&["a.example", "b.example", "c.example"]);
        assert_eq!(read_names(&compressed(&list, 11)), ["a.example"]);
        assert_eq!(read_names(&compressed(&list, 15)), ["a.example", "b.example"]);
        assert_eq!(compressed(&list, 10), b"");
        assert_eq!(read_names(&uncompressed(&list, 21)), ["a.example"]);
        assert_eq!(uncompressed(&list, 10), b"");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            texts in prop::collection::vec("[a-c]{1,3}(\\.[a-c]{1,2}){0,5}", 0..40),
            limit in 0usize..2000,
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let list = names(&texts);
            for wire in [compressed(&list, limit), uncompressed(&list, limit)] {
                prop_assert!(wire.len() <= limit);
                let read = read_names(&wire);
                prop_assert_eq!(&read[..], &texts[..read.len()]);
            }
            prop_assert!(compressed(&list, limit).len() <= limit);
        }

        #[test]
        fn any_text_is_judged(text in ".{0,300}") {
            if let Some(name) = DomainName::new(&text) {
                prop_assert!(uncompressed([&name], 255).len() >= 3);
            }
        }
    }
}

//! Files of checksums (`SHA256SUMS`, `SHA512SUMS`, `image.sha256`, Fedora's `CHECKSUM`): the
//! digest of one file out of the list. GNU's form (`HEX  NAME`, `HEX *NAME`), BSD's (`SHA256
//! (NAME) = HEX`), and the digits alone. What else is in the file, such as a signature around the
//! list, is passed over: signatures are not checked. Pure.

use crate::config::{Digest, parse_digest};

/// Largest file of checksums, in bytes.
pub const MAX_BYTES: u64 = 4 << 20;

/// Why a list has no digest for a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// The file is not in the list.
    #[error("has no SHA-256 or SHA-512 digest of {0}")]
    Missing(String),
    /// Two different digests of one kind.
    #[error("has more than one digest of {0}")]
    Ambiguous(String),
}

/// The digest of the file called `name` in `text`; SHA-512 rather than SHA-256.
///
/// # Errors
/// See [`ChecksumError`].
pub fn find(text: &str, name: &str) -> Result<Digest, ChecksumError> {
    let of_name = text.lines().filter_map(entry).filter(|entry| {
        // Lists are made in the directory of the files, or above it.
        entry.0.rsplit('/').next() == Some(name)
    });
    let mut found: Vec<Digest> = Vec::new();
    for (_, digest) in of_name {
        if !found.contains(&digest) {
            found.push(digest);
        }
    }
    if found.is_empty() {
        found.extend(alone(text));
    }
    let count = |kind: fn(&Digest) -> bool| found.iter().filter(|digest| kind(digest)).count();
    let (long, short) =
        (count(|d| matches!(d, Digest::Sha512(_))), count(|d| matches!(d, Digest::Sha256(_))));
    if long > 1 || short > 1 {
        return Err(ChecksumError::Ambiguous(name.to_owned()));
    }
    let best = found.iter().find(|digest| matches!(digest, Digest::Sha512(_)) || long == 0);
    best.cloned().ok_or_else(|| ChecksumError::Missing(name.to_owned()))
}

/// The digest, when there is nothing else in the file.
fn alone(text: &str) -> Option<Digest> {
    let mut words = text.split_whitespace();
    let digest = hexadecimal(words.next()?)?;
    words.next().is_none().then_some(digest)
}

/// Name and digest on a line.
fn entry(line: &str) -> Option<(&str, Digest)> {
    let line = line.trim_end();
    if let Some((head, hex)) = line.rsplit_once(") = ") {
        let (kind, name) = head.split_once(" (")?;
        let digest = hexadecimal(hex)?;
        let fits = matches!(
            (kind, &digest),
            ("SHA256", Digest::Sha256(_)) | ("SHA512", Digest::Sha512(_))
        );
        return fits.then_some((name, digest));
    }
    let (hex, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix([' ', '*']).unwrap_or(rest).trim_start();
    Some((name, hexadecimal(hex)?))
}

fn hexadecimal(hex: &str) -> Option<Digest> {
    let kind = match hex.len() {
        64 => "sha256",
        128 => "sha512",
        _ => return None,
    };
    parse_digest(&format!("{kind}:{hex}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sha256(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    #[test]
    fn the_forms_of_lists() {
        let (a, b, long) = (sha256('a'), sha256('b'), "c".repeat(128));
        let kept = |text: &str| find(text, "disk.qcow2").map(|digest| digest.to_string());
        for text in [
            format!("{b}  other\n{a}  disk.qcow2\n"),
            format!("{b} *other\r\n{a} *disk.qcow2\r\n"),
            format!("{b}  disk.qcow2.xz\n{a}  ./disk.qcow2"),
            format!("{a}  images/disk.qcow2\n{a}  disk.qcow2\n"),
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.qcow2: 1 bytes\n\
                     SHA256 (disk.qcow2) = {a}\n-----BEGIN PGP SIGNATURE-----\nabc\n"
            ),
            format!("MD5 (disk.qcow2) = {}\nSHA256 (disk.qcow2) = {a}\n", "0".repeat(32)),
            format!("{a}\n"),
            a.to_uppercase(),
        ] {
            assert_eq!(kept(&text), Ok(format!("sha256:{a}")), "{text}");
        }
        let both = format!("{a}  disk.qcow2\n{long}  disk.qcow2\n");
        assert_eq!(kept(&both), Ok(format!("sha512:{long}")));
    }

    #[test]
    fn what_is_not_in_the_list() {
        let (a, b) = (sha256('a'), sha256('b'));
        let missing = Err(ChecksumError::Missing("disk".into()));
        for text in [
            String::new(),
            "<html><body>Not found</body></html>".into(),
            format!("{a}  disk.old\n"),
            format!("{a}  my disk\n"),
            format!("{a} {b}"),
            format!("{}  disk\n", &a[1..]),
            format!("SHA512 (disk) = {a}\n"),
        ] {
            assert_eq!(find(&text, "disk"), missing, "{text}");
        }
        let twice = format!("{a}  disk\n{b}  old/disk\n");
        assert_eq!(find(&twice, "disk"), Err(ChecksumError::Ambiguous("disk".into())));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(\\PC|\n){0,300}", name in "\\PC{0,20}") {
            let _ = find(&text, &name);
        }

        #[test]
        fn what_is_listed_is_found(
            name in "[a-z0-9][a-z0-9._-]{0,30}",
            others in prop::collection::vec(("[a-z]{1,9}", "[0-9a-f]{64}"), 0..9),
            hex in "[0-9a-f]{64}",
        ) {
            let mut text = String::new();
            for (other, digest) in others.iter().filter(|(other, _)| *other != name) {
                text.push_str(&format!("{digest}  {other}\n"));
            }
            text.push_str(&format!("{hex}  {name}\n"));
            prop_assert_eq!(find(&text, &name).unwrap().to_string(), format!("sha256:{hex}"));
        }
    }
}

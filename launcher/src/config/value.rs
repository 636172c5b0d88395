//! Single values: text in, a type that cannot hold a wrong one out.
//!
//! Each parser answers with "what is wrong" and "what to write instead"; the caller knows by which
//! name the value was given.

use std::fmt;

use vmm::config::DiskEngine;

use crate::units;

/// No disk does more requests in a second.
const MAX_IOPS: u64 = 1_000_000_000;

/// What is wrong with a text, and what to write instead.
pub type Wrong = (String, String);

/// The answer of a parser.
pub(super) fn wrong<T>(problem: impl Into<String>, fix: impl Into<String>) -> Result<T, Wrong> {
    Err((problem.into(), fix.into()))
}

/// Format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk.
    Raw,
    /// qcow2, version 2 or 3.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// A format by its name.
///
/// # Errors
/// Any other name.
pub fn format(text: &str) -> Result<Format, Wrong> {
    match text {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        _ => wrong("is not an image format Berth knows", "write qcow2 or raw"),
    }
}

/// An engine by its name.
///
/// # Errors
/// Any other name.
pub fn engine(text: &str) -> Result<DiskEngine, Wrong> {
    match text {
        "auto" => Ok(DiskEngine::Auto),
        "io_uring" => Ok(DiskEngine::IoUring),
        "sync" => Ok(DiskEngine::Sync),
        _ => wrong("is not a disk engine", "write auto, io_uring or sync"),
    }
}

/// Requests per second; 0: no limit.
///
/// # Errors
/// Anything else.
pub fn iops(text: &str) -> Result<u64, Wrong> {
    number(text, 0, MAX_IOPS)
}

/// Bytes per second, with or without a unit; 0: no limit.
///
/// # Errors
/// Anything else.
pub fn bytes_per_second(text: &str) -> Result<u64, Wrong> {
    let fix = "write bytes per second as a plain number, or a unit such as 50M";
    units::size(text, Some(1)).map_err(|problem| (problem.to_string(), fix.to_owned()))
}

/// Memory for an image's tables, in bytes.
///
/// # Errors
/// Anything but 64 KiB to 1 GiB.
pub fn table_cache(text: &str) -> Result<usize, Wrong> {
    let fix = "write a size from 64K to 1G, such as 8M";
    let bytes = units::size(text, None).map_err(|problem| (problem.to_string(), fix.to_owned()))?;
    match usize::try_from(bytes) {
        Ok(bytes) if (64 << 10..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => wrong("is too little or too much memory for an image's tables", fix),
    }
}

/// A whole number from `low` to `high`.
///
/// # Errors
/// Anything else.
pub fn number(text: &str, low: u64, high: u64) -> Result<u64, Wrong> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && (low..=high).contains(&number) => Ok(number),
        _ => wrong(
            format!("is not a whole number from {low} to {high}"),
            format!("write a number from {low} to {high}"),
        ),
    }
}

/// The name of a machine: it becomes file names and a host name.
///
/// # Errors
/// Anything but letters, digits, `-`, `.` and `_`, beginning and ending with a letter or digit, of
/// 1 to 63 characters.
pub fn machine_name(text: &str) -> Result<String, Wrong> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let fits = bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| inner(*b));
    if fits {
        return Ok(text.to_owned());
    }
    wrong(
        "cannot name a machine and its files",
        "use up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
    )
}

/// The name of a file in a directory: not a path.
///
/// # Errors
/// A path, an empty name, `.` or `..`.
pub fn file_name(text: &str) -> Result<String, Wrong> {
    if text.is_empty()
        || text.len() > 255
        || text.contains(['/', '\0'])
        || [".", ".."].contains(&text)
    {
        return wrong("is not a file name", "write the name alone, without a directory");
    }
    Ok(text.to_owned())
}

/// A MAC address for a guest's interface: unicast, not zero.
///
/// # Errors
/// Anything else.
pub fn mac(text: &str) -> Result<[u8; 6], Wrong> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let mut mac = [0; 6];
    let mut fits = parts.len() == mac.len();
    for (byte, part) in mac.iter_mut().zip(&parts) {
        let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        fits &= hex;
        *byte = u8::from_str_radix(part, 16).unwrap_or(0);
    }
    if !fits {
        return wrong("is not a MAC address", "write six bytes such as 52:54:00:12:34:56");
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return wrong(
            "is a multicast or zero address, which no interface can have",
            "write a unicast address such as 52:54:00:12:34:56",
        );
    }
    Ok(mac)
}

/// How a MAC address is written.
pub fn show_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// How the machine boots, as far as `--boot` says.
///
/// # Errors
/// Firmware, which is not built yet; anything unknown.
pub fn boot(text: &str) -> Result<(), Wrong> {
    match text {
        "auto" | "direct" => Ok(()),
        "uefi" | "bios" => wrong(
            "is a way to boot that is not built yet",
            "write auto or direct, which boot the image's own kernel without firmware",
        ),
        _ => wrong("is not a way to boot", "write auto or direct"),
    }
}

/// A digest that content must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes): (_, &[u8]) = match self {
            Self::Sha256(bytes) => ("sha256", bytes),
            Self::Sha512(bytes) => ("sha512", bytes),
        };
        write!(f, "{name}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `sha256:HEX`, `sha512:HEX`, or the hexadecimal digits of a SHA-256 alone.
///
/// # Errors
/// Anything else.
pub fn digest(text: &str) -> Result<Digest, Wrong> {
    let (kind, hex) = text.split_once(':').unwrap_or(("sha256", text));
    let parsed = match kind {
        "sha256" => unhex(hex).map(Digest::Sha256),
        "sha512" => unhex(hex).map(Digest::Sha512),
        _ => None,
    };
    parsed.ok_or_else(|| {
        let fix = "write sha256: and 64 hexadecimal digits, or sha512: and 128";
        ("is not a digest".to_owned(), fix.to_owned())
    })
}

fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    if hex.len() != 2 * N || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "web-1", "vm.example.org", "A_b-9"] {
            assert_eq!(machine_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "-a", "a-", ".a", "a/b", "a b", "ä", "..", &"a".repeat(64)] {
            assert!(machine_name(bad).is_err(), "{bad:?}");
        }
        assert!(file_name("debian.qcow2").is_ok());
        for bad in ["", ".", "..", "a/b", "a\0b", &"a".repeat(256)] {
            assert!(file_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn macs() {
        assert_eq!(mac("52:54:00:12:34:Fe"), Ok([0x52, 0x54, 0, 0x12, 0x34, 0xfe]));
        assert_eq!(mac("52-54-00-12-34-56").map(show_mac).unwrap(), "52:54:00:12:34:56");
        for bad in ["", "52:54:00:12:34", "52:54:00:12:34:5", "52:54:00:12:34:56:78"] {
            assert!(mac(bad).unwrap_err().0.contains("not a MAC"), "{bad:?}");
        }
        for bad in ["+2:54:00:12:34:56", "5g:54:00:12:34:56"] {
            assert!(mac(bad).unwrap_err().0.contains("not a MAC"), "{bad:?}");
        }
        for bad in ["53:54:00:12:34:56", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"] {
            assert!(mac(bad).unwrap_err().0.contains("multicast or zero"), "{bad:?}");
        }
    }

    #[test]
    fn ways_to_boot() {
        assert!(boot("auto").is_ok() && boot("direct").is_ok());
        assert!(boot("uefi").unwrap_err().0.contains("not built yet"));
        assert!(boot("bios").unwrap_err().0.contains("not built yet"));
        assert_eq!(boot("Auto").unwrap_err().0, "is not a way to boot");
    }

    #[test]
    fn digests() {
        let short = "0123456789abcdef".repeat(4);
        let long = "0123456789ABCDEF".repeat(8);
        assert_eq!(digest(&short).unwrap().to_string(), format!("sha256:{short}"));
        assert_eq!(digest(&format!("sha256:{short}")), digest(&short));
        let shown = digest(&format!("sha512:{long}")).unwrap().to_string();
        assert_eq!(shown, format!("sha512:{}", long.to_lowercase()));
        for bad in
            ["", "sha256:", "md5:00", &short[1..], &format!("sha512:{short}"), &"é".repeat(32)]
        {
            assert!(digest(bad).is_err(), "{bad:?}");
        }
    }
}

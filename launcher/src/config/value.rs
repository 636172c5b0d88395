//! Single values: text in, a type that cannot hold a wrong one out.
//!
//! Each parser answers with "what is wrong" and "what to write instead"; the caller knows by which
//! name the value was given.

use std::fmt;
use std::path::PathBuf;

use vmm::config::DiskEngine;

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

/// A further disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A file or a block device.
    pub path: PathBuf,
    /// Its format: stated, never read from bytes the guest can write.
    pub format: Format,
    /// The guest cannot write it.
    pub read_only: bool,
    /// Serial number, 1 to 20 printable ASCII characters.
    pub serial: Option<String>,
    /// Number of queues; 0: as many as vCPUs, at most 4.
    pub queues: u16,
    /// What moves its data.
    pub engine: DiskEngine,
}

/// The most queues a disk can have.
pub const MAX_QUEUES: u64 = 16;

impl Disk {
    /// A disk with everything else at its default.
    pub fn new(path: PathBuf, format: Format) -> Self {
        Self { path, format, read_only: false, serial: None, queues: 0, engine: DiskEngine::Auto }
    }
}

/// `PATH[,format=raw|qcow2][,ro][,serial=S][,queues=N][,engine=E]`.
///
/// # Errors
/// An unknown or repeated option, a wrong value, no path.
pub fn disk(text: &str) -> Result<Disk, Wrong> {
    let mut parts = text.split(',');
    let path = parts.next().unwrap_or_default();
    if path.is_empty() {
        return wrong("names no file", "write PATH, then options after commas");
    }
    let by_name = if path.ends_with(".qcow2") { Format::Qcow2 } else { Format::Raw };
    let mut disk = Disk::new(PathBuf::from(path), by_name);
    let mut seen = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if seen.contains(&key) {
            return wrong(format!("has the option {key} twice"), "give it once");
        }
        seen.push(key);
        let within = |(problem, fix): Wrong| (format!("has {part}, which {problem}"), fix);
        match key {
            "format" => disk.format = format(value).map_err(within)?,
            "ro" if value.is_empty() => disk.read_only = true,
            "serial" => disk.serial = Some(serial(value).map_err(within)?),
            "queues" => {
                let queues = number(value, 1, MAX_QUEUES).map_err(within)?;
                disk.queues = u16::try_from(queues).unwrap_or(0);
            }
            "engine" => disk.engine = engine(value).map_err(within)?,
            _ => {
                return wrong(
                    format!("has the unknown option `{part}`"),
                    "the options are format=raw|qcow2, ro, serial=S, queues=N and engine=E",
                );
            }
        }
    }
    Ok(disk)
}

/// VIRTIO 1.3 §5.2.6.1: a serial number has at most 20 bytes.
fn serial(text: &str) -> Result<String, Wrong> {
    if (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    wrong("is not a serial number", "use 1 to 20 letters, digits and signs")
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

    #[test]
    fn disks() {
        let plain = disk("/a.img").unwrap();
        assert_eq!(plain, Disk::new("/a.img".into(), Format::Raw));
        assert_eq!(disk("b.qcow2").unwrap().format, Format::Qcow2);
        assert_eq!(disk("b.qcow2,format=raw").unwrap().format, Format::Raw);
        let full = disk("/a,format=qcow2,ro,serial=x-1,queues=2,engine=sync").unwrap();
        let want = Disk {
            path: "/a".into(),
            format: Format::Qcow2,
            read_only: true,
            serial: Some("x-1".into()),
            queues: 2,
            engine: DiskEngine::Sync,
        };
        assert_eq!(full, want);
        for (bad, part) in [
            ("", "names no file"),
            (",ro", "names no file"),
            ("/a,rw", "unknown option `rw`"),
            ("/a,ro=yes", "unknown option `ro=yes`"),
            ("/a,", "unknown option ``"),
            ("/a,ro,ro", "ro twice"),
            ("/a,format=vmdk", "format=vmdk, which is not an image format"),
            ("/a,queues=0", "from 1 to 16"),
            ("/a,queues=+1", "from 1 to 16"),
            ("/a,engine=fast", "not a disk engine"),
            ("/a,serial=", "not a serial number"),
            ("/a,serial=123456789012345678901", "not a serial number"),
        ] {
            let (problem, _) = disk(bad).unwrap_err();
            assert!(problem.contains(part), "{bad:?}: {problem}");
        }
    }
}

//! Serial numbers of further disks, by which a guest finds them again (`/dev/disk/by-id/virtio-...`).
//!
//! They follow from a disk's own path, so that a disk more or less renames no other. One that was
//! given stays; else it is the file's name without `.img` or the like, for a volume's image with the
//! directories below `/volumes`. What is too long for a serial number, or the same for two disks,
//! gets a part of the path's digest instead.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::ConfigError;
use super::disk::Disk;

/// VIRTIO 1.3 §5.2.6.1.
const LONGEST: usize = 20;
/// Hexadecimal digits of the digest.
const DIGITS: usize = 8;
/// The root disk's, and the config drive's.
const TAKEN: [&str; 2] = ["root", "config-2"];

/// Gives a serial number to every disk that has none. `volumes` is where volumes are mounted.
///
/// # Errors
/// Two disks were given the same one.
pub(super) fn assign(disks: &mut [Disk], volumes: &Path) -> Result<(), ConfigError> {
    let mut given: Vec<&str> = disks.iter().filter_map(|disk| disk.serial.as_deref()).collect();
    given.extend(TAKEN);
    given.sort_unstable();
    if let Some([twice, ..]) = given.windows(2).find(|pair| pair.first() == pair.last()) {
        return Err(ConfigError::Together(format!(
            "two disks would have the serial number {twice}; give one another with ,serial="
        )));
    }
    let names: Vec<String> = disks.iter().map(|disk| name(&disk.path, volumes)).collect();
    let given: Vec<String> = given.into_iter().map(str::to_owned).collect();
    for (disk, own) in disks.iter_mut().zip(&names).filter(|(disk, _)| disk.serial.is_none()) {
        let shared = names.iter().filter(|name| *name == own).count() > 1 || given.contains(own);
        let fits = !own.is_empty() && own.len() <= LONGEST && !shared;
        disk.serial = Some(if fits { own.clone() } else { digested(own, &disk.path) });
    }
    Ok(())
}

/// What a path comes to.
fn name(path: &Path, volumes: &Path) -> String {
    let within = path.strip_prefix(volumes).ok();
    let named = within.map(Path::as_os_str).or(path.file_name()).unwrap_or_default();
    let named = Path::new(named).with_extension("");
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '.' { c } else { '-' };
    named.to_string_lossy().chars().map(plain).collect()
}

/// The beginning of the name, and of the path's digest.
fn digested(name: &str, path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = name.get(..LONGEST - DIGITS - 1).unwrap_or(name);
    let digits = digits.get(..DIGITS).unwrap_or(&digits);
    if name.is_empty() { digits.to_owned() } else { format!("{name}-{digits}") }
}

#[cfg(test)]
mod tests {
    use super::super::value::Format;
    use super::*;

    fn serials(disks: &[(&str, Option<&str>)]) -> Result<Vec<String>, String> {
        let disk = |(path, serial): &(&str, Option<&str>)| Disk {
            serial: serial.map(str::to_owned),
            ..Disk::new(path.into(), Format::Raw)
        };
        let mut disks: Vec<Disk> = disks.iter().map(disk).collect();
        assign(&mut disks, Path::new("/volumes")).map_err(|error| error.to_string())?;
        Ok(disks.into_iter().filter_map(|disk| disk.serial).collect())
    }

    #[test]
    fn they_follow_from_the_path() {
        let got = serials(&[
            ("/volumes/data.img", None),
            ("/volumes/db/log.img", None),
            ("/dev/vm/disk0", None),
            ("/home/me/My Disk.qcow2", None),
            ("/x/given.img", Some("mine")),
        ]);
        assert_eq!(got.unwrap(), ["data", "db-log", "disk0", "My-Disk", "mine"]);
    }

    #[test]
    fn what_is_long_or_shared_is_told_apart() {
        let disks = [
            ("/volumes/a/very/long/way/down.img", None),
            ("/a/data.img", None),
            ("/b/data.qcow2", None),
            ("/c/root.img", None),
            ("/d/mine.img", None),
            ("/e/e.img", Some("mine")),
        ];
        let got = serials(&disks).unwrap();
        assert!(got.iter().all(|serial| serial.len() <= LONGEST), "{got:?}");
        for (serial, start) in got.iter().zip(["a-very-long-", "data-", "data-", "root-", "mine-"])
        {
            assert!(serial.starts_with(start) && serial.len() == start.len() + DIGITS, "{got:?}");
        }
        assert_ne!(got[1], got[2]);
        // Whether others are there does not matter to a long one.
        assert_eq!(serials(&disks[..1]).unwrap(), got[..1]);
    }

    #[test]
    fn one_given_twice_is_a_mistake() {
        for disks in [[("/a", Some("x")), ("/b", Some("x"))], [("/a", Some("root")), ("/b", None)]]
        {
            assert!(serials(&disks).unwrap_err().starts_with("two disks would have the serial"));
        }
    }
}

//! A further disk, as `--disk` describes it.

use std::path::PathBuf;

use vmm::config::{DiskEngine, DiskLimits};

use super::value::{Format, Wrong, bytes_per_second, engine, format, iops, number, wrong};

/// A further disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A file or a block device.
    pub path: PathBuf,
    /// Its format: stated, never read from bytes the guest can write.
    pub format: Format,
    /// The guest cannot write it.
    pub read_only: bool,
    /// Serial number, 1 to 20 printable ASCII characters; `None` until the plan gives it one.
    pub serial: Option<String>,
    /// Number of queues; 0: as many as vCPUs, at most 4.
    pub queues: u16,
    /// What moves its data.
    pub engine: DiskEngine,
    /// Requests per second, 0: any number; `None`: as for all disks.
    pub iops: Option<u64>,
    /// Bytes per second, 0: any number; `None`: as for all disks.
    pub bytes_per_second: Option<u64>,
}

/// The most queues a disk can have.
pub const MAX_QUEUES: u64 = 16;

impl Disk {
    /// A disk with everything else at its default.
    pub fn new(path: PathBuf, format: Format) -> Self {
        Self {
            path,
            format,
            read_only: false,
            serial: None,
            queues: 0,
            engine: DiskEngine::Auto,
            iops: None,
            bytes_per_second: None,
        }
    }

    /// What it may do in a second.
    pub fn limits(&self) -> DiskLimits {
        DiskLimits {
            iops: self.iops.unwrap_or(0),
            bytes_per_second: self.bytes_per_second.unwrap_or(0),
        }
    }
}

/// `PATH[,format=raw|qcow2][,ro][,serial=S][,queues=N][,engine=E][,iops=N][,bps=SIZE]`.
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
            "iops" => disk.iops = Some(iops(value).map_err(within)?),
            "bps" => disk.bytes_per_second = Some(bytes_per_second(value).map_err(within)?),
            _ => {
                return wrong(
                    format!("has the unknown option `{part}`"),
                    "the options are format=raw|qcow2, ro, serial=S, queues=N, engine=E, iops=N \
                     and bps=SIZE",
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
    fn its_options() {
        let plain = disk("/a.img").unwrap();
        assert_eq!(plain, Disk::new("/a.img".into(), Format::Raw));
        assert_eq!(disk("b.qcow2").unwrap().format, Format::Qcow2);
        assert_eq!(disk("b.qcow2,format=raw").unwrap().format, Format::Raw);
        let full =
            disk("/a,format=qcow2,ro,serial=x-1,queues=2,engine=sync,iops=100,bps=10M").unwrap();
        let want = Disk {
            path: "/a".into(),
            format: Format::Qcow2,
            read_only: true,
            serial: Some("x-1".into()),
            queues: 2,
            engine: DiskEngine::Sync,
            iops: Some(100),
            bytes_per_second: Some(10 << 20),
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
            ("/a,iops=", "from 0 to 1000000000"),
            ("/a,bps=fast", "bps=fast, which is not a whole number"),
            ("/a,bps=1X", "an unknown unit"),
            ("/a,serial=", "not a serial number"),
            ("/a,serial=123456789012345678901", "not a serial number"),
        ] {
            let (problem, _) = disk(bad).unwrap_err();
            assert!(problem.contains(part), "{bad:?}: {problem}");
        }
    }
}

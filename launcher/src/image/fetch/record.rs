//! What is known of a base that was fetched: `<name>.base`, JSON, written before the base appears.
//!
//! While the base is the very file that was fetched, or has its content, no server is asked again:
//! neither for the image nor for its checksums.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::partial::Edition;
use crate::image::base::BaseRecord;
use crate::image::identity::write_atomically;

/// A file larger than this is not ours.
const MAX_BYTES: u64 = 64 << 10;
const VERSION: u32 = 1;

/// Where a base came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Record {
    version: u32,
    /// For people: the URL without user, password and query.
    pub source: String,
    /// Tells it from others; see [`super::url::Url::id`].
    pub source_id: String,
    /// Digests of what was transferred.
    pub source_digests: Vec<String>,
    /// The same of the list of checksums that the digest was taken from, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums_id: Option<String>,
    /// Which edition was transferred.
    pub edition: Edition,
    /// How it was compressed, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<String>,
    /// When, in seconds since 1970.
    pub fetched_at: u64,
    /// The base itself; its path is its name alone.
    pub base: BaseRecord,
}

impl Record {
    /// What is known of a base that has just been fetched.
    pub fn new(source: (String, String), edition: Edition, base: BaseRecord) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            version: VERSION,
            source: source.0,
            source_id: source.1,
            source_digests: Vec::new(),
            checksums_id: None,
            edition,
            packed: None,
            fetched_at: now.as_secs(),
            base,
        }
    }

    /// Where the record of the base at `base` is.
    pub fn path_of(base: &Path) -> PathBuf {
        let mut name = base.as_os_str().to_owned();
        name.push(".base");
        name.into()
    }

    /// Reads the record of the base at `base`; `None`: there is none, or none that can be read.
    ///
    /// # Errors
    /// Those of the system.
    pub fn load(base: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(Self::path_of(base)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Ok(None);
        }
        let record: Option<Self> = serde_json::from_slice(&bytes).ok();
        Ok(record.filter(|record| record.version == VERSION))
    }

    /// Writes the record of the base at `base`.
    ///
    /// # Errors
    /// Those of the system; an old record is unchanged then.
    pub fn save(&self, base: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        write_atomically(&Self::path_of(base), |file| writeln!(file, "{text}"))
    }

    /// Whether `file` is the very file that was fetched, as far as it can be seen from outside.
    ///
    /// # Errors
    /// Those of the system.
    pub fn is_of(&self, file: &File) -> io::Result<bool> {
        let meta = file.metadata()?;
        let was = (self.base.size, self.base.inode, self.base.mtime_ns);
        Ok(was == (meta.len(), meta.ino(), mtime_ns(&meta)))
    }
}

/// Modification time in nanoseconds since 1970.
pub fn mtime_ns(meta: &std::fs::Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.img");
        fs::write(&path, "abc").unwrap();
        let file = File::open(&path).unwrap();
        let meta = file.metadata().unwrap();
        let base = BaseRecord {
            path: "base.img".into(),
            size: 3,
            inode: meta.ino(),
            mtime_ns: mtime_ns(&meta),
            digest: None,
            format: "raw".into(),
        };
        assert_eq!(Record::load(&path).unwrap(), None);
        let source = ("http://h/base.img".to_owned(), "id".to_owned());
        let record = Record::new(source, Edition::default(), base);
        record.save(&path).unwrap();
        assert_eq!(Record::load(&path).unwrap(), Some(record.clone()));
        assert!(record.is_of(&file).unwrap());
        fs::write(&path, "abcd").unwrap();
        assert!(!record.is_of(&file).unwrap());
        for bad in ["", "{}", "[]"] {
            fs::write(Record::path_of(&path), bad).unwrap();
            assert_eq!(Record::load(&path).unwrap(), None);
        }
    }
}

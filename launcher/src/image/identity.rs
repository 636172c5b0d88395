//! The identity file, `<name>.id` beside the overlay: who the machine is, and what its disk is
//! based on. JSON, made once, kept, read strictly, replaced atomically.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::base::BaseRecord;
use super::generation::Generation;
use crate::config::{parse_mac, show_mac};

/// A file larger than this is not ours.
const MAX_BYTES: u64 = 64 << 10;
const VERSION: u32 = 1;

/// Who a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What cloud-init calls the instance, and SMBIOS the system.
    pub uuid: Uuid,
    /// MAC address of its first interface: locally administered.
    pub mac: [u8; 6],
    /// The base of its overlay.
    pub base: Option<BaseRecord>,
    /// The generation of its disk; `None`: it has not run yet.
    pub generation: Option<Generation>,
}

/// The identity file's contents.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    version: u32,
    instance_id: String,
    mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<BaseRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<Generation>,
}

/// What is wrong with an identity file.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read.
    #[error("the identity file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what Berth has written.
    #[error(
        "the identity file {} is damaged: {reason}; restore it, or remove it to give the machine \
         a new identity", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// It cannot be written.
    #[error("the identity file {} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Identity {
    /// A new identity.
    pub fn new() -> Self {
        let uuid = Uuid::new_v4();
        // The last six bytes of a version 4 UUID are random. Locally administered, unicast.
        let [.., a, b, c, d, e, f] = *uuid.as_bytes();
        Self { uuid, mac: [a & 0xfc | 0x02, b, c, d, e, f], base: None, generation: None }
    }

    /// Reads the identity file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`IdentityError::Read`] and [`IdentityError::Damaged`].
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let failed = |source| IdentityError::Read { path: path.to_owned(), source };
        let damaged = |reason: String| IdentityError::Damaged { path: path.to_owned(), reason };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(damaged(format!("it is larger than {MAX_BYTES} bytes")));
        }
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if document.version != VERSION {
            let reason = format!("its version is {}, and this is for {VERSION}", document.version);
            return Err(damaged(reason));
        }
        let uuid = Uuid::parse_str(&document.instance_id)
            .map_err(|_| damaged(format!("instance-id `{}` is no UUID", document.instance_id)))?;
        let mac = parse_mac(&document.mac)
            .map_err(|(problem, _)| damaged(format!("mac `{}` {problem}", document.mac)))?;
        let Document { base, generation, .. } = document;
        Ok(Some(Self { uuid, mac, base, generation }))
    }

    /// Writes the identity file.
    ///
    /// # Errors
    /// [`IdentityError::Write`]; an old file is unchanged then.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let document = Document {
            version: VERSION,
            instance_id: self.uuid.to_string(),
            mac: show_mac(self.mac),
            base: self.base.clone(),
            generation: self.generation.clone(),
        };
        let failed = |source| IdentityError::Write { path: path.to_owned(), source };
        let text = serde_json::to_string_pretty(&document).map_err(|error| failed(error.into()))?;
        write_atomically(path, |file| writeln!(file, "{text}")).map_err(failed)
    }
}

/// Makes a file appear at `path` whole or not at all, and durably: written under another name,
/// synced, renamed, its directory synced. One writer at a time: the caller holds the directory's
/// lock.
///
/// # Errors
/// Those of `write` and of the system; nothing half-written is left behind then.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let dir = path.parent().ok_or(ErrorKind::InvalidInput)?;
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(ErrorKind::InvalidInput)?);
    name.push(".new");
    let temporary = dir.join(name);
    // What an earlier run left when it was killed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let result = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&temporary)
        .and_then(|mut file| write(&mut file).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(dir)?.sync_all());
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::generation::{Seen, Wish};
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pet.id");
        assert_eq!(Identity::load(&path).unwrap(), None);
        let mut identity = Identity::new();
        identity.save(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap().as_ref(), Some(&identity));
        identity.base = Some(BaseRecord {
            path: "/base.qcow2".into(),
            size: 5,
            inode: 6,
            mtime_ns: -7,
            digest: Some(format!("sha256:{}", "00".repeat(32))),
            format: "raw".into(),
        });
        identity.generation = Some(Generation::next(None, Wish::Auto, Seen::of(&path).ok()));
        identity.save(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap(), Some(identity));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn identities_differ_and_macs_are_local() {
        let (a, b) = (Identity::new(), Identity::new());
        assert_ne!(a.uuid, b.uuid);
        assert_ne!(a.mac, b.mac);
        assert!((0..100).all(|_| Identity::new().mac[0] & 3 == 2));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pet.id");
        Identity::new().save(&path).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (bad, part) in [
            (String::new(), "EOF"),
            ("[]".into(), "damaged"),
            (good.replace("\"version\": 1", "\"version\": 2"), "version is 2"),
            (good.replace("\"mac\"", "\"mack\""), "mack"),
            (good.replace("instance-id\": \"", "instance-id\": \"x"), "is no UUID"),
            (good.replace("mac\": \"", "mac\": \"x"), "is not a MAC address"),
            (" ".repeat(MAX_BYTES as usize + 1), "larger than"),
        ] {
            fs::write(&path, &bad).unwrap();
            let error = Identity::load(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{bad:.40?}: {error}");
            assert!(error.contains("pet.id"), "{error}");
        }
        assert!(Identity::load(dir.path()).is_err());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        // Left by a run that was killed.
        fs::write(dir.path().join(".file.new"), "half").unwrap();
        let failed = write_atomically(&path, |file| {
            file.write_all(b"new")?;
            Err(io::Error::other("no"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_atomically(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}

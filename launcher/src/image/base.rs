//! The base: a local image that is only ever read, and how it is recognised at the next start.
//!
//! A base is the same if its size, inode and modification time are. If only the latter two have
//! changed, its digest decides, where one was recorded: when one was asked for, or the file is so
//! small that it costs nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Sha256, Sha512};

use super::fetch::Record;
use crate::config::{Digest, parse_digest};
use crate::units;

/// Up to this size a digest is computed unasked; in bytes.
const CHEAP: u64 = 64 << 20;

/// What is recorded of a base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BaseRecord {
    /// Where it was; for messages.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Its inode number. Device numbers change from node to node, and are not recorded.
    pub inode: u64,
    /// Modification time, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Its digest, with its kind before a colon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Its format, so that it is looked for in its bytes only once.
    pub format: String,
}

impl BaseRecord {
    /// How it is told in messages.
    pub fn show(&self) -> String {
        let time = self.mtime_ns.div_euclid(1_000_000_000);
        let digest = self.digest.as_deref().map(|d| format!(", {d}")).unwrap_or_default();
        format!("{} bytes, inode {}, modified at {time} s{digest}", self.size, self.inode)
    }
}

/// An open base.
#[derive(Debug)]
pub struct Base {
    /// Open for reading.
    pub file: File,
    /// As the user named it.
    pub named: PathBuf,
    /// Its real path.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub size: u64,
    /// Its digest, where it was recorded when the base was fetched, and nobody has touched it since.
    attested: Option<String>,
}

/// Whether somebody has asked for the end of long work.
pub type Cancelled<'a> = &'a dyn Fn() -> bool;

/// What is wrong with a base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// It cannot be opened or read.
    #[error("the image {} cannot be read", path.display())]
    Read {
        /// The base.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("the image {} is neither a file nor a block device; name a qcow2 or raw image", .0.display())]
    Kind(PathBuf),
    /// Not what `--image-sha256` asks for.
    #[error(
        "the image {} is not the one asked for: it has {found}, and {wanted} was asked for; fetch \
         it again, or correct --image-sha256", path.display()
    )]
    Digest {
        /// The base.
        path: PathBuf,
        /// Its digest.
        found: String,
        /// The one it should have.
        wanted: String,
    },
    /// Not what the overlay was made on.
    #[error(
        "the base {} has changed since {overlay} was made on it: it was {was}, and is {is}; \
         restore it, or remove {overlay} to start from the new base with an empty disk",
        path.display()
    )]
    Changed {
        /// The base.
        path: PathBuf,
        /// The overlay's path.
        overlay: String,
        /// As it was recorded.
        was: String,
        /// As it is.
        is: String,
    },
}

impl Base {
    /// Opens the base for reading.
    ///
    /// # Errors
    /// [`BaseError::Read`] and [`BaseError::Kind`].
    pub fn open(named: &Path) -> Result<Self, BaseError> {
        let failed = |source| BaseError::Read { path: named.to_owned(), source };
        let kind = named.metadata().map_err(failed)?.file_type();
        // Looked at before it is opened: to open a FIFO would wait for its writer.
        if !kind.is_file() && !kind.is_block_device() {
            return Err(BaseError::Kind(named.to_owned()));
        }
        let path = named.canonicalize().map_err(failed)?;
        let file = File::open(&path).map_err(failed)?;
        let size = match kind.is_file() {
            true => file.metadata().map_err(failed)?.len(),
            false => io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(failed)?,
        };
        let record = Record::load(&path).ok().flatten();
        let record = record.filter(|record| record.is_of(&file).unwrap_or(false));
        let attested = record.and_then(|record| record.base.digest);
        Ok(Self { file, named: named.to_owned(), path, size, attested })
    }

    /// Whether `other` is the same file.
    ///
    /// # Errors
    /// One of them cannot be looked at.
    pub fn is(&self, other: &File) -> io::Result<bool> {
        let (a, b) = (self.file.metadata()?, other.metadata()?);
        Ok((a.dev(), a.ino(), a.rdev()) == (b.dev(), b.ino(), b.rdev()))
    }

    /// Checks the base against what was `asked` for and what was `recorded` when `overlay` was made
    /// on it; answers what to record. Reads the whole base at worst, until `cancelled`.
    ///
    /// # Errors
    /// [`BaseError::Digest`], [`BaseError::Changed`], [`BaseError::Read`].
    pub fn verify(
        &self,
        asked: Option<&Digest>,
        recorded: Option<&BaseRecord>,
        format: &str,
        overlay: &Path,
        cancelled: Cancelled<'_>,
    ) -> Result<BaseRecord, BaseError> {
        let failed = |source| BaseError::Read { path: self.named.clone(), source };
        let meta = self.file.metadata().map_err(failed)?;
        let mut now = BaseRecord {
            path: self.path.display().to_string(),
            size: self.size,
            inode: meta.ino(),
            mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
            digest: None,
            format: format.to_owned(),
        };
        let untouched = |was: &BaseRecord| {
            (was.size, was.inode, was.mtime_ns) == (now.size, now.inode, now.mtime_ns)
        };
        let known = recorded.filter(|was| untouched(was)).and_then(|was| was.digest.clone());
        let known = known.or_else(|| self.attested.clone());
        let of_record = recorded.and_then(|was| parse_digest(was.digest.as_deref()?).ok());
        let kind = asked.or(of_record.as_ref());
        let is_known = |kind: &Digest, known: &str| {
            parse_digest(known)
                .is_ok_and(|known| std::mem::discriminant(&known) == std::mem::discriminant(kind))
        };
        now.digest = match (known, kind) {
            (Some(known), Some(kind)) if is_known(kind, &known) => Some(known),
            (_, Some(kind)) => Some(self.digest(kind, cancelled).map_err(failed)?.to_string()),
            (known, None) if known.is_some() => known,
            (_, None) if recorded.is_none() && self.size <= CHEAP => {
                Some(self.digest(&Digest::Sha256([0; 32]), cancelled).map_err(failed)?.to_string())
            }
            (_, None) => None,
        };
        if let (Some(asked), Some(found)) = (asked, &now.digest)
            && asked.to_string() != *found
        {
            return Err(BaseError::Digest {
                path: self.named.clone(),
                found: found.clone(),
                wanted: asked.to_string(),
            });
        }
        let Some(was) = recorded else { return Ok(now) };
        let same_digest = now.digest.is_some() && now.digest == was.digest;
        let same = untouched(was)
            || was.size == now.size && same_digest
            || self.has_content_of(was, cancelled).map_err(failed)?;
        if same {
            return Ok(now);
        }
        Err(BaseError::Changed {
            path: self.named.clone(),
            overlay: overlay.display().to_string(),
            was: was.show(),
            is: now.show(),
        })
    }

    /// Whether the content is the recorded one, as far as a digest was recorded.
    fn has_content_of(&self, was: &BaseRecord, cancelled: Cancelled<'_>) -> io::Result<bool> {
        let recorded = was.digest.as_deref().and_then(|text| parse_digest(text).ok());
        let Some(recorded) = recorded.filter(|_| was.size == self.size) else { return Ok(false) };
        Ok(self.digest(&recorded, cancelled)? == recorded)
    }

    /// The digest of the content, of the same kind as `kind`.
    fn digest(&self, kind: &Digest, cancelled: Cancelled<'_>) -> io::Result<Digest> {
        if self.size > CHEAP {
            let size = units::show(self.size & !0xf_ffff);
            log::info!("computing the digest of {} ({size})", self.named.display());
        }
        digest_of(&self.file, kind, cancelled)
    }
}

/// The digest of a file's content, of the same kind as `kind`, unless it is `cancelled`.
///
/// # Errors
/// Those of the system, and one that says that it was cancelled.
pub fn digest_of(file: &File, kind: &Digest, cancelled: Cancelled<'_>) -> io::Result<Digest> {
    match kind {
        Digest::Sha256(_) => hash::<Sha256>(file, cancelled).map(|h| Digest::Sha256(h.into())),
        Digest::Sha512(_) => hash::<Sha512>(file, cancelled).map(|h| Digest::Sha512(h.into())),
    }
}

fn hash<H: sha2::Digest>(
    file: &File,
    cancelled: Cancelled<'_>,
) -> io::Result<sha2::digest::Output<H>> {
    let mut file = file;
    io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
    let mut hasher = H::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        if cancelled() {
            return Err(io::Error::other("stopped by a signal"));
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(count) => hasher.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, SystemTime};

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let place = Self { dir: tempfile::tempdir().unwrap() };
            place.write("abc", 1000);
            place
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("base")
        }

        fn write(&self, text: &str, seconds: u64) {
            fs::write(self.path(), text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            File::options().write(true).open(self.path()).unwrap().set_modified(time).unwrap();
        }

        fn verify(
            &self,
            asked: Option<&str>,
            recorded: Option<&BaseRecord>,
        ) -> Result<BaseRecord, BaseError> {
            let asked = asked.map(|text| parse_digest(text).unwrap());
            let base = Base::open(&self.path()).unwrap();
            base.verify(asked.as_ref(), recorded, "raw", Path::new("pet.qcow2"), &|| false)
        }
    }

    #[test]
    fn a_small_base_is_digested_unasked() {
        let place = Place::new();
        let record = place.verify(None, None).unwrap();
        assert_eq!(record.digest.as_deref(), Some(ABC));
        assert_eq!((record.size, record.mtime_ns), (3, 1_000_000_000_000));
        assert_eq!(place.verify(None, Some(&record)).unwrap(), record);
    }

    #[test]
    fn the_asked_digest_decides() {
        let place = Place::new();
        assert!(place.verify(Some(ABC), None).is_ok());
        let other = format!("sha256:{}", "0".repeat(64));
        let error = place.verify(Some(&other), None).unwrap_err().to_string();
        assert!(error.contains(&format!("it has {ABC}, and {other} was asked for")), "{error}");
        // Another kind of digest than the recorded one is computed, not compared with it.
        let record = place.verify(None, None).unwrap();
        let long = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                    2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        let asked = place.verify(Some(long), Some(&record)).unwrap();
        assert_eq!(asked.digest.as_deref(), Some(long));
        assert!(place.verify(Some(&other), Some(&record)).is_err());
    }

    #[test]
    fn a_changed_base_is_refused_with_both_identities() {
        let place = Place::new();
        let record = place.verify(None, None).unwrap();
        for (text, seconds) in [("abcd", 1000), ("abd", 2000)] {
            place.write(text, seconds);
            let error = place.verify(None, Some(&record)).unwrap_err().to_string();
            assert!(error.contains(&format!("it was 3 bytes, inode {}", record.inode)), "{error}");
            assert!(error.contains(&format!("and is {} bytes", text.len())), "{error}");
            assert!(error.contains("remove pet.qcow2"), "{error}");
        }
    }

    #[test]
    fn the_same_content_elsewhere_is_the_same_base() {
        let place = Place::new();
        let record = place.verify(None, None).unwrap();
        fs::remove_file(place.path()).unwrap();
        fs::write(place.dir.path().join("takes the inode"), "").unwrap();
        place.write("abc", 3000);
        let now = place.verify(None, Some(&record)).unwrap();
        assert_eq!(now.digest, record.digest);
        assert_ne!(now.mtime_ns, record.mtime_ns);
        // Without a recorded digest nobody can know.
        let without = BaseRecord { digest: None, ..record };
        assert!(matches!(place.verify(None, Some(&without)), Err(BaseError::Changed { .. })));
    }

    #[test]
    fn a_fetched_base_is_not_digested_again() {
        use crate::image::fetch::Record;
        let place = Place::new();
        let of_base = place.verify(None, None).unwrap();
        let source = ("http://h/base".to_owned(), "id".to_owned());
        // A digest that it has not, to see whether it is computed.
        let told = format!("sha256:{}", "1".repeat(64));
        let of_base = BaseRecord { digest: Some(told.clone()), ..of_base };
        Record::new(source, Default::default(), of_base).save(&place.path()).unwrap();
        assert_eq!(place.verify(None, None).unwrap().digest.as_deref(), Some(told.as_str()));
        // Once it is touched, nobody is believed.
        place.write("abc", 2000);
        assert_eq!(place.verify(None, None).unwrap().digest.as_deref(), Some(ABC));
    }

    #[test]
    fn a_digest_can_be_cut_short() {
        let place = Place::new();
        let base = Base::open(&place.path()).unwrap();
        let error = base.verify(None, None, "raw", Path::new("x"), &|| true).unwrap_err();
        let BaseError::Read { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.to_string(), "stopped by a signal");
    }

    #[test]
    fn only_files_and_devices_are_opened() {
        let place = Place::new();
        let fifo = place.dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(Base::open(&fifo), Err(BaseError::Kind(_))));
        assert!(matches!(Base::open(place.dir.path()), Err(BaseError::Kind(_))));
        let none = place.dir.path().join("none");
        assert!(matches!(Base::open(&none), Err(BaseError::Read { .. })));
    }
}

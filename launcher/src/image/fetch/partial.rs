//! What is half there: `.<name>.part`, and beside it `.<name>.part.json`, which says what it is a
//! part of, and how much of it is durable.
//!
//! Only bytes that were synced before the state file said so are gone on from, so that neither
//! kill -9 nor a power cut can leave a hole in the middle of an image. Blocks of zeros are left out
//! of the file: it is new, so they read as zeros. One user at a time: the holder of the lock.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::url::Url;
use crate::image::identity::write_atomically;

/// A state file larger than this is not ours.
const MAX_STATE: u64 = 64 << 10;
const VERSION: u32 = 1;
/// So much is fetched between two syncs, in bytes.
const SYNC_EVERY: u64 = 64 << 20;

/// Which version of a file a server has sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Edition {
    /// Its entity tag, strong or weak (RFC 9110 §8.8.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Its modification time, as the server writes it, if the answer was made later: one made in
    /// the same second says nothing (RFC 9110 §8.8.2.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// Length of the whole file in bytes, if the server has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

impl Edition {
    /// What `If-Range` compares (RFC 9110 §13.1.5): a strong entity tag; a time only where there
    /// is no tag at all.
    pub fn validator(&self) -> Option<&str> {
        match &self.etag {
            Some(etag) => Some(etag.as_str()).filter(|etag| etag.starts_with('"')),
            None => self.last_modified.as_deref(),
        }
    }

    /// Whether what the server says now may be of the same edition.
    pub fn agrees(&self, now: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        same(&self.etag, &now.etag)
            && same(&self.last_modified, &now.last_modified)
            && (self.total.is_none() || self.total == now.total)
    }
}

/// The state file's contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct State {
    version: u32,
    /// For people.
    source: String,
    /// See [`Url::id`].
    source_id: String,
    edition: Edition,
    /// So many bytes are durable.
    synced: u64,
    /// They are all.
    complete: bool,
}

/// A file that is being fetched.
pub struct Partial {
    /// Open for reading and writing.
    pub file: File,
    path: PathBuf,
    state_path: PathBuf,
    state: State,
    /// Bytes received, durable or not.
    len: u64,
    /// The most there has ever been of it, in this run.
    high: u64,
}

impl Partial {
    /// The path of what is half there of the base `name`.
    pub fn path_of(dir: &Path, name: &str) -> PathBuf {
        dir.join(format!(".{name}.part"))
    }

    /// Opens what is there of `url`, or begins anew.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(dir: &Path, name: &str, url: &Url) -> io::Result<Self> {
        let path = Self::path_of(dir, name);
        let state_path = dir.join(format!(".{name}.part.json"));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        let begin = State {
            version: VERSION,
            source: url.to_string(),
            source_id: url.id(),
            edition: Edition::default(),
            synced: 0,
            complete: false,
        };
        let usable = |state: &State| {
            state.version == VERSION
                && state.source_id == begin.source_id
                && (state.complete || state.edition.validator().is_some())
        };
        let there = file.metadata()?.len();
        let state = read_state(&state_path)?.filter(usable);
        let state = state.filter(|state| state.synced <= there).unwrap_or(begin);
        let len = state.synced;
        // What came after the last sync may be anything.
        file.set_len(len)?;
        Ok(Self { file, path, state_path, state, len, high: len })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The most bytes there have been: what tells progress from going round in circles.
    pub fn high(&self) -> u64 {
        self.high
    }

    /// What it is a part of.
    pub fn edition(&self) -> &Edition {
        &self.state.edition
    }

    /// Whether it is whole.
    pub fn is_complete(&self) -> bool {
        self.state.complete
    }

    /// Forgets everything; `edition` comes next.
    ///
    /// # Errors
    /// Those of the system.
    pub fn restart(&mut self, edition: Edition) -> io::Result<()> {
        self.state.edition = edition;
        self.state.synced = 0;
        self.state.complete = false;
        // In this order: a state must never promise more than is there.
        self.save()?;
        self.file.set_len(0)?;
        self.len = 0;
        Ok(())
    }

    /// Adds `data` at the end.
    ///
    /// # Errors
    /// Those of the system; then nothing of `data` counts as there.
    pub fn append(&mut self, data: &[u8]) -> io::Result<()> {
        if data.iter().any(|byte| *byte != 0) {
            self.file.write_all_at(data, self.len)?;
        }
        self.len = self.len.saturating_add(data.len() as u64);
        self.high = self.high.max(self.len);
        if self.len.saturating_sub(self.state.synced) >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes what is there durable, and says so.
    ///
    /// # Errors
    /// Those of the system.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.sync_all()?;
        self.state.synced = self.len;
        self.save()
    }

    /// It is whole.
    ///
    /// # Errors
    /// Those of the system.
    pub fn complete(&mut self) -> io::Result<()> {
        self.state.complete = true;
        self.state.edition.total = Some(self.len);
        self.sync()
    }

    /// Removes it.
    pub fn remove(self) {
        self.forget();
        remove(&self.path);
    }

    /// Removes the state file alone: the part has become something else.
    pub fn forget(&self) {
        remove(&self.state_path);
    }

    fn save(&self) -> io::Result<()> {
        let text = serde_json::to_string_pretty(&self.state)?;
        write_atomically(&self.state_path, |file| io::Write::write_all(file, text.as_bytes()))
    }
}

/// Removes a file that nobody needs; what is left of it does no harm.
pub fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        log::warn!("{} is left behind: {error}", path.display());
    }
}

/// The state; `None` if there is none, or none of ours.
fn read_state(path: &Path) -> io::Result<Option<State>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_STATE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_STATE {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Url {
        Url::parse("http://h/base").unwrap()
    }

    fn strong() -> Edition {
        Edition { etag: Some("\"1\"".into()), last_modified: None, total: Some(10) }
    }

    #[test]
    fn only_what_is_durable_is_gone_on_from() {
        let dir = tempfile::tempdir().unwrap();
        let mut partial = Partial::open(dir.path(), "base", &url()).unwrap();
        partial.restart(strong()).unwrap();
        partial.append(b"abc").unwrap();
        partial.sync().unwrap();
        partial.append(b"def").unwrap();
        // Killed here.
        let again = Partial::open(dir.path(), "base", &url()).unwrap();
        assert_eq!((again.len(), again.edition()), (3, &strong()));
        assert_eq!(fs::read(again.path()).unwrap(), b"abc");
        // Of another URL.
        let other = Url::parse("http://h/other").unwrap();
        assert_eq!(Partial::open(dir.path(), "base", &other).unwrap().len(), 0);
    }

    #[test]
    fn zeros_take_no_space_but_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut partial = Partial::open(dir.path(), "base", &url()).unwrap();
        partial.restart(strong()).unwrap();
        partial.append(b"a").unwrap();
        partial.append(&[0; 3]).unwrap();
        partial.sync().unwrap();
        assert_eq!(fs::read(partial.path()).unwrap(), b"a\0\0\0");
        partial.append(&[0; 2]).unwrap();
        partial.append(b"b").unwrap();
        partial.complete().unwrap();
        assert_eq!(fs::read(partial.path()).unwrap(), b"a\0\0\0\0\0b");
        let again = Partial::open(dir.path(), "base", &url()).unwrap();
        assert!(again.is_complete() && again.edition().total == Some(7));
        again.remove();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_state_that_cannot_be_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join(".base.part.json");
        for bad in ["", "{}", "[1]", "\u{0}"] {
            fs::write(Partial::path_of(dir.path(), "base"), "abc").unwrap();
            fs::write(&state, bad).unwrap();
            assert_eq!(Partial::open(dir.path(), "base", &url()).unwrap().len(), 0);
        }
        // It promises more than there is: the part was cut by somebody else.
        let mut partial = Partial::open(dir.path(), "base", &url()).unwrap();
        partial.restart(strong()).unwrap();
        partial.append(b"abc").unwrap();
        partial.sync().unwrap();
        fs::write(partial.path(), "ab").unwrap();
        assert_eq!(Partial::open(dir.path(), "base", &url()).unwrap().len(), 0);
    }

    #[test]
    fn validators() {
        let edition = |etag: Option<&str>, time: Option<&str>| Edition {
            etag: etag.map(str::to_owned),
            last_modified: time.map(str::to_owned),
            total: Some(5),
        };
        assert_eq!(edition(Some("\"a\""), Some("t")).validator(), Some("\"a\""));
        assert_eq!(edition(Some("W/\"a\""), Some("t")).validator(), None);
        assert_eq!(edition(None, Some("t")).validator(), Some("t"));
        assert_eq!(Edition::default().validator(), None);
        let was = edition(Some("\"a\""), Some("t"));
        assert!(was.agrees(&was) && was.agrees(&edition(None, None)));
        assert!(!was.agrees(&edition(Some("\"b\""), Some("t"))));
        assert!(!was.agrees(&Edition { total: Some(6), ..was.clone() }));
        assert!(!was.agrees(&Edition { total: None, ..was.clone() }));
    }
}

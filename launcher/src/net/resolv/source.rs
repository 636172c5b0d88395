//! The files that name servers come from.
//!
//! A change is seen by a file's metadata, when somebody asks: nothing wakes up for it. Runs in
//! whichever thread asks.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ResolvConf;

/// What is read of a file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What tells one content of a file from the next, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.size(),
        }
    }
}

#[derive(Debug)]
struct Candidate {
    path: PathBuf,
    stamp: Option<Stamp>,
    /// Its last content that could be read.
    conf: Option<ResolvConf>,
    complained: bool,
}

/// Where the configuration comes from: the first of several files that has a name server for the
/// VM, or else the first that can be read.
#[derive(Debug)]
pub struct ResolverSource {
    candidates: Vec<Candidate>,
    current: ResolvConf,
}

impl ResolverSource {
    /// A source that has not looked yet, and has nothing. A host with systemd's stub resolver has
    /// the real servers in `/run/systemd/resolve/resolv.conf`: give it second.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let candidate = |path| Candidate { path, stamp: None, conf: None, complained: false };
        Self {
            candidates: paths.into_iter().map(candidate).collect(),
            current: ResolvConf::default(),
        }
    }

    /// Looks at the files; the new content if it is another one. What cannot be read keeps the
    /// content it had.
    pub fn refresh(&mut self) -> Option<ResolvConf> {
        let mut read = false;
        for candidate in &mut self.candidates {
            read |= candidate.refresh();
        }
        if !read {
            return None;
        }
        let known = || {
            let known = |c: &Candidate| Some((c.path.clone(), c.conf.clone()?));
            self.candidates.iter().filter_map(known)
        };
        let found = known().find(|(_, conf)| !conf.servers.is_empty()).or_else(|| known().next());
        let (path, conf) = found?;
        if conf == self.current {
            return None;
        }
        conf.report(&path);
        self.current = conf.clone();
        Some(conf)
    }
}

impl Candidate {
    /// Whether it has been read anew.
    fn refresh(&mut self) -> bool {
        let stamp = fs::metadata(&self.path).ok().map(|metadata| Stamp::from(&metadata));
        if stamp == self.stamp {
            return false;
        }
        self.stamp = stamp;
        match read(&self.path) {
            Ok(text) => {
                self.conf = Some(ResolvConf::parse(&text));
                self.complained = false;
                true
            }
            Err(error) => {
                // Files are taken away and put back at every change; only a content that was used
                // is worth a word.
                if self.conf.is_some() && !self.complained {
                    self.complained = true;
                    let path = self.path.display();
                    log::warn!("{path} cannot be read ({error}); its last content stays in use");
                }
                false
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // To open a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    // What is cut in its middle may read as another address.
    if text.len() as u64 == MAX_FILE {
        let lines = text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
        text.truncate(lines);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::join;
    use super::*;

    /// The search list of what is new.
    fn search(source: &mut ResolverSource) -> String {
        join(&source.refresh().unwrap().search)
    }

    #[test]
    fn changes_are_seen_and_what_is_gone_stays_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let mut source = ResolverSource::new([path.clone()]);
        assert_eq!(source.refresh(), None);
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(join(&source.refresh().unwrap().servers), "10.0.0.1");
        assert_eq!(source.refresh(), None);

        // Kubernetes puts another file in its place.
        let other = dir.path().join("new");
        fs::write(&other, "nameserver 10.0.0.2\n").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(join(&source.refresh().unwrap().servers), "10.0.0.2");

        fs::remove_file(&path).unwrap();
        assert_eq!(source.refresh(), None);
        fs::create_dir(&path).unwrap();
        assert_eq!(source.refresh(), None);
        assert_eq!(join(&source.current.servers), "10.0.0.2");
        fs::remove_dir(&path).unwrap();

        // The same content in another file is no change; nothing at all is one.
        fs::write(&path, "nameserver 10.0.0.2\n# again\n").unwrap();
        assert_eq!(source.refresh(), None);
        fs::write(&path, "").unwrap();
        assert_eq!(source.refresh(), Some(ResolvConf::default()));
    }

    #[test]
    fn the_first_file_with_a_server_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (stub, real) = (dir.path().join("stub"), dir.path().join("real"));
        fs::write(&stub, "nameserver 127.0.0.53\nsearch stub.example\n").unwrap();
        let mut source = ResolverSource::new([stub.clone(), real.clone()]);
        assert_eq!(search(&mut source), "stub.example");
        fs::write(&real, "nameserver 10.0.0.3\nsearch real.example\n").unwrap();
        assert_eq!(search(&mut source), "real.example");
        fs::write(&stub, "nameserver 10.0.0.4\n").unwrap();
        assert_eq!(join(&source.refresh().unwrap().servers), "10.0.0.4");
        assert_eq!(source.refresh(), None);
    }
}

//! The config drive: a read-only volume that tells the guest who it is.
//!
//! OpenStack's layout, as cloud-init's ConfigDrive datasource and CirrOS read it: label
//! `config-2`, and below `openstack` one directory for each version of the format. Readers differ
//! in which they take: cloud-init the newest dated one it knows, others `latest`. All hold the
//! same four files, so every reader sees all of them.

pub mod disk;
pub mod documents;
pub mod iso9660;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use documents::{DocumentError, GuestFacts};
use iso9660::{IsoError, Node};

use crate::config::CloudFiles;

/// The label both readers look for.
const LABEL: &str = "config-2";
const VERSIONS: [&str; 2] = ["latest", "2012-08-10"];
/// Most bytes of each file.
const MAX_FILE: u64 = 16 << 20;

/// Why there is no config drive.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}; name a file that this user can read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file is too large.
    #[error("{} is larger than 16 MiB, the most a config drive takes; shorten it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{} {problem}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: DocumentError,
    },
    /// The volume cannot be made.
    #[error("the config drive cannot be made")]
    Iso(#[from] IsoError),
}

/// The user's files, read.
#[derive(Debug, Default)]
pub struct Sources {
    metadata: Option<Source>,
    userdata: Option<Source>,
    networkdata: Option<Source>,
    vendordata: Option<Source>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Source {
    fn wrong(&self) -> impl FnOnce(DocumentError) -> DriveError + use<> {
        let path = self.path.clone();
        |problem| DriveError::Document { path, problem }
    }
}

/// Reads the files.
///
/// # Errors
/// [`DriveError::Unreadable`] and [`DriveError::TooLarge`].
pub fn read(files: &CloudFiles) -> Result<Sources, DriveError> {
    let read = |path: &Option<PathBuf>| path.as_deref().map(read_one).transpose();
    Ok(Sources {
        metadata: read(&files.metadata)?,
        userdata: read(&files.userdata)?,
        networkdata: read(&files.networkdata)?,
        vendordata: read(&files.vendordata)?,
    })
}

fn read_one(path: &Path) -> Result<Source, DriveError> {
    let unreadable = |error: std::io::Error| DriveError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(DriveError::TooLarge { path: path.to_owned() });
    }
    Ok(Source { path: path.to_owned(), bytes })
}

/// The drive's bytes: an ISO 9660 volume.
///
/// # Errors
/// [`DriveError::Document`] for a file with a mistake in it.
pub fn build(sources: &Sources, facts: &GuestFacts) -> Result<Vec<u8>, DriveError> {
    let mut files = BTreeMap::new();
    let metadata = sources.metadata.as_ref();
    let meta = documents::meta_data(metadata.map(|source| source.bytes.as_slice()), facts);
    let meta = match (meta, metadata) {
        (Ok(meta), _) => meta,
        (Err(problem), source) => {
            let path = source.map_or_else(PathBuf::new, |source| source.path.clone());
            return Err(DriveError::Document { path, problem });
        }
    };
    files.insert("meta_data.json".to_owned(), Node::File(meta));
    if let Some(source) = &sources.userdata {
        files.insert("user_data".to_owned(), Node::File(source.bytes.clone()));
    }
    if let Some(source) = &sources.networkdata {
        let bytes = documents::network_data(&source.bytes, facts).map_err(source.wrong())?;
        files.insert("network_data.json".to_owned(), Node::File(bytes));
    }
    if let Some(source) = &sources.vendordata {
        let bytes = documents::vendor_data(&source.bytes).map_err(source.wrong())?;
        files.insert("vendor_data.json".to_owned(), Node::File(bytes));
    }
    let version = Node::Directory(files);
    let versions = VERSIONS.into_iter().map(|name| (name.to_owned(), version.clone())).collect();
    let root = BTreeMap::from([("openstack".to_owned(), Node::Directory(versions))]);
    Ok(iso9660::image(LABEL, &root)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> GuestFacts {
        GuestFacts { uuid: "u".into(), name: "pet".into(), mac: None }
    }

    fn contains(image: &[u8], bytes: &[u8]) -> usize {
        image.windows(bytes.len()).filter(|window| *window == bytes).count()
    }

    #[test]
    fn a_drive_without_files_still_says_who_it_is() {
        let image = build(&Sources::default(), &facts()).unwrap();
        let meta = documents::meta_data(None, &facts()).unwrap();
        assert_eq!(contains(&image, &meta), 1, "both versions share one copy");
        // A Rock Ridge name in each of the two versions, and no names of what is not there.
        assert_eq!(contains(&image, b"meta_data.json"), 2);
        assert_eq!(contains(&image, b"user_data"), 0);
        assert_eq!(contains(&image, b"network_data.json"), 0);
    }

    #[test]
    fn all_four_files_are_in_every_version() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            Some(path)
        };
        let user: Vec<u8> = (0..=255).cycle().take(3000).collect();
        let files = CloudFiles {
            metadata: file("m", b"hostname: a\n"),
            userdata: file("u", &user),
            networkdata: file("n", b"links: []\nnetworks: []\n"),
            vendordata: file("v", b"#cloud-config\n"),
        };
        let image = build(&read(&files).unwrap(), &facts()).unwrap();
        assert_eq!(contains(&image, &user), 1, "byte for byte");
        for name in ["meta_data.json", "user_data", "network_data.json", "vendor_data.json"] {
            assert_eq!(contains(&image, name.as_bytes()), 2, "{name}");
        }
    }

    #[test]
    fn mistakes_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let shown = path.display().to_string();
        let with = |bytes: &[u8], place: fn(&mut CloudFiles) -> &mut Option<PathBuf>| {
            std::fs::write(&path, bytes).unwrap();
            let mut files = CloudFiles::default();
            *place(&mut files) = Some(path.clone());
            let built = read(&files).and_then(|sources| build(&sources, &facts()));
            built.unwrap_err().to_string()
        };
        let error = with(b"- a", |files| &mut files.metadata);
        assert!(error.starts_with(&format!("{shown} holds a list")), "{error}");
        let error = with(b"version: 2", |files| &mut files.networkdata);
        assert!(error.starts_with(&format!("{shown} is a netplan")), "{error}");
        let error = with(b"\xff", |files| &mut files.vendordata);
        assert!(error.starts_with(&format!("{shown} is not UTF-8")), "{error}");
        let large = vec![b' '; MAX_FILE as usize + 1];
        let error = with(&large, |files| &mut files.userdata);
        assert!(error.starts_with(&format!("{shown} is larger than 16 MiB")), "{error}");
        let none = CloudFiles { userdata: Some(dir.path().join("none")), ..CloudFiles::default() };
        assert!(read(&none).unwrap_err().to_string().contains("none: No such file"));
    }
}

//! An image directory, the program that fetches into it, and images to be fetched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// An image directory.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// An empty one.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `berth image pull` into it, with few tries, about to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command
            .args(["image", "pull"])
            .args(args)
            .env_clear()
            .env("IMG_DIR", self.dir.path())
            .env("IMG_TIMEOUT", "30s")
            .env("IMG_TRIES", "3")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    /// Runs it; what it said if it failed.
    pub fn pull(&self, args: &[&str]) -> Result<String, String> {
        outcome(&self.command(args).output().unwrap())
    }

    /// Sees that the base `name` is whole, read-only and recorded, and that nothing is left beside
    /// it.
    pub fn has(&self, name: &str, content: &[u8]) {
        let base = self.path(name);
        assert!(fs::read(&base).unwrap() == content, "{name} is another");
        assert_eq!(fs::metadata(&base).unwrap().permissions().mode() & 0o7777, 0o444);
        let (record, lock) = (format!("{name}.base"), format!("{name}.lock"));
        assert_eq!(self.names(), [name, &record, &lock]);
    }

    /// Sees that there is nothing that could be taken for a base, and no part of one either.
    pub fn has_nothing(&self) {
        let mut names = self.names();
        names.retain(|name| !name.ends_with(".lock"));
        assert!(names.is_empty(), "{names:?}");
    }

    /// What is in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// What a program printed, or said when it failed.
pub fn outcome(output: &Output) -> Result<String, String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("bug in berth"), "{said}");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned() + "\n" + &said),
        false => Err(said),
    }
}

/// A raw image: `seed` makes it differ from others; parts of it are zeros.
pub fn image(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let zeros = bytes.len() / 65536 % 3 == 1;
        bytes.extend(if zeros { 0 } else { state }.to_le_bytes());
    }
    bytes.truncate(len);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// `sha256:HEX`, computed by somebody else.
pub fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let output = Command::new("sha256sum").arg(file.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    format!("sha256:{}", text.split(' ').next().unwrap())
}

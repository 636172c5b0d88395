//! The passwords of the screen, from a setting or a file that is read again for each attempt.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use subtle::{Choice, ConstantTimeEq};

/// Largest password file, in bytes.
const MAX_FILE: u64 = 4096;

/// A secret: it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// What it is.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Here.
    Given(Secret),
    /// The first line of this file.
    File(PathBuf),
}

impl Source {
    /// The password as it is now.
    ///
    /// # Errors
    /// The file cannot be read, or its first line is empty.
    pub fn read(&self) -> io::Result<Secret> {
        let path = match self {
            Source::Given(secret) => return Ok(secret.clone()),
            Source::File(path) => path,
        };
        if path.metadata()?.is_dir() {
            return Err(io::Error::other("it is a directory"));
        }
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Secret(line.to_owned())),
            _ => Err(io::Error::other("its first line is empty")),
        }
    }
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look, and use keyboard and pointer.
    Full,
    /// Look.
    View,
}

/// The two passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passwords {
    /// Of those who may do everything; `None`: no password is asked for.
    pub full: Option<Source>,
    /// Of those who may look.
    pub view: Option<Source>,
}

impl Passwords {
    /// Whether one is asked for.
    pub fn asked_for(&self) -> bool {
        self.full.is_some()
    }

    /// What a client may do by what it has answered; `proof` says what the answer would be, had it
    /// a given password. As long as every password is looked at, time tells nothing of them. A
    /// password that cannot be read lets nobody in.
    pub fn judge(&self, answer: &[u8], proof: impl Fn(&[u8]) -> Vec<u8>) -> Option<Access> {
        let of = |source: &Option<Source>| -> Choice {
            let Some(source) = source else { return Choice::from(0) };
            match source.read() {
                Ok(secret) => proof(secret.bytes()).as_slice().ct_eq(answer),
                Err(error) => {
                    log::error!("a password of the screen cannot be read: {error}");
                    Choice::from(0)
                }
            }
        };
        let (full, view) = (of(&self.full), of(&self.view));
        if full.into() {
            Some(Access::Full)
        } else if view.into() {
            Some(Access::View)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(secret: &[u8]) -> Vec<u8> {
        secret.to_vec()
    }

    #[test]
    fn each_password_opens_its_own_door() {
        let given = |text: &str| Some(Source::Given(Secret::new(text.to_owned())));
        let both = Passwords { full: given("full"), view: given("view") };
        assert_eq!(both.judge(b"full", plain), Some(Access::Full));
        assert_eq!(both.judge(b"view", plain), Some(Access::View));
        for wrong in [&b"ful"[..], b"full ", b"", b"Full"] {
            assert_eq!(both.judge(wrong, plain), None);
        }
        assert_eq!(Passwords::default().judge(b"", plain), None);
        assert!(!format!("{both:?}").contains("full\""), "{both:?}");
    }

    #[test]
    fn a_file_is_read_again_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let source = Source::File(path.clone());
        assert!(source.read().is_err());
        let passwords = Passwords { full: Some(source.clone()), view: None };
        assert_eq!(passwords.judge(b"", plain), None, "a file that is not there opens nothing");
        for (text, want) in [("one\n", "one"), ("two\r\nmore\n", "two"), ("three", "three")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(source.read().unwrap().bytes(), want.as_bytes());
            assert_eq!(passwords.judge(want.as_bytes(), plain), Some(Access::Full));
        }
        for bad in ["", "\n", "\nsecond\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(source.read().is_err(), "{bad:?}");
        }
        assert_eq!(passwords.judge(b"", plain), None);
    }
}

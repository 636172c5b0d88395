//! The three places a setting can come from, and which of them counts.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::ConfigError;
use crate::args::{self, DISK_ENV, Field, LISTEN_ENV, PUBLISH_ENV, Settings};

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag or the argument, as it is written.
    Flag(String),
    /// An environment variable.
    Environment(&'static str),
    /// A key in a file.
    File(&'static str, PathBuf),
    /// A fixed path that exists in this container.
    Found,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment(name) => f.write_str(name),
            Self::File(key, path) => write!(f, "`{key}` in {}", path.display()),
            Self::Found => f.write_str("found in this container"),
        }
    }
}

/// A value and where it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The text.
    pub value: String,
    /// Its place.
    pub origin: Origin,
}

impl Given {
    /// An error about this value. The sentence reads "ORIGIN: `VALUE` PROBLEM; FIX".
    pub fn error(&self, problem: impl fmt::Display, fix: impl fmt::Display) -> ConfigError {
        ConfigError::Value {
            origin: self.origin.clone(),
            value: self.value.clone(),
            problem: problem.to_string(),
            fix: fix.to_string(),
        }
    }
}

/// Flags over environment over file.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// From the command line.
    pub flags: Settings,
    /// From the environment.
    pub environment: Settings,
    /// From `--config`.
    pub file: Option<(PathBuf, Settings)>,
}

impl Layers {
    /// What was typed, what is in this process's environment, and what is in the file that either
    /// names.
    ///
    /// # Errors
    /// A variable of ours that is not text; a file that cannot be read, or is not what it should be.
    pub fn gather(config: Option<&Path>, flags: &Settings) -> Result<Self, ConfigError> {
        let (named, environment) = args::from_environment(|name| std::env::var_os(name))?;
        let file = match config.map(Path::to_owned).or(named) {
            Some(path) => {
                let settings = read_file(&path)?;
                Some((path, settings))
            }
            None => None,
        };
        Ok(Self { flags: flags.clone(), environment, file })
    }

    /// The value of `field` that counts. An empty value in the file counts as absent, like an
    /// empty variable; an empty flag is a value.
    pub fn get(&self, field: Field) -> Option<Given> {
        if let Some(value) = field.of(&self.flags) {
            return Some(Given { value, origin: Origin::Flag(field.flag()) });
        }
        if let Some(value) = field.of(&self.environment) {
            return Some(Given { value, origin: Origin::Environment(field.env) });
        }
        let (path, settings) = self.file.as_ref()?;
        let value = field.of(settings).filter(|value| !value.is_empty())?;
        Some(Given { value, origin: Origin::File(field.key, path.clone()) })
    }

    /// The `--disk` values of the highest layer that has any.
    pub fn disks(&self) -> Vec<Given> {
        self.list(|settings| &settings.disk, ("disk", DISK_ENV))
    }

    /// The `--publish` values of the highest layer that has any.
    pub fn publish(&self) -> Vec<Given> {
        self.list(|settings| &settings.publish, ("publish", PUBLISH_ENV))
    }

    /// The `--vnc-listen` values of the highest layer that has any.
    pub fn listen(&self) -> Vec<Given> {
        self.list(|settings| &settings.vnc_listen, ("vnc-listen", LISTEN_ENV))
    }

    fn list(
        &self,
        of: impl Fn(&Settings) -> &Vec<String>,
        (key, env): (&'static str, &'static str),
    ) -> Vec<Given> {
        let (values, origin) = if !of(&self.flags).is_empty() {
            (of(&self.flags), Origin::Flag(format!("--{key}")))
        } else if !of(&self.environment).is_empty() {
            (of(&self.environment), Origin::Environment(env))
        } else if let Some((path, settings)) = &self.file {
            (of(settings), Origin::File(key, path.clone()))
        } else {
            return Vec::new();
        };
        let given = |value: &String| Given { value: value.clone(), origin: origin.clone() };
        values.iter().map(given).collect()
    }
}

/// Reads the configuration file.
///
/// # Errors
/// [`ConfigError::Unreadable`] and [`ConfigError::File`].
fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable {
        origin: Origin::Flag("--config".to_owned()),
        path: path.to_owned(),
        reason,
    };
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(unreadable(format!("it is larger than {MAX_FILE} bytes")));
    }
    parse(&text).map_err(|reason| ConfigError::File { path: path.to_owned(), reason })
}

/// Parses the configuration file's text. An empty file sets nothing.
fn parse(text: &str) -> Result<Settings, String> {
    let empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(empty) {
        return Ok(Settings::default());
    }
    // A snippet would spread the sentence over several lines.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let told = error.without_snippet().to_string();
        // The list of all keys is what --help is for.
        let told = match (told.split_once(", expected one of"), told.rsplit_once(" at line ")) {
            (Some((what, _)), Some((_, place))) => format!("{what} at line {place}"),
            _ => told,
        };
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = error.location().map_or(0, |location| location.line());
        let source = usize::try_from(line).ok().and_then(|n| text.lines().nth(n.checked_sub(1)?));
        // A password is not for everybody who sees the message.
        let shown = |source: &&str| !source.is_empty() && !source.contains("password");
        match source.map(str::trim).filter(shown) {
            Some(source) => {
                let shown: String = source.chars().filter(|c| !c.is_control()).take(60).collect();
                format!("`{shown}`: {told}")
            }
            None => told,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{CPUS, IMAGE_SOURCE, MEMORY, STOP_TIMEOUT};

    #[test]
    fn scalars_are_taken_as_written() {
        let settings = parse(
            "# a machine\nimage: /image.qcow2\ncpus: 2\nmemory: 2G\nstop-timeout: 25s\n\
             name: \"0123\"\ndisk:\n  - /a.img,ro\n  - /b.img\nnet: none\n",
        )
        .unwrap();
        assert_eq!(CPUS.of(&settings).as_deref(), Some("2"));
        assert_eq!(MEMORY.of(&settings).as_deref(), Some("2G"));
        assert_eq!(settings.name.as_deref(), Some("0123"));
        assert_eq!(settings.disk, ["/a.img,ro", "/b.img"]);
        assert_eq!(settings.net.as_deref(), Some("none"));
        assert_eq!(parse("\n# nothing\n"), Ok(Settings::default()));
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_key() {
        for (text, part) in [
            ("memroy: 2G\n", "`memroy: 2G`: unknown field `memroy` at line 1"),
            ("cpus: 1\ncpus: 2\n", "cpus"),
            ("- a\n", ""),
            ("just text\n", ""),
            ("name: a\ncpus: [1, 2]\n", "`cpus: [1, 2]`: expected string"),
            ("disk: {a: b}\n", "`disk: {a: b}`: "),
            ("cpus: \"unended\n", ""),
            ("vnc-password: [hidden]\n", "expected string"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
            assert!(!error.contains('\n') && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn flag_over_environment_over_file() {
        let with = |value: &str| Settings {
            cpus: Some(value.into()),
            disk: vec![format!("/{value}.img")],
            ..Settings::default()
        };
        let path = PathBuf::from("/etc/berth.yaml");
        let mut layers = Layers {
            flags: with("1"),
            environment: with("2"),
            file: Some((path, Settings { stop_timeout: Some(String::new()), ..with("3") })),
        };
        let told = |layers: &Layers| {
            let given = layers.get(CPUS).unwrap();
            let disk = layers.disks().remove(0);
            (given.value, given.origin.to_string(), disk.origin.to_string())
        };
        assert_eq!(told(&layers), ("1".into(), "--cpus".into(), "--disk".into()));
        layers.flags = Settings::default();
        assert_eq!(told(&layers), ("2".into(), "IMG_VCPU".into(), "BERTH_DISK".into()));
        layers.environment = Settings::default();
        assert_eq!(
            told(&layers),
            ("3".into(), "`cpus` in /etc/berth.yaml".into(), "`disk` in /etc/berth.yaml".into())
        );
        assert_eq!(layers.get(STOP_TIMEOUT), None);
        assert_eq!(layers.get(IMAGE_SOURCE), None);
    }

    #[test]
    fn unreadable_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = read_file(&dir.path().join("none.yaml")).unwrap_err().to_string();
        assert!(error.starts_with("--config: cannot read "), "{error}");
        assert!(error.contains("none.yaml"), "{error}");
        let long = dir.path().join("long.yaml");
        std::fs::write(&long, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
        assert!(read_file(&long).unwrap_err().to_string().contains("larger than"));
    }
}

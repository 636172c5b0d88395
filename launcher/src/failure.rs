//! Why there is no machine, as a sentence for whoever started it, with the exit status.

use std::error::Error;
use std::fmt::Write as _;

use crate::config::ConfigError;
use crate::config_drive::DriveError;
use crate::exit;

/// Why there was no machine to run, with the exit status.
pub struct Failure {
    /// For the user.
    pub sentence: String,
    /// Of the process.
    pub status: u8,
}

impl Failure {
    /// `error` and its causes, with a status of [`exit`].
    pub fn new(error: &(dyn Error + 'static), status: u8) -> Self {
        Self { sentence: sentence(error), status }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(&error, exit::USAGE)
    }
}

impl From<DriveError> for Failure {
    fn from(error: DriveError) -> Self {
        Self::new(&error, exit::USAGE)
    }
}

/// An error and its causes as one sentence. A cause whose text its effect has told already is not
/// told again.
pub fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            let _ = write!(text, ": {told}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_are_told_once() {
        let cause = Layer("no space left", None);
        let middle = Layer("a: cannot be written", Some(Box::new(cause)));
        let top = Layer("disk a: cannot be written", Some(Box::new(middle)));
        assert_eq!(sentence(&top), "disk a: cannot be written: no space left");
    }
}

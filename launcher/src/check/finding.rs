//! What was found of one thing: fine, or what is wrong with it and what to do.

use std::fmt;

use serde_json::{Value, json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Fine,
    /// A machine runs, but slower, or with less than it might have.
    Warning,
    /// No machine runs.
    Error,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of what: a word.
    pub subject: &'static str,
    /// How bad it is.
    pub level: Level,
    /// A sentence without its full stop.
    pub text: String,
    /// What to do: a command, or a line of YAML.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn fine(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, level: Level::Fine, text: text.into(), remedy: None }
    }

    /// Something that a machine can do without.
    pub fn warning(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, level: Level::Warning, text: text.into(), remedy: None }
    }

    /// Something that stops `berth run`.
    pub fn error(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, level: Level::Error, text: text.into(), remedy: None }
    }

    /// With what to do about it.
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// For programs.
    pub fn as_json(&self) -> Value {
        json!({
            "subject": self.subject,
            "level": self.level.word(),
            "text": self.text,
            "remedy": self.remedy,
        })
    }
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever a system's error or a path brings along, a finding is one line.
        let line = |text: &str| text.replace('\n', " ");
        write!(f, "{:<8} {}: {}", self.level.word(), self.subject, line(&self.text))?;
        self.remedy.iter().try_for_each(|remedy| write!(f, "; {}", line(remedy)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_with_its_remedy() {
        let fine = Finding::fine("kvm", "usable");
        assert_eq!(fine.to_string(), "ok       kvm: usable");
        let bad = Finding::error("kvm", "not\nthere").remedy("modprobe kvm_amd");
        assert_eq!(bad.to_string(), "error    kvm: not there; modprobe kvm_amd");
        let json = bad.as_json();
        assert_eq!(json["level"], "error");
        assert_eq!(json["remedy"], "modprobe kvm_amd");
        assert_eq!(fine.as_json()["remedy"], Value::Null);
    }
}

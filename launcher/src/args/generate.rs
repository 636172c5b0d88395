//! What is generated from the flags themselves: completions for shells, and manual pages.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// `berth completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// How completions are put to use.
pub const COMPLETIONS_HELP: &str = "\
bash: berth completions bash > /etc/bash_completion.d/berth
zsh:  berth completions zsh > \"${fpath[1]}/_berth\"
fish: berth completions fish > ~/.config/fish/completions/berth.fish";

/// `berth man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory to write them to, such as /usr/local/share/man/man1
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,
}

/// Writes the shell's script to `out`.
///
/// # Errors
/// It cannot be written.
pub fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "berth", &mut script);
    out.write_all(&script)
}

/// Writes `berth.1` and a page for each subcommand to a directory.
///
/// # Errors
/// One of them cannot be written.
pub fn manual(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_and_every_command_has_its_own() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            completions(shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            for word in ["screenshot", "userdata", "repair"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        manual(dir.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(page("berth.1").contains("stock cloud image"));
        assert!(page("berth-run.1").contains("IMG_RAM_MB"), "variables are told, too");
        assert!(page("berth-image-repair.1").contains("leaks"));
        assert!(manual(&dir.path().join("none")).is_err());
    }
}

//! One invocation of the program, being put together.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::virtual_machine::PATIENCE;
use crate::{Namespace, Transcript, VirtualMachine, berth_program};

/// How long a command that must refuse may take.
const SHORT: Duration = Duration::from_secs(60);

/// `berth run` with its flags. Of the caller's environment only `PATH` and `HOME` are kept, and
/// there is no network unless one is given.
#[must_use]
pub struct Berth {
    command: Command,
    patience: Duration,
    terminal: bool,
}

/// How a short command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; `None` if a signal ended it.
    pub exit_code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Berth {
    /// `berth run`.
    pub fn run() -> Self {
        Self::command().arg("run")
    }

    /// `berth run`, in a process that runs `script` first.
    pub fn run_after(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{script}; exec \"$@\""), "sh"]).arg(berth_program());
        Self::of(command).arg("run")
    }

    /// `berth run` as process 1 of a namespace, with a child that it never had: that of the shell
    /// which it replaces, and which ends after a second. Root only.
    pub fn run_as_process_1() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec"]);
        command.args(["sleep 1 & exec \"$@\"", "sh"]).arg(berth_program());
        Self::of(command).arg("run")
    }

    /// Gives it a terminal of its own for all three, whose settings are said before (`modes: ...`) and
    /// after. The machine's console is what the terminal shows: the log, too.
    pub fn on_terminal(self) -> Self {
        Self { terminal: true, ..self }
    }

    /// `berth` without a subcommand.
    pub fn command() -> Self {
        Self::of(Command::new(berth_program()))
    }

    /// `berth run` in a network namespace, with what that has as resolv.conf.
    pub fn run_inside(namespace: &Namespace) -> Self {
        Self::of(namespace.command(berth_program())).arg("run")
    }

    fn of(mut command: Command) -> Self {
        command.env_clear();
        // A test that wants a network says so: by default one would be made.
        command.env("NET", "none");
        for kept in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        Self { command, patience: PATIENCE, terminal: false }
    }

    /// Adds an argument.
    pub fn arg(mut self, value: impl AsRef<OsStr>) -> Self {
        self.command.arg(value);
        self
    }

    /// Adds a flag and its value.
    pub fn flag(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(name).arg(value)
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in `directory`.
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// How long each wait for the machine may take.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The command as typed.
    pub fn text(&self) -> String {
        let mut text = self.command.get_program().to_string_lossy().into_owned();
        for argument in self.command.get_args() {
            let _ = write!(text, " {argument:?}");
        }
        text
    }

    /// Starts a machine, with its console on pipes.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn start(self) -> VirtualMachine {
        let mut this = self.flag("--console", "stdio");
        let text = this.text();
        if this.terminal {
            this.command = with_terminal(&this.command);
        }
        let child = this
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        VirtualMachine::new(child, text, this.patience)
    }

    /// Runs it to its end, which must come by itself and soon.
    ///
    /// # Panics
    /// If it cannot be started, or still runs after a minute.
    pub fn outcome(mut self) -> Outcome {
        let text = self.text();
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        let stdout = Transcript::of("stdout", child.stdout.take().expect("stdout is a pipe"));
        let stderr = Transcript::of("stderr", child.stderr.take().expect("stderr is a pipe"));
        let deadline = Instant::now() + SHORT;
        let status = loop {
            if let Some(status) = child.try_wait().expect("the process can be waited for") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("{text}\ndoes not end; it said:\n{}{}", stdout.text(), stderr.text());
            }
            thread::sleep(Duration::from_millis(5));
        };
        stdout.wait_for_end(SHORT);
        stderr.wait_for_end(SHORT);
        Outcome { exit_code: status.code(), stdout: stdout.text(), stderr: stderr.text() }
    }
}

/// A command that runs `inner` on a terminal of its own.
fn with_terminal(inner: &Command) -> Command {
    let words = [inner.get_program()].into_iter().chain(inner.get_args());
    let quoted = |word: &OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let words: Vec<String> = words.map(quoted).collect();
    let said = "echo modes: $(stty -g)";
    let line = format!("{said}; {}; status=$?; {said}; exit $status", words.join(" "));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear();
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}

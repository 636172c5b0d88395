//! A running `berth run`, as its user has it: a console, a log, signals, an exit status.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Transcript;

/// How long a small guest may take for anything, on an emulated machine that others use too.
pub const PATIENCE: Duration = Duration::from_secs(900);

/// A machine that runs, or ran. Dropping it ends it.
pub struct VirtualMachine {
    child: Child,
    input: Option<ChildStdin>,
    /// The guest's serial console.
    pub console: Transcript,
    /// Berth's own log.
    pub log: Transcript,
    /// When the process was started.
    pub started: Instant,
    command: String,
    read_up_to: usize,
    patience: Duration,
}

/// How a machine ended.
#[derive(Debug)]
pub struct Report {
    /// The process's exit status; `None` if a signal ended it.
    pub exit_code: Option<i32>,
    /// The whole console.
    pub console: String,
    /// The whole log.
    pub log: String,
}

impl VirtualMachine {
    pub(crate) fn new(mut child: Child, command: String, patience: Duration) -> Self {
        let console = Transcript::of("console", child.stdout.take().expect("stdout is a pipe"));
        let log = Transcript::of("log", child.stderr.take().expect("stderr is a pipe"));
        let input = child.stdin.take();
        let started = Instant::now();
        Self { child, input, console, log, started, command, read_up_to: 0, patience }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long each wait for it may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Waits until the console says `text`, after what earlier calls waited for. Time since the
    /// start of the process.
    ///
    /// # Panics
    /// With the end of the console, if it does not.
    pub fn wait_for(&mut self, text: &str) -> Duration {
        self.wait_for_within(text, self.patience)
    }

    /// [`wait_for`](Self::wait_for) with a patience of its own.
    ///
    /// # Panics
    /// As there.
    pub fn wait_for_within(&mut self, text: &str, patience: Duration) -> Duration {
        match self.console.find(text, self.read_up_to, patience) {
            Some(end) => {
                self.read_up_to = end;
                self.started.elapsed()
            }
            None => panic!("{}", self.describe(&format!("the console never said {text:?}"))),
        }
    }

    /// Waits for a line `@@ NAME VALUE`; the value.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_for_value(&mut self, name: &str) -> String {
        self.wait_for(&format!("@@ {name} "));
        let start = self.read_up_to;
        self.wait_for("\n");
        self.console.text()[start..self.read_up_to].trim().to_owned()
    }

    /// Types `text` on the console.
    ///
    /// # Panics
    /// If the process does not take it.
    pub fn send(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the console's input is open");
        input.write_all(text.as_bytes()).expect("the process reads its console");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends `signal`.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id fits");
        kill(Pid::from_raw(pid), signal).expect("the process is there");
    }

    /// Ends the process with SIGKILL, as a crash or an impatient host would.
    ///
    /// # Panics
    /// If it had ended by itself before.
    pub fn kill(mut self) -> String {
        assert!(self.is_running(), "{}", self.describe("it had ended before it could be killed"));
        self.child.kill().expect("the process is there");
        let status = self.child.wait().expect("the process can be waited for");
        assert_eq!(status.signal(), Some(9));
        self.console.wait_for_end(PATIENCE);
        self.console.text()
    }

    /// Whether the process still runs.
    ///
    /// # Panics
    /// If the kernel cannot say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the process can be waited for").is_none()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it does not come in time.
    pub fn wait_for_exit(mut self) -> Report {
        let deadline = Instant::now() + self.patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the process can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "{}", self.describe("it does not end"));
            thread::sleep(Duration::from_millis(20));
        };
        self.report(status)
    }

    fn report(&self, status: ExitStatus) -> Report {
        self.console.wait_for_end(PATIENCE);
        self.log.wait_for_end(PATIENCE);
        Report { exit_code: status.code(), console: self.console.text(), log: self.log.text() }
    }

    /// What happened, for a failing test.
    pub fn describe(&self, what: &str) -> String {
        let mut text = format!("{what}\n  command: {}", self.command);
        for (name, transcript) in [("console", &self.console), ("log", &self.log)] {
            let _ = write!(text, "\n  ---- end of the {name}\n{}", transcript.tail(60));
        }
        text
    }
}

impl Drop for VirtualMachine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    /// The exit status of the guest's job.
    ///
    /// # Panics
    /// If the guest did not report one.
    pub fn job_status(&self) -> i32 {
        self.value("end").parse().expect("a job's status is a number")
    }

    /// The value of the last line `@@ NAME VALUE` on the console.
    ///
    /// # Panics
    /// If there is none.
    pub fn value(&self, name: &str) -> &str {
        self.values(name)
            .last()
            .copied()
            .unwrap_or_else(|| panic!("the guest did not report {name:?}:\n{self}"))
    }

    /// The values of all lines `@@ NAME VALUE`.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let prefix = format!("@@ {name} ");
        self.console
            .lines()
            .filter_map(|line| line.split_once(&prefix))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// Requires that the job ended well and that the guest's power-off ended the process with 0.
    ///
    /// # Panics
    /// If not.
    pub fn expect_success(&self) -> &Self {
        assert_eq!(self.job_status(), 0, "the job failed:\n{self}");
        assert_eq!(self.exit_code, Some(0), "the exit status is not 0:\n{self}");
        self
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit code {:?}\n---- console\n{}\n---- log\n{}",
            self.exit_code, self.console, self.log
        )
    }
}

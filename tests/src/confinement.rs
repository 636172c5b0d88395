//! What the kernel says of a process's threads (proc_pid_status(5)).

use std::fs;

/// The names of the threads of `pid`, each of which has no capabilities, can gain none, and has a
/// system call filter.
///
/// # Panics
/// If one of them is not so, with its status.
pub fn confined_threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let mut names = Vec::new();
    for task in tasks {
        let path = task.expect("a thread").path().join("status");
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(path) else { continue };
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&value(set), 16), Ok(0), "{set} of {status}");
        }
        assert_eq!((value("NoNewPrivs"), value("Seccomp")), ("1".into(), "2".into()), "{status}");
        names.push(value("Name"));
    }
    names.sort();
    names
}

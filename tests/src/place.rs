//! Where the tests find what they work with, and where they may write.
//!
//! | variable | meaning | without it |
//! |---|---|---|
//! | `BERTH` | the program under test | built by cargo, once |
//! | `BERTH_GUESTS` | what `tests/guest/build` and `tests/images/build` made | `target/guests` |
//! | `BERTH_SCRATCH` | a directory for disk images | the system's temporary directory |

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// The clone this crate was compiled in.
fn clone_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a directory of the clone")
}

/// The `berth` program: the one in `BERTH`, else a debug build of this clone.
///
/// # Panics
/// If the build fails or leaves no program.
pub fn berth_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(given) = std::env::var_os("BERTH") {
            return PathBuf::from(given);
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "berth-launcher", "--message-format=json"])
            .current_dir(clone_root())
            .output()
            .expect("cargo runs");
        let messages = String::from_utf8_lossy(&built.stdout);
        assert!(built.status.success(), "berth does not build:\n{messages}");
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
            .find(|path| path.file_name().is_some_and(|name| name == "berth"))
            .expect("cargo names the program it built")
    })
}

/// A file that the guest builders made, such as `small/vmlinux`.
///
/// # Panics
/// If it is not there.
pub fn guest_file(name: &str) -> PathBuf {
    let guests = std::env::var_os("BERTH_GUESTS")
        .map_or_else(|| clone_root().join("target/guests"), PathBuf::from);
    let path = guests.join(name);
    assert!(path.exists(), "{} is missing: tests/run makes it", path.display());
    path
}

/// A directory for a test's own files, removed with the value.
///
/// # Panics
/// If it cannot be made.
pub fn scratch() -> TempDir {
    let parent = std::env::var_os("BERTH_SCRATCH").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("berth-test.")
        .tempdir_in(&parent)
        .unwrap_or_else(|error| panic!("cannot make a directory in {}: {error}", parent.display()))
}

/// Whether `name` is a program in `PATH`.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

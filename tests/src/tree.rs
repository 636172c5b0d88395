//! The clone that these tests are of, as files with text in them.

use std::fs;
use std::path::{Path, PathBuf};

/// Where it is.
///
/// # Panics
/// If this crate is no directory of it.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is a directory of the clone")
        .to_path_buf()
}

/// Every file of the tree as (path in the clone, text), without what is built or not ours.
///
/// # Panics
/// If hardly any is found.
pub fn files(extensions: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the clone") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                if !["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                    directories.push(path);
                }
                continue;
            }
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            if (extensions.is_empty() || extensions.contains(&extension.as_ref()))
                && let Ok(text) = fs::read_to_string(&path)
            {
                let inside = path.strip_prefix(&root).expect("it is inside");
                found.push((inside.to_string_lossy().into_owned(), text));
            }
        }
    }
    assert!(found.len() > 5, "only {} files found", found.len());
    found.sort();
    found
}

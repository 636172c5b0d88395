//! Real filesystems, made by their own tools; `None`, said aloud, where a tool is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;

/// A directory to make a filesystem from, and where its image goes.
struct Source(tempfile::TempDir);

impl Source {
    /// A directory with these files; a content that starts with `-> ` is a link.
    fn new(files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join("tree").join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content.strip_prefix(b"-> ") {
                Some(target) => {
                    std::os::unix::fs::symlink(std::str::from_utf8(target).unwrap(), path).unwrap();
                }
                None => fs::write(path, content).unwrap(),
            }
        }
        Source(dir)
    }

    fn tree(&self) -> PathBuf {
        self.0.path().join("tree")
    }

    fn image(&self, size: u64) -> PathBuf {
        let path = self.0.path().join("image");
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    }
}

/// Runs a tool; `None`, said aloud, where it is missing.
fn tool(command: &mut Command) -> Option<()> {
    let paths = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let name = command.get_program().to_string_lossy().into_owned();
    match command.env("PATH", paths).stdout(Stdio::null()).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{name} failed: {said}");
            Some(())
        }
        Err(error) => {
            eprintln!("skipped: {name} does not start: {error}");
            None
        }
    }
}

/// ext2, ext3 or ext4.
pub fn ext(kind: &str, label: &str, options: &[&str], files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let source = Source::new(files);
    let image = source.image(16 * MIB);
    let mut command = Command::new(format!("mkfs.{kind}"));
    command
        .args(["-q", "-F", "-L", label, "-U", UUID])
        .args(options)
        .arg("-d")
        .arg(source.tree())
        .arg(&image);
    tool(&mut command)?;
    Some(fs::read(image).unwrap())
}

/// The UUID of every filesystem made here.
pub const UUID: &str = "11112222-3333-4444-5555-666677778888";

/// XFS is filled from a prototype file: directories, files, links.
pub fn xfs(label: &str, options: &[&str], files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let source = Source::new(files);
    let mut prototype = "/\n0 0\nd--755 0 0\n".to_owned();
    list_for_xfs(&source.tree(), &mut prototype);
    prototype.push_str("$\n");
    let list = source.0.path().join("prototype");
    fs::write(&list, prototype).unwrap();
    let image = source.image(320 * MIB);
    let mut command = Command::new("mkfs.xfs");
    command.args(["-q", "-f", "-L", label, "-m", &format!("uuid={UUID}")]).args(options);
    command.arg("-p").arg(list);
    tool(command.arg(&image))?;
    Some(fs::read(image).unwrap())
}

fn list_for_xfs(directory: &Path, prototype: &mut String) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Ok(target) = fs::read_link(&path) {
            prototype.push_str(&format!("{name} l--777 0 0 {}\n", target.display()));
        } else if path.is_dir() {
            prototype.push_str(&format!("{name} d--755 0 0\n"));
            list_for_xfs(&path, prototype);
            prototype.push_str("$\n");
        } else {
            prototype.push_str(&format!("{name} ---644 0 0 {}\n", path.display()));
        }
    }
}

/// btrfs; data and metadata in the same blocks, so that it can be small.
pub fn btrfs(label: &str, options: &[&str], files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let source = Source::new(files);
    let image = source.image(120 * MIB);
    let mut command = Command::new("mkfs.btrfs");
    command.args(["-q", "-f", "-M", "-L", label, "-U", UUID]).args(options);
    tool(command.arg("--rootdir").arg(source.tree()).arg(&image))?;
    Some(fs::read(image).unwrap())
}

/// FAT.
pub fn fat(label: &str, files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let source = Source::new(files);
    let image = source.image(8 * MIB);
    tool(Command::new("mkfs.vfat").args(["-n", label]).arg(&image))?;
    let top = fs::read_dir(source.tree()).unwrap().map(|entry| entry.unwrap().path());
    tool(Command::new("mcopy").arg("-s").arg("-i").arg(&image).args(top).arg("::"))?;
    Some(fs::read(image).unwrap())
}

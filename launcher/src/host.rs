//! What the launcher knows of the place it runs in: gathered once, then plain data, so that
//! everything derived from it can be tested without it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::image::fetch::certificates::Trust;
use crate::image::fetch::proxies::Proxies;

/// What memory there should be beside the guest's own, in bytes: Berth has some 6 MiB, and the kernel
/// counts page tables, tap and vhost buffers, and what disks have in flight.
pub const BESIDE_GUEST: u64 = 64 << 20;

/// The facts.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where fixed paths such as `/metadata` are looked up; `/` outside tests.
    pub root: PathBuf,
    /// Whether this is a container: its fixed paths are looked at, and `/image` is the image
    /// directory.
    pub in_container: bool,
    /// The host name.
    pub hostname: Option<String>,
    /// The user's data directory.
    pub data_dir: Option<PathBuf>,
    /// How much memory there is for the guest.
    pub memory: Option<MemoryLimit>,
    /// The ways to servers.
    pub proxies: Proxies,
    /// Which servers are trusted.
    pub trust: Trust,
}

/// The most memory that can be had, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// In bytes.
    pub bytes: u64,
    /// Whether a cgroup limits it, or the host's own size.
    pub by_cgroup: bool,
}

impl Host {
    /// Looks around.
    pub fn gather(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let root = Path::new("/");
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        Self {
            root: root.to_owned(),
            in_container: in_container(root, &variable),
            hostname: read_line(&root.join("proc/sys/kernel/hostname")),
            data_dir: absolute("XDG_DATA_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/share"))),
            memory: memory_limit(root),
            proxies: Proxies::from_environment(text),
            trust: Trust::from_environment(text),
        }
    }
}

/// Container runtimes leave one of these traces.
fn in_container(root: &Path, variable: &impl Fn(&str) -> Option<OsString>) -> bool {
    variable("KUBERNETES_SERVICE_HOST").is_some()
        || variable("container").is_some_and(|value| !value.is_empty())
        || root.join(".dockerenv").exists()
        || root.join("run/.containerenv").exists()
}

fn read_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// The number that is all of a file.
pub fn read_number(path: &Path) -> Option<u64> {
    read_line(path)?.parse().ok()
}

/// The smaller of the host's memory and the limits of this process's cgroup and those above it.
fn memory_limit(root: &Path) -> Option<MemoryLimit> {
    let total = meminfo_total(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let of_host = MemoryLimit { bytes: total, by_cgroup: false };
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limit = cgroup_limits(root, &membership).into_iter().min();
    Some(match limit {
        Some(bytes) if bytes < total => MemoryLimit { bytes, by_cgroup: true },
        _ => of_host,
    })
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory limits of the cgroups named in `membership`.
fn cgroup_limits(root: &Path, membership: &str) -> Vec<u64> {
    let limit = |(dir, version): (PathBuf, CgroupVersion)| {
        // "max" in v2, and a number near 2⁶³ in v1, mean no limit: the first is no number, the
        // second is larger than any host.
        read_number(&dir.join(match version {
            CgroupVersion::Two => "memory.max",
            CgroupVersion::One => "memory.limit_in_bytes",
        }))
    };
    cgroups(root, membership, "memory").into_iter().filter_map(limit).collect()
}

/// Of the two kinds of cgroups that Linux has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// A hierarchy for each controller.
    One,
    /// One for all.
    Two,
}

/// The cgroups for `controller` that are named in `membership` (`/proc/self/cgroup`), from the leaf
/// upwards. In a container the path may name what is outside of its cgroup namespace: what cannot
/// be read does not count, and the root of the hierarchy is always looked at.
pub fn cgroups(root: &Path, membership: &str, controller: &str) -> Vec<(PathBuf, CgroupVersion)> {
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (hierarchy, version) = match controllers {
            "" => (root.join("sys/fs/cgroup"), CgroupVersion::Two),
            c if c.split(',').any(|c| c == controller) => {
                (root.join("sys/fs/cgroup").join(controller), CgroupVersion::One)
            }
            _ => continue,
        };
        // A path above this namespace begins with `/..`; it cannot be followed.
        let path = path.trim_matches('/');
        let path = if path.split('/').any(|part| part == "..") { "" } else { path };
        let leaf = hierarchy.join(path);
        let dirs = leaf.ancestors().take_while(|dir| dir.starts_with(&hierarchy));
        found.extend(dirs.map(|dir| (dir.to_owned(), version)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_smallest_limit_above_the_process_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\n");
        assert_eq!(memory_limit(root), Some(MemoryLimit { bytes: 8 << 30, by_cgroup: false }));

        write(root, "proc/self/cgroup", "0::/pods/one/box\n");
        write(root, "sys/fs/cgroup/pods/one/box/memory.max", "max\n");
        write(root, "sys/fs/cgroup/pods/one/memory.max", "1073741824\n");
        write(root, "sys/fs/cgroup/pods/memory.max", "2147483648\n");
        assert_eq!(memory_limit(root), Some(MemoryLimit { bytes: 1 << 30, by_cgroup: true }));

        write(root, "proc/self/cgroup", "0::/../../outside\n");
        write(root, "sys/fs/cgroup/memory.max", "536870912\n");
        assert_eq!(memory_limit(root), Some(MemoryLimit { bytes: 512 << 20, by_cgroup: true }));
    }

    #[test]
    fn version_one_limits_count_too() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "proc/meminfo", "MemTotal: 8388608 kB\n");
        write(root, "proc/self/cgroup", "4:cpu:/x\n3:memory:/docker/abc\n");
        write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert!(!memory_limit(root).unwrap().by_cgroup);
        write(root, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "268435456\n");
        assert_eq!(memory_limit(root), Some(MemoryLimit { bytes: 256 << 20, by_cgroup: true }));
    }

    #[test]
    fn a_host_without_proc_has_no_known_limit() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(memory_limit(dir.path()), None);
        write(dir.path(), "proc/meminfo", "MemTotal: many kB\n");
        assert_eq!(memory_limit(dir.path()), None);
    }

    #[test]
    fn containers_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let none = |_: &str| None;
        assert!(!in_container(dir.path(), &none));
        let pod = |name: &str| (name == "KUBERNETES_SERVICE_HOST").then(|| "10.0.0.1".into());
        assert!(in_container(dir.path(), &pod));
        write(dir.path(), "run/.containerenv", "");
        assert!(in_container(dir.path(), &none));
    }
}

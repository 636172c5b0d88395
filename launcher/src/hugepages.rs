//! Huge pages that the host has set aside: how many of them this process can have, and what to do about
//! it when they are too few. What is found is a forecast, made before anything else is: others may take
//! them meanwhile, and the machine has the last word when it maps its memory.
//!
//! Kernel documentation: admin-guide/mm/hugetlbpage.rst, admin-guide/cgroup-v2.rst (HugeTLB). Runs on
//! the main thread.

use std::path::{Path, PathBuf};

use vmm::config::HugePage;

use crate::config::Plan;
use crate::exit;
use crate::failure::Failure;
use crate::host::{self, CgroupVersion, Host};

/// Where the kernel tells of its pools.
const POOLS: &str = "sys/kernel/mm/hugepages";

/// What there is of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// The size.
    pub page: HugePage,
    pool: Pool,
    /// How many pages the cgroups of this process still may have; `None`: as many as there are.
    allowed: Option<u64>,
}

/// The host's pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    /// Nobody says.
    Unknown,
    /// The kernel has none of this size, nor could.
    None,
    /// So many were set aside (`total`), and so many of them, or beside them, can be had.
    Of { total: u64, available: u64 },
}

/// There are too few. The texts are those of a finding: what is wrong, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}; {remedy}")]
pub struct Shortage {
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// Sees to it that the machine can have what it asks for.
///
/// # Errors
/// [`Failure`]: it cannot.
pub fn check(plan: &Plan, host: &Host) -> Result<(), Failure> {
    let Some(page) = plan.hugepages else { return Ok(()) };
    let supply = Supply::gather(&host.root, page);
    let judged = supply.judge(plan.memory_bytes, host.in_container);
    judged.map_err(|shortage| Failure::new(&shortage, exit::ERROR))?;
    let count = plan.memory_bytes / page.bytes();
    log::info!("memory: it is to be on {count} huge pages of {page}; nothing of it is given back");
    Ok(())
}

impl Supply {
    /// Looks around below `root`, which is `/` outside tests.
    pub fn gather(root: &Path, page: HugePage) -> Self {
        let membership = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let groups = host::cgroups(root, &membership, "hugetlb");
        let allowed = groups.iter().filter_map(|(dir, version)| allowed(dir, *version, page)).min();
        Self { page, pool: Pool::gather(&root.join(POOLS), page), allowed }
    }

    /// How many pages can be had, as far as that is known.
    pub fn available(&self) -> Option<u64> {
        let in_pool = match self.pool {
            Pool::Unknown => None,
            Pool::None => Some(0),
            Pool::Of { available, .. } => Some(available),
        };
        in_pool.into_iter().chain(self.allowed).min()
    }

    /// Whether they are enough for `bytes` of guest memory.
    ///
    /// # Errors
    /// [`Shortage`].
    pub fn judge(&self, bytes: u64, in_container: bool) -> Result<(), Shortage> {
        let Self { page, pool, allowed } = *self;
        let (count, mib) = (bytes / page.bytes(), bytes >> 20);
        let short = |why: String, remedy: String| {
            let text =
                format!("{mib} MiB of guest memory need {count} huge pages of {page}, and {why}");
            Err(Shortage { text, remedy })
        };
        let place = if in_container { "this node" } else { "this host" };
        match pool {
            Pool::None => {
                let why = format!("{place} has none of that size");
                return short(
                    why,
                    format!("give another --hugepages than {}, or none", flag(page)),
                );
            }
            Pool::Of { total, available } if available < count => {
                let why = format!("{available} are free on {place}");
                let enough = total.saturating_add(count.saturating_sub(available));
                let file = pool_dir(Path::new("/").join(POOLS), page).join("nr_hugepages");
                let remedy = format!("on {place}: echo {enough} >{}", file.display());
                return short(why, remedy);
            }
            Pool::Of { .. } | Pool::Unknown => {}
        }
        match allowed.filter(|allowed| *allowed < count) {
            None => Ok(()),
            Some(allowed) => {
                let why = format!("this cgroup may have {allowed} more");
                short(
                    why,
                    match in_container {
                        true => {
                            let amount = format!("{{hugepages-{}i: {mib}Mi}}", flag(page));
                            format!("resources: {{requests: {amount}, limits: {amount}}}")
                        }
                        false => format!("raise its hugetlb.{}B.max", flag(page)),
                    },
                )
            }
        }
    }
}

impl Pool {
    fn gather(pools: &Path, page: HugePage) -> Self {
        let dir = pool_dir(pools.to_owned(), page);
        if !dir.is_dir() {
            return if pools.is_dir() { Self::None } else { Self::Unknown };
        }
        let number = |name: &str| host::read_number(&dir.join(name));
        let (Some(total), Some(free)) = (number("nr_hugepages"), number("free_hugepages")) else {
            return Self::Unknown;
        };
        // Free ones may be promised; beyond what was set aside the kernel may look for some when they
        // are asked for, if it was told to.
        let or_none = |name| number(name).unwrap_or(0);
        let more = or_none("nr_overcommit_hugepages").saturating_sub(or_none("surplus_hugepages"));
        let available = free.saturating_sub(or_none("resv_hugepages")).saturating_add(more);
        Self::Of { total, available }
    }
}

/// The directory of a pool's files.
fn pool_dir(pools: PathBuf, page: HugePage) -> PathBuf {
    pools.join(format!("hugepages-{}kB", page.bytes() >> 10))
}

/// How many pages a cgroup may still have: of those that are used, and of those that are promised;
/// `None`: it has no limit.
fn allowed(dir: &Path, version: CgroupVersion, page: HugePage) -> Option<u64> {
    let names = match version {
        CgroupVersion::Two => [("max", "current"), ("rsvd.max", "rsvd.current")],
        CgroupVersion::One => {
            [("limit_in_bytes", "usage_in_bytes"), ("rsvd.limit_in_bytes", "rsvd.usage_in_bytes")]
        }
    };
    let number =
        |name: &str| host::read_number(&dir.join(format!("hugetlb.{}B.{name}", flag(page))));
    let left = |(limit, used)| Some(number(limit)?.saturating_sub(number(used).unwrap_or(0)));
    names.into_iter().filter_map(left).min().map(|bytes: u64| bytes / page.bytes())
}

/// How a size is given.
pub fn flag(page: HugePage) -> &'static str {
    match page {
        HugePage::TwoMib => "2M",
        HugePage::OneGib => "1G",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        /// A host with a pool of 2 MiB pages, of which `free` are free and 10 of those promised.
        fn new(total: u64, free: u64) -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for (name, number) in [("nr", total), ("free", free), ("resv", 10)] {
                place.pool(name, number);
            }
            place.write("proc/self/cgroup", "0::/pod/box\n");
            place
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn pool(&self, name: &str, number: u64) {
            let path = format!("{POOLS}/hugepages-2048kB/{name}_hugepages");
            self.write(&path, &format!("{number}\n"));
        }

        fn supply(&self) -> Supply {
            Supply::gather(self.0.path(), HugePage::TwoMib)
        }

        /// What is said of 1 GiB on 2 MiB pages.
        fn said(&self, in_container: bool) -> String {
            self.supply()
                .judge(1 << 30, in_container)
                .map_or_else(|e| e.to_string(), |()| "ok".into())
        }
    }

    #[test]
    fn what_is_free_and_not_promised_counts() {
        let place = Place::new(600, 522);
        assert_eq!((place.supply().available(), place.said(false).as_str()), (Some(512), "ok"));
        place.pool("free", 521);
        assert_eq!(
            place.said(false),
            "1024 MiB of guest memory need 512 huge pages of 2 MiB, and 511 are free on this host; on \
             this host: echo 601 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
        );
        assert!(place.said(true).contains("511 are free on this node; on this node: echo 601 "));
        // What the kernel may look for besides.
        place.pool("nr_overcommit", 3);
        place.pool("surplus", 2);
        assert_eq!((place.supply().available(), place.said(false).as_str()), (Some(512), "ok"));
    }

    #[test]
    fn cgroups_limit_them() {
        let place = Place::new(9999, 9999);
        let limit = |dir: &str, name: &str, text: &str| {
            place.write(&format!("sys/fs/cgroup/{dir}hugetlb.2MB.{name}"), text);
        };
        limit("", "max", "max\n");
        limit("pod/box/", "max", "1073741824\n");
        assert_eq!(place.said(false), "ok");
        limit("pod/box/", "current", "2097152\n");
        assert_eq!(
            place.said(true),
            "1024 MiB of guest memory need 512 huge pages of 2 MiB, and this cgroup may have 511 more; \
             resources: {requests: {hugepages-2Mi: 1024Mi}, limits: {hugepages-2Mi: 1024Mi}}"
        );
        assert!(place.said(false).ends_with("may have 511 more; raise its hugetlb.2MB.max"));
        limit("pod/", "rsvd.max", "0\n");
        assert_eq!(place.supply().available(), Some(0));
        // Version 1.
        let place = Place::new(9999, 9999);
        place.write("proc/self/cgroup", "7:hugetlb:/x\n");
        let file = "sys/fs/cgroup/hugetlb/x/hugetlb.2MB.limit_in_bytes";
        place.write(file, "9223372036852678656\n");
        assert_eq!(place.said(false), "ok");
        place.write(file, "4194304\n");
        assert_eq!(place.supply().available(), Some(2));
    }

    #[test]
    fn a_host_may_have_no_such_pages_or_say_nothing() {
        let place = Place::new(1, 1);
        let huge = Supply::gather(place.0.path(), HugePage::OneGib);
        assert_eq!(
            huge.judge(2 << 30, true).unwrap_err().to_string(),
            "2048 MiB of guest memory need 2 huge pages of 1 GiB, and this node has none of that size; \
             give another --hugepages than 1G, or none"
        );
        let dir = tempfile::tempdir().unwrap();
        let unknown = Supply::gather(dir.path(), HugePage::TwoMib);
        assert_eq!((unknown.available(), unknown.judge(1 << 40, false)), (None, Ok(())));
    }
}

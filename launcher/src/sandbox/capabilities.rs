//! Capabilities of the calling thread (capabilities(7)): each thread has its own, and inherits those
//! of the thread that starts it.

use caps::errors::CapsError;
use caps::{CapSet, Capability};

/// Gives up all of the calling thread's.
///
/// # Errors
/// The kernel refuses; that what cannot be given up is the bounding set, without `SETPCAP`, is no
/// error: with no_new_privs it bounds nothing.
pub fn drop_all() -> Result<(), CapsError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    Ok(())
}

/// Gives up all but `NET_ADMIN`, which stays effective where it is.
///
/// # Errors
/// See [`drop_all`].
pub fn keep_net_admin() -> Result<(), CapsError> {
    let admin = Capability::CAP_NET_ADMIN;
    let kept = caps::read(None, CapSet::Permitted)?.into_iter().filter(|cap| *cap == admin);
    let kept: caps::CapsHashSet = kept.collect();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The sets of the calling thread, by their names in proc_pid_status(5).
    fn sets() -> Vec<(String, u64)> {
        let text = fs::read_to_string("/proc/thread-self/status").unwrap();
        let sets = text.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t"));
        sets.map(|(name, mask)| (name.to_owned(), u64::from_str_radix(mask, 16).unwrap())).collect()
    }

    #[test]
    fn a_thread_gives_up_its_own() {
        let before = sets();
        let thread = std::thread::spawn(|| {
            drop_all().unwrap();
            // Twice is as good.
            drop_all().unwrap();
            sets()
        });
        let after = thread.join().unwrap();
        assert_eq!(after.len(), 5);
        let bounded = before.iter().any(|(name, mask)| name == "Eff" && mask >> 8 & 1 == 1);
        for (name, mask) in after {
            assert!(mask == 0 || (name == "Bnd" && !bounded), "Cap{name} {mask:x}");
        }
        assert_eq!(sets(), before, "of no other thread");
    }

    #[test]
    fn one_is_kept() {
        let before = sets();
        let thread = std::thread::spawn(|| {
            keep_net_admin().unwrap();
            sets()
        });
        let mask = |sets: &[(String, u64)], name: &str| {
            sets.iter().find(|(set, _)| set == name).map(|(_, mask)| *mask)
        };
        let after = thread.join().unwrap();
        for set in ["Eff", "Prm"] {
            let permitted = mask(&before, "Prm").unwrap() & 1 << 12;
            assert_eq!(mask(&after, set), Some(permitted), "{set}");
        }
    }
}

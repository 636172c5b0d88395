//! Memory: what may be used here, against what the guest and Berth itself need.

use super::Place;
use super::finding::Finding;
use crate::host::{BESIDE_GUEST, MemoryLimit};

const SUBJECT: &str = "memory";
const MIB: u64 = 1 << 20;

/// Whether `guest` bytes, and Berth's own, are within `limit`. A guest that is `on_pages` of its own
/// (huge pages, of which a limit on memory says nothing) takes none of it.
pub fn judge(guest: u64, on_pages: bool, limit: Option<MemoryLimit>, place: Place) -> Finding {
    let (guest, asked) = match on_pages {
        true => {
            let own = BESIDE_GUEST / MIB;
            (0, format!("{own} MiB for Berth itself, beside the guest's huge pages"))
        }
        false => (guest, format!("{} MiB for the guest", guest / MIB)),
    };
    let Some(limit) = limit else {
        return Finding::fine(SUBJECT, format!("{asked}; no limit is known"));
    };
    let (have, whose) = match limit.by_cgroup {
        true => (limit.bytes / MIB, "this cgroup may use"),
        false => (limit.bytes / MIB, "this host has"),
    };
    let needed = guest.saturating_add(BESIDE_GUEST);
    if needed <= limit.bytes {
        return Finding::fine(SUBJECT, format!("{asked}, of {have} MiB {whose}"));
    }
    let text = match on_pages {
        true => format!("{asked}, are more than the {have} MiB {whose}: the kernel may kill it"),
        false => format!(
            "{asked}, of {have} MiB {whose}, leave too little for Berth itself: once the guest has \
             used all its memory, the kernel may kill it"
        ),
    };
    // In multiples of 2 MiB, as a machine has it.
    let less = limit.bytes.saturating_sub(BESIDE_GUEST) / MIB / 2 * 2;
    let remedy = match (limit.by_cgroup, place) {
        (true, Place::Container) => {
            format!("resources: {{limits: {{memory: {}Mi}}}}", needed.div_ceil(MIB))
        }
        _ if on_pages => format!("a limit of {} MiB or more", BESIDE_GUEST / MIB),
        _ => format!("--memory {less}M"),
    };
    Finding::warning(SUBJECT, text).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn berth_itself_needs_some() {
        let limit = |mib: u64, by_cgroup| Some(MemoryLimit { bytes: mib * MIB, by_cgroup });
        let found = |limit, place| judge(1024 * MIB, false, limit, place);
        assert_eq!(found(None, Place::Host).level, Level::Fine);
        assert_eq!(found(limit(1088, true), Place::Container).level, Level::Fine);
        let tight = found(limit(1087, true), Place::Container);
        assert_eq!(tight.level, Level::Warning);
        assert_eq!(tight.remedy.unwrap(), "resources: {limits: {memory: 1088Mi}}");
        let tight = found(limit(1025, false), Place::Host);
        assert_eq!(tight.remedy.unwrap(), "--memory 960M");
    }

    #[test]
    fn huge_pages_are_none_of_it() {
        let limit = |mib: u64| Some(MemoryLimit { bytes: mib * MIB, by_cgroup: true });
        let found = |limit, place| judge(1024 * MIB, true, limit, place);
        let fine = found(limit(64), Place::Container);
        assert_eq!(
            fine.text,
            "64 MiB for Berth itself, beside the guest's huge pages, of 64 MiB this cgroup may use"
        );
        assert_eq!((fine.level, found(None, Place::Host).level), (Level::Fine, Level::Fine));
        let tight = found(limit(63), Place::Container);
        assert_eq!(tight.level, Level::Warning);
        assert_eq!(tight.remedy.unwrap(), "resources: {limits: {memory: 64Mi}}");
        let tight = found(limit(63), Place::Host);
        assert_eq!(tight.remedy.unwrap(), "a limit of 64 MiB or more");
    }
}

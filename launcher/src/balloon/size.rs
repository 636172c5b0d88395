//! How large the balloon is to be: from numbers to a number, nothing else.
//!
//! With a limit, the guest may have what the rest of the cgroup leaves of it:
//!
//! ```text
//! limit = the guest's RAM - balloon + Berth's own + the rest + reserve
//! ```
//! The rest is what the kernel cannot reclaim (files in tmpfs, its own memory, other processes): the
//! page cache does not count, but for the programs that run. So the size follows from the limit, not
//! from how hard it is pressed against, and there is nothing to swing.
//!
//! While it is pressed against, the rest grows, and by the time that the guest has given something up
//! that is not enough any more; the kernel meanwhile makes every thread wait that wants memory. So the
//! guest is then asked for a quarter of what it can spare besides, and gets that back when it was not
//! needed.
//!
//! Without a limit nobody can say how much is too much: then each time that the kernel complains the
//! guest is asked for a quarter of what it can spare, and after a while without complaints for half as
//! much as before.

/// What Berth needs itself, beside the guest's RAM, at least; measured, and rounded up.
const OWN: u64 = 16 << 20;
/// What is to stay free.
const RESERVE: u64 = 16 << 20;
/// Sizes are in steps of this.
const STEP: u64 = 2 << 20;
/// Smaller changes are not worth telling the guest.
const CHANGE: u64 = 8 << 20;
/// A balloon that is smaller goes altogether when nobody has complained for a while.
const LEAST: u64 = 32 << 20;
/// What the guest keeps available for itself, in bytes and as a part of its RAM; the larger counts.
const GUEST_KEEPS: u64 = 64 << 20;
const GUEST_KEEPS_PART: u64 = 16;

/// What there is in the cgroup, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What it may use; `None`: there is no limit.
    pub limit: Option<u64>,
    /// What it uses.
    pub current: u64,
    /// What of that the kernel can take back without asking, and nobody will miss at once: the page
    /// cache, without the programs that run from it.
    pub reclaimable: u64,
    /// Anonymous memory of this process, nearly all of it the guest's RAM.
    pub process: u64,
}

/// What is known of the guest, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// All of its RAM.
    pub ram: u64,
    /// The size of balloon that it was asked for.
    pub target: u64,
    /// The size that it has.
    pub actual: u64,
    /// What its programs could still have; `None`: it does not say.
    pub available: Option<u64>,
}

/// Why somebody looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel says that memory is short.
    Pressure,
    /// It is time.
    Time,
}

/// The size of balloon to be asked for now.
pub fn target(cause: Cause, usage: Usage, guest: Guest) -> u64 {
    let keeps = GUEST_KEEPS.max(guest.ram / GUEST_KEEPS_PART);
    let spare = guest.available.map(|available| available.saturating_sub(keeps));
    let part = spare.unwrap_or(0) / 4;
    let wanted = match (usage.limit, cause) {
        (Some(limit), _) => match (above(limit, usage, guest), cause) {
            (above, Cause::Pressure) if above > guest.target => above.saturating_add(part),
            (above, Cause::Pressure) if above > 0 => guest.target,
            (above, _) => above,
        },
        (None, Cause::Pressure) => guest.actual.saturating_add(part),
        (None, Cause::Time) if guest.target < LEAST => 0,
        (None, Cause::Time) => guest.target / 2,
    };
    // A guest that has nothing left is not asked for more; what it was asked for stays asked for:
    // better that it goes short than that all of it is killed. The guest's word is not trusted for
    // more than half of its RAM.
    let most = match spare {
        Some(spare) => guest.actual.saturating_add(spare).min(guest.ram / 2),
        None => guest.ram / 4,
    };
    let wanted = wanted.min(most.max(guest.target)).next_multiple_of(STEP);
    if wanted != 0 && wanted.abs_diff(guest.target) < CHANGE { guest.target } else { wanted }
}

/// By how much the guest's RAM, wholly used, would be too much.
fn above(limit: u64, usage: Usage, guest: Guest) -> u64 {
    let fixed = usage.current.saturating_sub(usage.reclaimable);
    let rest = fixed.saturating_sub(usage.process);
    // What is in the balloon is not in the process: what it has beyond the guest's RAM is Berth's own.
    let machine = guest.ram.saturating_add(OWN).max(usage.process.saturating_add(guest.actual));
    let needed = [machine, rest, RESERVE].into_iter().fold(0, u64::saturating_add);
    needed.saturating_sub(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A guest of 1 GiB that uses half of it, in a cgroup that has room for it.
    fn usage() -> Usage {
        let [limit, current, reclaimable, process] = [1088, 700, 170, 524].map(|n| n * MIB);
        Usage { limit: Some(limit), current, reclaimable, process }
    }

    fn guest() -> Guest {
        Guest { ram: 1024 * MIB, target: 0, actual: 0, available: Some(500 * MIB) }
    }

    /// Else the others' memory would stop to grow where the reserve is Berth's already, and nobody would ask
    /// for more.
    #[test]
    fn what_berth_needs_beyond_its_share_is_counted() {
        let guest = Guest {
            ram: 512 * MIB,
            target: 52 * MIB,
            actual: 52 * MIB,
            available: Some(400 * MIB),
        };
        let [limit, current, process] = [576, 576, 492].map(|n| n * MIB);
        let stuck = Usage { limit: Some(limit), current, reclaimable: 0, process };
        assert_eq!(target(Cause::Time, stuck, guest), 68 * MIB);
        // As much as it was thought to need: as asked for.
        let content = Usage { process: 476 * MIB, current: 560 * MIB, ..stuck };
        assert_eq!(target(Cause::Time, content, guest), 52 * MIB);
    }

    #[test]
    fn where_there_is_room_there_is_no_balloon() {
        for cause in [Cause::Pressure, Cause::Time] {
            assert_eq!(target(cause, usage(), guest()), 0);
            // However much of the page cache there is.
            let full = Usage { current: 1088 * MIB, reclaimable: 558 * MIB, ..usage() };
            assert_eq!(target(cause, full, guest()), 0);
        }
    }

    #[test]
    fn what_others_use_the_guest_does_without() {
        // 200 MiB in tmpfs, of the 26 that are left.
        let usage = Usage { current: 900 * MIB, ..usage() };
        let asked = target(Cause::Time, usage, guest());
        assert_eq!(asked, 174 * MIB);
        // It is the same while the guest is at it, and when it has done so.
        let half = Guest { target: asked, actual: asked / 2, ..guest() };
        assert_eq!(target(Cause::Time, usage, half), asked);
        assert_eq!(target(Cause::Pressure, usage, half), asked);
        let done = Guest { target: asked, actual: asked, ..guest() };
        let less = Usage { process: usage.process - 100 * MIB, current: 800 * MIB, ..usage };
        assert_eq!(target(Cause::Time, less, done), asked);
        // And gone when they do not use it any more.
        let gone = Usage { current: 700 * MIB, ..usage };
        assert_eq!(target(Cause::Time, gone, done), 0);
    }

    #[test]
    fn who_presses_will_press_again() {
        let usage = Usage { current: 900 * MIB, ..usage() };
        let asked = target(Cause::Pressure, usage, guest());
        assert_eq!(asked, (174 + (500 - 64) / 4 + 1) * MIB);
        // Nothing is taken back while they press, nor asked for twice.
        let half = Guest { target: asked, actual: asked / 2, ..guest() };
        assert_eq!(target(Cause::Pressure, usage, half), asked);
        // What was not needed, later.
        assert_eq!(target(Cause::Time, usage, half), 174 * MIB);
        // More is, when they use more than was asked for.
        let more = Usage { current: 1070 * MIB, ..usage };
        let most = target(Cause::Pressure, more, half);
        assert!(most > 344 * MIB && most <= 512 * MIB, "{most}");
    }

    #[test]
    fn a_limit_below_its_ram_is_no_surprise() {
        let high =
            Usage { limit: Some(800 * MIB), current: 20 * MIB, reclaimable: 0, process: 14 * MIB };
        // Before there is a driver to ask, a quarter at most.
        let booting = Guest { available: None, ..guest() };
        assert_eq!(target(Cause::Time, high, booting), 256 * MIB);
        let idle = Guest { available: Some(900 * MIB), target: 256 * MIB, ..guest() };
        assert_eq!(target(Cause::Time, high, idle), 262 * MIB - 6 * MIB);
        let higher = Usage { limit: Some(700 * MIB), ..high };
        assert_eq!(target(Cause::Time, higher, idle), 362 * MIB);
    }

    #[test]
    fn a_guest_that_has_nothing_left_is_not_asked_for_more() {
        let usage = Usage { current: 1080 * MIB, reclaimable: 0, ..usage() };
        let poor = Guest { available: Some(64 * MIB), ..guest() };
        assert_eq!(target(Cause::Pressure, usage, poor), 0);
        let some = Guest { available: Some(164 * MIB), ..guest() };
        for cause in [Cause::Pressure, Cause::Time] {
            assert_eq!(target(cause, usage, some), 100 * MIB);
        }
        let given = Guest { target: 100 * MIB, actual: 100 * MIB, ..poor };
        assert_eq!(target(Cause::Pressure, usage, given), 100 * MIB);
        // Nor does anybody believe that it can do without all of it.
        let liar = Guest { available: Some(u64::MAX), actual: 900 * MIB, ..guest() };
        let tiny = Usage { limit: Some(64 * MIB), ..usage };
        assert_eq!(target(Cause::Pressure, tiny, liar), 512 * MIB);
    }

    #[test]
    fn without_a_limit_each_complaint_counts() {
        let free = Usage { limit: None, ..usage() };
        assert_eq!(target(Cause::Time, free, guest()), 0);
        let first = target(Cause::Pressure, free, guest());
        assert_eq!(first, 110 * MIB);
        let next = Guest { target: first, actual: first, available: Some(390 * MIB), ..guest() };
        let second = target(Cause::Pressure, free, next);
        assert!(second > first + CHANGE && second < 2 * first, "{second}");
        let mut size = second;
        for _ in 0..4 {
            let now = Guest { target: size, actual: size, ..next };
            let less = target(Cause::Time, free, now);
            assert!(less <= size / 2 + STEP);
            size = less;
        }
        assert_eq!(size, 0);
    }

    #[test]
    fn impossible_numbers_are_no_harm() {
        let wild = [0, 1, MIB, u64::MAX / 2, u64::MAX];
        for cause in [Cause::Pressure, Cause::Time] {
            for a in wild {
                for b in wild {
                    let usage = Usage { limit: Some(a), current: b, reclaimable: a, process: b };
                    let guest = Guest {
                        ram: 1 << 30,
                        target: 0,
                        actual: a.min(1 << 30),
                        available: Some(b),
                    };
                    for usage in [usage, Usage { limit: None, reclaimable: b, ..usage }] {
                        assert!(target(cause, usage, guest) <= 1 << 29);
                    }
                }
            }
        }
    }
}

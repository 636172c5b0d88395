//! What the process may do beyond its user: taken up where it was only permitted.
//!
//! A container that runs as another user than root is given a capability by its file (`NET_ADMIN` in
//! the image, `setcap =p`), and then has it permitted, not effective: capabilities(7). Runs before any
//! thread is started, since each thread has its own.

use caps::{CapSet, Capability};

/// Makes `NET_ADMIN` effective where it is permitted, for links, rules and taps.
///
/// # Errors
/// The kernel refuses, in words: what is permitted can always be taken up, so this is a sandbox that
/// forbids the system call.
pub fn take_up() -> Result<(), String> {
    let has = |set| caps::has_cap(None, set, Capability::CAP_NET_ADMIN);
    let raise = || -> Result<(), caps::errors::CapsError> {
        if has(CapSet::Permitted)? && !has(CapSet::Effective)? {
            caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN)?;
        }
        Ok(())
    };
    raise().map_err(|error| format!("NET_ADMIN is permitted, but cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_permitted_is_taken_up() {
        std::thread::spawn(|| {
            // Of this thread alone.
            let admin = Capability::CAP_NET_ADMIN;
            let permitted = caps::has_cap(None, CapSet::Permitted, admin).unwrap();
            caps::drop(None, CapSet::Effective, admin).unwrap();
            take_up().unwrap();
            assert_eq!(caps::has_cap(None, CapSet::Effective, admin).unwrap(), permitted);
            if permitted {
                caps::drop(None, CapSet::Effective, admin).unwrap();
                caps::drop(None, CapSet::Permitted, admin).unwrap();
                take_up().unwrap();
                assert!(!caps::has_cap(None, CapSet::Effective, admin).unwrap());
            }
        })
        .join()
        .unwrap();
    }
}

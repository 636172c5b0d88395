//! Whether the machine has a balloon, and what its guest may do with it.

use vmm::config::BalloonConfig;

use super::{ConfigError, Layers, choice};
use crate::args;
use crate::host::{BESIDE_GUEST, Host};

/// The balloon of a machine with `memory` bytes; `None`: it was not wanted.
///
/// # Errors
/// [`ConfigError`].
pub fn config(
    layers: &Layers,
    host: &Host,
    memory: u64,
) -> Result<Option<BalloonConfig>, ConfigError> {
    let wanted = choice(layers, args::BALLOON, true, "on or off", |text| match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    })?;
    // Where the limit is too low for all of its memory, a guest that takes back what it gave is one
    // whose machine is killed: better that it kills one of its own processes.
    let room = host.memory.filter(|limit| limit.by_cgroup).map(|limit| limit.bytes);
    let deflate_on_oom = room.is_none_or(|room| room >= memory.saturating_add(BESIDE_GUEST));
    Ok(wanted.then_some(BalloonConfig { deflate_on_oom }))
}

//! The board's own registers: clock and non-volatile memory, power management, resets, panics.
//!
//! Time comes from outside, so that tests decide what it is.

use std::time::Duration;

pub mod cmos;
pub mod pm;
pub mod pvpanic;
pub mod reset;

/// A clock's reading: since the machine's start for a monotonic one, since 1970 for a real one.
pub type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

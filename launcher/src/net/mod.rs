//! The guest's network as the launcher prepares it: [`link`] opens taps; [`resolv`] finds the name
//! servers that a guest is told of.

pub mod link;
#[cfg_attr(not(test), expect(dead_code, reason = "for the configuration service"))]
pub mod names;
#[cfg_attr(not(test), expect(dead_code, reason = "for the configuration service"))]
pub mod resolv;

//! The guest's network as the launcher prepares it: [`link`] opens taps; [`dhcp`] tells the guest
//! what [`guest`] says of its network, and what [`resolv`] has found of name servers.

#[cfg_attr(not(test), expect(dead_code, reason = "the modes that make a network start it"))]
pub mod dhcp;
pub mod guest;
pub mod link;
pub mod names;
#[cfg_attr(not(test), expect(dead_code, reason = "the modes that make a network name the file"))]
pub mod resolv;

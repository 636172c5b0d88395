//! The guest's network as the launcher prepares it.

pub mod link;

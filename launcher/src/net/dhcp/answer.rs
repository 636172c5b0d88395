//! What comes of a client's message, in either family.

use std::net::IpAddr;

/// The answer to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<M> {
    /// What is sent, if anything.
    pub reply: Option<M>,
    /// What became of the lease.
    pub event: Option<LeaseEvent>,
}

impl<M> Answer<M> {
    /// Nothing is sent.
    pub fn silent(event: LeaseEvent) -> Self {
        Self { reply: None, event: Some(event) }
    }
}

/// What becomes of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The client has this address, anew or still.
    Acknowledged(IpAddr),
    /// It does not want its address any more.
    Released(IpAddr),
    /// It has found its address in use by somebody else.
    Declined(IpAddr),
    /// It wanted this one, which is not its own.
    Refused(IpAddr),
}

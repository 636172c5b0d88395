//! The three ways a guest's network is made: from facts to a plan, without I/O.

pub mod direct;
pub mod nat;
pub mod pod;

//! What clients of a machine connect through. [`stream`] is a connection, whatever carries it.

pub mod stream;

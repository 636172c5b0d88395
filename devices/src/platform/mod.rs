//! The board's own registers.

//! Plans compared whole.

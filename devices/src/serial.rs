//! The serial console: a 16550 (vm-superio) at COM1, and what it is joined to.

/// Where a serial port's bytes go. Never blocks: full means drop and count.
pub trait Console: Send + Sync {
    /// Takes bytes the guest has sent.
    fn write(&self, bytes: &[u8]);
}

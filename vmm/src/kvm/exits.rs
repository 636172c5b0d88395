//! How often a vCPU has come out of guest mode, and what for.
//!
//! Written by the vCPU's thread, read by any. Halts are not among the kinds: the interrupt controllers
//! are in the kernel, and with them a vCPU that has nothing to do waits there (KVM API, 4.35
//! KVM_RUN); neither are doorbells, which KVM turns into eventfd signals.

use devices::tally::{Lane, Tally};
use kvm_ioctls::{Error, VcpuExit};

/// What KVM_RUN returned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// The guest reads a port.
    PortIn,
    /// The guest writes a port.
    PortOut,
    /// The guest reads where there is no RAM.
    MmioRead,
    /// The guest writes where there is no RAM.
    MmioWrite,
    /// A signal, most likely ours, which stops the vCPU.
    Interrupted,
    /// Anything else: a triple fault, an error.
    Other,
}

impl ExitKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [ExitKind; 6] = [
        ExitKind::PortIn,
        ExitKind::PortOut,
        ExitKind::MmioRead,
        ExitKind::MmioWrite,
        ExitKind::Interrupted,
        ExitKind::Other,
    ];

    /// What KVM says it is.
    pub fn of(outcome: &Result<VcpuExit<'_>, Error>) -> ExitKind {
        match outcome {
            Ok(VcpuExit::IoIn(..)) => ExitKind::PortIn,
            Ok(VcpuExit::IoOut(..)) => ExitKind::PortOut,
            Ok(VcpuExit::MmioRead(..)) => ExitKind::MmioRead,
            Ok(VcpuExit::MmioWrite(..)) => ExitKind::MmioWrite,
            Ok(VcpuExit::Intr) => ExitKind::Interrupted,
            Err(error) if error.errno() == libc::EINTR => ExitKind::Interrupted,
            Ok(_) | Err(_) => ExitKind::Other,
        }
    }
}

/// The exits of one vCPU.
#[derive(Debug, Default)]
pub struct Exits(Lane<[Tally; ExitKind::ALL.len()]>);

impl Exits {
    /// Counts one; only the vCPU's thread may.
    pub(super) fn count(&self, kind: ExitKind) {
        if let Some(tally) = self.0.get(kind as usize) {
            tally.add(1);
        }
    }

    /// How many there were of this kind.
    pub fn of(&self, kind: ExitKind) -> u64 {
        self.0.get(kind as usize).map_or(0, Tally::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_number() {
        let exits = Exits::default();
        for (number, kind) in ExitKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            (0..number).for_each(|_| exits.count(kind));
        }
        assert_eq!(ExitKind::ALL.map(|kind| exits.of(kind)), [0, 1, 2, 3, 4, 5]);
        let outcomes = [
            (Ok(VcpuExit::IoOut(1, &[])), ExitKind::PortOut),
            (Ok(VcpuExit::MmioRead(1, &mut [])), ExitKind::MmioRead),
            (Ok(VcpuExit::Shutdown), ExitKind::Other),
            (Err(Error::new(libc::EINTR)), ExitKind::Interrupted),
            (Err(Error::new(libc::EFAULT)), ExitKind::Other),
        ];
        for (outcome, want) in outcomes {
            assert_eq!(ExitKind::of(&outcome), want);
        }
    }
}

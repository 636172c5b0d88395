//! What becomes of the machine: a table from what happens to what is done. Pure.
//!
//! ```text
//!               power button      ┌────────┐ reset (guest, request)
//!            ┌───────────────────▶│ running │──────────┐
//!            └────────────────────│         │◀─────────┘
//!                                 └────┬────┘◀── a disk's host is full ──▶ paused ([`super::pause`])
//!   power-off, stop, panic, triple fault, failure
//!                                      ▼
//!                                    ended
//! ```
//! Events of the guest outrank requests: a guest that has powered off is not reset by a request
//! that came at the same time ([`super::mailbox`] keeps that order).

use devices::bus::GuestEvent;

use crate::kvm::vcpu::VcpuEvent;

/// Every way a machine can end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered off.
    PoweredOff,
    /// It was stopped from outside, whatever the guest was doing.
    Stopped,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// The guest's CPU ran into a triple fault.
    TripleFault,
    /// The machine cannot go on; the text says why.
    Failed(String),
}

/// What is asked of the machine from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Press the ACPI power button.
    PowerButton,
    /// Reset, as if by the guest.
    Reset,
    /// Flush the disks and end.
    Stop,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// In the guest, or on a vCPU.
    Vcpu(VcpuEvent),
    /// Outside.
    Request(Request),
    /// A disk has begun to wait for room on the host, or ceased to.
    Shortage,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing; the text is worth a line in the log.
    Note(&'static str),
    /// Press the power button.
    PressPowerButton,
    /// Reset the machine in place, and boot anew.
    Reset,
    /// See whether a disk waits for room: the guest is paused as long as one does.
    Settle,
    /// End.
    End(ExitReason),
}

/// The table.
pub fn decide(happening: Happening) -> Action {
    match happening {
        Happening::Vcpu(VcpuEvent::Guest(event)) => match event {
            GuestEvent::PowerOff => Action::End(ExitReason::PoweredOff),
            GuestEvent::Reset => Action::Reset,
            GuestEvent::Panicked => Action::End(ExitReason::GuestPanicked),
            GuestEvent::CrashLoaded => {
                Action::Note("the guest's kernel panicked and writes a dump")
            }
        },
        Happening::Vcpu(VcpuEvent::TripleFault) => Action::End(ExitReason::TripleFault),
        Happening::Vcpu(VcpuEvent::Failed(why)) => Action::End(ExitReason::Failed(why)),
        Happening::Shortage => Action::Settle,
        Happening::Request(Request::PowerButton) => Action::PressPowerButton,
        Happening::Request(Request::Reset) => Action::Reset,
        Happening::Request(Request::Stop) => Action::End(ExitReason::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_documented() {
        let guest = |event| Happening::Vcpu(VcpuEvent::Guest(event));
        let failed = || "why".to_owned();
        let table = [
            (guest(GuestEvent::PowerOff), Action::End(ExitReason::PoweredOff)),
            (guest(GuestEvent::Reset), Action::Reset),
            (guest(GuestEvent::Panicked), Action::End(ExitReason::GuestPanicked)),
            (Happening::Vcpu(VcpuEvent::TripleFault), Action::End(ExitReason::TripleFault)),
            (
                Happening::Vcpu(VcpuEvent::Failed(failed())),
                Action::End(ExitReason::Failed(failed())),
            ),
            (Happening::Shortage, Action::Settle),
            (Happening::Request(Request::PowerButton), Action::PressPowerButton),
            (Happening::Request(Request::Reset), Action::Reset),
            (Happening::Request(Request::Stop), Action::End(ExitReason::Stopped)),
        ];
        for (happening, action) in table {
            assert_eq!(decide(happening.clone()), action, "{happening:?}");
        }
        assert!(matches!(decide(guest(GuestEvent::CrashLoaded)), Action::Note(_)));
    }
}

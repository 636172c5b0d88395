//! What the machine's thread waits for: two bounded queues, the guest's served first.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::lifecycle::{Happening, Request};

/// Each vCPU has at most one happening under way, and waits after it.
const EVENTS_MAX: usize = 1024;
const REQUESTS_MAX: usize = 16;

/// A request could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
    /// Too many requests wait already.
    #[error("the machine is busy: {REQUESTS_MAX} requests wait already")]
    Busy,
}

/// The two queues.
#[derive(Default)]
pub struct Mailbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    events: VecDeque<Happening>,
    requests: VecDeque<Request>,
    ended: bool,
}

impl Mailbox {
    /// From the guest. Never blocks; a repeated event is one event.
    pub fn report(&self, happening: Happening) {
        let mut state = self.lock();
        if state.events.len() < EVENTS_MAX && state.events.back() != Some(&happening) {
            state.events.push_back(happening);
            self.arrived.notify_one();
        }
    }

    /// From outside.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn request(&self, request: Request) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.ended {
            return Err(Refused::Ended);
        }
        if state.requests.len() >= REQUESTS_MAX {
            return Err(Refused::Busy);
        }
        state.requests.push_back(request);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for the next happening.
    pub fn next(&self) -> Happening {
        let mut state = self.lock();
        loop {
            if let Some(happening) = state.events.pop_front() {
                return happening;
            }
            if let Some(request) = state.requests.pop_front() {
                return Happening::Request(request);
            }
            state = self.arrived.wait(state).expect("the mailbox's lock is never held in a panic");
        }
    }

    /// Drops the guest's events: they were of the time before a reset.
    pub fn forget_guest(&self) {
        self.lock().events.clear();
    }

    /// Refuses requests from now on.
    pub fn close(&self) {
        self.lock().ended = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the mailbox's lock is never held in a panic")
    }
}

#[cfg(test)]
mod tests {
    use devices::bus::GuestEvent;

    use super::*;
    use crate::kvm::vcpu::VcpuEvent;

    #[test]
    fn the_guest_is_served_first_and_repeats_are_one() {
        let mailbox = Mailbox::default();
        let off = Happening::Vcpu(VcpuEvent::Guest(GuestEvent::PowerOff));
        mailbox.request(Request::Reset).unwrap();
        mailbox.report(off.clone());
        mailbox.report(off.clone());
        assert_eq!(mailbox.next(), off);
        assert_eq!(mailbox.next(), Happening::Request(Request::Reset));
        mailbox.report(off);
        mailbox.forget_guest();
        mailbox.request(Request::Stop).unwrap();
        assert_eq!(mailbox.next(), Happening::Request(Request::Stop));
    }

    #[test]
    fn requests_are_bounded_and_end_with_the_machine() {
        let mailbox = Mailbox::default();
        for _ in 0..REQUESTS_MAX {
            mailbox.request(Request::PowerButton).unwrap();
        }
        assert_eq!(mailbox.request(Request::Stop), Err(Refused::Busy));
        mailbox.close();
        assert_eq!(mailbox.request(Request::Stop), Err(Refused::Ended));
    }
}

//! A stand-in for the kernel's vhost: it takes what it is told, checks the order, and serves a ring
//! when a test says so, on the test's thread.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::MutexGuard;

use virtio_queue::{Queue, QueueState, QueueT};

use super::*;
use crate::mem::GuestMemory;
use crate::net::vhost::{Ring as KernelRing, RingEvents, VhostError};
use crate::virtio::queue::{Chain, Virtqueue};

/// What today's kernels can.
pub const ALL: u64 = F_VERSION_1 | RING_FEATURES | F_MRG_RXBUF;

/// The kernel's side of one pair. Clones share it.
#[derive(Clone)]
pub struct Kernel(Arc<Mutex<State>>);

/// What it was told, and how it behaves.
pub struct State {
    /// What it offers.
    pub features: u64,
    /// What it refuses, as it is [`said`](Self::said).
    pub refuses: &'static str,
    /// Every request.
    pub said: Vec<String>,
    /// The features it was told.
    pub accepted: u64,
    /// Its rings.
    pub rings: [Served; 2],
    memory: Option<GuestMemory>,
    near: Loopback,
}

/// One ring.
#[derive(Default)]
pub struct Served {
    /// Its eventfds.
    pub events: Option<RingEvents>,
    queue: Option<QueueState>,
    next_avail: u16,
    tap: bool,
}

impl State {
    fn hear(&mut self, request: String) -> Result<(), VhostError> {
        let refused = self.refuses == request;
        self.said.push(request);
        if refused { Err(VhostError::Memory("anything, on purpose")) } else { Ok(()) }
    }
}

impl Vhost for Kernel {
    fn features(&self) -> u64 {
        self.lock().features
    }

    fn set_up(&mut self, features: u64, memory: &GuestMemory) -> Result<(), VhostError> {
        let mut state = self.lock();
        state.hear("set_up".into())?;
        state.accepted = features;
        state.memory = Some(memory.clone());
        Ok(())
    }

    fn set_ring(&mut self, ring: KernelRing, queue: &Queue) -> Result<(), VhostError> {
        let mut state = self.lock();
        state.hear(format!("set_ring {ring:?}"))?;
        assert!(state.memory.is_some(), "a ring before its memory");
        let served = &mut state.rings[ring as usize];
        assert!(!served.tap, "a ring is moved while it is served");
        (served.queue, served.next_avail) = (Some(queue.state()), queue.next_avail());
        Ok(())
    }

    fn set_events(
        &mut self,
        ring: KernelRing,
        events: Option<&RingEvents>,
    ) -> Result<(), VhostError> {
        let mut state = self.lock();
        state.hear(format!(
            "{} {ring:?}",
            if events.is_some() { "set_events" } else { "no events" }
        ))?;
        state.rings[ring as usize].events = events.cloned();
        Ok(())
    }

    fn set_backend(
        &mut self,
        ring: KernelRing,
        tap: Option<BorrowedFd<'_>>,
    ) -> Result<(), VhostError> {
        let mut state = self.lock();
        state.hear(format!(
            "{} {ring:?}",
            if tap.is_some() { "set_backend" } else { "no backend" }
        ))?;
        if let Some(tap) = tap {
            assert_eq!(tap.as_raw_fd(), state.near.fd().as_raw_fd());
            assert!(state.near.settings().enabled, "a tap queue that has not joined");
            let served = &state.rings[ring as usize];
            assert!(served.queue.is_some() && served.events.is_some(), "an unfinished ring");
        }
        state.rings[ring as usize].tap = tap.is_some();
        Ok(())
    }

    fn next_avail(&self, ring: KernelRing) -> Result<u16, VhostError> {
        let mut state = self.lock();
        state.hear(format!("next_avail {ring:?}"))?;
        assert!(!state.rings[ring as usize].tap, "it is still counting");
        Ok(state.rings[ring as usize].next_avail)
    }
}

impl Kernel {
    /// For the pair whose interface this is.
    pub fn new(near: &Loopback) -> Kernel {
        Kernel(Arc::new(Mutex::new(State {
            features: ALL,
            refuses: "",
            said: vec![],
            accepted: 0,
            memory: None,
            rings: Default::default(),
            near: near.clone(),
        })))
    }

    /// To look at it, and to change what it does.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a test has failed under this lock")
    }

    /// Which rings it serves.
    pub fn serves(&self) -> [bool; 2] {
        self.lock().rings.each_ref().map(|ring| ring.tap)
    }

    /// Serves everything available; returns how many chains that was.
    pub fn turn(&self, ring: KernelRing, mut handle: impl FnMut(&mut Chain<'_>) -> u32) -> usize {
        let State { rings, memory, accepted, .. } = &mut *self.lock();
        let served = &mut rings[ring as usize];
        let (true, Some(state), Some(memory)) = (served.tap, served.queue, memory) else {
            return 0;
        };
        let mut queue = Queue::try_from(state).unwrap();
        queue.set_next_avail(served.next_avail);
        let used = queue.used_idx(&**memory, Ordering::Acquire).unwrap().0;
        queue.set_next_used(used);
        let events = served.events.clone().unwrap();
        let live = LiveQueue { index: 0, queue, kick: events.kick.fd().clone() };
        let malformed = AtomicU64::new(0);
        let mut queue = Virtqueue::new(live, memory, *accepted, &malformed).unwrap();
        let mut count = 0;
        loop {
            match queue.pop() {
                Ok(Some(mut chain)) => {
                    let written = handle(&mut chain);
                    queue.complete(chain, written).unwrap();
                    count += 1;
                }
                Ok(None) => break,
                Err(_) => {
                    events.error.signal();
                    return count;
                }
            }
        }
        if queue.publish().unwrap() {
            events.call.signal();
        }
        assert!(!queue.enable_kicks().unwrap());
        served.next_avail = queue.into_live().queue.next_avail();
        count
    }

    /// Serves the transmit ring.
    pub fn send(&self) -> usize {
        self.turn(KernelRing::Tx, |_| 0)
    }
}

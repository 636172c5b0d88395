//! The loop that every queue thread runs: serve, publish, interrupt, sleep until kicked.
//!
//! ```text
//! disable kicks → drain the ring → publish, interrupt → enable kicks → something came? again
//!                                                                    → nothing: sleep
//! ```
//! The last look closes the race with a driver that made a chain available just before it read
//! our wish for a kick (VIRTIO 1.3 §2.7.13.4.1).

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::queue::{Chain, QueueError, Virtqueue};
use super::throttle::Throttle;
use super::{DeviceError, Interrupt, LiveQueue};
use crate::event::{Event, wait_readable};
use crate::mem::GuestMemory;
use crate::net::vhost::VhostError;
use crate::worker::Worker;

static FAILURES: Throttle = Throttle::new();

/// Why a queue's thread gave up.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The guest's rings cannot be served.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The host failed.
    #[error("queue thread cannot wait for its events")]
    Wait(#[from] io::Error),
    /// There is no io_uring, and it was asked for.
    #[error("no io_uring")]
    NoRing(#[source] io::Error),
    /// The kernel, which serves the queue, cannot.
    #[error(transparent)]
    Vhost(#[from] VhostError),
}

/// What one queue's thread works with.
pub struct Service {
    /// The queue.
    pub live: LiveQueue,
    /// The guest's RAM.
    pub memory: GuestMemory,
    /// Negotiated features.
    pub features: u64,
    /// How to tell the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// Counts refused chains.
    pub malformed: Arc<AtomicU64>,
}

impl Service {
    /// Starts a thread in which `body` serves the queue. When it fails, the device needs a reset,
    /// and the queue waits for it.
    ///
    /// # Errors
    /// When there is no thread left.
    pub fn spawn<F>(self, name: &str, body: F) -> Result<Worker<LiveQueue>, DeviceError>
    where
        F: FnOnce(&mut Virtqueue<'_>, &dyn Interrupt, &Event) -> Result<(), ServiceError>
            + Send
            + 'static,
    {
        self.spawn_with(name, || (), |(), queue, interrupt, stop| body(queue, interrupt, stop))
    }

    /// The same, with something that `make` makes in the thread before it is confined.
    ///
    /// # Errors
    /// See [`spawn`](Self::spawn).
    pub fn spawn_with<P: 'static, F>(
        self,
        name: &str,
        make: impl FnOnce() -> P + Send + 'static,
        body: F,
    ) -> Result<Worker<LiveQueue>, DeviceError>
    where
        F: FnOnce(P, &mut Virtqueue<'_>, &dyn Interrupt, &Event) -> Result<(), ServiceError>
            + Send
            + 'static,
    {
        let on_panic = self.interrupt.clone();
        let label = name.to_owned();
        Worker::spawn_with(
            name,
            move || on_panic.needs_reset(),
            make,
            move |made, stop| {
                let body = |queue: &mut Virtqueue<'_>, interrupt: &dyn Interrupt, stop: &Event| {
                    body(made, queue, interrupt, stop)
                };
                self.run(&label, body, stop)
            },
        )
        .map_err(|error| DeviceError(format!("thread {name}: {error}")))
    }

    fn run<F>(self, name: &str, body: F, stop: &Event) -> LiveQueue
    where
        F: FnOnce(&mut Virtqueue<'_>, &dyn Interrupt, &Event) -> Result<(), ServiceError>,
    {
        let Service { live, memory, features, interrupt, malformed } = self;
        match Virtqueue::new(live, &memory, features, &malformed) {
            Err((live, error)) => {
                report(name, &error.into(), &*interrupt);
                live
            }
            Ok(mut queue) => {
                if let Err(error) = body(&mut queue, &*interrupt, stop) {
                    report(name, &error, &*interrupt);
                }
                queue.into_live()
            }
        }
    }
}

/// Says that thread `name` has failed: the device needs a reset.
pub fn report(name: &str, error: &ServiceError, interrupt: &dyn Interrupt) {
    if FAILURES.allows() {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        log::error!("{name}: {error}{cause}");
    }
    interrupt.needs_reset();
}

/// Serves a queue whose chains are each dealt with at once: `handle` returns how many bytes it has
/// written.
///
/// # Errors
/// See [`ServiceError`].
pub fn serve_each(
    queue: &mut Virtqueue<'_>,
    interrupt: &dyn Interrupt,
    stop: &Event,
    mut handle: impl FnMut(&mut Chain<'_>) -> u32,
) -> Result<(), ServiceError> {
    let kick = queue.kick();
    loop {
        queue.disable_kicks()?;
        // No more than a ring's worth before we look whether to stop.
        for _ in 0..queue.size() {
            let Some(mut chain) = queue.pop()? else { break };
            let written = handle(&mut chain);
            queue.complete(chain, written)?;
        }
        if queue.publish()? {
            interrupt.queue(queue.index());
        }
        let more = queue.enable_kicks()?;
        let timeout_ms = more.then_some(0);
        let [stopped, kicked] =
            wait_readable([Some(stop.as_fd()), Some(kick.as_fd())], timeout_ms)?;
        if kicked {
            kick.take();
        }
        if stopped {
            return Ok(());
        }
    }
}

/// Stops threads, all at once, and collects their queues. A thread that panicked has none to give.
pub fn stop_all(workers: &mut Vec<Worker<LiveQueue>>) -> Vec<LiveQueue> {
    workers.iter().for_each(Worker::signal);
    workers.drain(..).filter_map(Worker::join).collect()
}

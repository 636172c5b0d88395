//! A named thread: stop event, failure report, join on drop.
//!
//! A device's thread borrows nothing from its device: what it owns (queues above all) comes back
//! as its result. A panic in it is our bug; it is reported to whoever started the thread, and the
//! machine decides what becomes of the rest.

use std::io;

use crate::event::Event;
use crate::thread::{self, Thread};

/// A running thread that ends with a `T`. Dropping it stops it, and waits.
#[derive(Debug)]
pub struct Worker<T> {
    stop: Event,
    thread: Option<Thread<T>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `body`, which must return soon after the event it is given is signalled. Should it
    /// panic, `panicked` is called, in the same thread.
    ///
    /// # Errors
    /// When there is no descriptor or thread left.
    pub fn spawn(
        name: &str,
        panicked: impl FnOnce() + Send + 'static,
        body: impl FnOnce(&Event) -> T + Send + 'static,
    ) -> io::Result<Worker<T>> {
        Self::spawn_with(name, panicked, || (), |(), stop| body(stop))
    }

    /// The same, with something that `make` makes in the thread before it is confined
    /// ([`thread::start_with`]).
    ///
    /// # Errors
    /// See [`spawn`](Self::spawn).
    pub fn spawn_with<P: 'static>(
        name: &str,
        panicked: impl FnOnce() + Send + 'static,
        make: impl FnOnce() -> P + Send + 'static,
        body: impl FnOnce(P, &Event) -> T + Send + 'static,
    ) -> io::Result<Worker<T>> {
        let stop = Event::new()?;
        let seen = stop.clone();
        let thread = thread::start_with(name, make, move |made| {
            let mut report = OnPanic(Some(panicked));
            let result = body(made, &seen);
            report.0 = None;
            result
        })?;
        Ok(Worker { stop, thread: Some(thread) })
    }

    /// Asks it to stop, without waiting: so that several can end at once.
    pub fn signal(&self) {
        self.stop.signal();
    }

    /// Stops it and waits for what it has to give back; `None` when it panicked.
    pub fn join(mut self) -> Option<T> {
        self.stop.signal();
        self.thread.take().and_then(Thread::join)
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stop.signal();
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

struct OnPanic<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        let Some(report) = self.0.take() else { return };
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        log::error!("thread {name} panicked");
        report();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::mpsc;

    use super::*;
    use crate::event::wait_readable;

    #[test]
    fn it_runs_until_stopped_and_gives_its_result() {
        let worker = Worker::spawn(
            "test",
            || unreachable!("it does not panic"),
            |stop| {
                wait_readable([Some(stop.as_fd())], None).unwrap();
                std::thread::current().name().map(str::to_owned)
            },
        )
        .unwrap();
        assert_eq!(worker.join().unwrap().as_deref(), Some("test"));
    }

    #[test]
    fn what_it_would_have_reported_to_is_let_go() {
        let held = std::sync::Arc::new(());
        let share = held.clone();
        let worker = Worker::spawn("test", move || drop(share), |_| ()).unwrap();
        assert!(worker.join().is_some());
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    #[test]
    fn dropping_it_waits_for_the_end() {
        let (ended, end) = mpsc::channel();
        let worker = Worker::spawn(
            "test",
            || (),
            move |stop| {
                wait_readable([Some(stop.as_fd())], None).unwrap();
                ended.send(()).unwrap();
            },
        )
        .unwrap();
        drop(worker);
        end.try_recv().unwrap();
    }

    #[test]
    fn a_panic_is_reported_and_joined() {
        let (report, reports) = mpsc::channel();
        let worker = Worker::<()>::spawn(
            "test",
            move || report.send(()).unwrap(),
            |_| panic!("on purpose: a test of the report"),
        )
        .unwrap();
        reports.recv().unwrap();
        assert!(worker.join().is_none());
    }
}

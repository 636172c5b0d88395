//! How every thread of the process is started: under a name that says what it does, by whoever the
//! process has appointed.
//!
//! A process that confines its threads appoints a [`Starter`] before it starts any: one that knows
//! the names, and what each may do. Without one a thread is an ordinary thread. It matters who
//! starts a thread, not only what it does at first: a thread inherits what its starter may not do.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Size of a thread's stack in bytes, unless it asks for another. Less than a huge page: where the
/// kernel gives those to whoever can take one (`transparent_hugepage/enabled` is `always`), a stack of
/// 2 MiB, of which a few KiB are used, is all there from the first touch.
pub const STACK_BYTES: usize = 1 << 20;

/// What a thread runs.
pub type Body = Box<dyn FnOnce()>;
/// What a thread runs first, and what it goes on with.
pub type Prologue = Box<dyn FnOnce() -> Body + Send>;

/// A thread that is asked for.
pub struct Request {
    /// Its name: what it does, and a number where there are several. The kernel keeps 15 bytes.
    pub name: String,
    /// Size of its stack in bytes.
    pub stack_bytes: usize,
    /// What it runs first: it makes what the thread itself may not make any more once it is
    /// confined. What that answers is to run after.
    pub prologue: Prologue,
}

impl Request {
    /// Starts it as a thread of the calling one, which calls `confine` between its prologue and
    /// the rest.
    ///
    /// # Errors
    /// There is no thread left.
    pub fn spawn(self, confine: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let builder = Builder::new().name(self.name).stack_size(self.stack_bytes);
        builder.spawn(move || {
            let body = (self.prologue)();
            confine();
            body();
        })
    }
}

/// Starts threads for the whole process. Called from any thread, which may hold locks.
pub trait Starter: Send + Sync {
    /// Starts one.
    ///
    /// # Errors
    /// There is no thread left, or none of that name may be.
    fn start(&self, request: Request) -> io::Result<JoinHandle<()>>;
}

static STARTER: OnceLock<Box<dyn Starter>> = OnceLock::new();

/// Appoints who starts threads from now on. False: somebody was appointed before, and stays.
pub fn appoint(starter: Box<dyn Starter>) -> bool {
    STARTER.set(starter).is_ok()
}

/// A thread that ends with a `T`. Dropping it leaves it running.
#[derive(Debug)]
pub struct Thread<T> {
    handle: JoinHandle<()>,
    result: Arc<Mutex<Option<T>>>,
}

impl<T> Thread<T> {
    /// The thread itself.
    pub fn handle(&self) -> &JoinHandle<()> {
        &self.handle
    }

    /// Waits for its end; `None`: it panicked, and that was reported.
    pub fn join(self) -> Option<T> {
        // A panic leaves no result behind.
        let _ = self.handle.join();
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Starts a thread called `name` that runs `body`.
///
/// # Errors
/// There is no thread left, or none of that name may be.
pub fn start<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    begin(name, STACK_BYTES, || (), |()| body())
}

/// The same, on a stack of `stack_bytes`.
///
/// # Errors
/// See [`start`].
pub fn start_with_stack<T: Send + 'static>(
    name: &str,
    stack_bytes: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    begin(name, stack_bytes, || (), |()| body())
}

/// The same, with something that is made in the thread before it is confined.
///
/// # Errors
/// See [`start`].
pub fn start_with<P: 'static, T: Send + 'static>(
    name: &str,
    make: impl FnOnce() -> P + Send + 'static,
    body: impl FnOnce(P) -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    begin(name, STACK_BYTES, make, body)
}

fn begin<P: 'static, T: Send + 'static>(
    name: &str,
    stack_bytes: usize,
    make: impl FnOnce() -> P + Send + 'static,
    body: impl FnOnce(P) -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    let result = Arc::new(Mutex::new(None));
    let place = Arc::clone(&result);
    let prologue = Box::new(move || {
        let made = make();
        Box::new(move || {
            let value = body(made);
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        }) as Body
    });
    let request = Request { name: name.to_owned(), stack_bytes, prologue };
    let handle = match STARTER.get() {
        Some(starter) => starter.start(request),
        None => request.spawn(|| ()),
    }?;
    Ok(Thread { handle, result })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_a_name_a_stack_and_a_result() {
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(start("one", name).unwrap().join().unwrap().as_deref(), Some("one"));
        let large = start_with_stack("two", 16 << 20, || {
            // More than the usual 1 MiB, and not too much for a build that copies it.
            let array = std::hint::black_box([1_u8; 3 << 20]);
            array.iter().map(|byte| usize::from(*byte)).sum::<usize>()
        });
        assert_eq!(large.unwrap().join(), Some(3 << 20));
        let made = start_with("made", || 5, |made| made + 1);
        assert_eq!(made.unwrap().join(), Some(6));
        let panicked: Thread<()> = start("three", || panic!("on purpose")).unwrap();
        assert!(panicked.join().is_none());
    }
}

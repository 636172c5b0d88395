//! Two ends of a cable, for tests: what one sends, the other receives.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use vm_memory::{Bytes, VolatileSlice};

use super::{NetBackend, Offloads, Received};
use crate::event::Event;

/// Frames on their way in one direction; more are lost.
const CAPACITY: usize = 1024;

/// One end of the cable.
#[derive(Clone)]
pub struct Loopback {
    inbox: Arc<Wire>,
    outbox: Arc<Wire>,
    settings: Arc<Mutex<Settings>>,
}

/// What the end was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// By [`NetBackend::set_guest_offloads`].
    pub offloads: Offloads,
    /// By [`NetBackend::set_enabled`].
    pub enabled: bool,
}

struct Wire {
    frames: Mutex<VecDeque<Vec<u8>>>,
    ready: Event,
}

/// A cable's two ends.
///
/// # Errors
/// When the process has no descriptor left.
pub fn pair() -> io::Result<(Loopback, Loopback)> {
    let wire = || -> io::Result<Arc<Wire>> {
        Ok(Arc::new(Wire { frames: Mutex::default(), ready: Event::new()? }))
    };
    let (there, back) = (wire()?, wire()?);
    let end = |inbox: &Arc<Wire>, outbox: &Arc<Wire>| Loopback {
        inbox: inbox.clone(),
        outbox: outbox.clone(),
        settings: Arc::default(),
    };
    Ok((end(&back, &there), end(&there, &back)))
}

impl Loopback {
    /// Sends the bytes, header included; false when the cable is full, and they are lost.
    pub fn put(&self, frame: &[u8]) -> bool {
        let mut frames = self.outbox.lock();
        if frames.len() >= CAPACITY {
            return false;
        }
        frames.push_back(frame.to_vec());
        self.outbox.ready.signal();
        true
    }

    /// Receives a frame's bytes, header included.
    pub fn get(&self) -> Option<Vec<u8>> {
        let mut frames = self.inbox.lock();
        let frame = frames.pop_front();
        if frames.is_empty() {
            self.inbox.ready.take();
        }
        frame
    }

    /// Frames not received yet.
    pub fn waiting(&self) -> usize {
        self.inbox.lock().len()
    }

    /// Readable while frames wait.
    pub fn ready(&self) -> &Event {
        &self.inbox.ready
    }

    /// What this end was told.
    pub fn settings(&self) -> Settings {
        *self.settings.lock().expect("nothing panics under this lock")
    }
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.frames.lock().expect("nothing panics under this lock")
    }
}

impl NetBackend for Loopback {
    fn fd(&self) -> BorrowedFd<'_> {
        self.inbox.ready.as_fd()
    }

    fn has_uso(&self) -> bool {
        true
    }

    fn set_guest_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        self.settings.lock().expect("nothing panics under this lock").offloads = offloads;
        Ok(())
    }

    fn set_enabled(&mut self, enabled: bool) -> io::Result<()> {
        self.settings.lock().expect("nothing panics under this lock").enabled = enabled;
        Ok(())
    }

    fn receive(&mut self, bufs: &[VolatileSlice<'_>]) -> io::Result<Received> {
        let Some(frame) = self.get() else { return Ok(Received::Nothing) };
        let mut rest = &frame[..];
        for buf in bufs {
            let count = rest.len().min(buf.len());
            buf.copy_from(&rest[..count]);
            rest = &rest[count..];
        }
        Ok(if rest.is_empty() { Received::Frame(frame.len()) } else { Received::TooLarge })
    }

    fn send(&mut self, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut frame = vec![];
        for buf in bufs {
            let start = frame.len();
            frame.resize(start + buf.len(), 0);
            buf.read_slice(&mut frame[start..], 0).map_err(io::Error::other)?;
        }
        if self.put(&frame) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

//! The plain engine: one request after the other, by calls to the backend. It is what remains
//! where the kernel allows no io_uring.
//!
//! Requests are done in the order in which they come, but that a flush does not wait behind those
//! that the disk's limits keep. A request that finds no room on the host stays the first in line.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Instant;

use super::counters::Ended;
use super::disk::{Disk, Task};
use super::request::{Kind, Request, S_OK};
use super::waits::Waits;
use crate::block::BlockError;
use crate::event::{Event, wait_readable};
use crate::virtio::Interrupt;
use crate::virtio::buffers::Buffers;
use crate::virtio::queue::{Chain, Virtqueue};
use crate::virtio::service::ServiceError;

/// Serves the queue until `stop`, and until what was taken of it has ended.
///
/// # Errors
/// When the rings cannot be served.
pub fn serve(
    disk: &Disk,
    queue: &mut Virtqueue<'_>,
    interrupt: &dyn Interrupt,
    stop: &Event,
) -> Result<(), ServiceError> {
    let kick = queue.kick();
    let mut line =
        Line { disk, kept: VecDeque::new(), waits: Waits::new()?, stopping: false, done: vec![] };
    loop {
        let mut more = false;
        line.go_on();
        if line.accepts() {
            queue.disable_kicks()?;
            let mut taken = None;
            // No more than a ring's worth before we look whether to stop.
            for _ in 0..queue.size() {
                let Some(chain) = queue.pop()? else { break };
                line.take(chain, *taken.get_or_insert_with(Instant::now));
                if !line.accepts() {
                    break;
                }
            }
        }
        line.complete(queue)?;
        if queue.publish()? {
            interrupt.queue(queue.index());
        }
        if line.stopping {
            line.waits.report(disk);
            return Ok(());
        }
        if line.accepts() {
            more = queue.enable_kicks()?;
        }
        line.waits.set_timer()?;
        let [stopped, kicked, timed, woken] = wait_readable(
            [
                Some(stop.as_fd()),
                line.accepts().then(|| kick.as_fd()),
                Some(line.waits.timer().as_fd()),
                Some(line.waits.wake().as_fd()),
            ],
            more.then_some(0),
        )?;
        if kicked {
            kick.take();
        }
        if timed {
            line.waits.timer().take();
        }
        line.waits.woken |= woken && line.waits.wake().take();
        line.stopping = stopped;
    }
}

/// The requests that were taken off the ring, and are not done.
struct Line<'d, 'm> {
    disk: &'d Disk,
    kept: VecDeque<Kept<'m>>,
    waits: Waits,
    stopping: bool,
    done: Vec<Done<'m>>,
}

/// A request whose status is written; `None`: it is not counted.
type Done<'m> = (Chain<'m>, u32, Option<Ended>);

struct Kept<'m> {
    chain: Chain<'m>,
    request: Request<'m>,
    task: Task,
    /// When it was taken off the ring.
    taken: Instant,
    /// It has passed the disk's limits.
    passed: bool,
}

impl<'m> Line<'_, 'm> {
    /// Whether new requests are taken.
    fn accepts(&self) -> bool {
        !self.stopping && !self.waits.stall.is_on()
    }

    /// Counts what is done, and puts it where the driver finds it.
    fn complete(&mut self, queue: &mut Virtqueue<'m>) -> Result<(), ServiceError> {
        if self.done.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        for (chain, written, ended) in self.done.drain(..) {
            if let Some(ended) = &ended {
                self.disk.counters.count(queue.index(), ended, now);
            }
            queue.complete(chain, written)?;
        }
        Ok(())
    }

    /// Takes a request: does it, or keeps it.
    fn take(&mut self, mut chain: Chain<'m>, taken: Instant) {
        let Some(request) = Request::parse(&mut chain) else {
            self.done.push((chain, 0, None));
            return;
        };
        let task = self.disk.task(&request, &mut chain);
        let kept = Kept { chain, request, task, taken, passed: false };
        // A flush covers what was completed before it, and nothing that waits here.
        if self.kept.is_empty() || matches!(kept.task, Task::Flush) {
            self.kept.push_front(kept);
        } else {
            self.kept.push_back(kept);
        }
        self.go_on();
    }

    /// Does what was kept, from the front, until something has to wait. When stopping, nothing
    /// does.
    fn go_on(&mut self) {
        if self.waits.stall.is_on() {
            let now = Instant::now();
            if !self.stopping && !self.waits.is_time_to_try(now) {
                return;
            }
            self.waits.try_again(self.disk, now);
        }
        self.waits.woken = false;
        self.waits.turn = None;
        while let Some(mut kept) = self.kept.pop_front() {
            let len = kept.request.data(&kept.chain).len() as u64;
            if !kept.passed
                && !self.stopping
                && let Err(at) = self.disk.admit(&kept.task, len)
            {
                self.waits.turn = Some(at);
                self.kept.push_front(kept);
                break;
            }
            kept.passed = true;
            let Some((status, written)) = self.attempt(&mut kept) else {
                self.kept.push_front(kept);
                return;
            };
            kept.request.finish(status);
            let written = u32::try_from(written).unwrap_or(u32::MAX).saturating_add(1);
            let bytes = kept.task.bytes(len);
            let ended = Ended::new(kept.request.kind, status, bytes, kept.taken);
            self.done.push((kept.chain, written, ended));
        }
        self.waits.stall.end();
    }

    /// Does one request: its status, and how many bytes of data it has written to guest memory.
    /// `None`: there is no room for it on the host.
    fn attempt(&mut self, kept: &mut Kept<'m>) -> Option<(u8, usize)> {
        let data = kept.request.data(&kept.chain);
        let (kind, len) = (kept.request.kind, data.len());
        let done = match &mut kept.task {
            Task::Answer { status, written } => return Some((*status, *written)),
            Task::Flush => self.disk.backend.flush(),
            Task::Trim(segments) => segments.run(self.disk),
            Task::Transfer { offset } => transfer(self.disk, kind, data, *offset),
        };
        let status = match done {
            Ok(()) => S_OK,
            Err(error) => self.waits.outcome(self.disk, &error, self.stopping)?,
        };
        Some((status, if kind == Kind::In { len } else { 0 }))
    }
}

fn transfer(disk: &Disk, kind: Kind, data: &Buffers<'_>, offset: u64) -> Result<(), BlockError> {
    match kind {
        _ if data.is_empty() => Ok(()),
        Kind::In => disk.backend.read_at(data.pieces(), offset),
        _ => {
            disk.backend.write_at(data.pieces(), offset)?;
            if disk.write_through { disk.backend.flush() } else { Ok(()) }
        }
    }
}

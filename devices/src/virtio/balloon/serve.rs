//! The balloon's thread: serves every queue, a ring's worth of each at a time, and sleeps until one is
//! kicked or somebody asks for statistics.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::control::Control;
use super::pages::Pages;
use super::statistics::Statistics;
use super::{F_PAGE_POISON, F_REPORTING, F_STATS_VQ, QUEUES};
use crate::event::{Event, wait_readable};
use crate::mem::{GuestMemory, Reclaim};
use crate::virtio::queue::{Chain, QueueError, Virtqueue};
use crate::virtio::service::{ServiceError, report};
use crate::virtio::{Interrupt, LiveQueue};

/// What the thread works with.
pub(super) struct Job {
    pub(super) memory: GuestMemory,
    pub(super) features: u64,
    pub(super) interrupt: Arc<dyn Interrupt>,
    pub(super) control: Arc<Control>,
    /// `None`: nothing is given back.
    pub(super) reclaim: Option<Arc<dyn Reclaim>>,
    pub(super) malformed: Arc<AtomicU64>,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

impl Role {
    /// Of queue `index`, with these features; see the head of [`super`] for the last two.
    fn of(index: u16, features: u64) -> Option<Role> {
        match index {
            0 => Some(Role::Inflate),
            1 => Some(Role::Deflate),
            2 if features & F_STATS_VQ != 0 => Some(Role::Statistics),
            _ => Some(Role::Reporting).filter(|_| features & F_REPORTING != 0),
        }
    }
}

/// A queue that is served.
struct Served<'m> {
    role: Role,
    queue: Virtqueue<'m>,
    kick: Event,
    /// The driver's buffer for statistics, until somebody asks for new ones.
    held: Option<Chain<'m>>,
}

impl Job {
    /// Serves `queues` until `stop`, and gives them back.
    pub(super) fn run(self, queues: Vec<LiveQueue>, stop: &Event) -> Vec<LiveQueue> {
        let (mut served, mut idle) = (Vec::new(), Vec::new());
        let mut failed = None;
        for live in queues {
            let Some(role) = Role::of(live.index, self.features) else {
                idle.push(live);
                continue;
            };
            match Virtqueue::new(live, &self.memory, self.features, &self.malformed) {
                Ok(queue) => {
                    let kick = queue.kick();
                    served.push(Served { role, queue, kick, held: None });
                }
                Err((live, error)) => {
                    idle.push(live);
                    failed = Some(error);
                }
            }
        }
        let outcome = match failed {
            Some(error) => Err(error.into()),
            None => self.serve(&mut served, stop),
        };
        if let Err(error) = outcome {
            report("balloon", &error, &*self.interrupt);
        }
        for mut queue in served {
            if let Some(chain) = queue.held.take() {
                queue.queue.unpop(chain);
            }
            idle.push(queue.queue.into_live());
        }
        idle
    }

    fn serve<'m>(&'m self, served: &mut [Served<'m>], stop: &Event) -> Result<(), ServiceError> {
        let pages = self.reclaim.as_deref().map(|reclaim| Pages {
            memory: &self.memory,
            reclaim,
            control: &self.control,
            malformed: &self.malformed,
        });
        let ask = self.control.ask();
        let mut asked = false;
        loop {
            let mut more = false;
            for queue in served.iter_mut() {
                more |= self.turn(queue, pages.as_ref(), asked)?;
            }
            let mut fds = [None; QUEUES + 2];
            let kicks = served.iter().map(|queue| &queue.kick);
            for (fd, event) in fds.iter_mut().zip([stop, ask].into_iter().chain(kicks)) {
                *fd = Some(event.as_fd());
            }
            let ready = wait_readable(fds, more.then_some(0))?;
            let [stopped, is_asked, kicked @ ..] = ready;
            asked = is_asked && ask.take();
            for (queue, _) in served.iter().zip(kicked).filter(|(_, kicked)| *kicked) {
                queue.kick.take();
            }
            if stopped {
                return Ok(());
            }
        }
    }

    /// Serves one queue; true when there is more to be done at once.
    fn turn(
        &self,
        served: &mut Served<'_>,
        pages: Option<&Pages<'_>>,
        asked: bool,
    ) -> Result<bool, QueueError> {
        let Served { role, queue, held, .. } = served;
        queue.disable_kicks()?;
        if asked && let Some(chain) = held.take() {
            queue.complete(chain, 0)?;
        }
        for _ in 0..queue.size() {
            if held.is_some() {
                break;
            }
            let Some(mut chain) = queue.pop()? else { break };
            match role {
                Role::Inflate => {
                    pages.iter().for_each(|pages| pages.numbered(&mut chain.readable));
                }
                Role::Deflate => {}
                Role::Reporting if self.keeps_poison() => {}
                Role::Reporting => pages.iter().for_each(|it| it.described(&chain.writable)),
                Role::Statistics => {
                    self.control.tell(Statistics::read(&mut chain.readable));
                    *held = Some(chain);
                    break;
                }
            }
            queue.complete(chain, 0)?;
        }
        if queue.publish()? {
            self.interrupt.queue(queue.index());
        }
        // A second buffer for statistics waits until the first is given back.
        Ok(queue.enable_kicks()? && held.is_none())
    }

    /// Whether the driver relies on what it has filled free pages with, and that is not zeroes.
    fn keeps_poison(&self) -> bool {
        self.features & F_PAGE_POISON != 0 && self.control.poison.load(Ordering::Relaxed) != 0
    }
}

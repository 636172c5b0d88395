//! Entropy for the guest (VIRTIO 1.3 §5.4): one queue of buffers to fill with random bytes.
//!
//! The smallest whole device, and the model for the others: it says what it is, takes the queue
//! when the driver is ready, serves it in a thread of its own, and gives it back.
//!
//! The host's getrandom never runs dry, so there is no rate limit; but a request is answered with
//! at most 64 KiB (a device may return less than was asked for, §5.4.6), so that none takes long.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::buffers::Buffers;
use super::service::{Service, serve_each, stop_all};
use super::{Activation, DeviceError, LiveQueue, RING_FEATURES, VirtioDevice};
use crate::worker::Worker;

const ID_ENTROPY: u16 = 4;
/// Unclassified; what QEMU's device has.
const CLASS: u32 = 0x00_ff_00;
const QUEUE_SIZE: u16 = 64;
/// Most bytes of one answer.
const MAX_ANSWER: usize = 64 << 10;
/// Bytes taken from the host at a time.
const BATCH: usize = 4096;

/// An entropy device.
#[derive(Default)]
pub struct Rng {
    workers: Vec<Worker<LiveQueue>>,
    malformed: Arc<AtomicU64>,
}

impl Rng {
    /// A device that draws on the host's getrandom.
    pub fn new() -> Rng {
        Rng::default()
    }

    /// Counts the chains refused as malformed.
    pub fn malformed(&self) -> Arc<AtomicU64> {
        self.malformed.clone()
    }
}

/// Fills `buffers` up to [`MAX_ANSWER`], and returns how much that was.
fn fill(buffers: &mut Buffers<'_>) -> u32 {
    let mut written = 0;
    let mut batch = [0; BATCH];
    while written < MAX_ANSWER && !buffers.is_empty() {
        let some = &mut batch[..BATCH.min(buffers.len())];
        if getrandom::fill(some).is_err() {
            break;
        }
        match buffers.write(some) {
            0 => break,
            count => written += count,
        }
    }
    written as u32
}

impl VirtioDevice for Rng {
    fn id(&self) -> u16 {
        ID_ENTROPY
    }

    fn pci_class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn start(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, features, queues, interrupt } = activation;
        for live in queues {
            let service = Service {
                live,
                memory: memory.clone(),
                features,
                interrupt: interrupt.clone(),
                malformed: self.malformed.clone(),
            };
            self.workers.push(service.spawn("rng", |queue, interrupt, stop| {
                serve_each(queue, interrupt, stop, |chain| fill(&mut chain.writable))
            })?);
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<LiveQueue> {
        stop_all(&mut self.workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testkit::Rig;
    use crate::virtio::{F_EVENT_IDX, F_VERSION_1};

    #[test]
    fn buffers_are_filled_with_what_is_not_zero() {
        for features in [F_VERSION_1, F_VERSION_1 | F_EVENT_IDX] {
            let mut rig = Rig::new(Box::new(Rng::new()));
            rig.bring_up(features);
            let (first, second) = (rig.ram.take(5000), rig.ram.take(16));
            rig.queue(0).add(&[], &[(first, 5000), (second, 16)]);
            assert_eq!(rig.complete(0), [(0, 5016)]);
            assert!(
                rig.ram.read(first, 5000).chunks(16).all(|bytes| bytes.iter().any(|b| *b != 0))
            );
            assert!(rig.ram.read(second, 16).iter().any(|b| *b != 0));
        }
    }

    #[test]
    fn an_answer_has_a_limit() {
        let mut rig = Rig::new(Box::new(Rng::new()));
        rig.bring_up(F_VERSION_1);
        let buffer = rig.ram.take(0x2_0000);
        rig.queue(0).add(&[], &[(buffer, 0x2_0000)]);
        assert_eq!(rig.complete(0), [(0, MAX_ANSWER as u32)]);
        assert_eq!(rig.ram.read(buffer + MAX_ANSWER as u64, 16), [0; 16]);
    }

    #[test]
    fn nothing_to_write_is_answered_with_nothing() {
        let mut rig = Rig::new(Box::new(Rng::new()));
        rig.bring_up(F_VERSION_1);
        let buffer = rig.ram.take(16);
        rig.queue(0).add(&[(buffer, 16)], &[]);
        assert_eq!(rig.complete(0), [(0, 0)]);
    }
}

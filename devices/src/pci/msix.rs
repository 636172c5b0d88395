//! MSI-X table and pending bits (PCI 3.0 §6.8.2): a masked vector is pending, never lost.
//!
//! ```text
//! table entry (16 bytes)   0 address low | 4 address high | 8 data | 12 control (bit 0 masked)
//! pending bits             1 bit a vector, 64 to a quadword, read-only
//! ```
//! Runs on vCPU threads (accesses) and on whichever thread sends. One lock covers the table.
//!
//! # Eventfds
//!
//! A vector is sent by [`MsiSink::send`], or by an eventfd that the kernel's vhost worker signals
//! without our knowing ([`Msix::connect`]). The latter must honour masks just as well:
//!
//! - While the vector may be sent, the eventfd is connected to its route: KVM turns each signal into
//!   the message.
//! - While it may not, the eventfd is disconnected, so that the counter keeps the signals: they are
//!   the pending bit, and are made that when somebody looks at it or a change may let them out.
//!
//! Nothing is lost between the two. KVM empties the counter in the very step in which it ceases to
//! hear of signals, so that each of them was either sent or is left for us. On opening, the counter
//! is taken first, then the eventfd connected, then what was taken sent; a signal in between is in
//! the counter when KVM looks at it, which it does on connecting. Two threads cannot disagree on
//! whether it is connected: both hold the lock. Signals that nobody has looked for yet, and several
//! at once, are one interrupt, as several writes of a pending bit are.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::event::Event;
use crate::irq::{MsiMessage, MsiRoute, MsiSink};

/// Bytes of one table entry.
pub const ENTRY_LEN: u64 = 16;

const CONTROL_MASKED: u32 = 1;

/// A function's MSI-X vectors.
pub struct Msix {
    state: Mutex<State>,
}

struct State {
    enabled: bool,
    function_masked: bool,
    vectors: Vec<Vector>,
}

struct Vector {
    route: Arc<dyn MsiRoute>,
    message: MsiMessage,
    /// What the route was last pointed at.
    routed: Option<MsiMessage>,
    control: u32,
    pending: bool,
    sources: Vec<Source>,
}

/// An eventfd that sends a vector.
struct Source {
    event: Event,
    /// The route has it: its signals need not be looked for.
    connected: bool,
}

impl Msix {
    /// A table with one vector for each of `routes`, all masked; at most 2048.
    pub fn new(routes: Vec<Arc<dyn MsiRoute>>) -> Arc<Msix> {
        assert!((1..=2048).contains(&routes.len()), "MSI-X has 1 to 2048 vectors");
        let vectors = routes
            .into_iter()
            .map(|route| Vector {
                route,
                message: MsiMessage::default(),
                routed: None,
                control: CONTROL_MASKED,
                pending: false,
                sources: Vec::new(),
            })
            .collect();
        Arc::new(Msix {
            state: Mutex::new(State { enabled: false, function_masked: false, vectors }),
        })
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.lock().vectors.len()
    }

    /// Never true: a function without vectors has no table.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Takes the enable and function-mask bits of message control (bits 15 and 14).
    pub fn set_control(&self, enabled: bool, function_masked: bool) {
        let mut state = self.lock();
        // What came before this belongs to the time before: pending, or sent in vain.
        let was_enabled = state.enabled;
        for vector in &mut state.vectors {
            let came = vector.take_signals();
            vector.pending |= came && was_enabled;
        }
        state.enabled = enabled;
        state.function_masked = function_masked;
        state.deliver_all();
    }

    /// Lets each signal of `event` send `vector`, and no other vector any longer; with one that
    /// does not exist, signals have no effect. A signal is treated as [`MsiSink::send`] at that
    /// moment would be. The same event twice is as good as once.
    pub fn connect(&self, event: &Event, vector: u16) {
        let mut state = self.lock();
        let to = usize::from(vector);
        if state.leave(event, to) {
            return;
        }
        if let Some(vector) = state.vectors.get_mut(to) {
            vector.sources.push(Source { event: event.clone(), connected: false });
            state.deliver(to);
        }
    }

    /// Reads the table, `offset` from its start.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        let Some((vector, at)) = state.locate(offset, data.len()) else {
            return data.fill(0xff);
        };
        let bytes = state.vectors[vector].bytes();
        data.copy_from_slice(&bytes[at..at + data.len()]);
    }

    /// Writes the table, `offset` from its start.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        let Some((index, at)) = state.locate(offset, data.len()) else { return };
        let vector = &mut state.vectors[index];
        let mut bytes = vector.bytes();
        bytes[at..at + data.len()].copy_from_slice(data);
        vector.take(bytes);
        state.deliver(index);
    }

    /// Reads the pending bits, `offset` from their start.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.lock();
        if state.enabled {
            state.vectors.iter_mut().for_each(|v| v.pending |= v.take_signals());
        }
        for (byte, index) in data.iter_mut().zip(0u64..) {
            let first = offset.saturating_add(index).saturating_mul(8);
            let first = usize::try_from(first).unwrap_or(usize::MAX);
            *byte = (0..8)
                .filter(|bit| {
                    first
                        .checked_add(*bit)
                        .and_then(|v| state.vectors.get(v))
                        .is_some_and(|v| v.pending)
                })
                .fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.enabled = false;
        state.function_masked = false;
        for vector in &mut state.vectors {
            vector.message = MsiMessage::default();
            vector.control = CONTROL_MASKED;
            vector.pending = false;
            vector.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the table's lock is never held in a panic")
    }
}

impl MsiSink for Msix {
    fn send(&self, vector: u16) {
        let mut state = self.lock();
        let index = usize::from(vector);
        // A function whose MSI-X is off sends nothing; it would use INTx, which we do not have.
        if !state.enabled || index >= state.vectors.len() {
            return;
        }
        state.vectors[index].pending = true;
        state.deliver(index);
    }
}

impl State {
    /// Vector and offset in its entry of an access that stays inside one entry.
    fn locate(&self, offset: u64, len: usize) -> Option<(usize, usize)> {
        let vector = usize::try_from(offset / ENTRY_LEN).ok()?;
        let at = (offset % ENTRY_LEN) as usize;
        (vector < self.vectors.len() && at + len <= ENTRY_LEN as usize).then_some((vector, at))
    }

    fn deliver_all(&mut self) {
        for index in 0..self.vectors.len() {
            self.deliver(index);
        }
    }

    /// Takes `event` away from the vector that it sends; true when that is `to`, and it stays.
    fn leave(&mut self, event: &Event, to: usize) -> bool {
        let same = |source: &Source| Arc::ptr_eq(source.event.fd(), event.fd());
        let found = self
            .vectors
            .iter()
            .zip(0..)
            .find_map(|(vector, index)| Some((index, vector.sources.iter().position(same)?)));
        match found {
            Some((from, _)) if from == to => return true,
            Some((from, at)) => {
                let vector = &mut self.vectors[from];
                let came = vector.take_signals();
                vector.pending |= came && self.enabled;
                let source = vector.sources.swap_remove(at);
                if source.connected {
                    vector.route.disconnect(&source.event);
                }
            }
            // What was signalled while it led nowhere has no effect.
            None => drop(event.take()),
        }
        false
    }

    /// Points the route at the message while the vector is usable, and sends what is pending.
    fn deliver(&mut self, index: usize) {
        let open = self.enabled && !self.function_masked;
        let vector = &mut self.vectors[index];
        if !open || vector.control & CONTROL_MASKED != 0 {
            return vector.close();
        }
        if vector.routed != Some(vector.message) {
            vector.route.set(vector.message);
            vector.routed = Some(vector.message);
        }
        vector.pending |= vector.take_signals();
        vector.open();
        if std::mem::take(&mut vector.pending) {
            vector.route.fire();
        }
    }
}

impl Vector {
    /// Hands the eventfds to the route. One that it refuses is tried again at the next change.
    fn open(&mut self) {
        for source in self.sources.iter_mut().filter(|source| !source.connected) {
            match self.route.connect(&source.event) {
                Ok(()) => source.connected = true,
                Err(error) => log::error!("an interrupt cannot be connected: {error}"),
            }
        }
    }

    /// Takes the eventfds back from the route: from here on their counters remember.
    fn close(&mut self) {
        for source in self.sources.iter_mut().filter(|source| source.connected) {
            self.route.disconnect(&source.event);
            source.connected = false;
        }
    }

    /// Takes the signals that the route does not; true when there were any.
    fn take_signals(&self) -> bool {
        let waiting = self.sources.iter().filter(|source| !source.connected);
        waiting.fold(false, |any, source| source.event.take() | any)
    }

    fn bytes(&self) -> [u8; ENTRY_LEN as usize] {
        let mut bytes = [0; ENTRY_LEN as usize];
        bytes[..8].copy_from_slice(&self.message.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.message.data.to_le_bytes());
        bytes[12..].copy_from_slice(&self.control.to_le_bytes());
        bytes
    }

    fn take(&mut self, bytes: [u8; ENTRY_LEN as usize]) {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        // Bits 1:0 of the address are zero by definition.
        self.message.address = u64::from(word(4)) << 32 | u64::from(word(0) & !3);
        self.message.data = word(8);
        self.control = word(12) & CONTROL_MASKED;
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::RecordingRoute;

    fn table(vectors: usize) -> (Arc<Msix>, Vec<Arc<RecordingRoute>>) {
        let routes: Vec<_> = (0..vectors).map(|_| Arc::new(RecordingRoute::default())).collect();
        let msix = Msix::new(routes.iter().map(|r| r.clone() as Arc<dyn MsiRoute>).collect());
        (msix, routes)
    }

    fn program(msix: &Msix, vector: u64, data: u32, masked: u32) {
        let base = vector * ENTRY_LEN;
        msix.write_table(base, &0xfee0_1000u64.to_le_bytes());
        msix.write_table(base + 8, &data.to_le_bytes());
        msix.write_table(base + 12, &masked.to_le_bytes());
    }

    fn sent(route: &RecordingRoute) -> Vec<u32> {
        route.sent.lock().unwrap().iter().map(|m| m.data).collect()
    }

    #[test]
    fn a_masked_vector_is_pending_and_sent_once_when_unmasked() {
        let (msix, routes) = table(2);
        msix.set_control(true, false);
        program(&msix, 1, 0x41, 1);
        msix.send(1);
        msix.send(1);
        assert!(sent(&routes[1]).is_empty());
        let mut pba = [0; 8];
        msix.read_pba(0, &mut pba);
        assert_eq!(pba, [2, 0, 0, 0, 0, 0, 0, 0]);
        msix.write_table(ENTRY_LEN + 12, &[0]);
        assert_eq!(sent(&routes[1]), [0x41]);
        msix.read_pba(0, &mut pba);
        assert_eq!(pba, [0; 8]);
    }

    #[test]
    fn the_function_mask_holds_every_vector() {
        let (msix, routes) = table(1);
        program(&msix, 0, 7, 0);
        msix.set_control(true, true);
        msix.send(0);
        assert!(sent(&routes[0]).is_empty());
        msix.set_control(true, false);
        assert_eq!(sent(&routes[0]), [7]);
    }

    #[test]
    fn nothing_is_sent_while_disabled_or_after_reset() {
        let (msix, routes) = table(1);
        program(&msix, 0, 7, 0);
        msix.send(0);
        msix.set_control(true, false);
        assert!(sent(&routes[0]).is_empty());
        msix.reset();
        msix.send(0);
        msix.set_control(true, false);
        assert!(sent(&routes[0]).is_empty());
    }

    #[test]
    fn accesses_outside_the_table_are_harmless() {
        let (msix, _) = table(1);
        let mut data = [0; 8];
        for offset in [12, 16, 4096, u64::MAX] {
            msix.write_table(offset, &[0; 8]);
            msix.read_table(offset, &mut data);
            assert_eq!(data, [0xff; 8], "at {offset:#x}");
        }
        msix.read_pba(u64::MAX - 7, &mut data);
        assert_eq!(data, [0; 8]);
        msix.send(9);
    }

    #[test]
    fn the_route_is_pointed_only_when_the_message_changes() {
        let (msix, routes) = table(1);
        msix.set_control(true, false);
        program(&msix, 0, 7, 0);
        *routes[0].message.lock().unwrap() = None;
        msix.write_table(12, &[1]);
        msix.write_table(12, &[0]);
        assert_eq!(*routes[0].message.lock().unwrap(), None);
    }
}

//! The serial console: a 16550A (vm-superio) at COM1, and what it is joined to.
//!
//! Output goes to a [`Console`] byte by byte, as the guest sends it. Input is queued here beyond
//! the chip's 64-byte FIFO, so that a pasted line is not lost while the guest is slow; when the
//! queue is full too, the sender is told how much was taken.
//! Runs on vCPU threads (registers) and on whichever thread brings input.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::{Effect, Region};
use crate::irq::IrqLine;

/// COM1's first port.
pub const COM1: u64 = 0x3f8;
/// How many ports a 16550 has.
pub const PORTS_LEN: u64 = 8;
/// COM1's ISA interrupt.
pub const COM1_IRQ: u32 = 4;

/// The most input that waits for the guest, in bytes.
const PENDING_MAX: usize = 64 << 10;

/// Where a serial port's bytes go. Never blocks: full means drop and count.
pub trait Console: Send + Sync {
    /// Takes bytes the guest has sent.
    fn write(&self, bytes: &[u8]);
}

/// A serial port.
pub struct SerialPort {
    line: Arc<dyn IrqLine>,
    console: Arc<dyn Console>,
    state: Mutex<State>,
}

struct State {
    chip: Chip,
    pending: VecDeque<u8>,
}

type Chip = Serial<Edge, NoEvents, Out>;

impl SerialPort {
    /// A port that interrupts through `line`, an edge-triggered input.
    pub fn new(line: Arc<dyn IrqLine>, console: Arc<dyn Console>) -> SerialPort {
        let chip = Serial::new(Edge(line.clone()), Out(console.clone()));
        let state = State { chip, pending: VecDeque::new() };
        SerialPort { line, console, state: Mutex::new(state) }
    }

    /// Queues input for the guest, and answers how many of the bytes were taken.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let taken = bytes.len().min(PENDING_MAX - state.pending.len());
        state.pending.extend(&bytes[..taken]);
        state.feed();
        taken
    }

    /// Back to the state after power-on; input that waits is dropped.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.chip = Serial::new(Edge(self.line.clone()), Out(self.console.clone()));
        state.pending.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the port's lock is never held in a panic")
    }
}

impl State {
    /// Moves waiting input into the chip's FIFO.
    fn feed(&mut self) {
        while !self.pending.is_empty() && self.chip.fifo_capacity() > 0 {
            let (front, _) = self.pending.as_slices();
            match self.chip.enqueue_raw_bytes(front) {
                // None are taken in loop-back mode: they wait.
                Ok(0) | Err(_) => return,
                Ok(taken) => drop(self.pending.drain(..taken)),
            }
        }
    }
}

impl Region for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.lock();
        data.fill(0xff);
        data[0] = state.chip.read(offset as u8);
        state.feed();
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut state = self.lock();
        if let Err(error) = state.chip.write(offset as u8, data[0]) {
            log::debug!("serial port: {error:?}");
        }
        state.feed();
        Effect::None
    }
}

/// The chip's interrupt output, as an edge.
struct Edge(Arc<dyn IrqLine>);

impl Trigger for Edge {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        self.0.set(false);
        Ok(())
    }
}

/// The chip's output.
struct Out(Arc<dyn Console>);

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::RecordingLine;

    #[derive(Default)]
    struct Page(Mutex<Vec<u8>>);

    impl Console for Page {
        fn write(&self, bytes: &[u8]) {
            self.0.lock().unwrap().extend(bytes);
        }
    }

    const DATA: u64 = 0;
    const IER: u64 = 1;
    const LSR: u64 = 5;
    const LSR_DATA_READY: u8 = 1;

    fn port() -> (SerialPort, Arc<RecordingLine>, Arc<Page>) {
        let (line, page) = (Arc::new(RecordingLine::default()), Arc::new(Page::default()));
        (SerialPort::new(line.clone(), page.clone()), line, page)
    }

    fn get(port: &SerialPort, offset: u64) -> u8 {
        let mut data = [0];
        port.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn output_reaches_the_console() {
        let (port, _, page) = port();
        for byte in b"login: " {
            port.write(DATA, &[*byte]);
        }
        assert_eq!(*page.0.lock().unwrap(), b"login: ");
    }

    #[test]
    fn input_longer_than_the_fifo_arrives_whole_and_in_order() {
        let (port, line, _) = port();
        port.write(IER, &[1]);
        let sent: Vec<u8> = (0..1000).map(|i| i as u8).collect();
        assert_eq!(port.input(&sent), 1000);
        assert_eq!(*line.0.lock().unwrap(), [true, false]);
        let mut got = Vec::new();
        while get(&port, LSR) & LSR_DATA_READY != 0 {
            got.push(get(&port, DATA));
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn input_is_bounded() {
        let (port, ..) = port();
        let taken = port.input(&vec![0; 2 * PENDING_MAX]);
        assert_eq!(taken, PENDING_MAX);
        assert!(port.input(&[0; 100]) <= 64, "only what moved on to the FIFO made room");
        port.reset();
        assert_eq!(get(&port, LSR) & LSR_DATA_READY, 0);
    }

    #[test]
    fn any_access_of_any_width_is_harmless() {
        let (port, ..) = port();
        port.input(&[7; 100]);
        for offset in 0..PORTS_LEN {
            for value in 0..=0xff {
                for len in [1, 2, 4, 8] {
                    let mut data = [value; 8];
                    port.write(offset, &data[..len]);
                    port.read(offset, &mut data[..len]);
                }
            }
        }
    }
}

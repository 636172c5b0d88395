//! The vectors against a model of them: whatever a guest does with masks while eventfds are
//! signalled, what is sent and what is pending is what the model says.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::irq::RecordingRoute;

const VECTORS: usize = 3;
const EVENTS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// The kernel signals an eventfd.
    Signal(usize),
    /// The device sends a vector.
    Send(usize),
    /// The guest masks or unmasks a vector.
    Mask(usize, bool),
    /// The guest writes message control: enabled, all masked.
    Control(bool, bool),
    /// The guest gives a queue another vector; the last one does not exist.
    Connect(usize, usize),
    /// The guest programs another message.
    Message(usize, u32),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..EVENTS).prop_map(Step::Signal),
        1 => (0..VECTORS).prop_map(Step::Send),
        4 => (0..VECTORS, any::<bool>()).prop_map(|(vector, on)| Step::Mask(vector, on)),
        2 => (prop::bool::weighted(0.8), any::<bool>()).prop_map(|(on, mask)| Step::Control(on, mask)),
        2 => (0..EVENTS, 0..=VECTORS).prop_map(|(event, vector)| Step::Connect(event, vector)),
        1 => (0..VECTORS, any::<u32>()).prop_map(|(vector, data)| Step::Message(vector, data)),
        1 => Just(Step::Reset),
    ]
}

/// MSI-X without eventfds: a signal is a send.
#[derive(Default)]
struct Model {
    enabled: bool,
    function_masked: bool,
    unmasked: [bool; VECTORS],
    pending: [bool; VECTORS],
    led: [Option<usize>; EVENTS],
    sent: [bool; VECTORS],
}

impl Model {
    fn send(&mut self, vector: usize) {
        if self.enabled {
            self.pending[vector] = true;
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Signal(event) => {
                if let Some(vector) = self.led[event] {
                    self.send(vector);
                }
            }
            Step::Send(vector) => self.send(vector),
            Step::Mask(vector, on) => self.unmasked[vector] = !on,
            Step::Control(enabled, masked) => {
                (self.enabled, self.function_masked) = (enabled, masked);
            }
            Step::Connect(event, vector) => self.led[event] = Some(vector).filter(|v| *v < VECTORS),
            Step::Message(..) => {}
            Step::Reset => *self = Model { led: self.led, ..Model::default() },
        }
        self.sent = [false; VECTORS];
        for vector in 0..VECTORS {
            if self.enabled && !self.function_masked && self.unmasked[vector] {
                self.sent[vector] = std::mem::take(&mut self.pending[vector]);
            }
        }
    }
}

fn take(msix: &Msix, events: &[Event], step: &Step) {
    match *step {
        Step::Signal(event) => events[event].signal(),
        Step::Send(vector) => msix.send(vector as u16),
        Step::Mask(vector, on) => {
            msix.write_table(vector as u64 * ENTRY_LEN + 12, &u32::from(on).to_le_bytes());
        }
        Step::Control(enabled, masked) => msix.set_control(enabled, masked),
        Step::Connect(event, vector) => {
            let vector = if vector < VECTORS { vector as u16 } else { u16::MAX };
            msix.connect(&events[event], vector);
        }
        Step::Message(vector, data) => {
            msix.write_table(vector as u64 * ENTRY_LEN + 8, &data.to_le_bytes());
        }
        Step::Reset => msix.reset(),
    }
}

/// Takes the steps; with `looks`, the pending bits are read after each, which must not matter.
fn run(steps: &[Step], looks: bool) {
    let routes: Vec<_> = (0..VECTORS).map(|_| Arc::new(RecordingRoute::default())).collect();
    let msix = Msix::new(routes.iter().map(|r| r.clone() as Arc<dyn MsiRoute>).collect());
    let events: Vec<_> = (0..EVENTS).map(|_| Event::new().unwrap()).collect();
    let mut model = Model::default();
    for (number, step) in steps.iter().enumerate() {
        let before: Vec<_> = routes.iter().map(|route| route.sent.lock().unwrap().len()).collect();
        take(&msix, &events, step);
        model.take(step);
        for (vector, (route, before)) in routes.iter().zip(before).enumerate() {
            route.carry();
            let sent = route.sent.lock().unwrap().len() > before;
            assert_eq!(sent, model.sent[vector], "vector {vector} after step {number}: {step:?}");
        }
        if looks {
            let mut bits = [0; 1];
            msix.read_pba(0, &mut bits);
            let pending: Vec<bool> = (0..VECTORS).map(|v| bits[0] & 1 << v != 0).collect();
            assert_eq!(pending, model.pending, "pending after step {number}: {step:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_interrupt_is_lost_or_invented(steps in vec(step(), 1..60), looks in any::<bool>()) {
        run(&steps, looks);
    }
}

#[test]
fn a_signal_while_masked_is_pending_and_sent_at_unmasking() {
    use Step::{Connect, Control, Mask, Signal};
    let steps = [
        Control(true, false),
        Connect(0, 1),
        Signal(0),
        Mask(1, false),
        Signal(0),
        Mask(1, true),
        Signal(0),
        Signal(0),
        Control(true, true),
        Mask(1, false),
        Control(true, false),
    ];
    run(&steps, true);
    run(&steps, false);
}

#[test]
fn a_signal_that_comes_while_the_vector_closes_is_sent_or_pending() {
    let route = Arc::new(RecordingRoute::default());
    let msix = Msix::new(vec![route.clone()]);
    let event = Event::new().unwrap();
    msix.set_control(true, false);
    msix.connect(&event, 0);
    msix.write_table(12, &0u32.to_le_bytes());
    const SIGNALS: usize = 2000;
    let mut answered = 0;
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let kernel = event.clone();
        scope.spawn(move || {
            // Each signal is waited for: only then would a lost one be missed.
            (0..SIGNALS).for_each(|_| {
                kernel.signal();
                told.recv().unwrap();
            });
        });
        let mut masked = 0u32;
        while answered < SIGNALS {
            masked ^= 1;
            msix.write_table(12, &masked.to_le_bytes());
            if masked == 0 {
                route.carry();
                let sent = route.sent.lock().unwrap().len();
                (answered..sent).for_each(|_| tell.send(()).unwrap());
                answered = sent;
            }
        }
    });
    assert_eq!(answered, SIGNALS);
}

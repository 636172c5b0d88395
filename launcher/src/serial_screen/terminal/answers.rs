//! What a terminal answers to questions. None of these is itself a question: a guest that sends
//! them back gets no further answer.

/// The most bytes that wait for somebody to take them.
const WAITING_MAX: usize = 64;

/// Answers that wait.
#[derive(Debug, Default)]
pub struct Answers(Vec<u8>);

impl Answers {
    /// Takes what waits.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    /// DA: a VT102, as Linux's own console says.
    pub fn device_attributes(&mut self) {
        self.add("\x1b[?6c");
    }

    /// DA2: a VT100, version 0.
    pub fn secondary_device_attributes(&mut self) {
        self.add("\x1b[>0;0;0c");
    }

    /// DSR: 5 asks whether all is well, 6 where the cursor is, in rows and columns from 0.
    pub fn status(&mut self, question: usize, (row, column): (usize, usize)) {
        match question {
            5 => self.add("\x1b[0n"),
            6 => self.add(&format!("\x1b[{};{}R", row + 1, column + 1)),
            _ => {}
        }
    }

    fn add(&mut self, answer: &str) {
        if self.0.len() + answer.len() <= WAITING_MAX {
            self.0.extend_from_slice(answer.as_bytes());
        }
    }
}

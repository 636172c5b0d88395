//! Everything a process wrote to one stream, kept while it still writes.
//!
//! A reader thread fills it; it ends with the stream. Carriage returns are dropped, since serial
//! consoles put them before every newline.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A guest that writes more than this has gone mad: later output is dropped.
const LIMIT_BYTES: usize = 64 << 20;

/// What was read so far, shared with the thread that reads.
#[derive(Clone, Default)]
pub struct Transcript {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    text: Vec<u8>,
    ended: bool,
    paused: bool,
}

impl Transcript {
    /// Starts reading `stream` to its end.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn of(name: &str, mut stream: impl Read + Send + 'static) -> Self {
        let transcript = Self::default();
        let filled = transcript.clone();
        let echo = std::env::var_os("BERTH_TEST_ECHO").is_some();
        thread::Builder::new()
            .name(format!("read-{name}"))
            .spawn(move || {
                let mut chunk = [0_u8; 16 << 10];
                while let Ok(length @ 1..) = stream.read(&mut chunk) {
                    if echo {
                        eprint!("{}", String::from_utf8_lossy(&chunk[..length]));
                    }
                    filled.add(&chunk[..length]);
                }
                filled.end();
            })
            .expect("a thread can be started");
        transcript
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bytes: &[u8]) {
        let mut state = self.lock();
        while state.paused {
            state = self.shared.grown.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.text.len() < LIMIT_BYTES {
            state.text.extend(bytes.iter().filter(|&&byte| byte != b'\r'));
        }
        self.shared.grown.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.shared.grown.notify_all();
    }

    /// Stops reading, but for what is being read; or goes on. The writer's pipe fills meanwhile.
    pub fn pause(&self, paused: bool) {
        self.lock().paused = paused;
        self.shared.grown.notify_all();
    }

    /// All of it so far, lossily as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().text).into_owned()
    }

    /// The last `lines` lines.
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits until `wanted` stands at or after byte `from`; the byte after it, or `None` when the
    /// time is over or the stream ended without it.
    pub fn find(&self, wanted: &str, from: usize, patience: Duration) -> Option<usize> {
        let wanted = wanted.as_bytes();
        let deadline = Instant::now() + patience;
        let mut searched = from;
        let mut state = self.lock();
        loop {
            let start = searched.min(state.text.len());
            if let Some(at) = state.text[start..].windows(wanted.len()).position(|w| w == wanted) {
                return Some(start + at + wanted.len());
            }
            // A match may begin in what was searched and end in what is still to come.
            searched = from.max(state.text.len().saturating_sub(wanted.len()));
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self
                .shared
                .grown
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the end of the stream; whether it came in time.
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        let state = self.lock();
        let (state, _) = self
            .shared
            .grown
            .wait_timeout_while(state, patience, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        state.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn finds_across_chunks_and_only_after_the_given_place() {
        let transcript = Transcript::default();
        transcript.add(b"one lo");
        let later = transcript.clone();
        let writer = thread::spawn(move || later.add(b"gin:\r\n two login:"));
        let first = transcript.find("login:", 0, SOON).unwrap();
        writer.join().unwrap();
        assert_eq!(&transcript.text()[..first], "one login:");
        let second = transcript.find("login:", first, SOON).unwrap();
        assert_eq!(transcript.text(), "one login:\n two login:");
        assert_eq!(second, transcript.text().len());
        transcript.end();
        assert_eq!(transcript.find("login:", second, SOON), None);
    }

    #[test]
    fn reads_a_stream_to_its_end() {
        let transcript = Transcript::of("test", &b"a\nb\nc\n"[..]);
        assert!(transcript.wait_for_end(SOON));
        assert_eq!(transcript.tail(2), "b\nc");
    }
}

//! One HTTP connection: requests in, answers out, each in limited time. Runs on the connection's own
//! thread, which sleeps in `poll` and ends when the API closes.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use devices::event::Event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use super::http::{self, BODY_MAX, HEAD_MAX, Refusal, Request, Response};
use crate::server::stream::Stream;
use logging::civil;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a request to arrive once it has begun; the first has begun with the connection.
    pub arrival: Duration,
    /// Until the next request.
    pub idle: Duration,
    /// To read an answer.
    pub departure: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [arrival, idle, departure] = [10, 30, 60].map(Duration::from_secs);
        Self { arrival, idle, departure }
    }
}

/// How long what a refused client still sends is read, so that it gets to read why.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_MAX: usize = 256 << 10;

/// A connection that speaks HTTP.
pub struct Connection<'a> {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    stop: &'a Event,
    patience: Patience,
    first: bool,
}

/// Why there is no request.
#[derive(Debug)]
pub enum Missing {
    /// The client has gone, or nothing is served any more.
    Gone,
    /// It is answered with this.
    Refused(Refusal),
}

impl From<Refusal> for Missing {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Missing {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl<'a> Connection<'a> {
    /// A connection of which `first` has been read already. Ends when `stop` is signalled.
    pub fn new(
        stream: Box<dyn Stream>,
        first: Vec<u8>,
        (stop, patience): (&'a Event, Patience),
    ) -> Self {
        Self { stream, buffer: first, stop, patience, first: true }
    }

    /// The next request, with its body.
    ///
    /// # Errors
    /// [`Missing`]; the connection is of no more use then.
    pub fn request(&mut self) -> Result<(Request, Vec<u8>), Missing> {
        let Patience { arrival, idle, .. } = self.patience;
        let mut deadline = after(if std::mem::take(&mut self.first) { arrival } else { idle });
        let mut begun = false;
        let (request, head) = loop {
            if let Some(found) = http::parse(&self.buffer)? {
                break found;
            }
            if !begun && !self.buffer.is_empty() {
                begun = true;
                deadline = after(arrival);
            }
            self.more(deadline, HEAD_MAX, begun)?;
        };
        self.buffer.drain(..head);
        deadline = after(arrival);
        while self.buffer.len() < request.body_len {
            self.more(deadline, BODY_MAX, true)?;
        }
        let rest = self.buffer.split_off(request.body_len);
        let body = std::mem::replace(&mut self.buffer, rest);
        Ok((request, body))
    }

    /// Reads more, at most up to `room` bytes in all (what a client sends ahead waits in its socket);
    /// `begun`: somebody waits for an answer.
    fn more(&mut self, deadline: Instant, room: usize, begun: bool) -> Result<(), Missing> {
        let mut chunk = [0; 4096];
        // One byte at least: a full buffer was refused before.
        let room = room.saturating_sub(self.buffer.len()).clamp(1, chunk.len());
        let chunk = chunk.get_mut(..room).unwrap_or_default();
        loop {
            match self.stream.read(chunk) {
                Ok(0) => return Err(Missing::Gone),
                Ok(count) => {
                    self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !wait(&*self.stream, PollFlags::POLLIN, deadline, self.stop)? {
                        return match begun {
                            false => Err(Missing::Gone),
                            true => {
                                let why = "the request did not arrive in time";
                                Err(Refusal { status: 408, why }.into())
                            }
                        };
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// The client has gone, or does not read.
    pub fn send(
        &mut self,
        response: &Response,
        head_only: bool,
        keep_alive: bool,
    ) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let bytes = response.to_bytes(head_only, keep_alive, &imf_fixdate(now));
        let deadline = after(self.patience.departure);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) => self.writable(error, deadline)?,
            }
        }
        loop {
            match self.stream.flush() {
                Ok(()) => return Ok(()),
                Err(error) => self.writable(error, deadline)?,
            }
        }
    }

    /// Waits for room, if that is what `error` is about.
    fn writable(&self, error: io::Error, deadline: Instant) -> io::Result<()> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock => {
                match wait(&*self.stream, PollFlags::POLLOUT, deadline, self.stop)? {
                    true => Ok(()),
                    false => Err(ErrorKind::TimedOut.into()),
                }
            }
            _ => Err(error),
        }
    }

    /// Says why, and lets the client read it: a socket closed with unread input takes the answer back.
    pub fn refuse(mut self, refusal: Refusal) {
        if self.send(&refusal.into(), false, false).is_err() {
            return;
        }
        let deadline = after(LINGER);
        let mut chunk = [0; 4096];
        let mut read = 0_usize;
        while read < LINGER_MAX {
            match self.stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => read = read.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match wait(&*self.stream, PollFlags::POLLIN, deadline, self.stop) {
                        Ok(true) => {}
                        _ => return,
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// The stream, and what has been read of it beyond the last request.
    pub fn into_parts(self) -> (Box<dyn Stream>, Vec<u8>) {
        (self.stream, self.buffer)
    }
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}

/// Waits until `stream` is ready for `events`; false: the deadline has passed.
///
/// # Errors
/// `stop` is signalled, or the system refuses.
fn wait(
    stream: &dyn Stream,
    events: PollFlags,
    deadline: Instant,
    stop: &Event,
) -> io::Result<bool> {
    if events == PollFlags::POLLIN && stream.has_buffered() {
        return Ok(true);
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // A fraction of a millisecond more, so as not to wake up too soon.
        let left = PollTimeout::try_from(left.saturating_add(Duration::from_millis(1)));
        let mut fds =
            [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(stream.fd(), events)];
        match poll(&mut fds, left.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [stopped, ready] = fds.map(|fd| fd.any() != Some(false));
        if stopped {
            return Err(ErrorKind::Interrupted.into());
        }
        if ready {
            return Ok(true);
        }
    }
}

/// RFC 9110 §5.6.7.
fn imf_fixdate(since_epoch: Duration) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = since_epoch.as_secs();
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let name = |names: &[&'static str], at: u64| {
        usize::try_from(at).ok().and_then(|at| names.get(at)).copied().unwrap_or_default()
    };
    let (weekday, month) = (name(&DAYS, days % 7), name(&MONTHS, month.saturating_sub(1)));
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_the_rfc_writes_them() {
        assert_eq!(imf_fixdate(Duration::ZERO), "Thu, 01 Jan 1970 00:00:00 GMT");
        let of_the_rfc = Duration::from_secs(784_111_777);
        assert_eq!(imf_fixdate(of_the_rfc), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}

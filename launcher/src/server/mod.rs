//! The port that is Berth's: TCP 5900. RFB, HTTP, and both over TLS, are told apart by what a
//! client says first, or by its saying nothing.
//!
//! The thread `listen` accepts; each connection has a thread of its own, at most
//! [`gate::CONNECTIONS`] of them. [`gate`] counts them, [`guard`] holds the [`passwords`], [`tls`]
//! makes a private [`stream`] of an open one, [`speech`] tells protocols apart. What is then said is
//! the affair of whoever the connection is handed to.

pub mod address;
pub mod gate;
pub mod guard;
pub mod passwords;
pub mod speech;
pub mod stream;
pub mod tls;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::event::{Event, wait_readable};
use devices::thread::{self, Thread};
use devices::worker::Worker;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use gate::{Gate, Ticket};
use speech::Speech;
use stream::Stream;
use tls::{Certificate, TlsStream};

/// How long a connection that says nothing is waited for before it is taken for a viewer's.
const SILENCE: Duration = Duration::from_millis(150);
/// The same, for a connection from where HTTP is spoken: browsers connect before they know what to
/// ask, and cannot use a connection any more that RFB's greeting has come over.
const SILENCE_BESIDE_HTTP: Duration = Duration::from_secs(3);
/// How long the handshake of TLS may take.
const TLS: Duration = Duration::from_secs(10);
/// How long nothing is accepted when there is no descriptor or thread left, in milliseconds.
const PAUSE_MS: u16 = 200;
/// What waits in the kernel for a connection to take it, in bytes: little, so that a slow viewer
/// gets new pictures and not old ones.
const SEND_BUFFER: usize = 256 << 10;
/// A connection is looked after when nothing has come for that long, in seconds: then every
/// [`PROBE_S`], [`PROBES`] times.
const IDLE_S: u32 = 60;
const PROBE_S: u32 = 15;
const PROBES: u32 = 4;

/// A connection, when it is known what it speaks.
pub struct Caller {
    /// The connection, without `first`.
    pub stream: Box<dyn Stream>,
    /// What has come over it.
    pub first: Vec<u8>,
    /// From where.
    pub from: IpAddr,
    /// Whether it is TLS.
    pub private: bool,
    /// Signalled, and never taken back, when everything has to end.
    pub stop: Event,
    /// Its place.
    pub ticket: Ticket,
}

/// Takes a connection, and returns when it is over, soon after `stop`.
pub type Service = Box<dyn Fn(Caller) + Send + Sync>;

/// What is served.
pub struct Services {
    /// For RFB.
    pub rfb: Service,
    /// For HTTP.
    pub http: Service,
    /// For TLS.
    pub certificate: Option<Arc<Certificate>>,
}

/// The running server. Dropping it ends every connection, and waits for that.
pub struct Server {
    _worker: Worker<()>,
}

impl Server {
    /// Starts to accept those whom `gate` lets through.
    ///
    /// # Errors
    /// There is no descriptor or thread left.
    pub fn start(
        listeners: Vec<TcpListener>,
        services: Services,
        gate: Gate,
    ) -> io::Result<Server> {
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let reception = Reception {
            listeners,
            services: Arc::new(services),
            gate,
            ended: Event::new()?,
            threads: Vec::new(),
            number: 0,
        };
        let worker = Worker::spawn("listen", || (), move |stop| reception.run(stop))?;
        Ok(Server { _worker: worker })
    }
}

/// What the thread `listen` has.
struct Reception {
    listeners: Vec<TcpListener>,
    services: Arc<Services>,
    gate: Gate,
    /// Every connection's stop event.
    ended: Event,
    threads: Vec<Thread<()>>,
    number: u64,
}

impl Reception {
    fn run(mut self, stop: &Event) {
        loop {
            match self.wait(stop) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    log::error!("nobody is let in any more: poll fails ({error})");
                    break;
                }
            }
            if self.accept_all().is_err() {
                // No descriptor or thread is left: perhaps later.
                match wait_readable([Some(stop.as_fd())], Some(PAUSE_MS)) {
                    Ok([false]) => {}
                    _ => break,
                }
            }
        }
        self.ended.signal();
        for thread in self.threads {
            // A panic has ended that connection, and was reported.
            let _ = thread.join();
        }
    }

    /// Waits for a connection; `true` for the end.
    fn wait(&self, stop: &Event) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds.first().and_then(PollFd::any) == Some(true))
    }

    /// Accepts what waits, one of each listener.
    fn accept_all(&mut self) -> io::Result<()> {
        self.threads.retain(|thread| !thread.handle().is_finished());
        let mut accepted = Vec::new();
        for listener in &self.listeners {
            match listener.accept() {
                Ok((stream, from)) => accepted.push((stream, from.ip().to_canonical())),
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    if self.gate.may_log() {
                        log::warn!("a connection to the screen cannot be accepted: {error}");
                    }
                    return Err(error);
                }
            }
        }
        accepted.into_iter().try_for_each(|(stream, from)| self.start(stream, from))
    }

    /// Gives a connection its thread.
    fn start(&mut self, stream: TcpStream, from: IpAddr) -> io::Result<()> {
        let Some(ticket) = self.gate.enter(from) else {
            if self.gate.may_log() {
                log::warn!("a connection from {from} was closed: there are too many");
            }
            return Ok(());
        };
        prepare(&stream)?;
        let (stream, first) = (Box::new(stream), Vec::new());
        let stop = self.ended.clone();
        let caller = Caller { stream, first, from, private: false, stop, ticket };
        let services = Arc::clone(&self.services);
        self.number = self.number.wrapping_add(1);
        let name = format!("viewer{}", self.number);
        self.threads.push(thread::start(&name, move || receive(caller, &services))?);
        Ok(())
    }
}

/// Errors of `accept` that are of one connection, not of ours (accept(2), "Error handling").
fn is_passing(error: &io::Error) -> bool {
    use ErrorKind as Kind;
    let kinds =
        [Kind::WouldBlock, Kind::Interrupted, Kind::ConnectionAborted, Kind::ConnectionReset];
    kinds.contains(&error.kind())
        || matches!(
            error.raw_os_error(),
            Some(libc::ENETDOWN | libc::EPROTO | libc::EHOSTUNREACH | libc::ENETUNREACH)
        )
}

/// Sets a connection up.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::SndBuf, &SEND_BUFFER)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    Ok(())
}

/// A connection's thread: finds out what it speaks, and hands it over.
fn receive(mut caller: Caller, services: &Services) {
    let Some(mut speech) = hear(&mut caller) else { return };
    if speech == Speech::Tls {
        let Some(certificate) = &services.certificate else { return };
        let first = std::mem::take(&mut caller.first);
        let config = certificate.current();
        let Some(deadline) = Instant::now().checked_add(TLS) else { return };
        let tls = TlsStream::accept(caller.stream, first, config, (&caller.stop, deadline));
        let Ok(tls) = tls else { return };
        caller = Caller { stream: Box::new(tls), first: Vec::new(), private: true, ..caller };
        match hear(&mut caller) {
            None | Some(Speech::Tls) => return,
            Some(inside) => speech = inside,
        }
    }
    match speech {
        Speech::Http if caller.ticket.speaks_http() => (services.http)(caller),
        Speech::Http => {}
        _ => (services.rfb)(caller),
    }
}

/// What the connection speaks, by what it says, or by its silence; `None`: it has gone, or
/// everything ends.
fn hear(caller: &mut Caller) -> Option<Speech> {
    let start = Instant::now();
    loop {
        let mut chunk = [0; 1024];
        match caller.stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(count) => caller.first.extend(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        if let Some(speech) = Speech::of(&caller.first) {
            return Some(speech);
        }
        // Asked again when the time is up: the page that this one is for may have been asked for since.
        let beside_http = caller.ticket.beside_http();
        let patience = if beside_http { SILENCE_BESIDE_HTTP } else { SILENCE };
        let left = patience.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Some(Speech::Rfb);
        }
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, caller.stream.flush().is_err());
        let timeout = PollTimeout::try_from(left.as_millis().saturating_add(1)).ok()?;
        let mut fds = [
            PollFd::new(caller.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(caller.stream.fd(), flags),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return None,
        }
        let [stop, _] = &fds;
        if stop.any() == Some(true) {
            return None;
        }
    }
}

#[cfg(test)]
pub mod tests;

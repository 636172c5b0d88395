//! One client from its first byte to its last: the thread of its connection.
//!
//! The thread sleeps in one `poll` for the connection, the hub and the end of everything. A client
//! that has not come in has a deadline for each stage, however slowly it sends; one that is in and
//! takes nothing of what it asked for is given up after [`STUCK`].
//! While more than [`OUTPUT`] of answers wait for a client, nothing more is read of it, so that
//! questions in a flood cost nothing but its own time.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::event::Event;

use super::auth::{self, CHALLENGE};
use super::handshake::{Admission, Handshake, HandshakeError, Offer, Step, too_many};
use super::hub::{Hub, Viewer};
use super::rfb::MessageReader;
use super::session::{Session, SessionError};
use super::wire::Wire;
use crate::server::gate::Ticket;
use crate::server::guard::Guard;
use crate::server::passwords::Access;
use crate::server::speech::Speech;
use crate::server::stream::Stream;
use crate::server::tls::{Certificate, TlsStream};

/// How long a client may take to say which version and security it wants.
const HELLO: Duration = Duration::from_secs(10);
/// How long its user may take for the password, or to look at a certificate.
const USER: Duration = Duration::from_secs(120);
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a client may take nothing.
const STUCK: Duration = Duration::from_secs(120);
/// Answers beyond which nothing is read, in bytes.
const OUTPUT: usize = 64 << 10;
/// The longest update, in bytes.
const UPDATE: usize = 16 << 20;
/// What all clients may have waiting until updates become short, in bytes.
const BUFFERED: usize = 64 << 20;
/// The longest update then.
const SHORT_UPDATE: usize = 1 << 20;

/// How one comes in.
pub struct Door {
    /// Passwords.
    pub guard: Arc<Guard>,
    /// For VeNCrypt.
    pub certificate: Option<Arc<Certificate>>,
}

/// Who comes, and how.
pub struct Visit {
    /// From where.
    pub from: IpAddr,
    /// Whether nobody else can read it: TLS is under it already.
    pub private: bool,
    /// What the client may do, where it has said its password elsewhere: on the page that the
    /// connection was made by.
    pub access: Option<Access>,
    /// Everything is to end.
    pub stop: Event,
    /// Its place among the connections.
    pub ticket: Ticket,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the machine ends")]
    Stopped,
    #[error("it has gone")]
    Gone,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("it took too long to come in")]
    TooLate,
    #[error("it took nothing for {} seconds", STUCK.as_secs())]
    Stuck,
    #[error("another viewer wants the screen for itself")]
    Displaced,
}

/// Serves a client until it goes; `first` has come already.
pub fn serve(stream: Box<dyn Stream>, first: Vec<u8>, mut visit: Visit, hub: &Hub, door: &Door) {
    let from = visit.from;
    let (mut wire, admission) = match admit(Wire::new(stream, first), &mut visit, door) {
        Ok(admitted) => admitted,
        Err(End::Stopped | End::Gone | End::TooLate | End::Io(_)) => return,
        Err(end) => {
            if visit.ticket.may_log() {
                log::warn!("a viewer from {from} was not let in: {end}");
            }
            return;
        }
    };
    let rights = if admission.access == Access::Full { "" } else { ", to look only" };
    if visit.ticket.may_log() {
        log::info!("a viewer from {from} has come{rights}");
    }
    let end = match hub.join() {
        Ok(viewer) => watch(&mut wire, admission, viewer, &visit.stop),
        Err(error) => End::Io(error),
    };
    if visit.ticket.may_log() {
        log::info!("the viewer from {from} has left: {end}");
    }
}

/// From the greeting to ClientInit.
fn admit(mut wire: Wire, visit: &mut Visit, door: &Door) -> Result<(Wire, Admission), End> {
    let began = Instant::now();
    let mut challenge = [0; CHALLENGE];
    getrandom::fill(&mut challenge).map_err(io::Error::other)?;
    let offer = offer(visit, door, began);
    let mut handshake = Handshake::new(offer, challenge, wire.output());
    let mut check = |challenge: &[u8; CHALLENGE], answer: &[u8]| {
        let proof = |password: &[u8]| auth::response(password, challenge);
        door.guard.judge(visit.from, Instant::now(), answer, proof)
    };
    loop {
        let mut answers = std::mem::take(wire.output());
        let step = handshake.step(wire.input(), &mut check, &mut answers);
        *wire.output() = answers;
        let patience = if handshake.is_waiting_for_user() { USER } else { HELLO };
        let deadline = began.checked_add(patience).unwrap_or(began);
        match step {
            Ok((used, step)) => {
                wire.consume(used);
                match step {
                    Step::Done(admission) if visit.ticket.admit() => {
                        let access = visit.access.unwrap_or(admission.access);
                        return Ok((wire, Admission { access, ..admission }));
                    }
                    Step::Done(_) => {
                        // Too late to say why: RFB has no word for it here.
                        return Err(HandshakeError::Refused("too many viewers".to_owned()).into());
                    }
                    Step::StartTls => {
                        let Some(certificate) = &door.certificate else { return Err(End::Gone) };
                        drain(&mut wire, &visit.stop, deadline)?;
                        wire = secure(wire, certificate, (&visit.stop, deadline))?;
                        handshake.secured(wire.output());
                        continue;
                    }
                    Step::More => {}
                }
            }
            Err(error) => {
                if Speech::of(wire.input()) == Some(Speech::Http) {
                    visit.ticket.seems_a_browser();
                }
                // Let it know, but not for ever.
                let soon = Instant::now().checked_add(FAREWELL).unwrap_or(deadline);
                let _ = drain(&mut wire, &visit.stop, soon);
                return Err(error.into());
            }
        }
        wire.send()?;
        if wire.wait(true, None, &visit.stop, Some(deadline))?.stop {
            return Err(End::Stopped);
        }
        if Instant::now() >= deadline {
            return Err(End::TooLate);
        }
        let received = wire.receive();
        if !matches!(received, Ok(true)) && !handshake.has_begun() {
            visit.ticket.seems_a_browser();
        }
        if !received? {
            return Err(End::Gone);
        }
    }
}

/// What this client is offered. With a certificate, what goes over the network in the clear is no
/// choice; what stays on this host, or came over TLS, is not in the clear.
fn offer(visit: &Visit, door: &Door, now: Instant) -> Offer {
    let needs_tls = door.certificate.is_some() && !visit.private;
    let password = door.guard.asks() && visit.access.is_none();
    let wait = door.guard.wait(visit.from, now).filter(|_| password);
    let refusal = match (visit.ticket.viewers_are_full(), wait) {
        (true, _) => Some("too many viewers; try again when one has left".to_owned()),
        (false, wait) => wait.map(too_many),
    };
    let plain = !needs_tls || visit.from.to_canonical().is_loopback();
    Offer { password, tls: needs_tls, plain, refusal }
}

/// Sends everything.
fn drain(wire: &mut Wire, stop: &Event, deadline: Instant) -> Result<(), End> {
    loop {
        wire.send()?;
        if wire.is_drained() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(End::TooLate);
        }
        if wire.wait(false, None, stop, Some(deadline))?.stop {
            return Err(End::Stopped);
        }
    }
}

/// Puts TLS under it.
fn secure(wire: Wire, certificate: &Certificate, until: (&Event, Instant)) -> Result<Wire, End> {
    let config = certificate.current();
    Ok(wire
        .replace(|stream, first| Ok(Box::new(TlsStream::accept(stream, first, config, until)?)))?)
}

/// From ServerInit to the end.
fn watch(wire: &mut Wire, admission: Admission, mut viewer: Viewer, stop: &Event) -> End {
    if !admission.shared && admission.access == Access::Full {
        viewer.displace_others();
    }
    // ServerInit has the size of a picture: there must be one.
    viewer.ask(true);
    loop {
        match wire.wait(true, Some(viewer.wake()), stop, None) {
            Ok(woken) if woken.stop => return End::Stopped,
            Ok(woken) if woken.event => break,
            Ok(_) => {}
            Err(error) => return error.into(),
        }
        match wire.receive().and_then(|open| wire.send().map(|()| open)) {
            Ok(true) => {}
            Ok(false) => return End::Gone,
            Err(error) => return error.into(),
        }
    }
    let mut session = Session::new(admission.access, &viewer, wire.output());
    let end = exchange(wire, &mut session, &mut viewer, stop).err();
    session.end(&viewer);
    end.unwrap_or(End::Gone)
}

/// Messages one way, updates the other; ends with an error in any case.
fn exchange(
    wire: &mut Wire,
    session: &mut Session,
    viewer: &mut Viewer,
    stop: &Event,
) -> Result<(), End> {
    let mut reader = MessageReader::default();
    // The painter has painted since something was asked of it.
    let mut fresh = false;
    let mut asked: Option<bool> = None;
    let mut open = true;
    loop {
        while wire.pending() < OUTPUT {
            let (used, message) = reader.next(wire.input()).map_err(SessionError::from)?;
            wire.consume(used);
            let Some(message) = message else { break };
            session.receive(message, viewer, wire.output())?;
        }
        // What it has said before it went counts.
        if !open {
            return Err(End::Gone);
        }
        wire.send()?;
        let wants = session.wants_update().filter(|_| wire.is_drained());
        if fresh && wants.is_none() {
            // By the time there is somebody to see it, it will be old.
            (fresh, asked) = (false, None);
        }
        if let Some(all) = wants {
            if fresh {
                let others = viewer.buffered(0);
                let limit = if others > BUFFERED { SHORT_UPDATE } else { UPDATE };
                session.update(viewer, limit, wire.output());
                (fresh, asked) = (false, None);
                wire.send()?;
                if !wire.is_drained() {
                    viewer.buffered(wire.pending());
                }
                continue;
            }
            if asked.is_none_or(|asked_all| all && !asked_all) {
                viewer.ask(all);
                asked = Some(all);
            }
        }
        let until = wire.stuck_since().and_then(|since| since.checked_add(STUCK));
        let woken = wire.wait(wire.pending() < OUTPUT, Some(viewer.wake()), stop, until)?;
        if woken.stop {
            return Err(End::Stopped);
        }
        if viewer.is_displaced() {
            return Err(End::Displaced);
        }
        if woken.event {
            (fresh, asked) = (true, None);
        }
        if until.is_some_and(|until| until <= Instant::now()) && !wire.is_drained() {
            return Err(End::Stuck);
        }
        open = wire.receive()?;
    }
}

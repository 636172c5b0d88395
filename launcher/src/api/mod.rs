//! HTTP for one machine: its page, state, screen, console and power, for browsers, probes and
//! `berth status` and its like.
//!
//! From the outside in: [`serve`] is one connection, on the caller's thread; [`connection`] reads
//! requests and writes answers in limited time, [`http`] is their form; [`routes`] says who gets
//! what, by [`origin`] and [`auth`]. A request may turn its connection into a [`websocket`], for the
//! screen or the serial [`console`]. The caller is the listener on TCP port 5900, or [`control`], the
//! socket of this host.
//!
//! What stands behind it are traits and closures: [`Machine`], [`Health`], [`Viewers`].

pub mod auth;
mod connection;
mod console;
pub mod control;
pub mod http;
pub mod origin;
mod page;
pub mod place;
mod routes;
mod screenshot;
pub mod status;
mod webroot;
mod websocket;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use devices::display::Picture;
use devices::event::Event;

use crate::history::History;
use crate::server::passwords::Access;
use crate::server::stream::Stream;
use auth::Passwords;
use connection::{Connection, Missing, Patience};
pub use console::UPGRADE as CONSOLE_UPGRADE;
use origin::Origin;
use routes::Answer;
use status::Status;
use webroot::WebRoot;

/// Requests on one connection.
const REQUESTS_MAX: u32 = 10_000;
/// Consoles attached at once.
const CONSOLES_MAX: u32 = 16;

/// The buttons of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// The ACPI power button: the guest shuts down, if it listens.
    Button,
    /// The machine ends at once, its disks flushed.
    Off,
    /// The machine is reset.
    Reset,
}

impl Power {
    /// By the words of `/power` and `berth power`.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "button" => Self::Button,
            "off" => Self::Off,
            "reset" => Self::Reset,
            _ => return None,
        })
    }
}

/// The machine, as this interface sees it. Nothing here waits for the guest.
pub trait Machine: Send + Sync {
    /// What is told of it; the number of consoles is filled in here.
    fn status(&self) -> Status;
    /// Its metrics in OpenMetrics' text form; so many `consoles` are attached.
    fn metrics(&self, consoles: u32) -> String;
    /// Presses a button.
    ///
    /// # Errors
    /// A sentence: it has ended, or has too much to do.
    fn press(&self, button: Power) -> Result<(), String>;
    /// Types into the serial console; answers how many bytes were taken.
    fn type_in(&self, bytes: &[u8]) -> usize;
}

/// How it does.
pub trait Health: Send + Sync {
    /// Whether the machine runs.
    ///
    /// # Errors
    /// A line on what is wrong.
    fn healthy(&self) -> Result<(), String>;
    /// Whether it is ready for those whom it serves; a line on why, either way.
    ///
    /// # Errors
    /// A line on what is missing.
    fn ready(&self) -> Result<String, String>;
}

/// Takes a picture of the screen now.
pub type Shutter = Box<dyn Fn() -> Picture + Send + Sync>;
/// Somebody who wants to see the screen, and has been let in.
pub struct Guest {
    /// The connection, which speaks RFB.
    pub stream: Box<dyn Stream>,
    /// What they may do.
    pub access: Access,
    /// Where they come from.
    pub from: Origin,
    /// Signalled, and never taken back, when everything ends.
    pub stop: Event,
}

/// Serves RFB on a connection, to its end.
pub type Viewers = Box<dyn Fn(Guest) + Send + Sync>;

/// What stands behind the interface.
pub struct Parts {
    /// The machine.
    pub machine: Arc<dyn Machine>,
    /// How it does.
    pub health: Arc<dyn Health>,
    /// What its serial console has said.
    pub console: Arc<History>,
    /// Its screen, if it has one.
    pub shutter: Option<Shutter>,
    /// Who serves RFB, if anybody.
    pub viewers: Option<Viewers>,
    /// Asked of whoever comes from the network.
    pub passwords: Option<Arc<dyn Passwords>>,
}

/// The interface.
pub struct Api {
    parts: Parts,
    web_root: WebRoot,
    /// Signalled, and never taken back, when everything ends.
    stop: Event,
    patience: Patience,
    consoles: AtomicU32,
    /// One picture is taken at a time: it may be large.
    taking: Mutex<()>,
}

impl Api {
    /// An interface that serves noVNC from `web_root`.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(parts: Parts, web_root: &Path) -> std::io::Result<Self> {
        Ok(Self {
            parts,
            web_root: WebRoot::open(web_root),
            stop: Event::new()?,
            patience: Patience::default(),
            consoles: AtomicU32::new(0),
            taking: Mutex::new(()),
        })
    }

    /// Ends every connection that is served here.
    pub fn close(&self) {
        self.stop.signal();
    }
}

/// Serves a connection that speaks HTTP, to its end. `first` are bytes that have been read of it.
pub fn serve(stream: Box<dyn Stream>, first: Vec<u8>, from: Origin, api: &Api) {
    let mut connection = Connection::new(stream, first, (&api.stop, api.patience));
    for number in 1..=REQUESTS_MAX {
        let (request, body) = match connection.request() {
            Ok(request) => request,
            Err(Missing::Gone) => return,
            Err(Missing::Refused(refusal)) => return connection.refuse(refusal),
        };
        match routes::answer(&request, &body, from, api) {
            Answer::Response(response) => {
                let keep = request.keep_alive && number < REQUESTS_MAX;
                let head_only = request.method == http::Method::Head;
                if connection.send(&response, head_only, keep).is_err() || !keep {
                    return;
                }
            }
            Answer::Upgrade(response, upgrade) => {
                if connection.send(&response, false, true).is_ok() {
                    let (stream, first) = connection.into_parts();
                    upgrade.serve(stream, first, api);
                }
                return;
            }
        }
    }
}

/// A place among the attached consoles; free again when dropped.
struct Seat<'a>(&'a AtomicU32);

impl<'a> Seat<'a> {
    fn take(seats: &'a AtomicU32) -> Option<Self> {
        let more = |taken: u32| (taken < CONSOLES_MAX).then_some(taken.saturating_add(1));
        seats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(seats))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod load;
#[cfg(test)]
pub mod tests;

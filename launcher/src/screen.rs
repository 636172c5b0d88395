//! The screen on its port: made ready before the machine, served while it runs.
//!
//! [`prepare`] listens, so that a port that cannot be had is known before anything is made; whoever
//! connects waits until [`Prepared::serve`] has something to show. Both run on the main thread.

use std::error::Error;
use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Plan, Vnc};
use crate::exit;
use crate::failure::{Failure, sentence};
use crate::machine::Started;
use crate::server::address::listeners;
use crate::server::guard::Guard;
use crate::server::tls::Certificate;
use crate::server::{Caller, Server, Services};
use crate::vnc::client::{Door, Visit, serve};
use crate::vnc::hub::{Desk, Hub};

/// A port that is listened on, and who may come in.
pub struct Prepared {
    listeners: Vec<TcpListener>,
    door: Door,
}

/// A screen that is served. Dropping it sends every viewer away.
pub struct Screen {
    /// Goes first: its connections use the hub.
    _server: Server,
    _hub: Arc<Hub>,
}

/// Listens, as `plan` has it; `None`: there is to be no screen, or its port is somebody else's and
/// nobody has asked for it.
///
/// # Errors
/// The port or the certificate cannot be had.
pub fn prepare(plan: &Plan) -> Result<Option<Prepared>, Failure> {
    let Some(vnc) = &plan.vnc else { return Ok(None) };
    let failed = |error: &(dyn Error + 'static)| Failure::new(error, exit::ERROR);
    let certificate = certificate(vnc).map_err(|error| failed(&error))?;
    let listeners = match listeners(&vnc.listen) {
        Ok(listeners) => listeners,
        Err(error) if vnc.required => return Err(failed(&error)),
        Err(error) => {
            log::warn!("there is no screen: {}", sentence(&error));
            return Ok(None);
        }
    };
    let addresses: Vec<String> = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .map(|address| address.to_string())
        .collect();
    let guarded = match (vnc.passwords.asked_for(), certificate.is_some()) {
        (true, true) => "with a password, over TLS",
        (true, false) => "with a password",
        (false, _) => "without a password",
    };
    log::info!("the screen is on {}, {guarded}", addresses.join(" and "));
    let guard = Arc::new(Guard::new(vnc.passwords.clone(), Instant::now()));
    Ok(Some(Prepared { listeners, door: Door { guard, certificate } }))
}

fn certificate(vnc: &Vnc) -> Result<Option<Arc<Certificate>>, crate::server::tls::TlsError> {
    let load = |(certificate, key): &(std::path::PathBuf, std::path::PathBuf)| {
        Certificate::load(certificate, key).map(Arc::new)
    };
    vnc.tls.as_ref().map(load).transpose()
}

impl Prepared {
    /// Serves a machine called `name`. The machine runs by now, so it goes on without a screen if
    /// there can be none.
    pub fn serve(self, name: &str, machine: &Started) -> Option<Screen> {
        let desk = Desk {
            name: name.to_owned(),
            display: machine.face.screen.clone(),
            terminal: None,
            input: machine.face.input.clone(),
        };
        match self.start(desk) {
            Ok(screen) => Some(screen),
            Err(error) => {
                log::error!("there is no screen: its threads cannot be started ({error})");
                None
            }
        }
    }

    fn start(self, desk: Desk) -> io::Result<Screen> {
        let hub = Arc::new(Hub::start(desk)?);
        let certificate = self.door.certificate.clone();
        let (door, shown) = (self.door, Arc::clone(&hub));
        let rfb = Box::new(move |caller: Caller| {
            let Caller { stream, first, from, private, stop, ticket } = caller;
            serve(
                stream,
                first,
                Visit { from, private, access: None, stop, ticket },
                &shown,
                &door,
            );
        });
        let services = Services { rfb, http: Box::new(no_page), certificate };
        let server = Server::start(self.listeners, services)?;
        Ok(Screen { _server: server, _hub: hub })
    }
}

/// Tells a browser that there is nothing for it.
fn no_page(mut caller: Caller) {
    let body = "this port has a screen for VNC viewers, and no page\n";
    let head = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    // Whoever does not take so little at once does without.
    let _ = caller.stream.write(answer.as_bytes()).and_then(|_| caller.stream.flush());
}

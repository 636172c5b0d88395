//! The screen on its port: made ready before the machine, served while it runs.
//!
//! [`prepare`] listens, so that a port that cannot be had is known before anything is made; whoever
//! connects waits until [`Prepared::serve`] has something to show: what the [`hub`] has for viewers, and
//! the page and its like from the [`api`](crate::api). All run on the main thread.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use crate::api::origin::Origin;
use crate::api::{self, Api, Guest, Viewers};
use crate::config::{Plan, Vnc};
use crate::exit;
use crate::failure::{Failure, sentence};
use crate::machine::Face;
use crate::serial_screen::line::SerialLine;
use crate::server::address::listeners;
use crate::server::gate::Gate;
use crate::server::guard::Guard;
use crate::server::tls::Certificate;
use crate::server::{Caller, Server, Services};
use crate::vnc::client::{Door, Visit, serve};
use crate::vnc::hub::{Desk, Hub};

/// A port that is listened on, and who may come in.
pub struct Prepared {
    listeners: Vec<TcpListener>,
    door: Arc<Door>,
    gate: Gate,
    /// Where, and how it is guarded.
    description: String,
}

/// A port that is served. Dropping it sends everybody away.
pub struct Screen {
    api: Arc<Api>,
    _server: Server,
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
    let description = format!("{}, {guarded}", addresses.join(" and "));
    let guard = Arc::new(Guard::new(vnc.passwords.clone(), Instant::now()));
    let door = Arc::new(Door { guard, certificate });
    Ok(Some(Prepared { listeners, door, gate: Gate::new(Instant::now()), description }))
}

fn certificate(vnc: &Vnc) -> Result<Option<Arc<Certificate>>, crate::server::tls::TlsError> {
    let load = |(certificate, key): &(std::path::PathBuf, std::path::PathBuf)| {
        Certificate::load(certificate, key).map(Arc::new)
    };
    vnc.tls.as_ref().map(load).transpose()
}

impl Prepared {
    /// The passwords.
    pub fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.door.guard)
    }

    /// Who serves those that come by the page.
    pub fn viewers(&self, hub: &Arc<Hub>) -> Viewers {
        let (hub, door, gate) = (Arc::clone(hub), Arc::clone(&self.door), self.gate.clone());
        Box::new(move |guest: Guest| {
            let Guest { stream, access, from, stop } = guest;
            let from = match from {
                Origin::Network(address) => address,
                Origin::Control => Ipv4Addr::LOCALHOST.into(),
            };
            // One that is too many is closed, as on the port itself.
            let Some(ticket) = gate.enter(from) else { return };
            let visit = Visit { from, private: true, access: Some(access), stop, ticket };
            serve(stream, Vec::new(), visit, &hub, &door);
        })
    }

    /// Serves the port. The machine runs by now, so it goes on without if that cannot be.
    pub fn serve(self, hub: Arc<Hub>, api: Arc<Api>) -> Option<Screen> {
        let description = self.description.clone();
        match self.start(hub, &api) {
            Ok(server) => {
                log::info!("the screen is on {description}");
                Some(Screen { api, _server: server })
            }
            Err(error) => {
                log::error!("there is no screen: its threads cannot be started ({error})");
                None
            }
        }
    }

    fn start(self, hub: Arc<Hub>, api: &Arc<Api>) -> io::Result<Server> {
        let certificate = self.door.certificate.clone();
        let door = self.door;
        let rfb = Box::new(move |caller: Caller| {
            let Caller { stream, first, from, private, stop, ticket } = caller;
            let visit = Visit { from, private, access: None, stop, ticket };
            serve(stream, first, visit, &hub, &door);
        });
        let api = Arc::clone(api);
        let http = Box::new(move |caller: Caller| {
            let Caller { stream, first, from, ticket, .. } = caller;
            api::serve(stream, first, Origin::Network(from), &api);
            drop(ticket);
        });
        Server::start(self.listeners, Services { rfb, http, certificate }, self.gate)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The server waits for its connections, and those that speak HTTP hear of the end by this.
        self.api.close();
    }
}

/// What there is to be seen of a machine called `name`: its face, and its console as a terminal.
///
/// # Errors
/// There is no descriptor or thread left.
pub fn hub(name: &str, face: &Face, line: SerialLine) -> io::Result<Hub> {
    Hub::start(Desk {
        name: name.to_owned(),
        display: face.screen.clone(),
        terminal: Some(Arc::new(line)),
        input: face.input.clone(),
    })
}

#[cfg(test)]
mod browser;
#[cfg(test)]
mod chromium;

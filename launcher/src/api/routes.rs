//! Who gets what: from a request to its answer, or to what its connection becomes.
//!
//! In this order: probes are answered to anybody; then the host's name, the page's origin for
//! whatever does something, the password; then what is asked for.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::auth;
use super::console::{self, Console};
use super::http::{Method, Refusal, Request, Response};
use super::origin::{Origin, own_host, same_site};
use super::websocket::{self, Content, Socket};
use super::{Api, CONSOLES_MAX, Guest, Power, Seat, page, screenshot};
use crate::history::HISTORY;
use crate::server::passwords::Access;
use crate::server::stream::Stream;

const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What becomes of a request.
pub enum Answer<'a> {
    /// It is answered.
    Response(Response),
    /// It is answered, and the connection becomes something else.
    Upgrade(Response, Upgrade<'a>),
}

impl From<Response> for Answer<'_> {
    fn from(response: Response) -> Self {
        Self::Response(response)
    }
}

/// What a connection becomes.
pub enum Upgrade<'a> {
    /// RFB in a WebSocket.
    Screen(Access, Origin),
    /// The serial console, in a WebSocket.
    Console(Access, Content, Seat<'a>),
    /// The serial console, as plain bytes.
    PlainConsole(Access, Seat<'a>),
}

/// Answers a request.
pub fn answer<'a>(request: &Request, body: &[u8], from: Origin, api: &'a Api) -> Answer<'a> {
    if let Some(response) = probe(request, api) {
        return response.into();
    }
    match permit(request, from, api) {
        Ok(access) => route((request, body), access, from, api),
        Err(response) => Answer::Response(*response),
    }
}

/// What kubelet asks, which knows no password.
fn probe(request: &Request, api: &Api) -> Option<Response> {
    let health = &api.parts.health;
    let told = match request.path.as_str() {
        "/healthz" => health.healthy().map(|()| "ok".to_owned()),
        "/readyz" => health.ready(),
        _ => return None,
    };
    if request.method == Method::Post {
        return Some(only("GET, HEAD"));
    }
    Some(match told {
        Ok(line) => Response::line(200, line),
        Err(line) => Response::line(503, line),
    })
}

/// What the sender may do.
fn permit(request: &Request, from: Origin, api: &Api) -> Result<Access, Box<Response>> {
    let refused = |refusal: Refusal| Box::new(Response::from(refusal));
    if from == Origin::Control {
        return Ok(Access::Full);
    }
    let passwords = api.parts.passwords.as_deref();
    if !passwords.is_some_and(|passwords| passwords.needed()) {
        own_host(request).map_err(refused)?;
    }
    if request.method == Method::Post || request.field("upgrade").is_some() {
        same_site(request).map_err(refused)?;
    }
    auth::access(request, from, passwords)
}

fn route<'a>(
    (request, body): (&Request, &[u8]),
    access: Access,
    from: Origin,
    api: &'a Api,
) -> Answer<'a> {
    let upgrade = request.method == Method::Get && request.field("upgrade").is_some();
    match (request.method, request.path.as_str()) {
        (Method::Get, "/" | "/websockify") if upgrade => screen(request, access, from, api),
        (Method::Get, "/console") if upgrade => console(request, access, api),
        (Method::Post, "/power") => power(body, access, api).into(),
        (_, "/power") => only("POST").into(),
        (Method::Post, _) => only("GET, HEAD").into(),
        (_, "/websockify") => {
            Response::line(426, "this is a WebSocket").with("Upgrade", "websocket").into()
        }
        (_, "/console") => {
            let said = api.parts.console.last(HISTORY);
            Response::found("text/plain; charset=utf-8", said).into()
        }
        (_, "/status") => status(api).into(),
        (_, "/metrics") => metrics(api).into(),
        (_, "/screenshot.png") => picture(api).into(),
        (_, path) => page::file(path, &api.web_root)
            .unwrap_or_else(|| Response::line(404, "there is nothing of this name"))
            .into(),
    }
}

fn only(methods: &str) -> Response {
    Response::line(405, format!("this takes {methods} only")).with("Allow", methods)
}

fn screen<'a>(request: &Request, access: Access, from: Origin, api: &'a Api) -> Answer<'a> {
    if api.parts.viewers.is_none() {
        return Response::line(404, "this machine has no VNC server").into();
    }
    if !websocket::is_asked_for(request) {
        return Response::line(400, "this can become a WebSocket only").into();
    }
    match websocket::handshake(request) {
        Ok(response) => Answer::Upgrade(response, Upgrade::Screen(access, from)),
        Err(response) => Answer::Response(*response),
    }
}

fn console<'a>(request: &Request, access: Access, api: &'a Api) -> Answer<'a> {
    let Some(seat) = Seat::take(&api.consoles) else {
        let line = format!("{CONSOLES_MAX} consoles are attached already; close one");
        return Response::line(503, line).into();
    };
    if request.has_member("upgrade", console::UPGRADE)
        && request.has_member("connection", "upgrade")
    {
        let response = Response::upgrade(console::UPGRADE);
        return Answer::Upgrade(response, Upgrade::PlainConsole(access, seat));
    }
    if !websocket::is_asked_for(request) {
        return Response::line(400, "this can become a WebSocket or berth-console only").into();
    }
    let content = if websocket::wants_binary(request) { Content::Binary } else { Content::Text };
    match websocket::handshake(request) {
        Ok(response) => Answer::Upgrade(response, Upgrade::Console(access, content, seat)),
        Err(response) => Answer::Response(*response),
    }
}

fn power(body: &[u8], access: Access, api: &Api) -> Response {
    if access != Access::Full {
        return Response::line(403, "the password for looking on does not reach the power button");
    }
    let word = str::from_utf8(body).unwrap_or_default().trim();
    let Some(button) = Power::from_word(word) else {
        return Response::line(400, "send one of the words button, off and reset");
    };
    match api.parts.machine.press(button) {
        Ok(()) => Response::line(202, "done"),
        Err(sentence) => Response::line(503, sentence),
    }
}

fn status(api: &Api) -> Response {
    let mut status = api.parts.machine.status();
    status.consoles = api.consoles.load(Ordering::Relaxed);
    match serde_json::to_vec(&status) {
        Ok(mut json) => {
            json.push(b'\n');
            Response::found(JSON, json)
        }
        Err(error) => Response::line(503, error.to_string()),
    }
}

fn metrics(api: &Api) -> Response {
    let consoles = api.consoles.load(Ordering::Relaxed);
    Response::found(OPEN_METRICS, api.parts.machine.metrics(consoles).into_bytes())
}

fn picture(api: &Api) -> Response {
    let Some(shutter) = &api.parts.shutter else {
        return Response::line(404, "this machine has no screen");
    };
    let _one = api.taking.lock().unwrap_or_else(PoisonError::into_inner);
    match screenshot::png(&shutter()) {
        Ok(file) => Response::found("image/png", file),
        Err(_) => Response::line(503, "the screen shows nothing yet"),
    }
}

impl Upgrade<'_> {
    /// Serves the connection to its end; `first` of it has been read already.
    pub fn serve(self, stream: Box<dyn Stream>, first: Vec<u8>, api: &Api) {
        match self {
            Self::Screen(access, from) => {
                if let Some(viewers) = &api.parts.viewers {
                    let stream = Box::new(Socket::new(stream, first, Content::Binary));
                    viewers(Guest { stream, access, from, stop: api.stop.clone() });
                }
            }
            Self::Console(access, content, seat) => {
                let stream = Box::new(Socket::new(stream, first, content));
                attach(stream, Vec::new(), access, api);
                drop(seat);
            }
            Self::PlainConsole(access, seat) => {
                attach(stream, first, access, api);
                drop(seat);
            }
        }
    }
}

/// Joins a connection to the serial console.
fn attach(stream: Box<dyn Stream>, typed: Vec<u8>, access: Access, api: &Api) {
    let machine = (access == Access::Full).then_some(&*api.parts.machine);
    let outcome =
        api.parts.console.follow().and_then(|follower| {
            Console { stream, follower, machine, stop: &api.stop }.serve(typed)
        });
    if let Err(error) = outcome {
        log::debug!("a console has ended: {error}");
    }
}

//! Keeps one resource offered: serves its socket, and has the kubelet know of it.
//!
//! A kubelet that starts empties its directory of sockets and makes its own anew. So whenever the
//! kubelet's socket is another one, or this offer's is gone, it all begins again. It does too when
//! the kubelet no longer watches the list: there is nothing else by which to notice that it has let
//! go of a plugin.
//!
//! Two plugins with one resource on a node happen when one replaces the other. The newer takes over
//! the socket, and the older stands by until nobody listens there any more.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::api::{KUBELET_SOCKET, RegisterRequest, VERSION};
use crate::device::{Kind, State};
use crate::file::FileId;
use crate::registration::{RegistrationError, register};
use crate::resource::Resource;
use crate::service::{DevicePlugin, OPTIONS};

/// Before the second try; doubled for each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest time between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A registration that has lasted that long was no failure. Also how long the kubelet may take to
/// watch the list.
const SETTLED: Duration = Duration::from_secs(60);

/// Why a resource is not offered at the moment.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// There is no socket.
    #[error("no socket can be made at {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process serves the socket.
    #[error("another plugin has taken over {}; this one stands by", path.display())]
    Replaced {
        /// Where.
        path: PathBuf,
    },
    /// No kubelet, or one that does not want it.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// The kubelet has let go of it.
    #[error("the kubelet no longer watches it")]
    Unwatched,
}

/// One resource, offered for as long as [`Offer::keep`] runs.
pub struct Offer {
    resource: Arc<Resource>,
    state: watch::Receiver<State>,
    directory: PathBuf,
    watchers: Arc<watch::Sender<usize>>,
    socket: Option<Socket>,
}

impl Offer {
    /// Offers `resource`, whose device is in `state`, to the kubelet whose sockets are in `directory`.
    pub fn new(resource: Resource, state: watch::Receiver<State>, directory: PathBuf) -> Self {
        let watchers = Arc::new(watch::Sender::new(0));
        Self { resource: Arc::new(resource), state, directory, watchers, socket: None }
    }

    /// Goes on for ever. `looks` changes when something in the directory may have.
    pub async fn keep(mut self, mut looks: watch::Receiver<()>) {
        let mut pause = FIRST_PAUSE;
        let mut told = String::new();
        loop {
            let began = Instant::now();
            looks.mark_unchanged();
            let outcome = self.once(&mut looks).await;
            if began.elapsed() >= SETTLED {
                pause = FIRST_PAUSE;
                told.clear();
            }
            let Err(error) = outcome else { continue };
            let sentence = sentence(&error);
            if sentence == told {
                log::debug!("{}: {sentence}", self.resource.name);
            } else {
                log::warn!("{}: {sentence}", self.resource.name);
                told = sentence;
            }
            tokio::select! {
                () = sleep(pause) => pause = LONGEST_PAUSE.min(pause.saturating_mul(2)),
                _ = looks.changed() => {}
            }
        }
    }

    /// Serves and registers, and returns when that is to be done again.
    async fn once(&mut self, looks: &mut watch::Receiver<()>) -> Result<(), OfferError> {
        let endpoint = self.listen()?;
        let kubelet = self.directory.join(KUBELET_SOCKET);
        let Some(id) = FileId::of(&kubelet) else {
            log::info!("{}: waiting for the kubelet", self.resource.name);
            let _ = looks.changed().await;
            return Ok(());
        };
        let name = self.resource.name.clone();
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint,
            resource_name: name.clone(),
            options: Some(OPTIONS),
        };
        register(&kubelet, request).await?;
        log::info!("{name}: registered with the kubelet");
        let began = Instant::now();
        let mut watchers = self.watchers.subscribe();
        let mut was_watched = false;
        loop {
            let watched = *watchers.borrow_and_update() > 0;
            if FileId::of(&kubelet) != Some(id) || !self.is_listening() {
                return Ok(());
            }
            if !watched && (was_watched || began.elapsed() >= SETTLED) {
                return Err(OfferError::Unwatched);
            }
            was_watched |= watched;
            // A sender that is gone is a plugin that ends: nobody waits for this any more.
            tokio::select! {
                _ = watchers.changed() => {}
                _ = looks.changed() => {}
            }
        }
    }

    /// The name of the socket for a device, in the kubelet's directory.
    pub fn socket(kind: Kind) -> String {
        format!("berth-{}.sock", kind.name())
    }

    fn is_listening(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::is_there)
    }

    /// Sees to it that the socket is served; answers its name.
    fn listen(&mut self) -> Result<String, OfferError> {
        let name = Self::socket(self.resource.kind);
        if self.is_listening() {
            return Ok(name);
        }
        let path = self.directory.join(&name);
        let was_served = self.socket.take().is_some();
        if was_served && UnixStream::connect(&path).is_ok() {
            // It was replaced: see the head of this file. Kept, so that the next try finds out again.
            self.socket = Some(Socket::gone(path.clone()));
            return Err(OfferError::Replaced { path });
        }
        let plugin =
            DevicePlugin::new(self.resource.clone(), self.state.clone(), self.watchers.clone());
        let socket = Socket::serve(&path, plugin);
        self.socket = Some(socket.map_err(|source| OfferError::Socket { path, source })?);
        Ok(name)
    }
}

/// A socket that is served. Removed when dropped.
struct Socket {
    path: PathBuf,
    id: Option<FileId>,
    task: Option<JoinHandle<()>>,
}

impl Socket {
    fn serve(path: &Path, plugin: DevicePlugin) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let id = FileId::of(path);
        let shown = path.display().to_string();
        let task = tokio::spawn(async move {
            if let Err(error) = plugin.serve(listener).await {
                log::error!("{shown} is no longer served: {error}");
            }
        });
        Ok(Self { path: path.to_owned(), id, task: Some(task) })
    }

    /// One that another process has made its own.
    fn gone(path: PathBuf) -> Self {
        Self { path, id: None, task: None }
    }

    fn is_there(&self) -> bool {
        let served = self.task.as_ref().is_some_and(|task| !task.is_finished());
        served && self.id.is_some() && FileId::of(&self.path) == self.id
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_there() {
            // If that fails the kubelet removes it when it starts.
            let _ = fs::remove_file(&self.path);
        }
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// An error and its causes, each told once.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}

//! The story: look at the devices, tell the offers, and wait until there may be news.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::KUBELET_SOCKET;
use crate::device::{Kind, State};
use crate::lookout::Lookout;
use crate::offer::Offer;
use crate::resource::Resource;

/// Judges a device by its path: [`device::judge`](crate::device::judge), but for tests.
pub type Judge = fn(Kind, &Path) -> State;

/// What to offer, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The kubelet's directory of sockets.
    pub kubelet: PathBuf,
    /// Where the node's `/dev` is to be seen.
    pub devices: PathBuf,
    /// At most one of a kind.
    pub resources: Vec<Resource>,
}

/// Why nothing is offered.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no such directory.
    #[error("{}, the kubelet's directory of sockets, cannot be read: {source}; name it by --kubelet", path.display())]
    NoDirectory {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A task has ended, and none is to end.
    #[error("an offer has ended: {0}")]
    Ended(String),
}

/// A device and those who want to know of it.
struct Watched {
    resource: Resource,
    path: PathBuf,
    state: watch::Sender<State>,
}

/// Offers devices until `stop`; by then its sockets are removed.
///
/// # Errors
/// [`PluginError`].
pub async fn run(
    settings: &Settings,
    judge: Judge,
    stop: impl Future<Output = ()>,
) -> Result<(), PluginError> {
    let directory = &settings.kubelet;
    std::fs::read_dir(directory)
        .map_err(|source| PluginError::NoDirectory { path: directory.clone(), source })?;
    let mut lookout = lookout(settings);
    let news = watch::Sender::new(());
    let mut devices = Vec::new();
    let mut offers = JoinSet::new();
    for resource in &settings.resources {
        let path = settings.devices.join(resource.kind.file());
        let first = judge(resource.kind, &path);
        tell(resource, &first);
        let (state, states) = watch::channel(first);
        let offer = Offer::new(resource.clone(), states, directory.clone());
        offers.spawn(offer.keep(news.subscribe()));
        devices.push(Watched { resource: resource.clone(), path, state });
    }
    let mut stop = pin!(stop);
    let outcome = loop {
        tokio::select! {
            () = &mut stop => break Ok(()),
            Some(ended) = offers.join_next() => {
                let how = ended.map_or_else(|error| error.to_string(), |()| "by itself".to_owned());
                break Err(PluginError::Ended(how));
            }
            () = lookout.next() => {}
        }
        for device in &devices {
            look(device, judge);
        }
        let _ = news.send(());
    };
    offers.shutdown().await;
    outcome
}

/// Everything by which news can be had.
fn lookout(settings: &Settings) -> Lookout {
    let mut directories = BTreeSet::from([settings.kubelet.clone(), settings.devices.clone()]);
    let mut names = BTreeSet::from([OsString::from(KUBELET_SOCKET)]);
    for resource in &settings.resources {
        let file = Path::new(resource.kind.file());
        directories.extend(settings.devices.join(file).parent().map(Path::to_owned));
        names.extend(file.iter().map(OsString::from));
        names.insert(Offer::socket(resource.kind).into());
    }
    Lookout::new(directories.into_iter().collect(), names.into_iter().collect())
}

/// Has everybody know if the device's state has changed.
fn look(device: &Watched, judge: Judge) {
    let now = judge(device.resource.kind, &device.path);
    device.state.send_if_modified(|state| {
        let has_changed = *state != now;
        if has_changed {
            tell(&device.resource, &now);
            *state = now;
        }
        has_changed
    });
}

fn tell(resource: &Resource, state: &State) {
    let Resource { name, kind, slots } = resource;
    let device = kind.path();
    let device = device.display();
    match state {
        State::Absent => log::info!("{name}: {device} {state}; there is nothing to offer"),
        State::Unusable(_) => {
            log::warn!("{name}: {device} {state}; none of {slots} slots is healthy")
        }
        State::Untried | State::Usable => log::info!("{name}: {device} {state}; {slots} slots"),
    }
}

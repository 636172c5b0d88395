//! A kubelet as far as a device plugin can see one: it serves `Registration` on `kubelet.sock`,
//! connects to each plugin that registers before it answers, and can be made to restart as the real
//! one does, by emptying its directory first.

use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_device_plugin::api::{
    KUBELET_SOCKET, ListAndWatchResponse, RegisterRequest, device_plugin, registration,
};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming, client, server};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// Longer than anything takes on the slowest machine: it ends tests that would never end.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A kubelet that runs. What it served is no longer served once it is dropped; files stay.
pub struct Kubelet {
    directory: PathBuf,
    registered: mpsc::Receiver<RegisterRequest>,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// Starts in `directory`: everything there is removed first.
    pub fn start(directory: &Path) -> Self {
        Self::start_that(directory, None)
    }

    /// Starts; answers every registration with `refusal` if there is one.
    pub fn start_that(directory: &Path, refusal: Option<Status>) -> Self {
        for entry in fs::read_dir(directory).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let listener = UnixListener::bind(directory.join(KUBELET_SOCKET)).unwrap();
        let (sender, registered) = mpsc::channel(64);
        let service = Registration { directory: directory.to_owned(), sender, refusal };
        let task = tokio::spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            Server::builder().serve_with_incoming(service, incoming).await.unwrap();
        });
        Self { directory: directory.to_owned(), registered, task }
    }

    /// The next plugin that registers.
    pub async fn registration(&mut self) -> RegisterRequest {
        timeout(PATIENCE, self.registered.recv()).await.expect("a registration").unwrap()
    }

    /// The next `count` that register, connected, in the order of their names.
    pub async fn plugins(&mut self, count: usize) -> Vec<Plugin> {
        let mut plugins = Vec::new();
        for _ in 0..count {
            let request = self.registration().await;
            plugins.push(Plugin::connect(&self.directory, request).await);
        }
        plugins.sort_by(|a, b| a.request.resource_name.cmp(&b.request.resource_name));
        plugins
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A plugin that has registered.
pub struct Plugin {
    /// What it has registered with.
    pub request: RegisterRequest,
    client: client::Grpc<Channel>,
}

impl Plugin {
    async fn connect(directory: &Path, request: RegisterRequest) -> Self {
        let channel =
            connect(&directory.join(&request.endpoint)).await.expect("a plugin that is served");
        Self { request, client: client::Grpc::new(channel) }
    }

    /// Asks `question` by the call `path`.
    pub async fn ask<Q, A>(&mut self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.client.ready().await.expect("the connection lasts");
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        let answer = timeout(PATIENCE, self.client.unary(Request::new(question), path, codec));
        answer.await.expect("an answer").map(Response::into_inner)
    }

    /// Watches its list, as a kubelet does for as long as it lives.
    pub async fn watch(&mut self) -> Lists {
        self.client.ready().await.expect("the connection lasts");
        let path = PathAndQuery::from_static(device_plugin::LIST_AND_WATCH);
        let codec: ProstCodec<(), ListAndWatchResponse> = ProstCodec::default();
        let answer = self.client.server_streaming(Request::new(()), path, codec).await;
        Lists(answer.expect("a stream").into_inner())
    }
}

/// The lists of a plugin's devices, one after the other.
pub struct Lists(Streaming<ListAndWatchResponse>);

impl Lists {
    /// The next one: how many slots, and the health that all of them have.
    pub async fn next(&mut self) -> (usize, String) {
        let message = timeout(PATIENCE, self.0.message()).await.expect("a list");
        let devices = message.expect("the stream lasts").expect("the stream lasts").devices;
        let health = devices.first().map(|device| device.health.clone()).unwrap_or_default();
        assert!(devices.iter().all(|device| device.health == health), "{devices:?}");
        (devices.len(), health)
    }

    /// Returns once the plugin has ended the stream.
    pub async fn end(mut self) {
        let ended = async { while let Ok(Some(_)) = self.0.message().await {} };
        timeout(PATIENCE, ended).await.expect("the stream ends");
    }
}

async fn connect(path: &Path) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("unix://{}", path.display()))?.connect().await
}

#[derive(Clone)]
struct Registration {
    directory: PathBuf,
    sender: mpsc::Sender<RegisterRequest>,
    refusal: Option<Status>,
}

type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl Service<http::Request<Body>> for Registration {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), registration::REGISTER);
        let register = Register(self.clone());
        Box::pin(async {
            Ok(server::Grpc::new(ProstCodec::default()).unary(register, request).await)
        })
    }
}

struct Register(Registration);

impl Service<Request<RegisterRequest>> for Register {
    type Response = Response<()>;
    type Error = Status;
    type Future = Answering<Response<()>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RegisterRequest>) -> Self::Future {
        let Registration { directory, sender, refusal } = self.0.clone();
        let request = request.into_inner();
        Box::pin(async move {
            // As the real one: a plugin that cannot be reached is not registered.
            let reached = connect(&directory.join(&request.endpoint)).await;
            let reached = reached.map(drop).map_err(|error| Status::unknown(error.to_string()));
            // Nobody may be left to hear of it.
            let _ = sender.send(request).await;
            refusal.map_or(reached, Err).map(Response::new)
        })
    }
}

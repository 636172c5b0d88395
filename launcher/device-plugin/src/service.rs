//! The service `v1beta1.DevicePlugin` of one resource, which the kubelet calls.
//!
//! What is pure is in [`Resource`]; here calls are told apart, and lists are sent again when the
//! device's state changes. Bounds: a message is at most 4 MiB (the library's default), a connection
//! has at most [`MAX_CALLS`] calls at once.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::api::{
    DevicePluginOptions, ListAndWatchResponse, PreStartContainerRequest, device_plugin,
};
use crate::device::State;
use crate::resource::{Refusal, Resource};

/// Calls of one connection at the same time.
const MAX_CALLS: u32 = 32;

/// Every answer is known at once, and no container has to be prepared.
pub const OPTIONS: DevicePluginOptions =
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: false };

/// The service; its clones are the same.
#[derive(Clone)]
pub struct DevicePlugin {
    resource: Arc<Resource>,
    state: watch::Receiver<State>,
    watchers: Arc<watch::Sender<usize>>,
}

impl DevicePlugin {
    /// Serves `resource`, whose device is in `state`. How many kubelets watch its list is counted in
    /// `watchers`.
    pub fn new(
        resource: Arc<Resource>,
        state: watch::Receiver<State>,
        watchers: Arc<watch::Sender<usize>>,
    ) -> Self {
        Self { resource, state, watchers }
    }

    /// Answers whoever connects.
    ///
    /// # Errors
    /// Nobody can connect any more.
    pub async fn serve(self, listener: UnixListener) -> Result<(), tonic::transport::Error> {
        Server::builder()
            .max_concurrent_streams(MAX_CALLS)
            .serve_with_incoming(self, UnixListenerStream::new(listener))
            .await
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let Self { resource, state, watchers } = self;
        let now = || state.borrow().clone();
        match request.uri().path() {
            device_plugin::OPTIONS => unary(request, |()| Ok(OPTIONS)).await,
            device_plugin::LIST_AND_WATCH => {
                let list = List {
                    resource,
                    states: WatchStream::new(state),
                    _watcher: Watcher::new(watchers),
                };
                let call = Call(Some(|()| Ok(list)));
                Grpc::new(ProstCodec::default()).server_streaming(call, request).await
            }
            device_plugin::PREFERRED => {
                unary(request, |wanted| Ok(resource.prefer(&wanted)?)).await
            }
            device_plugin::ALLOCATE => {
                let allocate = |wanted| {
                    let answer = resource.allocate(&wanted, &now());
                    Ok(answer.inspect_err(|refusal| log::warn!("{refusal}"))?)
                };
                unary(request, allocate).await
            }
            device_plugin::PRE_START => unary(request, |_: PreStartContainerRequest| Ok(())).await,
            path => Status::unimplemented(format!("there is no call {path}")).into_http(),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::UnknownSlot { .. } => Self::not_found(text),
            Refusal::Unhealthy { .. } => Self::unavailable(text),
            Refusal::TooFew { .. } => Self::invalid_argument(text),
        }
    }
}

impl Service<http::Request<Body>> for DevicePlugin {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

/// Answers one message with one.
async fn unary<Q, A>(
    request: http::Request<Body>,
    answer: impl FnOnce(Q) -> Result<A, Status>,
) -> http::Response<Body>
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
{
    Grpc::new(ProstCodec::default()).unary(Call(Some(answer)), request).await
}

/// A function as the library wants a call to be. It is called once.
struct Call<F>(Option<F>);

impl<F, Q, A> Service<Request<Q>> for Call<F>
where
    F: FnOnce(Q) -> Result<A, Status>,
{
    type Response = Response<A>;
    type Error = Status;
    type Future = Ready<Result<Response<A>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = self.0.take().ok_or_else(|| Status::internal("answered already"));
        ready(answer.and_then(|answer| answer(request.into_inner())).map(Response::new))
    }
}

/// The list now, and again after each change of the device.
struct List {
    resource: Arc<Resource>,
    states: WatchStream<State>,
    _watcher: Watcher,
}

impl Stream for List {
    type Item = Result<ListAndWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let state = Pin::new(&mut self.states).poll_next(context);
        state.map(|state| state.map(|state| Ok(self.resource.list(&state))))
    }
}

/// Counts while it lives.
struct Watcher(Arc<watch::Sender<usize>>);

impl Watcher {
    fn new(count: Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count = count.saturating_add(1));
        Self(count)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

//! Asks the kubelet, over its socket, to take notice of a resource.
//!
//! The kubelet connects to the plugin's socket before it answers, so the plugin must be served by
//! then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::api::{RegisterRequest, registration};

/// A kubelet that lives takes the connection at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The kubelet gives itself 10 s to connect in turn.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why there is no registration.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Nobody listens, or not over a Unix socket.
    #[error("the kubelet does not listen at {}", path.display())]
    Unreachable {
        /// The kubelet's socket.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The kubelet does not want it.
    #[error("the kubelet refuses {resource}: {} ({:?})", status.message(), status.code())]
    Refused {
        /// The resource's name.
        resource: String,
        /// The kubelet's answer, or what went wrong on the way.
        status: Box<Status>,
    },
}

/// Registers by the kubelet's socket `kubelet`.
///
/// # Errors
/// [`RegistrationError`].
pub async fn register(kubelet: &Path, request: RegisterRequest) -> Result<(), RegistrationError> {
    let resource = request.resource_name.clone();
    let refused = |status| RegistrationError::Refused {
        resource: resource.clone(),
        status: Box::new(status),
    };
    let unreachable = |source| RegistrationError::Unreachable { path: kubelet.to_owned(), source };
    let channel = Endpoint::from_shared(format!("unix://{}", kubelet.display()))
        .map_err(unreachable)?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .connect()
        .await
        .map_err(unreachable)?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(unreachable)?;
    let path = PathAndQuery::from_static(registration::REGISTER);
    let codec: ProstCodec<RegisterRequest, ()> = ProstCodec::default();
    client.unary(Request::new(request), path, codec).await.map_err(refused)?;
    Ok(())
}

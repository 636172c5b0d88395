//! Asks the kubelet, over its socket, to take notice of a resource.
//!
//! The kubelet connects to the plugin's socket before it answers, so the plugin must be served by
//! then.

use std::error::Error;
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
    #[error("the kubelet does not listen at {}: {why}", path.display())]
    Unreachable {
        /// The kubelet's socket.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The kubelet does not want it: its answer, or what went wrong on the way.
    #[error("the kubelet refuses it: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<Status>),
}

/// Registers by the kubelet's socket `kubelet`.
///
/// # Errors
/// [`RegistrationError`].
pub async fn register(kubelet: &Path, request: RegisterRequest) -> Result<(), RegistrationError> {
    let refused = |status| RegistrationError::Refused(Box::new(status));
    let unreachable = |error: tonic::transport::Error| RegistrationError::Unreachable {
        path: kubelet.to_owned(),
        why: innermost(&error),
    };
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

/// The first cause. The library's own layers around it say nothing more.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

//! Clients of an API server in this process.
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tower::{BoxError, Service};

/// A client for an API server in this process: `service` is its door, already authenticated as some user.
///
/// Must be called inside a tokio runtime; the client ends with it.
pub fn in_process<S, B>(service: S, default_namespace: &str) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, default_namespace)
}

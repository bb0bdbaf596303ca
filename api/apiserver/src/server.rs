//! The server: what it is made of, and the in-process door.
use crate::authentication::{Authenticator, UserInfo};
use crate::body::{Body, BoxError};
use crate::cidr::Cidr;
use crate::handler;
use crate::kubelet::KubeletClient;
use crate::limits::{InFlight, Limits};
use crate::metrics::Metrics;
use crate::watch::Hubs;
use bytes::Bytes;
use http_body_util::BodyExt;
use machinery::ambient::Ambient;
use machinery::metrics::MetricsReader;
use prometheus_client::collector::Collector;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Replays of the store's history at a time: each walks through at most its 64 MiB, which takes tens of milliseconds.
const MAX_REPLAYS: usize = 2;

/// What an API server needs to run.
pub struct Config {
    pub store: Arc<dyn Store>,
    pub ambient: Ambient,
    /// Whence Services take their ClusterIPs (`--service-cluster-ip-range`).
    pub service_cidr: Cidr,
    /// Whence Services take their node ports (`--service-node-port-range`).
    pub service_node_port_range: RangeInclusive<u16>,
    /// Asked in order for the user of a bearer token.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// How to reach kubelets, for logs and the node proxy; [`pki::client_config`] makes one. `None`: not at all.
    pub kubelet_client: Option<rustls::ClientConfig>,
    /// Where clients reach this server; goes into the `kubernetes` Service's endpoints and legacy discovery.
    pub advertise_address: SocketAddr,
    /// Who knows what nodes and pods use; `metrics.k8s.io` is served if there is somebody.
    pub metrics: Option<Arc<dyn MetricsReader>>,
    pub limits: Limits,
    /// Metrics of other parts of this process, shown at `/metrics` beside the server's own.
    pub collectors: Vec<Box<dyn Collector>>,
}

impl Config {
    /// The defaults around a store: dhow's ranges, no tokens, no kubelets, loopback.
    pub fn new(store: Arc<dyn Store>, ambient: Ambient) -> Self {
        Self {
            store,
            ambient,
            service_cidr: Cidr::DEFAULT_SERVICES,
            service_node_port_range: 30_000..=32_767,
            authenticators: Vec::new(),
            kubelet_client: None,
            advertise_address: SocketAddr::from(([127, 0, 0, 1], 6443)),
            metrics: None,
            limits: Limits::default(),
            collectors: Vec::new(),
        }
    }
}

/// An API server. Clones share everything; when the last one and its services are gone, its tasks end.
#[derive(Clone)]
pub struct ApiServer(pub(crate) Arc<Server>);

pub(crate) struct Server {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ambient: Ambient,
    pub(crate) service_cidr: Cidr,
    pub(crate) service_node_port_range: RangeInclusive<u16>,
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    pub(crate) kubelets: Option<KubeletClient>,
    pub(crate) advertise_address: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) in_flight: InFlight,
    pub(crate) hubs: Hubs,
    /// Who reads the store's history now, for which as much as all of it is held for a moment.
    pub(crate) replays: Semaphore,
    /// What this server counts.
    pub(crate) metrics: Metrics,
    /// What nodes and pods use.
    pub(crate) usage: Option<Arc<dyn MetricsReader>>,
    /// Held while a Service's addresses are chosen and stored, so that no two get the same.
    pub(crate) allocation: Arc<tokio::sync::Mutex<()>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl ApiServer {
    pub fn new(config: Config) -> Self {
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self(Arc::new(Server {
            hubs: Hubs::new(config.store.clone(), shutdown.clone(), tasks.clone()),
            replays: Semaphore::new(MAX_REPLAYS),
            store: config.store,
            ambient: config.ambient,
            service_cidr: config.service_cidr,
            service_node_port_range: config.service_node_port_range,
            authenticators: config.authenticators,
            kubelets: config.kubelet_client.map(KubeletClient::new),
            advertise_address: config.advertise_address,
            in_flight: InFlight::new(&config.limits),
            limits: config.limits,
            usage: config.metrics,
            metrics: Metrics::new(config.collectors),
            allocation: Arc::default(),
            tasks,
            shutdown,
        }))
    }

    /// The in-process door, for someone who is already known to be `user`.
    pub fn service(&self, user: UserInfo) -> Service {
        Service { server: self.0.clone(), user: Arc::new(user) }
    }

    /// Ends every watch and waits for the server's own tasks. Requests that come later are answered, watches are not.
    pub async fn shutdown(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// The API server as a tower Service; see [`ApiServer::service`].
#[derive(Clone)]
pub struct Service {
    server: Arc<Server>,
    user: Arc<UserInfo>,
}

impl<B> tower::Service<http::Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (server, user) = (self.server.clone(), self.user.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move {
            let end = server.shutdown.clone();
            Ok(handler::handle(server, handler::Caller::Known(user), request, end).await)
        })
    }
}

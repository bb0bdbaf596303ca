//! The way in for HTTP from outside the cluster.
//!
//! Purpose: a listener on the node, and one for TLS, that carry a request, by its host, path and headers, to a
//! Function, a Service or what an Ingress names.
//!
//! Invariant: where a request goes is decided by [`routes`] alone, a pure function of what the API server says. A
//! body is passed on as it comes and never held; a request is tried again only if no byte of it was sent, or if doing
//! it twice is the same as once.
//!
//! ```text
//!   client ──HTTP/1.1, h2, TLS──► server ──► proxy ── RouteTable::find(host, path) ──► Route::choose(headers) ──►
//!                                   │                         ▲                         pool ──► a ready endpoint
//!                                  tls (SNI)                  │
//!                                   ▲        Functions · Services · EndpointSlices · Ingresses
//!                                   └── ingress: class, status, Secrets' certificates, events
//! ```
//!
//! | host | goes to |
//! |---|---|
//! | `NAME.localhost` | Function NAME in namespace default |
//! | `NAME.NAMESPACE.localhost` | Function NAME in NAMESPACE |
//! | each of a Function's `spec.hosts` | that Function, for its `spec.paths` |
//! | `NAME.NAMESPACE.svc.localhost` | Service NAME, its first port |
//! | the hosts of an Ingress' rules | the Services these name |
mod backends;
mod ingress;
mod metrics;
mod pool;
mod proxy;
pub mod routes;
mod server;
mod split;
mod stream;
mod tls;

pub use metrics::Metrics;
pub use proxy::record::ACCESS;
pub use tls::{Certificates, Error, Issue, Keyed};

use client::dhow::v1alpha1::Function;
use client::k8s_openapi::api::core::v1::Service;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use client::{Client, Informers, Recorder};
use ingress::Follower;
use ingress::plan::{Reached, plan_own};
use machinery::ambient::Ambient;
use routes::World;
use server::Server;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use telemetry::Tracer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The TLS listener and who signs its own certificates.
pub struct Tls {
    pub listener: TcpListener,
    pub issue: Issue,
}

/// What a gateway is started with.
pub struct Config {
    /// Bound before anything else starts, so that a port in use is found out at once.
    pub listener: TcpListener,
    pub tls: Option<Tls>,
    pub metrics: Arc<Metrics>,
    /// Begins a span for each request; without it nobody traces.
    pub tracer: Option<Arc<Tracer>>,
    pub ambient: Ambient,
}

/// Changes that come this close together make one new table.
const SETTLE: Duration = Duration::from_millis(5);

/// Serves until `shutdown`, then lets running requests end (at most [`server::DRAIN`]).
///
/// # Errors
///
/// When the gateway's own certificate cannot be made, or a listener has no address.
pub async fn run(
    config: Config,
    client: Client,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Config { listener, tls, metrics, tracer, ambient } = config;
    let own = listener.local_addr().map_err(Error::Listener)?;
    let reached = Reached {
        ip: if own.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { own.ip() },
        port: own.port(),
        tls_port: tls.as_ref().and_then(|tls| tls.listener.local_addr().ok()).map(|a| a.port()),
    };
    let (certificates, encrypted) = match tls {
        Some(Tls { listener, issue }) => {
            let certificates = Certificates::new(issue, metrics.table().clone())?;
            let acceptor = TlsAcceptor::from(certificates.server_config()?);
            (Some(certificates), Some((listener, acceptor)))
        }
        None => (None, None),
    };
    let recorder = Recorder::new(client.clone(), ambient.clone(), "dhow-gateway", "", shutdown.clone());
    let follower = Follower { client, recorder, reached, certificates };
    let server = Arc::new(Server::new(metrics.clone(), tracer, ambient.random(), shutdown.clone()));
    tokio::join!(
        shutdown.run_until_cancelled(follow(&informers, &metrics, &server)),
        shutdown.run_until_cancelled(follower.run(&informers)),
        server.serve(listener, encrypted),
    );
    Ok(())
}

/// Keeps the table in step with the API server.
async fn follow(informers: &Informers, metrics: &Metrics, server: &Server) {
    let functions = informers.get::<Function>();
    let services = informers.get::<Service>();
    let slices = informers.get::<EndpointSlice>();
    let ingresses = informers.get::<Ingress>();
    let classes = informers.get::<IngressClass>();
    let (mut a, mut b, mut c) = (functions.subscribe(), services.subscribe(), slices.subscribe());
    let (mut d, mut e) = (ingresses.subscribe(), classes.subscribe());
    let synced = functions.synced().await
        && services.synced().await
        && slices.synced().await
        && ingresses.synced().await;
    if !(synced && classes.synced().await) {
        return;
    }
    let table = metrics.table();
    loop {
        let world = World {
            functions: &functions.list(),
            services: &services.list(),
            slices: &slices.list(),
            ingresses: &plan_own(&ingresses.list(), &classes.list()),
        };
        let new = routes::routes(&world, &table.load());
        table.store(Arc::new(new));
        server.backends_changed();
        let mut change = async || {
            tokio::select! {
                change = a.next() => change.is_some(),
                change = b.next() => change.is_some(),
                change = c.next() => change.is_some(),
                change = d.next() => change.is_some(),
                change = e.next() => change.is_some(),
            }
        };
        if !change().await {
            return;
        }
        let _ = tokio::time::timeout(SETTLE, async { while change().await {} }).await;
    }
}

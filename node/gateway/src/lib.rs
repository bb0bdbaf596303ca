//! The way in for HTTP from outside the cluster.
//!
//! Purpose: one listener on the node that carries a request, by its host and path, to a Function or a Service.
//!
//! Invariant: where a request goes is decided by [`routes`] alone, a pure function of what the API server says. A
//! request body is passed on as it comes and never held; a request is tried again only if no byte of it was sent.
//!
//! ```text
//!   client ──HTTP──► gateway ── RouteTable::find(host, path) ──► Backends ──► a ready endpoint (kept-alive)
//!                                     ▲
//!            Functions · Services · EndpointSlices
//! ```
//!
//! | host | goes to |
//! |---|---|
//! | `NAME.localhost` | Function NAME in namespace default |
//! | `NAME.NAMESPACE.localhost` | Function NAME in NAMESPACE |
//! | each of a Function's `spec.hosts` | that Function, for its `spec.paths` |
//! | `NAME.NAMESPACE.svc.localhost` | Service NAME, its first port |
mod proxy;
pub mod routes;
mod server;

use arc_swap::ArcSwap;
use client::dhow::v1alpha1::Function;
use client::k8s_openapi::api::core::v1::Service;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::{Client, Informers};
use routes::RouteTable;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a gateway is started with.
pub struct Config {
    /// Bound before anything else starts, so that a port in use is found out at once.
    pub listener: TcpListener,
}

/// Changes that come this close together make one new table.
const SETTLE: Duration = Duration::from_millis(5);

/// Serves until `shutdown`, then lets running requests end (at most [`server::DRAIN`]).
pub async fn run(config: Config, _client: Client, informers: Informers, shutdown: CancellationToken) {
    let table = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
    tokio::join!(
        shutdown.run_until_cancelled(follow(&informers, &table)),
        server::serve(config.listener, table.clone(), shutdown.clone()),
    );
}

/// Keeps the table in step with the API server.
async fn follow(informers: &Informers, table: &ArcSwap<RouteTable>) {
    let functions = informers.get::<Function>();
    let services = informers.get::<Service>();
    let slices = informers.get::<EndpointSlice>();
    let (mut a, mut b, mut c) = (functions.subscribe(), services.subscribe(), slices.subscribe());
    if !(functions.synced().await && services.synced().await && slices.synced().await) {
        return;
    }
    loop {
        table.store(Arc::new(routes::routes(&functions.list(), &services.list(), &slices.list())));
        let mut change = async || {
            tokio::select! {
                change = a.next() => change.is_some(),
                change = b.next() => change.is_some(),
                change = c.next() => change.is_some(),
            }
        };
        if !change().await {
            return;
        }
        let _ = tokio::time::timeout(SETTLE, async { while change().await {} }).await;
    }
}

//! Makes a Service's address answer: connections to it reach one of its endpoints.
//!
//! Purpose: turn Services and EndpointSlices into a [`Ruleset`], and make the node follow it.
//!
//! Invariant: [`rules`](rules::rules) is a pure function of what the API server says; an applier is handed the whole
//! ruleset each time and may be handed the same one twice. Connections that stand are never cut by a change.
//!
//! ```text
//!   Services ───────┐
//!                   ├─► rules() ─► Ruleset ─► Userspace: one listener a frontend, each connection carried to
//!   EndpointSlices ─┘                         a ready endpoint
//! ```
pub mod rules;
mod userspace;

use client::k8s_openapi::api::core::v1::Service;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::{Client, EventType, Informers, Recorder};
use machinery::ambient::Ambient;
use std::net::IpAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use userspace::Userspace;

/// What kube-proxy must know about its node.
pub struct Config {
    pub node_name: String,
    /// Addresses that NodePorts answer on. Never `0.0.0.0`: that would take the port from every pod as well.
    pub node_addresses: Vec<IpAddr>,
    pub ambient: Ambient,
}

/// Changes that come this close together are applied together: a rollout of many pods is a burst of slices.
const SETTLE: Duration = Duration::from_millis(5);

/// Frontends that could not be bound are tried again this often.
const RETRY: Duration = Duration::from_secs(30);

/// Keeps the node's rules in step with the API server until `shutdown`.
pub async fn run(config: Config, client: Client, informers: Informers, shutdown: CancellationToken) {
    let recorder =
        Recorder::new(client, config.ambient.clone(), "kube-proxy", &config.node_name, shutdown.clone());
    let (services, slices) = (informers.get::<Service>(), informers.get::<EndpointSlice>());
    let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
    let mut userspace = Userspace::default();
    let work = async {
        if !(services.synced().await && slices.synced().await) {
            return;
        }
        loop {
            let ruleset = rules::rules(&services.list(), &slices.list(), &config.node_addresses);
            for refused in userspace.apply(&ruleset).await {
                // Ports below 1024 without root are the ordinary case; the event says it to whoever owns the Service.
                tracing::info!(service = %refused.service, frontend = %refused.address, error = %refused.error, "cannot listen");
                if let Some(service) = services.get(&refused.namespace, &refused.service) {
                    recorder.event(
                        &*service,
                        EventType::Warning,
                        "FailedToListen",
                        format!("cannot listen on {}: {}", refused.address, refused.why()),
                    );
                }
            }
            tokio::select! {
                change = service_changes.next() => if change.is_none() { return },
                change = slice_changes.next() => if change.is_none() { return },
                () = tokio::time::sleep(RETRY), if userspace.has_refused() => {}
            }
            settle(&mut service_changes, &mut slice_changes).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
    userspace.stop().await;
}

/// Takes what else changes within [`SETTLE`].
async fn settle(
    services: &mut client::Subscription<Service>,
    slices: &mut client::Subscription<EndpointSlice>,
) {
    let more = async {
        loop {
            let ended = tokio::select! {
                change = services.next() => change.is_none(),
                change = slices.next() => change.is_none(),
            };
            if ended {
                std::future::pending::<()>().await;
            }
        }
    };
    let _ = tokio::time::timeout(SETTLE, more).await;
}

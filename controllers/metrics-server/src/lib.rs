//! Asks every node what its pods use, and knows it for whoever asks `metrics.k8s.io`.
//!
//! Purpose: metrics-server, in the process of the API server. It keeps the last two answers of each kubelet in memory
//! and nothing else; the rates between them are [`machinery::metrics`]'s.
//!
//! Invariant: nodes are asked through the API (`nodes/NAME/proxy/metrics/resource`), so that this needs no certificate
//! of its own and the API server decides who may. A node that does not answer costs the others nothing.
//!
//! ```text
//!   every resolution: nodes (informer) ─► GET …/proxy/metrics/resource ─► parse ─► Windows ◄── MetricsReader ◄── API
//! ```
use bytes::Bytes;
use client::k8s_openapi::api::core::v1::Node;
use client::kube::client::Body;
use client::{Client, Informers};
use futures::StreamExt;
use http_body_util::{BodyExt, Limited};
use machinery::ambient::Ambient;
use machinery::metrics::{MetricsReader, NodeUsage, ParseError, PodUsage, Scrape, Windows, parse_scrape};
use parking_lot::RwLock;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often nodes are asked (metrics-server's `--metric-resolution`).
pub const DEFAULT_RESOLUTION: Duration = Duration::from_secs(15);
/// No less: the kubelet's answer costs a node of ten thousand pods about a tenth of a second.
pub const LEAST_RESOLUTION: Duration = Duration::from_secs(1);
/// How long a node may take (metrics-server's `--kubelet-request-timeout`).
const ANSWER: Duration = Duration::from_secs(10);
/// Nodes asked at the same moment. Each answer is held until it is read: with the next limit, 4 GB at the very worst,
/// some tens of MB for nodes of 110 pods.
const AT_ONCE: usize = 64;
/// The longest answer: ten thousand pods of ten containers, each with four lines of 150 bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What is known. Cheap to clone.
#[derive(Clone, Default)]
pub struct MetricsServer {
    windows: Arc<RwLock<Windows>>,
}

impl MetricsReader for MetricsServer {
    fn node(&self, name: &str) -> Option<NodeUsage> {
        self.windows.read().node(name)
    }
    fn pod(&self, namespace: &str, name: &str) -> Option<PodUsage> {
        self.windows.read().pod(namespace, name)
    }
}

/// Why a node was not read.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("it cannot be asked")]
    Ask(#[source] client::kube::Error),
    #[error("it answered {0}")]
    Refused(http::StatusCode),
    #[error("its answer broke off or is longer than {MAX_ANSWER_BYTES} bytes: {0}")]
    Read(String),
    #[error("its answer cannot be read")]
    Parse(#[source] ParseError),
    #[error("it did not answer within {} s", ANSWER.as_secs())]
    Late,
}

impl MetricsServer {
    /// Asks all nodes every `resolution` until the shutdown.
    pub async fn run(
        self,
        client: Client,
        informers: Informers,
        ambient: Ambient,
        resolution: Duration,
        shutdown: CancellationToken,
    ) {
        let nodes = informers.get::<Node>();
        let asking = async {
            if !nodes.synced().await {
                return;
            }
            let mut ticks = tokio::time::interval(resolution.max(LEAST_RESOLUTION));
            // After a long stall there is one question, not one for each that was missed.
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let names: HashSet<String> =
                    nodes.list().iter().filter_map(|node| node.metadata.name.clone()).collect();
                self.windows.write().retain(|node| names.contains(node));
                futures::stream::iter(names)
                    .for_each_concurrent(AT_ONCE, |node| self.sync_node(&client, &ambient, node))
                    .await;
            }
        };
        shutdown.run_until_cancelled(asking).await;
    }

    async fn sync_node(&self, client: &Client, ambient: &Ambient, node: String) {
        let scraped = tokio::time::timeout(ANSWER, scrape(client, ambient, &node)).await;
        match scraped.unwrap_or(Err(Error::Late)) {
            Ok(scrape) => self.windows.write().insert(&node, scrape),
            // Usual while a node starts, and told by its Ready condition otherwise.
            Err(error) => {
                tracing::debug!(node, error = client::error_chain(&error), "cannot read what a node uses");
            }
        }
    }
}

async fn scrape(client: &Client, ambient: &Ambient, node: &str) -> Result<Scrape, Error> {
    let request = http::Request::get(format!("/api/v1/nodes/{node}/proxy/metrics/resource"))
        .body(Body::from(Bytes::new()))
        .map_err(|e| Error::Read(e.to_string()))?;
    let response = client.send(request).await.map_err(Error::Ask)?;
    if response.status() != http::StatusCode::OK {
        return Err(Error::Refused(response.status()));
    }
    // The figures are of the moment at which the answer begins; the rest of it only takes its time.
    let at = ambient.now();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|e| Error::Read(e.to_string()))?.to_bytes();
    parse_scrape(&String::from_utf8_lossy(&body), at).map_err(Error::Parse)
}

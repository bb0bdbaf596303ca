//! The node agent: makes the pods that the API says run on this node run on it, and says how they are.
//!
//! Purpose: a kubelet. It registers the Node and renews its Lease, follows the node's pods, drives a CRI runtime,
//! probes containers, makes volumes, writes statuses and events, and serves logs to the API server.
//!
//! Invariant: every decision is taken from what is there (the pod's object, what the runtime shows), not from
//! what was done before. So the process may die between any two steps and the next one goes on, without
//! restarting anything that runs.
//!
//! ```text
//!   API ── informer: own pods ──► agent ──► mailbox ──► worker (one a pod)
//!   CRI ── events, lists ───────────┘                     │ observe ─► compute_pod_actions ─► carry out
//!                                                         │ compute_pod_status ─► Slot ─► PATCH status
//!   NetworkPolicies, Services ──► networks ─► CRI (an extension): what each sandbox may reach
//!   probes (a task each) ──► mailbox                      ▼
//!   node: register · status · Lease            RuntimeService / ImageService (CRI)
//!   HTTPS server: containerLogs · images/import · pods · healthz · metrics · stats/summary
//! ```
pub mod actions;
mod agent;
pub mod backoff;
mod blocking;
pub mod container_config;
pub mod credentials;
pub mod env;
mod mailbox;
pub mod metrics;
mod namespaces;
mod networks;
pub mod node;
mod objects;
mod observe;
pub mod observed;
pub mod probes;
pub mod server;
pub mod status;
pub mod volumes;
mod worker;

use agent::{Agent, PARALLEL_OBSERVATIONS, PARALLEL_STARTS, Registry, Shared};
use client::k8s_openapi::api::core::v1 as core;
use client::{Client, Informers, Recorder, Selection};
use container_config::Dns;
use cri::{ImageService, RuntimeService};
use machinery::ambient::Ambient;
use node::facts::Machine;
use node::status::{NodeSettings, allocatable};
use probes::{Prober, Sockets};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pods of a node unless configured otherwise (kubelet `maxPods`).
pub const DEFAULT_MAX_PODS: u32 = 110;
/// The most that may be configured: what one runtime process was built to hold.
pub const MAX_PODS: u32 = 10_000;

/// The HTTPS server.
pub struct Https {
    /// Bound already, so that the Node can tell its port and nobody gets it in between.
    pub listener: TcpListener,
    /// Verifies client certificates against the cluster's authority.
    pub tls: Arc<rustls::ServerConfig>,
}

/// Everything a kubelet must be told.
pub struct Config {
    pub node_name: String,
    pub client: Client,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    /// Who asks containers how they are.
    pub prober: Arc<dyn Prober>,
    /// What this machine is; `None` finds out.
    pub machine: Option<Machine>,
    /// Where pods' volumes go (kubelet `--root-dir`).
    pub root_dir: PathBuf,
    /// Where containers' logs go (kubelet `podLogsDir`).
    pub pod_logs_dir: PathBuf,
    /// The address the Node shows (kubelet `--node-ip`).
    pub node_ip: IpAddr,
    /// `None`: no server; `kubectl logs` does not work then.
    pub https: Option<Https>,
    /// At most [`MAX_PODS`].
    pub max_pods: u32,
    /// Labels beyond the usual ones (kubelet `--node-labels`).
    pub labels: BTreeMap<String, String>,
    /// Taints the node is registered with (kubelet `--register-with-taints`).
    pub taints: Vec<core::Taint>,
    /// The cluster's name servers; without any, pods have the node's.
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
}

impl Config {
    /// A kubelet with the usual numbers, without a server.
    pub fn new(
        node_name: &str,
        client: Client,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
        root_dir: PathBuf,
        node_ip: IpAddr,
    ) -> Self {
        Self {
            node_name: node_name.to_owned(),
            client,
            runtime,
            images,
            prober: Arc::new(Sockets),
            machine: None,
            pod_logs_dir: root_dir.join("logs"),
            root_dir,
            node_ip,
            https: None,
            max_pods: DEFAULT_MAX_PODS,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
        }
    }
}

/// Why a kubelet could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("max-pods is {0}; a node holds at most {MAX_PODS} pods")]
    MaxPods(u32),
    #[error("the directory {path} cannot be made")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the address of the HTTPS server is not known")]
    Listener(#[source] std::io::Error),
}

/// Runs a kubelet until the shutdown. Containers go on running after it.
pub async fn run(config: Config, ambient: Ambient, shutdown: CancellationToken) -> Result<(), Error> {
    if config.max_pods > MAX_PODS {
        return Err(Error::MaxPods(config.max_pods));
    }
    for dir in [&config.root_dir, &config.pod_logs_dir] {
        std::fs::create_dir_all(dir).map_err(|source| Error::Directory { path: dir.clone(), source })?;
    }
    let port = match &config.https {
        Some(https) => https.listener.local_addr().map_err(Error::Listener)?.port(),
        None => 0,
    };
    let machine = config.machine.unwrap_or_else(|| Machine::read(&config.root_dir));
    let settings = NodeSettings {
        name: config.node_name.clone(),
        ip: config.node_ip.to_string(),
        port,
        max_pods: config.max_pods,
        labels: config.labels,
        taints: config.taints,
    };
    let metrics = Arc::new(metrics::Metrics::default());
    let runtime: Arc<dyn RuntimeService> =
        Arc::new(cri::Observed::new(config.runtime.clone(), metrics.clone()));
    let images: Arc<dyn ImageService> = Arc::new(cri::Observed::new(config.images.clone(), metrics.clone()));
    let informers = Informers::new(config.client.clone(), shutdown.clone());
    let pods =
        informers.select::<core::Pod>(Selection::fields(format!("spec.nodeName={}", config.node_name)));
    let services = informers.get::<core::Service>();
    let networks = networks::Networks::new(config.runtime.clone(), &informers, &config.cluster_domain);
    let recorder =
        Recorder::new(config.client.clone(), ambient.clone(), "kubelet", &config.node_name, shutdown.clone());
    let registry = Registry::default();
    let tasks = TaskTracker::new();

    let keeper = node::NodeKeeper {
        client: config.client.clone(),
        runtime: runtime.clone(),
        settings: settings.clone(),
        machine: machine.clone(),
        ambient: ambient.clone(),
    };
    spawn(&tasks, &shutdown, keeper.run());
    spawn(
        &tasks,
        &shutdown,
        node::lease::run(config.client.clone(), config.node_name.clone(), ambient.clone()),
    );
    spawn(&tasks, &shutdown, networks.clone().run(informers.clone(), pods.clone()));
    spawn(&tasks, &shutdown, namespaces::run(config.client.clone(), config.runtime.clone()));
    if let Some(https) = config.https {
        let router = server::router(server::State {
            registry: registry.clone(),
            pods: pods.clone(),
            runtime: runtime.clone(),
            images: images.clone(),
            ambient: ambient.clone(),
            logs_dir: config.pod_logs_dir.clone(),
            node_name: config.node_name.clone(),
            metrics: metrics.clone(),
            tunnels: server::Tunnels::new(tasks.clone(), shutdown.clone()),
        });
        tasks.spawn(server::serve(https.listener, https.tls, router, shutdown.clone()));
    }

    let agent = async {
        let runtime_name = node::runtime_name(&*runtime).await;
        if !services.synced().await {
            return None;
        }
        let shared = Arc::new(Shared {
            node_name: config.node_name,
            host_ip: settings.ip.clone(),
            root_dir: config.root_dir,
            logs_dir: config.pod_logs_dir,
            objects: objects::ObjectReader::new(config.client.clone()),
            statuses: status::writer::StatusWriter::new(
                config.client.clone(),
                tasks.clone(),
                shutdown.clone(),
            ),
            client: config.client,
            runtime,
            images,
            metrics,
            prober: config.prober,
            runtime_name,
            recorder: recorder.clone(),
            ambient,
            services,
            networks,
            dns: Dns {
                host: Dns::parse_resolv_conf(
                    &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
                ),
                cluster_servers: config.cluster_dns,
                cluster_domain: config.cluster_domain,
            },
            memory_bytes: i64::try_from(machine.memory_bytes).unwrap_or(i64::MAX),
            allocatable: allocatable(&settings, &machine),
            starts: Semaphore::new(PARALLEL_STARTS),
            observations: Semaphore::new(PARALLEL_OBSERVATIONS),
        });
        Some(Agent::new(shared, pods, registry, config.max_pods, shutdown.clone()))
    };
    if let Some(Some(agent)) = shutdown.run_until_cancelled(agent).await {
        agent.run().await;
    }
    shutdown.cancelled().await;
    tasks.close();
    tasks.wait().await;
    informers.ended().await;
    recorder.ended().await;
    Ok(())
}

/// Runs something until the shutdown, owned by `tasks`.
fn spawn(tasks: &TaskTracker, shutdown: &CancellationToken, job: impl Future<Output = ()> + Send + 'static) {
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        shutdown.run_until_cancelled(job).await;
    });
}

#[cfg(test)]
mod tests;

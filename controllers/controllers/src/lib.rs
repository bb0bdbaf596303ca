//! The controllers: each brings one kind of thing from what is to what is wanted.
//!
//! Purpose: the loops of kube-controller-manager that this cluster needs, and the one for Functions.
//!
//! Invariant: a controller knows the cluster through the API alone. Every step may be done twice, and the
//! process may die between any two steps; what was decided is decided again from what is there. Decisions
//! (`plan.rs`) are pure; only `mod.rs` talks to the server.
//!
//! ```text
//!   Informers ─► feed ─► WorkQueue ─► sync_<kind>: observe ─► plan ─► apply ─► API server
//!      ▲                                                                          │
//!      └──────────────────────────────── watch ◄─────────────────────────────────┘
//! ```
mod claim;
mod context;
mod deployment;
mod discovery;
mod endpointslice;
mod error;
mod expectations;
mod function;
mod garbagecollector;
mod horizontalpodautoscaler;
mod job;
mod namespace;
mod nodelifecycle;
mod owner;
mod pod;
mod pod_control;
mod pod_disruption;
mod podgc;
mod reconcile;
mod replicaset;
mod selector;
mod serviceaccount;
mod supervisor;
#[cfg(test)]
mod testing;
mod trigger;

pub use trigger::queue::QueueMetrics;

use client::{Client, Informers, LeaseTiming};
use machinery::ambient::Ambient;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the controllers need to know; names as kube-controller-manager's flags where it has them.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--controllers`: `*` is all, `name` one, `-name` not this one.
    pub controllers: Vec<String>,
    /// The port in a Function's URL.
    pub gateway_port: u16,
    /// `--root-ca-file`: what pods get as `kube-root-ca.crt`; empty for none.
    pub root_ca_pem: String,
    /// `--node-monitor-grace-period`: a node that is silent for so long is not ready.
    pub node_monitor_grace_period: Duration,
    /// `--terminated-pod-gc-threshold`: so many ended pods are kept; 0 keeps all.
    pub terminated_pod_gc_threshold: usize,
    pub autoscaler: AutoscalerConfig,
    /// The first wait before a controller that failed as a whole is started again; it doubles up to a minute.
    pub restart_backoff: Duration,
    /// The name to stand for election with (`--leader-elect`), or None to work at once.
    pub leader_identity: Option<String>,
    pub lease_timing: LeaseTiming,
    /// What queue triggers count into.
    pub queue_metrics: Arc<QueueMetrics>,
}

/// What horizontal pod autoscaling needs to know: the flags `--horizontal-pod-autoscaler-…` with their defaults.
#[derive(Clone, Debug)]
pub struct AutoscalerConfig {
    /// How often each autoscaler is looked at.
    pub sync_period: Duration,
    /// For so long the highest recommendation counts, where a behavior does not say otherwise.
    pub downscale_stabilization: Duration,
    /// By how much a metric may differ from its target, where a behavior does not say otherwise.
    pub tolerance: f64,
    /// For so long after a pod's start its CPU counts only once it has been ready for a whole window.
    pub cpu_initialization_period: Duration,
    /// A pod that became unready within this time after its start was never ready.
    pub initial_readiness_delay: Duration,
}

impl Default for AutoscalerConfig {
    fn default() -> Self {
        Self {
            sync_period: Duration::from_secs(15),
            downscale_stabilization: Duration::from_secs(300),
            tolerance: 0.1,
            cpu_initialization_period: Duration::from_secs(300),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: vec!["*".to_owned()],
            gateway_port: 8080,
            root_ca_pem: String::new(),
            node_monitor_grace_period: Duration::from_secs(40),
            terminated_pod_gc_threshold: 12_500,
            autoscaler: AutoscalerConfig::default(),
            restart_backoff: Duration::from_secs(1),
            leader_identity: None,
            lease_timing: LeaseTiming::default(),
            queue_metrics: Arc::default(),
        }
    }
}

impl Config {
    /// Whether the controller `name` is to run. The last word about a name counts before `*`.
    pub fn is_enabled(&self, name: &str) -> bool {
        for c in self.controllers.iter().rev() {
            if c == name {
                return true;
            }
            if c.strip_prefix('-') == Some(name) {
                return false;
            }
        }
        self.controllers.iter().any(|c| c == "*")
    }

    /// Entries of `controllers` that name no controller.
    pub fn unknown_controllers(&self) -> Vec<&str> {
        let known = |c: &str| c == "*" || CONTROLLERS.contains(&c.strip_prefix('-').unwrap_or(c));
        self.controllers.iter().map(String::as_str).filter(|c| !known(c)).collect()
    }
}

/// The names of all controllers, for `--controllers`.
pub const CONTROLLERS: &[&str] = &[
    "deployment",
    "endpointslice",
    "function",
    "functionqueue",
    "functiontrigger",
    "garbagecollector",
    "horizontalpodautoscaler",
    "job",
    "namespace",
    "nodelifecycle",
    "podgc",
    "replicaset",
    "serviceaccount",
];

/// Runs the controllers until `shutdown`, while it is the leader if it stands for election. One that panics or
/// ends is started again, later each time; the others go on.
pub async fn run(
    config: Config,
    client: Client,
    informers: Informers,
    ambient: Ambient,
    shutdown: CancellationToken,
) {
    supervisor::run(config, client, informers, ambient, shutdown).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(controllers: &[&str]) -> Config {
        Config { controllers: controllers.iter().map(|c| (*c).to_owned()).collect(), ..Config::default() }
    }

    #[test]
    fn the_flag_chooses_controllers_as_upstream_does() {
        assert!(config(&["*"]).is_enabled("job"));
        assert!(!config(&["*", "-job"]).is_enabled("job"));
        assert!(config(&["job"]).is_enabled("job"));
        assert!(!config(&["job"]).is_enabled("podgc"));
        assert_eq!(config(&["*", "-job", "bogus", "-x"]).unknown_controllers(), ["bogus", "-x"]);
    }
}

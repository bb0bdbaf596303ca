//! A pod as the scheduler looks at it: what is read again and again is computed once.
use crate::affinity_term::AffinityTerms;
use crate::resources::{Resources, is_sidecar};
use crate::spread_constraint::SpreadConstraint;
use client::ObjectKey;
use client::k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use client::selector::Labels;
use std::sync::Arc;

/// The scheduler that pods ask for when they ask for none.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// A port a pod takes on its node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Empty for all addresses.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be taken on one node.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip.is_empty() || other.ip.is_empty() || self.ip == other.ip)
    }
}

/// A pod and what the plugins read from it.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub key: ObjectKey,
    pub uid: String,
    pub priority: i32,
    pub requests: Resources,
    /// For scores.
    pub scored: Resources,
    pub ports: Vec<HostPort>,
    /// To other pods.
    pub affinity: AffinityTerms,
    pub spread: Vec<SpreadConstraint>,
}

/// A spec for pods without one, which the API server does not accept.
static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref().unwrap_or(&NO_SPEC);
        Self {
            key: ObjectKey::of(&*pod),
            uid: uid_of(&pod),
            priority: spec.priority.unwrap_or(0),
            requests: Resources::requested_by(spec),
            scored: Resources::scored_for(spec),
            ports: host_ports(spec),
            affinity: AffinityTerms::of(&pod),
            spread: SpreadConstraint::all_of(&pod),
            pod,
        }
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().tolerations.as_deref().unwrap_or_default()
    }
}

/// The pod's uid; its namespace and name for objects without one, which only tests make.
pub fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_else(|| ObjectKey::of(pod).to_string())
}

/// The node a pod is bound to.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// Whether a pod has ended: it takes nothing on its node any more.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod wants a node from the scheduler called `name`, now.
pub fn waits_for(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node_of(pod).is_none()
        && !is_terminal(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && spec.scheduler_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(DEFAULT_SCHEDULER) == name
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let ip = p.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            p.host_port.filter(|port| *port > 0).map(|port| HostPort { ip, protocol, port })
        })
        .collect()
}

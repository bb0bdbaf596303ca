//! The status a pod shows in the API: a pure function of the pod, what the runtime shows, what went wrong and
//! what the probes say.
pub mod conditions;
pub mod containers;
pub mod phase;
pub mod qos;
pub mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod writer_tests;

use crate::observed::ObservedPod;
use crate::probes::ProbeResults;
use client::k8s_openapi::api::core::v1 as core;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Why a container does not run: what `state.waiting` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `ErrImagePull`, `CrashLoopBackOff`, `CreateContainerConfigError` and so on.
    pub reason: &'static str,
    pub message: String,
}

/// Why a pod was ended by this node though its containers had not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// `DeadlineExceeded`, `OutOfpods`, `Evicted`.
    pub reason: String,
    pub message: String,
}

/// Everything a status is made of.
pub struct Sources<'a> {
    pub pod: &'a core::Pod,
    /// The status last made, or the API's after a restart of this process: times of transitions and restart
    /// counts are taken on from it.
    pub previous: &'a core::PodStatus,
    pub observed: &'a ObservedPod,
    /// By container name.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// By container id.
    pub probes: &'a BTreeMap<String, ProbeResults>,
    pub eviction: Option<&'a Eviction>,
    /// Whether the pod is being ended and every container has been stopped.
    pub ended: bool,
    pub host_ip: &'a str,
    /// The runtime's name, the scheme of container ids.
    pub runtime_name: &'a str,
    pub now: Timestamp,
}

/// Whether a phase is final.
pub fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Makes the status.
pub fn compute_pod_status(s: &Sources<'_>) -> core::PodStatus {
    let empty = core::PodSpec::default();
    let spec = s.pod.spec.as_ref().unwrap_or(&empty);
    let inits = spec.init_containers.as_deref().unwrap_or_default();

    let init_statuses = containers::statuses(s, inits, true);
    let statuses = containers::statuses(s, &spec.containers, false);

    let phase = if is_terminal(s.previous.phase.as_deref()) {
        // An end is final, whatever becomes of the containers' traces.
        s.previous.phase.clone().unwrap_or_default()
    } else if s.eviction.is_some() {
        "Failed".to_owned()
    } else {
        phase::phase(s.pod, &init_statuses, &statuses, s.ended).to_owned()
    };

    let (pod_ip, pod_ips) = addresses(s, spec, &phase);
    let (reason, message) = match s.eviction {
        Some(e) => (Some(e.reason.clone()), Some(e.message.clone())),
        None if is_terminal(s.previous.phase.as_deref()) => {
            (s.previous.reason.clone(), s.previous.message.clone())
        }
        None => (None, None),
    };

    let mut status = core::PodStatus {
        phase: Some(phase),
        reason,
        message,
        host_ip: Some(s.host_ip.to_owned()),
        host_ips: Some(vec![core::HostIP { ip: s.host_ip.to_owned() }]),
        pod_ip,
        pod_ips,
        start_time: s.previous.start_time.clone().or(Some(Time(seconds(s.now)))),
        qos_class: s
            .previous
            .qos_class
            .clone()
            .or_else(|| s.pod.status.as_ref().and_then(|st| st.qos_class.clone()))
            .or_else(|| Some(qos::qos_class(spec).to_owned())),
        observed_generation: s.pod.metadata.generation,
        container_statuses: (!statuses.is_empty()).then_some(statuses),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        ..Default::default()
    };
    status.conditions = Some(conditions::conditions(s, spec, &status));
    status
}

/// The pod's addresses. They stay as they were last when the pod has ended, as upstream keeps them.
fn addresses(
    s: &Sources<'_>,
    spec: &core::PodSpec,
    phase: &str,
) -> (Option<String>, Option<Vec<core::PodIP>>) {
    if spec.host_network == Some(true) {
        return (Some(s.host_ip.to_owned()), Some(vec![core::PodIP { ip: s.host_ip.to_owned() }]));
    }
    match s.observed.ready_sandbox() {
        Some(sandbox) if !sandbox.ip.is_empty() => {
            let all = std::iter::once(&sandbox.ip).chain(&sandbox.more_ips);
            let ips = all.map(|ip| core::PodIP { ip: ip.clone() }).collect();
            (Some(sandbox.ip.clone()), Some(ips))
        }
        _ if is_terminal(Some(phase)) || s.pod.metadata.deletion_timestamp.is_some() => {
            (s.previous.pod_ip.clone(), s.previous.pod_ips.clone())
        }
        _ => (None, None),
    }
}

/// A time as the API keeps it: whole seconds.
pub fn seconds(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

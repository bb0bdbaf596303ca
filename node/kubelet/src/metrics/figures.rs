//! What the runtime says its containers use, sorted by pod.
use crate::container_config::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use client::k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;

/// One running container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ContainerUse {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) cpu_nanoseconds: u64,
    pub(crate) memory_bytes: u64,
    /// Requests it answered, where it is one that answers requests and told so.
    pub(crate) requests: Option<u64>,
    /// When it started, seconds since 1970.
    pub(crate) started_at: Option<i64>,
}

/// A pod's running containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodUse {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) containers: Vec<ContainerUse>,
}

impl PodUse {
    pub(crate) fn cpu_nanoseconds(&self) -> u64 {
        self.containers.iter().map(|c| c.cpu_nanoseconds).sum()
    }
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.containers.iter().map(|c| c.memory_bytes).sum()
    }
}

/// The metric of the runtime that counts requests; its label is the class of the answer.
const REQUESTS: &str = "dhow_container_requests_total";

/// Sorts the runtime's answers. `status` gives what is known of a pod by namespace and name, for the times at which
/// its containers started. Containers that are of no pod are left out.
pub(crate) fn compute_uses(
    stats: Vec<cri::ContainerStats>,
    metrics: &[cri::PodSandboxMetrics],
    status: impl Fn(&str, &str) -> Option<std::sync::Arc<core::PodStatus>>,
) -> Vec<PodUse> {
    let requests: BTreeMap<&str, u64> = metrics
        .iter()
        .flat_map(|pod| &pod.container_metrics)
        .filter_map(|container| {
            let counts = container.metrics.iter().filter(|m| m.name == REQUESTS);
            let mut counts = counts.filter_map(|m| m.value.as_ref()).map(|v| v.value).peekable();
            counts.peek()?;
            Some((container.container_id.as_str(), counts.sum()))
        })
        .collect();
    let sandboxed: std::collections::BTreeSet<&str> = metrics
        .iter()
        .flat_map(|pod| &pod.container_metrics)
        .filter(|c| c.metrics.iter().any(|m| m.name == "dhow_container_instances"))
        .map(|c| c.container_id.as_str())
        .collect();
    let mut pods: BTreeMap<String, PodUse> = BTreeMap::new();
    for stat in stats {
        let Some(attributes) = stat.attributes else { continue };
        let label = |key: &str| attributes.labels.get(key).cloned();
        let (Some(uid), Some(name)) = (label(POD_UID), label(CONTAINER_NAME)) else { continue };
        let value = |v: Option<cri::UInt64Value>| v.map_or(0, |v| v.value);
        let pod = pods.entry(uid.clone()).or_insert_with(|| PodUse {
            namespace: label(POD_NAMESPACE).unwrap_or_default(),
            name: label(POD_NAME).unwrap_or_default(),
            uid,
            containers: Vec::new(),
        });
        // A sandbox that answered nothing yet has answered zero requests.
        let id = attributes.id.as_str();
        let requests = requests.get(id).copied().or(sandboxed.contains(id).then_some(0));
        pod.containers.push(ContainerUse {
            name,
            requests,
            cpu_nanoseconds: value(stat.cpu.and_then(|c| c.usage_core_nano_seconds)),
            memory_bytes: value(stat.memory.and_then(|m| m.working_set_bytes)),
            started_at: None,
            id: attributes.id,
        });
    }
    for pod in pods.values_mut() {
        if let Some(status) = status(&pod.namespace, &pod.name) {
            for container in &mut pod.containers {
                container.started_at = started_at(&status, &container.name);
            }
        }
    }
    pods.into_values().collect()
}

fn started_at(status: &core::PodStatus, container: &str) -> Option<i64> {
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let found = all.into_iter().find(|c| c.name == container)?;
    Some(found.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0.as_second())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use cri::{
        ContainerAttributes, ContainerMetrics, ContainerStats, CpuUsage, MemoryUsage, Metric, UInt64Value,
    };
    use serde_json::json;
    use std::sync::Arc;

    fn stats(id: &str, pod: &str, container: &str, cpu: u64, memory: u64) -> ContainerStats {
        let value = |value| Some(UInt64Value { value });
        let labels = [(POD_UID, format!("uid-{pod}")), (POD_NAME, pod.into()), (POD_NAMESPACE, "ns".into())];
        let mut labels: BTreeMap<String, String> = labels.map(|(k, v)| (k.to_owned(), v)).into();
        labels.insert(CONTAINER_NAME.into(), container.into());
        ContainerStats {
            attributes: Some(ContainerAttributes { id: id.into(), labels, ..Default::default() }),
            cpu: Some(CpuUsage { usage_core_nano_seconds: value(cpu), ..Default::default() }),
            memory: Some(MemoryUsage { working_set_bytes: value(memory), ..Default::default() }),
            ..Default::default()
        }
    }

    fn metric(name: &str, label: &[&str], value: u64) -> Metric {
        Metric {
            name: name.into(),
            label_values: label.iter().map(|&l| l.to_owned()).collect(),
            value: Some(UInt64Value { value }),
            ..Default::default()
        }
    }

    /// Two containers of one pod, of which one answers requests, and one that is of no pod.
    pub(crate) fn two_containers() -> Vec<PodUse> {
        let mut stray = stats("x", "", "", 9, 9);
        stray.attributes.as_mut().unwrap().labels.clear();
        let all = vec![
            stats("a", "web", "main", 1_500_000_000, 4096),
            stats("b", "web", "side", 500_000_000, 1024),
            stray,
        ];
        let metrics = vec![cri::PodSandboxMetrics {
            container_metrics: vec![ContainerMetrics {
                container_id: "a".into(),
                metrics: vec![metric(REQUESTS, &["2xx"], 5), metric(REQUESTS, &["5xx"], 2)],
            }],
            ..Default::default()
        }];
        let status: core::PodStatus = serde_json::from_value(json!({"containerStatuses": [
            {"name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "1970-01-01T00:01:40Z"}}}]}))
        .unwrap();
        let status = Arc::new(status);
        compute_uses(all, &metrics, |ns, name| (ns == "ns" && name == "web").then(|| status.clone()))
    }

    #[test]
    fn containers_are_sorted_by_pod_with_their_requests_and_start() {
        let pods = two_containers();
        assert_eq!(pods.len(), 1);
        let pod = &pods[0];
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("ns", "web", "uid-web"));
        assert_eq!((pod.cpu_nanoseconds(), pod.memory_bytes()), (2_000_000_000, 5120));
        assert_eq!(pod.containers[0].requests, Some(7));
        assert_eq!(pod.containers[0].started_at, Some(100));
        assert_eq!((pod.containers[1].requests, pod.containers[1].started_at), (None, None));
    }

    #[test]
    fn a_sandbox_that_answered_nothing_yet_has_answered_zero_requests() {
        let metrics = vec![cri::PodSandboxMetrics {
            container_metrics: vec![ContainerMetrics {
                container_id: "a".into(),
                metrics: vec![metric("dhow_container_instances", &[], 0)],
            }],
            ..Default::default()
        }];
        let pods = compute_uses(vec![stats("a", "web", "main", 0, 0)], &metrics, |_, _| None);
        assert_eq!(pods[0].containers[0].requests, Some(0));
    }
}

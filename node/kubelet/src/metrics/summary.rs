//! `/stats/summary`: the figures of `/metrics/resource` as the JSON that older tools read.
use super::figures::PodUse;
use super::node_usage::NodeUsage;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The Summary of `stats/v1alpha1`. Rates are left to whoever asks twice: `usageNanoCores` is not told.
pub(crate) fn compute_summary(
    node_name: &str,
    node: Option<&NodeUsage>,
    pods: &[PodUse],
    now: Timestamp,
) -> Value {
    let time = seconds(now.as_second());
    let cpu = |nanoseconds: u64| json!({ "time": time, "usageCoreNanoSeconds": nanoseconds });
    let memory = |bytes: u64| json!({ "time": time, "usageBytes": bytes, "workingSetBytes": bytes });
    let mut of_node = json!({ "nodeName": node_name });
    if let Some(node) = node {
        of_node["startTime"] = json!(seconds(i64::try_from(node.started_at).unwrap_or(0)));
        of_node["cpu"] = cpu((node.cpu_seconds * 1e9) as u64);
        of_node["memory"] = memory(node.memory_working_set_bytes);
        of_node["memory"]["availableBytes"] = json!(node.memory_available_bytes);
    }
    let of_pod = |pod: &PodUse| {
        let containers: Vec<Value> = pod
            .containers
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "startTime": c.started_at.map(seconds), "cpu": cpu(c.cpu_nanoseconds),
                    "memory": memory(c.memory_bytes),
                })
            })
            .collect();
        let started_at = pod.containers.iter().filter_map(|c| c.started_at).min();
        json!({
            "podRef": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
            "startTime": started_at.map(seconds), "containers": containers,
            "cpu": cpu(pod.cpu_nanoseconds()), "memory": memory(pod.memory_bytes()),
        })
    };
    json!({ "node": of_node, "pods": pods.iter().map(of_pod).collect::<Vec<_>>() })
}

/// A time as metav1.Time has it.
fn seconds(second: i64) -> Option<String> {
    Timestamp::from_second(second).ok().map(|t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::figures::tests::two_containers;

    #[test]
    fn node_pods_and_containers_are_told_with_their_sums() {
        let node = NodeUsage { cpu_seconds: 1.5, memory_working_set_bytes: 9, ..Default::default() };
        let now = Timestamp::from_second(200).unwrap();
        let summary = compute_summary("n1", Some(&node), &two_containers(), now);
        assert_eq!(summary["node"]["nodeName"], "n1");
        assert_eq!(summary["node"]["cpu"]["usageCoreNanoSeconds"], 1_500_000_000u64);
        let pod = &summary["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "ns", "uid": "uid-web"}));
        assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], 2_000_000_000u64);
        assert_eq!(pod["memory"]["workingSetBytes"], 5120);
        assert_eq!(pod["containers"][0]["startTime"], "1970-01-01T00:01:40Z");
        assert_eq!(pod["containers"][1]["startTime"], Value::Null);
    }
}

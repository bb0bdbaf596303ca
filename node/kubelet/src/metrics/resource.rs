//! `/metrics/resource`: CPU and memory of node, pods and containers under upstream's names, and requests under ours.
//! This is what metrics.k8s.io is made of.
use super::exposition::Family;
use super::figures::PodUse;
use super::node_usage::NodeUsage;

const NANOSECONDS: f64 = 1e9;

/// The families. `error` says that the runtime could not be asked: then there are figures of the node alone.
pub(crate) fn compute_families(node: Option<&NodeUsage>, pods: &[PodUse], error: bool) -> Vec<Family> {
    let mut families = Vec::new();
    if let Some(node) = node {
        families.push(
            Family::counter("node_cpu_usage_seconds_total", "CPU time of the node")
                .row(&[], node.cpu_seconds),
        );
        families.push(
            Family::gauge(
                "node_memory_working_set_bytes",
                "Memory of the node that cannot be given back at once",
            )
            .row(&[], node.memory_working_set_bytes as f64),
        );
    }
    let mut cpu = Family::counter("container_cpu_usage_seconds_total", "CPU time of the container");
    let mut memory = Family::gauge("container_memory_working_set_bytes", "Memory of the container");
    let mut start =
        Family::gauge("container_start_time_seconds", "When the container started, seconds since 1970");
    let mut requests = Family::counter("dhow_container_requests_total", "Requests the container answered");
    let mut pod_cpu = Family::counter("pod_cpu_usage_seconds_total", "CPU time of the pod");
    let mut pod_memory = Family::gauge("pod_memory_working_set_bytes", "Memory of the pod");
    for pod in pods {
        let of_pod = [("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())];
        pod_cpu.push(&of_pod, pod.cpu_nanoseconds() as f64 / NANOSECONDS);
        pod_memory.push(&of_pod, pod.memory_bytes() as f64);
        for container in &pod.containers {
            let labels = [("container", container.name.as_str()), of_pod[0], of_pod[1]];
            cpu.push(&labels, container.cpu_nanoseconds as f64 / NANOSECONDS);
            memory.push(&labels, container.memory_bytes as f64);
            if let Some(at) = container.started_at {
                start.push(&labels, at as f64);
            }
            if let Some(count) = container.requests {
                requests.push(&labels, count as f64);
            }
        }
    }
    families.extend([cpu, memory, start, requests, pod_cpu, pod_memory]);
    let failed = if error { 1.0 } else { 0.0 };
    families.push(Family::gauge("scrape_error", "1 if the runtime could not be asked").row(&[], failed));
    families
        .push(Family::gauge("resource_scrape_error", "1 if the runtime could not be asked").row(&[], failed));
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::text;
    use crate::metrics::figures::tests::two_containers;

    #[test]
    fn the_names_are_upstreams() {
        let node = NodeUsage { cpu_seconds: 12.5, memory_working_set_bytes: 1 << 20, ..Default::default() };
        let text = text(compute_families(Some(&node), &two_containers(), false));
        for line in [
            "node_cpu_usage_seconds_total 12.5",
            "node_memory_working_set_bytes 1048576.0",
            "container_cpu_usage_seconds_total{container=\"main\",namespace=\"ns\",pod=\"web\"} 1.5",
            "container_memory_working_set_bytes{container=\"side\",namespace=\"ns\",pod=\"web\"} 1024.0",
            "container_start_time_seconds{container=\"main\",namespace=\"ns\",pod=\"web\"} 100.0",
            "dhow_container_requests_total{container=\"main\",namespace=\"ns\",pod=\"web\"} 7.0",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"web\"} 2.0",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"web\"} 5120.0",
            "scrape_error 0.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_runtime_that_does_not_answer_is_told() {
        let text = text(compute_families(None, &[], true));
        assert!(text.contains("\nscrape_error 1.0\n") && !text.contains("node_cpu"), "{text}");
    }
}

//! What the kubelet counts, and what it tells of its node and containers when it is asked.
//!
//! ```text
//!   /metrics            Metrics: counters of this process, under the kubelet's names
//!   /metrics/resource   resource.rs ◄─ CRI stats, /proc      what metrics.k8s.io is made of
//!   /metrics/cadvisor   cadvisor.rs ◄─ CRI stats, CRI metrics: requests, instances, traps
//!   /stats/summary      summary.rs  ◄─ the same as resource, as JSON
//! ```
//! Invariant: what is told was asked of the runtime for this very request; nothing is kept between two of them.
pub(crate) mod cadvisor;
pub(crate) mod exposition;
pub(crate) mod figures;
pub(crate) mod node_usage;
pub(crate) mod resource;
pub(crate) mod summary;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    operation_type: &'static str,
}

/// The counters of this process.
pub struct Metrics {
    registry: Registry,
    operations: Family<OperationLabels, Counter>,
    operation_errors: Family<OperationLabels, Counter>,
    operation_durations: Family<OperationLabels, Histogram>,
    pod_start: Histogram,
    started_pods: Counter,
    started_pods_errors: Counter,
    relist: Histogram,
}

/// Upstream's buckets of CRI calls: 5 ms to 11 s.
fn operation_histogram() -> Histogram {
    Histogram::new([
        0.005,
        0.0125,
        0.03125,
        0.078125,
        0.1953125,
        0.48828125,
        1.220703125,
        3.0517578125,
        7.62939453125,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let operations = Family::default();
        let operation_errors = Family::default();
        let operation_durations = Family::new_with_constructor(operation_histogram as fn() -> Histogram);
        // Upstream begins at half a second; a wasm pod is there in a few milliseconds.
        let pod_start = Histogram::new([
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0,
            45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0,
            3600.0,
        ]);
        let (started_pods, started_pods_errors) = (Counter::default(), Counter::default());
        let relist =
            Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        registry.register(
            "kubelet_runtime_operations",
            "Calls of the container runtime by their kind",
            operations.clone(),
        );
        registry.register(
            "kubelet_runtime_operations_errors",
            "Calls of the container runtime that failed",
            operation_errors.clone(),
        );
        registry.register(
            "kubelet_runtime_operations_duration_seconds",
            "How long calls of the container runtime took",
            operation_durations.clone(),
        );
        registry.register(
            "kubelet_pod_start_duration_seconds",
            "Time from the kubelet's seeing a pod for the first time to the pod's running",
            pod_start.clone(),
        );
        registry.register("kubelet_started_pods", "Pods whose sandbox was made", started_pods.clone());
        registry.register(
            "kubelet_started_pods_errors",
            "Pods whose sandbox could not be made",
            started_pods_errors.clone(),
        );
        registry.register(
            "kubelet_pleg_relist_duration_seconds",
            "How long it took to list all sandboxes and containers",
            relist.clone(),
        );
        Self {
            registry,
            operations,
            operation_errors,
            operation_durations,
            pod_start,
            started_pods,
            started_pods_errors,
            relist,
        }
    }
}

impl Metrics {
    pub(crate) fn pod_started(&self, took: Duration) {
        self.pod_start.observe(took.as_secs_f64());
    }

    pub(crate) fn relisted(&self, took: Duration) {
        self.relist.observe(took.as_secs_f64());
    }

    /// The counters, and `now` beside them, in OpenMetrics' text form.
    pub(crate) fn text(&self, now: Vec<exposition::Family>) -> String {
        let mut text = exposition::text(now);
        // Two registries, one document: its end is written once.
        text.truncate(text.trim_end_matches("# EOF\n").len());
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A call's name as the kubelet's metrics have it.
fn operation_type(operation: &'static str) -> &'static str {
    match operation {
        "run_pod_sandbox" => "run_podsandbox",
        "stop_pod_sandbox" => "stop_podsandbox",
        "remove_pod_sandbox" => "remove_podsandbox",
        "pod_sandbox_status" => "podsandbox_status",
        "list_pod_sandbox" => "list_podsandbox",
        "pod_sandbox_stats" => "podsandbox_stats",
        "list_pod_sandbox_stats" => "list_podsandbox_stats",
        "list_pod_sandbox_metrics" => "list_podsandbox_metrics",
        other => other,
    }
}

impl cri::Observer for Metrics {
    fn called(&self, operation: &'static str, took: Duration, failed: bool) {
        let labels = OperationLabels { operation_type: operation_type(operation) };
        self.operations.get_or_create(&labels).inc();
        self.operation_durations.get_or_create(&labels).observe(took.as_secs_f64());
        if failed {
            self.operation_errors.get_or_create(&labels).inc();
        }
        if operation == "run_pod_sandbox" {
            if failed { &self.started_pods_errors } else { &self.started_pods }.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::Observer;

    #[test]
    fn calls_are_counted_under_upstreams_names_and_the_document_ends_once() {
        let metrics = Metrics::default();
        metrics.called("run_pod_sandbox", Duration::from_millis(6), false);
        metrics.called("run_pod_sandbox", Duration::from_secs(60), true);
        metrics.pod_started(Duration::from_millis(7));
        let now = vec![exposition::Family::gauge("kubelet_running_pods", "Pods").row(&[], 3.0)];
        let text = metrics.text(now);
        for line in [
            "kubelet_running_pods 3.0",
            "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 2",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_started_pods_total 1",
            "kubelet_started_pods_errors_total 1",
            "kubelet_pod_start_duration_seconds_bucket{le=\"0.01\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{le=\"0.0125\",operation_type=\"run_podsandbox\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
    }
}

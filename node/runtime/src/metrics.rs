//! What a sandbox counts beyond CPU and memory, as CRI's metrics: requests and their durations, instances, traps.
//!
//! CRI's values are whole numbers. So times are nanoseconds and say so in their name, and a histogram comes in its
//! parts; whoever shows them to Prometheus makes seconds and histograms of them.
use crate::open::Runtime;
use cri::{ContainerMetrics, Metric, MetricDescriptor, MetricType, PodSandboxMetrics, UInt64Value};
use shim::{DURATION_BOUNDS, SandboxStats, Stats};

/// One metric of every container, or of every sandboxed one.
struct Described {
    name: &'static str,
    help: &'static str,
    label_keys: &'static [&'static str],
}

const fn metric(name: &'static str, help: &'static str) -> Described {
    Described { name, help, label_keys: &[] }
}
const fn labelled(name: &'static str, help: &'static str, label_keys: &'static [&'static str]) -> Described {
    Described { name, help, label_keys }
}

const MEMORY_PEAK: Described =
    metric("container_memory_max_usage_bytes", "The most memory the container ever held");
const REQUESTS: Described = labelled(
    "dhow_container_requests_total",
    "Requests the container answered, by the class of their status",
    &["code"],
);
const DURATION_BUCKET: Described = labelled(
    "dhow_container_request_duration_seconds_bucket",
    "Time from a request to the head of its answer",
    &["le"],
);
const DURATION_SUM: Described = metric(
    "dhow_container_request_duration_nanoseconds_sum",
    "Time from a request to the head of its answer",
);
const DURATION_COUNT: Described =
    metric("dhow_container_request_duration_seconds_count", "Time from a request to the head of its answer");
const INSTANCES: Described = metric("dhow_container_instances", "Instances of the guest alive now");
const INSTANCES_STARTED: Described =
    metric("dhow_container_instances_started_total", "Instances of the guest that were made: cold starts");
const TRAPS: Described =
    metric("dhow_container_traps_total", "Guests that trapped or went beyond their memory");
const TIMEOUTS: Described =
    metric("dhow_container_timeouts_total", "Requests that took longer than they may");
const EGRESS_DENIALS: Described =
    metric("dhow_container_egress_denials_total", "Connections to addresses the guest may not reach");
const INGRESS_DENIALS: Described =
    metric("dhow_container_ingress_denials_total", "Connections from those who may not reach the guest");

const ALL: &[&Described] = &[
    &MEMORY_PEAK,
    &REQUESTS,
    &DURATION_BUCKET,
    &DURATION_SUM,
    &DURATION_COUNT,
    &INSTANCES,
    &INSTANCES_STARTED,
    &TRAPS,
    &TIMEOUTS,
    &EGRESS_DENIALS,
    &INGRESS_DENIALS,
];

pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let descriptor = |d: &&Described| MetricDescriptor {
        name: d.name.into(),
        help: d.help.into(),
        label_keys: d.label_keys.iter().map(|&key| key.into()).collect(),
    };
    ALL.iter().map(descriptor).collect()
}

impl Runtime {
    pub(crate) fn sandbox_metrics(&self) -> Vec<PodSandboxMetrics> {
        let sandboxes: Vec<String> = self.inner.state.lock().sandboxes.keys().cloned().collect();
        let of_sandbox = |id: String| {
            let container_metrics = self
                .running_in(&id)
                .iter()
                .map(|entry| ContainerMetrics {
                    container_id: entry.id.clone(),
                    metrics: compute_metrics(&entry.stats(), self.now()),
                })
                .collect();
            PodSandboxMetrics { pod_sandbox_id: id, metrics: Vec::new(), container_metrics }
        };
        sandboxes.into_iter().map(of_sandbox).collect()
    }
}

/// The metrics of one container.
fn compute_metrics(stats: &Stats, timestamp: i64) -> Vec<Metric> {
    let one = |described: &Described, kind: MetricType, label_values: Vec<String>, value: u64| Metric {
        name: described.name.into(),
        timestamp,
        metric_type: kind as i32,
        label_values,
        value: Some(UInt64Value { value }),
    };
    let mut metrics = vec![one(&MEMORY_PEAK, MetricType::Gauge, Vec::new(), stats.memory_peak_bytes)];
    let Some(SandboxStats {
        requests,
        durations,
        instances,
        instances_started,
        traps,
        timeouts,
        egress_denials,
        ingress_denials,
    }) = stats.sandbox
    else {
        return metrics;
    };
    let counter = |described, labels, value| one(described, MetricType::Counter, labels, value);
    // Ten thousand sandboxes that answered nothing fit into one message this way.
    if requests.iter().any(|count| *count > 0) {
        for (class, count) in requests.iter().enumerate() {
            metrics.push(counter(&REQUESTS, vec![format!("{}xx", class + 1)], *count));
        }
        let mut so_far = 0;
        for (i, count) in durations.counts.iter().enumerate() {
            so_far += count;
            let bound = DURATION_BOUNDS.get(i).map_or("+Inf".to_owned(), |b| b.as_secs_f64().to_string());
            metrics.push(counter(&DURATION_BUCKET, vec![bound], so_far));
        }
        metrics.push(counter(&DURATION_SUM, Vec::new(), durations.sum_nanoseconds));
        metrics.push(counter(&DURATION_COUNT, Vec::new(), so_far));
    }
    metrics.push(one(&INSTANCES, MetricType::Gauge, Vec::new(), instances));
    for (described, value) in [
        (&INSTANCES_STARTED, instances_started),
        (&TRAPS, traps),
        (&TIMEOUTS, timeouts),
        (&EGRESS_DENIALS, egress_denials),
        (&INGRESS_DENIALS, ingress_denials),
    ] {
        metrics.push(counter(described, Vec::new(), value));
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim::Durations;

    #[test]
    fn a_kernels_process_has_its_peak_and_a_sandbox_everything() {
        let process = Stats { memory_peak_bytes: 7, ..Stats::default() };
        let metrics = compute_metrics(&process, 1);
        assert_eq!(metrics.len(), 1);
        assert_eq!(
            (metrics[0].name.as_str(), &metrics[0].value),
            (MEMORY_PEAK.name, &Some(UInt64Value { value: 7 }))
        );

        let mut durations = Durations { sum_nanoseconds: 3_000, ..Durations::default() };
        durations.counts[1] = 2;
        durations.counts[DURATION_BOUNDS.len()] = 1;
        let sandbox = SandboxStats { requests: [0, 2, 0, 0, 1], durations, ..SandboxStats::default() };
        let metrics = compute_metrics(&Stats { sandbox: Some(sandbox), ..process }, 1);
        let value = |name: &str, label: &str| {
            let found = metrics.iter().find(|m| m.name == name && m.label_values.iter().all(|l| l == label));
            found.and_then(|m| m.value.as_ref()).map(|v| v.value)
        };
        assert_eq!(value(REQUESTS.name, "2xx"), Some(2));
        assert_eq!(value(DURATION_BUCKET.name, "0.00005"), Some(0));
        assert_eq!(value(DURATION_BUCKET.name, "0.0001"), Some(2));
        assert_eq!(value(DURATION_BUCKET.name, "10"), Some(2));
        assert_eq!(value(DURATION_BUCKET.name, "+Inf"), Some(3));
        assert_eq!(value(DURATION_COUNT.name, ""), Some(3));
        assert_eq!(value(DURATION_SUM.name, ""), Some(3_000));
        for metric in &metrics {
            let described = ALL.iter().find(|d| d.name == metric.name).expect("it is described");
            assert_eq!(described.label_keys.len(), metric.label_values.len());
        }
    }
}

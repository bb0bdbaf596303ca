//! `/metrics/cadvisor`: what the runtime itself measures of its containers, passed on for Prometheus.
//!
//! CRI's metrics are whole numbers without types. Those named in nanoseconds are told in seconds, and the parts of a
//! histogram (`_bucket`, `_sum`, `_count`) become one.
use super::exposition::{Family, Kind, Row, Value};
use super::figures::PodUse;
use cri::{Metric, MetricDescriptor, MetricType, PodSandboxMetrics};
use std::collections::BTreeMap;

const NANOSECONDS: f64 = 1e9;
/// Rows of one metric: a node of ten thousand pods with sixteen values each. Beyond that a runtime is broken.
const MAX_ROWS: usize = 200_000;

/// The parts of a histogram with one set of labels.
#[derive(Default)]
struct Parts {
    sum: f64,
    /// Upper bound and how many took no longer.
    buckets: Vec<(f64, u64)>,
}

/// Where a value goes.
enum Part {
    Whole,
    Bucket,
    Sum,
    Count,
}

/// A metric's name, without its part, in seconds, and how many of its units are one of those told.
fn named(name: &str, histograms: &[String]) -> (String, f64, Part) {
    let scale = if name.contains("_nanoseconds") { NANOSECONDS } else { 1.0 };
    let name = name.replace("_nanoseconds", "_seconds");
    for (suffix, part) in [("_bucket", Part::Bucket), ("_sum", Part::Sum), ("_count", Part::Count)] {
        if let Some(base) = name.strip_suffix(suffix)
            && histograms.iter().any(|h| h == base)
        {
            return (base.to_owned(), scale, part);
        }
    }
    (name, scale, Part::Whole)
}

/// The families of a runtime's metrics; `pods` says which container is whose.
pub(crate) fn compute_families(
    descriptors: &[MetricDescriptor],
    metrics: &[PodSandboxMetrics],
    pods: &[PodUse],
) -> Vec<Family> {
    let histograms: Vec<String> = descriptors
        .iter()
        .filter(|d| d.label_keys.last().is_some_and(|key| key == "le"))
        .filter_map(|d| d.name.strip_suffix("_bucket"))
        .map(|base| base.replace("_nanoseconds", "_seconds"))
        .collect();
    let mut owners = BTreeMap::new();
    for pod in pods {
        owners.extend(pod.containers.iter().map(|c| (c.id.as_str(), (pod, c.name.as_str()))));
    }
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut parts: BTreeMap<(String, Vec<(String, String)>), Parts> = BTreeMap::new();
    let described: BTreeMap<&str, &MetricDescriptor> =
        descriptors.iter().map(|d| (d.name.as_str(), d)).collect();
    for container in metrics.iter().flat_map(|pod| &pod.container_metrics) {
        let Some((pod, name)) = owners.get(container.container_id.as_str()) else { continue };
        for metric in &container.metrics {
            let Some(descriptor) = described.get(metric.name.as_str()) else { continue };
            let Some(value) = metric.value.as_ref().map(|v| v.value) else { continue };
            let mut labels = labels_of(descriptor, metric, pod, name);
            let (base, scale, part) = named(&metric.name, &histograms);
            let kind = match (&part, metric.metric_type == MetricType::Counter as i32) {
                (Part::Whole, true) => Kind::Counter,
                (Part::Whole, false) => Kind::Gauge,
                _ => Kind::Histogram,
            };
            let family =
                families.entry(base.clone()).or_insert_with(|| Family::new(kind, &base, &descriptor.help));
            match part {
                Part::Whole if family.rows.len() < MAX_ROWS => {
                    family.rows.push(Row { labels, value: Value::Number(value as f64 / scale) });
                }
                Part::Whole => {}
                Part::Bucket => {
                    let bound = labels.iter().position(|(key, _)| key == "le").map(|i| labels.remove(i).1);
                    let bound = match bound.as_deref() {
                        Some("+Inf") => Some(f64::INFINITY),
                        Some(text) => text.parse().ok(),
                        None => None,
                    };
                    if let Some(bound) = bound {
                        parts.entry((base, labels)).or_default().buckets.push((bound, value));
                    }
                }
                Part::Sum => parts.entry((base, labels)).or_default().sum = value as f64 / scale,
                // The last bucket says the same.
                Part::Count => {}
            }
        }
    }
    for ((base, labels), part) in parts {
        if let Some(family) = families.get_mut(&base).filter(|f| f.rows.len() < MAX_ROWS) {
            family.rows.push(Row { labels, value: part.histogram() });
        }
    }
    families.into_values().filter(|f| !f.rows.is_empty()).collect()
}

impl Parts {
    /// From "so many took no longer" to "so many took this long".
    fn histogram(mut self) -> Value {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut before = 0;
        for (_, count) in &mut self.buckets {
            let so_far = *count;
            *count = so_far.saturating_sub(before);
            before = so_far;
        }
        Value::Histogram { sum: self.sum, buckets: self.buckets }
    }
}

/// A runtime that names pod and container itself is believed.
fn labels_of(
    descriptor: &MetricDescriptor,
    metric: &Metric,
    pod: &PodUse,
    container: &str,
) -> Vec<(String, String)> {
    let own = [("container", container), ("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())];
    let own = own.into_iter().filter(|(key, _)| descriptor.label_keys.iter().all(|k| k != key));
    let mut labels: Vec<(String, String)> = own.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    labels.extend(descriptor.label_keys.iter().cloned().zip(metric.label_values.iter().cloned()));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::text;
    use crate::metrics::figures::tests::two_containers;
    use cri::{ContainerMetrics, UInt64Value};

    #[test]
    fn numbers_become_counters_gauges_and_histograms_in_seconds() {
        let descriptor = |name: &str, labels: &[&str]| MetricDescriptor {
            name: name.into(),
            help: "H".into(),
            label_keys: labels.iter().map(|&l| l.to_owned()).collect(),
        };
        let metric = |name: &str, kind: MetricType, label: &[&str], value| Metric {
            name: name.into(),
            timestamp: 1,
            metric_type: kind as i32,
            label_values: label.iter().map(|&l| l.to_owned()).collect(),
            value: Some(UInt64Value { value }),
        };
        let descriptors = [
            descriptor("r_total", &["code"]),
            descriptor("live", &[]),
            descriptor("d_seconds_bucket", &["le"]),
            descriptor("d_nanoseconds_sum", &[]),
            descriptor("d_seconds_count", &[]),
        ];
        let of = |id: &str, metrics| ContainerMetrics { container_id: id.into(), metrics };
        let metrics = [PodSandboxMetrics {
            container_metrics: vec![
                of(
                    "a",
                    vec![
                        metric("r_total", MetricType::Counter, &["2xx"], 5),
                        metric("live", MetricType::Gauge, &[], 2),
                        metric("d_seconds_bucket", MetricType::Counter, &["+Inf"], 5),
                        metric("d_seconds_bucket", MetricType::Counter, &["0.001"], 3),
                        metric("d_nanoseconds_sum", MetricType::Counter, &[], 7_500_000_000),
                        metric("d_seconds_count", MetricType::Counter, &[], 5),
                        metric("undescribed", MetricType::Gauge, &[], 1),
                    ],
                ),
                of("stranger", vec![metric("live", MetricType::Gauge, &[], 1)]),
            ],
            ..Default::default()
        }];
        let text = text(compute_families(&descriptors, &metrics, &two_containers()));
        let who = "container=\"main\",namespace=\"ns\",pod=\"web\"";
        for line in [
            format!("r_total{{{who},code=\"2xx\"}} 5.0"),
            format!("live{{{who}}} 2.0"),
            "# TYPE d_seconds histogram".to_owned(),
            format!("d_seconds_sum{{{who}}} 7.5"),
            format!("d_seconds_count{{{who}}} 5"),
            format!("d_seconds_bucket{{le=\"0.001\",{who}}} 3"),
            format!("d_seconds_bucket{{le=\"+Inf\",{who}}} 5"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("live{").count(), 1, "{text}");
        assert!(!text.contains("undescribed"));
    }
}
